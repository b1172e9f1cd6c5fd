// SPDX-License-Identifier: Apache-2.0

package tasklist

import (
	"errors"
	"math"

	"github.com/findep/findep-operator/runtime/backend"
)

var _ backend.Stream = (*Encoder)(nil)

// errNotInList is returned for what a list cannot hold: it has no host memory,
// and its events are made of its dependencies.
var errNotInList = errors.New("copies, events and waits of the host cannot be part of a task list")

func (e *Encoder) refuse() error {
	e.fail(errNotInList)
	return errNotInList
}

// CopyIn always fails.
func (e *Encoder) CopyIn(backend.Buffer, int64, []byte) error { return e.refuse() }

// CopyOut always fails.
func (e *Encoder) CopyOut([]byte, backend.Buffer, int64) error { return e.refuse() }

// Record always fails.
func (e *Encoder) Record(backend.Event) error { return e.refuse() }

// Wait always fails.
func (e *Encoder) Wait(backend.Event) error { return e.refuse() }

// Synchronize returns the first error so far; there is nothing to wait for.
func (e *Encoder) Synchronize() error { return e.err }

// Close does nothing.
func (e *Encoder) Close() error { return nil }

func flag(b bool) uint32 {
	if b {
		return 1
	}
	return 0
}

// Embed is backend.Stream's.
func (e *Encoder) Embed(out, table, ids backend.Matrix) error {
	return e.begin("embed", uint16(backend.OpEmbed)).matrix("out", out).matrix("table", table).matrix("ids", ids).end()
}

// RMSNorm is backend.Stream's.
func (e *Encoder) RMSNorm(out, x, weight backend.Matrix, eps float32) error {
	r := e.begin("rmsnorm", uint16(backend.OpRMSNorm)).matrix("out", out).matrix("x", x).matrix("weight", weight)
	return r.words(math.Float32bits(eps), 0).end()
}

// MatMul is backend.Stream's.
func (e *Encoder) MatMul(out, x, w backend.Matrix, accumulate bool) error {
	r := e.begin("matmul", uint16(backend.OpMatMul)).matrix("out", out).matrix("x", x).matrix("w", w)
	return r.words(flag(accumulate), 0).end()
}

// HeadMatMul is backend.Stream's.
func (e *Encoder) HeadMatMul(out, x, w backend.Matrix, a backend.HeadMatMulArgs) error {
	r := e.begin("head_matmul", uint16(backend.OpHeadMatMul)).matrix("out", out).matrix("x", x).matrix("w", w)
	return r.sizes(a.Heads, a.In, a.Out, a.XStride, a.OutStride, a.WStride).words(flag(a.Transposed), 0).end()
}

// Rope is backend.Stream's.
func (e *Encoder) Rope(x, positions, table backend.Matrix, a backend.RopeArgs) error {
	r := e.begin("rope", uint16(backend.OpRope)).matrix("x", x).matrix("positions", positions).matrix("table", table)
	return r.sizes(a.Heads, a.HeadStride, a.Offset, a.Dim).words(flag(a.Interleaved), 0).end()
}

// ScatterRows is backend.Stream's.
func (e *Encoder) ScatterRows(dst, src, index backend.Matrix) error {
	return e.begin("scatter_rows", uint16(backend.OpScatterRows)).matrix("dst", dst).matrix("src", src).matrix("index", index).end()
}

// GatherRows is backend.Stream's.
func (e *Encoder) GatherRows(dst, src, index backend.Matrix) error {
	return e.begin("gather_rows", uint16(backend.OpGatherRows)).matrix("src", src).matrix("dst", dst).matrix("index", index).end()
}

// CombineRows is backend.Stream's.
func (e *Encoder) CombineRows(out, src, index backend.Matrix) error {
	return e.begin("combine_rows", uint16(backend.OpCombineRows)).matrix("out", out).matrix("src", src).matrix("index", index).end()
}

// Attention is backend.Stream's.
func (e *Encoder) Attention(out, q, keys, values backend.Matrix, a backend.AttentionArgs) error {
	r := e.begin("attention", uint16(backend.OpAttention))
	r.matrix("out", out).matrix("q", q).matrix("keys", keys).matrix("values", values)
	r.matrix("QueryStart", a.QueryStart).matrix("ContextLength", a.ContextLength).matrix("BlockTable", a.BlockTable)
	return r.sizes(a.Heads, a.KVHeads, a.KeyDim, a.ValueDim, a.BlockSize).words(math.Float32bits(a.Scale), 0).end()
}

// Router is backend.Stream's.
func (e *Encoder) Router(weights, experts, logits, bias backend.Matrix, a backend.RouterArgs) error {
	r := e.begin("router", uint16(backend.OpRouter))
	r.matrix("weights", weights).matrix("experts", experts).matrix("logits", logits).matrix("bias", bias)
	r.sizes(a.Experts, a.TopK, a.Groups, a.TopKGroups)
	return r.words(uint32(a.Scoring), flag(a.GroupTop2), flag(a.Normalize), math.Float32bits(a.Scale)).end()
}

// Dispatch is backend.Stream's.
func (e *Encoder) Dispatch(a backend.DispatchArgs) error {
	r := e.begin("dispatch", uint16(backend.OpDispatch))
	r.matrix("Experts", a.Experts).matrix("Weights", a.Weights).matrix("ExpertStart", a.ExpertStart)
	r.matrix("RowStart", a.RowStart).matrix("RowToken", a.RowToken)
	return r.matrix("PairStart", a.PairStart).matrix("PairExpert", a.PairExpert).matrix("PairWeight", a.PairWeight).end()
}

// GroupExperts is backend.Stream's.
func (e *Encoder) GroupExperts(a backend.GroupExpertsArgs) error {
	r := e.begin("group_experts", uint16(backend.OpGroupExperts))
	r.matrix("PairStart", a.PairStart).matrix("PairExpert", a.PairExpert).matrix("PairWeight", a.PairWeight)
	r.matrix("GroupStart", a.GroupStart).matrix("GroupRow", a.GroupRow).matrix("GroupWeight", a.GroupWeight)
	return r.sizes(a.Rows, a.Experts).end()
}

// ExpertMLP is backend.Stream's.
func (e *Encoder) ExpertMLP(out, x backend.Matrix, a backend.ExpertMLPArgs) error {
	r := e.begin("expert_mlp", uint16(backend.OpExpertMLP))
	r.matrix("out", out).matrix("x", x).matrix("GateUp", a.GateUp).matrix("Down", a.Down)
	r.matrix("GroupStart", a.GroupStart).matrix("GroupRow", a.GroupRow).matrix("GroupWeight", a.GroupWeight)
	return r.matrix("Workspace", a.Workspace).sizes(a.Experts, a.Hidden).end()
}

// SwiGLU is backend.Stream's.
func (e *Encoder) SwiGLU(out, gateUp backend.Matrix) error {
	return e.begin("swiglu", uint16(backend.OpSwiGLU)).matrix("out", out).matrix("gateUp", gateUp).end()
}

// Add is backend.Stream's.
func (e *Encoder) Add(out, x, y backend.Matrix) error {
	return e.begin("add", uint16(backend.OpAdd)).matrix("out", out).matrix("a", x).matrix("b", y).end()
}
