// SPDX-License-Identifier: Apache-2.0

package reference_test

import (
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/findep/findep-operator/runtime/backend"
	"github.com/findep/findep-operator/runtime/backend/reference"
)

// The reference judges every other backend, so it is itself judged by vectors
// worked out by hand and by the naive forms of the formulas.

// kit makes operands on one reference device.
type kit struct {
	t *testing.T
	backend.Stream
	dev backend.Device
}

func newKit(t *testing.T) kit {
	t.Helper()
	dev := reference.New(1 << 28)
	s, err := dev.NewStream(0)
	if err != nil {
		t.Fatal(err)
	}
	return kit{t, s, dev}
}

// ok fails the test on an error of an operation.
func (k kit) ok(err error) {
	k.t.Helper()
	if err != nil {
		k.t.Fatal(err)
	}
}

func (k kit) zeros(dtype backend.DType, rows, cols int) backend.Matrix {
	k.t.Helper()
	m, err := backend.AllocMatrix(k.dev, dtype, rows, cols)
	k.ok(err)
	return m
}

func (k kit) floats(cols int, values ...float32) backend.Matrix {
	k.t.Helper()
	m := k.zeros(backend.F32, len(values)/cols, cols)
	k.ok(backend.WriteFloat32s(k, m, values))
	return m
}

func (k kit) ints(cols int, values ...int32) backend.Matrix {
	k.t.Helper()
	m := k.zeros(backend.I32, len(values)/cols, cols)
	k.ok(backend.WriteInt32s(k, m, values))
	return m
}

// same compares a matrix with the expected values, to six digits.
func (k kit) same(name string, m backend.Matrix, want ...float32) {
	k.t.Helper()
	got, err := backend.ReadFloat32s(k, m)
	k.ok(err)
	if diff := cmp.Diff(want, got, cmpopts.EquateApprox(1e-6, 1e-7), cmpopts.EquateNaNs(), cmpopts.EquateEmpty()); diff != "" {
		k.t.Errorf("%s (-want +got):\n%s", name, diff)
	}
}

func (k kit) sameInts(name string, m backend.Matrix, want ...int32) {
	k.t.Helper()
	got, err := backend.ReadInt32s(k, m)
	k.ok(err)
	if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
		k.t.Errorf("%s (-want +got):\n%s", name, diff)
	}
}

func TestEmbedVector(t *testing.T) {
	k := newKit(t)
	out := k.zeros(backend.F32, 3, 2)
	k.ok(k.Embed(out, k.floats(2, 1, 2, 3, 4), k.ints(1, 1, 0, 1)))
	k.same("out", out, 3, 4, 1, 2, 3, 4)
}

func TestRMSNormVector(t *testing.T) {
	k := newKit(t)
	out := k.zeros(backend.F32, 1, 2)
	// mean(9, 16) = 12.5; eps makes it 16.
	k.ok(k.RMSNorm(out, k.floats(2, 3, 4), k.floats(2, 2, 10), 3.5))
	k.same("out", out, 1.5, 10)
}

func TestMatMulVector(t *testing.T) {
	k := newKit(t)
	x, w, out := k.floats(3, 1, 2, 3, 0, -1, 1), k.floats(3, 1, 0, 0, 1, 1, 1), k.floats(2, 10, 20, 30, 40)
	k.ok(k.MatMul(out, x, w, true))
	k.same("accumulated", out, 11, 26, 30, 40)
	k.ok(k.MatMul(out, x, w, false))
	k.same("overwritten", out, 1, 6, 0, 0)
}

func TestHalfWeightVector(t *testing.T) {
	k := newKit(t)
	for dtype, bits := range map[backend.DType][2]uint16{
		backend.BF16: {0x3fc0, 0xc000}, // 1.5, -2
		backend.F16:  {0x3e00, 0xc000},
	} {
		w, out := k.zeros(dtype, 1, 2), k.zeros(backend.F32, 1, 1)
		copy(backend.Uint16s(w), bits[:])
		k.ok(k.MatMul(out, k.floats(2, 10, 100), w, false))
		k.same(dtype.String(), out, -185)
	}
}

func TestHeadMatMulVector(t *testing.T) {
	k := newKit(t)
	// Two heads with a spare row between their matrices.
	w := k.floats(2, 1, 2, 3, 4, -9, -9, 5, 6, 7, 8)
	x, out := k.floats(4, 1, 10, 1, 10), k.zeros(backend.F32, 1, 4)
	p := backend.HeadMatMulArgs{Heads: 2, In: 2, Out: 2, XStride: 2, OutStride: 2, WStride: 3}
	k.ok(k.HeadMatMul(out, x, w, p))
	k.same("as stored", out, 31, 42, 75, 86)
	p.Transposed = true
	k.ok(k.HeadMatMul(out, x, w, p))
	k.same("transposed", out, 21, 43, 65, 87)
}

// TestRopeVector turns by 90 degrees (pair 0) and 180 degrees (pair 1).
func TestRopeVector(t *testing.T) {
	k := newKit(t)
	table := k.floats(4, 1, 1, 0, 0, 0, -1, 1, 0)
	for _, c := range []struct {
		interleaved bool
		want        []float32
	}{
		{true, []float32{-2, 1, -3, -4}},  // pairs (1,2) and (3,4)
		{false, []float32{-3, -2, 1, -4}}, // pairs (1,3) and (2,4)
	} {
		x := k.floats(6, 9, 1, 2, 3, 4, 9, 9, 1, 2, 3, 4, 9)
		k.ok(k.Rope(x, k.ints(1, 1, 0), table, backend.RopeArgs{Heads: 1, Offset: 1, Dim: 4, Interleaved: c.interleaved}))
		k.same("x", x, append(append([]float32{9}, c.want...), 9, 9, 1, 2, 3, 4, 9)...)
	}
}

func TestRowVectors(t *testing.T) {
	k := newKit(t)
	index, src := k.ints(1, 2, 0), k.floats(1, 5, 6)
	dst := k.floats(1, 1, 2, 3)
	k.ok(k.ScatterRows(dst, src, index))
	k.same("scatter", dst, 6, 2, 5)
	k.ok(k.CombineRows(dst, src, index))
	k.same("combine", dst, 12, 2, 10)
	out := k.zeros(backend.F32, 2, 1)
	k.ok(k.GatherRows(out, dst, index))
	k.same("gather", out, 10, 12)
}

func TestElementwiseVectors(t *testing.T) {
	k := newKit(t)
	out := k.zeros(backend.F32, 1, 3)
	k.ok(k.SwiGLU(out, k.floats(6, 0, 1, -1, 5, 2, 3)))
	// SiLU(1) = 1/(1+1/e), SiLU(-1) = -1/(1+e).
	k.same("swiglu", out, 0, 2*0.7310585786, 3*-0.2689414214)
	k.ok(k.Add(out, k.floats(3, 1, 2, 3), k.floats(3, 10, 20, 30)))
	k.same("add", out, 11, 22, 33)
}

func TestRouterVectors(t *testing.T) {
	ln := func(v float64) float32 { return float32(math.Log(v)) }
	// Softmax of these is 0.1, 0.2, 0.3, 0.4; the sigmoid of logit(p) is p.
	soft := []float32{ln(1), ln(2), ln(3), ln(4)}
	sigmoid := []float32{ln(0.2 / 0.8), ln(0.9 / 0.1), ln(1), ln(0.6 / 0.4)}
	for _, c := range []struct {
		name    string
		logits  []float32
		bias    []float32
		args    backend.RouterArgs
		experts []int32
		weights []float32
	}{
		{"greedy", soft, nil, backend.RouterArgs{TopK: 2, Scale: 1}, []int32{3, 2}, []float32{0.4, 0.3}},
		{"scaled", soft, nil, backend.RouterArgs{TopK: 1, Scale: 16}, []int32{3}, []float32{6.4}},
		{"normalised", soft, nil, backend.RouterArgs{TopK: 2, Scale: 1, Normalize: true}, []int32{3, 2}, []float32{4. / 7, 3. / 7}},
		// Groups {0,1} and {2,3}; the better one is the second.
		{"group maximum", soft, nil, backend.RouterArgs{TopK: 2, Groups: 2, TopKGroups: 1, Scale: 1}, []int32{3, 2}, []float32{0.4, 0.3}},
		// Maxima 0.9 and 0.6 prefer the first group, sums 1.1 and 1.1+bias the second.
		{"sigmoid maximum", sigmoid, nil, backend.RouterArgs{TopK: 2, Groups: 2, TopKGroups: 1, Scoring: backend.Sigmoid, Scale: 1},
			[]int32{1, 0}, []float32{0.9, 0.2}},
		{"sigmoid top2 with bias", sigmoid, []float32{0, 0, 0, 0.2},
			backend.RouterArgs{TopK: 2, Groups: 2, TopKGroups: 1, Scoring: backend.Sigmoid, GroupTop2: true, Scale: 1},
			[]int32{3, 2}, []float32{0.6, 0.5}},
		// The bias moves expert 0 to the front but is not in its weight.
		{"bias selects only", sigmoid, []float32{1, 0, 0, 0},
			backend.RouterArgs{TopK: 2, Scoring: backend.Sigmoid, Normalize: true, Scale: 2.5}, []int32{0, 1}, []float32{0.5 / 1.1, 2.25 / 1.1}},
		{"ties to the smaller", []float32{1, 1, 1, 1}, nil, backend.RouterArgs{TopK: 3, Scale: 1}, []int32{0, 1, 2}, []float32{0.25, 0.25, 0.25}},
	} {
		t.Run(c.name, func(t *testing.T) {
			k := newKit(t)
			c.args.Experts = 4
			var bias backend.Matrix
			if c.bias != nil {
				bias = k.floats(4, c.bias...)
			}
			weights, experts := k.zeros(backend.F32, 1, c.args.TopK), k.zeros(backend.I32, 1, c.args.TopK)
			k.ok(k.Router(weights, experts, k.floats(4, c.logits...), bias, c.args))
			k.sameInts("experts", experts, c.experts...)
			k.same("weights", weights, c.weights...)
		})
	}
}

// TestExchangeVector follows three tokens through dispatch, grouping, experts
// and combine. Ranks hold experts {0,1} and {2,3}.
func TestExchangeVector(t *testing.T) {
	k := newKit(t)
	d := backend.DispatchArgs{
		Experts: k.ints(2, 3, 0, 1, 0, 2, 3), Weights: k.floats(2, 0.5, 0.25, 0.75, 1, 2, 4), ExpertStart: k.ints(1, 0, 2, 4),
		RowStart: k.zeros(backend.I32, 3, 1), RowToken: k.zeros(backend.I32, 6, 1), PairStart: k.zeros(backend.I32, 7, 1),
		PairExpert: k.zeros(backend.I32, 6, 1), PairWeight: k.zeros(backend.F32, 6, 1),
	}
	k.ok(k.Dispatch(d))
	k.sameInts("RowStart", d.RowStart, 0, 2, 4)
	k.sameInts("RowToken", d.RowToken.RowRange(0, 4), 0, 1, 0, 2)
	k.sameInts("PairStart", d.PairStart.RowRange(0, 5), 0, 1, 3, 4, 6)
	k.sameInts("PairExpert", d.PairExpert, 0, 0, 1, 1, 0, 1)
	k.same("PairWeight", d.PairWeight, 0.25, 1, 0.75, 0.5, 2, 4)

	// Rank 1 gets rows of tokens 0 and 2; its pair starts begin at 0 again.
	g := backend.GroupExpertsArgs{Rows: 2, Experts: 2, PairStart: k.ints(1, 0, 1, 3),
		PairExpert: d.PairExpert.RowRange(3, 6), PairWeight: d.PairWeight.RowRange(3, 6),
		GroupStart: k.zeros(backend.I32, 3, 1), GroupRow: k.zeros(backend.I32, 3, 1), GroupWeight: k.zeros(backend.F32, 3, 1)}
	k.ok(k.GroupExperts(g))
	k.sameInts("GroupStart", g.GroupStart, 0, 1, 3)
	k.sameInts("GroupRow", g.GroupRow, 1, 0, 1)
	k.same("GroupWeight", g.GroupWeight, 2, 0.5, 4)

	// M = 1, H = 1: expert e computes SiLU(x) * (e+1)x * 10.
	x, out := k.floats(1, 1, -1), k.zeros(backend.F32, 2, 1)
	k.ok(k.ExpertMLP(out, x, backend.ExpertMLPArgs{Experts: 2, Hidden: 1, GateUp: k.floats(1, 1, 1, 1, 2), Down: k.floats(1, 10, 10),
		GroupStart: g.GroupStart, GroupRow: g.GroupRow, GroupWeight: g.GroupWeight, Workspace: k.zeros(backend.F32, 3, 5)}))
	const silu1, siluMinus1 = 0.7310585786, -0.2689414214
	k.same("experts", out, 0.5*silu1*2*10, 2*siluMinus1*-1*10+4*siluMinus1*-2*10)
}

// TestAttentionVector has scores that make the weights 1/4 and 3/4, and checks
// the causal limit, the block table and the piece boundaries.
func TestAttentionVector(t *testing.T) {
	k := newKit(t)
	ln3 := float32(math.Log(3))
	// Slots 0..3 in blocks of one: slot 2 is token 0, slot 0 token 1.
	keys, values := k.floats(1, 2, 99, 0, 99), k.floats(2, 4, 8, 99, 99, 0, 16, 7, 7)
	out := k.zeros(backend.F32, 3, 2)
	k.ok(k.Attention(out, k.floats(1, 1, 1, 5), keys, values, backend.AttentionArgs{Heads: 1, KVHeads: 1, KeyDim: 1, ValueDim: 2,
		Scale: ln3 / 2, BlockSize: 1, QueryStart: k.ints(1, 0, 2, 3), ContextLength: k.ints(1, 2, 1), BlockTable: k.ints(2, 2, 0, 3, -1)}))
	k.same("out", out, 0, 16, 3, 10, 7, 7)
}

// TestAttentionSharesKeyHeads has four query heads on two KV heads that hold
// one token each, so a head's output is its KV head's value.
func TestAttentionSharesKeyHeads(t *testing.T) {
	k := newKit(t)
	out := k.zeros(backend.F32, 1, 4)
	k.ok(k.Attention(out, k.floats(4, 1, 2, 3, 4), k.floats(2, 1, 1), k.floats(2, 5, 6), backend.AttentionArgs{Heads: 4, KVHeads: 2,
		KeyDim: 1, ValueDim: 1, Scale: 1, BlockSize: 4, QueryStart: k.ints(1, 0, 1), ContextLength: k.ints(1, 1), BlockTable: k.ints(1, 0)}))
	k.same("out", out, 5, 5, 6, 6)
}
