// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"fmt"
	"testing"

	"github.com/findep/findep-operator/runtime/backend"
)

// Bench measures products and the expert MLP and reports GFLOP/s (a
// multiplication and an addition are two), for the record: it asserts nothing.
// The streams have one thread.
func Bench(b *testing.B, open func() (backend.Device, error)) {
	dev, err := open()
	if err != nil {
		b.Fatal(err)
	}
	defer func() {
		if err := dev.Close(); err != nil {
			b.Error(err)
		}
	}()
	for _, w := range weightTypes[:2] {
		for _, size := range [][2]int{{512, 512}, {2048, 1408}} {
			for _, n := range []int{1, 8, 64, 512} {
				b.Run(fmt.Sprintf("matmul/%s/n=%d,in=%d,out=%d", w, n, size[0], size[1]), func(b *testing.B) {
					benchMatMul(b, dev, w, n, size[0], size[1])
				})
			}
		}
		for _, rows := range []int{1, 16, 128} {
			b.Run(fmt.Sprintf("expertmlp/%s/rows=%d,E=4,k=2,M=512,H=352", w, rows), func(b *testing.B) { benchExpertMLP(b, dev, w, rows) })
		}
	}
	for _, s := range []struct{ rows, context int }{{1, 1024}, {128, 1024}} {
		b.Run(fmt.Sprintf("attention/F32/rows=%d,context=%d,heads=16,dk=576,dv=512", s.rows, s.context), func(b *testing.B) {
			benchAttention(b, dev, s.rows, s.context)
		})
	}
}

// matrices allocates what a benchmark needs and frees it after it.
type matrices struct {
	b      *testing.B
	dev    backend.Device
	stream backend.Stream
}

func newMatrices(b *testing.B, dev backend.Device) matrices {
	s, err := dev.NewStream(1)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := s.Close(); err != nil {
			b.Error(err)
		}
	})
	return matrices{b, dev, s}
}

// make allocates a matrix of pseudo-random small values.
func (m matrices) make(dtype backend.DType, rows, cols int) backend.Matrix {
	matrix, err := backend.AllocMatrix(m.dev, dtype, rows, cols)
	if err != nil {
		m.b.Fatal(err)
	}
	m.b.Cleanup(matrix.Buffer.Free)
	data := make([]byte, matrix.Buffer.Size())
	rng := newRand("benchmark")
	for i := 0; i < len(data); i += dtype.Size() {
		bits := encode(dtype, rng.Float32()-0.5)
		for j := range dtype.Size() {
			data[i+j] = byte(bits >> (8 * j))
		}
	}
	if err := m.stream.CopyIn(matrix.Buffer, 0, data); err != nil {
		m.b.Fatal(err)
	}
	return matrix
}

func (m matrices) ints(values ...int32) backend.Matrix {
	matrix := m.make(backend.I32, len(values), 1)
	if err := backend.WriteInt32s(m.stream, matrix, values); err != nil {
		m.b.Fatal(err)
	}
	return matrix
}

// measure repeats an operation of the given number of multiplications. Each is
// waited for: a device only takes note of it when it is issued, and the clock
// stops with the loop.
func (m matrices) measure(products float64, op func() error) {
	for m.b.Loop() {
		if err := op(); err != nil {
			m.b.Fatal(err)
		}
		if err := m.stream.Synchronize(); err != nil {
			m.b.Fatal(err)
		}
	}
	m.b.ReportMetric(2*products*float64(m.b.N)/m.b.Elapsed().Seconds()/1e9, "GFLOP/s")
}

func benchMatMul(b *testing.B, dev backend.Device, w backend.DType, n, in, out int) {
	m := newMatrices(b, dev)
	y, x, weight := m.make(backend.F32, n, out), m.make(backend.F32, n, in), m.make(w, out, in)
	m.measure(float64(n)*float64(in)*float64(out), func() error { return m.stream.MatMul(y, x, weight, false) })
}

func benchExpertMLP(b *testing.B, dev backend.Device, w backend.DType, rows int) {
	const experts, topK, model, hidden = 4, 2, 512, 352
	m := newMatrices(b, dev)
	starts, index := []int32{0}, []int32{}
	for e := range experts {
		for r := range rows {
			if (e+r)%experts < topK {
				index = append(index, int32(r))
			}
		}
		starts = append(starts, int32(len(index)))
	}
	pairs := len(index)
	args := backend.ExpertMLPArgs{Experts: experts, Hidden: hidden, GateUp: m.make(w, experts*2*hidden, model),
		Down: m.make(w, experts*model, hidden), GroupStart: m.ints(starts...), GroupRow: m.ints(index...),
		GroupWeight: m.make(backend.F32, pairs, 1), Workspace: m.make(backend.F32, pairs, 3*hidden+2*model)}
	out, x := m.make(backend.F32, rows, model), m.make(backend.F32, rows, model)
	m.measure(float64(pairs)*3*model*hidden, func() error { return m.stream.ExpertMLP(out, x, args) })
}

func benchAttention(b *testing.B, dev backend.Device, rows, context int) {
	const heads, keyDim, valueDim, block = 16, 576, 512, 16
	m := newMatrices(b, dev)
	table := make([]int32, context/block)
	for i := range table {
		table[i] = int32(len(table) - 1 - i)
	}
	keys := m.make(backend.F32, context, keyDim)
	blocks := m.ints(table...)
	blocks.Rows, blocks.Cols, blocks.Stride = 1, len(table), len(table)
	args := backend.AttentionArgs{Heads: heads, KVHeads: 1, KeyDim: keyDim, ValueDim: valueDim, Scale: 0.1, BlockSize: block,
		QueryStart: m.ints(0, int32(rows)), ContextLength: m.ints(int32(context)), BlockTable: blocks}
	out, q := m.make(backend.F32, rows, heads*valueDim), m.make(backend.F32, rows, heads*keyDim)
	seen := float64(context) - float64(rows-1)/2
	m.measure(float64(rows)*heads*seen*(keyDim+valueDim), func() error {
		return m.stream.Attention(out, q, keys, keys.ColRange(0, valueDim), args)
	})
}
