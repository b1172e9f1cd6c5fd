// SPDX-License-Identifier: Apache-2.0

package reference

import (
	"slices"

	"github.com/findep/findep-operator/runtime/backend"
)

// pair is one use of an expert by a token.
type pair struct {
	expert int
	weight float32
}

// Dispatch implements backend.Stream.
func (*stream) Dispatch(p backend.DispatchArgs) error {
	a := args{op: "dispatch"}
	experts, weights := a.i32("Experts", p.Experts, 0, 0), a.f32("Weights", p.Weights)
	n, topK := experts.rows, experts.cols
	a.shape("Weights", weights.rows, weights.cols, n, topK)
	first := a.i32("ExpertStart", p.ExpertStart, 2, 1)
	ranks := first.rows - 1
	rows := n * min(topK, max(ranks, 0))
	rowStart, rowToken := a.i32("RowStart", p.RowStart, ranks+1, 1), a.i32("RowToken", p.RowToken, rows, min(rows, 1))
	pairStart := a.i32("PairStart", p.PairStart, rows+1, 1)
	pairExpert, pairWeight := a.i32("PairExpert", p.PairExpert, n*topK, min(n, 1)), a.f32("PairWeight", p.PairWeight)
	a.atLeast("PairWeight", pairWeight.rows, pairWeight.cols, n*topK, min(n, 1))
	total := a.starts("ExpertStart", first, ranks, maxSize)
	for t := 0; t < n && a.err == nil; t++ {
		for k, e := range experts.row(t) {
			a.require(e >= 0 && int(e) < total, "Experts[%d,%d] is %d; it must be in [0, %d)", t, k, e, total)
		}
	}
	if a.err != nil {
		return a.err
	}
	row, pairs := 0, 0
	rowStart.set(0, 0)
	pairStart.set(0, 0)
	for e := range ranks {
		for t := range n {
			found := pairsOf(experts.row(t), weights.row(t), first.at(e), first.at(e+1))
			if len(found) == 0 {
				continue
			}
			rowToken.set(row, t)
			for _, f := range found {
				pairExpert.set(pairs, f.expert)
				pairWeight.set(pairs, f.weight)
				pairs++
			}
			row++
			pairStart.set(row, pairs)
		}
		rowStart.set(e+1, row)
	}
	return nil
}

// pairsOf lists the uses of experts [from, to), numbered from 0, ascending.
func pairsOf(experts []int32, weights []float32, from, to int) []pair {
	var found []pair
	for k, e := range experts {
		if int(e) >= from && int(e) < to {
			found = append(found, pair{int(e) - from, weights[k]})
		}
	}
	slices.SortStableFunc(found, func(x, y pair) int { return x.expert - y.expert })
	return found
}

// GroupExperts implements backend.Stream.
func (*stream) GroupExperts(p backend.GroupExpertsArgs) error {
	a := args{op: "groupexperts"}
	a.require(p.Rows >= 0 && p.Rows <= maxSize && p.Experts > 0 && p.Experts <= maxSize,
		"Rows %d and Experts %d must be in [0, %d] and [1, %d]", p.Rows, p.Experts, maxSize, maxSize)
	pairStart := a.i32("PairStart", p.PairStart, p.Rows+1, 1)
	pairExpert, pairWeight := a.i32("PairExpert", p.PairExpert, 0, 0), a.f32("PairWeight", p.PairWeight)
	groupStart := a.i32("GroupStart", p.GroupStart, p.Experts+1, 1)
	groupRow, groupWeight := a.i32("GroupRow", p.GroupRow, 0, 0), a.f32("GroupWeight", p.GroupWeight)
	pairs := a.starts("PairStart", pairStart, p.Rows, min(pairExpert.rows, pairWeight.rows))
	a.require(min(groupRow.rows, groupWeight.rows) >= pairs, "GroupRow and GroupWeight have %d and %d places for %d pairs",
		groupRow.rows, groupWeight.rows, pairs)
	for i := 0; i < pairs && a.err == nil; i++ {
		a.index("PairExpert", pairExpert, i, p.Experts)
	}
	if a.err != nil {
		return a.err
	}
	at := 0
	groupStart.set(0, 0)
	for e := range p.Experts {
		for r := range p.Rows {
			for i := pairStart.at(r); i < pairStart.at(r+1); i++ {
				if pairExpert.at(i) == e {
					groupRow.set(at, r)
					groupWeight.set(at, pairWeight.at(i))
					at++
				}
			}
		}
		groupStart.set(e+1, at)
	}
	return nil
}

// ExpertMLP implements backend.Stream. It has its own scratch memory and
// leaves the workspace alone, but insists that it would be large enough.
func (s *stream) ExpertMLP(outM, xM backend.Matrix, p backend.ExpertMLPArgs) error {
	a := args{op: "expertmlp"}
	out, x, gateUp, down := a.f32("out", outM), a.f32("x", xM), a.weight("GateUp", p.GateUp), a.weight("Down", p.Down)
	if !positive(&a, p.Experts, p.Hidden) {
		return a.err
	}
	m, h := x.cols, p.Hidden
	a.shape("out", out.rows, out.cols, x.rows, m)
	a.shape("GateUp", gateUp.rows, gateUp.cols, p.Experts*2*h, m)
	a.shape("Down", down.rows, down.cols, p.Experts*m, h)
	start := a.i32("GroupStart", p.GroupStart, p.Experts+1, 1)
	row, weight := a.i32("GroupRow", p.GroupRow, 0, 0), a.f32("GroupWeight", p.GroupWeight)
	pairs := a.starts("GroupStart", start, p.Experts, min(row.rows, weight.rows))
	workspace := a.f32("Workspace", p.Workspace)
	a.require(pairs == 0 || workspace.rows >= pairs && workspace.cols >= 3*h+2*m,
		"Workspace is %d x %d; it must be at least %d x %d", workspace.rows, workspace.cols, pairs, 3*h+2*m)
	for i := 0; i < pairs && a.err == nil; i++ {
		a.index("GroupRow", row, i, x.rows)
	}
	if a.err != nil {
		return a.err
	}
	for r := range out.rows {
		clear(out.row(r))
	}
	for e := range p.Experts {
		from, to := start.at(e), start.at(e+1)
		result := s.expert(x, row, from, to, gateUp, down, e, h)
		for i := from; i < to; i++ {
			sum := out.row(row.at(i))
			for c, v := range result.row(i - from) {
				sum[c] += weight.at(i) * v
			}
		}
	}
	return nil
}

// expert computes expert e for the rows of places [from, to).
func (s *stream) expert(x floats, row ints, from, to int, gateUp, down weight, e, h int) floats {
	n, m := to-from, x.cols
	in, both, act, result := dense(n, m), dense(n, 2*h), dense(n, h), dense(n, m)
	for i := range n {
		copy(in.row(i), x.row(row.at(from+i)))
	}
	matMul(both, s.narrowed(in, gateUp), gateUp, e*2*h, false)
	swiGLU(act, both)
	matMul(result, s.narrowed(act, down), down, e*m, false)
	return result
}

func dense(rows, cols int) floats { return floats{make([]float32, rows*cols), rows, cols, cols} }
