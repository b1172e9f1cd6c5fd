// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"fmt"
	"math"

	"github.com/findep/findep-operator/runtime/backend"
)

// routing is a router's configuration and the size of its input.
type routing struct {
	name  string
	n     int
	bias  bool
	args  backend.RouterArgs
	logit func(b *bench, r, c int) float32 // nil: random
}

var routings = []routing{
	{"n=0", 0, false, backend.RouterArgs{Experts: 8, TopK: 2, Scale: 1}, nil},
	{"E=1,k=1", 3, false, backend.RouterArgs{Experts: 1, TopK: 1, Scale: 1}, nil},
	{"E=8,k=8", 3, false, backend.RouterArgs{Experts: 8, TopK: 8, Scale: 1, Normalize: true}, nil},
	{"DeepSeek-V2-Lite", 20, false, backend.RouterArgs{Experts: 64, TopK: 6, Groups: 1, TopKGroups: 1, Scale: 1}, nil},
	{"DeepSeek-V2", 20, false, backend.RouterArgs{Experts: 160, TopK: 6, Groups: 8, TopKGroups: 3, Scale: 16}, nil},
	{"DeepSeek-V3", 20, true, backend.RouterArgs{Experts: 256, TopK: 8, Groups: 8, TopKGroups: 4, Scoring: backend.Sigmoid,
		GroupTop2: true, Normalize: true, Scale: 2.5}, nil},
	{"Qwen3", 20, false, backend.RouterArgs{Experts: 128, TopK: 8, Normalize: true, Scale: 1}, nil},
	{"groups-of-one,top2", 5, true, backend.RouterArgs{Experts: 4, TopK: 2, Groups: 4, TopKGroups: 2, GroupTop2: true, Scale: 1}, nil},
	{"ties", 4, false, backend.RouterArgs{Experts: 12, TopK: 5, Groups: 3, TopKGroups: 2, GroupTop2: true, Scale: 1},
		func(_ *bench, r, c int) float32 { return float32(c % (r + 1)) }},
	{"NaN", 4, false, backend.RouterArgs{Experts: 6, TopK: 3, Scoring: backend.Sigmoid, Scale: 1},
		func(b *bench, r, c int) float32 {
			if c < 2*r {
				return nan
			}
			return b.uniform()
		}},
	{"Inf", 3, false, backend.RouterArgs{Experts: 6, TopK: 3, Scoring: backend.Sigmoid, Normalize: true, Scale: 1},
		func(_ *bench, r, c int) float32 { return float32(math.Inf(r*2 + c%2*3 - 3)) }},
	{"masked", 2, false, backend.RouterArgs{Experts: 6, TopK: 4, Scale: 1},
		func(b *bench, _, c int) float32 {
			if c%2 == 0 {
				return -infinity
			}
			return b.uniform()
		}},
}

func routerCases() []testCase {
	var cases []testCase
	for _, r := range routings {
		cases = append(cases, testCase{backend.OpRouter, backend.F32, r.name, 1e-6, r.run})
	}
	return cases
}

func (r routing) run(b *bench) error {
	logits := b.values("logits", backend.F32, r.n, r.args.Experts, func(row, c int) float32 {
		if r.logit != nil {
			return r.logit(b, row, c)
		}
		return 4 * b.uniform()
	})
	var bias backend.Matrix
	if r.bias {
		bias = b.random("bias", backend.F32, 1, r.args.Experts)
	}
	return b.stream.Router(b.out("weights", r.n, r.args.TopK), b.outInts("experts", r.n, r.args.TopK), logits, bias, r.args)
}

// chosen places random distinct experts for n tokens, as a router makes them.
func (b *bench) chosen(n, experts, topK int) backend.Matrix {
	b.t.Helper()
	perm := make([][]int, n)
	for i := range perm {
		perm[i] = b.rng.Perm(experts)
	}
	return b.place("experts", input, backend.I32, n, topK, func(r, c int) uint32 { return uint32(perm[r][c]) })
}

// packing is n tokens with topK experts each; rank e holds the experts
// [starts[e], starts[e+1]).
type packing struct {
	n, topK int
	starts  []int
}

func dispatchCases() []testCase {
	var cases []testCase
	for _, s := range []packing{
		{0, 2, []int{0, 4}}, {1, 1, []int{0, 1}}, {1, 4, []int{0, 4}}, {7, 2, []int{0, 4, 8}}, {7, 3, []int{0, 1, 8}},
		{9, 6, []int{0, 22, 43, 64}}, {33, 6, []int{0, 3, 3, 6, 6, 16}}, {130, 8, []int{0, 32, 64, 96, 128}}, {5, 2, []int{0, 0, 9, 9}},
	} {
		cases = append(cases, testCase{backend.OpDispatch, backend.F32, fmt.Sprintf("n=%d,k=%d,starts=%v", s.n, s.topK, s.starts), 0, s.run})
	}
	return cases
}

func (s packing) run(b *bench) error {
	ranks := len(s.starts) - 1
	rows := s.n * min(s.topK, ranks)
	return b.stream.Dispatch(backend.DispatchArgs{
		Experts: b.chosen(s.n, s.starts[ranks], s.topK), Weights: b.integers("weights", backend.F32, s.n, s.topK),
		ExpertStart: b.column("starts", s.starts...),
		RowStart:    b.outInts("RowStart", ranks+1, 1), RowToken: b.outInts("RowToken", rows, 1),
		PairStart: b.outInts("PairStart", rows+1, 1), PairExpert: b.outInts("PairExpert", s.n*s.topK, 1),
		PairWeight: b.out("PairWeight", s.n*s.topK, 1),
	})
}

// received is random (row, expert) pairs: each row has up to topK distinct
// experts, some have none.
type received struct {
	starts, experts []int
	weights         []float32
}

func (b *bench) received(rows, experts, topK int) received {
	p := received{starts: []int{0}}
	for range rows {
		order := b.rng.Perm(experts)
		for _, e := range order[:b.rng.IntN(min(topK, experts)+1)] {
			p.experts = append(p.experts, e)
			p.weights = append(p.weights, float32(b.rng.IntN(8)+1)/8)
		}
		p.starts = append(p.starts, len(p.experts))
	}
	return p
}

// grouping is rows with up to topK of the experts each.
type grouping struct{ rows, experts, topK int }

func groupExpertsCases() []testCase {
	var cases []testCase
	for _, s := range []grouping{{0, 1, 1}, {0, 5, 2}, {1, 1, 1}, {6, 3, 3}, {20, 32, 6}, {200, 7, 4}} {
		cases = append(cases, testCase{backend.OpGroupExperts, backend.F32, fmt.Sprintf("rows=%d,E=%d,k=%d", s.rows, s.experts, s.topK), 0, s.run})
	}
	return cases
}

func (s grouping) run(b *bench) error {
	p := b.received(s.rows, s.experts, s.topK)
	pairs := len(p.experts)
	return b.stream.GroupExperts(backend.GroupExpertsArgs{Rows: s.rows, Experts: s.experts,
		PairStart: b.column("PairStart", p.starts...), PairExpert: b.column("PairExpert", p.experts...),
		PairWeight: b.floatColumn("PairWeight", p.weights...),
		GroupStart: b.outInts("GroupStart", s.experts+1, 1), GroupRow: b.outInts("GroupRow", pairs, 1),
		GroupWeight: b.out("GroupWeight", pairs, 1)})
}

// groups sorts pairs by expert, as GroupExperts would.
func (p received) groups(experts int) (starts, rows []int, weights []float32) {
	starts = []int{0}
	for e := range experts {
		for r := range len(p.starts) - 1 {
			for i := p.starts[r]; i < p.starts[r+1]; i++ {
				if p.experts[i] == e {
					rows, weights = append(rows, r), append(weights, p.weights[i])
				}
			}
		}
		starts = append(starts, len(rows))
	}
	return starts, rows, weights
}

func expertMLPCases() []testCase {
	var cases []testCase
	for _, w := range weightTypes {
		for _, s := range []struct{ rows, experts, topK, m, h int }{
			{0, 2, 1, 4, 4}, {1, 1, 1, 1, 1}, {5, 3, 2, 16, 8}, {12, 4, 3, 65, 33}, {40, 6, 2, 48, 96}, {90, 2, 2, 200, 150},
			{200, 2, 2, 24, 16}, // an expert has more rows than a tile
		} {
			cases = append(cases, testCase{backend.OpExpertMLP, w,
				fmt.Sprintf("rows=%d,E=%d,k=%d,M=%d,H=%d", s.rows, s.experts, s.topK, s.m, s.h), 6e-6,
				func(b *bench) error {
					starts, rows, weights := b.received(s.rows, s.experts, s.topK).groups(s.experts)
					return b.stream.ExpertMLP(b.out("out", s.rows, s.m), b.random("x", backend.F32, s.rows, s.m), backend.ExpertMLPArgs{
						Experts: s.experts, Hidden: s.h,
						GateUp: b.random("GateUp", w, s.experts*2*s.h, s.m), Down: b.random("Down", w, s.experts*s.m, s.h),
						GroupStart: b.column("GroupStart", starts...), GroupRow: b.column("GroupRow", rows...),
						GroupWeight: b.floatColumn("GroupWeight", weights...),
						Workspace:   b.work("Workspace", len(rows), 3*s.h+2*s.m)})
				}})
		}
	}
	return cases
}
