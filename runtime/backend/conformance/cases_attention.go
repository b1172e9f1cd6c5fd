// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"fmt"

	"github.com/findep/findep-operator/runtime/backend"
)

// piece is `rows` query rows at the end of `context` tokens.
type piece struct{ rows, context int }

type attentionShape struct {
	heads, kvHeads, keyDim, valueDim, block int
	scale                                   float32
	// latent makes values the first columns of keys, as MLA's absorbed form.
	latent bool
	pieces []piece
}

func (s attentionShape) String() string {
	return fmt.Sprintf("heads=%d,kv=%d,dk=%d,dv=%d,block=%d,latent=%t,scale=%v,pieces=%v",
		s.heads, s.kvHeads, s.keyDim, s.valueDim, s.block, s.latent, s.scale, s.pieces)
}

var attentionShapes = []attentionShape{
	{1, 1, 1, 1, 1, 1, false, []piece{{1, 1}}},
	{1, 1, 4, 4, 4, 0.5, false, nil},
	{2, 2, 4, 3, 4, 0.5, false, []piece{{0, 3}, {0, 0}}},
	{4, 2, 16, 16, 7, 0.25, false, []piece{{5, 5}, {1, 9}, {0, 0}, {3, 30}}},
	{8, 1, 40, 32, 16, 0.2, true, []piece{{1, 17}, {1, 128}, {1, 129}, {6, 6}}},
	{16, 1, 72, 64, 16, 0.2, true, []piece{{1, 300}, {40, 170}}},
	{128, 1, 24, 16, 5, 0.2, true, []piece{{2, 20}, {1, 140}}},
	{200, 1, 8, 8, 5, 0.2, true, []piece{{2, 20}}},
	{4, 4, 32, 32, 16, 0.2, false, []piece{{200, 200}, {60, 260}}},
	// Scores in the thousands: weights are almost one-hot, and exponents
	// overflow without subtracting the maximum.
	{2, 1, 16, 8, 8, 500, false, []piece{{1, 150}, {9, 140}}},
}

// smallAttentionShapes are enough to see that a cache of another type is read
// right; the others are about sizes.
const smallAttentionShapes = 6

func attentionCases() []testCase {
	var cases []testCase
	for _, s := range attentionShapes {
		cases = append(cases, testCase{backend.OpAttention, backend.F32, s.String(), attentionTolerance(s), s.run})
	}
	for _, s := range attentionShapes[:smallAttentionShapes] {
		cases = append(cases, testCase{backend.OpAttention, backend.BF16, s.String(), attentionTolerance(s),
			func(b *bench) error { return s.runWith(b, backend.BF16) }})
	}
	return cases
}

// attentionTolerance allows for the rounding of scores, whose error the
// exponential multiplies.
func attentionTolerance(s attentionShape) float64 {
	if s.scale > 1 {
		return 2e-3
	}
	return 1e-5
}

func (s attentionShape) run(b *bench) error { return s.runWith(b, backend.F32) }

// runWith attends to keys and values of the given type.
func (s attentionShape) runWith(b *bench, cache backend.DType) error {
	starts, contexts, blocks := []int{0}, []int{}, 1
	for _, p := range s.pieces {
		starts = append(starts, starts[len(starts)-1]+p.rows)
		contexts = append(contexts, p.context)
		blocks = max(blocks, (p.context+s.block-1)/s.block)
	}
	table, used := s.place(b, blocks)
	n, slots := starts[len(starts)-1], len(used)
	keys := b.values("keys", cache, slots, s.kvHeads*s.keyDim, func(r, _ int) float32 {
		v := b.uniform()
		if !used[r] {
			return nan // what no piece owns must not be read
		}
		return v
	})
	values := keys.ColRange(0, s.kvHeads*s.valueDim)
	if !s.latent {
		values = b.values("values", cache, slots, s.kvHeads*s.valueDim, func(r, _ int) float32 {
			v := b.uniform()
			if !used[r] {
				return nan
			}
			return v
		})
	}
	return b.stream.Attention(b.out("out", n, s.heads*s.valueDim), b.random("q", backend.F32, n, s.heads*s.keyDim), keys, values,
		backend.AttentionArgs{Heads: s.heads, KVHeads: s.kvHeads, KeyDim: s.keyDim, ValueDim: s.valueDim, Scale: s.scale,
			BlockSize: s.block, QueryStart: b.column("QueryStart", starts...), ContextLength: b.column("ContextLength", contexts...),
			BlockTable: b.place("BlockTable", input, backend.I32, len(s.pieces), blocks, func(r, c int) uint32 { return uint32(table[r][c]) })})
}

// place scatters the blocks of all pieces over the cache and says which slots
// hold a token. Entries beyond a piece's context point nowhere.
func (s attentionShape) place(b *bench, blocks int) (table [][]int32, used []bool) {
	order := b.rng.Perm(len(s.pieces)*blocks + 1)
	used = make([]bool, len(order)*s.block)
	for _, p := range s.pieces {
		row := make([]int32, blocks)
		for i := range row {
			row[i] = -1
			if i*s.block < p.context {
				row[i], order = int32(order[0]), order[1:]
			}
		}
		for t := range p.context {
			used[int(row[t/s.block])*s.block+t%s.block] = true
		}
		table = append(table, row)
	}
	return table, used
}
