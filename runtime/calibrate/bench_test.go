// SPDX-License-Identifier: Apache-2.0

package calibrate_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/findep/findep-operator/runtime/backend"
	_ "github.com/findep/findep-operator/runtime/backend/reference"
	"github.com/findep/findep-operator/runtime/calibrate"
	"github.com/findep/findep-operator/runtime/model"
	"github.com/findep/findep-operator/runtime/profile"
	"github.com/findep/findep-operator/runtime/transport"
	"github.com/findep/findep-operator/runtime/transport/inproc"
)

// shapes are one small model of each kind of attention.
func shapes(t *testing.T) map[string]*model.Shape {
	t.Helper()
	list := map[string]*model.Shape{}
	for _, name := range []string{"deepseek-v2-0", "qwen3-moe-0"} {
		b, err := os.ReadFile(filepath.Join("../../test/testdata/families", name, "config.json"))
		if err != nil {
			t.Fatal(err)
		}
		if list[name], err = model.Parse(b); err != nil {
			t.Fatal(err)
		}
	}
	return list
}

func options() calibrate.ComputeOptions {
	return calibrate.ComputeOptions{DType: backend.F32, Threads: 1, MaxTokens: 80, PointTime: time.Hour, Now: time.Now}
}

func newBench(t *testing.T, shape *model.Shape) *calibrate.Bench {
	t.Helper()
	dev, err := backend.Open("reference", backend.Options{})
	if err != nil {
		t.Fatal(err)
	}
	b, err := calibrate.NewBench(dev, shape, options())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(b.Close(), dev.Close()); err != nil {
			t.Error(err)
		}
	})
	return b
}

// Work is counted exactly as the planner counts it, or its predictions would
// be off by the ratio.
func TestWorkIsCountedAsThePlannerCountsIt(t *testing.T) {
	for name, shape := range shapes(t) {
		b := newBench(t, shape)
		var projections int64
		for _, m := range shape.AttentionMatrices() {
			projections += m.MACs()
		}
		launches := len(shape.AttentionMatrices())
		experts := min(8, shape.MoE.Experts)
		for _, c := range []struct {
			kind     string
			works    func() ([]calibrate.Work, error)
			total    func(n float64) float64 // of one Run
			launches int
		}{
			{"gemm", b.GEMM, func(n float64) float64 { return n * float64(projections) }, launches},
			{"grouped", b.Grouped, func(n float64) float64 {
				return n * float64(experts) * 3 * float64(shape.HiddenSize) * float64(shape.MoE.IntermediateSize)
			}, 3},
			{"prefill", b.Prefill, func(n float64) float64 { return n * (n + 1) / 2 * float64(shape.AttentionMACsPerPair()) }, 1},
			{"decode", b.Decode, func(n float64) float64 { return 8 * n * float64(shape.AbsorbedMACsPerPair()) }, 1},
		} {
			works, err := c.works()
			if err != nil {
				t.Fatalf("%s, %s: %v", name, c.kind, err)
			}
			if len(works) != 5 {
				t.Fatalf("%s, %s: %d sizes, want 5", name, c.kind, len(works))
			}
			for i, n := range []float64{16, 32, 48, 64, 80} {
				w := works[i]
				if got := w.Amount * float64(max(1, w.Launches)) * 1e9; !near(got, c.total(n)) || max(1, w.Launches) != c.launches {
					t.Errorf("%s, %s, %s: %v in %d launches, want %v in %d", name, c.kind, w.What, got, w.Launches, c.total(n), c.launches)
				}
				if err := w.Run(); err != nil {
					t.Errorf("%s, %s, %s: %v", name, c.kind, w.What, err)
				}
			}
		}
	}
}

func TestReadingMemoryGoesOnThroughIt(t *testing.T) {
	shape := shapes(t)["qwen3-moe-0"]
	works, err := newBench(t, shape).ReadMemory()
	if err != nil {
		t.Fatal(err)
	}
	last := works[len(works)-1]
	if rows := last.Amount * 1e6 / 4 / float64(shape.HiddenSize); rows < 1000 {
		t.Errorf("the largest size reads %v rows, too few to leave the caches", rows)
	}
	for range 10 { // more than the arena holds
		if err := works[0].Run(); err != nil {
			t.Fatal(err)
		}
	}
}

// A size that takes too long is not measured, nor one that would be twice as
// long.
func TestSizesEndWhereAPointTakesTooLong(t *testing.T) {
	shape := shapes(t)["qwen3-moe-0"]
	dev, err := backend.Open("reference", backend.Options{})
	if err != nil {
		t.Fatal(err)
	}
	c := &clock{}
	o := options()
	o.MaxTokens, o.PointTime = 1000, 100*time.Microsecond
	// Each look at the clock takes as long as a run may.
	o.Now = func() time.Time { c.at = c.at.Add(60 * time.Microsecond); return c.at }
	b, err := calibrate.NewBench(dev, shape, o)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = b.Close() }()
	works, err := b.Decode()
	if err != nil {
		t.Fatal(err)
	}
	if what := works[len(works)-1].What; !strings.Contains(what, "16 tokens") {
		t.Errorf("the largest size is %q, want the smallest there is", what)
	}
}

func TestBenchRefusesWhatItCannotMeasure(t *testing.T) {
	dev, err := backend.Open("reference", backend.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*calibrate.ComputeOptions){
		"F16":        func(o *calibrate.ComputeOptions) { o.DType = backend.F16 },
		"max-tokens": func(o *calibrate.ComputeOptions) { o.MaxTokens = 15 },
		"the time":   func(o *calibrate.ComputeOptions) { o.PointTime = 0 },
	} {
		o := options()
		change(&o)
		if _, err := calibrate.NewBench(dev, shapes(t)["qwen3-moe-0"], o); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: error %v", name, err)
		}
	}
}

// A whole run makes a profile that planning accepts. Its numbers are whatever
// this machine does; that poor fits are refused is tested above.
func TestMeasureComputeFillsAProfile(t *testing.T) {
	var r calibrate.Result
	c := &clock{}
	b := newBench(t, shapes(t)["deepseek-v2-0"])
	ticks := 0
	// A clock that gives each run in turn the time of its size: 5 sizes, so
	// every series is a line by construction.
	o := calibrate.Options{Trials: 3, Now: func() time.Time {
		if ticks++; ticks%2 == 0 {
			c.at = c.at.Add(time.Duration(1+(ticks/2-1)%5) * time.Millisecond)
		}
		return c.at
	}}
	err := calibrate.MeasureCompute(t.Context(), b, &r, o)
	var poor *calibrate.PoorFitError
	// Prefill's work grows with the square of its size and its times here do not.
	if !errors.As(err, &poor) || poor.Kind != calibrate.Attention || strings.Contains(err.Error(), "gemm") {
		t.Fatalf("error %v, want a poor fit of attention alone", err)
	}
	for _, l := range r.Lines() {
		if l != &r.Link && len(l.Points) != 5 {
			t.Errorf("%s has %d points, want 5 although another fit is poor", l.Kind, len(l.Points))
		}
	}
	p := &profile.Profile{Name: "test", MemoryBytes: 1 << 30, UsableMemoryPermille: 900, Link: profile.Transfer{MicrosecondsPerMegabyte: 7}}
	r.Fill(p)
	if err := p.Validate(); err != nil {
		t.Error(err)
	}
	if p.Link.MicrosecondsPerMegabyte != 7 || p.Memory.RSquared < 0.99 || p.DecodeAttention.RSquared < 0.99 {
		t.Errorf("profile %+v", p)
	}
}

// pair connects the two ends of a link within the process.
func pair(t *testing.T) (near, far transport.Mesh) {
	t.Helper()
	network := inproc.NewHub(4)
	meshes := make([]transport.Mesh, 2)
	errs := make(chan error, 2)
	for i := range meshes {
		go func() {
			var err error
			meshes[i], err = network.Connect(t.Context(), 1, i, []transport.Peer{{Rank: 1 - i}})
			errs <- err
		}()
	}
	if err := errors.Join(<-errs, <-errs); err != nil {
		t.Fatal(err)
	}
	return meshes[0], meshes[1]
}

func TestMeasureLinkCountsHalfTheWayThereAndBack(t *testing.T) {
	near, far := pair(t)
	c, ticks := &clock{}, 0
	s, err := calibrate.MeasureLink(t.Context(), near, far, calibrate.Options{Trials: 3, Now: func() time.Time {
		if ticks++; ticks%2 == 0 {
			c.at = c.at.Add(2 * time.Millisecond)
		}
		return c.at
	}})
	if err != nil {
		t.Fatal(err)
	}
	if len(s.Points) != 7 {
		t.Fatalf("%d sizes, want 7", len(s.Points))
	}
	for _, p := range s.Points {
		if p.Microseconds != 1000 {
			t.Errorf("%s: %v us, want half of 2 ms", p.What, p.Microseconds)
		}
	}
	if first := s.Points[0]; first.Amount != 0.065536 {
		t.Errorf("the first message has %v MB, want 64 KiB", first.Amount)
	}
}

func TestMeasureLinkHonoursCancellation(t *testing.T) {
	near, far := pair(t)
	ctx, cancel := context.WithCancel(t.Context())
	runs := 0
	_, err := calibrate.MeasureLink(ctx, near, far, calibrate.Options{Trials: 10_000, Now: func() time.Time {
		if runs++; runs == 100 {
			cancel()
		}
		return time.Time{}
	}})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want the cancellation", err)
	}
}
