// SPDX-License-Identifier: Apache-2.0

package serving

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/findep/findep-operator/runtime/agent/agentpb"
)

// ID names a sequence within the server; ids grow in order of arrival.
type ID uint64

// Sequence is what is to be computed.
type Sequence struct {
	// Prompt holds at least one token id below the vocabulary's size.
	Prompt []int32
	// MaxTokens is the most tokens to generate.
	MaxTokens int
	// Sampling goes to the engine as it is.
	Sampling *agentpb.Sampling
	// StopTokens end the sequence when generated.
	StopTokens []int32
}

// FinishReason is why a sequence ended, as the OpenAI API names it.
type FinishReason string

// The reasons.
const (
	// FinishStop: a stop token or stop string was generated.
	FinishStop FinishReason = "stop"
	// FinishLength: MaxTokens were generated.
	FinishLength FinishReason = "length"
	// FinishAbort: the client went away or the engine failed for good.
	FinishAbort FinishReason = "abort"
)

// Event is one generated token, or the end of a sequence that failed.
type Event struct {
	ID     ID
	Result *agentpb.PieceResult
	// Finish is set on the last event of a sequence.
	Finish FinishReason
	// Err is set with FinishAbort; Result is then nil.
	Err error
}

// sequence is a Sequence on its way.
type sequence struct {
	Sequence
	id ID
	// tokens is the prompt and what was generated; tokens[:cached] are in the
	// KV cache, so len(tokens)-cached are to be computed next.
	tokens []int32
	cached int
	// key names the current computation to the engine. Each admission has a
	// new one, so a computation started again is never taken for the old one.
	key    uint64
	rank   int
	blocks int
}

func (q *sequence) left() int { return len(q.tokens) - q.cached }

// Scheduler decides what each step computes. It is not safe for concurrent
// use. Its cycle is Next, then exactly one of Complete, Lost and Refused;
// Add and Finish may come at any time between them.
type Scheduler struct {
	limits Limits
	// waiting and running are sorted by id.
	waiting, running []*sequence
	// free and load count free blocks and running sequences by rank.
	free, load []int
	// release holds keys whose KV the engine is to free with the next step.
	release []uint64
	// step is the request in flight.
	step *agentpb.StepRequest
	// admitted are the sequences that Next took from the queue since the last
	// Admitted.
	admitted    []ID
	preemptions uint64
	lastID      ID
	lastKey     uint64
}

// NewScheduler returns one that queues until the first Reset.
func NewScheduler() *Scheduler { return &Scheduler{} }

// Limits returns those of the last Reset.
func (s *Scheduler) Limits() Limits { return s.limits }

// Reset starts an epoch: all KV of the one before is gone, and everything that
// ran waits again. It returns the end of each sequence that fits no more. It
// must not be called while a step is in flight.
func (s *Scheduler) Reset(l Limits) []Event {
	s.requeueAll()
	s.limits = l
	s.release = nil
	s.free = slices.Repeat([]int{l.KVBlocks}, l.AttentionRanks)
	s.load = make([]int, l.AttentionRanks)
	var ended []Event
	s.waiting = slices.DeleteFunc(s.waiting, func(q *sequence) bool {
		err := l.Check(len(q.Prompt), q.MaxTokens)
		if err != nil {
			ended = append(ended, Event{ID: q.id, Finish: FinishAbort, Err: err})
		}
		return err != nil
	})
	return ended
}

// Add queues a sequence. The caller has checked it against Limits.
func (s *Scheduler) Add(q Sequence) ID {
	s.lastID++
	s.waiting = append(s.waiting, &sequence{Sequence: q, id: s.lastID, tokens: slices.Clone(q.Prompt)})
	return s.lastID
}

// Finish removes a sequence, wherever it is; its KV is released with the next
// step. Unknown ids are ignored, because a client may go away at the moment
// its sequence ends.
func (s *Scheduler) Finish(id ID) {
	if i, ok := find(s.waiting, id); ok {
		s.waiting = slices.Delete(s.waiting, i, i+1)
	}
	if i, ok := find(s.running, id); ok {
		s.evict(s.running[i])
	}
}

// Next builds the next step, or returns nil when there is nothing to compute,
// before the first Reset, or while a step is in flight.
func (s *Scheduler) Next() *agentpb.StepRequest {
	if s.step != nil || s.limits.AttentionRanks == 0 {
		return nil
	}
	b := stepBuilder{s: s, budget: slices.Repeat([]int{s.limits.StepTokens}, s.limits.AttentionRanks)}
	b.decode()
	b.prefill()
	b.admit()
	if len(b.pieces) == 0 {
		return nil
	}
	s.step = &agentpb.StepRequest{Epoch: s.limits.Epoch, Pieces: b.pieces, Release: s.release}
	s.release = nil
	return s.step
}

// Admitted returns the sequences that have left the queue since it was last
// asked. One that had to wait again is returned again.
func (s *Scheduler) Admitted() []ID {
	out := s.admitted
	s.admitted = nil
	return out
}

// Complete takes in the results of the step in flight and returns an event for
// each token sampled. On an error nothing was taken in, and the step is still
// in flight.
func (s *Scheduler) Complete(resp *agentpb.StepResponse) ([]Event, error) {
	pieces := s.step.GetPieces()
	if len(resp.GetResults()) != len(pieces) {
		return nil, fmt.Errorf("the engine returned %d results for %d pieces", len(resp.GetResults()), len(pieces))
	}
	for i, r := range resp.GetResults() {
		if r.GetSequence() != pieces[i].GetSequence() {
			return nil, fmt.Errorf("the engine's result %d is of sequence %d instead of %d", i, r.GetSequence(), pieces[i].GetSequence())
		}
		if r.GetToken() < 0 || int(r.GetToken()) >= s.limits.Vocabulary {
			return nil, fmt.Errorf("the engine sampled token %d of a vocabulary of %d", r.GetToken(), s.limits.Vocabulary)
		}
	}
	s.step = nil
	byKey := make(map[uint64]*sequence, len(s.running))
	for _, q := range s.running {
		byKey[q.key] = q
	}
	var events []Event
	for i, p := range pieces {
		q := byKey[p.GetSequence()]
		if q == nil {
			continue // Finished while the step ran.
		}
		q.cached += len(p.GetTokens())
		if p.GetLogits() == agentpb.LogitsMode_LOGITS_LAST {
			events = append(events, s.extend(q, resp.GetResults()[i]))
		}
	}
	return events, nil
}

// extend appends a sampled token and ends the sequence if that was the last.
func (s *Scheduler) extend(q *sequence, r *agentpb.PieceResult) Event {
	q.tokens = append(q.tokens, r.GetToken())
	e := Event{ID: q.id, Result: r}
	switch {
	case slices.Contains(q.StopTokens, r.GetToken()):
		e.Finish = FinishStop
	case len(q.tokens)-len(q.Prompt) >= q.MaxTokens:
		e.Finish = FinishLength
	}
	if e.Finish != "" {
		s.evict(q)
	}
	return e
}

// Lost puts everything that ran back in the queue after the step in flight
// failed. Should the engine still be in the same epoch, the next step releases
// what it may have kept.
func (s *Scheduler) Lost() {
	s.release = append(s.release, s.step.GetRelease()...)
	s.step = nil
	s.requeueAll()
}

// Refused ends the sequences of the step in flight, which the engine called
// malformed and did not run, and returns their end.
func (s *Scheduler) Refused(err error) []Event {
	pieces := s.step.GetPieces()
	s.release = append(s.release, s.step.GetRelease()...)
	s.step = nil
	var events []Event
	for _, q := range slices.Clone(s.running) {
		if slices.ContainsFunc(pieces, func(p *agentpb.Piece) bool { return p.GetSequence() == q.key }) {
			events = append(events, Event{ID: q.id, Finish: FinishAbort, Err: err})
			s.evict(q)
		}
	}
	return events
}

// Clear ends everything and returns the ids.
func (s *Scheduler) Clear() []ID {
	s.requeueAll()
	ids := make([]ID, 0, len(s.waiting))
	for _, q := range s.waiting {
		ids = append(ids, q.id)
	}
	s.waiting = nil
	return ids
}

func (s *Scheduler) requeueAll() {
	for len(s.running) > 0 {
		s.preempt(s.running[len(s.running)-1])
	}
}

// evict takes a sequence off its rank.
func (s *Scheduler) evict(q *sequence) {
	if i, ok := find(s.running, q.id); ok {
		s.running = slices.Delete(s.running, i, i+1)
	}
	s.free[q.rank] += q.blocks
	s.load[q.rank]--
	s.release = append(s.release, q.key)
	q.blocks, q.cached, q.key = 0, 0, 0
}

// preempt evicts a sequence and queues it in its place by arrival.
func (s *Scheduler) preempt(q *sequence) {
	s.evict(q)
	i, _ := find(s.waiting, q.id)
	s.waiting = slices.Insert(s.waiting, i, q)
}

func find(list []*sequence, id ID) (int, bool) {
	return slices.BinarySearchFunc(list, id, func(q *sequence, id ID) int { return cmp.Compare(q.id, id) })
}

// Stats counts what the scheduler holds.
type Stats struct {
	Running, Waiting int
	// KVBlocksUsed and KVBlocks are over all attention ranks.
	KVBlocksUsed, KVBlocks int
	// KVTokens is the number of tokens whose KV is held, KVCapacity how many
	// fit.
	KVTokens, KVCapacity int
	// Preemptions counts sequences that gave their KV back to make room.
	Preemptions uint64
}

// Stats returns the present counts.
func (s *Scheduler) Stats() Stats {
	total := s.limits.KVBlocks * s.limits.AttentionRanks
	st := Stats{Running: len(s.running), Waiting: len(s.waiting), KVBlocks: total, KVBlocksUsed: total, KVCapacity: total * s.limits.BlockTokens, Preemptions: s.preemptions}
	for _, n := range s.free {
		st.KVBlocksUsed -= n
	}
	for _, q := range s.running {
		st.KVTokens += q.cached
	}
	return st
}
