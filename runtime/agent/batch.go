// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"fmt"
	"maps"
	"slices"

	"github.com/findep/findep-operator/runtime/agent/agentpb"
)

// sequenceState is what the leader knows of a sequence's KV cache.
type sequenceState struct {
	rank   uint32
	length int
}

// limits bound one step; they come from the model and the ranks' memory.
type limits struct {
	attentionRanks   int
	vocabulary       int
	maxContext       int
	maxStepTokens    int
	blocksPerRank    int
	blockTokens      int
	maxPiecesPerStep int
}

// ledger follows the KV cache of every rank, so that a malformed step is
// refused with a reason before any rank sees it. It holds for one epoch.
type ledger struct {
	limits    limits
	sequences map[uint64]sequenceState
	used      []int // blocks by attention rank
}

func newLedger(l limits) *ledger {
	return &ledger{limits: l, sequences: map[uint64]sequenceState{}, used: make([]int, l.attentionRanks)}
}

func (l *ledger) blocks(tokens int) int {
	return (tokens + l.limits.blockTokens - 1) / l.limits.blockTokens
}

// apply checks a step against what the ranks hold and books it. On an error
// nothing is booked. A ledger whose step failed on the ranks must be thrown
// away with its epoch.
func (l *ledger) apply(req *agentpb.StepRequest) error {
	next := l.clone()
	for _, id := range req.Release {
		if s, ok := next.sequences[id]; ok {
			next.used[s.rank] -= l.blocks(s.length)
			delete(next.sequences, id)
		}
	}
	if len(req.Pieces) > l.limits.maxPiecesPerStep {
		return fmt.Errorf("step has %d pieces; at most %d fit", len(req.Pieces), l.limits.maxPiecesPerStep)
	}
	seen := make(map[uint64]bool, len(req.Pieces))
	tokens := make([]int, l.limits.attentionRanks)
	for _, p := range req.Pieces {
		if seen[p.Sequence] {
			return fmt.Errorf("sequence %d has two pieces in one step", p.Sequence)
		}
		seen[p.Sequence] = true
		if err := next.add(p); err != nil {
			return err
		}
		tokens[p.AttentionRank] += len(p.Tokens)
	}
	for rank := range tokens {
		if tokens[rank] > l.limits.maxStepTokens {
			return fmt.Errorf("attention rank %d gets %d tokens in one step; at most %d fit", rank, tokens[rank], l.limits.maxStepTokens)
		}
		if next.used[rank] > l.limits.blocksPerRank {
			return fmt.Errorf("attention rank %d would hold %d KV blocks; it has %d", rank, next.used[rank], l.limits.blocksPerRank)
		}
	}
	*l = *next
	return nil
}

func (l *ledger) add(p *agentpb.Piece) error {
	if int(p.AttentionRank) >= l.limits.attentionRanks {
		return fmt.Errorf("sequence %d names attention rank %d; there are %d", p.Sequence, p.AttentionRank, l.limits.attentionRanks)
	}
	if len(p.Tokens) == 0 {
		return fmt.Errorf("sequence %d has a piece without tokens", p.Sequence)
	}
	for _, t := range p.Tokens {
		if t < 0 || int(t) >= l.limits.vocabulary {
			return fmt.Errorf("sequence %d has token %d; the vocabulary is 0 to %d", p.Sequence, t, l.limits.vocabulary-1)
		}
	}
	s, known := l.sequences[p.Sequence]
	if known && s.rank != p.AttentionRank {
		return fmt.Errorf("sequence %d lives on attention rank %d, not %d", p.Sequence, s.rank, p.AttentionRank)
	}
	if int(p.Start) != s.length {
		return fmt.Errorf("sequence %d starts at position %d; its KV cache holds %d tokens", p.Sequence, p.Start, s.length)
	}
	length := s.length + len(p.Tokens)
	if length > l.limits.maxContext {
		return fmt.Errorf("sequence %d would have %d tokens; the context is %d", p.Sequence, length, l.limits.maxContext)
	}
	l.used[p.AttentionRank] += l.blocks(length) - l.blocks(s.length)
	l.sequences[p.Sequence] = sequenceState{rank: p.AttentionRank, length: length}
	return nil
}

// held are the sequences with KV.
func (l *ledger) held() []uint64 {
	return slices.Sorted(maps.Keys(l.sequences))
}

// clone copies what apply changes. A step touches few of the sequences, but
// there are at most a few thousand.
func (l *ledger) clone() *ledger {
	c := &ledger{limits: l.limits, sequences: make(map[uint64]sequenceState, len(l.sequences)+8), used: append([]int(nil), l.used...)}
	for id, s := range l.sequences {
		c.sequences[id] = s
	}
	return c
}
