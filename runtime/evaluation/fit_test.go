// SPDX-License-Identifier: Apache-2.0

package evaluation

import (
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/findep/findep-operator/runtime/plan"
)

func TestMinimiseFindsTheFootOfAValley(t *testing.T) {
	rosenbrock := func(x []float64) float64 {
		return 100*square(x[1]-x[0]*x[0]) + square(1-x[0])
	}
	v := minimise(rosenbrock, []float64{-1.2, 1}, 0.5, 400)
	if math.Abs(v.at[0]-1) > 1e-3 || math.Abs(v.at[1]-1) > 1e-3 {
		t.Errorf("found %v with %v, want 1, 1 with 0", v.at, v.value)
	}
}

// A fit sees nothing but PPPipe's column, and says the same every time.
func TestFitIsBlindAndDeterministic(t *testing.T) {
	p := paper(t)
	bed := &p.Testbeds[1]
	cells := p.Of(OfflineTable, bed.Name)
	first, err := FitTestbed(bed, Observations(cells), Speeds)
	if err != nil {
		t.Fatal(err)
	}
	for i := range cells {
		cells[i].FinDEP, cells[i].Printed = 0, 0
	}
	second, err := FitTestbed(bed, Observations(cells), Speeds)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(first, second); diff != "" {
		t.Error(diff)
	}
	datasheets, err := FitTestbed(bed, Observations(cells), Nothing)
	if err != nil {
		t.Fatal(err)
	}
	if first.RMS() > datasheets.RMS()/2 || first.Objective >= datasheets.Objective {
		t.Errorf("fitting made %v of %v", first.RMS(), datasheets.RMS())
	}
}

// A machine of known speed, with few samples in flight, is found again as well
// as its PPPipe throughput tells, and its gain with it.
func TestFitRecoversAMachine(t *testing.T) {
	bed := &paper(t).Testbeds[0]
	const model = "Qwen/Qwen3-235B-A22B"
	truth := Machine{Compute: 1.5, Core: 1, Link: 3, Latency: 1, TokensInFlight: map[string]int{model: 8192}}
	b, err := newBench(bed, model, &truth)
	if err != nil {
		t.Fatal(err)
	}
	var observed []Observation
	var cells []Cell
	for _, tokens := range []int{1024, 2048, 4096} {
		p, err := b.best(tokens, splits(bed.GPUs, maxExpertGPUs), plan.PPPipe)
		if err != nil {
			t.Fatal(err)
		}
		f, err := b.best(tokens, splits(bed.GPUs, maxExpertGPUs), plan.FinDEP)
		if err != nil {
			t.Fatal(err)
		}
		observed = append(observed, Observation{model, tokens, p.Result.TokensPerSecond})
		cells = append(cells, Cell{Model: model, Tokens: tokens, PPPipe: p.Result.TokensPerSecond / 1e3, FinDEP: f.Result.TokensPerSecond / 1e3})
	}
	fit, err := FitTestbed(bed, observed, SpeedsAndSamples)
	if err != nil {
		t.Fatal(err)
	}
	predictions, err := fit.PredictOffline(cells)
	if err != nil {
		t.Fatal(err)
	}
	if a := Assess(predictions); fit.RMS() > 0.02 || a.Worst > 0.08 {
		t.Errorf("%+v meets PPPipe within %.3f and predicts gains within %.3f", fit.Machine, fit.RMS(), a.Worst)
	}
}

func TestFitRefusesWhatIsNoThroughput(t *testing.T) {
	bed := &paper(t).Testbeds[0]
	for _, bad := range []float64{0, -1, math.NaN()} {
		if _, err := FitTestbed(bed, []Observation{{"Qwen/Qwen3-235B-A22B", 1024, bad}}, Nothing); err == nil {
			t.Errorf("%v tokens/s were accepted", bad)
		}
	}
	if _, err := FitTestbed(bed, []Observation{{"no/such", 1024, 1}}, Nothing); err == nil {
		t.Error("an unknown model was accepted")
	}
}

// The two readings of the online table differ, and FinDEP never loses to the
// configuration that PPPipe keeps.
func TestPredictOnline(t *testing.T) {
	p := paper(t)
	bed := &p.Testbeds[0]
	m := datasheet()
	fit := &Fit{Testbed: bed, Machine: m}
	for _, reading := range []Reading{Prompts, Batches} {
		all, err := fit.PredictOnline(p.Of(OnlineTable, bed.Name), reading)
		if err != nil {
			t.Fatal(err)
		}
		for i := range all {
			c := &all[i]
			if c.Gain() < 1-rounding || c.PPPipe.Split != bed.Split(c.Cell.Model) || c.FinDEP.Result.Infeasible != nil {
				t.Errorf("%v of %+v: gain %v, plans %v and %v", reading, c.Cell, c.Gain(), c.PPPipe.Result.Plan, c.FinDEP.Result.Plan)
			}
		}
	}
}
