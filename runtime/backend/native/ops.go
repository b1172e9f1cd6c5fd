// SPDX-License-Identifier: Apache-2.0

//go:build findep_native && cgo

package native

/*
#include "table.h"

#cgo noescape call_embed
#cgo nocallback call_embed
#cgo noescape call_rmsnorm
#cgo nocallback call_rmsnorm
#cgo noescape call_matmul
#cgo nocallback call_matmul
#cgo noescape call_head_matmul
#cgo nocallback call_head_matmul
#cgo noescape call_rope
#cgo nocallback call_rope
#cgo noescape call_scatter_rows
#cgo nocallback call_scatter_rows
#cgo noescape call_gather_rows
#cgo nocallback call_gather_rows
#cgo noescape call_attention
#cgo nocallback call_attention
#cgo noescape call_router
#cgo nocallback call_router
#cgo noescape call_dispatch
#cgo nocallback call_dispatch
#cgo noescape call_group_experts
#cgo nocallback call_group_experts
#cgo noescape call_expert_mlp
#cgo nocallback call_expert_mlp
#cgo noescape call_combine_rows
#cgo nocallback call_combine_rows
#cgo noescape call_swiglu
#cgo nocallback call_swiglu
#cgo noescape call_add
#cgo nocallback call_add
*/
import "C"

import (
	"fmt"
	"unsafe"

	"github.com/findep/findep-operator/runtime/backend"
)

// views turns matrices into their C form and keeps the first error.
type views struct {
	stream *stream
	op     string
	err    error
}

func (s *stream) views(op string) views { return views{stream: s, op: op} }

// set checks that m lies within a buffer of the stream's backend, which C,
// given addresses, could not.
func (v *views) set(to *C.findep_matrix, name string, m backend.Matrix) {
	if v.err != nil {
		return
	}
	if err := m.Check(name); err != nil {
		v.err = fmt.Errorf("%s: %w: %w", v.op, ErrInvalidArgument, err)
		return
	}
	to.rows, to.cols, to.stride = C.int64_t(m.Rows), C.int64_t(m.Cols), C.int64_t(m.Stride)
	to.dtype = C.findep_dtype(m.DType)
	if m.Rows == 0 {
		return
	}
	b, err := v.stream.own(m.Buffer)
	if err != nil {
		v.err = fmt.Errorf("%s: %s: %w", v.op, name, err)
		return
	}
	to.data = unsafe.Add(b.data, m.Offset*int64(m.DType.Size()))
}

func flag(b bool) C.uint32_t {
	if b {
		return 1
	}
	return 0
}

func (s *stream) Embed(out, table, ids backend.Matrix) error {
	var a C.findep_embed_args
	v := s.views("embed")
	v.set(&a.out, "out", out)
	v.set(&a.table, "table", table)
	v.set(&a.ids, "ids", ids)
	if v.err != nil {
		return v.err
	}
	return s.done(v.op, C.call_embed(s.table, s.handle, &a))
}

func (s *stream) RMSNorm(out, x, weight backend.Matrix, eps float32) error {
	var a C.findep_rmsnorm_args
	v := s.views("rmsnorm")
	v.set(&a.out, "out", out)
	v.set(&a.x, "x", x)
	v.set(&a.weight, "weight", weight)
	if v.err != nil {
		return v.err
	}
	a.eps = C.float(eps)
	return s.done(v.op, C.call_rmsnorm(s.table, s.handle, &a))
}

func (s *stream) MatMul(out, x, w backend.Matrix, accumulate bool) error {
	var a C.findep_matmul_args
	v := s.views("matmul")
	v.set(&a.out, "out", out)
	v.set(&a.x, "x", x)
	v.set(&a.w, "w", w)
	if v.err != nil {
		return v.err
	}
	a.accumulate = flag(accumulate)
	return s.done(v.op, C.call_matmul(s.table, s.handle, &a))
}

func (s *stream) HeadMatMul(out, x, w backend.Matrix, p backend.HeadMatMulArgs) error {
	var a C.findep_head_matmul_args
	v := s.views("head_matmul")
	v.set(&a.out, "out", out)
	v.set(&a.x, "x", x)
	v.set(&a.w, "w", w)
	if v.err != nil {
		return v.err
	}
	a.heads, a.in_size, a.out_size = C.int64_t(p.Heads), C.int64_t(p.In), C.int64_t(p.Out)
	a.x_stride, a.out_stride, a.w_stride = C.int64_t(p.XStride), C.int64_t(p.OutStride), C.int64_t(p.WStride)
	a.transposed = flag(p.Transposed)
	return s.done(v.op, C.call_head_matmul(s.table, s.handle, &a))
}

func (s *stream) Rope(x, positions, table backend.Matrix, p backend.RopeArgs) error {
	var a C.findep_rope_args
	v := s.views("rope")
	v.set(&a.x, "x", x)
	v.set(&a.positions, "positions", positions)
	v.set(&a.table, "table", table)
	if v.err != nil {
		return v.err
	}
	a.heads, a.head_stride = C.int64_t(p.Heads), C.int64_t(p.HeadStride)
	a.offset, a.dim = C.int64_t(p.Offset), C.int64_t(p.Dim)
	a.interleaved = flag(p.Interleaved)
	return s.done(v.op, C.call_rope(s.table, s.handle, &a))
}

func (s *stream) ScatterRows(dst, src, index backend.Matrix) error {
	var a C.findep_rows_args
	v := s.views("scatter_rows")
	v.set(&a.indexed, "dst", dst)
	v.set(&a.rows, "src", src)
	v.set(&a.index, "index", index)
	if v.err != nil {
		return v.err
	}
	return s.done(v.op, C.call_scatter_rows(s.table, s.handle, &a))
}

func (s *stream) GatherRows(dst, src, index backend.Matrix) error {
	var a C.findep_rows_args
	v := s.views("gather_rows")
	v.set(&a.indexed, "src", src)
	v.set(&a.rows, "dst", dst)
	v.set(&a.index, "index", index)
	if v.err != nil {
		return v.err
	}
	return s.done(v.op, C.call_gather_rows(s.table, s.handle, &a))
}

func (s *stream) CombineRows(out, src, index backend.Matrix) error {
	var a C.findep_rows_args
	v := s.views("combine_rows")
	v.set(&a.indexed, "out", out)
	v.set(&a.rows, "src", src)
	v.set(&a.index, "index", index)
	if v.err != nil {
		return v.err
	}
	return s.done(v.op, C.call_combine_rows(s.table, s.handle, &a))
}

func (s *stream) Attention(out, q, keys, values backend.Matrix, p backend.AttentionArgs) error {
	var a C.findep_attention_args
	v := s.views("attention")
	v.set(&a.out, "out", out)
	v.set(&a.q, "q", q)
	v.set(&a.keys, "keys", keys)
	v.set(&a.values, "values", values)
	v.set(&a.query_start, "QueryStart", p.QueryStart)
	v.set(&a.context_length, "ContextLength", p.ContextLength)
	v.set(&a.block_table, "BlockTable", p.BlockTable)
	if v.err != nil {
		return v.err
	}
	a.heads, a.kv_heads = C.int64_t(p.Heads), C.int64_t(p.KVHeads)
	a.key_dim, a.value_dim = C.int64_t(p.KeyDim), C.int64_t(p.ValueDim)
	a.block_size, a.scale = C.int64_t(p.BlockSize), C.float(p.Scale)
	return s.done(v.op, C.call_attention(s.table, s.handle, &a))
}

func (s *stream) Router(weights, experts, logits, bias backend.Matrix, p backend.RouterArgs) error {
	var a C.findep_router_args
	v := s.views("router")
	v.set(&a.weights, "weights", weights)
	v.set(&a.experts, "experts", experts)
	v.set(&a.logits, "logits", logits)
	v.set(&a.bias, "bias", bias)
	if v.err != nil {
		return v.err
	}
	a.num_experts, a.top_k = C.int64_t(p.Experts), C.int64_t(p.TopK)
	a.groups, a.top_k_groups = C.int64_t(p.Groups), C.int64_t(p.TopKGroups)
	a.scoring, a.scale = C.uint32_t(p.Scoring), C.float(p.Scale)
	a.group_top2, a.normalize = flag(p.GroupTop2), flag(p.Normalize)
	return s.done(v.op, C.call_router(s.table, s.handle, &a))
}

func (s *stream) Dispatch(p backend.DispatchArgs) error {
	var a C.findep_dispatch_args
	v := s.views("dispatch")
	v.set(&a.experts, "Experts", p.Experts)
	v.set(&a.weights, "Weights", p.Weights)
	v.set(&a.expert_start, "ExpertStart", p.ExpertStart)
	v.set(&a.row_start, "RowStart", p.RowStart)
	v.set(&a.row_token, "RowToken", p.RowToken)
	v.set(&a.pair_start, "PairStart", p.PairStart)
	v.set(&a.pair_expert, "PairExpert", p.PairExpert)
	v.set(&a.pair_weight, "PairWeight", p.PairWeight)
	if v.err != nil {
		return v.err
	}
	return s.done(v.op, C.call_dispatch(s.table, s.handle, &a))
}

func (s *stream) GroupExperts(p backend.GroupExpertsArgs) error {
	var a C.findep_group_experts_args
	v := s.views("group_experts")
	v.set(&a.pair_start, "PairStart", p.PairStart)
	v.set(&a.pair_expert, "PairExpert", p.PairExpert)
	v.set(&a.pair_weight, "PairWeight", p.PairWeight)
	v.set(&a.group_start, "GroupStart", p.GroupStart)
	v.set(&a.group_row, "GroupRow", p.GroupRow)
	v.set(&a.group_weight, "GroupWeight", p.GroupWeight)
	if v.err != nil {
		return v.err
	}
	a.rows, a.num_experts = C.int64_t(p.Rows), C.int64_t(p.Experts)
	return s.done(v.op, C.call_group_experts(s.table, s.handle, &a))
}

func (s *stream) ExpertMLP(out, x backend.Matrix, p backend.ExpertMLPArgs) error {
	var a C.findep_expert_mlp_args
	v := s.views("expert_mlp")
	v.set(&a.out, "out", out)
	v.set(&a.x, "x", x)
	v.set(&a.gate_up, "GateUp", p.GateUp)
	v.set(&a.down, "Down", p.Down)
	v.set(&a.group_start, "GroupStart", p.GroupStart)
	v.set(&a.group_row, "GroupRow", p.GroupRow)
	v.set(&a.group_weight, "GroupWeight", p.GroupWeight)
	v.set(&a.workspace, "Workspace", p.Workspace)
	if v.err != nil {
		return v.err
	}
	a.num_experts, a.hidden = C.int64_t(p.Experts), C.int64_t(p.Hidden)
	return s.done(v.op, C.call_expert_mlp(s.table, s.handle, &a))
}

func (s *stream) SwiGLU(out, gateUp backend.Matrix) error {
	var a C.findep_swiglu_args
	v := s.views("swiglu")
	v.set(&a.out, "out", out)
	v.set(&a.gate_up, "gateUp", gateUp)
	if v.err != nil {
		return v.err
	}
	return s.done(v.op, C.call_swiglu(s.table, s.handle, &a))
}

func (s *stream) Add(out, x, y backend.Matrix) error {
	var a C.findep_add_args
	v := s.views("add")
	v.set(&a.out, "out", out)
	v.set(&a.a, "a", x)
	v.set(&a.b, "b", y)
	if v.err != nil {
		return v.err
	}
	return s.done(v.op, C.call_add(s.table, s.handle, &a))
}
