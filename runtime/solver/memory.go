// SPDX-License-Identifier: Apache-2.0

package solver

import (
	"math"
	"sort"

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

// segmentRange is the range of r2 for micro-batches of m samples in q chunks:
// enough segments that one fits the expert GPUs, and no more than a chunk has
// tokens. It is empty (low > high) if the micro-batch is too large.
func (s *search) segmentRange(m, q int) (low, high int) {
	high = s.maxSegments
	if tokens := int64(m) * int64(s.p.SequenceTokens) / int64(q); tokens < int64(high) {
		high = int(tokens)
	}
	if s.maxTokens < 0 {
		return 1, 0
	}
	if math.IsInf(s.maxTokens, 1) {
		return 1, high
	}
	need := math.Ceil(float64(m) * s.p.TokensPerExpertPerSample * s.p.imbalance() / float64(q) / s.maxTokens)
	if !(need <= float64(high)) {
		return high + 1, high
	}
	return max(1, int(need)), high
}

// fits tells whether micro-batches of m samples fit the expert GPUs, in some
// number of chunks.
func (s *search) fits(m int) bool {
	for q := 1; q <= s.maxChunks; q++ {
		s.line.steps++
		if low, high := s.segmentRange(m, q); low <= high {
			return true
		}
	}
	return false
}

// chunksNeedMemory tells whether a large micro-batch must be cut to fit the
// expert GPUs while chunks are allowed. Tokens cannot be cut, so what fits in
// chunks need not grow evenly with m_a.
func (s *search) chunksNeedMemory() bool {
	if s.maxChunks == 1 {
		return false
	}
	low, high := s.segmentRange(s.mostSamples(), 1)
	return low > 1 || low > high
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
	if s.fits(m) {
		return nil
	}
	// The fullest GPU holds this much of the smallest segment.
	perExpert := float64(m) * s.p.TokensPerExpertPerSample * s.p.imbalance() / float64(s.mostParts(m))
	need := e.FixedBytes + int64(min(math.Ceil(perExpert*float64(e.PerTokenBytes)), math.MaxInt64/4))
	return &Infeasible{Reason: MemoryExceeded, Group: plan.Expert, NeedBytes: need, HaveBytes: e.UsableBytes}
}

// mostParts is into how many segments, over all its chunks, a micro-batch can
// be cut.
func (s *search) mostParts(m int) int {
	most := 1
	for q := 1; q <= s.maxChunks; q++ {
		tokens := int64(m) * int64(s.p.SequenceTokens) / int64(q)
		most = max(most, q*int(min(int64(s.maxSegments), tokens)))
	}
	return most
}

// batchInfeasible finds the largest batch that fits.
func (s *search) batchInfeasible() {
	if s.infeasible = s.memoryInfeasible(1, 1); s.infeasible != nil {
		return
	}
	fits := func(batch int) bool {
		m := ceilDiv(batch, s.maxDegree)
		return m <= s.maxMicroBatch && s.fits(m) && s.p.inFlight(m) >= batch
	}
	nearest := sort.Search(s.p.Batch, func(i int) bool { return !fits(i + 1) })
	m := ceilDiv(s.p.Batch, s.maxDegree)
	s.infeasible = &Infeasible{}
	if m <= s.maxMicroBatch {
		if memory := s.memoryInfeasible(m, s.p.Batch); memory != nil {
			s.infeasible = memory
		}
	}
	s.infeasible.Reason = BatchExceeded
	s.infeasible.Nearest = Nearest{Batch: nearest}
}

// saturatingAdd is base + unit*n without overflow, for non-negative values.
func saturatingAdd(base, unit, n int64) int64 {
	const most = math.MaxInt64 / 2
	if unit > 0 && n > (most-min(base, most))/unit {
		return most
	}
	return base + unit*n
}
