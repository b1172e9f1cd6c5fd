// SPDX-License-Identifier: Apache-2.0

// Package bench compares schedule policies on one running instance: the same
// processes, weights, links and prompts, policies taking turns, each with its
// own best plan. What differs between two figures is the schedule.
package bench

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/findep/findep-operator/runtime/agent/agentpb"
	"github.com/findep/findep-operator/runtime/plan"
)

// Engine runs steps; serving.Client is one.
type Engine interface {
	Describe(ctx context.Context) (*agentpb.DescribeResponse, error)
	Step(ctx context.Context, req *agentpb.StepRequest) (*agentpb.StepResponse, error)
}

// Contender is what takes turns: a policy, with causal chunks allowed or not.
type Contender struct {
	Policy plan.Policy
	Chunks bool
}

// Config says what to run.
type Config struct {
	Contenders []Contender
	// Switch makes the instance use a contender from the next step on.
	Switch func(ctx context.Context, c Contender) error
	// PromptTokens is the length of each prompt, OutputTokens how many tokens
	// are generated, the first one by the prefill.
	PromptTokens, OutputTokens int
	// Batch is the number of prompts per attention rank in one round,
	// SamplesInFlight how many of them share a step.
	Batch, SamplesInFlight int
	// Repeat is the number of rounds of each contender, after one that warms up.
	Repeat int
	// Progress, if set, is told before each round.
	Progress func(c Contender, round int)
	Seed     uint64
}

// Validate reports the first field out of range.
func (c *Config) Validate() error {
	for _, f := range []struct {
		name       string
		value, max int
	}{
		{"prompt-tokens", c.PromptTokens, 1 << 20}, {"output-tokens", c.OutputTokens, 1 << 16}, {"batch", c.Batch, 1 << 16},
		{"samples-in-flight", c.SamplesInFlight, 1 << 16}, {"repeat", c.Repeat, 10000},
	} {
		if f.value < 1 || f.value > f.max {
			return fmt.Errorf("%s is %d; it must lie between 1 and %d", f.name, f.value, f.max)
		}
	}
	if c.SamplesInFlight > c.Batch {
		return fmt.Errorf("samples-in-flight is %d; it must not exceed batch (%d)", c.SamplesInFlight, c.Batch)
	}
	if len(c.Contenders) == 0 {
		return fmt.Errorf("no policies are given")
	}
	return nil
}

// Spread is a median with the extremes it came from.
type Spread struct {
	Median float64 `json:"median"`
	Min    float64 `json:"min"`
	Max    float64 `json:"max"`
}

func spread(v []float64) Spread {
	if len(v) == 0 {
		return Spread{}
	}
	s := slices.Sorted(slices.Values(v))
	return Spread{Median: s[len(s)/2], Min: s[0], Max: s[len(s)-1]}
}

// PolicyResult is what one policy did. Makespans are those of prefill steps, or
// of decode steps where prompts have one token; tokens per second count prompt
// and generated tokens over all steps of a round.
type PolicyResult struct {
	Policy                           plan.Policy        `json:"policy"`
	Plan                             plan.Plan          `json:"plan"`
	TokensPerSecond                  Spread             `json:"tokensPerSecond"`
	MakespanMilliseconds             Spread             `json:"makespanMilliseconds"`
	PredictedMakespanMilliseconds    float64            `json:"predictedMakespanMilliseconds"`
	ExposedCommunicationMilliseconds float64            `json:"exposedCommunicationMilliseconds"`
	Busy                             map[string]float64 `json:"busy"`
}

// samples collects the steps of one policy.
type samples struct {
	plan                          *agentpb.PlanInUse
	rates                         []float64
	makespans, predicted, exposed []float64
	busy                          map[string][]float64
}

// runner is one benchmark under way.
type runner struct {
	config   Config
	engine   Engine
	describe *agentpb.DescribeResponse
	random   *rand.Rand
	next     uint64 // sequence
}

// Run runs all rounds and returns the results in the order of the contenders.
func Run(ctx context.Context, engine Engine, c Config) ([]PolicyResult, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	d, err := engine.Describe(ctx)
	if err != nil {
		return nil, fmt.Errorf("the instance does not answer: %w", err)
	}
	if limit := int(d.MaxContextTokens); c.PromptTokens+c.OutputTokens > limit {
		return nil, fmt.Errorf("prompt-tokens and output-tokens are %d together; the context is %d", c.PromptTokens+c.OutputTokens, limit)
	}
	r := &runner{config: c, engine: engine, describe: d, random: rand.New(rand.NewPCG(c.Seed, 1))}
	all := make([]samples, len(c.Contenders))
	for round := range c.Repeat + 1 {
		for i, contender := range c.Contenders {
			if c.Progress != nil {
				c.Progress(contender, round)
			}
			if err := c.Switch(ctx, contender); err != nil {
				return nil, err
			}
			into := &all[i]
			if round == 0 {
				into = &samples{}
			}
			if err := r.round(ctx, into); err != nil {
				return nil, fmt.Errorf("%s, round %d: %w", contender.Policy, round, err)
			}
		}
	}
	results := make([]PolicyResult, len(c.Contenders))
	for i, contender := range c.Contenders {
		results[i] = all[i].result(contender.Policy)
	}
	return results, nil
}

// round runs the whole batch once.
func (r *runner) round(ctx context.Context, s *samples) error {
	tokens, milliseconds := 0, 0.0
	for done := 0; done < r.config.Batch; done += r.config.SamplesInFlight {
		n, ms, err := r.group(ctx, min(r.config.SamplesInFlight, r.config.Batch-done), s)
		if err != nil {
			return err
		}
		tokens, milliseconds = tokens+n, milliseconds+ms
	}
	s.rates = append(s.rates, 1000*float64(tokens)/milliseconds)
	return nil
}

// group prefills n prompts on every attention rank together and extends them.
func (r *runner) group(ctx context.Context, n int, s *samples) (tokens int, milliseconds float64, err error) {
	req := &agentpb.StepRequest{Epoch: r.describe.Epoch}
	var ids []uint64
	for rank := range int(r.describe.AttentionRanks) {
		for range n {
			r.next++
			ids = append(ids, r.next)
			req.Pieces = append(req.Pieces, &agentpb.Piece{
				Sequence: r.next, AttentionRank: uint32(rank), Tokens: r.prompt(), Logits: agentpb.LogitsMode_LOGITS_LAST,
			})
		}
	}
	for length := r.config.PromptTokens; ; length++ {
		response, err := r.engine.Step(ctx, req)
		if err != nil {
			return 0, 0, err
		}
		for _, p := range req.Pieces {
			tokens += len(p.Tokens)
		}
		milliseconds += response.MeasuredMilliseconds
		if length == r.config.PromptTokens {
			s.add(response)
		}
		if length == r.config.PromptTokens+r.config.OutputTokens-1 {
			break
		}
		for i, p := range req.Pieces {
			p.Start, p.Tokens = uint32(length), []int32{response.Results[i].Token}
		}
	}
	_, err = r.engine.Step(ctx, &agentpb.StepRequest{Epoch: r.describe.Epoch, Release: ids})
	return tokens, milliseconds, err
}

func (r *runner) prompt() []int32 {
	t := make([]int32, r.config.PromptTokens)
	for i := range t {
		t[i] = int32(r.random.IntN(int(r.describe.VocabularySize)))
	}
	return t
}

func (s *samples) add(r *agentpb.StepResponse) {
	s.plan = r.Plan
	s.makespans = append(s.makespans, r.MeasuredMilliseconds)
	s.predicted = append(s.predicted, r.PredictedMilliseconds)
	s.exposed = append(s.exposed, r.ExposedCommunicationMilliseconds)
	if s.busy == nil {
		s.busy = map[string][]float64{}
	}
	for resource, ms := range busyMilliseconds(r.Busiest) {
		s.busy[resource] = append(s.busy[resource], ms/r.MeasuredMilliseconds)
	}
}

// resourceOf maps kinds of task to the resource they occupy.
var resourceOf = map[string]string{
	"Attention": "attention", "Shared": "attention", "Dense": "attention", "Head": "attention",
	"A2E": "a2e", "Expert": "expert", "E2A": "e2a",
}

func busyMilliseconds(kinds []*agentpb.KindTime) map[string]float64 {
	busy := map[string]float64{}
	for _, k := range kinds {
		busy[resourceOf[k.Kind]] += k.Milliseconds
	}
	return busy
}

func (s *samples) result(policy plan.Policy) PolicyResult {
	r := PolicyResult{
		Policy: policy, TokensPerSecond: spread(s.rates), MakespanMilliseconds: spread(s.makespans),
		PredictedMakespanMilliseconds:    spread(s.predicted).Median,
		ExposedCommunicationMilliseconds: spread(s.exposed).Median, Busy: map[string]float64{},
	}
	if s.plan != nil {
		r.Plan = planOf(s.plan)
	}
	for resource, shares := range s.busy {
		r.Busy[resource] = spread(shares).Median
	}
	return r
}

func planOf(p *agentpb.PlanInUse) plan.Plan {
	return plan.Plan{
		Policy: plan.Policy(p.Policy), MicroBatchSize: int(p.MicroBatchSize), R1: int(p.R1), R2: int(p.R2),
		Order: plan.Order(p.Order), Chunks: int(p.Chunks), ChunkBoundaries: plan.Boundaries(p.ChunkBoundaries),
	}
}

// Machine says where figures come from.
type Machine struct {
	Cores   int    `json:"cores"`
	CPU     string `json:"cpu"`
	Kernel  string `json:"kernel"`
	Backend string `json:"backend"`
	Link    string `json:"link"`
	When    string `json:"when"`
}

// Report is the whole result.
type Report struct {
	Policies []PolicyResult  `json:"policies,omitempty"`
	Traffic  []TrafficResult `json:"traffic,omitempty"`
	Machine  Machine         `json:"machine"`
}

// Stamp is the time in the form reports use.
func Stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }
