// SPDX-License-Identifier: Apache-2.0

package reference

import (
	"fmt"

	"github.com/findep/findep-operator/runtime/backend"
)

// floats is an F32 matrix in host memory.
type floats struct {
	data               []float32
	rows, cols, stride int
}

func (v floats) row(r int) []float32 {
	at := r * v.stride
	return v.data[at : at+v.cols : at+v.cols]
}

// ints is an I32 matrix in host memory.
type ints struct {
	data               []int32
	rows, cols, stride int
}

func (v ints) at(r int) int           { return int(v.data[r*v.stride]) }
func (v ints) set(r, value int)       { v.data[r*v.stride] = int32(value) }
func (v ints) row(r int) []int32      { return v.data[r*v.stride : r*v.stride+v.cols] }
func (v floats) at(r int) float32     { return v.data[r*v.stride] }
func (v floats) set(r int, f float32) { v.data[r*v.stride] = f }

// weight is a matrix of one of the weight types.
type weight struct {
	matrix backend.Matrix
	half   []uint16
	floats
}

// decode returns columns [0, len(into)) of row r as float32: the row itself or
// its values written to into.
func (w weight) decode(r int, into []float32) []float32 {
	if w.matrix.DType == backend.F32 {
		return w.row(r)[:len(into)]
	}
	bits := w.half[r*w.stride : r*w.stride+len(into)]
	if w.matrix.DType == backend.BF16 {
		for i, b := range bits {
			into[i] = backend.BF16ToFloat32(b)
		}
		return into
	}
	for i, b := range bits {
		into[i] = backend.F16ToFloat32(b)
	}
	return into
}

// args collects the first error found while an operation's arguments are
// taken apart, so that the operations read as a list of what they need.
type args struct {
	op  string
	err error
}

func (a *args) fail(format string, v ...any) {
	if a.err == nil {
		a.err = fmt.Errorf("%s: %s", a.op, fmt.Sprintf(format, v...))
	}
}

func (a *args) require(ok bool, format string, v ...any) {
	if !ok {
		a.fail(format, v...)
	}
}

func (a *args) take(name string, m backend.Matrix) bool {
	if err := m.Check(name); err != nil {
		a.fail("%v", err)
	}
	return a.err == nil
}

func (a *args) wrongType(name string, m backend.Matrix, want string) {
	a.fail("%s has elements of type %s in host memory or elsewhere; it must be %s that the host can address", name, m.DType, want)
}

// f32 takes an F32 argument.
func (a *args) f32(name string, m backend.Matrix) floats {
	if !a.take(name, m) {
		return floats{}
	}
	data := backend.Float32s(m)
	if data == nil {
		a.wrongType(name, m, "F32")
	}
	return floats{data, m.Rows, m.Cols, m.Stride}
}

// i32 takes an I32 argument of at least minRows rows and minCols columns.
func (a *args) i32(name string, m backend.Matrix, minRows, minCols int) ints {
	if !a.take(name, m) {
		return ints{}
	}
	data := backend.Int32s(m)
	if data == nil {
		a.wrongType(name, m, "I32")
	}
	a.atLeast(name, m.Rows, m.Cols, minRows, minCols)
	return ints{data, m.Rows, m.Cols, m.Stride}
}

// weight takes an F32, BF16 or F16 argument.
func (a *args) weight(name string, m backend.Matrix) weight {
	if m.DType == backend.F32 {
		return weight{matrix: m, floats: a.f32(name, m)}
	}
	if !a.take(name, m) {
		return weight{}
	}
	half := backend.Uint16s(m)
	if half == nil {
		a.wrongType(name, m, "F32, BF16 or F16")
	}
	return weight{matrix: m, half: half, floats: floats{rows: m.Rows, cols: m.Cols, stride: m.Stride}}
}

// cached takes an F32 argument, or one of BF16, which it decodes.
func (a *args) cached(name string, m backend.Matrix) floats {
	if m.DType != backend.BF16 {
		return a.f32(name, m)
	}
	w := a.weight(name, m)
	if a.err != nil {
		return floats{}
	}
	decoded := dense(w.rows, w.cols)
	for r := range w.rows {
		w.decode(r, decoded.row(r))
	}
	return decoded
}

func (a *args) shape(name string, rows, cols, wantRows, wantCols int) {
	a.require(rows == wantRows && cols == wantCols, "%s is %d x %d; it must be %d x %d", name, rows, cols, wantRows, wantCols)
}

func (a *args) atLeast(name string, rows, cols, minRows, minCols int) {
	a.require(rows >= minRows && cols >= minCols, "%s is %d x %d; it must be at least %d x %d", name, rows, cols, minRows, minCols)
}

// index reads row i of an index and checks that it is in [0, limit).
func (a *args) index(name string, v ints, i, limit int) int {
	value := v.at(i)
	if value < 0 || value >= limit {
		a.fail("%s[%d] is %d; it must be in [0, %d)", name, i, value, limit)
		return -1
	}
	return value
}

// starts checks that the first n+1 elements begin at 0, never decrease and end
// at limit or before, and returns the last.
func (a *args) starts(name string, v ints, n, limit int) int {
	if a.err != nil {
		return 0
	}
	last := 0
	a.require(v.at(0) == 0, "%s begins with %d; it must begin with 0", name, v.at(0))
	for i := 1; i <= n; i++ {
		a.require(v.at(i) >= last, "%s decreases from %d to %d at %d", name, last, v.at(i), i)
		last = v.at(i)
	}
	a.require(last <= limit, "%s ends at %d but there are only %d places", name, last, limit)
	return last
}
