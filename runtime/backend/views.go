// SPDX-License-Identifier: Apache-2.0

package backend

import (
	"errors"
	"fmt"
	"unsafe"
)

// FullMatrix is the view of rows x cols contiguous elements at the start of
// buf. Whether they fit is checked where the matrix is used, or by Check.
func FullMatrix(buf Buffer, dtype DType, rows, cols int) Matrix {
	return Matrix{Buffer: buf, DType: dtype, Rows: rows, Cols: cols, Stride: cols}
}

// AllocMatrix allocates a buffer of its own for rows x cols zeros.
func AllocMatrix(dev Device, dtype DType, rows, cols int) (Matrix, error) {
	if rows < 0 || cols < 0 || (cols > 0 && int64(rows) > maxBytes/int64(cols)/int64(dtype.Size())) {
		return Matrix{}, fmt.Errorf("a matrix of %d x %d %s elements has no representable size", rows, cols, dtype)
	}
	buf, err := dev.Alloc(int64(rows) * int64(cols) * int64(dtype.Size()))
	if err != nil {
		return Matrix{}, err
	}
	return FullMatrix(buf, dtype, rows, cols), nil
}

// maxBytes bounds one allocation, far above any device and far below what
// would overflow the arithmetic on offsets.
const maxBytes = int64(1) << 50

// Empty tells whether m is the zero Matrix, which stands for "not given".
func (m Matrix) Empty() bool { return m.Buffer == nil && m.Rows == 0 }

// Check tells whether every element of m lies within its buffer. A matrix
// without rows needs no buffer; one with rows must have columns. name is the
// argument's name in the error.
func (m Matrix) Check(name string) error {
	if m.Rows < 0 || m.Cols < 0 || m.Offset < 0 || m.Stride < m.Cols {
		return fmt.Errorf("%s: rows %d, columns %d and offset %d must not be negative, nor the stride %d smaller than the columns",
			name, m.Rows, m.Cols, m.Offset, m.Stride)
	}
	if m.DType > F8E4M3 {
		return fmt.Errorf("%s: unknown element type %s", name, m.DType)
	}
	if m.Rows == 0 {
		return nil
	}
	if m.Cols == 0 {
		return fmt.Errorf("%s: %d rows without columns", name, m.Rows)
	}
	if m.Buffer == nil {
		return fmt.Errorf("%s: %d x %d elements without a buffer", name, m.Rows, m.Cols)
	}
	limit := m.Buffer.Size() / int64(m.DType.Size())
	if m.Offset > limit || int64(m.Cols) > limit-m.Offset {
		return m.outside(name)
	}
	room := limit - m.Offset - int64(m.Cols)
	if m.Rows > 1 && int64(m.Stride) > room/int64(m.Rows-1) {
		return m.outside(name)
	}
	return nil
}

func (m Matrix) outside(name string) error {
	return fmt.Errorf("%s: %d x %d %s elements at offset %d with stride %d exceed the buffer's %d bytes",
		name, m.Rows, m.Cols, m.DType, m.Offset, m.Stride, m.Buffer.Size())
}

// Float32s is the host's view of an F32 matrix from its first to its last
// element, so element (r, c) is number r*Stride + c. It is nil where the host
// cannot address the memory or m is not a valid F32 matrix.
func Float32s(m Matrix) []float32 { return hostSlice[float32](m, F32) }

// Int32s is Float32s for I32 matrices.
func Int32s(m Matrix) []int32 { return hostSlice[int32](m, I32) }

// Uint16s is Float32s for BF16 and F16 matrices: the elements' bits.
func Uint16s(m Matrix) []uint16 { return hostSlice[uint16](m, BF16, F16) }

func hostSlice[T any](m Matrix, types ...DType) []T {
	known := false
	for _, t := range types {
		known = known || m.DType == t
	}
	if !known || m.Check("matrix") != nil {
		return nil
	}
	if m.Rows == 0 {
		return []T{}
	}
	host := m.Buffer.Host()
	if host == nil {
		return nil
	}
	all := unsafe.Slice((*T)(unsafe.Pointer(unsafe.SliceData(host))), len(host)/m.DType.Size())
	return all[m.Offset : m.Offset+int64(m.Rows-1)*int64(m.Stride)+int64(m.Cols)]
}

// WriteFloat32s copies Rows*Cols values, row after row, into an F32 matrix.
func WriteFloat32s(s Stream, m Matrix, values []float32) error { return write(s, m, F32, values) }

// WriteInt32s is WriteFloat32s for I32 matrices.
func WriteInt32s(s Stream, m Matrix, values []int32) error { return write(s, m, I32, values) }

// ReadFloat32s returns the Rows*Cols values of an F32 matrix, row after row.
func ReadFloat32s(s Stream, m Matrix) ([]float32, error) { return read[float32](s, m, F32) }

// ReadInt32s is ReadFloat32s for I32 matrices.
func ReadInt32s(s Stream, m Matrix) ([]int32, error) { return read[int32](s, m, I32) }

func write[T any](s Stream, m Matrix, want DType, values []T) error {
	if err := checkTransfer(m, want); err != nil {
		return err
	}
	if len(values) != m.Rows*m.Cols {
		return fmt.Errorf("%d values for a matrix of %d x %d", len(values), m.Rows, m.Cols)
	}
	size := m.DType.Size()
	raw := bytesOf(values, size)
	return m.eachRun(func(offset, at int64, count int) error {
		from := at * int64(size)
		return s.CopyIn(m.Buffer, offset*int64(size), raw[from:from+int64(count*size)])
	})
}

func read[T any](s Stream, m Matrix, want DType) ([]T, error) {
	if err := checkTransfer(m, want); err != nil {
		return nil, err
	}
	size := m.DType.Size()
	values := make([]T, m.Rows*m.Cols)
	raw := bytesOf(values, size)
	err := m.eachRun(func(offset, at int64, count int) error {
		from := at * int64(size)
		return s.CopyOut(raw[from:from+int64(count*size)], m.Buffer, offset*int64(size))
	})
	return values, err
}

func checkTransfer(m Matrix, want DType) error {
	if m.DType != want {
		return fmt.Errorf("the matrix has %s elements, not %s", m.DType, want)
	}
	return m.Check("matrix")
}

// eachRun calls f for each contiguous run of elements: its place in the buffer
// and its place in the sequence of the matrix's elements.
func (m Matrix) eachRun(f func(offset, at int64, count int) error) error {
	if m.Rows == 0 {
		return nil
	}
	if m.Stride == m.Cols {
		return f(m.Offset, 0, m.Rows*m.Cols)
	}
	var errs []error
	for r := range m.Rows {
		errs = append(errs, f(m.Offset+int64(r)*int64(m.Stride), int64(r)*int64(m.Cols), m.Cols))
	}
	return errors.Join(errs...)
}

func bytesOf[T any](values []T, size int) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(values))), len(values)*size)
}
