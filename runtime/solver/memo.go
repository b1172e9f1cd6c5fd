// SPDX-License-Identifier: Apache-2.0

package solver

import (
	"context"
	"math"
	"sync"

	"github.com/findep/findep-operator/runtime/plan"
)

// Memo remembers the results of problems already solved, so that a workload
// that comes back costs a lookup. It holds at most about the number of results
// it was made for and forgets those not asked for longest. It may be used by
// several goroutines.
type Memo struct {
	mu     sync.Mutex
	solver Solver
	size   int
	// young and old are two generations: when young is full it becomes old,
	// and what was old and has not been asked for since is forgotten.
	young, old map[key]Result
}

// NewMemo returns a memo of at most size results, at least 2.
func NewMemo(size int) *Memo {
	return &Memo{size: max(1, size/2), young: map[key]Result{}}
}

// Solve is Solver.Solve, from memory if the same problem was solved before.
// Problems with layers that differ are solved every time. A remembered result
// shares Infeasible with earlier ones; nobody may modify it.
func (m *Memo) Solve(ctx context.Context, p *Problem, policy plan.Policy) (Result, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	k, ok := keyOf(p, policy)
	if !ok {
		return m.solver.Solve(ctx, p, policy)
	}
	if r, ok := m.young[k]; ok {
		return r, nil
	}
	r, ok := m.old[k]
	if !ok {
		var err error
		if r, err = m.solver.Solve(ctx, p, policy); err != nil {
			return r, err
		}
	}
	if len(m.young) >= m.size {
		m.young, m.old = map[key]Result{}, m.young
	}
	m.young[k] = r
	return r, nil
}

// Len is the number of remembered results.
func (m *Memo) Len() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.young) + len(m.old)
}

// keyWords is the number of scalars of a problem.
const keyWords = 48

// key is everything a result depends on, as bits. Equal keys are equal problems,
// but for NaN and negative zero, which no valid problem with a result has.
type key [keyWords]uint64

// keyOf packs a problem; ok is false if it has parts of variable length.
func keyOf(p *Problem, policy plan.Policy) (k key, ok bool) {
	if len(p.PerLayer) > 0 {
		return k, false
	}
	n := 0
	add := func(words ...uint64) { n += copy(k[n:], words) }
	line := func(a Affine) { add(math.Float64bits(a.Alpha), math.Float64bits(a.Beta)) }
	attention := func(a AttentionTime) {
		add(math.Float64bits(a.Alpha), math.Float64bits(a.Beta), math.Float64bits(a.Quadratic))
	}
	s, l := &p.Stages, &p.Limits
	attention(s.Attention)
	line(s.Shared)
	line(s.Expert)
	line(s.A2E)
	line(s.E2A)
	attention(p.Dense)
	line(p.Head)
	line(p.Outside)
	add(uint64(p.Layers), uint64(p.AttentionGPUs), uint64(p.SequenceTokens), uint64(p.Batch), uint64(p.Samples), uint64(p.ExpertTileTokens),
		math.Float64bits(p.TokensPerExpertPerSample), math.Float64bits(p.ExpertLoadMilliseconds),
		math.Float64bits(p.ExpertActivation), math.Float64bits(p.ExpertImbalance),
		uint64(l.SamplesInFlight), uint64(l.MaxMicroBatch), uint64(l.MaxPipelineDegree), uint64(l.MaxSegments), uint64(l.MaxChunks),
		math.Float64bits(l.MakespanMilliseconds),
		flags(p.HalfDuplex, p.ExactRemainder, l.UnequalChunks, p.Memory != nil), code(p.Order), policyCode(policy))
	if m := p.Memory; m != nil {
		add(uint64(m.Attention.UsableBytes), uint64(m.Attention.FixedBytes), uint64(m.Attention.PerSampleBytes), uint64(m.Attention.WorkspaceBytes),
			uint64(m.Expert.UsableBytes), uint64(m.Expert.FixedBytes), uint64(m.Expert.PerTokenBytes))
	}
	return k, true
}

func flags(bits ...bool) uint64 {
	var f uint64
	for i, b := range bits {
		if b {
			f |= 1 << i
		}
	}
	return f
}

// code numbers the orders; what is none of them is refused before it is
// remembered.
func code(o plan.Order) uint64 {
	switch o {
	case plan.ASAS:
		return 1
	case plan.AASS:
		return 2
	case "", plan.OrderAuto:
		return 0
	}
	return math.MaxUint64
}

func policyCode(p plan.Policy) uint64 {
	switch p {
	case plan.FinDEP:
		return 1
	case plan.PPPipe:
		return 2
	case plan.Sequential:
		return 3
	}
	return math.MaxUint64
}
