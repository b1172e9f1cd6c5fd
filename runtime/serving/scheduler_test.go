// SPDX-License-Identifier: Apache-2.0

package serving_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/findep/findep-operator/runtime/agent/agentpb"
	"github.com/findep/findep-operator/runtime/serving"
	"github.com/findep/findep-operator/runtime/serving/servingtest"
)

// driver runs a Scheduler against the fake, one call at a time, and checks
// every event.
type driver struct {
	t         *testing.T
	engine    *servingtest.Engine
	scheduler *serving.Scheduler
	sequences map[serving.ID]serving.Sequence
	got       map[serving.ID][]int32
	finish    map[serving.ID]serving.FinishReason
}

func newDriver(t *testing.T, engine *servingtest.Engine) *driver {
	d := &driver{t: t, engine: engine, scheduler: serving.NewScheduler(), sequences: map[serving.ID]serving.Sequence{},
		got: map[serving.ID][]int32{}, finish: map[serving.ID]serving.FinishReason{}}
	d.reset()
	return d
}

func (d *driver) reset() {
	for {
		desc, err := d.engine.Describe(context.Background())
		if err != nil {
			d.t.Fatal(err)
		}
		if !desc.GetReady() {
			continue
		}
		limits, err := serving.LimitsOf(desc)
		if err != nil {
			d.t.Fatal(err)
		}
		if limits != d.scheduler.Limits() {
			d.take(d.scheduler.Reset(limits))
		}
		return
	}
}

func (d *driver) add(q serving.Sequence) serving.ID {
	id := d.scheduler.Add(q)
	d.sequences[id] = q
	return id
}

func (d *driver) take(events []serving.Event) {
	for _, e := range events {
		if d.finish[e.ID] != "" {
			d.t.Fatalf("sequence %d goes on after its end", e.ID)
		}
		if e.Result != nil {
			d.got[e.ID] = append(d.got[e.ID], e.Result.GetToken())
		}
		d.finish[e.ID] = e.Finish
	}
}

// step runs one step and returns false when there was nothing to do.
func (d *driver) step() bool {
	req := d.scheduler.Next()
	if req == nil {
		return false
	}
	resp, err := d.engine.Step(context.Background(), req)
	switch status.Code(err) {
	case codes.OK:
		events, err := d.scheduler.Complete(resp)
		if err != nil {
			d.t.Fatal(err)
		}
		d.take(events)
	case codes.InvalidArgument:
		d.take(d.scheduler.Refused(err))
	default:
		d.scheduler.Lost()
		d.reset()
	}
	return true
}

func (d *driver) drain(limit int) {
	for range limit {
		if !d.step() {
			return
		}
	}
	d.t.Fatalf("not done after %d steps: %+v", limit, d.scheduler.Stats())
}

// check verifies that every sequence not in cancelled got what the model
// defines, and that nothing is held.
func (d *driver) check(cancelled map[serving.ID]bool) {
	d.t.Helper()
	for _, p := range d.engine.Problems() {
		d.t.Error(p)
	}
	for id, q := range d.sequences {
		want := d.engine.Generate(q.Prompt, q.Sampling, q.MaxTokens, q.StopTokens)
		if cancelled[id] {
			want = want[:min(len(want), len(d.got[id]))]
		} else if d.finish[id] == "" || d.finish[id] == serving.FinishAbort {
			d.t.Errorf("sequence %d ended with %q", id, d.finish[id])
		}
		if diff := cmp.Diff(want, d.got[id]); diff != "" && len(want)+len(d.got[id]) > 0 {
			d.t.Errorf("sequence %d of %d prompt tokens (-want +got):\n%s", id, len(q.Prompt), diff)
		}
	}
	if st := d.scheduler.Stats(); st.Running != 0 || st.Waiting != 0 || st.KVBlocksUsed != 0 || st.KVTokens != 0 {
		d.t.Errorf("something is still held: %+v", st)
	}
	d.add(serving.Sequence{Prompt: []int32{1}, MaxTokens: 1})
	d.drain(50)
	if held := d.engine.Held(); held != 1 {
		d.t.Errorf("the engine holds %d sequences after everything was released, want the last one alone", held)
	}
}

func randomSequence(rng *rand.Rand, e *servingtest.Engine) serving.Sequence {
	limit := min(e.Context, e.KVBlocks*e.BlockTokens)
	prompt := make([]int32, 1+rng.IntN(limit*2/3))
	for i := range prompt {
		prompt[i] = int32(rng.IntN(e.Vocabulary))
	}
	q := serving.Sequence{Prompt: prompt, MaxTokens: 1 + rng.IntN(limit-len(prompt)), Sampling: &agentpb.Sampling{Seed: rng.Uint64()}}
	if rng.IntN(2) == 0 {
		q.Sampling.Temperature = 1
	}
	if rng.IntN(2) == 0 {
		q.StopTokens = []int32{int32(rng.IntN(e.Vocabulary)), int32(rng.IntN(e.Vocabulary))}
	}
	return q
}

// TestSchedulerProperty: whatever arrives, is cancelled or fails, each
// sequence gets exactly the model's tokens, capacity is never exceeded and
// nothing leaks.
func TestSchedulerProperty(t *testing.T) {
	for seed := range uint64(150) {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 7))
			e := servingtest.New()
			e.Ranks, e.BlockTokens = 1+rng.IntN(3), 1+rng.IntN(8)
			e.KVBlocks, e.StepTokens, e.Context = 2+rng.IntN(24), 1+rng.IntN(40), 8+rng.IntN(120)
			e.Vocabulary, e.NotReady = 3+rng.IntN(30), rng.IntN(3)
			faults := rng.IntN(2) * 4
			e.Fault = func(int) servingtest.Fault {
				if rng.IntN(100) < faults {
					return []servingtest.Fault{servingtest.LostBefore, servingtest.LostAfter, servingtest.Reformed, servingtest.Internal}[rng.IntN(4)]
				}
				return servingtest.None
			}
			d, cancelled := newDriver(t, e), map[serving.ID]bool{}
			var ids []serving.ID
			for range 400 {
				if len(ids) < 40 && rng.IntN(4) == 0 {
					ids = append(ids, d.add(randomSequence(rng, e)))
				}
				if len(ids) > 0 && rng.IntN(40) == 0 {
					id := ids[rng.IntN(len(ids))]
					d.scheduler.Finish(id)
					cancelled[id] = true
				}
				d.step()
			}
			d.drain(100_000)
			d.check(cancelled)
		})
	}
}

// TestFirstComeFirstServed: with equal requests, none ends before one that
// came earlier by more than the batch allows, and the oldest is never made to
// wait by younger ones.
func TestFirstComeFirstServed(t *testing.T) {
	e := servingtest.New()
	e.Ranks, e.KVBlocks, e.BlockTokens, e.StepTokens = 1, 8, 4, 16
	d := newDriver(t, e)
	var ids, order []serving.ID
	for range 12 {
		ids = append(ids, d.add(serving.Sequence{Prompt: []int32{1, 2, 3, 4, 5, 6}, MaxTokens: 20}))
	}
	for d.step() {
		for _, id := range ids {
			if d.finish[id] != "" && !slices.Contains(order, id) {
				order = append(order, id)
			}
		}
	}
	if diff := cmp.Diff(ids, order); diff != "" {
		t.Errorf("order of completion (-want +got):\n%s", diff)
	}
	d.check(nil)
}

func TestStepsMixPromptsAndGeneration(t *testing.T) {
	e := servingtest.New()
	e.Ranks, e.StepTokens = 1, 8
	d := newDriver(t, e)
	d.add(serving.Sequence{Prompt: []int32{1, 2}, MaxTokens: 10})
	d.step()
	d.add(serving.Sequence{Prompt: make([]int32, 20), MaxTokens: 3})
	var shapes []string
	e.OnStep = func(r *agentpb.StepRequest) {
		var shape []string
		for _, p := range r.GetPieces() {
			shape = append(shape, fmt.Sprintf("%d@%d+%d %s", p.GetSequence(), p.GetStart(), len(p.GetTokens()), p.GetLogits()))
		}
		shapes = append(shapes, strings.Join(shape, ", "))
	}
	for range 4 {
		d.step()
	}
	want := []string{
		"1@2+1 LOGITS_LAST, 2@0+7 LOGITS_NONE",
		"1@3+1 LOGITS_LAST, 2@7+7 LOGITS_NONE",
		"1@4+1 LOGITS_LAST, 2@14+6 LOGITS_LAST",
		"1@5+1 LOGITS_LAST, 2@20+1 LOGITS_LAST",
	}
	if diff := cmp.Diff(want, shapes); diff != "" {
		t.Errorf("steps (-want +got):\n%s", diff)
	}
}

func TestRequestsSpreadOverAttentionRanks(t *testing.T) {
	e := servingtest.New()
	e.Ranks, e.StepTokens = 3, 100
	d := newDriver(t, e)
	for _, n := range []int{60, 20, 30, 10, 40} {
		d.add(serving.Sequence{Prompt: make([]int32, n), MaxTokens: 2})
	}
	ranks := map[uint64]uint32{}
	for _, p := range d.scheduler.Next().GetPieces() {
		ranks[p.GetSequence()] = p.GetAttentionRank()
	}
	if diff := cmp.Diff(map[uint64]uint32{1: 0, 2: 1, 3: 2, 4: 1, 5: 2}, ranks); diff != "" {
		t.Errorf("rank by arrival (-want +got):\n%s", diff)
	}
}

func TestPreemptionComputesAgain(t *testing.T) {
	e := servingtest.New()
	e.Ranks, e.KVBlocks, e.BlockTokens, e.StepTokens = 1, 4, 4, 32
	d := newDriver(t, e)
	first := d.add(serving.Sequence{Prompt: []int32{1, 2, 3, 4}, MaxTokens: 12})
	second := d.add(serving.Sequence{Prompt: []int32{5, 6, 7, 8}, MaxTokens: 12})
	restarts := 0
	e.OnStep = func(r *agentpb.StepRequest) {
		for _, p := range r.GetPieces() {
			if p.GetStart() == 0 && len(p.GetTokens()) > 4 {
				restarts++
			}
		}
	}
	d.drain(200)
	if restarts == 0 {
		t.Error("nothing was preempted although both do not fit")
	}
	if got := d.scheduler.Stats().Preemptions; got != uint64(restarts) {
		t.Errorf("%d preemptions are counted, want %d", got, restarts)
	}
	if diff := cmp.Diff([]serving.ID{first, second, second}, d.scheduler.Admitted()); diff != "" {
		t.Errorf("admissions (-want +got):\n%s", diff)
	}
	if len(d.got[first]) != 12 || len(d.got[second]) != 12 {
		t.Errorf("%d and %d tokens, want 12 each", len(d.got[first]), len(d.got[second]))
	}
	d.check(nil)
}

func TestRefusedStepEndsItsSequencesAlone(t *testing.T) {
	e := servingtest.New()
	e.Ranks, e.StepTokens = 1, 4
	e.Fault = func(step int) servingtest.Fault {
		if step == 0 {
			return servingtest.Malformed
		}
		return servingtest.None
	}
	d := newDriver(t, e)
	first := d.add(serving.Sequence{Prompt: []int32{1, 2, 3, 4}, MaxTokens: 2})
	second := d.add(serving.Sequence{Prompt: []int32{5, 6}, MaxTokens: 2})
	d.drain(20)
	if d.finish[first] != serving.FinishAbort || d.finish[second] != serving.FinishLength {
		t.Errorf("ended with %q and %q", d.finish[first], d.finish[second])
	}
	delete(d.sequences, first)
	d.check(nil)
}

func TestCompleteRefusesInconsistentResults(t *testing.T) {
	tests := map[string]func(*agentpb.StepResponse){
		"too few":       func(r *agentpb.StepResponse) { r.Results = nil },
		"other order":   func(r *agentpb.StepResponse) { r.Results[0].Sequence = 77 },
		"huge token":    func(r *agentpb.StepResponse) { r.Results[0].Token = 1 << 30 },
		"no such token": func(r *agentpb.StepResponse) { r.Results[0].Token = -1 },
	}
	for name, spoil := range tests {
		t.Run(name, func(t *testing.T) {
			d := newDriver(t, servingtest.New())
			d.add(serving.Sequence{Prompt: []int32{1}, MaxTokens: 1})
			resp, err := d.engine.Step(context.Background(), d.scheduler.Next())
			if err != nil {
				t.Fatal(err)
			}
			spoil(resp)
			if _, err := d.scheduler.Complete(resp); err == nil {
				t.Error("no error")
			}
		})
	}
}

func TestLimitsCheck(t *testing.T) {
	l := serving.Limits{AttentionRanks: 1, KVBlocks: 4, BlockTokens: 8, StepTokens: 4, ContextTokens: 40, Vocabulary: 10}
	tests := map[string]struct {
		prompt, maxTokens int
		want              string
	}{
		"fits":              {prompt: 20, maxTokens: 13},
		"one beyond the KV": {prompt: 20, maxTokens: 14, want: "holds 32 tokens"},
		"beyond the context": {prompt: 30, maxTokens: 11,
			want: "maximum context length is 40 tokens, but 41 were requested (30 in the prompt, 11 in max_tokens)"},
		"no prompt":     {maxTokens: 1, want: "no tokens"},
		"no completion": {prompt: 1, want: "at least 1"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			err := l.Check(tt.prompt, tt.maxTokens)
			if tt.want == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			var refusal *serving.Refusal
			if !errors.As(err, &refusal) || refusal.Kind != serving.Invalid || !strings.Contains(refusal.Message, tt.want) {
				t.Errorf("error %v, want an invalid request with %q", err, tt.want)
			}
		})
	}
}

func TestShrunkEpochEndsWhatNoLongerFits(t *testing.T) {
	d := newDriver(t, servingtest.New())
	long := d.add(serving.Sequence{Prompt: make([]int32, 100), MaxTokens: 10})
	short := d.add(serving.Sequence{Prompt: make([]int32, 10), MaxTokens: 2})
	d.step()
	l := d.scheduler.Limits()
	l.Epoch, l.ContextTokens = l.Epoch+1, 50
	ended := d.scheduler.Reset(l)
	if len(ended) != 1 || ended[0].ID != long || ended[0].Finish != serving.FinishAbort || ended[0].Err == nil {
		t.Errorf("ended: %+v, want sequence %d alone", ended, long)
	}
	if st := d.scheduler.Stats(); st.Waiting != 1 {
		t.Errorf("%+v, want sequence %d waiting", st, short)
	}
}
