// SPDX-License-Identifier: Apache-2.0

package servingtest

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"testing"

	"google.golang.org/grpc"

	"github.com/findep/findep-operator/runtime/agent/agentpb"
)

// service is an Engine as a gRPC service.
type service struct {
	agentpb.UnimplementedEngineServer
	engine *Engine
}

func (s service) Describe(ctx context.Context, _ *agentpb.DescribeRequest) (*agentpb.DescribeResponse, error) {
	return s.engine.Describe(ctx)
}

func (s service) Step(ctx context.Context, r *agentpb.StepRequest) (*agentpb.StepResponse, error) {
	return s.engine.Step(ctx, r)
}

func (s service) ReportServing(ctx context.Context, r *agentpb.ServingReport) (*agentpb.ServingReportResponse, error) {
	return &agentpb.ServingReportResponse{}, s.engine.ReportServing(ctx, r)
}

// ServeSocket serves the engine on a Unix socket, as a sidecar does, until the
// test ends or stop is called, and returns the socket's path.
func ServeSocket(tb testing.TB, e *Engine) (socket string, stop func()) {
	tb.Helper()
	socket = filepath.Join(tb.TempDir(), "engine.sock")
	return socket, ServeAt(tb, socket, e)
}

// ServeAt is ServeSocket at a given path. A socket that is there is replaced,
// as by a sidecar that restarts.
func ServeAt(tb testing.TB, socket string, e *Engine) (stop func()) {
	tb.Helper()
	if err := os.RemoveAll(socket); err != nil {
		tb.Fatal(err)
	}
	listener, err := net.Listen("unix", socket)
	if err != nil {
		tb.Fatal(err)
	}
	// The socket that lies there later belongs to the next server.
	listener.(*net.UnixListener).SetUnlinkOnClose(false)
	server := grpc.NewServer()
	agentpb.RegisterEngineServer(server, service{engine: e})
	go func() { _ = server.Serve(listener) }()
	tb.Cleanup(server.Stop)
	return server.Stop
}
