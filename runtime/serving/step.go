// SPDX-License-Identifier: Apache-2.0

package serving

import (
	"slices"

	"github.com/findep/findep-operator/runtime/agent/agentpb"
)

// maxRunning bounds the sequences that run at once, and so the pieces of a
// step, whatever the KV cache would hold.
const maxRunning = 4096

// stepBuilder collects the pieces of one step.
type stepBuilder struct {
	s      *Scheduler
	pieces []*agentpb.Piece
	// budget is what is left of each rank's tokens in this step.
	budget []int
}

// decode takes the next token of each generating sequence, oldest first, and
// makes room where one enters a new KV block. Only younger sequences yield,
// and those come later in the list, so none that is already in the step does.
func (b *stepBuilder) decode() {
	for _, q := range slices.Clone(b.s.running) {
		if q.key == 0 || q.left() != 1 {
			continue // Preempted in this very loop, or still in its prompt.
		}
		if b.grow(q) {
			b.take(q)
		}
	}
}

// grow reserves the block for the sequence's next token. It is false if the
// sequence itself had to yield.
func (b *stepBuilder) grow(q *sequence) bool {
	s := b.s
	need := s.limits.blocks(len(q.tokens)) - q.blocks
	for need > s.free[q.rank] {
		victim := s.youngest(q.rank)
		s.preempt(victim)
		s.preemptions++
		if victim == q {
			return false
		}
	}
	s.free[q.rank] -= max(need, 0)
	q.blocks += max(need, 0)
	return true
}

// youngest returns the last arrival that runs on a rank where one does.
func (s *Scheduler) youngest(rank int) *sequence {
	for _, q := range slices.Backward(s.running) {
		if q.rank == rank {
			return q
		}
	}
	return nil
}

// prefill continues prompts, oldest first. Their blocks were reserved at
// admission.
func (b *stepBuilder) prefill() {
	for _, q := range b.s.running {
		if q.left() > 1 {
			b.take(q)
		}
	}
}

// admit starts waiting sequences in order until the first that does not fit.
func (b *stepBuilder) admit() {
	s := b.s
	for len(s.waiting) > 0 && len(s.running) < maxRunning {
		q := s.waiting[0]
		need := s.limits.blocks(len(q.tokens))
		rank := b.leastLoaded(need)
		if rank < 0 {
			return
		}
		s.waiting = slices.Delete(s.waiting, 0, 1)
		s.lastKey++
		q.key, q.rank, q.blocks, q.cached = s.lastKey, rank, need, 0
		s.free[rank] -= need
		s.load[rank]++
		s.admitted = append(s.admitted, q.id)
		i, _ := find(s.running, q.id)
		s.running = slices.Insert(s.running, i, q)
		b.take(q)
	}
}

// leastLoaded returns the rank with the most free blocks that takes need more,
// or -1. One block stays free for each sequence already there, so that an
// admission is not undone by their next tokens; and at most StepTokens
// sequences share a rank, so that each gets a token in every step.
func (b *stepBuilder) leastLoaded(need int) int {
	s, best := b.s, -1
	for rank, free := range s.free {
		fits := need+s.load[rank] <= free && s.load[rank] < s.limits.StepTokens && b.budget[rank] > 0
		if fits && (best < 0 || free > s.free[best]) {
			best = rank
		}
	}
	return best
}

// take adds as much of a sequence as the rank's budget allows.
func (b *stepBuilder) take(q *sequence) {
	n := min(q.left(), b.budget[q.rank])
	if n == 0 {
		return
	}
	p := &agentpb.Piece{
		Sequence:      q.key,
		AttentionRank: uint32(q.rank),
		Start:         uint32(q.cached),
		Tokens:        slices.Clone(q.tokens[q.cached : q.cached+n]),
		Logits:        agentpb.LogitsMode_LOGITS_NONE,
		Sampling:      q.Sampling,
	}
	if n == q.left() {
		p.Logits = agentpb.LogitsMode_LOGITS_LAST
	}
	b.pieces = append(b.pieces, p)
	b.budget[q.rank] -= n
}
