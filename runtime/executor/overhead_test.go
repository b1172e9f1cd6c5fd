// SPDX-License-Identifier: Apache-2.0

package executor_test

import (
	"encoding/binary"
	"runtime/metrics"
	"testing"

	"github.com/findep/findep-operator/runtime/backend"
	"github.com/findep/findep-operator/runtime/executor"
	"github.com/findep/findep-operator/runtime/executor/harness"
	"github.com/findep/findep-operator/runtime/plan"
	"github.com/findep/findep-operator/runtime/schedule"
)

// idleDevice has kernels that do nothing, so that what remains is the
// executor's own work.
type idleDevice struct{ backend.Device }

func (d idleDevice) NewStream(threads int) (backend.Stream, error) {
	s, err := d.Device.NewStream(threads)
	return idleStream{s}, err
}

type idleStream struct{ backend.Stream }

func (idleStream) Embed(_, _, _ backend.Matrix) error                           { return nil }
func (idleStream) RMSNorm(_, _, _ backend.Matrix, _ float32) error              { return nil }
func (idleStream) MatMul(_, _, _ backend.Matrix, _ bool) error                  { return nil }
func (idleStream) Rope(_, _, _ backend.Matrix, _ backend.RopeArgs) error        { return nil }
func (idleStream) ScatterRows(_, _, _ backend.Matrix) error                     { return nil }
func (idleStream) GatherRows(_, _, _ backend.Matrix) error                      { return nil }
func (idleStream) CombineRows(_, _, _ backend.Matrix) error                     { return nil }
func (idleStream) SwiGLU(_, _ backend.Matrix) error                             { return nil }
func (idleStream) GroupExperts(backend.GroupExpertsArgs) error                  { return nil }
func (idleStream) ExpertMLP(_, _ backend.Matrix, _ backend.ExpertMLPArgs) error { return nil }
func (idleStream) HeadMatMul(_, _, _ backend.Matrix, _ backend.HeadMatMulArgs) error {
	return nil
}
func (idleStream) Attention(_, _, _, _ backend.Matrix, _ backend.AttentionArgs) error {
	return nil
}
func (idleStream) Router(_, _, _, _ backend.Matrix, _ backend.RouterArgs) error { return nil }

// Dispatch sends one row with one pair to the first rank.
func (idleStream) Dispatch(args backend.DispatchArgs) error {
	put := func(m backend.Matrix, i int, v uint32) {
		binary.LittleEndian.PutUint32(m.Buffer.Host()[4*(m.Offset+int64(i)):], v)
	}
	for e := range args.RowStart.Rows {
		put(args.RowStart, e, uint32(min(e, 1)))
	}
	put(args.PairStart, 0, 0)
	put(args.PairStart, 1, 1)
	return nil
}

func idleInstance(t testing.TB) (*harness.Instance, executor.Step, func(plan.Plan) int) {
	f := families(t)[0]
	in := instance(t, harness.Config{Shape: f.shape, Checkpoint: f.dir, Attention: 1, Expert: 1, Depth: 2,
		OpenDevice: func(rank int) (backend.Device, error) {
			d, err := openReference(rank)
			return idleDevice{d}, err
		}})
	step := executor.Step{Pieces: [][]executor.Piece{nil}}
	for i, p := range randomPrompts(f.shape.VocabSize, 64, 64, 64, 64) {
		step.Pieces[0] = append(step.Pieces[0], executor.Piece{Sequence: uint64(i), Tokens: p.Tokens})
		step.Release = append(step.Release, uint64(i))
	}
	return in, step, func(p plan.Plan) int {
		s, err := schedule.Build(p, f.shape.MoELayers(), schedule.Options{SharedExperts: true})
		if err != nil {
			t.Fatal(err)
		}
		return len(s.Tasks)
	}
}

// Tasks allocate nothing: a step with many tasks allocates as much as one with
// few, but for what each micro-batch is described by.
func TestTasksDoNotAllocate(t *testing.T) {
	in, step, tasks := idleInstance(t)
	measure := func(p plan.Plan) float64 {
		step.Plan = p
		return testing.AllocsPerRun(50, func() {
			if _, err := in.Run(t.Context(), step); err != nil {
				t.Fatal(err)
			}
		})
	}
	few, many := finDEP(1, 4, 1, plan.ASAS), finDEP(1, 4, 32, plan.ASAS)
	a, b := measure(few), measure(many)
	if more := float64(tasks(many) - tasks(few)); (b-a)/more > 0.02 {
		t.Errorf("%v more tasks cause %v more allocations (%v and %v)", more, b-a, a, b)
	}
}

// Tasks start no goroutines, and nor does a step: the lanes live as long as the
// rank. The harness starts one per rank and step.
func TestTasksStartNoGoroutines(t *testing.T) {
	in, step, _ := idleInstance(t)
	created := func(p plan.Plan) uint64 {
		step.Plan = p
		sample := []metrics.Sample{{Name: "/sched/goroutines-created:goroutines"}}
		metrics.Read(sample)
		before := sample[0].Value.Uint64()
		for range 20 {
			if _, err := in.Run(t.Context(), step); err != nil {
				t.Fatal(err)
			}
		}
		metrics.Read(sample)
		return sample[0].Value.Uint64() - before
	}
	few, many := finDEP(1, 4, 1, plan.ASAS), finDEP(1, 4, 32, plan.ASAS)
	created(many) // What is made once is made now.
	// The runtime's own goroutines (the collector's, say) may come in between.
	if a, b := created(few), created(many); b > a+10 {
		t.Errorf("20 steps with few tasks start %d goroutines, with many %d", a, b)
	}
}

// BenchmarkOverhead is the executor's own time per task, both ranks and the
// in-process transport together, with kernels that do nothing.
func BenchmarkOverhead(b *testing.B) {
	in, step, tasks := idleInstance(b)
	step.Plan = finDEP(1, 4, 8, plan.ASAS)
	n := tasks(step.Plan)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := in.Run(b.Context(), step); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(n), "ns/task")
}
