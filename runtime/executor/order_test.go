// SPDX-License-Identifier: Apache-2.0

package executor_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/findep/findep-operator/runtime/backend"
	"github.com/findep/findep-operator/runtime/executor"
	"github.com/findep/findep-operator/runtime/executor/harness"
	"github.com/findep/findep-operator/runtime/plan"
	"github.com/findep/findep-operator/runtime/schedule"
	"github.com/findep/findep-operator/runtime/transport"
)

// counter is a clock that never shows the same time twice, so that the order of
// any two readings, on any rank, is known.
func counter() executor.Clock {
	var n atomic.Int64
	return func() int64 { return n.Add(1) }
}

// The trace of every rank shows the schedule: each resource runs its stream in
// order and one task at a time, no task starts before those it depends on have
// ended, and no transfer ends on the receiver before it began on every sender.
func TestExecutedOrderIsTheSchedules(t *testing.T) {
	for _, f := range families(t) {
		t.Run(f.name, func(t *testing.T) {
			in := instance(t, harness.Config{Shape: f.shape, Checkpoint: f.dir, Attention: 2, Expert: 3, OpenDevice: openReference, Now: counter()})
			for _, p := range []plan.Plan{
				sequential(4), pppipe(2, 3), finDEP(1, 3, 2, plan.ASAS), finDEP(2, 2, 3, plan.AASS), finDEP(1, 4, 4, plan.AASS), chunked(finDEP(2, 1, 2, plan.ASAS), 3),
			} {
				t.Run(p.String(), func(t *testing.T) {
					step := executor.Step{Plan: p, Trace: true, Pieces: make([][]executor.Piece, 2)}
					for i, prompt := range randomPrompts(f.shape.VocabSize, 9, 4, 6, 13, 1) {
						// Rank 1 has nothing for its later micro-batches.
						a := min(i, 1) * (i % 2)
						step.Pieces[a] = append(step.Pieces[a], executor.Piece{Sequence: prompt.ID, Tokens: prompt.Tokens, Logits: executor.LogitsLast})
					}
					step.Release = []uint64{1, 2, 3, 4, 5}
					results, err := in.Run(t.Context(), step)
					if err != nil {
						t.Fatal(err)
					}
					s, err := schedule.Build(p, f.shape.MoELayers(), schedule.Options{SharedExperts: f.shape.MoE.SharedExperts > 0})
					if err != nil {
						t.Fatal(err)
					}
					checkOrder(t, s, results)
				})
			}
		})
	}
}

// span is a task's time on the common clock.
type span struct{ start, end int64 }

func checkOrder(t *testing.T, s *schedule.Schedule, results []executor.Result) {
	t.Helper()
	attention := []schedule.Resource{schedule.AttentionCompute, schedule.A2ELink, schedule.E2ALink}
	expert := []schedule.Resource{schedule.A2ELink, schedule.ExpertCompute, schedule.E2ALink}
	times := make([]map[schedule.TaskID]span, len(results))
	for rank, r := range results {
		resources := attention
		if rank >= 2 {
			resources = expert
		}
		times[rank] = checkRank(t, s, rank, resources, r)
	}
	for id, task := range s.Tasks {
		senders, receivers := times[:2], times[2:]
		if task.Kind == schedule.E2A {
			senders, receivers = receivers, senders
		} else if task.Kind != schedule.A2E {
			continue
		}
		for _, from := range senders {
			for _, to := range receivers {
				if to[int32(id)].end < from[int32(id)].start {
					t.Errorf("%s was received before it was sent", task.Name())
				}
			}
		}
	}
}

// checkRank checks one rank's trace and returns its tasks' times.
func checkRank(t *testing.T, s *schedule.Schedule, rank int, resources []schedule.Resource, r executor.Result) map[schedule.TaskID]span {
	t.Helper()
	times := map[schedule.TaskID]span{}
	streams := map[schedule.Resource][]schedule.TaskID{}
	busy := map[schedule.Resource]int64{}
	var durations [executor.NumKinds]executor.Duration
	for _, task := range r.Trace {
		durations[task.Kind].Tasks++
		durations[task.Kind].Nanoseconds += task.End - task.Start
		resource := schedule.AttentionCompute
		if task.Kind < executor.Dense {
			resource = schedule.Kind(task.Kind).Resource()
		}
		if task.Start < busy[resource] || task.End < task.Start {
			t.Errorf("rank %d: %s of layer %d starts at %d, while %s is busy until %d", rank, task.Kind, task.Layer, task.Start, resource, busy[resource])
		}
		busy[resource] = task.End
		if task.Kind >= executor.Dense {
			continue
		}
		id, ok := s.Find(schedule.Kind(task.Kind), task.Layer, task.MicroBatch, task.Segment)
		if !ok {
			t.Fatalf("rank %d ran a task that is not in the schedule: %+v", rank, task)
		}
		streams[resource] = append(streams[resource], id)
		times[id] = span{r.Started + task.Start, r.Started + task.End}
	}
	for _, resource := range resources {
		if diff := cmp.Diff(s.Stream(resource), streams[resource]); diff != "" {
			t.Errorf("rank %d: order on %s (-schedule +executed):\n%s", rank, resource, diff)
		}
	}
	if len(streams) != len(resources) {
		t.Errorf("rank %d ran tasks of %d resources", rank, len(streams))
	}
	for id, at := range times {
		for _, dep := range s.Tasks[id].Deps {
			if slices.Contains(resources, s.Tasks[dep].Resource) && times[dep].end > at.start {
				t.Errorf("rank %d: %s started at %d, before %s ended at %d", rank, s.Tasks[id].Name(), at.start, s.Tasks[dep].Name(), times[dep].end)
			}
		}
	}
	if diff := cmp.Diff(durations, r.Durations); diff != "" {
		t.Errorf("rank %d: durations differ from the trace: %s", rank, diff)
	}
	return times
}

// gates count events and let others wait for them.
type gates struct {
	mu      sync.Mutex
	changed *sync.Cond
	counts  map[string]int
	broken  error
}

func newGates(t *testing.T) *gates {
	g := &gates{counts: map[string]int{}}
	g.changed = sync.NewCond(&g.mu)
	timer := time.AfterFunc(patience, func() { g.fail(errors.New("waited in vain")) })
	t.Cleanup(func() { timer.Stop() })
	return g
}

func (g *gates) fail(err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.broken = err
	g.changed.Broadcast()
}

func (g *gates) count(event string) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.counts[event]++
	g.changed.Broadcast()
	return g.counts[event]
}

func (g *gates) wait(event string, n int) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	for g.counts[event] < n && g.broken == nil {
		g.changed.Wait()
	}
	return g.broken
}

type gatedDevice struct {
	backend.Device
	gates *gates
}

func (d gatedDevice) NewStream(threads int) (backend.Stream, error) {
	s, err := d.Device.NewStream(threads)
	return gatedStream{s, d.gates}, err
}

// gatedStream lets kernels end only when what the schedule wants to run beside
// them has happened.
type gatedStream struct {
	backend.Stream
	gates *gates
}

// SwiGLU is part of the dense layer, then once per layer of the shared experts:
// those of layer t end only when the experts of that layer have begun.
func (s gatedStream) SwiGLU(out, gateUp backend.Matrix) error {
	if n := s.gates.count("shared"); n > 1 {
		if err := s.gates.wait("expert", 2*(n-2)+1); err != nil {
			return err
		}
	}
	return s.Stream.SwiGLU(out, gateUp)
}

// ExpertMLP of the first segment ends only when the second was received, that
// of the second only when the first is back.
func (s gatedStream) ExpertMLP(out, x backend.Matrix, args backend.ExpertMLPArgs) error {
	n := s.gates.count("expert")
	var err error
	if n%2 == 1 {
		err = s.gates.wait("arrived", n+1)
	} else {
		err = s.gates.wait("returned", n-1)
	}
	if err != nil {
		return err
	}
	return s.Stream.ExpertMLP(out, x, args)
}

// gatedMesh counts received messages.
type gatedMesh struct {
	transport.Mesh
	gates *gates
	event string
}

func (m gatedMesh) From(peer int) (transport.Link, error) {
	l, err := m.Mesh.From(peer)
	return gatedLink{l, m}, err
}

type gatedLink struct {
	transport.Link
	mesh gatedMesh
}

func (l gatedLink) ReceivePayload(parts ...[]byte) error {
	err := l.Link.ReceivePayload(parts...)
	l.mesh.gates.count(l.mesh.event)
	return err
}

// All four resources work at the same time: kernels that wait for what should
// run beside them do end. The same kernels hang under a policy without that
// overlap.
func TestResourcesOverlap(t *testing.T) {
	f := families(t)[0]
	run := func(g *gates, p plan.Plan) error {
		in := instance(t, harness.Config{Shape: f.shape, Checkpoint: f.dir, Attention: 1, Expert: 1,
			OpenDevice: func(rank int) (backend.Device, error) {
				d, err := openReference(rank)
				return gatedDevice{d, g}, err
			}})
		in.Meshes[0] = gatedMesh{in.Meshes[0], g, "returned"}
		in.Meshes[1] = gatedMesh{in.Meshes[1], g, "arrived"}
		prompt := randomPrompts(f.shape.VocabSize, 12)[0]
		_, err := in.Run(t.Context(), executor.Step{Plan: p, Pieces: [][]executor.Piece{{{Sequence: 1, Tokens: prompt.Tokens}}}})
		return err
	}
	if err := run(newGates(t), finDEP(1, 1, 2, plan.ASAS)); err != nil {
		t.Errorf("FinDEP with two segments: %v", err)
	}
	g := newGates(t)
	time.AfterFunc(100*time.Millisecond, func() { g.fail(context.DeadlineExceeded) })
	if err := run(g, pppipe(1, 1)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("PPPipe overlaps shared experts and transfer: %v", err)
	}
}
