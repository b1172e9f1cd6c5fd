// SPDX-License-Identifier: Apache-2.0

// Package backend is the only door to kernels. It says what a device can do in
// terms of matrices on streams; the packages below it do it: reference in
// plain Go (the ground truth of the conformance suite), native through the C
// function table of kernels/include/findep/backend.h.
//
// # Data
//
// All data are row-major matrices with a row stride, views into device
// buffers. Weights are stored as in Hugging Face checkpoints, [out, in].
// Activations are F32 on the CPU. A weight may be BF16 or F32; products are
// accumulated in F32.
//
// # Order and errors
//
// Operations are issued on a Stream and run in issue order. Streams are
// independent; an Event orders them. A method may return an error at once
// (bad shapes, an unsupported type) or the stream may keep the first failure
// of an asynchronous operation and return it from Synchronize. No operation
// panics, and none allocates device memory; a stream may keep bounded scratch
// of its own until it is closed. Zero rows are valid everywhere. Outputs must
// not overlap inputs except where an operation says so.
//
// A Stream is used by one goroutine at a time. Everything else is safe for
// concurrent use.
package backend

import "fmt"

// DType is an element type.
type DType uint8

// Element types. The numbers are part of the C ABI.
const (
	F32 DType = iota
	BF16
	F16
	I32
	F8E4M3
)

// Size is the number of bytes of one element.
func (t DType) Size() int {
	switch t {
	case F32, I32:
		return 4
	case BF16, F16:
		return 2
	default:
		return 1
	}
}

func (t DType) String() string {
	if int(t) < len(dtypeNames) {
		return dtypeNames[t]
	}
	return fmt.Sprintf("DType(%d)", uint8(t))
}

var dtypeNames = [...]string{"F32", "BF16", "F16", "I32", "F8E4M3"}

// Buffer is a piece of device memory.
type Buffer interface {
	// Size in bytes.
	Size() int64
	// Host returns the memory itself where the host can address it (CPU
	// backends, pinned memory), else nil.
	Host() []byte
	// Free gives the memory back. It is an error to use views afterwards.
	Free()
}

// Matrix is a view of Rows x Cols elements of a Buffer. Element (r, c) is
// number Offset + r*Stride + c of the buffer seen as an array of DType.
type Matrix struct {
	Buffer Buffer
	DType  DType
	Offset int64
	Rows   int
	Cols   int
	Stride int
}

// RowRange is the view of rows [from, to).
func (m Matrix) RowRange(from, to int) Matrix {
	m.Offset += int64(from) * int64(m.Stride)
	m.Rows = to - from
	return m
}

// ColRange is the view of columns [from, to).
func (m Matrix) ColRange(from, to int) Matrix {
	m.Offset += int64(from)
	m.Cols = to - from
	return m
}

// Event marks a point in a stream.
type Event interface {
	// Free gives the event back. It may be called while others wait for the
	// event: they return with an error.
	Free()
}

// Op identifies an operation for Supports. The numbers are part of the C ABI.
type Op uint8

// The operations, one for each compute method of Stream.
const (
	OpEmbed Op = iota
	OpRMSNorm
	OpMatMul
	OpHeadMatMul
	OpRope
	OpScatterRows
	OpGatherRows
	OpAttention
	OpRouter
	OpDispatch
	OpGroupExperts
	OpExpertMLP
	OpCombineRows
	OpSwiGLU
	OpAdd
	NumOps
)

// Device is one accelerator or the CPU.
type Device interface {
	// Name is the backend's name and the device's, such as "cpu" or
	// "cuda:0 NVIDIA H100".
	Name() string
	// Supports tells whether op runs with weights of the given type.
	Supports(op Op, weight DType) bool
	// Alloc reserves zeroed memory, aligned to 64 bytes or more.
	Alloc(bytes int64) (Buffer, error)
	// NewStream makes an independent in-order queue. threads bounds the host
	// threads a CPU backend may use for one operation; 0 leaves the choice.
	NewStream(threads int) (Stream, error)
	// NewEvent makes an event.
	NewEvent() (Event, error)
	// MemoryBytes is the total memory of the device.
	MemoryBytes() int64
	// Close frees the device; streams and buffers must be freed before.
	Close() error
}

// Stream is an in-order queue of operations.
type Stream interface {
	// CopyIn copies src into the buffer from byte offset on; src may be reused
	// when it returns. CopyOut is the reverse and returns when dst is filled,
	// after everything issued before it.
	CopyIn(dst Buffer, offset int64, src []byte) error
	CopyOut(dst []byte, src Buffer, offset int64) error
	// Record marks the end of what was issued so far; Wait makes what is
	// issued next start after the mark. Wait means the last Record issued
	// before it; on an event that was never recorded it blocks the caller until
	// the first Record, or until Free, which makes it return an error. So an
	// event that is used again must be recorded before the next Wait is
	// issued, or be replaced by a new one.
	Record(Event) error
	Wait(Event) error
	// Synchronize returns when everything issued has run, with the first
	// failure since the last Synchronize.
	Synchronize() error
	// Close frees the stream.
	Close() error

	// Embed: out[i,:] = table[ids[i],:]. ids is I32 [n,1]; out F32 [n,M].
	Embed(out, table, ids Matrix) error
	// RMSNorm: out[i,:] = x[i,:] / sqrt(mean(x[i,:]^2) + eps) * weight[0,:].
	// out may be x.
	RMSNorm(out, x, weight Matrix, eps float32) error
	// MatMul: out = x * w^T, or out += x * w^T with accumulate.
	// x F32 [n,in], w [out,in], out F32 [n,out].
	MatMul(out, x, w Matrix, accumulate bool) error
	// HeadMatMul multiplies each head by its own matrix, see HeadMatMulArgs.
	HeadMatMul(out, x, w Matrix, args HeadMatMulArgs) error
	// Rope rotates part of each head in place, see RopeArgs. positions is I32
	// [n,1]; table F32 [positions, 2*Dim/2]: cosines then sines, already
	// scaled by the attention factor of the rope type.
	Rope(x, positions, table Matrix, args RopeArgs) error
	// ScatterRows: dst[index[i],:] = src[i,:]. index is I32 [n,1], distinct.
	// dst is F32, or BF16, rounded to nearest even, where Supports admits that.
	ScatterRows(dst, src, index Matrix) error
	// GatherRows: dst[i,:] = src[index[i],:].
	GatherRows(dst, src, index Matrix) error
	// Attention is causal attention over a paged cache, see AttentionArgs. keys
	// and values are F32, or BF16 where Supports admits that.
	Attention(out, q, keys, values Matrix, args AttentionArgs) error
	// Router chooses experts, see RouterArgs. logits F32 [n,E]; bias F32 [1,E]
	// or an empty Matrix; weights F32 [n,TopK], experts I32 [n,TopK], by
	// descending selection score; ties go to the smaller expert number.
	Router(weights, experts, logits, bias Matrix, args RouterArgs) error
	// Dispatch makes, for tokens [0,n), one row per (token, expert rank); see
	// DispatchArgs.
	Dispatch(args DispatchArgs) error
	// GroupExperts sorts received (row, expert) pairs by expert; see
	// GroupExpertsArgs.
	GroupExperts(args GroupExpertsArgs) error
	// ExpertMLP: out[r,:] = sum over the pairs (r, e, g) of
	// g * (SiLU(x[r] Wgate_e^T) * (x[r] Wup_e^T)) Wdown_e^T, summed in
	// ascending order of e. See ExpertMLPArgs.
	ExpertMLP(out, x Matrix, args ExpertMLPArgs) error
	// CombineRows: out[index[i],:] += src[i,:]; index is I32 [n,1], distinct.
	CombineRows(out, src, index Matrix) error
	// SwiGLU: out[i,c] = SiLU(gateUp[i,c]) * gateUp[i,H+c]; gateUp is [n,2H].
	SwiGLU(out, gateUp Matrix) error
	// Add: out = a + b, same shapes; out may be a or b.
	Add(out, a, b Matrix) error
}

// HeadMatMulArgs describes out[:, h*OutStride + o] = sum_i x[:, h*XStride + i] * W_h(o,i)
// for heads h in [0,Heads), where W_h is rows [h*WStride, ...) of w: with
// Transposed false W_h(o,i) = w[h*WStride+i, o] (x times the matrix as stored),
// with Transposed true W_h(o,i) = w[h*WStride+o, i]. In and Out are the sizes
// of i and o. MLA's absorbed form is made of the two.
type HeadMatMulArgs struct {
	Heads, In, Out              int
	XStride, OutStride, WStride int
	Transposed                  bool
}

// RopeArgs selects columns h*HeadStride + Offset + [0,Dim) of every head.
// Interleaved rotates pairs (2i, 2i+1) (DeepSeek), otherwise (i, i+Dim/2)
// (Qwen3). The angle of pair i at position p is in row p of the table: cosine
// at column i, sine at column Dim/2 + i.
type RopeArgs struct {
	Heads, HeadStride, Offset, Dim int
	Interleaved                    bool
}

// AttentionArgs describes causal attention of several pieces at once.
//
// q is F32 [n, Heads*KeyDim], out F32 [n, Heads*ValueDim]. keys is
// [slots, KVHeads*KeyDim], values [slots, KVHeads*ValueDim] (for MLA in
// absorbed form KVHeads is 1 and values is a column range of keys). Query head
// h uses KV head h / (Heads/KVHeads).
//
// Piece s owns the query rows [QueryStart[s], QueryStart[s+1]); its context has
// ContextLength[s] tokens including its own rows, which are the last of it. Its
// token t lies in slot BlockTable[s, t/BlockSize]*BlockSize + t%BlockSize.
// Query i of a piece with L rows sees tokens [0, ContextLength - L + i].
type AttentionArgs struct {
	Heads, KVHeads, KeyDim, ValueDim int
	Scale                            float32
	BlockSize                        int
	// QueryStart is I32 [pieces+1,1], ContextLength I32 [pieces,1],
	// BlockTable I32 [pieces, maxBlocks].
	QueryStart, ContextLength, BlockTable Matrix
}

// Scoring is how router logits become scores.
type Scoring uint8

// The scoring functions. The numbers are part of the C ABI.
const (
	Softmax Scoring = iota
	Sigmoid
)

// RouterArgs describes the routing of DeepSeek-V2/V3 and Qwen3-MoE. Selection
// uses score + bias; weights use the score alone. With Groups > 1 the experts
// form equal contiguous groups and only the best TopKGroups compete, a group's
// score being its maximum, or the sum of its two largest with GroupTop2.
// Normalize divides the weights by their sum + 1e-20. Scale multiplies them and
// must not be 0.
type RouterArgs struct {
	Experts, TopK      int
	Groups, TopKGroups int
	Scoring            Scoring
	GroupTop2          bool
	Normalize          bool
	Scale              float32
}

// DispatchArgs describes the packing of n tokens. Experts of rank e are
// [ExpertStart[e], ExpertStart[e+1]), so ExpertStart is I32 [ranks+1,1].
//
// Results, for every rank e in turn: the distinct tokens that have an expert
// there, ascending, are rows [RowStart[e], RowStart[e+1]) of RowToken. Row r
// has the pairs [PairStart[r], PairStart[r+1]) with PairExpert (numbered from
// 0 within the rank, ascending) and PairWeight. PairStart counts from 0 over
// all ranks. What lies beyond the last row and pair is left as it was.
type DispatchArgs struct {
	// Experts I32 [n,TopK] and Weights F32 [n,TopK] come from Router.
	Experts, Weights Matrix
	ExpertStart      Matrix
	// RowStart I32 [ranks+1,1], RowToken I32 [n*min(TopK,ranks),1],
	// PairStart I32 [n*min(TopK,ranks)+1,1], PairExpert I32 [n*TopK,1],
	// PairWeight F32 [n*TopK,1].
	RowStart, RowToken, PairStart, PairExpert, PairWeight Matrix
}

// GroupExpertsArgs describes the sorting of received rows by expert: for local
// expert e the rows that use it, ascending, are GroupRow[GroupStart[e] :
// GroupStart[e+1]], their router weights GroupWeight at the same places.
type GroupExpertsArgs struct {
	Rows, Experts int
	// PairStart I32 [Rows+1,1] counts from 0, PairExpert I32 [pairs,1],
	// PairWeight F32 [pairs,1].
	PairStart, PairExpert, PairWeight Matrix
	// GroupStart I32 [Experts+1,1], GroupRow I32 [pairs,1], GroupWeight F32
	// [pairs,1].
	GroupStart, GroupRow, GroupWeight Matrix
}

// ExpertMLPArgs holds the weights of all experts of one rank and layer.
// GateUp is [Experts*2H, M]: for each expert H rows of gate, then H of up.
// Down is [Experts*M, H].
type ExpertMLPArgs struct {
	Experts, Hidden int // Hidden is H
	GateUp, Down    Matrix
	// GroupStart, GroupRow and GroupWeight come from GroupExperts.
	GroupStart, GroupRow, GroupWeight Matrix
	// Workspace is at least F32 [pairs, 3*H + 2*M], where pairs is the last
	// element of GroupStart.
	Workspace Matrix
}
