// SPDX-License-Identifier: Apache-2.0

package solver

import "math"

// lower is a time that no plan with this m_a, r1 and between few and many equal
// chunks can beat, whatever r2 and the order: the work of the busiest resource,
// and all layers of a last chunk alone in the machine. Divided by the samples
// it does not grow with r1 nor, but for tiles, with m_a.
func (s *search) lower(m, r1, few, many int) float64 {
	s.line.steps++
	p, sum := s.p, &s.sums
	samples, pieces := float64(r1*m), float64(r1*few)
	if p.Batch > 0 && p.ExactRemainder {
		samples = float64(p.Batch)
	}
	tokens := samples * p.TokensPerExpertPerSample
	load := max(s.attentionWork(samples, pieces, float64(r1)), s.linkWork(tokens, pieces))
	part := float64(m) * p.TokensPerExpertPerSample / float64(few)
	expert := pieces*sum.Expert.Alpha + sum.Expert.Beta*tokens*p.imbalance()
	if p.Batch == 0 || !p.ExactRemainder {
		// Every piece also pays for whole tiles and for the weights it reads,
		// at least as if it were one segment.
		expert = pieces * s.expertWork(part)
	}
	smallest := float64(m) * p.TokensPerExpertPerSample / float64(many)
	return max(load, expert, s.alone(float64(m), smallest, float64(many))) + p.Outside.Alpha*pieces + p.Outside.Beta*samples
}

// attentionWork is the busy time of an attention GPU.
func (s *search) attentionWork(samples, pieces, groups float64) float64 {
	a, d := s.sums.Attention.line().plus(s.sums.Shared), s.p.Dense.line()
	return pieces*(a.Alpha+d.Alpha) + samples*(a.Beta+d.Beta) + groups*s.p.Head.Alpha + samples*s.p.Head.Beta
}

// linkWork is the busy time of the busier link.
func (s *search) linkWork(tokens, pieces float64) float64 {
	to, from := s.sums.A2E, s.sums.E2A
	there, back := pieces*to.Alpha+tokens*to.Beta, pieces*from.Alpha+tokens*from.Beta
	if s.p.HalfDuplex {
		return there + back
	}
	return max(there, back)
}

// expertWork is the time that a piece takes an expert GPU over all layers as
// one segment.
func (s *search) expertWork(tokens float64) float64 {
	work := s.p.expertTime(Affine{Beta: s.sums.Expert.Beta}, tokens)
	if load := s.p.ExpertLoadMilliseconds; load > 0 {
		work = max(work, load*float64(s.p.Layers)*s.p.touched(tokens))
	}
	return s.sums.Expert.Alpha + work
}

// alone is the time of the last chunk alone in the machine with segments as
// small as can be.
func (s *search) alone(m, tokens, q float64) float64 {
	sum := &s.sums
	u := 1 - 1/q
	t := sum.Attention.of(m, u, 1) + sum.A2E.Alpha + sum.Expert.Alpha + sum.E2A.Alpha
	c, e, back := tokens*sum.A2E.Beta, tokens*sum.Expert.Beta*s.p.imbalance(), tokens*sum.E2A.Beta
	if s.maxSegments > 1 {
		return t + max(c, e, back)
	}
	return t + c + e + back
}

// perSample is the least time per sample of any plan with at most m samples
// per micro-batch.
func (s *search) perSample(m int) float64 {
	s.line.steps++
	p, sum := s.p, &s.sums
	n := 1 / float64(m)
	tokens := p.TokensPerExpertPerSample
	expert := n*sum.Expert.Alpha + sum.Expert.Beta*tokens*p.imbalance()
	if load := p.ExpertLoadMilliseconds; load > 0 {
		expert = max(expert, n*(sum.Expert.Alpha+load*float64(p.Layers)*p.touched(float64(m)*tokens)))
	}
	// With chunks a micro-batch is one launch per chunk, and so at least one.
	return max(s.attentionWork(1, n, n), s.linkWork(tokens, n), expert) + p.Outside.Alpha*n + p.Outside.Beta
}

// gap is by how much, relatively, a better plan could undercut the best one.
func (s *search) gap() float64 {
	if !s.exhausted || s.best.r1 == 0 {
		return 0
	}
	least := s.perSample(s.maxMicroBatch)
	if b := s.p.Batch; b > 0 {
		least = s.perSample(min(b, s.maxMicroBatch)) * float64(b)
	}
	return math.Max(0, 1-least/s.best.cost)
}
