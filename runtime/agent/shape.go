// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"math"

	"github.com/findep/findep-operator/runtime/agent/agentpb"
)

// phase names the two kinds of step that are planned and reported apart.
type phase string

const (
	prefill phase = "Prefill"
	decode  phase = "Decode"
)

// batchShape is what a plan depends on: how much work a step holds and how it
// is spread.
type batchShape struct {
	// samples is the number of pieces, largest the number on the fullest
	// attention rank.
	samples, largest int
	// tokens and pairs are totals of new tokens and (query, key) pairs.
	tokens, pairs int
}

func shapeOf(pieces []*agentpb.Piece, attentionRanks int) batchShape {
	s := batchShape{samples: len(pieces)}
	perRank := make([]int, attentionRanks)
	for _, p := range pieces {
		n := len(p.Tokens)
		s.tokens += n
		// Token i of the piece sees the cache, the tokens before it and itself.
		s.pairs += n*int(p.Start) + n*(n+1)/2
		perRank[p.AttentionRank]++
	}
	for _, n := range perRank {
		s.largest = max(s.largest, n)
	}
	return s
}

func (s batchShape) phase() phase {
	if s.tokens > s.samples {
		return prefill
	}
	return decode
}

func (s batchShape) tokensPerSample() float64 {
	return float64(s.tokens) / math.Max(1, float64(s.samples))
}

func (s batchShape) pairsPerSample() float64 {
	return float64(s.pairs) / math.Max(1, float64(s.samples))
}

// alike tells whether two batches are of one kind of traffic: neither their samples
// nor the new tokens of each differ by more than a factor of two.
func (s batchShape) alike(o batchShape) bool {
	near := func(a, b float64) bool { return a <= 2*b && b <= 2*a }
	return near(float64(s.samples), float64(o.samples)) && near(s.tokensPerSample(), o.tokensPerSample())
}

// shapeKey identifies shapes that share a plan. Tokens and pairs are rounded to
// steps of about a fifth, so that decode steps of growing context mostly hit
// the memo.
type shapeKey struct {
	largest, samples, tokens, pairs int
}

func (s batchShape) key() shapeKey {
	return shapeKey{s.largest, s.samples, logBucket(s.tokensPerSample()), logBucket(s.pairsPerSample())}
}

func logBucket(v float64) int {
	const perDoubling = 4
	return int(math.Round(perDoubling * math.Log2(math.Max(v, 1))))
}
