// SPDX-License-Identifier: Apache-2.0

package executor_test

import (
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/findep/findep-operator/runtime/executor"
	"github.com/findep/findep-operator/runtime/plan"
)

func pieces(tokens ...int) []executor.Piece {
	var all []executor.Piece
	for i, n := range tokens {
		all = append(all, executor.Piece{Sequence: uint64(i), Tokens: make([]int32, n)})
	}
	return all
}

func TestPartition(t *testing.T) {
	type batches = []executor.MicroBatch
	tests := map[string]struct {
		tokens []int
		plan   plan.Plan
		want   batches
	}{
		"full groups":            {[]int{5, 6, 7, 8}, finDEP(2, 2, 1, plan.ASAS), batches{{{0, 0, 5}, {1, 0, 6}}, {{2, 0, 7}, {3, 0, 8}}}},
		"last group smaller":     {[]int{5, 6, 7}, finDEP(2, 2, 1, plan.ASAS), batches{{{0, 0, 5}, {1, 0, 6}}, {{2, 0, 7}}}},
		"last groups empty":      {[]int{5}, finDEP(1, 3, 1, plan.ASAS), batches{{{0, 0, 5}}, nil, nil}},
		"nothing at all":         {nil, finDEP(1, 2, 1, plan.ASAS), batches{nil, nil}},
		"too many are spread":    {[]int{1, 2, 3, 4, 5}, finDEP(1, 2, 1, plan.ASAS), batches{{{0, 0, 1}, {1, 0, 2}}, {{2, 0, 3}, {3, 0, 4}, {4, 0, 5}}}},
		"chunks within groups":   {[]int{4, 3, 2}, chunked(finDEP(2, 2, 1, plan.ASAS), 2), batches{{{0, 0, 2}, {1, 0, 1}}, {{0, 2, 4}, {1, 1, 3}}, {{2, 0, 1}}, {{2, 1, 2}}}},
		"chunks beyond a prompt": {[]int{1}, chunked(finDEP(1, 1, 1, plan.ASAS), 3), batches{nil, nil, {{0, 0, 1}}}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, executor.Partition(pieces(tc.tokens...), tc.plan)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// Whatever the plan, there are r1*chunks micro-batches, every token is in
// exactly one, and a piece's tokens come in order.
func TestPartitionDropsNothing(t *testing.T) {
	for seed := range uint64(500) {
		random := rand.New(rand.NewPCG(seed, 2))
		lengths := make([]int, random.IntN(20))
		for i := range lengths {
			lengths[i] = 1 + random.IntN(9)
		}
		p := chunked(finDEP(1+random.IntN(5), 1+random.IntN(6), 1, plan.ASAS), 1+random.IntN(4))
		next, smallest, largest := make([]int, len(lengths)), len(lengths), 0
		got := executor.Partition(pieces(lengths...), p)
		for i, b := range got {
			for _, s := range b {
				if s.From != next[s.Piece] || s.To <= s.From {
					t.Fatalf("seed %d: micro-batch %d has %+v, token %d is next", seed, i, s, next[s.Piece])
				}
				next[s.Piece] = s.To
			}
			smallest, largest = min(smallest, len(b)), max(largest, len(b))
		}
		if diff := cmp.Diff(lengths, next); diff != "" || len(got) != p.R1*p.Chunks {
			t.Fatalf("seed %d: %d micro-batches, tokens %s", seed, len(got), diff)
		}
		if over := len(lengths) > p.R1*p.MicroBatchSize; !over && largest > p.MicroBatchSize || over && p.Chunks == 1 && largest-smallest > 1 {
			t.Fatalf("seed %d: %d pieces for %s are cut into groups of %d to %d", seed, len(lengths), p, smallest, largest)
		}
	}
}
