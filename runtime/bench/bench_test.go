// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/findep/findep-operator/runtime/agent/agentpb"
	"github.com/findep/findep-operator/runtime/plan"
)

// fakeEngine takes 10 ms per token of a step under PPPipe, 5 ms under FinDEP,
// and checks that sequences are used as the engine's contract says.
type fakeEngine struct {
	t      *testing.T
	policy plan.Policy
	length map[uint64]int
	steps  int
}

func (f *fakeEngine) Describe(context.Context) (*agentpb.DescribeResponse, error) {
	return &agentpb.DescribeResponse{Epoch: 3, AttentionRanks: 2, VocabularySize: 50, MaxContextTokens: 100}, nil
}

func (f *fakeEngine) Step(_ context.Context, req *agentpb.StepRequest) (*agentpb.StepResponse, error) {
	for _, id := range req.Release {
		delete(f.length, id)
	}
	r := &agentpb.StepResponse{Plan: &agentpb.PlanInUse{Policy: string(f.policy), MicroBatchSize: 1, R1: 1, R2: 1, Order: "ASAS", Chunks: 1}}
	tokens := 0
	for _, p := range req.Pieces {
		if int(p.Start) != f.length[p.Sequence] {
			f.t.Errorf("sequence %d starts at %d, has %d tokens", p.Sequence, p.Start, f.length[p.Sequence])
		}
		f.length[p.Sequence] += len(p.Tokens)
		tokens += len(p.Tokens)
		r.Results = append(r.Results, &agentpb.PieceResult{Sequence: p.Sequence, Token: 7})
	}
	f.steps++
	per := 10.0
	if f.policy == plan.FinDEP {
		per = 5
	}
	r.MeasuredMilliseconds, r.PredictedMilliseconds = per*float64(tokens), per*float64(tokens)
	r.Busiest = []*agentpb.KindTime{{Kind: "Attention", Milliseconds: r.MeasuredMilliseconds / 4}, {Kind: "Shared", Milliseconds: r.MeasuredMilliseconds / 4}}
	return r, nil
}

func TestPoliciesTakeTurns(t *testing.T) {
	engine := &fakeEngine{t: t, length: map[uint64]int{}}
	var turns []string
	results, err := Run(t.Context(), engine, Config{
		Contenders: []Contender{{Policy: plan.FinDEP}, {Policy: plan.PPPipe}}, PromptTokens: 8, OutputTokens: 3, Batch: 5, SamplesInFlight: 2, Repeat: 2,
		Switch:   func(_ context.Context, c Contender) error { engine.policy = c.Policy; return nil },
		Progress: func(c Contender, _ int) { turns = append(turns, string(c.Policy)) },
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(turns, " "); got != "FinDEP PPPipe FinDEP PPPipe FinDEP PPPipe" {
		t.Errorf("turns were %s", got)
	}
	if len(engine.length) != 0 {
		t.Errorf("%d sequences were never released", len(engine.length))
	}
	// Prefill of the full groups: 2 ranks x 2 prompts x 8 tokens.
	for i, want := range []struct{ rate, makespan float64 }{{200, 160}, {100, 320}} {
		r := results[i]
		if r.TokensPerSecond.Median != want.rate || r.MakespanMilliseconds.Median != want.makespan || r.Busy["attention"] != 0.5 {
			t.Errorf("%s: %+v, want %v tokens/s in %v ms", r.Policy, r, want.rate, want.makespan)
		}
	}
}

func TestRunRefuses(t *testing.T) {
	good := Config{Contenders: []Contender{{Policy: plan.FinDEP}}, PromptTokens: 8, OutputTokens: 1, Batch: 1, SamplesInFlight: 1, Repeat: 1,
		Switch: func(context.Context, Contender) error { return nil }}
	for name, tc := range map[string]struct {
		change func(*Config)
		want   string
	}{
		"no policy":           {func(c *Config) { c.Contenders = nil }, "no policies"},
		"no tokens":           {func(c *Config) { c.PromptTokens = 0 }, "prompt-tokens is 0"},
		"no rounds":           {func(c *Config) { c.Repeat = 0 }, "repeat is 0"},
		"more than the batch": {func(c *Config) { c.SamplesInFlight = 2 }, "samples-in-flight is 2"},
		"beyond the context":  {func(c *Config) { c.PromptTokens = 100 }, "the context is 100"},
		"no switch":           {func(c *Config) { c.Switch = func(context.Context, Contender) error { return errors.New("stuck") } }, "stuck"},
	} {
		t.Run(name, func(t *testing.T) {
			c := good
			tc.change(&c)
			if _, err := Run(t.Context(), &fakeEngine{t: t, length: map[uint64]int{}}, c); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
}

// TestReportFieldNames pins the names that scripts read.
func TestReportFieldNames(t *testing.T) {
	b, err := json.Marshal(Report{Policies: []PolicyResult{{Busy: map[string]float64{"attention": 1}}}})
	if err != nil {
		t.Fatal(err)
	}
	var r struct {
		Policies []map[string]any
		Machine  map[string]any
	}
	if err := json.Unmarshal(b, &r); err != nil {
		t.Fatal(err)
	}
	for name, got := range map[string]map[string]any{
		"busy exposedCommunicationMilliseconds makespanMilliseconds plan policy predictedMakespanMilliseconds tokensPerSecond": r.Policies[0],
		"max median min":                     r.Policies[0]["tokensPerSecond"].(map[string]any),
		"backend cores cpu kernel link when": r.Machine,
	} {
		if names := strings.Join(slices.Sorted(maps.Keys(got)), " "); names != name {
			t.Errorf("fields are %q, want %q", names, name)
		}
	}
}
