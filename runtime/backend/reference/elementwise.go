// SPDX-License-Identifier: Apache-2.0

package reference

import (
	"math"

	"github.com/findep/findep-operator/runtime/backend"
)

// RMSNorm implements backend.Stream.
func (*stream) RMSNorm(outM, xM, weightM backend.Matrix, eps float32) error {
	a := args{op: "rmsnorm"}
	out, x, w := a.f32("out", outM), a.f32("x", xM), a.weight("weight", weightM)
	a.shape("weight", w.rows, w.cols, 1, x.cols)
	a.shape("out", out.rows, out.cols, x.rows, x.cols)
	if a.err != nil {
		return a.err
	}
	gain := w.decode(0, make([]float32, x.cols))
	for r := range x.rows {
		in, to := x.row(r), out.row(r)
		scale := float32(1 / math.Sqrt(dot(in, in)/float64(len(in))+float64(eps)))
		for c, v := range in {
			to[c] = v * scale * gain[c]
		}
	}
	return nil
}

// Rope implements backend.Stream.
func (*stream) Rope(xM, positionsM, tableM backend.Matrix, p backend.RopeArgs) error {
	a := args{op: "rope"}
	x, table := a.f32("x", xM), a.f32("table", tableM)
	positions := a.i32("positions", positionsM, x.rows, 1)
	if !positive(&a, p.Heads, p.Dim) {
		return a.err
	}
	a.require(p.Dim%2 == 0, "Dim %d must be even", p.Dim)
	a.require(p.Offset >= 0 && p.Offset <= maxSize && p.HeadStride >= 0 && p.HeadStride <= maxSize,
		"Offset %d and HeadStride %d must be in [0, %d]", p.Offset, p.HeadStride, maxSize)
	a.require(p.Heads == 1 || p.HeadStride >= p.Dim, "HeadStride %d must not be smaller than Dim %d", p.HeadStride, p.Dim)
	a.atLeast("x", x.rows, x.cols, 0, (p.Heads-1)*p.HeadStride+p.Offset+p.Dim)
	a.shape("table", table.rows, table.cols, table.rows, p.Dim)
	if a.err != nil {
		return a.err
	}
	for r := range x.rows {
		if position := a.index("positions", positions, r, table.rows); position >= 0 {
			for h := range p.Heads {
				rotate(x.row(r)[h*p.HeadStride+p.Offset:][:p.Dim], table.row(position), p.Interleaved)
			}
		}
	}
	return a.err
}

func rotate(v, angles []float32, interleaved bool) {
	half := len(v) / 2
	for i := range half {
		first, second := i, i+half
		if interleaved {
			first, second = 2*i, 2*i+1
		}
		cos, sin := angles[i], angles[half+i]
		x, y := v[first], v[second]
		v[first] = x*cos - y*sin
		v[second] = x*sin + y*cos
	}
}

// ScatterRows implements backend.Stream.
func (*stream) ScatterRows(dstM, srcM, indexM backend.Matrix) error {
	if dstM.DType == backend.BF16 {
		return scatterRounded(dstM, srcM, indexM)
	}
	return moveRows("scatterrows", dstM, srcM, indexM, func(dst, src floats, i, at int) { copy(dst.row(at), src.row(i)) })
}

// scatterRounded is ScatterRows into BF16.
func scatterRounded(dstM, srcM, indexM backend.Matrix) error {
	a := args{op: "scatterrows"}
	dst, src := a.weight("the indexed matrix", dstM), a.f32("the other matrix", srcM)
	index := a.i32("index", indexM, src.rows, 1)
	a.shape("the indexed matrix", dst.rows, dst.cols, dst.rows, src.cols)
	a.require(index.rows == src.rows, "there are %d indices for %d rows", index.rows, src.rows)
	for i := 0; i < src.rows && a.err == nil; i++ {
		if at := a.index("index", index, i, dst.rows); at >= 0 {
			for c, v := range src.row(i) {
				dst.half[at*dst.stride+c] = backend.Float32ToBF16(v)
			}
		}
	}
	return a.err
}

// CombineRows implements backend.Stream.
func (*stream) CombineRows(outM, srcM, indexM backend.Matrix) error {
	return moveRows("combinerows", outM, srcM, indexM, func(out, src floats, i, at int) {
		to := out.row(at)
		for c, v := range src.row(i) {
			to[c] += v
		}
	})
}

// GatherRows implements backend.Stream.
func (*stream) GatherRows(dstM, srcM, indexM backend.Matrix) error {
	return moveRows("gatherrows", srcM, dstM, indexM, func(src, dst floats, i, at int) { copy(dst.row(i), src.row(at)) })
}

// moveRows pairs row i of rows with row index[i] of indexed.
func moveRows(op string, indexedM, rowsM, indexM backend.Matrix, move func(indexed, rows floats, i, at int)) error {
	a := args{op: op}
	indexed, rows := a.f32("the indexed matrix", indexedM), a.f32("the other matrix", rowsM)
	index := a.i32("index", indexM, rows.rows, 1)
	a.require(indexed.cols == rows.cols, "the rows have %d and %d columns; they must have as many", indexed.cols, rows.cols)
	a.require(index.rows == rows.rows, "there are %d indices for %d rows", index.rows, rows.rows)
	if a.err != nil {
		return a.err
	}
	for i := range rows.rows {
		if at := a.index("index", index, i, indexed.rows); at >= 0 {
			move(indexed, rows, i, at)
		}
	}
	return a.err
}

// SwiGLU implements backend.Stream.
func (*stream) SwiGLU(outM, gateUpM backend.Matrix) error {
	a := args{op: "swiglu"}
	out, gateUp := a.f32("out", outM), a.f32("gateUp", gateUpM)
	a.shape("gateUp", gateUp.rows, gateUp.cols, out.rows, 2*out.cols)
	if a.err == nil {
		swiGLU(out, gateUp)
	}
	return a.err
}

func swiGLU(out, gateUp floats) {
	for r := range out.rows {
		gate, up, to := gateUp.row(r)[:out.cols], gateUp.row(r)[out.cols:], out.row(r)
		for c, g := range gate {
			to[c] = silu(g) * up[c]
		}
	}
}

// silu is x * sigmoid(x).
func silu(x float32) float32 { return float32(float64(x) / (1 + math.Exp(-float64(x)))) }

// Add implements backend.Stream.
func (*stream) Add(outM, aM, bM backend.Matrix) error {
	a := args{op: "add"}
	out, x, y := a.f32("out", outM), a.f32("a", aM), a.f32("b", bM)
	a.shape("a", x.rows, x.cols, out.rows, out.cols)
	a.shape("b", y.rows, y.cols, out.rows, out.cols)
	if a.err != nil {
		return a.err
	}
	for r := range out.rows {
		to, xr, yr := out.row(r), x.row(r), y.row(r)
		for c := range to {
			to[c] = xr[c] + yr[c]
		}
	}
	return nil
}
