// SPDX-License-Identifier: Apache-2.0

package reference

import "github.com/findep/findep-operator/runtime/backend"

// Embed implements backend.Stream.
func (*stream) Embed(outM, tableM, idsM backend.Matrix) error {
	a := args{op: "embed"}
	out, table, ids := a.f32("out", outM), a.weight("table", tableM), a.i32("ids", idsM, outM.Rows, 1)
	a.shape("out", out.rows, out.cols, ids.rows, table.cols)
	if a.err != nil {
		return a.err
	}
	for i := range out.rows {
		if id := a.index("ids", ids, i, table.rows); id >= 0 {
			copy(out.row(i), table.decode(id, out.row(i)))
		}
	}
	return a.err
}

// MatMul implements backend.Stream.
func (s *stream) MatMul(outM, xM, wM backend.Matrix, accumulate bool) error {
	a := args{op: "matmul"}
	out, x, w := a.f32("out", outM), a.f32("x", xM), a.weight("w", wM)
	a.shape("w", w.rows, w.cols, out.cols, x.cols)
	a.shape("out", out.rows, out.cols, x.rows, w.rows)
	if a.err == nil {
		matMul(out, s.narrowed(x, w), w, 0, accumulate)
	}
	return a.err
}

// narrowed is x, or x rounded to the type of w's elements where the device rounds.
func (s *stream) narrowed(x floats, w weight) floats {
	if !s.rounds || w.matrix.DType == backend.F32 {
		return x
	}
	result := dense(x.rows, x.cols)
	for r := range x.rows {
		for c, v := range x.row(r) {
			if w.matrix.DType == backend.BF16 {
				v = backend.BF16ToFloat32(backend.Float32ToBF16(v))
			} else {
				v = backend.F16ToFloat32(backend.Float32ToF16(v))
			}
			result.row(r)[c] = v
		}
	}
	return result
}

// matMul is out (+)= x * w[from : from+out.cols]^T.
func matMul(out, x floats, w weight, from int, accumulate bool) {
	scratch := make([]float32, x.cols)
	for o := range out.cols {
		row := w.decode(from+o, scratch)
		for i := range out.rows {
			sum := float32(dot(x.row(i), row))
			if accumulate {
				sum += out.row(i)[o]
			}
			out.row(i)[o] = sum
		}
	}
}

// dot sums in float64, in four interleaved partial sums.
func dot(x, y []float32) float64 {
	var s0, s1, s2, s3 float64
	y = y[:len(x)]
	i := 0
	for ; i+4 <= len(x); i += 4 {
		s0 += float64(x[i]) * float64(y[i])
		s1 += float64(x[i+1]) * float64(y[i+1])
		s2 += float64(x[i+2]) * float64(y[i+2])
		s3 += float64(x[i+3]) * float64(y[i+3])
	}
	for ; i < len(x); i++ {
		s0 += float64(x[i]) * float64(y[i])
	}
	return (s0 + s1) + (s2 + s3)
}

// HeadMatMul implements backend.Stream.
func (s *stream) HeadMatMul(outM, xM, wM backend.Matrix, p backend.HeadMatMulArgs) error {
	a := args{op: "headmatmul"}
	out, x, w := a.f32("out", outM), a.f32("x", xM), a.weight("w", wM)
	if !positive(&a, p.Heads, p.In, p.Out, p.XStride, p.OutStride) {
		return a.err
	}
	a.require(p.OutStride >= p.Out, "OutStride %d must not be smaller than Out %d", p.OutStride, p.Out)
	a.require(p.WStride >= 0 && p.WStride <= maxSize, "WStride %d must be in [0, %d]", p.WStride, maxSize)
	wRows, wCols := p.In, p.Out
	if p.Transposed {
		wRows, wCols = p.Out, p.In
	}
	a.atLeast("w", w.rows, w.cols, (p.Heads-1)*p.WStride+wRows, wCols)
	a.atLeast("x", x.rows, x.cols, out.rows, (p.Heads-1)*p.XStride+p.In)
	a.atLeast("out", out.rows, out.cols, x.rows, (p.Heads-1)*p.OutStride+p.Out)
	if a.err != nil {
		return a.err
	}
	x = s.narrowed(x, w)
	for h := range p.Heads {
		headMatMul(out, x, w, h, p)
	}
	return nil
}

func headMatMul(out, x floats, w weight, h int, p backend.HeadMatMulArgs) {
	if p.Transposed {
		xh := floats{x.data[min(h*p.XStride, len(x.data)):], x.rows, p.In, x.stride}
		oh := floats{out.data[min(h*p.OutStride, len(out.data)):], out.rows, p.Out, out.stride}
		matMul(oh, xh, w, h*p.WStride, false)
		return
	}
	rows := make([]float32, p.In*p.Out)
	for i := range p.In {
		part := rows[i*p.Out : (i+1)*p.Out]
		copy(part, w.decode(h*p.WStride+i, part))
	}
	for r := range out.rows {
		xr, or := x.row(r)[h*p.XStride:], out.row(r)[h*p.OutStride:]
		for o := range p.Out {
			var sum float64
			for i := range p.In {
				sum += float64(xr[i]) * float64(rows[i*p.Out+o])
			}
			or[o] = float32(sum)
		}
	}
}

func positive(a *args, sizes ...int) bool {
	for _, s := range sizes {
		a.require(s > 0 && s <= maxSize, "sizes %v must be in [1, %d]", sizes, maxSize)
	}
	return a.err == nil
}

// maxSize bounds sizes so that products of two and sums of those stay exact.
const maxSize = 1 << 30
