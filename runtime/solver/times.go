// SPDX-License-Identifier: Apache-2.0

package solver

import (
	"math"

	"github.com/findep/findep-operator/runtime/schedule"
)

// Affine is the time alpha + beta*x of a stage in milliseconds.
type Affine struct {
	Alpha float64 `json:"alpha"`
	Beta  float64 `json:"beta"`
}

// At evaluates the line.
func (a Affine) At(x float64) float64 { return a.Alpha + a.Beta*x }

// plus adds two lines.
func (a Affine) plus(b Affine) Affine { return Affine{a.Alpha + b.Alpha, a.Beta + b.Beta} }

// AttentionTime is the time of a layer's attention in milliseconds. Of every
// sample, the tokens [u, v), as fractions of the sample, cost
// beta*(v-u) + quadratic*(v^2-u^2); alpha is paid per launch. Quadratic is the
// causal core, in which a token attends to all before it.
type AttentionTime struct {
	Alpha     float64 `json:"alpha"`
	Beta      float64 `json:"beta"`
	Quadratic float64 `json:"quadratic,omitempty"`
}

// At is the time of m whole samples.
func (a AttentionTime) At(m float64) float64 { return a.Alpha + m*(a.Beta+a.Quadratic) }

// of is the time of the tokens [u, v) of m samples.
func (a AttentionTime) of(m, u, v float64) float64 {
	return a.Alpha + m*(a.Beta*(v-u)+a.Quadratic*(v*v-u*u))
}

// line is the time of whole samples as a function of their number.
func (a AttentionTime) line() Affine { return Affine{a.Alpha, a.Beta + a.Quadratic} }

// Stages are the models of one layer. Attention and Shared are in samples per
// micro-batch (m_a); Expert, A2E and E2A in tokens per expert and segment (m_e).
type Stages struct {
	Attention AttentionTime `json:"attention"`
	Shared    Affine        `json:"shared"`
	Expert    Affine        `json:"expert"`
	A2E       Affine        `json:"a2e"`
	E2A       Affine        `json:"e2a"`
}

// add sums the models of several layers.
func (s *Stages) add(o *Stages) {
	s.Attention.Alpha += o.Attention.Alpha
	s.Attention.Beta += o.Attention.Beta
	s.Attention.Quadratic += o.Attention.Quadratic
	s.Shared, s.Expert = s.Shared.plus(o.Shared), s.Expert.plus(o.Expert)
	s.A2E, s.E2A = s.A2E.plus(o.A2E), s.E2A.plus(o.E2A)
}

// scaled are the models of n such layers.
func (s Stages) scaled(n float64) Stages {
	scale := func(a Affine) Affine { return Affine{n * a.Alpha, n * a.Beta} }
	a := s.Attention
	return Stages{
		Attention: AttentionTime{n * a.Alpha, n * a.Beta, n * a.Quadratic},
		Shared:    scale(s.Shared), Expert: scale(s.Expert), A2E: scale(s.A2E), E2A: scale(s.E2A),
	}
}

// Times are the durations of one task of each kind in milliseconds: attention
// and shared experts per micro-batch (a, s), the others per segment (c, e, c').
type Times struct {
	Attention float64 `json:"attention"`
	Shared    float64 `json:"shared"`
	A2E       float64 `json:"a2e"`
	Expert    float64 `json:"expert"`
	E2A       float64 `json:"e2a"`
}

// Duration is the time of a task of a schedule whose tasks of one kind are all
// alike; it is a sim.DurationFunc.
func (t Times) Duration(task *schedule.Task) float64 {
	switch task.Kind {
	case schedule.Attention:
		return t.Attention
	case schedule.Shared:
		return t.Shared
	case schedule.A2E:
		return t.A2E
	case schedule.Expert:
		return t.Expert
	default:
		return t.E2A
	}
}

// slowest is Y, the slowest of the three machines a segment passes.
func (t Times) slowest() float64 { return max(t.A2E, t.Expert, t.E2A) }

// loop is G, the time from the start of a micro-batch's attention until its
// last segment is back, alone in the machine (Eq. 12).
func (t Times) loop(r2 int) float64 {
	return t.Attention + t.A2E + t.Expert + t.E2A + float64(r2-1)*t.slowest()
}

// Times are the task durations of a micro-batch of m whole samples in r2
// segments.
func (p *Problem) Times(m, r2 int) Times {
	return p.piece(&p.Stages, float64(m), 0, 1, r2)
}

// piece are the task durations of the tokens [u, v), as fractions, of m samples
// in r2 segments.
func (p *Problem) piece(s *Stages, m, u, v float64, r2 int) Times {
	share := m * (v - u)
	perExpert := share * p.TokensPerExpertPerSample / float64(r2)
	t := Times{
		Attention: s.Attention.of(m, u, v),
		Shared:    s.Shared.At(share),
		A2E:       s.A2E.At(perExpert),
		Expert:    p.expertTime(s.Expert, perExpert),
		E2A:       s.E2A.At(perExpert),
	}
	return t
}

// expertTime is the time of a segment with a mean of perExpert tokens for each
// expert on the fullest expert GPU: the larger of the work, which comes in
// whole GEMM tiles, and of reading the experts that the segment touches.
func (p *Problem) expertTime(line Affine, perExpert float64) float64 {
	rows := perExpert * p.imbalance()
	if tile := float64(p.ExpertTileTokens); tile > 0 {
		// A full tile must not become two by rounding.
		const rounding = 1e-9
		rows = tile * math.Ceil(rows/tile-rounding)
	}
	work := line.Beta * rows
	if p.ExpertLoadMilliseconds > work {
		work = max(work, p.ExpertLoadMilliseconds*p.touched(perExpert))
	}
	return line.Alpha + work
}

// imbalance is the work of the fullest expert GPU relative to the mean.
func (p *Problem) imbalance() float64 { return max(1, p.ExpertImbalance) }

// touched is the expected part of the local experts that a segment with a mean
// of x tokens per expert uses. A token uses an expert with probability a, and a
// segment has x/a tokens: 1-(1-a)^(x/a).
func (p *Problem) touched(x float64) float64 {
	a := p.ExpertActivation
	if a == 0 {
		return min(1, x)
	}
	return -math.Expm1(math.Log1p(-a) * x / a)
}
