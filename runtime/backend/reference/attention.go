// SPDX-License-Identifier: Apache-2.0

package reference

import (
	"math"

	"github.com/findep/findep-operator/runtime/backend"
)

// attention holds the arguments of Attention, taken apart and checked.
type attention struct {
	backend.AttentionArgs
	out, q, keys, values  floats
	start, context, table ints
}

// Attention implements backend.Stream.
func (*stream) Attention(out, q, keys, values backend.Matrix, p backend.AttentionArgs) error {
	a := args{op: "attention"}
	t := attention{AttentionArgs: p,
		out: a.f32("out", out), q: a.f32("q", q), keys: a.cached("keys", keys), values: a.cached("values", values)}
	a.require(keys.DType == values.DType, "keys have elements of type %s and values of type %s", keys.DType, values.DType)
	t.context = a.i32("ContextLength", p.ContextLength, 0, 1)
	pieces := t.context.rows
	t.start = a.i32("QueryStart", p.QueryStart, pieces+1, 1)
	t.table = a.i32("BlockTable", p.BlockTable, pieces, 0)
	if !positive(&a, p.Heads, p.KVHeads, p.KeyDim, p.ValueDim, p.BlockSize) {
		return a.err
	}
	a.require(p.Heads%p.KVHeads == 0, "Heads %d must be a multiple of KVHeads %d", p.Heads, p.KVHeads)
	a.shape("q", t.q.rows, t.q.cols, t.q.rows, p.Heads*p.KeyDim)
	a.shape("out", t.out.rows, t.out.cols, t.q.rows, p.Heads*p.ValueDim)
	a.shape("keys", t.keys.rows, t.keys.cols, t.keys.rows, p.KVHeads*p.KeyDim)
	a.shape("values", t.values.rows, t.values.cols, t.keys.rows, p.KVHeads*p.ValueDim)
	a.starts("QueryStart", t.start, pieces, t.q.rows)
	for s := 0; s < pieces && a.err == nil; s++ {
		t.piece(&a, s)
	}
	return a.err
}

// piece computes the rows of piece s.
func (t *attention) piece(a *args, s int) {
	from, to, context := t.start.at(s), t.start.at(s+1), t.context.at(s)
	if from == to {
		return
	}
	a.require(context >= to-from, "piece %d has %d rows but only %d tokens of context", s, to-from, context)
	a.require(context <= t.table.cols*t.BlockSize, "piece %d has %d tokens of context but its block table has room for %d",
		s, context, t.table.cols*t.BlockSize)
	if a.err != nil {
		return
	}
	slots := make([]int, context)
	for i := range slots {
		block := int(t.table.row(s)[i/t.BlockSize])
		slots[i] = block*t.BlockSize + i%t.BlockSize
		a.require(block >= 0 && slots[i] < t.keys.rows, "BlockTable[%d,%d] is block %d, beyond the cache's %d slots",
			s, i/t.BlockSize, block, t.keys.rows)
	}
	if a.err != nil {
		return
	}
	for r := from; r < to; r++ {
		for h := range t.Heads {
			t.row(r, h, slots[:context-(to-r)+1])
		}
	}
}

// row computes softmax(scale * q K^T) V for one query head over the given slots.
func (t *attention) row(r, h int, slots []int) {
	kv := h / (t.Heads / t.KVHeads)
	q := t.q.row(r)[h*t.KeyDim:][:t.KeyDim]
	scores := make([]float64, len(slots))
	highest := math.Inf(-1)
	for i, slot := range slots {
		scores[i] = float64(t.Scale) * dot(q, t.keys.row(slot)[kv*t.KeyDim:][:t.KeyDim])
		highest = max(highest, scores[i])
	}
	var sum float64
	for i := range scores {
		scores[i] = math.Exp(scores[i] - highest)
		sum += scores[i]
	}
	result := make([]float64, t.ValueDim)
	for i, slot := range slots {
		for c, v := range t.values.row(slot)[kv*t.ValueDim:][:t.ValueDim] {
			result[c] += scores[i] / sum * float64(v)
		}
	}
	out := t.out.row(r)[h*t.ValueDim:]
	for c, v := range result {
		out[c] = float32(v)
	}
}
