// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"math"
	"time"

	"github.com/findep/findep-operator/runtime/agent/agentpb"
	"github.com/findep/findep-operator/runtime/plan"
	"github.com/findep/findep-operator/runtime/solver"
)

// What makes the planner doubt its stage model, and what it then learns from.
const (
	// tolerated is the relative error of a predicted makespan that is let pass.
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
	refits uint64
}

func newLearner() learner { return learner{off: map[phase]int{}} }

// learn takes in an executed step, and fits the stages again once predictions
// have been wrong for long enough. It reports whether it did.
func (p *planner) learn(shape batchShape, c choice, in *plan.Instance, outcomes []*agentpb.RankOutcome, elapsed time.Duration) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stages == nil || c.predicted <= 0 {
		return false
	}
	l := &p.learner
	if len(l.recent) == window {
		l.recent = l.recent[1:]
	}
	step := newPoint(shape, c.plan, in.AttentionRanks, outcomes, elapsed)
	l.recent = append(l.recent, step)
	if math.Abs(step.measured-c.predicted) <= tolerated*step.measured {
		l.off[shape.phase()] = 0
		return false
	}
	l.off[shape.phase()]++
	if l.off[shape.phase()] < doubtful {
		return false
	}
	clear(l.off)
	l.refits++
	p.metrics.refits.Inc()
	p.fit(in)
	p.log.Info("predictions were off by more than 15 %; stages fitted again", "refits", l.refits, "stages", p.stages.String())
	return true
}

// fit replaces the stage model by the best fit of warm-up and recent steps. A
// step that took far too long (a preempted process, a lost packet) weighs
// little, because points count by their relative error and the overhead is a
// median. The caller holds mu.
func (p *planner) fit(in *plan.Instance) {
	points := append(append([]point{}, p.learner.base...), p.learner.recent...)
	s := fitStages(points)
	s.overhead = p.fitOverhead(s, points, in)
	p.stages, p.memoOf = s, nil
}

// predict is the makespan of a step in milliseconds, 0 where there is none.
func (p *planner) predict(s *stageModel, shape batchShape, chosen plan.Plan, in *plan.Instance) float64 {
	r, err := solver.Predict(s.problem(shape, p.model, in), chosen)
	if err != nil {
		return 0
	}
	return r.MakespanMilliseconds + s.overhead
}

// fitOverhead is the median of what a step takes beyond its tasks.
func (p *planner) fitOverhead(s *stageModel, points []point, in *plan.Instance) float64 {
	over := make([]float64, 0, len(points))
	for _, pt := range points {
		over = append(over, math.Max(0, pt.measured-p.predict(s, pt.shape, pt.plan, in)))
	}
	return median(over)
}
