// SPDX-License-Identifier: Apache-2.0

//go:build findep_native && cgo

package native

/*
#include "table.h"
*/
import "C"

import (
	"errors"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"unsafe"

	"github.com/findep/findep-operator/runtime/backend"
)

// device implements backend.Device.
type device struct {
	table  *C.findep_backend
	handle *C.findep_device
	name   string
	memory int64
	closed atomic.Bool
}

var _ backend.Device = (*device)(nil)

func openDevice(table *C.findep_backend, index int) (backend.Device, error) {
	if index < 0 || index > math.MaxInt32 {
		return nil, fmt.Errorf("there is no device %d", index)
	}
	d := &device{table: table}
	var e C.findep_error
	if status := C.call_device_open(table, C.int32_t(index), &d.handle, &e); status != C.FINDEP_OK {
		return nil, failure("opening the device", status, &e.message[0])
	}
	var info C.findep_device_info
	if status := C.call_device_info(table, d.handle, &info, &e); status != C.FINDEP_OK {
		err := failure("asking the device what it is", status, &e.message[0])
		return nil, errors.Join(err, d.Close())
	}
	d.name, d.memory = C.GoString(&info.name[0]), int64(info.memory_bytes)
	return d, nil
}

func (d *device) Name() string       { return d.name }
func (d *device) MemoryBytes() int64 { return d.memory }

func (d *device) Supports(op backend.Op, weight backend.DType) bool {
	return C.call_supports(d.table, d.handle, C.findep_op(op), C.findep_dtype(weight)) != 0
}

func (d *device) Close() error {
	if d.closed.Swap(true) {
		return nil
	}
	var e C.findep_error
	if status := C.call_device_close(d.table, d.handle, &e); status != C.FINDEP_OK {
		d.closed.Store(false)
		return failure("closing the device", status, &e.message[0])
	}
	return nil
}

var errClosed = errors.New("the device is closed")

func (d *device) Alloc(bytes int64) (backend.Buffer, error) {
	if d.closed.Load() {
		return nil, errClosed
	}
	b := &buffer{device: d, size: bytes}
	var e C.findep_error
	if status := C.call_buffer_alloc(d.table, d.handle, C.int64_t(bytes), &b.handle, &e); status != C.FINDEP_OK {
		return nil, failure("allocating memory", status, &e.message[0])
	}
	b.data = C.call_buffer_data(d.table, b.handle)
	if host := C.call_buffer_host(d.table, b.handle); host != nil {
		b.host = unsafe.Slice((*byte)(host), bytes)
	}
	return b, nil
}

// buffer implements backend.Buffer.
type buffer struct {
	device *device
	handle *C.findep_buffer
	data   unsafe.Pointer
	host   []byte
	size   int64
	freed  atomic.Bool
}

func (b *buffer) Size() int64  { return b.size }
func (b *buffer) Host() []byte { return b.host }

func (b *buffer) Free() {
	if !b.freed.Swap(true) {
		C.call_buffer_free(b.device.table, b.handle)
	}
}

func (d *device) NewEvent() (backend.Event, error) {
	if d.closed.Load() {
		return nil, errClosed
	}
	v := &event{device: d}
	var e C.findep_error
	if status := C.call_event_create(d.table, d.handle, &v.handle, &e); status != C.FINDEP_OK {
		return nil, failure("making an event", status, &e.message[0])
	}
	return v, nil
}

// event implements backend.Event. The C event may be freed only when nobody is
// inside a call with it, so calls are counted and the last one out frees it.
type event struct {
	device *device
	handle *C.findep_event

	mu    sync.Mutex
	users int
	freed bool
}

func (v *event) Free() {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.freed {
		return
	}
	v.freed = true
	C.call_event_cancel(v.device.table, v.handle)
	if v.users == 0 {
		C.call_event_free(v.device.table, v.handle)
	}
}

var errEventFreed = fmt.Errorf("%w: the event is freed", ErrCancelled)

func (v *event) enter() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.freed {
		return errEventFreed
	}
	v.users++
	return nil
}

func (v *event) leave() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.users--
	if v.freed && v.users == 0 {
		C.call_event_free(v.device.table, v.handle)
	}
}

func (d *device) NewStream(threads int) (backend.Stream, error) {
	if d.closed.Load() {
		return nil, errClosed
	}
	if threads < 0 || threads > math.MaxInt32 {
		return nil, fmt.Errorf("a stream cannot have %d threads", threads)
	}
	s := &stream{device: d, table: d.table}
	var e C.findep_error
	if status := C.call_stream_create(d.table, d.handle, C.int32_t(threads), &s.handle, &e); status != C.FINDEP_OK {
		return nil, failure("making a stream", status, &e.message[0])
	}
	return s, nil
}
