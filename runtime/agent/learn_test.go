// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/findep/findep-operator/runtime/agent/agentpb"
	"github.com/findep/findep-operator/runtime/executor"
	"github.com/findep/findep-operator/runtime/plan"
	"github.com/findep/findep-operator/runtime/schedule"
)

func warmUpShapes() []batchShape {
	return []batchShape{prompts(1, 1), prompts(1, 16), prompts(1, 64), prompts(1, 256), prompts(4, 16), prompts(4, 64), decodes(4, 64), decodes(16, 64)}
}

// decodes is n sequences per rank that each extend a context.
func decodes(n, context int) batchShape {
	return batchShape{samples: 2 * n, largest: n, tokens: 2 * n, pairs: 2 * n * (context + 1)}
}

// outcomes are what ranks report on a machine that is exactly the model.
func (s *stageModel) outcomes(shape batchShape, p plan.Plan) []*agentpb.RankOutcome {
	w := newPoint(shape, p, 2, nil, 0)
	line := func(c [2]float64, x float64) float64 { return c[0] + c[1]*x }
	per := map[executor.Kind]float64{
		executor.Kind(schedule.Attention): s.attention[0] + s.attention[1]*w.tokens + s.attention[2]*w.pairs,
		executor.Kind(schedule.Shared):    line(s.shared, w.tokens),
		executor.Kind(schedule.A2E):       line(s.a2e, w.segment),
		executor.Kind(schedule.Expert):    line(s.expert, w.segment),
		executor.Kind(schedule.E2A):       line(s.e2a, w.segment),
		executor.Dense:                    s.outside[0] + s.outside[1]*w.tokens,
		executor.Head:                     s.outside[2] * w.samples,
	}
	o := &agentpb.RankOutcome{}
	for kind, milliseconds := range per {
		o.Durations = append(o.Durations, &agentpb.KindDuration{Kind: kind.String(), Tasks: 10, Milliseconds: 10 * milliseconds})
	}
	return []*agentpb.RankOutcome{o}
}

// point is a step on such a machine.
func (s *stageModel) point(shape batchShape, p plan.Plan) point {
	return newPoint(shape, p, 2, s.outcomes(shape, p), 0)
}

// world runs steps of a planner on a machine given as a stage model.
type world struct {
	planner *planner
	in      *plan.Instance
	machine *stageModel
	random  *rand.Rand
}

func newWorld(t *testing.T) *world {
	t.Helper()
	p, in := testPlanner(t)
	w := &world{planner: p, in: in, machine: linkBound(), random: rand.New(rand.NewPCG(5, 6))}
	var points []point
	for _, shape := range warmUpShapes() {
		sequential := plan.Plan{Policy: plan.Sequential, MicroBatchSize: shape.largest, R1: 1, R2: 1, Order: plan.ASAS, Chunks: 1}
		pt := w.machine.point(shape, sequential)
		pt.measured = p.predict(w.machine, shape, sequential, in)
		points = append(points, pt)
	}
	p.start(points, in)
	return w
}

// step plans and executes; noise is the relative spread of what is measured.
// It returns the choice and the relative error of its prediction.
func (w *world) step(shape batchShape, noise float64) (choice, float64) {
	c := w.planner.choose(shape, w.in)
	factor := 1 + noise*(2*w.random.Float64()-1)
	measured := factor * w.planner.predict(w.machine, shape, c.plan, w.in)
	w.planner.learn(shape, c, w.in, w.machine.outcomes(shape, c.plan), time.Duration(measured*float64(time.Millisecond)))
	return c, math.Abs(measured-c.predicted) / measured
}

func TestPredictionsFollowAMachineThatChanges(t *testing.T) {
	w := newWorld(t)
	if _, off := w.step(prompts(4, 128), 0); off > 0.02 {
		t.Fatalf("the first prediction is off by %.0f %%", 100*off)
	}
	// The links become three times slower.
	w.machine.a2e[1] *= 3
	w.machine.e2a[1] *= 3
	wrong := 0
	for range 400 {
		if _, off := w.step(prompts(4, 128), 0); off > tolerated {
			wrong++
		}
	}
	_, off := w.step(prompts(4, 128), 0)
	if off > 0.1 || w.planner.learner.refits == 0 || wrong > 200 {
		t.Errorf("after the change %d steps were predicted wrong, the last by %.0f %%; %d refits", wrong, 100*off, w.planner.learner.refits)
	}
}

// TestPaceIsFollowed: a machine that becomes a tenth slower is within what a new
// fit tolerates, and predicted right after two steps all the same; one step that
// took far too long changes nothing.
func TestPaceIsFollowed(t *testing.T) {
	w := newWorld(t)
	shape := prompts(4, 128)
	w.step(shape, 0)
	c := w.planner.choose(shape, w.in)
	slow := time.Duration(1.1 * c.modelled * float64(time.Millisecond))
	for _, took := range []time.Duration{slow, slow, slow, 20 * slow} {
		c = w.planner.choose(shape, w.in)
		w.planner.learn(shape, c, w.in, w.machine.outcomes(shape, c.plan), took)
	}
	c = w.planner.choose(shape, w.in)
	if off := c.predicted/(1.1*c.modelled) - 1; math.Abs(off) > 0.01 || w.planner.learner.refits != 0 {
		t.Errorf("the prediction is off by %.1f %%, %d refits", 100*off, w.planner.learner.refits)
	}
	other := w.planner.evaluate(shape, sequential(workload{sequences: 4}), w.in)
	if other.predicted != other.modelled {
		t.Errorf("steps without overlap are predicted %.2f times the model, though none was run", other.predicted/other.modelled)
	}
}

// TestOutliersDoNotMislead: one step in ten takes ten times as long.
func TestOutliersDoNotMislead(t *testing.T) {
	w := newWorld(t)
	w.machine.attention[1] *= 2
	for i := range 300 {
		shape := prompts(4, 128)
		c := w.planner.choose(shape, w.in)
		measured := w.planner.predict(w.machine, shape, c.plan, w.in)
		outcomes := w.machine.outcomes(shape, c.plan)
		if i%10 == 0 {
			measured *= 10
			for _, d := range outcomes[0].Durations {
				d.Milliseconds *= 10
			}
		}
		w.planner.learn(shape, c, w.in, outcomes, time.Duration(measured*float64(time.Millisecond)))
	}
	shape := prompts(4, 128)
	c := w.planner.choose(shape, w.in)
	if true0 := w.planner.predict(w.machine, shape, c.plan, w.in); math.Abs(c.predicted-true0) > 0.1*true0 {
		t.Errorf("predicted %.1f ms, the machine takes %.1f", c.predicted, true0)
	}
}

// TestNoiseDoesNotMakePlansFlap: a hundred steps of nearly one shape.
func TestNoiseDoesNotMakePlansFlap(t *testing.T) {
	w := newWorld(t)
	var before plan.Plan
	changes := 0
	for i := range 100 {
		c, _ := w.step(prompts(6, 200+w.random.IntN(40)), 0.1)
		if i > 0 && c.plan != before {
			changes++
		}
		before = c.plan
	}
	if changes > 1 {
		t.Errorf("the plan changed %d times", changes)
	}
}

// TestPlanFollowsTheTraffic: short prompts, long prompts, decode; each first
// step is within 3 % of the plan solved for that traffic alone.
func TestPlanFollowsTheTraffic(t *testing.T) {
	w := newWorld(t)
	for range 3 {
		for name, shape := range map[string]batchShape{"short": prompts(8, 32), "long": prompts(2, 2048), "decode": decodes(32, 512)} {
			c, _ := w.step(shape, 0)
			alone := newWorld(t)
			best, _ := alone.step(shape, 0)
			if took, least := w.planner.predict(w.machine, shape, c.plan, w.in), w.planner.predict(w.machine, shape, best.plan, w.in); took > least/0.97*1.0001 {
				t.Errorf("%s: %s takes %.2f ms, %s would take %.2f", name, c.plan, took, best.plan, least)
			}
		}
	}
}

// TestPlannerLeavesAPlanThatIsMuchWorse: hysteresis must not hold on for ever.
func TestPlannerLeavesAPlanThatIsMuchWorse(t *testing.T) {
	w := newWorld(t)
	shape := prompts(8, 256)
	uncut := whole(shape, w.in)
	w.planner.last[prefill] = planned{shape, uncut}
	c, _ := w.step(shape, 0)
	slow, fast := w.planner.predict(w.machine, shape, uncut, w.in), w.planner.predict(w.machine, shape, c.plan, w.in)
	if c.plan == uncut || fast > 0.97*slow {
		t.Errorf("chose %s (%.1f ms) over %s (%.1f ms)", c.plan, fast, uncut, slow)
	}
}

// TestHysteresisIsThreePercent pins the margin from both sides.
func TestHysteresisIsThreePercent(t *testing.T) {
	w := newWorld(t)
	shape := prompts(8, 256)
	before := whole(shape, w.in)
	w.planner.last[prefill] = planned{shape, before}
	kept := w.planner.evaluate(shape, before, w.in)
	other := before
	other.R2 = 2
	for gain, want := range map[float64]plan.Plan{0.02: before, 0.04: other} {
		c := choice{plan: other, predicted: kept.predicted * (1 - gain)}
		if got := w.planner.settle(c, shape, w.in); got.plan != want {
			t.Errorf("a gain of %.0f %% led to %s, want %s", 100*gain, got.plan, want)
		}
	}
}

// TestOtherTrafficTakesItsOwnPlan: the hysteresis is between steps of one kind of
// traffic, up to twice the samples or tokens.
func TestOtherTrafficTakesItsOwnPlan(t *testing.T) {
	w := newWorld(t)
	shape := prompts(8, 256)
	best := w.planner.choose(shape, w.in)
	before := best.plan
	before.R2 = 2
	if before == best.plan {
		before.R2 = 3
	}
	slower := w.planner.evaluate(shape, before, w.in)
	best.predicted = slower.predicted * 0.98
	for name, tc := range map[string]struct {
		last batchShape
		want plan.Plan
	}{
		"the same": {shape, before}, "half the tokens": {prompts(8, 128), before}, "twice the samples": {prompts(16, 256), before},
		"fewer tokens": {prompts(8, 120), best.plan}, "more samples": {prompts(17, 256), best.plan}, "one long prompt": {prompts(1, 2048), best.plan},
	} {
		w.planner.last[prefill] = planned{tc.last, before}
		if got := w.planner.settle(best, shape, w.in); got.plan != tc.want {
			t.Errorf("after %s: %s, want %s", name, got.plan, tc.want)
		}
	}
}

// TestOverlapIsLearnedApart: on a machine where tasks take longer while others
// run, steps with and without overlap are both predicted right.
func TestOverlapIsLearnedApart(t *testing.T) {
	p, in := testPlanner(t)
	alone, disturbed := linkBound(), linkBound()
	disturbed.attention[1] *= 1.3
	disturbed.expert[0] *= 3
	disturbed.friction = 1.1
	machine := func(pl plan.Plan, shape batchShape) *stageModel {
		if classOf(shape, pl).overlapped {
			return disturbed
		}
		return alone
	}
	cut := func(shape batchShape, r1, r2 int) plan.Plan {
		return plan.Plan{Policy: plan.FinDEP, MicroBatchSize: shape.largest / r1, R1: r1, R2: r2, Order: plan.ASAS, Chunks: 1}
	}
	var points []point
	add := func(shape batchShape, pl plan.Plan) {
		pt := machine(pl, shape).point(shape, pl)
		pt.measured = p.predict(machine(pl, shape), shape, pl, in)
		points = append(points, pt)
	}
	for _, shape := range warmUpShapes() {
		add(shape, sequential(workload{sequences: shape.largest}))
	}
	for _, shape := range []batchShape{prompts(4, 64), prompts(4, 256)} {
		add(shape, cut(shape, 1, 4))
		add(shape, cut(shape, 2, 2))
		add(shape, cut(shape, 4, 1))
	}
	p.start(points, in)
	shape := prompts(4, 128)
	for _, pl := range []plan.Plan{sequential(workload{sequences: 4}), cut(shape, 1, 1), cut(shape, 2, 3), cut(shape, 4, 2)} {
		want := p.predict(machine(pl, shape), shape, pl, in)
		if got := p.evaluate(shape, pl, in).predicted; math.Abs(got-want) > 0.02*want {
			t.Errorf("%s: predicted %.1f ms, the machine takes %.1f", pl, got, want)
		}
	}
}

// TestMergedIsTheMedianOfLikeSteps: three steps of one plan, one of another.
func TestMergedIsTheMedianOfLikeSteps(t *testing.T) {
	shape := prompts(2, 64)
	a := sequential(workload{sequences: 2})
	b := a
	b.Policy, b.R2 = plan.FinDEP, 2
	var recent []point
	for _, step := range []struct {
		plan     plan.Plan
		measured float64
	}{{a, 5}, {b, 2}, {a, 700}, {a, 6}} {
		recent = append(recent, point{shape: shape, plan: step.plan, measured: step.measured})
	}
	got := merged(recent)
	if len(got) != 2 || got[0].measured != 6 || got[0].steps != 3 || got[1].measured != 2 || got[1].steps != 1 {
		t.Errorf("merged to %+v", got)
	}
}
