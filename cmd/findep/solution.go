// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/findep/findep-operator/runtime/plan"
	"github.com/findep/findep-operator/runtime/solver"
)

// solution is a policy's best plan for a job.
type solution struct {
	// choice holds the split, the stage form and the result; the split has no
	// expert GPUs in the raw form, which does not know them.
	choice       solver.Choice
	alternatives []solver.Alternative
	// cut is the number of splits whose search was cut short.
	cut int
	// took is the time of the search.
	took time.Duration
}

// infeasibleError ends a command whose problem has no solution; the command
// has printed what is missing.
type infeasibleError struct{ what *solver.Infeasible }

func (e infeasibleError) Error() string { return "infeasible: " + e.what.String() }

// solve finds the best plan of a policy. Problems without a solution are
// results; errors are for bad input and cancellation.
func (j *job) solve(ctx context.Context, policy plan.Policy, now func() time.Time) (*solution, error) {
	start := now()
	s, err := j.search(ctx, policy)
	if err != nil {
		if ctx.Err() != nil {
			return nil, err
		}
		return nil, usageError{renamed(err)}
	}
	s.took = now().Sub(start)
	return s, nil
}

func (j *job) search(ctx context.Context, policy plan.Policy) (*solution, error) {
	if j.total > 0 {
		r, err := solver.SolveTotal(ctx, &j.instance, j.total, policy)
		return &solution{choice: r.Best, alternatives: r.Alternatives, cut: r.CutSplits}, err
	}
	s := &solution{}
	if j.raw != nil {
		s.choice = solver.Choice{Split: solver.Split{Attention: j.raw.AttentionGPUs}, Problem: *j.raw}
	} else {
		p, err := solver.FromModel(&j.instance, j.split)
		if err != nil {
			return nil, err
		}
		s.choice = solver.Choice{Split: j.split, Problem: p}
	}
	var w solver.Solver
	var err error
	if s.choice.Result, err = w.Solve(ctx, &s.choice.Problem, policy); err != nil {
		return nil, err
	}
	if s.choice.Result.Infeasible != nil && j.raw == nil {
		// Only this form knows which split would fit.
		s.choice, err = solver.SolveModel(&j.instance, j.split, policy)
	}
	return s, err
}

// explain says why the plan is what it is.
func (j *job) explain(ctx context.Context, s *solution) (solver.Explanation, error) {
	var w solver.Solver
	if j.raw != nil {
		return w.Explain(ctx, &s.choice.Problem, &s.choice.Result)
	}
	m, err := solver.NewModel(j.instance.Shape, j.instance.Profiles, j.instance.Options)
	if err != nil {
		return solver.Explanation{}, err
	}
	if j.total > 0 {
		return w.ExplainTotal(ctx, m, &j.instance.Workload, &s.choice)
	}
	return w.ExplainSplit(ctx, m, &j.instance.Workload, &s.choice)
}

// setOrder restricts the job to an order.
func (j *job) setOrder(order plan.Order) {
	if j.raw != nil {
		j.raw.Order = order
	}
	j.instance.Options.Order = order
}

// loadJob reads and checks FILE; every error is the user's input.
func loadJob(path string, stdin io.Reader) (*job, error) {
	if path == "" {
		return nil, usageError{errMissingFile}
	}
	data, dir, err := readProblem(path, stdin)
	if err != nil {
		return nil, usageError{err}
	}
	j, err := parseJob(data, dir)
	if err != nil {
		return nil, usageError{fmt.Errorf("%s: %w", path, err)}
	}
	return j, nil
}

var errMissingFile = errors.New("--file is required: a problem as YAML or JSON")
