// SPDX-License-Identifier: Apache-2.0

package executor

import (
	"github.com/findep/findep-operator/runtime/plan"
	"github.com/findep/findep-operator/runtime/schedule"
)

// Slice is the tokens [From, To) of piece number Piece.
type Slice struct{ Piece, From, To int }

// MicroBatch lists what runs together, in order. It may be empty.
type MicroBatch []Slice

// Tokens is the number of tokens of the micro-batch.
func (m MicroBatch) Tokens() int {
	n := 0
	for _, s := range m {
		n += s.To - s.From
	}
	return n
}

// Partition cuts a rank's pieces into exactly r1 groups and each group into the
// plan's chunks, in the order (group, chunk) of schedule.Schedule. A group has
// MicroBatchSize pieces, the last ones fewer or none; pieces beyond
// r1*MicroBatchSize are spread so that sizes differ by at most one: no piece is
// ever dropped. A piece's chunks are those of plan.Plan.ChunkRange; empty slices
// are left out.
func Partition(pieces []Piece, p plan.Plan) []MicroBatch {
	n, r1, chunks := len(pieces), p.R1, max(p.Chunks, 1)
	batches := make([]MicroBatch, r1*chunks)
	for g := range r1 {
		from, to := min(g*p.MicroBatchSize, n), min((g+1)*p.MicroBatchSize, n)
		if n > r1*p.MicroBatchSize {
			from, to = schedule.SegmentRange(n, r1, g)
		}
		for c := range chunks {
			for i := from; i < to; i++ {
				begin, end := p.ChunkRange(len(pieces[i].Tokens), c)
				if begin < end {
					batches[g*chunks+c] = append(batches[g*chunks+c], Slice{i, begin, end})
				}
			}
		}
	}
	return batches
}
