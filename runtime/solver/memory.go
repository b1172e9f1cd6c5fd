// SPDX-License-Identifier: Apache-2.0

package solver

import (
	"math"

	"github.com/findep/findep-operator/runtime/plan"
)

// unlimited stands for no bound on samples in flight.
const unlimited = math.MaxInt32

// inFlight is the largest number of samples in flight per attention GPU when
// micro-batches have m samples; 0 if none fits.
func (p *Problem) inFlight(m int) int {
	n := int64(unlimited)
	if p.Limits.SamplesInFlight > 0 {
		n = int64(p.Limits.SamplesInFlight)
	}
	if p.Memory == nil {
		return int(n)
	}
	a := &p.Memory.Attention
	free := a.UsableBytes - a.FixedBytes - a.WorkspaceBytes*int64(m)
	switch {
	case free < 0:
		return 0
	case a.PerSampleBytes > 0:
		n = min(n, free/a.PerSampleBytes)
	}
	return int(n)
}

// MaxPipelineDegree is getMaxR1 of Algorithm 1: the largest r1 for which r1
// micro-batches of m samples fit, not counting the bound on r1 itself.
func (p *Problem) MaxPipelineDegree(m int) int {
	if m < 1 {
		return 0
	}
	return p.inFlight(m) / m
}

// maxTokensPerExpert is the largest m_e that an expert GPU has room for;
// negative if not even its weights fit.
func (p *Problem) maxTokensPerExpert() float64 {
	if p.Memory == nil {
		return math.Inf(1)
	}
	e := &p.Memory.Expert
	free := e.UsableBytes - e.FixedBytes
	switch {
	case free < 0:
		return -1
	case e.PerTokenBytes == 0:
		return math.Inf(1)
	}
	return float64(free) / float64(e.PerTokenBytes)
}

// segmentRange is the range of r2 for micro-batches of m samples: enough
// segments that one fits the expert GPUs, and no more than there are tokens on
// an attention GPU. It is empty (low > high) if the micro-batch is too large.
func (s *search) segmentRange(m int) (low, high int) {
	high = s.maxSegments
	if tokens := int64(m) * int64(s.p.SequenceTokens); tokens < int64(high) {
		high = int(tokens)
	}
	if s.maxTokens < 0 {
		return 1, 0
	}
	need := math.Ceil(float64(m) * s.p.TokensPerExpertPerSample / s.maxTokens)
	if !(need <= float64(high)) {
		return high + 1, high
	}
	return max(1, int(need)), high
}

// Reason says why a problem has no solution.
type Reason string

// The reasons.
const (
	// MemoryExceeded: not even one sample in the smallest pieces fits.
	MemoryExceeded Reason = "MemoryExceeded"
	// BatchExceeded: the given batch does not fit, a smaller one does.
	BatchExceeded Reason = "BatchExceeded"
	// LatencyExceeded: no plan meets the bound on the makespan.
	LatencyExceeded Reason = "LatencyExceeded"
)

// Infeasible says what is missing, and the nearest problem that has a solution.
type Infeasible struct {
	Reason Reason `json:"reason"`
	// Group is the group whose memory is too small; empty if memory is not
	// the reason.
	Group plan.Role `json:"group,omitempty"`
	// NeedBytes and HaveBytes are of one GPU of the group.
	NeedBytes int64 `json:"needBytes,omitempty"`
	HaveBytes int64 `json:"haveBytes,omitempty"`
	// Nearest is what would be feasible.
	Nearest Nearest `json:"nearest,omitzero"`
}

// Nearest names changes, any one of which makes the problem feasible; 0 or nil
// means that this change alone does not help.
type Nearest struct {
	// Split has at least as many GPUs in each group as asked for, or the same
	// total if that suffices.
	Split *Split `json:"split,omitempty"`
	// Batch is the largest batch per attention GPU.
	Batch int `json:"batch,omitempty"`
	// ContextTokens is the longest context.
	ContextTokens int `json:"contextTokens,omitempty"`
	// MakespanMilliseconds is the smallest bound that can be met.
	MakespanMilliseconds float64 `json:"makespanMilliseconds,omitempty"`
}

// memoryInfeasible describes why micro-batches of m samples with `samples` in
// flight do not fit, or returns nil if they do.
func (s *search) memoryInfeasible(m, samples int) *Infeasible {
	if s.p.Memory == nil {
		return nil
	}
	a, e := &s.p.Memory.Attention, &s.p.Memory.Expert
	if need := saturatingAdd(a.FixedBytes+a.WorkspaceBytes*int64(m), a.PerSampleBytes, int64(samples)); need > a.UsableBytes {
		return &Infeasible{Reason: MemoryExceeded, Group: plan.Attention, NeedBytes: need, HaveBytes: a.UsableBytes}
	}
	if low, high := s.segmentRange(m); low > high {
		most := min(s.maxSegments, int(min(int64(m)*int64(s.p.SequenceTokens), plan.MaxR2)))
		perExpert := float64(m) * s.p.TokensPerExpertPerSample / float64(most)
		need := e.FixedBytes + int64(min(math.Ceil(perExpert*float64(e.PerTokenBytes)), math.MaxInt64/4))
		return &Infeasible{Reason: MemoryExceeded, Group: plan.Expert, NeedBytes: need, HaveBytes: e.UsableBytes}
	}
	return nil
}

// saturatingAdd is base + unit*n without overflow, for non-negative values.
func saturatingAdd(base, unit, n int64) int64 {
	const most = math.MaxInt64 / 2
	if unit > 0 && n > (most-min(base, most))/unit {
		return most
	}
	return base + unit*n
}
