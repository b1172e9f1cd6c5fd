// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/findep/findep-operator/runtime/agent/agentpb"
	"github.com/findep/findep-operator/runtime/plan"
)

const testMachine = "cpu, 1 threads"

// keptWorld is a planner that has measured and learned, and what it leaves.
func keptWorld(t *testing.T) (*world, []byte) {
	t.Helper()
	w := newWorld(t)
	for range 5 {
		w.step(prompts(4, 128), 0.05)
	}
	b, err := w.planner.encodeKept(testMachine)
	if err != nil || len(b) == 0 {
		t.Fatalf("%d bytes, %v", len(b), err)
	}
	return w, b
}

// TestANewLeaderPlansAsTheOneBefore: what is kept gives the same stage models,
// plans and predictions.
func TestANewLeaderPlansAsTheOneBefore(t *testing.T) {
	before, b := keptWorld(t)
	before.planner.fit(before.in)
	clear(before.planner.learner.paces)
	points, err := decodeKept(b, testMachine, before.in.AttentionRanks)
	if err != nil {
		t.Fatal(err)
	}
	after, in := testPlanner(t)
	after.stages = nil
	after.start(points, in)
	if !after.usable() || after.describe() != before.planner.describe() {
		t.Errorf("the new leader has\n%s\nthe one before had\n%s", after.describe(), before.planner.describe())
	}
	for _, shape := range []batchShape{prompts(8, 32), prompts(1, 2048), decodes(32, 512)} {
		if got, want := after.choose(shape, in), before.planner.choose(shape, before.in); got != want {
			t.Errorf("%+v: %+v, the leader before chose %+v", shape, got, want)
		}
	}
}

func TestNothingIsKeptBeforeAnythingIsKnown(t *testing.T) {
	p, _ := testPlanner(t)
	if b, err := p.encodeKept(testMachine); b != nil || err != nil {
		t.Errorf("%s, %v", b, err)
	}
}

func TestKeptStagesThatAreOfNoUse(t *testing.T) {
	_, b := keptWorld(t)
	change := func(f func(k *kept)) []byte {
		var k kept
		if err := json.Unmarshal(b, &k); err != nil {
			t.Fatal(err)
		}
		f(&k)
		out, err := json.Marshal(k)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	for name, tc := range map[string]struct {
		data []byte
		want string
	}{
		"not JSON":           {[]byte("{"), "unexpected end"},
		"too long":           {bytes.Repeat([]byte(" "), maxKeptBytes+1), "at most"},
		"another version":    {change(func(k *kept) { k.Version = 2 }), "version 2"},
		"another machine":    {change(func(k *kept) { k.Machine = "cuda:0 NVIDIA H100, 1 threads" }), "H100"},
		"no points":          {change(func(k *kept) { k.Points = nil }), "0 points"},
		"too many points":    {change(func(k *kept) { k.Points = make([]keptPoint, maxKeptPoints+1) }), "513 points"},
		"no tokens":          {change(func(k *kept) { k.Points[0].Tokens = 0 }), "point 0"},
		"a size that is odd": {change(func(k *kept) { k.Points[1].Pairs = 1 << 40 }), "point 1"},
		"more than all":      {change(func(k *kept) { k.Points[0].Largest = k.Points[0].Samples + 1 }), "out of range"},
		"negative time":      {change(func(k *kept) { k.Points[0].Kind[0] = -1 }), "out of range"},
		"no time":            {change(func(k *kept) { k.Points[0].Measured = 0 }), "out of range"},
		"no plan":            {change(func(k *kept) { k.Points[0].Plan = plan.Plan{} }), "point 0"},
	} {
		t.Run(name, func(t *testing.T) {
			if points, err := decodeKept(tc.data, testMachine, 2); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%d points, %v; want %q", len(points), err, tc.want)
			}
		})
	}
}

func TestARankKeepsTheLastStagesItWasSent(t *testing.T) {
	r := &rank{}
	for i, step := range []struct {
		command *agentpb.StepCommand
		want    string
	}{
		{&agentpb.StepCommand{RecallStages: true}, ""},
		{&agentpb.StepCommand{KeepStages: []byte("a")}, ""},
		{&agentpb.StepCommand{RecallStages: true}, "a"},
		{&agentpb.StepCommand{KeepStages: make([]byte, maxKeptBytes+1), RecallStages: true}, "a"},
		{&agentpb.StepCommand{KeepStages: []byte("b"), RecallStages: true}, "b"},
	} {
		if got := r.keep(step.command); string(got) != step.want {
			t.Errorf("command %d: %q, want %q", i, got, step.want)
		}
	}
}

// FuzzKeptStages: whatever a rank returns, it is refused, or the planner can plan
// with it.
func FuzzKeptStages(f *testing.F) {
	f.Add([]byte(`{"version":1,"machine":"cpu, 1 threads","points":[{"samples":2,"largest":1,"tokens":2,"pairs":2,
		"plan":{"policy":"FinDEP","microBatchSize":1,"r1":1,"r2":1,"order":"ASAS","chunks":1},"kindMilliseconds":[1,1,1,1,1,1,1],"measuredMilliseconds":3,"steps":1}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		points, err := decodeKept(b, testMachine, 2)
		if err != nil {
			return
		}
		p, in := testPlanner(t)
		p.start(points, in)
		if !p.usable() {
			return
		}
		for _, shape := range []batchShape{prompts(4, 64), decodes(4, 64)} {
			if c := p.choose(shape, in); c.plan.Validate() != nil || c.predicted < 0 {
				t.Fatalf("plan %+v: %v", c, c.plan.Validate())
			}
		}
	})
}
