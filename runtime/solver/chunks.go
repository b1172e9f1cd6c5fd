// SPDX-License-Identifier: Apache-2.0

package solver

import (
	"math"

	"github.com/findep/findep-operator/runtime/plan"
)

const (
	// whole is a sample in permilles.
	whole = 1000
	// coarsest is the first step, in permilles, by which boundaries move.
	coarsest = 128
)

// cut is a choice with unequal chunks: boundaries[0] = 0 ... boundaries[q] = 1000.
type cut struct {
	choice
	boundaries [plan.MaxChunks + 1]int
}

// refineChunks looks for unequal chunks that beat the best plan at its m_a and
// r1. From equal chunks, and from chunks with the same time on the attention
// GPU, it moves one boundary after the other by ever smaller steps while that
// helps. The makespan is not convex in the boundaries, so the result is the
// best of what was tried and never worse than equal chunks.
func (s *search) refineChunks() {
	m, r1 := s.best.m, s.best.r1
	for q := 2; q <= s.maxChunks && !s.stopped(); q++ {
		tokens := float64(m*r1) * s.p.TokensPerExpertPerSample
		if max(s.attentionWork(float64(m*r1), float64(r1*q), float64(r1)), s.linkWork(tokens, float64(r1*q))) > s.best.time {
			// More chunks only cost more launches.
			break
		}
		for _, start := range [...]func(*cut){s.equalCut, s.balancedCut} {
			for _, order := range [...]plan.Order{plan.ASAS, plan.AASS} {
				if order == plan.ASAS && !s.tryASAS || order == plan.AASS && !s.tryAASS {
					continue
				}
				c := cut{choice: choice{m: m, r1: r1, chunks: q, order: order, r2: s.best.r2}}
				start(&c)
				s.refine(&c)
			}
		}
	}
}

// refine descends from one start and keeps the result if it is the best.
func (s *search) refine(c *cut) {
	if c.time = s.costOf(c, math.Inf(1)); math.IsInf(c.time, 1) {
		return
	}
	for step := coarsest; step >= 1; step /= 2 {
		for improved := true; improved && !s.stopped(); {
			improved = s.moveSegments(c)
			for j := 1; j < c.chunks && !s.stopped(); j++ {
				improved = s.moveBoundary(c, j, -step) || s.moveBoundary(c, j, step) || improved
			}
		}
	}
	samples := s.samples(c.m, c.r1)
	if c.cost = c.time / samples; c.better(&s.best) {
		if b, err := plan.NewBoundaries(c.boundaries[1:c.chunks]); err == nil {
			c.unequal = b
			s.best = c.choice
		}
	}
}

// moveBoundary keeps a step of one boundary if it makes the plan faster.
func (s *search) moveBoundary(c *cut, j, step int) bool {
	c.boundaries[j] += step
	if c.boundaries[j] > c.boundaries[j-1] && c.boundaries[j] < c.boundaries[j+1] {
		if d := s.costOf(c, c.time); d < c.time*(1-rounding) {
			c.time = d
			return true
		}
	}
	c.boundaries[j] -= step
	return false
}

// moveSegments keeps one segment more or fewer if that makes the plan faster.
func (s *search) moveSegments(c *cut) bool {
	for _, step := range [...]int{1, -1} {
		c.r2 += step
		if d := s.costOf(c, c.time); d < c.time*(1-rounding) {
			c.time = d
			return true
		}
		c.r2 -= step
	}
	return false
}

// costOf is the makespan of a cut, or +Inf if it does not fit or is certain to
// exceed the bound.
func (s *search) costOf(c *cut, bound float64) float64 {
	if c.r2 < 1 || c.r2 > s.maxSegments || s.mostPieces(c.r2) < c.r1*c.chunks {
		return math.Inf(1)
	}
	fractions := &s.line.fractions
	for j := 1; j <= c.chunks; j++ {
		width := c.boundaries[j] - c.boundaries[j-1]
		tokens := width * s.p.SequenceTokens / whole
		perExpert := float64(c.m) * s.p.TokensPerExpertPerSample * s.p.imbalance() * float64(width) / whole / float64(c.r2)
		if tokens < 1 || c.m*tokens < c.r2 || perExpert > s.maxTokens {
			return math.Inf(1)
		}
		fractions[j] = float64(c.boundaries[j]) / whole
	}
	s.candidates++
	e := candidate{m: c.m, last: s.last(c.m, c.r1), r1: c.r1, r2: c.r2, order: c.order, chunks: c.chunks, boundary: fractions}
	outside := s.outside(&e)
	s.line.load(s.p, s.policy, &e)
	return outside + s.line.makespan(bound-outside)
}

// equalCut sets chunks of equal length.
func (s *search) equalCut(c *cut) {
	for j := range c.chunks + 1 {
		c.boundaries[j] = j * whole / c.chunks
	}
}

// balancedCut sets chunks that take the same time on the attention GPU, so the
// first ones are the longest: with linear part l and quadratic part k of a
// sample, the first u of it take l*u + k*u^2.
func (s *search) balancedCut(c *cut) {
	k := s.sums.Attention.Quadratic
	l := s.sums.Attention.Beta + s.sums.Shared.Beta
	if k == 0 || c.chunks > whole/2 {
		s.equalCut(c)
		return
	}
	c.boundaries[0], c.boundaries[c.chunks] = 0, whole
	for j := 1; j < c.chunks; j++ {
		share := (l + k) * float64(j) / float64(c.chunks)
		u := (math.Sqrt(l*l+4*k*share) - l) / (2 * k)
		at := int(math.Round(whole * u))
		c.boundaries[j] = max(c.boundaries[j-1]+1, min(at, whole-(c.chunks-j)))
	}
}
