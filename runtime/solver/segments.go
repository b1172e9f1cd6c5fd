// SPDX-License-Identifier: Apache-2.0

package solver

import (
	"math"

	"github.com/findep/findep-operator/runtime/schedule"
)

// bestSegments finds r2. The makespan is convex in r2 (Theorem 4), so bisection
// finds the least; where it is not, all are tried. If no r2 is possible, or all
// exceed the bound, it stays 0.
func (s *search) bestSegments(c *choice, near *int, bound float64) {
	low, high := s.segmentRange(c.m, c.chunks)
	high = min(high, (schedule.MaxTasks/(s.p.Layers*c.r1*c.chunks)-2)/3)
	if low > high {
		return
	}
	if !s.convex(c, high) {
		s.everySegment(c, low, high, bound)
		return
	}
	if s.relaxes(c) {
		// The closed form leaves out dense layers and heads: at least those of
		// one micro-batch come on top. Its best r2 is close to the true one.
		*near = s.descend(c, low, high, *near, true)
		if s.relaxed(c, *near) > bound*(1+rounding) {
			return
		}
	}
	c.r2 = s.descend(c, low, high, *near, false)
	c.time = s.evaluate(c, c.r2, math.Inf(1))
	*near, c.cost = c.r2, c.time
}

// relaxes tells that the closed form, without dense layers and heads and with a
// link for each direction, is a lower bound.
func (s *search) relaxes(c *choice) bool {
	return !s.closed && c.chunks == 1 && len(s.p.PerLayer) == 0 && s.last(c.m, c.r1) == c.m
}

// relaxed is a lower bound of the makespan of whole samples.
func (s *search) relaxed(c *choice, r2 int) float64 {
	s.line.steps += closedSteps
	e := candidate{m: c.m, last: c.m, r1: c.r1, chunks: 1}
	once := s.p.Dense.At(float64(c.m)) + s.p.Head.At(float64(c.m)) + s.outside(&e)
	return once + s.p.Times(c.m, r2).Makespan(s.policy, c.order, s.p.Layers, c.r1, r2)
}

// descend returns the least r2 at which the makespan, or its lower bound, has
// its minimum, looking near a guess first. Values that differ by rounding count
// as equal.
func (s *search) descend(c *choice, low, high, guess int, relaxed bool) int {
	at := max(low, min(high, guess))
	switch {
	case at < high && s.falls(c, at, relaxed):
		low = at + 1
	case at == low || s.falls(c, at-1, relaxed):
		return at
	default:
		high = at - 1
	}
	for low < high {
		if middle := (low + high) / 2; s.falls(c, middle, relaxed) {
			low = middle + 1
		} else {
			high = middle
		}
	}
	return low
}

// falls tells whether one segment more than r2 is faster.
func (s *search) falls(c *choice, r2 int, relaxed bool) bool {
	if relaxed {
		return s.relaxed(c, r2+1)*(1+rounding) < s.relaxed(c, r2)
	}
	return s.evaluate(c, r2+1, math.Inf(1))*(1+rounding) < s.evaluate(c, r2, math.Inf(1))
}

// everySegment tries all r2.
func (s *search) everySegment(c *choice, low, high int, bound float64) {
	c.time = bound * (1 + rounding)
	bounded := s.relaxes(c)
	for r2 := low; r2 <= high && (r2 == low || !s.stopped()); r2++ {
		if bounded {
			if least := s.relaxed(c, r2); least > c.time || c.r2 > 0 && least >= c.time*(1-rounding) {
				continue
			}
		}
		if d := s.evaluate(c, r2, c.time); d < c.time || c.r2 == 0 && d == c.time {
			c.r2, c.time = r2, d
		}
	}
	c.cost = c.time
}

// convex tells whether Theorem 4 holds. It needs segments whose times are
// affine in their size, or the larger of an affine time and a constant: not
// tiles, not a floor that depends on the size, and not one link for both
// directions.
func (s *search) convex(c *choice, high int) bool {
	p := s.p
	if p.ExpertTileTokens > 0 || p.HalfDuplex {
		return false
	}
	if p.ExpertLoadMilliseconds == 0 {
		return true
	}
	// The floor rises more slowly than the work, so it matters nowhere if not
	// for the smallest segments.
	smallest := float64(s.last(c.m, c.r1)) * p.TokensPerExpertPerSample / float64(c.chunks) / float64(high)
	if p.ExpertActivation == 0 && smallest >= 1 {
		return true
	}
	return p.ExpertLoadMilliseconds*p.touched(smallest) <= p.leastExpertBeta()*smallest*p.imbalance()
}

// leastExpertBeta is the slope of the layer with the fastest experts.
func (p *Problem) leastExpertBeta() float64 {
	if len(p.PerLayer) == 0 {
		return p.Stages.Expert.Beta
	}
	least := p.PerLayer[0].Expert.Beta
	for i := range p.PerLayer {
		least = min(least, p.PerLayer[i].Expert.Beta)
	}
	return least
}

// evaluate is the makespan of a choice with r2 segments. It may be +Inf if it
// is certain to exceed the bound.
func (s *search) evaluate(c *choice, r2 int, bound float64) float64 {
	s.candidates++
	e := candidate{m: c.m, last: s.last(c.m, c.r1), r1: c.r1, r2: r2, order: c.order, chunks: c.chunks}
	outside := s.outside(&e)
	if e.last == e.m && (c.chunks == 1 && s.closed || s.closedChunks) {
		s.line.steps += closedSteps
		t := s.p.piece(&s.p.Stages, float64(c.m), 0, 1/float64(c.chunks), r2)
		return outside + t.Makespan(s.policy, c.order, s.p.Layers, c.r1*c.chunks, r2)
	}
	s.line.load(s.p, s.policy, &e)
	return outside + s.line.makespan(bound-outside)
}

// last is the number of samples of the last micro-batch, never more than m.
func (s *search) last(m, r1 int) int {
	if s.p.Batch > 0 && s.p.ExactRemainder {
		return s.p.Batch - (r1-1)*m
	}
	return m
}

// outside is the time that overlaps with nothing.
func (s *search) outside(c *candidate) float64 {
	o := s.p.Outside
	return o.Alpha*float64(c.r1*c.chunks) + o.Beta*float64((c.r1-1)*c.m+c.last)
}
