// SPDX-License-Identifier: Apache-2.0

package solver

import (
	"context"
	"fmt"

	"github.com/findep/findep-operator/runtime/plan"
)

// Limit says what keeps the batch from growing.
type Limit string

// The binding limits.
const (
	LimitBatch           Limit = "Batch"
	LimitAttentionMemory Limit = "AttentionMemory"
	LimitExpertMemory    Limit = "ExpertMemory"
	LimitSamplesInFlight Limit = "SamplesInFlight"
	LimitMicroBatch      Limit = "MaxMicroBatch"
	LimitPipelineDegree  Limit = "MaxPipelineDegree"
	LimitMakespan        Limit = "Makespan"
)

// Result is the best plan and what it is predicted to do.
type Result struct {
	// Plan is the choice. When Infeasible is set for latency, it is the fastest
	// plan; for other reasons it is zero.
	plan.Plan
	// MakespanMilliseconds is one forward pass, pipeline and outside: the time
	// to first token (without queueing) in prefill, the time per output token
	// in decode.
	MakespanMilliseconds float64 `json:"makespanMilliseconds"`
	// OutsideMilliseconds is the part of it that dense layers, output head and
	// other work outside the pipeline add.
	OutsideMilliseconds float64 `json:"outsideMilliseconds"`
	TokensPerSecond     float64 `json:"tokensPerSecond"`
	// LayerPeriodMilliseconds is the steady-state time per layer.
	LayerPeriodMilliseconds float64 `json:"layerPeriodMilliseconds"`
	Regime                  Regime  `json:"regime,omitempty"`
	// Limit is what keeps the batch from growing.
	Limit Limit `json:"limit,omitempty"`
	// TokensPerExpert is m_e, the mean tokens per expert and segment.
	TokensPerExpert float64 `json:"tokensPerExpert"`
	// Times are the durations of one task of each kind; where tasks of a kind
	// differ, their means.
	Times Times `json:"times"`
	// Shares are the busy parts of the pipeline's makespan.
	Shares Shares `json:"shares"`
	// ExposedCommunicationMilliseconds is the makespan less that with links
	// that take no time, same plan.
	ExposedCommunicationMilliseconds float64 `json:"exposedCommunicationMilliseconds"`
	// Candidates counts evaluated plans, FrontierPoints the pairs (m_a, r1)
	// they come from.
	Candidates     int `json:"candidates"`
	FrontierPoints int `json:"frontierPoints"`
	// SearchCut tells that the problem is outside the closed forms and so large
	// that the search had to be cut short; Gap is then the part by which a
	// better plan could be faster at most, for example 0.02. Otherwise the plan
	// is proved to be the best, and Gap is 0.
	SearchCut bool    `json:"searchCut,omitempty"`
	Gap       float64 `json:"gap,omitempty"`
	// Infeasible is nil when the plan meets all limits.
	Infeasible *Infeasible `json:"infeasible,omitempty"`
}

// Shares are busy parts of the makespan, between 0 and 1.
type Shares struct {
	Attention float64 `json:"attention"`
	A2E       float64 `json:"a2e"`
	Expert    float64 `json:"expert"`
	E2A       float64 `json:"e2a"`
}

// Solver solves problems one after the other and reuses its memory, so that it
// does not allocate in the steady state. The zero value is ready. It must not
// be used from several goroutines at once.
type Solver struct{ timeline timeline }

// Solve returns the best plan of a policy. For FinDEP that is Algorithm 1 of
// arXiv 2512.21487 with exact makespans; PPPipe and Sequential get their own
// best plan, so that comparisons are fair. The error is a FieldError for an
// invalid problem, names an unknown policy, or is the context's.
func (w *Solver) Solve(ctx context.Context, p *Problem, policy plan.Policy) (Result, error) {
	if err := p.Validate(); err != nil {
		return Result{}, err
	}
	return w.within(ctx, maxSteps, p, policy)
}

// within is Solve of a valid problem with a bound on the work.
func (w *Solver) within(ctx context.Context, steps int, p *Problem, policy plan.Policy) (Result, error) {
	switch policy {
	case plan.FinDEP, plan.PPPipe, plan.Sequential:
	default:
		return Result{}, fmt.Errorf("policy %q is unknown; use FinDEP, PPPipe or Sequential", string(policy))
	}
	s := newSearch(ctx, p, policy, &w.timeline)
	s.allowance = steps
	switch {
	case p.Batch > 0:
		s.fixedBatch()
	case s.monotone:
		s.frontier()
	default:
		s.everyMicroBatch()
	}
	if p.Limits.UnequalChunks && s.best.r1 > 0 {
		s.refineChunks()
	}
	if err := s.ctx.Err(); err != nil {
		return Result{}, fmt.Errorf("solve: %w", err)
	}
	return s.result(), nil
}

// Solve is Solver.Solve with a fresh solver and no cancellation.
func Solve(p *Problem, policy plan.Policy) (Result, error) {
	var w Solver
	return w.Solve(context.Background(), p, policy)
}
