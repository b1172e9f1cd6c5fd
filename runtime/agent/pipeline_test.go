// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/findep/findep-operator/runtime/agent/agentpb"
	"github.com/findep/findep-operator/runtime/backend"
	"github.com/findep/findep-operator/runtime/executor"
	"github.com/findep/findep-operator/runtime/plan"
	"github.com/findep/findep-operator/runtime/rendezvous"
	"github.com/findep/findep-operator/runtime/transport"
)

// fakePipelines is a device side that meets nobody, and fails to if told so.
type fakePipelines struct{ open error }

func (*fakePipelines) Pipelines() bool              { return true }
func (*fakePipelines) ReservePool(int64) error      { return nil }
func (*fakePipelines) StreamBytes() int64           { return 0 }
func (*fakePipelines) PipelineIDs() ([]byte, error) { return []byte("ids"), nil }
func (f *fakePipelines) OpenPipeline(c backend.PipelineConfig) (backend.Pipeline, error) {
	if string(c.IDs) != "ids" {
		return nil, fmt.Errorf("ids %q", c.IDs)
	}
	return &fakePipeline{}, f.open
}

type fakePipeline struct{ cancelled bool }

func (*fakePipeline) Run([]byte, []backend.Buffer) error { return nil }
func (*fakePipeline) Wait(time.Duration) error           { return nil }
func (*fakePipeline) Times([]backend.TaskTime) error     { return nil }
func (p *fakePipeline) Cancel()                          { p.cancelled = true }
func (*fakePipeline) Close()                             {}

// fakeLinks carry nothing.
type fakeLinks struct{ closed int }

func (*fakeLinks) To(int) (transport.Link, error)   { return nil, nil }
func (*fakeLinks) From(int) (transport.Link, error) { return nil, nil }
func (*fakeLinks) Abort(error)                      {}
func (l *fakeLinks) Close() error                   { l.closed++; return nil }

func (l *fakeLinks) Connect(context.Context, uint64, int, []transport.Peer) (transport.Mesh, error) {
	return l, nil
}

// fakeRunner fails as an executor does whose pipeline failed.
type fakeRunner struct{ err error }

func (f fakeRunner) Run(_ context.Context, step *executor.Step, _ transport.Mesh) (executor.Result, error) {
	return executor.Result{}, fmt.Errorf("rank 1, step %d: %w", step.Number, f.err)
}
func (fakeRunner) Close() {}

// Every way in which a device or its peers fail reaches the leader's observation,
// which the operator copies to the instance's status, by its name and with the
// rank, be it when ranks meet or in mid-step.
func TestDeviceFailuresReachTheObservation(t *testing.T) {
	for _, failure := range []error{
		backend.ErrMemoryExceeded, backend.ErrNoKernelImage, backend.ErrDriverTooOld, backend.ErrNoCommLibrary,
		backend.ErrCommVersion, backend.ErrCommFailed, backend.ErrTimedOut, backend.ErrDeviceLost,
	} {
		for _, meeting := range []bool{true, false} {
			t.Run(fmt.Sprintf("%v/meeting=%v", failure, meeting), func(t *testing.T) {
				reason := lastFailure(t, fmt.Errorf("enqueueing a step: %w: the device says so", failure), meeting)
				for _, want := range []string{failure.Error(), "rank 1 (host-1)", "the device says so"} {
					if !strings.Contains(reason, want) {
						t.Errorf("the observation's last failure is %q; it must contain %q", reason, want)
					}
				}
			})
		}
	}
}

// lastFailure runs an instance whose rank 1 fails, and returns what the leader
// then reports.
func lastFailure(t *testing.T, failure error, meeting bool) string {
	t.Helper()
	in := &plan.Instance{
		Namespace: "n", Deployment: "d", AttentionRanks: 1, ExpertRanks: 1, Hosts: []string{"host-0", "host-1"},
		Model:    plan.ModelRef{Name: "m", Path: "/m", MaxContextTokens: 1},
		Schedule: plan.Schedule{Policy: plan.FinDEP, Order: plan.OrderAuto, Chunks: "Auto", Resolve: "Online"},
	}
	device := &fakePipelines{}
	leader, err := rendezvous.NewCoordinator(rendezvous.Config{Instance: in, TopologyHash: "h", Insecure: true, IDs: device.PipelineIDs})
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(rendezvous.ServerOptions(nil)...)
	leader.Register(server)
	go func() { _ = server.Serve(listener) }()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	done := make(chan struct{}, 2)
	t.Cleanup(func() {
		cancel()
		<-done
		<-done
		server.Stop()
		_ = leader.Close()
	})
	for n := range 2 {
		r := &rank{now: executor.Monotonic(), role: in.RoleOf(n), attentionRanks: 1, pipelines: &fakePipelines{}, runner: fakeRunner{failure},
			watch: &watchdog{now: time.Now, patience: time.Minute}, log: slog.New(slog.DiscardHandler)}
		if meeting && n == 1 {
			r.pipelines = &fakePipelines{open: failure}
		}
		step := r.step
		if n == 0 {
			step = func(context.Context, uint64, []byte) ([]byte, error) { return nil, nil }
		}
		m, err := rendezvous.NewMember(rendezvous.MemberConfig{
			Leaders: []string{listener.Addr().String()}, Identity: in.Identity(), Rank: n, Role: in.RoleOf(n), TopologyHash: "h",
			Host: in.Hosts[n], DataAddress: fmt.Sprintf("127.0.0.1:%d", 1000+n), Insecure: true,
			Connect: r.connect(&fakeLinks{}, n), OnStep: step, OnAbort: r.abort,
		})
		if err != nil {
			t.Fatal(err)
		}
		go func() { _ = m.Run(ctx); done <- struct{}{} }()
	}
	if !meeting {
		world, err := leader.WaitFormed(ctx)
		if err != nil {
			t.Fatal(err)
		}
		payload, err := proto.Marshal(&agentpb.StepCommand{Number: 1, Plan: planToProto(plan.Plan{Policy: plan.Sequential, MicroBatchSize: 1, R1: 1, R2: 1, Order: plan.ASAS, Chunks: 1})})
		if err != nil {
			t.Fatal(err)
		}
		if err := leader.Send(world.Epoch, rendezvous.All, payload); err != nil {
			t.Fatal(err)
		}
	}
	for ctx.Err() == nil && leader.Failure().Reason == "" {
		time.Sleep(time.Millisecond)
	}
	return leader.Snapshot().LastFailure
}

// Ranks of different kinds do not wait for each other: the first meeting says
// what is wrong, and gives the links back.
func TestRanksOfDifferentKindsDoNotMeet(t *testing.T) {
	for name, tc := range map[string]struct {
		pipelines backend.Pipelines
		ids       []byte
	}{"leader without": {&fakePipelines{}, nil}, "rank without": {nil, []byte("ids")}} {
		links := &fakeLinks{}
		r := &rank{pipelines: tc.pipelines}
		_, err := r.meet(links, &rendezvous.World{IDs: tc.ids}, 1)
		if err == nil || !strings.Contains(err.Error(), "--backend") || links.closed != 1 {
			t.Errorf("%s: %v, links closed %d times", name, err, links.closed)
		}
	}
	links := &fakeLinks{}
	r := &rank{pipelines: &fakePipelines{}}
	mesh, err := r.meet(links, &rendezvous.World{IDs: []byte("ids")}, 1)
	if err != nil {
		t.Fatal(err)
	}
	p := mesh.(executor.Pipelined).Pipeline().(*fakePipeline)
	mesh.Abort(errors.New("over"))
	if !p.cancelled {
		t.Error("aborting the mesh did not cancel the pipeline")
	}
}
