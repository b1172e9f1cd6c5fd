// SPDX-License-Identifier: Apache-2.0

package solver_test

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/findep/findep-operator/runtime/model"
	"github.com/findep/findep-operator/runtime/plan"
	"github.com/findep/findep-operator/runtime/profile"
	"github.com/findep/findep-operator/runtime/solver"
)

// randomInstance draws a model of the catalogue with few layers, as the paper
// cuts them, on two kinds of GPUs, with any workload and options.
func randomInstance(t *testing.T, r *rand.Rand) *solver.Instance {
	t.Helper()
	known := model.Names()
	shape, err := model.ByName(known[r.IntN(len(known))])
	if err != nil {
		t.Fatal(err)
	}
	cut := *shape
	cut.Layers = cut.DenseLayers + 1 + r.IntN(4)
	in := &solver.Instance{Shape: &cut}
	presets := profile.Presets()
	for _, group := range []**profile.Profile{&in.Profiles.Attention, &in.Profiles.Expert} {
		if *group, err = profile.Preset(presets[r.IntN(len(presets))]); err != nil {
			t.Fatal(err)
		}
	}
	in.Workload = prefill(1 + r.IntN(4096))
	if r.IntN(2) == 0 {
		in.Workload = solver.Workload{Phase: solver.Decode, ContextTokens: 1 + r.IntN(8192)}
	} else if r.IntN(3) == 0 {
		in.Workload.PrefixTokens = r.IntN(4096)
	}
	if r.IntN(3) == 0 {
		in.Workload.Batch = 1 + r.IntN(12)
	}
	coin := func() bool { return r.IntN(4) == 0 }
	in.Options = solver.Options{
		ReplicatedTransfers: coin(), HalfDuplex: coin(), ExactRemainder: in.Workload.Batch > 0 && coin(),
		ExpertImbalance: []float64{0, 1.5}[r.IntN(2)], ExpertTileTokens: []int{0, 0, 128}[r.IntN(3)],
		Limits: solver.Limits{
			MaxMicroBatch: 1 + r.IntN(6), MaxPipelineDegree: 1 + r.IntN(5), MaxSegments: 1 + r.IntN(5), MaxChunks: 1 + r.IntN(2),
			SamplesInFlight: r.IntN(10), MakespanMilliseconds: []float64{0, 0, 1000 * r.Float64()}[r.IntN(3)],
		},
	}
	return in
}

// bestOfSplit searches one split exhaustively; the rate is 0 if nothing fits.
func bestOfSplit(t *testing.T, e *solver.Evaluator, p *solver.Problem) (rate float64) {
	t.Helper()
	least, best := math.Inf(1), plan.Plan{}
	everyPlan(p, plan.FinDEP, func(c plan.Plan) {
		if withinLimits(p, c) {
			if cost, ok := costOf(e, p, c); ok && cost < least {
				least, best = cost, c
			}
		}
	})
	if math.IsInf(least, 1) {
		return 0
	}
	r, err := solver.Predict(p, best)
	if err != nil {
		t.Fatal(err)
	}
	return r.TokensPerSecond
}

// The split and the plan that are chosen for a total serve as many tokens as
// exhaustive search over splits and plans finds, for every model, both phases,
// different GPUs and every option.
func TestFreeSplitEqualsExhaustiveSearch(t *testing.T) {
	var e solver.Evaluator
	infeasible := 0
	for seed := range uint64(problemsPerForm) {
		r := rand.New(rand.NewPCG(seed, 99))
		in := randomInstance(t, r)
		total := 2 + r.IntN(6)
		got, err := solver.SolveTotal(t.Context(), in, total, plan.FinDEP)
		if err != nil {
			t.Fatalf("seed %d: %v\n%+v", seed, err, in)
		}
		best := 0.0
		for attention := 1; attention < total; attention++ {
			c, err := solver.SolveModel(in, solver.Split{Attention: attention, Expert: total - attention}, plan.FinDEP)
			if err != nil {
				t.Fatal(err)
			}
			best = max(best, bestOfSplit(t, &e, &c.Problem))
		}
		if (got.Best.Result.Infeasible == nil) != (best > 0) {
			t.Fatalf("seed %d: infeasible %+v, exhaustive search finds %v tokens/s\n%+v", seed, got.Best.Result.Infeasible, best, in)
		}
		if best == 0 {
			infeasible++
			continue
		}
		if rate := got.Best.Result.TokensPerSecond; !near(rate, best, 1e-9) || got.CutSplits > 0 {
			t.Fatalf("seed %d: split %v serves %v tokens/s (%d splits cut), exhaustive search finds %v\n%+v",
				seed, got.Best.Split, rate, got.CutSplits, best, in)
		}
	}
	if infeasible == 0 || infeasible > problemsPerForm/2 {
		t.Errorf("%d of %d problems were infeasible; the test lost a half of its meaning", infeasible, problemsPerForm)
	}
}
