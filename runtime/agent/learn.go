// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"math"
	"slices"
	"time"

	"github.com/findep/findep-operator/runtime/agent/agentpb"
	"github.com/findep/findep-operator/runtime/plan"
	"github.com/findep/findep-operator/runtime/solver"
)

// What makes the planner doubt its stage model, and what it then learns from.
const (
	// tolerated is the relative error of a modelled makespan that is let pass.
	tolerated = 0.15
	// doubtful is the number of steps of one phase in a row whose error is
	// larger, after which the stages are fitted again.
	doubtful = 16
	// window is the number of recent steps that a fit uses beside the warm-up.
	window = 128
)

// learner keeps what the stage model is fitted to. The warm-up's points stay:
// live traffic may have one shape only, and a line needs more.
type learner struct {
	base   []point
	recent []point
	off    map[phase]int
	paces  map[class][]float64
	refits uint64
}

func newLearner() learner { return learner{off: map[phase]int{}, paces: map[class][]float64{}} }

// pacing is the number of recent steps of one class whose pace is followed.
const pacing = 15

// pace is what the class's recent steps took relative to the stage models: the
// median, so that a single disturbed step says nothing. A machine whose cores
// or links change speed, or a warm-up that was disturbed, shifts every step
// alike; that is followed from step to step, while a new fit waits until
// errors have lasted. It starts as if one step had been predicted right.
func (l *learner) pace(c class) float64 {
	return min(max(median(append([]float64{1}, l.paces[c]...)), 1/mostFriction), mostFriction)
}

// follow takes in the ratio of a step to its model.
func (l *learner) follow(c class, ratio float64) {
	recent := l.paces[c]
	if len(recent) == pacing {
		recent = recent[1:]
	}
	l.paces[c] = append(recent, ratio)
}

// learn takes in an executed step, and fits the stages again once predictions
// have been wrong for long enough. It reports whether it did.
func (p *planner) learn(shape batchShape, c choice, in *plan.Instance, outcomes []*agentpb.RankOutcome, elapsed time.Duration) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stages == nil || c.modelled <= 0 {
		return false
	}
	l := &p.learner
	if len(l.recent) == window {
		l.recent = l.recent[1:]
	}
	step := newPoint(shape, c.plan, in.AttentionRanks, outcomes, elapsed)
	l.recent = append(l.recent, step)
	l.follow(classOf(shape, c.plan), step.measured/c.modelled)
	if math.Abs(step.measured-c.modelled) <= tolerated*step.measured {
		l.off[shape.phase()] = 0
		return false
	}
	l.off[shape.phase()]++
	if l.off[shape.phase()] < doubtful {
		return false
	}
	clear(l.off)
	clear(l.paces)
	l.refits++
	p.metrics.refits.Inc()
	p.fit(in)
	p.log.Info("predictions were off by more than 15 %; stages fitted again", "refits", l.refits, "stages", p.stages.String())
	return true
}

// doubts tells whether a recent prediction was off, or nothing predicts yet: then
// the times of tasks may soon be fitted to.
func (p *planner) doubts() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stages == nil {
		return true
	}
	for _, n := range p.learner.off {
		if n > 0 {
			return true
		}
	}
	return false
}

// fit replaces the stage models by the best fit of warm-up and recent steps.
// The caller holds mu.
func (p *planner) fit(in *plan.Instance) {
	points := append(append([]point{}, p.learner.base...), merged(p.learner.recent)...)
	models := stageModels{}
	for _, c := range classes {
		own := ofClass(points, c)
		s := fitStages(own)
		if c.overlapped {
			s.overhead = models[class{c.phase, false}].overhead
			s.friction = p.fitFriction(s, own, in)
		} else {
			s.overhead = p.fitOverhead(s, own, in)
		}
		models[c] = s
	}
	p.stages, p.memoOf = models, nil
}

// merged takes the median of the steps of one plan and nearly one shape. A step
// that took far too long (a preempted process, a lost packet) is then no point
// of its own.
func merged(recent []point) []point {
	type alike struct {
		plan  plan.Plan
		shape shapeKey
	}
	groups := map[alike][]point{}
	var order []alike
	for _, pt := range recent {
		k := alike{pt.plan, pt.shape.key()}
		if groups[k] == nil {
			order = append(order, k)
		}
		groups[k] = append(groups[k], pt)
	}
	points := make([]point, 0, len(order))
	for _, k := range order {
		points = append(points, medians(groups[k]))
	}
	return points
}

// fewest is the number of points that make a fit: a line through fewer says
// nothing about steps of another size.
const fewest = 3

// ofClass are the points that a class is fitted to: its own, or where they are
// too few those of its phase, or all.
func ofClass(points []point, c class) []point {
	var own, ofPhase []point
	for _, pt := range points {
		at := classOf(pt.shape, pt.plan)
		if at == c {
			own = append(own, pt)
		}
		if at.phase == c.phase {
			ofPhase = append(ofPhase, pt)
		}
	}
	switch {
	case len(own) >= fewest:
		return own
	case len(ofPhase) >= fewest:
		return ofPhase
	}
	return points
}

// predict is the makespan of a step in milliseconds, 0 where there is none.
func (p *planner) predict(s *stageModel, shape batchShape, chosen plan.Plan, in *plan.Instance) float64 {
	r, err := solver.Predict(s.problem(shape, p.model, in), chosen)
	if err != nil {
		return 0
	}
	return s.resistance()*r.MakespanMilliseconds + s.overhead
}

// fitOverhead is the median of what a step takes beyond its tasks.
func (p *planner) fitOverhead(s *stageModel, points []point, in *plan.Instance) float64 {
	var over []float64
	for _, pt := range points {
		over = append(over, slices.Repeat([]float64{pt.measured - p.predict(s, pt.shape, pt.plan, in)}, max(1, pt.steps))...)
	}
	return math.Max(0, median(over))
}

// mostFriction bounds the friction; beyond it the stages themselves are wrong.
const mostFriction = 2

// fitFriction is the median ratio of what steps take to their pipeline.
func (p *planner) fitFriction(s *stageModel, points []point, in *plan.Instance) float64 {
	var ratios []float64
	for _, pt := range points {
		if pipeline := p.predict(s, pt.shape, pt.plan, in) - s.overhead; pipeline > 0 && pt.measured > s.overhead {
			ratios = append(ratios, slices.Repeat([]float64{(pt.measured - s.overhead) / pipeline}, max(1, pt.steps))...)
		}
	}
	if len(ratios) == 0 {
		return 1
	}
	return min(max(median(ratios), 1/mostFriction), mostFriction)
}
