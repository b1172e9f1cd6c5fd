// SPDX-License-Identifier: Apache-2.0

package evaluation

import (
	"fmt"
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/findep/findep-operator/runtime/plan"
	"github.com/findep/findep-operator/runtime/solver"
)

func compare(t *testing.T, samples int) *Comparison {
	t.Helper()
	c := Reference()
	c.Samples = samples
	r, err := Compare(c)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// More GPUs, faster links and more samples in flight never hurt, and neither
// does FinDEP.
func TestClustersAreMonotone(t *testing.T) {
	rising := func(name string, all []*Comparison) {
		for i, c := range all {
			if c.Gain() < 1-rounding {
				t.Errorf("%s: FinDEP loses to PPPipe: %v on %+v", name, c.Gain(), c.Cluster)
			}
			if i > 0 && c.FinDEP.Result.TokensPerSecond < all[i-1].FinDEP.Result.TokensPerSecond*(1-rounding) {
				t.Errorf("%s: %v tokens/s on %+v, less than on %+v", name, c.FinDEP.Result.TokensPerSecond, c.Cluster, all[i-1].Cluster)
			}
		}
	}
	var bySamples []*Comparison
	for _, samples := range []int{1, 2, 4, 8} {
		c := Reference()
		c.Samples = samples
		sizes, err := Scaling(c, []int{8, 32, 128, 1024})
		if err != nil {
			t.Fatal(err)
		}
		speeds, err := LinkSpeeds(c, []float64{5, 25, 100, 450})
		if err != nil {
			t.Fatal(err)
		}
		rising("GPUs", sizes)
		rising("links", speeds)
		bySamples = append(bySamples, sizes[1])
	}
	rising("samples", bySamples)
	if one, many := bySamples[0].Gain(), bySamples[3].Gain(); one < 1.3 || many > 1.02 {
		t.Errorf("gain %v with one sample in flight and %v with eight; want a large one and parity", one, many)
	}
	if _, err := Compare(Cluster{Model: "deepseek-ai/DeepSeek-V3", GPU: "a10", Link: "pcie-4", GPUs: 8, Tokens: 1024}); err == nil {
		t.Error("a model that does not fit was compared")
	}
}

func TestNoiseFollowsItsSeed(t *testing.T) {
	c := compare(t, 2)
	jitter := func(level float64, seed uint64) *Jitter {
		j, err := TaskJitter(c, level, 20, seed)
		if err != nil {
			t.Fatal(err)
		}
		return j
	}
	if cmp.Diff(jitter(0.1, 1), jitter(0.1, 1)) != "" {
		t.Error("one seed gives two results")
	}
	if cmp.Diff(jitter(0.1, 1), jitter(0.1, 2)) == "" {
		t.Error("two seeds give one result")
	}
	if j := jitter(0, 1); j.FinDEP[0] != 1 || j.PPPipe[0] != 1 || math.Abs(j.Gain[0]-c.Gain()) > rounding {
		t.Errorf("no noise changes something: %v, %v, %v", j.FinDEP[0], j.PPPipe[0], j.Gain[0])
	}
	if small, large := jitter(0.05, 1), jitter(0.4, 1); quantile(large.FinDEP, 0.5) >= quantile(small.FinDEP, 0.5) {
		t.Error("more noise costs nothing")
	}
	drift := func(level float64, seed uint64) *Drift {
		d, err := StageDrift(c, level, 200, seed)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	if cmp.Diff(drift(0.2, 1), drift(0.2, 1)) != "" || cmp.Diff(drift(0.2, 1), drift(0.2, 2)) == "" {
		t.Error("drift does not follow its seed")
	}
	if d := drift(0, 1); d.Within(1e-9) != 1 {
		t.Errorf("without drift the plan loses %v", d.Quantile(1))
	}
	if d := drift(0.2, 1); d.Within(0.02) < 0.8 || d.Mean() <= 0 {
		t.Errorf("at 20 %% the plan stays within 2 %% in %v of the draws and loses %v on average", d.Within(0.02), d.Mean())
	}
}

func TestResolvingPays(t *testing.T) {
	few := &Drift{Level: 0.1, Losses: []float64{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0.2}}
	many := &Drift{Level: 0.2, Losses: []float64{0, 0, 0, 0, 0, 0, 0, 0, 0.04, 0.05, 0.2}}
	if level, ok := ResolvingPays([]*Drift{few, many}); !ok || level != 0.2 {
		t.Errorf("pays at %v (%v), want 0.2", level, ok)
	}
	if _, ok := ResolvingPays([]*Drift{few}); ok {
		t.Error("one draw in eleven is enough")
	}
}

func TestMemoryPressure(t *testing.T) {
	c := Reference()
	c.Model, c.GPUs = "Qwen/Qwen3-235B-A22B", 8
	for _, group := range []plan.Role{plan.Attention, plan.Expert} {
		rows, err := UnderPressure(c, solver.Split{Attention: 4, Expert: 4}, group, []float64{0.5, 0.9, 0.95, 0.99, 0.9999})
		if err != nil {
			t.Fatal(err)
		}
		for i, row := range rows {
			if row.PPPipe.Infeasible == nil && row.Gain() < 1-rounding {
				t.Errorf("%s at %v: gain %v", group, row.Taken, row.Gain())
			}
			if i > 0 && row.FinDEP.TokensPerSecond > rows[i-1].FinDEP.TokensPerSecond*(1+rounding) {
				t.Errorf("%s at %v: less memory serves more", group, row.Taken)
			}
		}
		if full := rows[4].FinDEP.Infeasible; full == nil || full.Group != group || full.NeedBytes <= full.HaveBytes {
			t.Errorf("%s at 0.9999: %v", group, full)
		}
	}
}

// Under every cap FinDEP is at least as good as PPPipe: RandomGains fails
// otherwise. With few samples it gains, with many the two are at parity.
func TestRandomGains(t *testing.T) {
	gains := func(least, most, chunks int) *Gains {
		g, err := RandomGains(500, 1, least, most, chunks)
		if err != nil {
			t.Fatal(err)
		}
		if g.Sorted[0] < 1-rounding {
			t.Errorf("a gain of %v", g.Sorted[0])
		}
		return g
	}
	few, chunked, many := gains(1, 4, 1), gains(1, 4, 8), gains(4096, 4096, 1)
	if few.Quantile(0.9) < 1.15 || chunked.Quantile(0.9) < 1.1 {
		t.Errorf("few samples: a tenth gain more than %v and %v with chunks only", few.Quantile(0.9), chunked.Quantile(0.9))
	}
	if many.Quantile(0.9) > 1.02 || many.Below(1.01) < 0.8 {
		t.Errorf("many samples: a tenth gain more than %v; want parity", many.Quantile(0.9))
	}
}

// The values are those of an independent simulation that tried every plan.
func TestChunks(t *testing.T) {
	want := [][4]float64{
		{38.1, 67.1, 105.1, 108.8}, {75.3, 123.5, 129.8, 130.3}, {136.8, 137.2, 136.8, 137.3},
		{34.2, 62.0, 97.5, 101.4}, {67.5, 102.9, 100.3, 102.9},
		{20.0, 31.5, 56.1, 56.1}, {16.3, 24.8, 46.4, 46.9},
		{9.9, 16.8, 25.0, 25.0}, {16.5, 21.9, 37.1, 40.9}, {32.7, 43.4, 50.3, 50.3},
	}
	for i, c := range ChunkCases() {
		t.Run(fmt.Sprintf("%+v", c), func(t *testing.T) {
			r, err := SolveChunks(c)
			if err != nil {
				t.Fatal(err)
			}
			for k, got := range []solver.Result{r.PPPipe, r.FinDEP, r.ChunkedPPPipe, r.ChunkedFinDEP} {
				if math.Abs(got.TokensPerSecond/1e3-want[i][k]) > 0.1 || got.Gap != 0 {
					t.Errorf("%v serves %.2f thousand tokens/s (gap %v), want %v", got.Plan, got.TokensPerSecond/1e3, got.Gap, want[i][k])
				}
			}
			if c.Samples == 1 && (r.OverPPPipe() < 2.4 || r.OverFinDEP() < 1.45) {
				t.Errorf("%v is %.2f times PPPipe and %.2f times FinDEP, want 2.4 and 1.45", r.ChunkedFinDEP.Plan, r.OverPPPipe(), r.OverFinDEP())
			}
		})
	}
}

// No order beats the two by enough to be worth having in pipelines as deep as
// real models. In shallow ones the search does find better orders, so it can.
func TestNoOrderIsWorthAddingToTheTwo(t *testing.T) {
	shallow, err := RandomOrderGains(200, 51, 3)
	if err != nil {
		t.Fatal(err)
	}
	if most := shallow[len(shallow)-1]; most < 0.01 || shallow[0] < 0 {
		t.Errorf("in 3 layers the best order found gains %v at most; the search lost its power", most)
	}
	deep, err := RandomOrderGains(15, 51, 26)
	if err != nil {
		t.Fatal(err)
	}
	if most := deep[len(deep)-1]; most > 0.03 {
		t.Errorf("an order beats the two by %.2f %% in 26 layers; it may be worth having", 100*most)
	}
	for samples := 1; samples <= 4; samples++ {
		c := ChunkCase{Tokens: 1024, Samples: samples, Link: 1, Latency: 1}
		row, err := SolveChunks(c)
		if err != nil {
			t.Fatal(err)
		}
		gain, err := OrderGain(c.Problem(), row.ChunkedFinDEP.Plan)
		if err != nil {
			t.Fatal(err)
		}
		if gain > 0.01 {
			t.Errorf("an order beats the two by %.2f %% for %v; it may be worth having", 100*gain, row.ChunkedFinDEP.Plan)
		}
	}
}
