// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"bytes"
	"math"
	"sync"
	"testing"
	"time"
	"unsafe"

	"github.com/findep/findep-operator/runtime/backend"
)

// runContract tests what is not the arithmetic of an operation.
func runContract(t *testing.T, open func() (backend.Device, error)) {
	for _, c := range []struct {
		name string
		test func(*testing.T, backend.Device)
	}{
		{"alloc", testAlloc}, {"alloc-failure", testAllocFailure}, {"copy", testCopy}, {"copy-bounds", testCopyBounds},
		{"event-order", testEventOrder}, {"event-wait-first", testEventWaitFirst}, {"event-free-wakes", testEventFreeWakes},
		{"foreign-handles", testForeign}, {"use-after-free", testUseAfterFree}, {"concurrent-streams", testConcurrentStreams}, {"misuse", testMisuse},
		{"bad-stream", testBadStream}, {"supports", testSupports},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(t, mustOpen(t, open)) })
	}
	t.Run("close-in-use", func(t *testing.T) { testCloseInUse(t, open) })
}

func alloc(t *testing.T, dev backend.Device, size int64) backend.Buffer {
	t.Helper()
	buf, err := dev.Alloc(size)
	if err != nil {
		t.Fatalf("allocating %d bytes: %v", size, err)
	}
	t.Cleanup(buf.Free)
	return buf
}

func testAlloc(t *testing.T, dev backend.Device) {
	if dev.Name() == "" || dev.MemoryBytes() <= 0 {
		t.Errorf("the device has the name %q and %d bytes of memory", dev.Name(), dev.MemoryBytes())
	}
	s := newStream(t, dev)
	for _, size := range []int64{0, 1, 63, 64, 4097, 1 << 20} {
		buf := alloc(t, dev, size)
		if buf.Size() != size {
			t.Errorf("a buffer of %d bytes says it has %d", size, buf.Size())
		}
		data := bytes.Repeat([]byte{1}, int(size))
		if err := s.CopyOut(data, buf, 0); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(data, make([]byte, size)) {
			t.Errorf("a new buffer of %d bytes is not zeroed", size)
		}
		if host := buf.Host(); host != nil {
			if int64(len(host)) != size {
				t.Errorf("the host sees %d of %d bytes", len(host), size)
			}
			if address := uintptr(unsafe.Pointer(unsafe.SliceData(host))); size > 0 && address%64 != 0 {
				t.Errorf("a buffer of %d bytes lies at %#x, not aligned to 64", size, address)
			}
		}
		buf.Free()
		buf.Free() // harmless
	}
}

func testAllocFailure(t *testing.T, dev backend.Device) {
	for _, size := range []int64{-1, math.MinInt64, math.MaxInt64, dev.MemoryBytes() + 1} {
		if buf, err := dev.Alloc(size); err == nil {
			buf.Free()
			t.Errorf("allocating %d bytes succeeded", size)
		}
	}
	alloc(t, dev, 16) // still works
}

func testCopy(t *testing.T, dev backend.Device) {
	s, buf := newStream(t, dev), alloc(t, dev, 100)
	src := []byte("seventeen letters")
	if err := s.CopyIn(buf, 80, src); err != nil {
		t.Fatal(err)
	}
	original := bytes.Clone(src)
	clear(src) // it may be reused when CopyIn returns
	got := make([]byte, len(original))
	if err := s.CopyOut(got, buf, 80); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, original) {
		t.Errorf("copied %q in and %q out", original, got)
	}
	if host := buf.Host(); host != nil && !bytes.Equal(host[80:97], original) {
		t.Errorf("the host sees %q", host[80:97])
	}
}

func testCopyBounds(t *testing.T, dev backend.Device) {
	s, buf := newStream(t, dev), alloc(t, dev, 100)
	for _, offset := range []int64{-1, 91, 101, math.MaxInt64, math.MinInt64} {
		if s.CopyIn(buf, offset, make([]byte, 10)) == nil && s.Synchronize() == nil {
			t.Errorf("copying 10 bytes to offset %d of 100 succeeded", offset)
		}
		if s.CopyOut(make([]byte, 10), buf, offset) == nil {
			t.Errorf("copying 10 bytes from offset %d of 100 succeeded", offset)
		}
	}
	if err := s.CopyIn(buf, 100, nil); err != nil {
		t.Errorf("copying nothing to the end: %v", err)
	}
}

func newEvent(t *testing.T, dev backend.Device) backend.Event {
	t.Helper()
	e, err := dev.NewEvent()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Free)
	return e
}

func matrixOf(t *testing.T, dev backend.Device, s backend.Stream, rows, cols int, v float32) backend.Matrix {
	t.Helper()
	m := backend.FullMatrix(alloc(t, dev, int64(rows*cols*4)), backend.F32, rows, cols)
	values := make([]float32, rows*cols)
	for i := range values {
		values[i] = v
	}
	if err := backend.WriteFloat32s(s, m, values); err != nil {
		t.Fatal(err)
	}
	return m
}

// testEventOrder lets two streams, each on its own goroutine, change one value
// in turn: one doubles it, the other adds one, so that any other order shows.
func testEventOrder(t *testing.T, dev backend.Device) {
	const rounds = 20
	a, b := newStream(t, dev), newStream(t, dev)
	total, one := matrixOf(t, dev, a, 8, 64, 0), matrixOf(t, dev, a, 8, 64, 1)
	var events [2 * rounds]backend.Event
	for i := range events {
		events[i] = newEvent(t, dev)
	}
	var wg sync.WaitGroup
	turn := func(s backend.Stream, first int, summand backend.Matrix) {
		for i := first; i < len(events); i += 2 {
			if i > 0 {
				if err := s.Wait(events[i-1]); err != nil {
					t.Errorf("wait %d: %v", i, err)
				}
			}
			if err := s.Add(total, total, summand); err != nil {
				t.Errorf("add %d: %v", i, err)
			}
			if err := s.Record(events[i]); err != nil {
				t.Errorf("record %d: %v", i, err)
			}
		}
		if err := s.Synchronize(); err != nil {
			t.Error(err)
		}
	}
	wg.Go(func() { turn(a, 0, total) })
	wg.Go(func() { turn(b, 1, one) })
	wg.Wait()
	got, err := backend.ReadFloat32s(a, total)
	if err != nil {
		t.Fatal(err)
	}
	for i, v := range got {
		if v != 1<<rounds-1 {
			t.Fatalf("element %d is %v; in turn it becomes %d", i, v, 1<<rounds-1)
		}
	}
}

// testEventWaitFirst waits for an event that only then is recorded, and again
// for the same event, which must not block any more.
func testEventWaitFirst(t *testing.T, dev backend.Device) {
	a, b, e := newStream(t, dev), newStream(t, dev), newEvent(t, dev)
	x, y := matrixOf(t, dev, a, 1, 4, 1), matrixOf(t, dev, a, 1, 4, 0)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range 2 {
			if err := b.Wait(e); err != nil {
				t.Errorf("wait: %v", err)
			}
		}
		if err := b.Add(y, x, x); err != nil {
			t.Error(err)
		}
	}()
	// Time for a wait that does not block to show itself; a slow machine can
	// hide the fault but not invent one.
	for range 100 {
		time.Sleep(100 * time.Microsecond)
		select {
		case <-done:
			t.Fatal("waiting for an event that was never recorded returned")
		default:
		}
	}
	for _, err := range []error{a.Add(x, x, x), a.Add(x, x, x), a.Record(e), a.Record(e)} {
		if err != nil {
			t.Error(err)
		}
	}
	<-done
	if got, err := backend.ReadFloat32s(b, y); err != nil || got[0] != 8 {
		t.Errorf("read %v, %v; want 8: the waiting stream ran ahead", got, err)
	}
}

func testEventFreeWakes(t *testing.T, dev backend.Device) {
	s, e := newStream(t, dev), newEvent(t, dev)
	done := make(chan error)
	go func() { done <- s.Wait(e) }()
	e.Free()
	if err := <-done; err == nil {
		t.Error("waiting for an event that was freed succeeded")
	}
	if s.Wait(e) == nil || s.Record(e) == nil {
		t.Error("a freed event can be used")
	}
	e.Free() // harmless
}

// testForeign passes handles of another backend.
func testForeign(t *testing.T, dev backend.Device) {
	s, other := newStream(t, dev), &foreign{}
	m := backend.FullMatrix(other, backend.F32, 1, 4)
	own := matrixOf(t, dev, s, 1, 4, 0)
	for name, err := range map[string]error{
		"add": s.Add(own, m, own), "copy in": s.CopyIn(other, 0, make([]byte, 4)), "copy out": s.CopyOut(make([]byte, 4), other, 0),
		"record": s.Record(foreignEvent{}), "wait": s.Wait(foreignEvent{}), "record nil": s.Record(nil), "wait nil": s.Wait(nil),
		"copy nil": s.CopyIn(nil, 0, make([]byte, 4)),
	} {
		if err == nil {
			t.Errorf("%s accepts a handle that is not its own", name)
		}
	}
}

func testUseAfterFree(t *testing.T, dev backend.Device) {
	s := newStream(t, dev)
	x := matrixOf(t, dev, s, 2, 2, 1)
	x.Buffer.Free()
	if s.Add(x, x, x) == nil && s.Synchronize() == nil {
		t.Error("an operation on a buffer that was freed succeeded")
	}
	if s.CopyOut(make([]byte, 4), x.Buffer, 0) == nil {
		t.Error("copying from a buffer that was freed succeeded")
	}
}

// foreign is a buffer of no backend whose memory nobody can address.
type foreign struct{}

func (*foreign) Size() int64  { return 1 << 20 }
func (*foreign) Host() []byte { return nil }
func (*foreign) Free()        {}

type foreignEvent struct{}

func (foreignEvent) Free() {}

// testConcurrentStreams runs the same products on several streams at once;
// every result must be bit for bit that of one alone.
func testConcurrentStreams(t *testing.T, dev backend.Device) {
	const streams, rounds = 4, 20
	product := func(t *testing.T, s backend.Stream) []float32 {
		b := &bench{t: t, dev: dev, stream: s, layout: contiguous, rng: newRand("concurrent")}
		out, x, w := b.out("out", 33, 190), b.random("x", backend.F32, 33, 170), b.random("w", backend.F32, 190, 170)
		var got []float32
		for range rounds {
			if err := s.MatMul(out, x, w, false); err != nil {
				t.Errorf("matmul: %v", err)
			}
		}
		got, err := backend.ReadFloat32s(s, out)
		if err != nil {
			t.Errorf("read: %v", err)
		}
		return got
	}
	want := product(t, newStream(t, dev))
	var results [streams][]float32
	var wg sync.WaitGroup
	for i := range streams {
		s := newStream(t, dev)
		wg.Go(func() { results[i] = product(t, s) })
	}
	wg.Wait()
	for i, got := range results {
		for at := range want {
			if len(got) != len(want) || math.Float32bits(got[at]) != math.Float32bits(want[at]) {
				t.Fatalf("stream %d differs from the single one at element %d", i, at)
			}
		}
	}
}

func testBadStream(t *testing.T, dev backend.Device) {
	if s, err := dev.NewStream(-1); err == nil {
		t.Errorf("a stream with -1 threads was made: %v", s.Close())
	}
	s, err := dev.NewStream(1)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Synchronize(); err != nil {
		t.Errorf("synchronizing an idle stream: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

func testSupports(t *testing.T, dev backend.Device) {
	for _, op := range []backend.Op{backend.NumOps, 255} {
		if dev.Supports(op, backend.F32) {
			t.Errorf("the device supports operation %d, which does not exist", op)
		}
	}
	if dev.Supports(backend.OpMatMul, backend.I32) || dev.Supports(backend.OpMatMul, 200) {
		t.Error("the device supports products with integers or with an unknown type")
	}
}

func testCloseInUse(t *testing.T, open func() (backend.Device, error)) {
	dev, err := open()
	if err != nil {
		t.Fatal(err)
	}
	buf, err := dev.Alloc(10)
	if err != nil {
		t.Fatal(err)
	}
	if err := dev.Close(); err == nil {
		t.Fatal("a device with a buffer in use was closed")
	}
	buf.Free()
	if err := dev.Close(); err != nil {
		t.Error(err)
	}
}
