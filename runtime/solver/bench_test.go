// SPDX-License-Identifier: Apache-2.0

package solver_test

import (
	"context"
	"math"
	"testing"

	"github.com/findep/findep-operator/runtime/plan"
	"github.com/findep/findep-operator/runtime/solver"
)

// BenchmarkSolve solves DeepSeek-V2 on 32 GPUs, prefill of 2048 tokens unless
// the name says otherwise. "model" counts making the problem from model,
// profiles and workload as well.
func BenchmarkSolve(b *testing.B) {
	in := instance(b, v2, "h100-sxm", prefill(2048))
	split := solver.Split{Attention: 16, Expert: 16}
	for _, form := range []struct {
		name   string
		change func(*solver.Problem)
	}{
		{"fixed split", func(*solver.Problem) {}},
		{"fixed split, batch 8", func(p *solver.Problem) { p.Batch = 8 }},
		{"fixed split, batch 64, exact remainder", func(p *solver.Problem) { p.Batch, p.ExactRemainder = 64, true }},
		{"fixed split, 1 in flight, 8 chunks", func(p *solver.Problem) { p.Limits.SamplesInFlight, p.Limits.MaxChunks = 1, 8 }},
		{"fixed split, 1 in flight, 8 unequal chunks", func(p *solver.Problem) {
			p.Limits.SamplesInFlight, p.Limits.MaxChunks, p.Limits.UnequalChunks = 1, 8, true
		}},
		{"fixed split, latency objective", func(p *solver.Problem) { p.Limits.MakespanMilliseconds = 500 }},
		{"fixed split, GEMM tiles", func(p *solver.Problem) { p.ExpertTileTokens = 128 }},
		{"fixed split, one link for both directions", func(p *solver.Problem) { p.HalfDuplex = true }},
	} {
		b.Run(form.name, func(b *testing.B) {
			p, err := solver.FromModel(in, split)
			if err != nil {
				b.Fatal(err)
			}
			form.change(&p)
			benchmarkSolve(b, func(w *solver.Solver) (solver.Result, error) { return w.Solve(b.Context(), &p, plan.FinDEP) })
		})
	}
	b.Run("fixed split, decode", func(b *testing.B) {
		p, err := solver.FromModel(instance(b, v2, "h100-sxm", solver.Workload{Phase: solver.Decode, ContextTokens: 4096}), split)
		if err != nil {
			b.Fatal(err)
		}
		benchmarkSolve(b, func(w *solver.Solver) (solver.Result, error) { return w.Solve(b.Context(), &p, plan.FinDEP) })
	})
	b.Run("fixed split, model", func(b *testing.B) {
		m, err := solver.NewModel(in.Shape, in.Profiles, in.Options)
		if err != nil {
			b.Fatal(err)
		}
		var p solver.Problem
		benchmarkSolve(b, func(w *solver.Solver) (solver.Result, error) {
			if err := m.Problem(&in.Workload, split, &p); err != nil {
				return solver.Result{}, err
			}
			return w.Solve(b.Context(), &p, plan.FinDEP)
		})
	})
	b.Run("free split, model", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := solver.SolveTotal(b.Context(), in, 32, plan.FinDEP); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("fixed split, remembered", func(b *testing.B) {
		memo := solver.NewMemo(64)
		p, err := solver.FromModel(in, split)
		if err != nil {
			b.Fatal(err)
		}
		benchmarkSolve(b, func(*solver.Solver) (solver.Result, error) { return memo.Solve(b.Context(), &p, plan.FinDEP) })
	})
	b.Run("fixed split, exhaustive search", func(b *testing.B) {
		p, err := solver.FromModel(in, split)
		if err != nil {
			b.Fatal(err)
		}
		for b.Loop() {
			exhaust(&p)
		}
	})
}

func benchmarkSolve(b *testing.B, solve func(*solver.Solver) (solver.Result, error)) {
	b.Helper()
	var w solver.Solver
	r, err := solve(&w)
	if err != nil || r.Infeasible != nil {
		b.Fatal(err, r.Infeasible)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := solve(&w); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(r.Candidates), "candidates")
}

// exhaust tries every m_a, r1, r2 and order that fits.
func exhaust(p *solver.Problem) float64 {
	var e solver.Evaluator
	best := math.Inf(1)
	for m := 1; m <= p.MaxPipelineDegree(1); m++ {
		for r1 := 1; r1 <= p.MaxPipelineDegree(m); r1++ {
			for r2 := 1; r2 <= solver.DefaultMaxSegments; r2++ {
				for _, order := range []plan.Order{plan.ASAS, plan.AASS} {
					c := plan.Plan{Policy: plan.FinDEP, MicroBatchSize: m, R1: r1, R2: r2, Order: order, Chunks: 1}
					best = min(best, e.Makespan(p, c)/float64(r1*m))
				}
			}
		}
	}
	return best
}

// BenchmarkLargest answers the largest questions, explanations included: none
// may take a second.
func BenchmarkLargest(b *testing.B) {
	for name, change := range wholeAnswers {
		in := wholeAnswer(b, change)
		b.Run(name, func(b *testing.B) {
			m, err := solver.NewModel(in.Shape, in.Profiles, in.Options)
			if err != nil {
				b.Fatal(err)
			}
			var w solver.Solver
			for b.Loop() {
				r, err := w.SolveTotal(b.Context(), m, &in.Workload, 1024, plan.FinDEP)
				if err != nil {
					b.Fatal(err)
				}
				if _, err := w.ExplainTotal(b.Context(), m, &in.Workload, &r.Best); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// The steady state must not allocate, or planning every step would feed the
// garbage collector.
func TestSteadyStateDoesNotAllocate(t *testing.T) {
	m, err := solver.NewModel(instance(t, v2, "h100-sxm", prefill(2048)).Shape, instance(t, v2, "h100-sxm", prefill(2048)).Profiles, solver.Options{})
	if err != nil {
		t.Fatal(err)
	}
	var w solver.Solver
	var p solver.Problem
	for name, work := range map[string]solver.Workload{
		"prefill":          prefill(2048),
		"decode":           {Phase: solver.Decode, ContextTokens: 4096},
		"decode of 512":    {Phase: solver.Decode, ContextTokens: 4096, Batch: 512},
		"prefill of 32":    {Phase: solver.Prefill, SequenceTokens: 700, Batch: 32},
		"prefill of a lot": {Phase: solver.Prefill, SequenceTokens: 100, Batch: 1000},
	} {
		n := testing.AllocsPerRun(10, func() {
			if err := m.Problem(&work, solver.Split{Attention: 16, Expert: 16}, &p); err != nil {
				t.Fatal(err)
			}
			p.Limits.MaxChunks, p.ExactRemainder = 4, true
			if _, err := w.Solve(context.Background(), &p, plan.FinDEP); err != nil {
				t.Fatal(err)
			}
		})
		if n != 0 {
			t.Errorf("%s: %v allocations per solve", name, n)
		}
	}
}
