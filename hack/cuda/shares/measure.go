// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"time"

	"github.com/findep/findep-operator/runtime/backend"
)

// sizes are those of the measured operations.
type sizes struct {
	square                 int // of the products that make the peak
	rows, model, hidden    int // of products and experts
	experts, topK          int
	sequences, context     int // of decode attention
	heads, kvHeads, keyDim int
	batches                int           // measured times of each operation
	batch                  time.Duration // least time of one
}

// full sizes are those of a layer of DeepSeek-V2-Lite under a large batch, and of
// Qwen3-30B-A3B's attention.
var full = sizes{square: 8192, rows: 8192, model: 2048, hidden: 1408, experts: 16, topK: 6, sequences: 64, context: 4096,
	heads: 32, kvHeads: 4, keyDim: 128, batches: 9, batch: 20 * time.Millisecond}

// small sizes show in a moment that everything runs; their shares mean nothing.
var small = sizes{square: 64, rows: 64, model: 32, hidden: 16, experts: 4, topK: 2, sequences: 4, context: 64,
	heads: 4, kvHeads: 2, keyDim: 16, batches: 3, batch: 0}

// blockTokens are the tokens of a block of the paged cache.
const blockTokens = 16

// lab measures on one device. The first failure stays and stops the rest.
type lab struct {
	dev     backend.Device
	stream  backend.Stream
	sizes   sizes
	now     func() time.Time
	buffers []backend.Buffer
	samples []Sample
	err     error
}

// Measure runs every operation with weights of a type.
func Measure(dev backend.Device, dtype backend.DType, s sizes, threads int, now func() time.Time) ([]Sample, error) {
	stream, err := dev.NewStream(threads)
	if err != nil {
		return nil, err
	}
	l := &lab{dev: dev, stream: stream, sizes: s, now: now}
	for _, step := range []func(backend.DType){l.products, l.copies, l.grouped, l.exchange, l.decode} {
		step(dtype)
		l.free()
	}
	if err := stream.Close(); l.err == nil {
		l.err = err
	}
	return l.samples, l.err
}

func (l *lab) free() {
	for _, b := range l.buffers {
		b.Free()
	}
	l.buffers = nil
}

// matrix allocates values between -1 and 1. A GPU draws less power for zeros, and
// is faster then.
func (l *lab) matrix(dtype backend.DType, rows, cols int) backend.Matrix {
	if l.err != nil {
		return backend.Matrix{}
	}
	m, err := backend.AllocMatrix(l.dev, dtype, rows, cols)
	if l.err = err; err != nil {
		return m
	}
	l.buffers = append(l.buffers, m.Buffer)
	pattern := noise(dtype)
	for at, size := int64(0), m.Buffer.Size(); at < size && l.err == nil; at += int64(len(pattern)) {
		l.err = l.stream.CopyIn(m.Buffer, at, pattern[:min(int64(len(pattern)), size-at)])
	}
	return m
}

// noise is a pattern of an odd number of elements, so that rows differ; zeros for
// integers, which are written afterwards.
func noise(dtype backend.DType) []byte {
	const elements = 1<<18 - 1
	pattern := make([]byte, 0, elements*dtype.Size())
	r := rand.New(rand.NewPCG(1, 2))
	for range elements {
		switch v := 2*r.Float32() - 1; dtype {
		case backend.BF16:
			pattern = binary.LittleEndian.AppendUint16(pattern, backend.Float32ToBF16(v))
		case backend.F32:
			pattern = binary.LittleEndian.AppendUint32(pattern, math.Float32bits(v))
		default:
			pattern = append(pattern, make([]byte, dtype.Size())...)
		}
	}
	return pattern
}

func (l *lab) ints(rows, cols int, value func(i int) int32) backend.Matrix {
	m := l.matrix(backend.I32, rows, cols)
	values := make([]int32, rows*cols)
	for i := range values {
		values[i] = value(i)
	}
	if l.err == nil {
		l.err = backend.WriteInt32s(l.stream, m, values)
	}
	return m
}

// measure times batches that end with everything done. The first run is not
// counted: it makes what later ones find.
func (l *lab) measure(s Sample, run func() error) {
	repeat := func(times int) time.Duration {
		start := l.now()
		for i := 0; i < times && l.err == nil; i++ {
			l.err = run()
		}
		if l.err == nil {
			l.err = l.stream.Synchronize()
		}
		return l.now().Sub(start)
	}
	if l.err == nil {
		repeat(1)
	}
	times := 1
	for l.err == nil && times < 1<<16 && repeat(times) < l.sizes.batch {
		times *= 2
	}
	for range l.sizes.batches {
		if l.err == nil {
			s.Seconds = append(s.Seconds, repeat(times).Seconds()/float64(times))
		}
	}
	if l.err != nil {
		l.err = fmt.Errorf("%s: %w", s.Op, l.err)
		return
	}
	l.samples = append(l.samples, s)
}

func (l *lab) product(op string, goal float64, dtype backend.DType, n, in, out int) {
	x, w, y := l.matrix(backend.F32, n, in), l.matrix(dtype, out, in), l.matrix(backend.F32, n, out)
	l.measure(Sample{Op: op, What: fmt.Sprintf("%s, %d x %d by %d", dtype, n, in, out), Unit: FLOP, Work: 2 * float64(n) * float64(in) * float64(out), Goal: goal},
		func() error { return l.stream.MatMul(y, x, w, false) })
}

// products are the squares that make the peak, and one of a model.
func (l *lab) products(dtype backend.DType) {
	for n := l.sizes.square / 4; n <= l.sizes.square; n *= 2 {
		l.product("peak", 0, dtype, n, n, n)
		l.free()
	}
	l.product("gemm", 0.85, dtype, l.sizes.rows, l.sizes.model, 2*l.sizes.hidden)
}

// copies read and write long rows, which makes the peak of memory.
func (l *lab) copies(backend.DType) {
	rows, cols := 4*l.sizes.rows, l.sizes.model
	from, to, sum := l.matrix(backend.F32, rows, cols), l.matrix(backend.F32, rows, cols), l.matrix(backend.F32, rows, cols)
	index := l.ints(rows, 1, func(i int) int32 { return int32(i) })
	moved := 4 * float64(rows) * float64(cols)
	l.measure(Sample{Op: "peak", What: "rows copied", Unit: Bytes, Work: 2 * moved}, func() error { return l.stream.GatherRows(to, from, index) })
	l.measure(Sample{Op: "peak", What: "matrices added", Unit: Bytes, Work: 3 * moved}, func() error { return l.stream.Add(sum, from, to) })
}

// grouped is the MLP of a rank's experts, whose pairs fall on them evenly.
func (l *lab) grouped(dtype backend.DType) {
	s := &l.sizes
	pairs := s.rows * s.topK
	args := backend.ExpertMLPArgs{
		Experts: s.experts, Hidden: s.hidden,
		GateUp: l.matrix(dtype, s.experts*2*s.hidden, s.model), Down: l.matrix(dtype, s.experts*s.model, s.hidden),
		GroupStart: l.ints(s.experts+1, 1, func(e int) int32 { return int32(e * pairs / s.experts) }),
		// Within a group rows ascend and are distinct, since pairs/experts <= rows.
		GroupRow: l.ints(pairs, 1, func(i int) int32 {
			e := 0
			for (e+1)*pairs/s.experts <= i {
				e++
			}
			return int32(i - e*pairs/s.experts)
		}),
		GroupWeight: l.matrix(backend.F32, pairs, 1), Workspace: l.matrix(backend.F32, pairs, 3*s.hidden+2*s.model),
	}
	out, x := l.matrix(backend.F32, s.rows, s.model), l.matrix(backend.F32, s.rows, s.model)
	l.measure(Sample{Op: "grouped MLP", What: fmt.Sprintf("%s, %d pairs over %d experts", dtype, pairs, s.experts), Unit: FLOP,
		Work: 6 * float64(pairs) * float64(s.model) * float64(s.hidden), Goal: 0.75},
		func() error { return l.stream.ExpertMLP(out, x, args) })
}

// exchange is what dispatch and combine move on the device: rows in the order of
// their destinations, and rows added to those they came from.
func (l *lab) exchange(backend.DType) {
	s := &l.sizes
	tokens, packed := l.matrix(backend.F32, s.rows, s.model), l.matrix(backend.F32, s.rows, s.model)
	// Odd multiples visit every row once, far from each other.
	index := l.ints(s.rows, 1, func(i int) int32 { return int32(i * 1021 % s.rows) })
	moved := 4 * float64(s.rows) * float64(s.model)
	what := fmt.Sprintf("%d rows of %d", s.rows, s.model)
	l.measure(Sample{Op: "dispatch", What: what, Unit: Bytes, Work: 2 * moved, Goal: 0.8},
		func() error { return l.stream.GatherRows(packed, tokens, index) })
	l.measure(Sample{Op: "combine", What: what, Unit: Bytes, Work: 3 * moved, Goal: 0.8},
		func() error { return l.stream.CombineRows(tokens, packed, index) })
}

// decode is one new token of every sequence, bound by reading keys and values.
func (l *lab) decode(backend.DType) {
	s := &l.sizes
	blocks := s.context / blockTokens
	width := s.kvHeads * s.keyDim
	keys, values := l.matrix(backend.F32, s.sequences*s.context, width), l.matrix(backend.F32, s.sequences*s.context, width)
	out, q := l.matrix(backend.F32, s.sequences, s.heads*s.keyDim), l.matrix(backend.F32, s.sequences, s.heads*s.keyDim)
	args := backend.AttentionArgs{
		Heads: s.heads, KVHeads: s.kvHeads, KeyDim: s.keyDim, ValueDim: s.keyDim, Scale: 0.1, BlockSize: blockTokens,
		QueryStart:    l.ints(s.sequences+1, 1, func(i int) int32 { return int32(i) }),
		ContextLength: l.ints(s.sequences, 1, func(int) int32 { return int32(s.context) }),
		BlockTable:    l.ints(s.sequences, blocks, func(i int) int32 { return int32(i) }),
	}
	l.measure(Sample{Op: "decode attention", What: fmt.Sprintf("%d sequences of %d", s.sequences, s.context), Unit: Bytes,
		Work: 2 * 4 * float64(s.sequences) * float64(s.context) * float64(width), Goal: 0.75},
		func() error { return l.stream.Attention(out, q, keys, values, args) })
}
