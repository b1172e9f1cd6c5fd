// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"bytes"
	"encoding/binary"
	"hash/fnv"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/findep/findep-operator/runtime/backend"
)

// layout is how operands lie in their buffers.
type layout struct {
	name string
	// before and after are guard elements around the matrix, gap those between
	// its rows. An odd `before` makes rows that are aligned to nothing.
	before, after, gap int
}

var (
	contiguous = layout{"contiguous", 64, 64, 0}
	strided    = layout{"strided", 67, 61, 5}
	// padded keeps the alignment of the columns to 16 bytes and more.
	padded = layout{"padded", 64, 64, 8}
)

// guard is the byte that fills what no operation may touch.
const guard = 0xA5

// role says what an operation may do to an operand.
type role int

const (
	input   role = iota // must stay as it is
	output              // is compared
	scratch             // may become anything
)

// operand is a matrix on a device with the image of its whole buffer before
// the operation.
type operand struct {
	name  string
	role  role
	m     backend.Matrix
	image []byte
}

// bench makes the operands of one case on one device. Two benches with one
// seed make the same ones.
type bench struct {
	t        *testing.T
	dev      backend.Device
	stream   backend.Stream
	layout   layout
	rng      *rand.Rand
	operands []*operand
}

func newBench(t *testing.T, dev backend.Device, l layout, seed string) *bench {
	t.Helper()
	return &bench{t: t, dev: dev, stream: newStream(t, dev), layout: l, rng: newRand(seed)}
}

func newRand(seed string) *rand.Rand {
	h := fnv.New64a()
	h.Write([]byte(seed))
	return rand.New(rand.NewPCG(h.Sum64(), 1))
}

func newStream(t *testing.T, dev backend.Device) backend.Stream {
	t.Helper()
	// Two threads, so that work is shared wherever a backend shares it.
	stream, err := dev.NewStream(2)
	if err != nil {
		t.Fatalf("%s: %v", dev.Name(), err)
	}
	t.Cleanup(func() {
		if err := stream.Close(); err != nil {
			t.Errorf("closing a stream: %v", err)
		}
	})
	return stream
}

// fill gives the bits of element (r, c).
type fill func(r, c int) uint32

// place makes an operand of the bench's layout.
func (b *bench) place(name string, role role, dtype backend.DType, rows, cols int, f fill) backend.Matrix {
	b.t.Helper()
	l, size := b.layout, dtype.Size()
	stride := cols + l.gap
	span := 0
	if rows > 0 {
		span = (rows-1)*stride + cols
	}
	image := bytes.Repeat([]byte{guard}, (l.before+span+l.after)*size)
	o := &operand{name: name, role: role, image: image,
		m: backend.Matrix{DType: dtype, Offset: int64(l.before), Rows: rows, Cols: cols, Stride: stride}}
	o.each(func(r, c, at int) {
		bits := f(r, c)
		if size == 2 {
			binary.LittleEndian.PutUint16(image[at:], uint16(bits))
		} else {
			binary.LittleEndian.PutUint32(image[at:], bits)
		}
	})
	buf, err := b.dev.Alloc(int64(len(image)))
	if err != nil {
		b.t.Fatalf("%s: %s: %v", b.dev.Name(), name, err)
	}
	b.t.Cleanup(buf.Free)
	if err := b.stream.CopyIn(buf, 0, image); err != nil {
		b.t.Fatalf("%s: %s: %v", b.dev.Name(), name, err)
	}
	o.m.Buffer = buf
	b.operands = append(b.operands, o)
	return o.m
}

// each visits the elements with their byte offsets.
func (o *operand) each(visit func(r, c, at int)) {
	for r := range o.m.Rows {
		for c := range o.m.Cols {
			visit(r, c, (int(o.m.Offset)+r*o.m.Stride+c)*o.m.DType.Size())
		}
	}
}

// after reads the whole buffer back.
func (o *operand) after(t *testing.T, s backend.Stream) []byte {
	t.Helper()
	data := make([]byte, len(o.image))
	if err := s.CopyOut(data, o.m.Buffer, 0); err != nil {
		t.Fatalf("reading %s back: %v", o.name, err)
	}
	return data
}

// encode gives the bits of v as an element of type t.
func encode(t backend.DType, v float32) uint32 {
	switch t {
	case backend.BF16:
		return uint32(backend.Float32ToBF16(v))
	case backend.F16:
		return uint32(backend.Float32ToF16(v))
	default:
		return math.Float32bits(v)
	}
}

// values places an input of the given values.
func (b *bench) values(name string, dtype backend.DType, rows, cols int, f func(r, c int) float32) backend.Matrix {
	b.t.Helper()
	return b.place(name, input, dtype, rows, cols, func(r, c int) uint32 { return encode(dtype, f(r, c)) })
}

// random places an input of values from [-1, 1).
func (b *bench) random(name string, dtype backend.DType, rows, cols int) backend.Matrix {
	b.t.Helper()
	return b.values(name, dtype, rows, cols, func(int, int) float32 { return b.uniform() })
}

func (b *bench) uniform() float32 { return b.rng.Float32()*2 - 1 }

// integers places an input of whole numbers from [-4, 4], whose sums and
// products are exact in every type.
func (b *bench) integers(name string, dtype backend.DType, rows, cols int) backend.Matrix {
	b.t.Helper()
	return b.values(name, dtype, rows, cols, func(int, int) float32 { return float32(b.rng.IntN(9) - 4) })
}

// out places an F32 output full of NaN.
func (b *bench) out(name string, rows, cols int) backend.Matrix {
	b.t.Helper()
	return b.place(name, output, backend.F32, rows, cols, func(int, int) uint32 { return 0x7fc0beef })
}

// outInts places an I32 output full of a senseless number.
func (b *bench) outInts(name string, rows, cols int) backend.Matrix {
	b.t.Helper()
	return b.place(name, output, backend.I32, rows, cols, func(int, int) uint32 { return 0xbadbad })
}

// inout places an F32 operand that the operation reads and writes.
func (b *bench) inout(name string, rows, cols int) backend.Matrix {
	b.t.Helper()
	return b.place(name, output, backend.F32, rows, cols, func(int, int) uint32 { return math.Float32bits(b.uniform()) })
}

// work places an F32 workspace.
func (b *bench) work(name string, rows, cols int) backend.Matrix {
	b.t.Helper()
	return b.place(name, scratch, backend.F32, rows, cols, func(int, int) uint32 { return 0x7fc0beef })
}

// column places a vector of integers as an input.
func (b *bench) column(name string, values ...int) backend.Matrix {
	b.t.Helper()
	return b.place(name, input, backend.I32, len(values), 1, func(r, _ int) uint32 { return uint32(int32(values[r])) })
}

// floatColumn places a vector of numbers as an input.
func (b *bench) floatColumn(name string, values ...float32) backend.Matrix {
	b.t.Helper()
	return b.values(name, backend.F32, len(values), 1, func(r, _ int) float32 { return values[r] })
}

// compare checks that o, after the operation, keeps its guard zones and is what
// its role demands, given the reference's operand.
func (o *operand) compare(t *testing.T, got, want *bench, ref *operand, tolerance float64) {
	t.Helper()
	after, expected := o.after(t, got.stream), ref.after(t, want.stream)
	if o.role == input {
		expected = o.image
		tolerance = 0
	}
	inside := make([]bool, len(after))
	o.each(func(_, _, at int) {
		for i := range o.m.DType.Size() {
			inside[at+i] = true
		}
	})
	for i := range after {
		if !inside[i] && after[i] != o.image[i] {
			t.Errorf("%s: byte %d of the guard zone around the %d x %d elements from byte %d on was overwritten",
				o.name, i, o.m.Rows, o.m.Cols, o.m.Offset*int64(o.m.DType.Size()))
			break
		}
	}
	if o.role != scratch {
		o.compareElements(t, after, expected, tolerance)
	}
}

func (o *operand) compareElements(t *testing.T, after, expected []byte, tolerance float64) {
	t.Helper()
	rms := 0.0
	if tolerance > 0 {
		rms = o.rms(expected)
	}
	wrong := 0
	o.each(func(r, c, at int) {
		if !o.same(after[at:], expected[at:], tolerance, rms) {
			if wrong++; wrong <= 3 {
				t.Errorf("%s[%d,%d] is %v; it must be %v", o.name, r, c, o.element(after[at:]), o.element(expected[at:]))
			}
		}
	})
	if wrong > 3 {
		t.Errorf("%s: %d of %d elements are wrong", o.name, wrong, o.m.Rows*o.m.Cols)
	}
}

// element is an element for people.
func (o *operand) element(at []byte) any {
	switch o.m.DType {
	case backend.F32:
		return math.Float32frombits(binary.LittleEndian.Uint32(at))
	case backend.I32:
		return int32(binary.LittleEndian.Uint32(at))
	default:
		return binary.LittleEndian.Uint16(at)
	}
}

// rms is the root mean square of an F32 operand's finite elements.
func (o *operand) rms(data []byte) float64 {
	if o.m.DType != backend.F32 {
		return 0
	}
	sum, count := 0.0, 0
	o.each(func(_, _, at int) {
		v := float64(o.element(data[at:]).(float32))
		if !math.IsNaN(v) && !math.IsInf(v, 0) {
			sum += v * v
			count++
		}
	})
	return math.Sqrt(sum / float64(max(count, 1)))
}

// same compares bits, or F32 values within the tolerance; NaN equals NaN.
func (o *operand) same(got, want []byte, tolerance, rms float64) bool {
	if bytes.Equal(got[:o.m.DType.Size()], want[:o.m.DType.Size()]) {
		return true
	}
	if o.m.DType != backend.F32 || o.role == input {
		return false
	}
	g, w := float64(o.element(got).(float32)), float64(o.element(want).(float32))
	if math.IsNaN(g) || math.IsNaN(w) {
		return math.IsNaN(g) && math.IsNaN(w)
	}
	return g == w || math.Abs(g-w) <= tolerance*(math.Abs(w)+rms)
}
