// SPDX-License-Identifier: Apache-2.0

package executor

import (
	"fmt"
	"unsafe"

	"github.com/findep/findep-operator/runtime/backend"
)

// array is a device matrix that grows with the largest step seen, so that
// steps of a known size allocate nothing. Growing loses the content.
type array struct {
	dev   backend.Device
	dtype backend.DType
	cols  int
	all   backend.Matrix
	// staging is the host's copy where it cannot address the device.
	staging []byte
}

func newArray(dev backend.Device, dtype backend.DType, cols int) *array {
	return &array{dev: dev, dtype: dtype, cols: cols}
}

// rows returns a view of the first n rows.
func (a *array) rows(n int) (backend.Matrix, error) {
	if n > a.all.Rows {
		n := max(n, a.all.Rows+a.all.Rows/2, 16)
		m, err := backend.AllocMatrix(a.dev, a.dtype, n, a.cols)
		if err != nil {
			return m, fmt.Errorf("growing a buffer to %d x %d %s: %w", n, a.cols, a.dtype, err)
		}
		a.free()
		a.all = m
		if m.Buffer.Host() == nil {
			a.staging = make([]byte, m.Buffer.Size())
		}
	}
	return a.view(0, n), nil
}

// view is rows [from, to) of what rows has reserved.
func (a *array) view(from, to int) backend.Matrix {
	m := a.all
	if m.Buffer == nil {
		m = backend.Matrix{DType: a.dtype, Cols: a.cols, Stride: a.cols}
	}
	return m.RowRange(from, to)
}

func (a *array) free() {
	if a.all.Buffer != nil {
		a.all.Buffer.Free()
	}
	a.all, a.staging = backend.Matrix{}, nil
}

// host is the host's memory of rows [from, to): the device's own where it can
// be addressed, else staging that push and pull keep in step.
func (a *array) host(from, to int) []byte {
	if from == to {
		return nil
	}
	size := a.cols * a.dtype.Size()
	memory := a.staging
	if memory == nil {
		memory = a.all.Buffer.Host()
	}
	return memory[from*size : to*size]
}

// push makes what the host wrote to rows [from, to) visible to the device.
func (a *array) push(s backend.Stream, from, to int) error {
	if a.staging == nil || from == to {
		return nil
	}
	return s.CopyIn(a.all.Buffer, int64(from*a.cols*a.dtype.Size()), a.host(from, to))
}

// pull makes what the device wrote to rows [from, to) visible to the host. The
// stream must be synchronized first where the host addresses device memory.
func (a *array) pull(s backend.Stream, from, to int) error {
	if a.staging == nil || from == to {
		return nil
	}
	return s.CopyOut(a.host(from, to), a.all.Buffer, int64(from*a.cols*a.dtype.Size()))
}

// ints and floats view bytes as elements. All supported hosts are little-endian,
// as is the wire.
func ints(b []byte) []int32 {
	return unsafe.Slice((*int32)(unsafe.Pointer(unsafe.SliceData(b))), len(b)/4)
}

func floats(b []byte) []float32 {
	return unsafe.Slice((*float32)(unsafe.Pointer(unsafe.SliceData(b))), len(b)/4)
}

func bytesOfInts(v []int32) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(v))), 4*len(v))
}

// reshape views a contiguous matrix with another number of columns.
func reshape(m backend.Matrix, cols int) backend.Matrix {
	m.Rows, m.Cols, m.Stride = m.Rows*m.Cols/cols, cols, cols
	return m
}
