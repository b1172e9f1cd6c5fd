// SPDX-License-Identifier: Apache-2.0

//go:build findep_native && cgo

package native

/*
#include "table.h"

#cgo noescape call_copy_in
#cgo nocallback call_copy_in
#cgo noescape call_copy_out
#cgo nocallback call_copy_out
*/
import "C"

import (
	"fmt"
	"unsafe"

	"github.com/findep/findep-operator/runtime/backend"
)

// stream implements backend.Stream.
type stream struct {
	device *device
	table  *C.findep_backend
	handle *C.findep_stream
}

var _ backend.Stream = (*stream)(nil)

// done makes an error of an operation's status.
func (s *stream) done(op string, status C.findep_status) error {
	if status == C.FINDEP_OK {
		return nil
	}
	return failure(op, status, C.call_stream_error(s.table, s.handle))
}

func (s *stream) Close() error {
	handle := s.handle
	s.handle = nil
	if handle == nil {
		return nil
	}
	if status := C.call_stream_free(s.table, handle); status != C.FINDEP_OK {
		return failure("closing the stream", status, nil)
	}
	return nil
}

func (s *stream) Synchronize() error {
	return s.done("synchronize", C.call_stream_synchronize(s.table, s.handle))
}

// own is the stream's own kind of buffer, or an error.
func (s *stream) own(b backend.Buffer) (*buffer, error) {
	own, ok := b.(*buffer)
	if !ok || own.device.table != s.table {
		return nil, fmt.Errorf("%w: the buffer is a %T of another backend", ErrInvalidArgument, b)
	}
	if own.freed.Load() {
		return nil, fmt.Errorf("%w: the buffer is freed", ErrInvalidArgument)
	}
	return own, nil
}

func (s *stream) CopyIn(dst backend.Buffer, offset int64, src []byte) error {
	b, err := s.own(dst)
	if err != nil {
		return fmt.Errorf("copyin: %w", err)
	}
	return s.done("copyin", C.call_copy_in(s.table, s.handle, b.handle, C.int64_t(offset),
		unsafe.Pointer(unsafe.SliceData(src)), C.int64_t(len(src))))
}

func (s *stream) CopyOut(dst []byte, src backend.Buffer, offset int64) error {
	b, err := s.own(src)
	if err != nil {
		return fmt.Errorf("copyout: %w", err)
	}
	return s.done("copyout", C.call_copy_out(s.table, s.handle, unsafe.Pointer(unsafe.SliceData(dst)),
		b.handle, C.int64_t(offset), C.int64_t(len(dst))))
}

func (s *stream) Record(e backend.Event) error {
	v, err := s.enter(e)
	if err != nil {
		return fmt.Errorf("record: %w", err)
	}
	defer v.leave()
	return s.done("record", C.call_event_record(s.table, s.handle, v.handle))
}

func (s *stream) Wait(e backend.Event) error {
	v, err := s.enter(e)
	if err != nil {
		return fmt.Errorf("wait: %w", err)
	}
	defer v.leave()
	return s.done("wait", C.call_event_wait(s.table, s.handle, v.handle))
}

func (s *stream) enter(e backend.Event) (*event, error) {
	v, ok := e.(*event)
	if !ok || v.device.table != s.table {
		return nil, fmt.Errorf("%w: the event is a %T of another backend", ErrInvalidArgument, e)
	}
	return v, v.enter()
}
