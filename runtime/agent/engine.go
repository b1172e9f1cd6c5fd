// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/findep/findep-operator/runtime/agent/agentpb"
)

// maxEngineMessage bounds a message on the socket; LOGITS_ALL of a long prompt
// is the largest.
const maxEngineMessage = 512 << 20

// engineServer answers the pod's main container.
type engineServer struct {
	agentpb.UnimplementedEngineServer
	agent *agent
}

// Describe implements agentpb.EngineServer.
func (s *engineServer) Describe(context.Context, *agentpb.DescribeRequest) (*agentpb.DescribeResponse, error) {
	a := s.agent
	in := a.config.current.Load()
	state := a.status()
	r := &agentpb.DescribeResponse{
		Ready: state.Ready, Epoch: state.Epoch, Message: state.Message,
		ModelName: in.Model.Name, ModelPath: in.Model.Path,
		AttentionRanks: uint32(in.AttentionRanks), ExpertRanks: uint32(in.ExpertRanks),
		MaxContextTokens: uint32(a.limits.maxContext), VocabularySize: uint32(a.limits.vocabulary),
		KvBlocksPerRank: uint32(a.limits.blocksPerRank), KvBlockTokens: uint32(a.limits.blockTokens),
		MaxStepTokensPerRank: uint32(a.limits.maxStepTokens),
		Rank:                 uint32(a.options.Rank), Leader: a.leader != nil,
	}
	r.ScheduleHash, _ = in.ScheduleHash() // It was computed when the file was accepted.
	for _, id := range a.shape.EOSTokenIDs {
		r.EndOfSequenceTokens = append(r.EndOfSequenceTokens, int32(id))
	}
	if a.leader != nil {
		r.Epoch = a.leader.readyEpoch()
		r.Ready = state.Ready && r.Epoch != 0
		if !r.Ready && r.Message == "" {
			r.Message = a.leader.missing()
		}
	}
	return r, nil
}

// Step implements agentpb.EngineServer.
func (s *engineServer) Step(ctx context.Context, req *agentpb.StepRequest) (*agentpb.StepResponse, error) {
	if s.agent.leader == nil {
		return nil, status.Errorf(codes.FailedPrecondition, "rank %d is not the leader; send steps to rank 0's socket", s.agent.options.Rank)
	}
	return s.agent.leader.Step(ctx, req)
}

// ReportServing implements agentpb.EngineServer.
func (s *engineServer) ReportServing(_ context.Context, r *agentpb.ServingReport) (*agentpb.ServingReportResponse, error) {
	if s.agent.leader != nil {
		s.agent.leader.reportServing(r)
	}
	return &agentpb.ServingReportResponse{}, nil
}

// serveEngine serves the socket until ctx ends. A socket left by a process that
// died is replaced.
func serveEngine(ctx context.Context, path string, server agentpb.EngineServer) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("engine socket: %w", err)
	}
	listener, err := net.Listen("unix", path)
	if err != nil {
		return fmt.Errorf("engine socket: %w", err)
	}
	s := grpc.NewServer(grpc.MaxRecvMsgSize(maxEngineMessage), grpc.MaxSendMsgSize(maxEngineMessage))
	agentpb.RegisterEngineServer(s, server)
	stop := context.AfterFunc(ctx, s.Stop)
	defer stop()
	if err := s.Serve(listener); err != nil && ctx.Err() == nil {
		return fmt.Errorf("engine socket: %w", err)
	}
	return nil
}
