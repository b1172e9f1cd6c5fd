// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"

	"github.com/findep/findep-operator/runtime/agent/agentpb"
	"github.com/findep/findep-operator/runtime/plan"
)

// Traffic is a kind of step that is repeated: every attention rank prefills
// Sequences prompts of Tokens tokens, or with Decode extends as many sequences
// whose context began with Tokens tokens by one each.
type Traffic struct {
	Decode            bool
	Sequences, Tokens int
}

// The largest numbers of a Traffic.
const (
	maxTrafficSequences = 4096
	maxTrafficTokens    = 1 << 20
)

// ParseTraffic reads prefill:8x64 or decode:16x256.
func ParseTraffic(text string) (Traffic, error) {
	phase, size, _ := strings.Cut(text, ":")
	sequences, tokens, _ := strings.Cut(size, "x")
	t := Traffic{Decode: phase == "decode"}
	var err [2]error
	t.Sequences, err[0] = strconv.Atoi(sequences)
	t.Tokens, err[1] = strconv.Atoi(tokens)
	if (phase != "prefill" && phase != "decode") || err[0] != nil || err[1] != nil ||
		t.Sequences < 1 || t.Sequences > maxTrafficSequences || t.Tokens < 1 || t.Tokens > maxTrafficTokens {
		return t, fmt.Errorf("traffic %q must be prefill:NxT or decode:NxT, N from 1 to %d sequences per attention rank and T from 1 to %d tokens",
			text, maxTrafficSequences, maxTrafficTokens)
	}
	return t, nil
}

func (t Traffic) String() string {
	phase := "prefill"
	if t.Decode {
		phase = "decode"
	}
	return fmt.Sprintf("%s:%dx%d", phase, t.Sequences, t.Tokens)
}

// TrafficConfig says how traffic changes.
type TrafficConfig struct {
	Traffic []Traffic
	// Settle is the number of steps of each kind before turns are timed, Turn
	// the number in one turn, Repeat the number of turns of each side.
	Settle, Turn, Repeat int
	// Alone returns an instance that has seen no other traffic. It is called
	// once for each kind, before its turns.
	Alone func(ctx context.Context, t Traffic) (engine Engine, stop func(), err error)
	Seed  uint64
}

// Validate reports the first field out of range.
func (c *TrafficConfig) Validate() error {
	for _, f := range []struct {
		name       string
		value, max int
	}{{"settle", c.Settle, 10000}, {"turn", c.Turn, 10000}, {"repeat", c.Repeat, 10000}, {"kinds of traffic", len(c.Traffic), 64}} {
		if f.value < 1 || f.value > f.max {
			return fmt.Errorf("%s is %d; it must lie between 1 and %d", f.name, f.value, f.max)
		}
	}
	return nil
}

// TrafficResult is what a change to one kind of traffic did.
type TrafficResult struct {
	Traffic string `json:"traffic"`
	// Plan is the live instance's after Settle steps. StepsUntilPlan is the
	// number of steps of this traffic that ran before it was first used, 0 if
	// the first one did; Changes counts changes of the plan after it was.
	Plan           plan.Plan `json:"plan"`
	StepsUntilPlan int       `json:"stepsUntilPlan"`
	Changes        int       `json:"changes"`
	Steps          int       `json:"steps"`
	// AlonePlan is that of the instance that has seen this traffic only.
	AlonePlan            plan.Plan `json:"alonePlan"`
	TokensPerSecond      Spread    `json:"tokensPerSecond"`
	AloneTokensPerSecond Spread    `json:"aloneTokensPerSecond"`
	// Ratio is that of the live instance over the other, turn by turn.
	Ratio Spread `json:"ratio"`
}

// RunTraffic lets a live instance see one kind of traffic after the other, and
// compares it on each with an instance that has seen nothing else, in turns.
func RunTraffic(ctx context.Context, live Engine, c TrafficConfig) ([]TrafficResult, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	d, err := live.Describe(ctx)
	if err != nil {
		return nil, fmt.Errorf("the instance does not answer: %w", err)
	}
	random := rand.New(rand.NewPCG(c.Seed, 2))
	var results []TrafficResult
	next := uint64(0)
	for _, t := range c.Traffic {
		if limit, most := int(d.MaxContextTokens), t.Tokens+c.Settle+c.Turn*c.Repeat; (t.Decode && most > limit) || t.Tokens > limit {
			return nil, fmt.Errorf("traffic %s reaches %d tokens; the context is %d", t, most, limit)
		}
		r, err := c.compare(ctx, &stepper{engine: live, describe: d, traffic: t, random: random, next: next})
		if err != nil {
			return nil, fmt.Errorf("traffic %s: %w", t, err)
		}
		results = append(results, *r)
		next += 1 << 32 // Sequences of the live instance are never named twice.
	}
	return results, nil
}

// compare times the live instance and one that has seen only this traffic.
func (c *TrafficConfig) compare(ctx context.Context, live *stepper) (*TrafficResult, error) {
	if err := live.settle(ctx, c.Settle); err != nil {
		return nil, err
	}
	engine, stop, err := c.Alone(ctx, live.traffic)
	if err != nil {
		return nil, err
	}
	defer stop()
	d, err := engine.Describe(ctx)
	if err != nil {
		return nil, fmt.Errorf("the instance to compare with does not answer: %w", err)
	}
	alone := &stepper{engine: engine, describe: d, traffic: live.traffic, random: live.random}
	if err := alone.settle(ctx, c.Settle); err != nil {
		return nil, err
	}
	var rates [2][]float64
	var ratios []float64
	sides := [2]*stepper{live, alone}
	for round := range c.Repeat {
		// The order alternates, so that what drifts meets both alike.
		for i := range sides {
			side := (i + round) % 2
			rate, err := sides[side].turn(ctx, c.Turn)
			if err != nil {
				return nil, err
			}
			rates[side] = append(rates[side], rate)
		}
		ratios = append(ratios, rates[0][round]/rates[1][round])
	}
	if err := live.release(ctx); err != nil {
		return nil, err
	}
	r := &TrafficResult{
		Traffic: live.traffic.String(), Plan: live.plans[c.Settle-1], AlonePlan: alone.plans[c.Settle-1], Steps: len(live.plans),
		TokensPerSecond: spread(rates[0]), AloneTokensPerSecond: spread(rates[1]), Ratio: spread(ratios),
	}
	r.StepsUntilPlan, r.Changes = follow(live.plans, r.Plan)
	return r, nil
}

// follow tells when the settled plan was first used and how often plans changed
// from then on.
func follow(plans []plan.Plan, settled plan.Plan) (until, changes int) {
	for until < len(plans) && plans[until] != settled {
		until++
	}
	for i := until + 1; i < len(plans); i++ {
		if plans[i] != plans[i-1] {
			changes++
		}
	}
	return until, changes
}

// stepper repeats one kind of step on an instance.
type stepper struct {
	engine   Engine
	describe *agentpb.DescribeResponse
	traffic  Traffic
	random   *rand.Rand
	next     uint64 // sequence
	// pieces are those of the step before, held the sequences of all.
	pieces []*agentpb.Piece
	held   []uint64
	plans  []plan.Plan
}

// settle makes the contexts that decode steps extend, and runs the first steps.
func (s *stepper) settle(ctx context.Context, steps int) error {
	if s.traffic.Decode {
		s.prompts()
		if _, err := s.run(ctx); err != nil {
			return err
		}
		s.plans = nil
	}
	_, err := s.turn(ctx, steps)
	return err
}

// turn runs steps and returns tokens per second of their makespans.
func (s *stepper) turn(ctx context.Context, steps int) (float64, error) {
	tokens, milliseconds := 0, 0.0
	for range steps {
		if !s.traffic.Decode {
			s.prompts()
		}
		for _, p := range s.pieces {
			tokens += len(p.Tokens)
		}
		r, err := s.run(ctx)
		if err != nil {
			return 0, err
		}
		milliseconds += r.MeasuredMilliseconds
	}
	return 1000 * float64(tokens) / milliseconds, nil
}

// prompts makes the pieces of a prefill step.
func (s *stepper) prompts() {
	s.pieces = nil
	for rank := range int(s.describe.AttentionRanks) {
		for range s.traffic.Sequences {
			s.next++
			tokens := make([]int32, s.traffic.Tokens)
			for i := range tokens {
				tokens[i] = int32(s.random.IntN(int(s.describe.VocabularySize)))
			}
			s.pieces = append(s.pieces, &agentpb.Piece{
				Sequence: s.next, AttentionRank: uint32(rank), Tokens: tokens, Logits: agentpb.LogitsMode_LOGITS_LAST,
			})
		}
	}
}

// run runs one step, and makes its pieces those that extend it.
func (s *stepper) run(ctx context.Context) (*agentpb.StepResponse, error) {
	req := &agentpb.StepRequest{Epoch: s.describe.Epoch, Pieces: s.pieces}
	if !s.traffic.Decode {
		req.Release, s.held = s.held, nil
	}
	r, err := s.engine.Step(ctx, req)
	if err != nil {
		return nil, err
	}
	s.plans = append(s.plans, planOf(r.Plan))
	for i, p := range s.pieces {
		if p.Start == 0 {
			s.held = append(s.held, p.Sequence)
		}
		p.Start, p.Tokens = p.Start+uint32(len(p.Tokens)), []int32{r.Results[i].Token}
	}
	return r, nil
}

// release frees what the steps hold.
func (s *stepper) release(ctx context.Context) error {
	_, err := s.engine.Step(ctx, &agentpb.StepRequest{Epoch: s.describe.Epoch, Release: s.held})
	return err
}
