// SPDX-License-Identifier: Apache-2.0

// Package reference implements package backend in plain Go: the ground truth
// that the conformance suite measures every other backend by. It is written
// to be seen correct: products are summed in float64 in a fixed order, so
// results are the same on every machine, and every index that comes from data
// is checked. It runs each operation at once on the calling goroutine.
package reference

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"unsafe"

	"github.com/findep/findep-operator/runtime/backend"
)

// Name is the name that backend.Open knows this backend by.
const Name = "reference"

func init() {
	backend.Register(Name, func(backend.Options) (backend.Device, error) { return New(DefaultMemory), nil })
}

// DefaultMemory is the memory in bytes of a device opened by name.
const DefaultMemory = int64(8) << 30

// New makes a device that gives out at most memory bytes.
func New(memory int64) *Device { return &Device{memory: memory} }

// NewRounding is New for a device whose products with weights of 16 bits round
// their activations to the weights' type first, as tensor cores ask for.
func NewRounding(memory int64) *Device { return &Device{memory: memory, rounds: true} }

// Device is the plain Go device.
type Device struct {
	memory int64
	rounds bool
	used   atomic.Int64
}

var _ backend.Device = (*Device)(nil)

// Name implements backend.Device.
func (d *Device) Name() string { return Name }

// MemoryBytes implements backend.Device.
func (d *Device) MemoryBytes() int64 { return d.memory }

// Close implements backend.Device. It fails while buffers are in use.
func (d *Device) Close() error {
	if used := d.used.Load(); used != 0 {
		return fmt.Errorf("closing the %s device: %d bytes of buffers are not freed", Name, used)
	}
	return nil
}

// Supports implements backend.Device.
func (d *Device) Supports(op backend.Op, weight backend.DType) bool {
	switch op {
	case backend.OpEmbed, backend.OpRMSNorm, backend.OpMatMul, backend.OpHeadMatMul, backend.OpExpertMLP:
		return weight == backend.F32 || weight == backend.BF16 || weight == backend.F16
	case backend.OpAttention, backend.OpScatterRows: // the KV cache's type
		return weight == backend.F32 || weight == backend.BF16
	default:
		return op < backend.NumOps && weight == backend.F32
	}
}

const alignment = 64

// Alloc implements backend.Device.
func (d *Device) Alloc(bytes int64) (backend.Buffer, error) {
	if bytes < 0 {
		return nil, fmt.Errorf("cannot allocate %d bytes", bytes)
	}
	if used := d.used.Add(bytes); used > d.memory || used < 0 {
		d.used.Add(-bytes)
		return nil, fmt.Errorf("cannot allocate %d bytes: the %s device has %d of %d bytes left",
			bytes, Name, d.memory-d.used.Load(), d.memory)
	}
	raw := make([]byte, bytes+alignment)
	skip := -uintptr(unsafe.Pointer(unsafe.SliceData(raw))) % alignment
	return &buffer{device: d, data: raw[skip : int64(skip)+bytes : int64(skip)+bytes]}, nil
}

type buffer struct {
	device *Device
	data   []byte
	freed  atomic.Bool
}

func (b *buffer) Size() int64  { return int64(len(b.data)) }
func (b *buffer) Host() []byte { return b.data }

func (b *buffer) Free() {
	if !b.freed.Swap(true) {
		b.device.used.Add(-b.Size())
		b.data = nil
	}
}

// NewEvent implements backend.Device.
func (d *Device) NewEvent() (backend.Event, error) {
	e := &event{}
	e.changed = sync.NewCond(&e.mu)
	return e, nil
}

type event struct {
	mu       sync.Mutex
	changed  *sync.Cond
	recorded bool
	freed    bool
}

func (e *event) Free() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.freed = true
	e.changed.Broadcast()
}

var errEventFreed = errors.New("the event is freed")

func (e *event) record() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.freed {
		return errEventFreed
	}
	e.recorded = true
	e.changed.Broadcast()
	return nil
}

func (e *event) wait() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	for !e.recorded && !e.freed {
		e.changed.Wait()
	}
	if e.freed {
		return errEventFreed
	}
	return nil
}

// NewStream implements backend.Device. One thread is all it uses.
func (d *Device) NewStream(threads int) (backend.Stream, error) {
	if threads < 0 {
		return nil, fmt.Errorf("a stream cannot have %d threads", threads)
	}
	return &stream{rounds: d.rounds}, nil
}

// stream has no state: operations are done, or refused, when they return.
type stream struct {
	// rounds is the device's.
	rounds bool
}

var _ backend.Stream = (*stream)(nil)

func (*stream) Synchronize() error { return nil }
func (*stream) Close() error       { return nil }

// Record implements backend.Stream. All that was issued has run already.
func (*stream) Record(ev backend.Event) error {
	e, ok := ev.(*event)
	if !ok {
		return fmt.Errorf("record: the event is a %T of another backend", ev)
	}
	return e.record()
}

func (*stream) Wait(ev backend.Event) error {
	e, ok := ev.(*event)
	if !ok {
		return fmt.Errorf("wait: the event is a %T of another backend", ev)
	}
	return e.wait()
}

func (*stream) CopyIn(dst backend.Buffer, offset int64, src []byte) error {
	part, err := span(dst, offset, len(src))
	copy(part, src)
	return err
}

func (*stream) CopyOut(dst []byte, src backend.Buffer, offset int64) error {
	part, err := span(src, offset, len(dst))
	copy(dst, part)
	return err
}

func span(b backend.Buffer, offset int64, length int) ([]byte, error) {
	if b == nil || b.Size() > 0 && b.Host() == nil {
		return nil, errors.New("copy: no buffer, or one that the host cannot address")
	}
	if offset < 0 || int64(length) > b.Size() || offset > b.Size()-int64(length) {
		return nil, fmt.Errorf("copy: %d bytes at offset %d exceed the buffer's %d bytes", length, offset, b.Size())
	}
	return b.Host()[offset : offset+int64(length)], nil
}
