// SPDX-License-Identifier: Apache-2.0

package sim_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/findep/findep-operator/runtime/plan"
	"github.com/findep/findep-operator/runtime/schedule"
	"github.com/findep/findep-operator/runtime/sim"
)

func build(t testing.TB, policy plan.Policy, order plan.Order, r1, r2, layers int, shared bool) *schedule.Schedule {
	t.Helper()
	s, err := schedule.Build(plan.Plan{Policy: policy, MicroBatchSize: 1, R1: r1, R2: r2, Order: order, Chunks: 1},
		layers, schedule.Options{SharedExperts: shared})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func run(t testing.TB, s *schedule.Schedule, d sim.DurationFunc) *sim.Result {
	t.Helper()
	r, err := sim.Run(s, d)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// starts lists the start times of one kind in one layer, in stream order.
func starts(s *schedule.Schedule, r *sim.Result, kind schedule.Kind, layer int32) []float64 {
	var out []float64
	for _, id := range s.Stream(kind.Resource()) {
		if task := &s.Tasks[id]; task.Kind == kind && task.Layer == layer {
			out = append(out, r.Start[id])
		}
	}
	return out
}

// TV1 of the mathematics: every start time of a two-layer pipeline.
func TestTimelineTV1(t *testing.T) {
	u := &sim.Uniform{schedule.Attention: 4, schedule.Shared: 2, schedule.A2E: 1, schedule.Expert: 2, schedule.E2A: 1}
	tests := map[plan.Order]struct {
		makespan float64
		starts   [2][schedule.NumKinds][]float64
	}{
		plan.ASAS: {28, [2][schedule.NumKinds][]float64{
			{{0, 6}, {4, 10}, {4, 5, 10, 11}, {5, 7, 11, 13}, {7, 9, 13, 15}},
			{{12, 18}, {16, 22}, {16, 17, 22, 23}, {17, 19, 23, 25}, {19, 21, 25, 27}},
		}},
		plan.AASS: {26, [2][schedule.NumKinds][]float64{
			{{0, 4}, {8, 10}, {4, 5, 8, 9}, {5, 7, 9, 11}, {7, 9, 11, 13}},
			{{12, 16}, {20, 22}, {16, 17, 20, 21}, {17, 19, 21, 23}, {19, 21, 23, 25}},
		}},
	}
	for order, tc := range tests {
		t.Run(string(order), func(t *testing.T) {
			s := build(t, plan.FinDEP, order, 2, 2, 2, true)
			r := run(t, s, u.Duration)
			if r.Makespan != tc.makespan {
				t.Errorf("makespan %v, want %v", r.Makespan, tc.makespan)
			}
			for layer, kinds := range tc.starts {
				for kind, want := range kinds {
					if diff := cmp.Diff(want, starts(s, r, schedule.Kind(kind), int32(layer))); diff != "" {
						t.Errorf("layer %d, %s (-want +got):\n%s", layer, schedule.Kind(kind), diff)
					}
				}
			}
		})
	}
}

func TestBusyAndExposedTV1(t *testing.T) {
	u := &sim.Uniform{4, 2, 1, 2, 1}
	s := build(t, plan.FinDEP, plan.ASAS, 2, 2, 2, true)
	r := run(t, s, u.Duration)
	if diff := cmp.Diff([schedule.NumResources]float64{24, 8, 16, 8}, r.Busy); diff != "" {
		t.Errorf("busy (-want +got):\n%s", diff)
	}
	if got := r.Idle(schedule.AttentionCompute); got != 4 {
		t.Errorf("attention idles %v ms, want 4", got)
	}
	if got, want := r.BusyShare(schedule.ExpertCompute), 16.0/28; got != want {
		t.Errorf("expert busy share %v, want %v", got, want)
	}
	// Without links, G = 4+2+2 = 8 < r1*X = 12, so D = 12 + 8 + 6 = 26.
	exposed, err := sim.ExposedCommunication(s, u.Duration)
	if err != nil || exposed != 2 {
		t.Errorf("exposed communication %v, %v; want 2", exposed, err)
	}
}

// reference is the segment-level simulator of the mathematics, section 1.15,
// written independently of schedules: the ground truth.
func reference(order plan.Order, a, s, c1, e, c2 float64, r1, r2, layers int) float64 {
	type step struct {
		shared bool
		i      int
	}
	var seq []step
	for i := range r1 {
		seq = append(seq, step{false, i})
		if order == plan.ASAS {
			seq = append(seq, step{true, i})
		}
	}
	if order == plan.AASS {
		for i := range r1 {
			seq = append(seq, step{true, i})
		}
	}
	var ag, l1, eg, l2, makespan float64
	back, sEnd, aEnd := make([]float64, r1), make([]float64, r1), make([]float64, r1)
	for range layers {
		next := make([]float64, r1)
		for _, x := range seq {
			if x.shared {
				ag = max(ag, aEnd[x.i]) + s
				next[x.i] = ag
				makespan = max(makespan, ag)
				continue
			}
			ag = max(ag, back[x.i], sEnd[x.i]) + a
			aEnd[x.i] = ag
		}
		copy(sEnd, next)
		for i := range r1 {
			for range r2 {
				l1 = max(l1, aEnd[i]) + c1
				eg = max(eg, l1) + e
				l2 = max(l2, eg) + c2
			}
			back[i] = l2
			makespan = max(makespan, l2)
		}
	}
	return makespan
}

func TestRunEqualsReferenceSimulator(t *testing.T) {
	for seed := range uint64(5000) {
		r := rand.New(rand.NewPCG(seed, 15))
		var u sim.Uniform
		for k := range u {
			u[k] = float64(r.IntN(20))
		}
		order := []plan.Order{plan.ASAS, plan.AASS}[r.IntN(2)]
		r1, r2, layers := 1+r.IntN(6), 1+r.IntN(5), 1+r.IntN(8)
		got := run(t, build(t, plan.FinDEP, order, r1, r2, layers, true), u.Duration).Makespan
		want := reference(order, u[0], u[1], u[2], u[3], u[4], r1, r2, layers)
		if got != want {
			t.Fatalf("seed %d: %s r1=%d r2=%d layers=%d %v: %v, reference %v", seed, order, r1, r2, layers, u, got, want)
		}
	}
}

// The baselines in terms of the reference: PPPipe is ASAS with the shared
// expert inside attention, Sequential is the plain sum.
func TestBaselinesEqualTheirDefinition(t *testing.T) {
	for seed := range uint64(1000) {
		r := rand.New(rand.NewPCG(seed, 16))
		var u sim.Uniform
		sum := 0.0
		for k := range u {
			u[k] = float64(r.IntN(20))
			sum += u[k]
		}
		r1, layers := 1+r.IntN(6), 1+r.IntN(8)
		got := run(t, build(t, plan.PPPipe, plan.ASAS, r1, 1, layers, true), u.Duration).Makespan
		if want := reference(plan.ASAS, u[0]+u[1], 0, u[2], u[3], u[4], r1, 1, layers); got != want {
			t.Fatalf("seed %d: PPPipe %v, want %v", seed, got, want)
		}
		got = run(t, build(t, plan.Sequential, plan.ASAS, 1, 1, layers, true), u.Duration).Makespan
		if want := float64(layers) * sum; got != want {
			t.Fatalf("seed %d: Sequential %v, want %v", seed, got, want)
		}
	}
}

func TestTableOfDurations(t *testing.T) {
	s := build(t, plan.Sequential, plan.ASAS, 1, 1, 1, false)
	if got := run(t, s, sim.Table{1, 2, 3, 4}.Duration).Makespan; got != 10 {
		t.Errorf("makespan %v, want 10", got)
	}
	for _, table := range []sim.Table{{1, 2, 3}, {1, -2, 3, 4}, {1, math.NaN(), 3, 4}, {1, math.Inf(1), 3, 4}} {
		if _, err := sim.Run(s, table.Duration); err == nil || !strings.Contains(err.Error(), "L0 m0") {
			t.Errorf("durations %v: error %v, want one that names the task", table, err)
		}
		if _, err := sim.ExposedCommunication(s, table.Duration); err == nil {
			t.Errorf("durations %v are accepted for exposed communication", table)
		}
	}
}

func TestTraceIsChromeJSON(t *testing.T) {
	s := build(t, plan.FinDEP, plan.ASAS, 2, 2, 1, true)
	r := run(t, s, (&sim.Uniform{4, 2, 1, 2, 1}).Duration)
	var buf bytes.Buffer
	if err := sim.WriteTrace(&buf, r.Events(s, "FinDEP")); err != nil {
		t.Fatal(err)
	}
	var trace struct {
		TraceEvents []struct {
			Name string
			Ph   string
			Pid  int
			Tid  int
			TS   float64 `json:"ts"`
			Dur  float64
			Args map[string]any
		}
	}
	if err := json.Unmarshal(buf.Bytes(), &trace); err != nil {
		t.Fatalf("not JSON: %v\n%s", err, buf.String())
	}
	lanes, bars := map[int]any{}, 0
	for _, e := range trace.TraceEvents {
		switch {
		case e.Name == "thread_name":
			lanes[e.Tid] = e.Args["name"]
		case e.Ph == "X":
			bars++
			if e.Name == "Expert L0 m1 s0" && (e.TS != 11000 || e.Dur != 2000 || lanes[e.Tid] != "ExpertCompute" || e.Args["microBatch"] != 1.0) {
				t.Errorf("event %+v in lane %v", e, lanes[e.Tid])
			}
		}
	}
	if bars != len(s.Tasks) || len(lanes) != 4 {
		t.Errorf("%d bars in %d lanes, want %d in 4", bars, len(lanes), len(s.Tasks))
	}
}

func TestTraceOfNothingIsValid(t *testing.T) {
	var buf bytes.Buffer
	if err := sim.WriteTrace(&buf, nil); err != nil || !json.Valid(buf.Bytes()) {
		t.Errorf("error %v, output %q", err, buf.String())
	}
}

type brokenWriter struct{}

func (brokenWriter) Write([]byte) (int, error) { return 0, errors.New("disk full") }

func TestTraceReportsErrors(t *testing.T) {
	bad := []sim.Event{{Name: "x", Args: map[string]any{"f": func() {}}}}
	if err := sim.WriteTrace(&bytes.Buffer{}, bad); err == nil || !strings.Contains(err.Error(), `"x"`) {
		t.Errorf("error %v, want one that names the event", err)
	}
	if err := sim.WriteTrace(brokenWriter{}, nil); err == nil || !strings.Contains(err.Error(), "disk full") {
		t.Errorf("error %v, want the writer's", err)
	}
}

func BenchmarkRun(b *testing.B) {
	s := build(b, plan.FinDEP, plan.ASAS, 8, 8, 60, true)
	u := &sim.Uniform{4, 2, 1, 2, 1}
	for b.Loop() {
		run(b, s, u.Duration)
	}
	b.ReportMetric(float64(len(s.Tasks))*float64(b.N)/b.Elapsed().Seconds(), "tasks/s")
}
