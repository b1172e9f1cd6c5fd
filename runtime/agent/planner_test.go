// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"log/slog"
	"os"
	"testing"

	"github.com/findep/findep-operator/runtime/model"
	"github.com/findep/findep-operator/runtime/plan"
)

// linkBound is a machine where transfer and experts take as long as attention,
// so that pipelining pays.
func linkBound() *stageModel {
	return &stageModel{
		attention: [3]float64{0.05, 0.01, 0}, shared: [2]float64{0.02, 0.004},
		a2e: [2]float64{0.02, 0.01}, expert: [2]float64{0.02, 0.01}, e2a: [2]float64{0.02, 0.01}, overhead: 1,
	}
}

// everywhere is one model for all classes.
func everywhere(s *stageModel) stageModels {
	m := stageModels{}
	for _, c := range classes {
		m[c] = s
	}
	return m
}

func testPlanner(t *testing.T) (*planner, *plan.Instance) {
	t.Helper()
	shape, err := model.ByName("deepseek-ai/DeepSeek-V2-Lite")
	if err != nil {
		t.Fatal(err)
	}
	p := newPlanner(shape, slog.New(slog.NewTextHandler(os.Stderr, nil)), newMetrics(0, func() rankStatus { return rankStatus{} }))
	p.stages = everywhere(linkBound())
	return p, &plan.Instance{AttentionRanks: 2, ExpertRanks: 2, Schedule: plan.Schedule{Policy: plan.FinDEP, Order: plan.OrderAuto, Chunks: "Off", Resolve: "Online"}}
}

func prompts(n, tokens int) batchShape {
	return batchShape{samples: 2 * n, largest: n, tokens: 2 * n * tokens, pairs: n * tokens * (tokens + 1)}
}

func TestPlannerFollowsThePolicy(t *testing.T) {
	p, in := testPlanner(t)
	predicted := map[plan.Policy]float64{}
	for _, policy := range []plan.Policy{plan.FinDEP, plan.PPPipe, plan.Sequential} {
		changed := *in
		changed.Schedule.Policy = policy
		c := p.choose(prompts(4, 256), &changed)
		if c.plan.Policy != policy {
			t.Errorf("policy %s was asked for, the plan is %s", policy, c.plan)
		}
		if err := c.plan.Validate(); err != nil {
			t.Error(err)
		}
		predicted[policy] = c.predicted
	}
	if !(predicted[plan.FinDEP] < predicted[plan.PPPipe] && predicted[plan.PPPipe] < predicted[plan.Sequential]) {
		t.Errorf("predicted %v: the pipelines should win here", predicted)
	}
}

func TestPlannerSolvesOncePerShape(t *testing.T) {
	p, in := testPlanner(t)
	first := p.choose(prompts(4, 256), in)
	p.choose(prompts(4, 257), in)
	if again := p.choose(prompts(4, 256), in); again != first {
		t.Errorf("the same batch got %v, then %v", first, again)
	}
	if got := p.solvesOf(prefill); got != 1 {
		t.Errorf("%d solves for two batches of nearly one shape", got)
	}
	p.choose(prompts(8, 256), in)
	if got := p.solvesOf(prefill); got != 2 {
		t.Errorf("%d solves after the batch doubled", got)
	}
	changed := *in
	p.choose(prompts(8, 256), &changed)
	if got := p.solvesOf(prefill); got != 3 {
		t.Errorf("%d solves after the configuration was replaced", got)
	}
}

func TestPlannerHonoursFixedAndAtStart(t *testing.T) {
	p, in := testPlanner(t)
	fixed := plan.Plan{Policy: plan.FinDEP, MicroBatchSize: 1, R1: 3, R2: 5, Order: plan.AASS, Chunks: 1}
	in.Schedule.Fixed = &fixed
	if c := p.choose(prompts(8, 64), in); c.plan != fixed || c.predicted <= 0 {
		t.Errorf("the fixed plan became %+v", c)
	}
	atStart := *in
	atStart.Schedule.Fixed, atStart.Schedule.Resolve = nil, "AtStart"
	first := p.choose(prompts(1, 64), &atStart)
	if c := p.choose(prompts(16, 1024), &atStart); c.plan != first.plan {
		t.Errorf("resolve AtStart changed the plan from %s to %s", first.plan, c.plan)
	}
}

// TestPlannerCutsALongPrompt: with one prompt in flight only causal chunks keep
// both groups busy.
func TestPlannerCutsALongPrompt(t *testing.T) {
	p, in := testPlanner(t)
	off := p.choose(prompts(1, 2048), in)
	auto := *in
	auto.Schedule.Chunks = "Auto"
	on := p.choose(prompts(1, 2048), &auto)
	if off.plan.Chunks != 1 || on.plan.Chunks < 2 || on.predicted > 0.9*off.predicted {
		t.Errorf("without chunks %s takes %.1f ms, with chunks %s takes %.1f", off.plan, off.predicted, on.plan, on.predicted)
	}
	if c := p.choose(decodes(8, 512), &auto); c.plan.Chunks != 1 {
		t.Errorf("decode was cut into chunks: %s", c.plan)
	}
}

// TestPlannerForgetsChunksThatAreOff: however good the plan before was.
func TestPlannerForgetsChunksThatAreOff(t *testing.T) {
	p, in := testPlanner(t)
	auto := *in
	auto.Schedule.Chunks = "Auto"
	if c := p.choose(prompts(1, 2048), &auto); c.plan.Chunks < 2 {
		t.Fatalf("%s has no chunks", c.plan)
	}
	if c := p.choose(prompts(1, 2048), in); c.plan.Chunks != 1 {
		t.Errorf("chunks are off, the plan is %s", c.plan)
	}
}

func TestPlannerRunsWholeBatchesUntilMeasured(t *testing.T) {
	p, in := testPlanner(t)
	p.stages = nil
	c := p.choose(prompts(4, 16), in)
	want := plan.Plan{Policy: plan.FinDEP, MicroBatchSize: 4, R1: 1, R2: 1, Order: plan.ASAS, Chunks: 1}
	if c.plan != want || c.predicted != 0 {
		t.Errorf("got %+v, want %s without a prediction", c, want)
	}
}

// TestFitStagesRecoversTheModel: points made by a stage model give it back.
func TestFitStagesRecoversTheModel(t *testing.T) {
	want := stageModel{
		attention: [3]float64{0.1, 0.002, 1e-5}, shared: [2]float64{0.03, 0.001}, a2e: [2]float64{0.02, 5e-4},
		expert: [2]float64{0.05, 0.002}, e2a: [2]float64{0.01, 4e-4}, outside: [3]float64{0.2, 0.001, 0.05},
	}
	var points []point
	for _, shape := range warmUpShapes() {
		points = append(points, want.point(shape, plan.Plan{Policy: plan.Sequential, MicroBatchSize: shape.largest, R1: 1, R2: 1, Order: plan.ASAS, Chunks: 1}))
	}
	if got := fitStages(points); got.String() != want.String() {
		t.Errorf("fitted\n%s\nwant\n%s", got, &want)
	}
}

func TestRecentComparesLikeWithLike(t *testing.T) {
	var r recent
	a := choice{plan: plan.Plan{Policy: plan.FinDEP, MicroBatchSize: 1, R1: 1, R2: 1, Order: plan.ASAS, Chunks: 1}, predicted: 10}
	b := a
	b.plan.R2, b.predicted = 2, 5
	for range 40 {
		r.add(prompts(1, 4), a, 12)
	}
	o := r.observation(7)
	if len(r.measured) != recentSteps || o.MeasuredMilliseconds != 12 || o.PredictedMilliseconds != 10 || o.Changes != 0 || o.Solves != 7 {
		t.Errorf("after equal steps: %+v", o)
	}
	r.add(prompts(1, 4), b, 6)
	if o := r.observation(7); o.MeasuredMilliseconds != 6 || o.Changes != 1 || o.Plan != b.plan || o.TokensPerSecond < 8/0.006*0.999 {
		t.Errorf("after a change of plan: %+v", o)
	}
}
