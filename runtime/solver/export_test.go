// SPDX-License-Identifier: Apache-2.0

package solver

import (
	"context"

	"github.com/findep/findep-operator/runtime/plan"
)

// Evaluator is the makespan of given plans, for exhaustive search.
type Evaluator struct{ line timeline }

// Makespan is that of Predict without its other results.
func (e *Evaluator) Makespan(p *Problem, chosen plan.Plan) float64 {
	f := forecast{p: p, line: &e.line}
	c := f.candidate(chosen)
	return f.makespan(p, chosen.Policy, &c) + p.Outside.Alpha*float64(c.r1*c.chunks) + p.Outside.Beta*float64((c.r1-1)*c.m+c.last)
}

// Recurrence is the makespan without closed forms.
func (e *Evaluator) Recurrence(p *Problem, chosen plan.Plan) float64 {
	f := forecast{p: p, line: &e.line}
	c := f.candidate(chosen)
	e.line.load(p, chosen.Policy, &c)
	return e.line.makespan(1e300)
}

// KeyOf is what a Memo remembers a problem by.
var KeyOf = keyOf

// MaxSteps bounds the work of one search.
const MaxSteps = maxSteps

// Steps is the work of the last search, AllSteps of all searches so far.
func (w *Solver) Steps() int    { return w.timeline.steps }
func (w *Solver) AllSteps() int { return w.timeline.spent + w.timeline.steps }

// SolveTotal is SolveTotal with a solver whose work is counted.
func (w *Solver) SolveTotal(ctx context.Context, m *Model, work *Workload, total int, policy plan.Policy) (TotalResult, error) {
	return w.solveTotal(ctx, totalSteps, m, work, total, policy)
}
