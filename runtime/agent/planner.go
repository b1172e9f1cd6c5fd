// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"log/slog"
	"sync"

	"github.com/findep/findep-operator/runtime/model"
	"github.com/findep/findep-operator/runtime/plan"
	"github.com/findep/findep-operator/runtime/solver"
)

// maxMemo bounds the remembered plans; beyond it they are forgotten.
const maxMemo = 4096

// choice is a plan for one step with its predicted makespan in milliseconds,
// 0 if nothing was measured yet.
type choice struct {
	plan      plan.Plan
	predicted float64
	// modelled is the prediction before the pace of recent steps was applied.
	modelled float64
	// exposed is the part of it that would be saved if transfers took no time.
	exposed float64
	// timed asks for the times of tasks.
	timed bool
}

// planned is a batch and the plan that it ran under.
type planned struct {
	shape batchShape
	plan  plan.Plan
}

// planner chooses the plan of each step: it makes a stage-form problem from
// the batch and the measured stages and has it solved, once per shape.
type planner struct {
	model   *model.Shape
	log     *slog.Logger
	metrics *metrics

	mu     sync.Mutex
	stages stageModels // nil until measured
	memo   map[shapeKey]plan.Plan
	fixed  map[phase]plan.Plan // with resolve AtStart
	memoOf *plan.Instance      // the configuration the memo was made for
	solves map[phase]uint64
	// last is the last step of each phase.
	last    map[phase]planned
	learner learner
}

// hysteresis is the predicted gain below which the plan of the step before is
// kept: a change costs buffers and caches, and predictions are not that exact.
const hysteresis = 0.03

func newPlanner(m *model.Shape, log *slog.Logger, metrics *metrics) *planner {
	return &planner{model: m, log: log, metrics: metrics, solves: map[phase]uint64{}, last: map[phase]planned{}, learner: newLearner()}
}

// start takes the warm-up's points as the first thing predictions rest on.
func (p *planner) start(points []point, in *plan.Instance) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.learner.base = points
	p.fit(in)
}

func (p *planner) measured() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.stages != nil
}

func (p *planner) describe() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stages == nil {
		return "not measured"
	}
	return p.stages.String()
}

// choose returns the plan for a batch under the given configuration.
func (p *planner) choose(shape batchShape, in *plan.Instance) choice {
	if shape.samples == 0 {
		return choice{plan: whole(shape, in)}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.memoOf != in {
		p.memo, p.fixed, p.memoOf = map[shapeKey]plan.Plan{}, map[phase]plan.Plan{}, in
	}
	chosen, ok := p.remembered(shape, in)
	if !ok {
		chosen = p.solve(shape, in)
		if len(p.memo) >= maxMemo {
			clear(p.memo)
		}
		p.memo[shape.key()], p.fixed[shape.phase()] = chosen, chosen
	}
	c := choice{plan: chosen}
	if p.stages != nil {
		c = p.settle(p.evaluate(shape, chosen, in), shape, in)
	}
	p.last[shape.phase()] = planned{shape, c.plan}
	return c
}

// evaluate predicts what a plan does on the measured stages.
func (p *planner) evaluate(shape batchShape, chosen plan.Plan, in *plan.Instance) choice {
	c := choice{plan: chosen}
	at := classOf(shape, chosen)
	s, pace := p.stages[at], p.learner.pace(at)
	if r, err := solver.Predict(s.problem(shape, p.model, in), chosen); err == nil {
		c.modelled = s.resistance()*r.MakespanMilliseconds + s.overhead
		c.predicted = pace * c.modelled
		c.exposed = pace * s.resistance() * r.ExposedCommunicationMilliseconds
	}
	return c
}

// settle stays with the plan of the step before unless the new one is better by
// more than the hysteresis. The old plan must be allowed still, and suit the batch:
// as many micro-batches as it fills. Traffic of another kind takes the plan that is
// solved for it: a change made once cannot flap, and predictions of a plan on very
// different work are less exact than the hysteresis.
func (p *planner) settle(c choice, shape batchShape, in *plan.Instance) choice {
	last, ok := p.last[shape.phase()]
	before := last.plan
	if !ok || before == c.plan || !shape.alike(last.shape) || in.Schedule.Fixed != nil || before.Policy != in.Schedule.Policy ||
		(in.Schedule.Order != plan.OrderAuto && before.Order != in.Schedule.Order) ||
		(in.Schedule.Chunks != "Auto" && before.Chunks > 1) {
		return c
	}
	if most := before.R1 * before.MicroBatchSize; most < shape.largest || most-before.MicroBatchSize >= shape.largest {
		return c
	}
	kept := p.evaluate(shape, before, in)
	if kept.predicted > 0 && kept.predicted*(1-hysteresis) <= c.predicted {
		return kept
	}
	return c
}

func (p *planner) remembered(shape batchShape, in *plan.Instance) (plan.Plan, bool) {
	if in.Schedule.Fixed != nil {
		return *in.Schedule.Fixed, true
	}
	if in.Schedule.Resolve == "AtStart" {
		if first, ok := p.fixed[shape.phase()]; ok {
			return first, true
		}
	}
	chosen, ok := p.memo[shape.key()]
	return chosen, ok
}

// whole runs the batch without cutting it, which is always possible.
func whole(shape batchShape, in *plan.Instance) plan.Plan {
	return plan.Plan{Policy: in.Schedule.Policy, MicroBatchSize: max(1, shape.largest), R1: 1, R2: 1, Order: plan.ASAS, Chunks: 1}
}

// solve falls back to the whole batch where the solver has no answer.
func (p *planner) solve(shape batchShape, in *plan.Instance) plan.Plan {
	if p.stages == nil {
		return whole(shape, in)
	}
	p.solves[shape.phase()]++
	p.metrics.solves.Inc()
	stages := p.stages[class{shape.phase(), in.Schedule.Policy != plan.Sequential}]
	r, err := solver.Solve(stages.problem(shape, p.model, in), in.Schedule.Policy)
	if err != nil || r.Plan.Validate() != nil {
		p.log.Warn("no plan from the solver; running the batch whole", "samples", shape.samples, "tokens", shape.tokens, "reason", err)
		return whole(shape, in)
	}
	return r.Plan
}

// solvesOf counts the solver's runs for a phase.
func (p *planner) solvesOf(ph phase) uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.solves[ph]
}
