// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/findep/findep-operator/runtime/backend"
	"github.com/findep/findep-operator/runtime/backend/reference"
)

// Fuzz compares the index arithmetic of a backend with the reference on shapes
// that the fuzzer draws: routing, packing, grouping, rope and attention over a
// paged cache.
func Fuzz(f *testing.F, open func() (backend.Device, error)) {
	f.Helper()
	for op := range fuzzed {
		for seed := range uint64(3) {
			f.Add(uint8(op), seed, seed%2 == 0)
		}
	}
	f.Fuzz(func(t *testing.T, op uint8, seed uint64, tight bool) {
		l := strided
		if tight {
			l = contiguous
		}
		random := rand.New(rand.NewPCG(seed, uint64(op)))
		c := fuzzed[int(op)%len(fuzzed)](random)
		// The shape does not tell the values; the seed does.
		c.shape = fmt.Sprint(c.shape, ",seed=", seed)
		t.Log(opNames[c.op], c.shape)
		runCase(t, mustOpen(t, open), reference.New(reference.DefaultMemory), c, l)
	})
}

// fuzzed draws a small case of one operation.
var fuzzed = []func(*rand.Rand) testCase{drawRouter, drawPacking, drawGrouping, drawRope, drawAttention}

func drawRouter(random *rand.Rand) testCase {
	groups, size := 1+random.IntN(8), 1+random.IntN(9)
	keep := 1 + random.IntN(groups)
	r := routing{n: random.IntN(12), bias: random.IntN(2) == 0, args: backend.RouterArgs{
		Experts: groups * size, TopK: 1 + random.IntN(keep*size), Groups: groups, TopKGroups: keep,
		GroupTop2: random.IntN(2) == 0, Normalize: random.IntN(2) == 0, Scale: 1 + float32(random.IntN(3)),
	}}
	if groups == 1 {
		r.args.TopK = 1 + random.IntN(size)
	}
	if random.IntN(2) == 0 {
		r.args.Scoring = backend.Sigmoid
	}
	if random.IntN(2) == 0 { // few values make many ties
		r.bias, r.logit = false, func(b *bench, _, _ int) float32 { return float32(b.rng.IntN(3)) }
	}
	return testCase{backend.OpRouter, backend.F32, fmt.Sprintf("n=%d,%+v", r.n, r.args), 1e-6, r.run}
}

func drawPacking(random *rand.Rand) testCase {
	s := packing{n: random.IntN(300), starts: []int{0}}
	for range 1 + random.IntN(9) {
		s.starts = append(s.starts, s.starts[len(s.starts)-1]+random.IntN(12))
	}
	last := len(s.starts) - 1
	s.starts[last] = max(1, s.starts[last])
	s.topK = 1 + random.IntN(min(10, s.starts[last]))
	return testCase{backend.OpDispatch, backend.F32, fmt.Sprintf("n=%d,k=%d,starts=%v", s.n, s.topK, s.starts), 0, s.run}
}

func drawGrouping(random *rand.Rand) testCase {
	s := grouping{rows: random.IntN(300), experts: 1 + random.IntN(40), topK: 1 + random.IntN(9)}
	return testCase{backend.OpGroupExperts, backend.F32, fmt.Sprintf("rows=%d,E=%d,k=%d", s.rows, s.experts, s.topK), 0, s.run}
}

func drawRope(random *rand.Rand) testCase {
	s := rotation{n: random.IntN(9), heads: 1 + random.IntN(6), offset: random.IntN(9), dim: 2 * (1 + random.IntN(40)),
		interleaved: random.IntN(2) == 0}
	s.stride = s.dim + random.IntN(9)
	return testCase{backend.OpRope, backend.F32, s.String(), 1e-6, s.run}
}

func drawAttention(random *rand.Rand) testCase {
	s := attentionShape{kvHeads: 1 + random.IntN(3), keyDim: 1 + random.IntN(40), block: 1 + random.IntN(20), scale: 0.2,
		latent: random.IntN(2) == 0}
	s.heads, s.valueDim = s.kvHeads*(1+random.IntN(4)), 1+random.IntN(40)
	if s.latent {
		s.kvHeads, s.valueDim = 1, 1+random.IntN(s.keyDim)
	}
	for range random.IntN(5) {
		context := random.IntN(150)
		s.pieces = append(s.pieces, piece{random.IntN(min(context, 20) + 1), context})
	}
	return testCase{backend.OpAttention, backend.F32, s.String(), attentionTolerance(s), s.run}
}
