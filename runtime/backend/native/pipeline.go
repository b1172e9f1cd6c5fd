// SPDX-License-Identifier: Apache-2.0

//go:build findep_native && cgo

package native

/*
#include "table.h"
*/
import "C"

import (
	"fmt"
	"maps"
	"math"
	"sync"
	"time"
	"unsafe"

	"github.com/findep/findep-operator/runtime/backend"
)

func init() {
	maps.Copy(kinds, map[C.findep_status]error{
		C.FINDEP_MEMORY_EXCEEDED: backend.ErrMemoryExceeded,
		C.FINDEP_NO_KERNEL_IMAGE: backend.ErrNoKernelImage,
		C.FINDEP_DRIVER_TOO_OLD:  backend.ErrDriverTooOld,
		C.FINDEP_NO_LIBRARY:      backend.ErrNoCommLibrary,
		C.FINDEP_COMM_VERSION:    backend.ErrCommVersion,
		C.FINDEP_COMM_FAILED:     backend.ErrCommFailed,
		C.FINDEP_TIMED_OUT:       backend.ErrTimedOut,
	})
}

var _ backend.Pipelines = (*device)(nil)

// Pipelines tells whether the library's table has the entries.
func (d *device) Pipelines() bool { return C.has_pipelines(d.table) != 0 }

var errNoPipelines = fmt.Errorf("%w: this backend has no pipelines", ErrUnsupported)

// ReservePool is backend.Pipelines'.
func (d *device) ReservePool(bytes int64) error {
	if !d.Pipelines() {
		return errNoPipelines
	}
	var e C.findep_error
	if status := C.call_pool_reserve(d.table, d.handle, C.int64_t(bytes), &e); status != C.FINDEP_OK {
		return failure("reserving the pool", status, &e.message[0])
	}
	return nil
}

// StreamBytes is backend.Pipelines'.
func (d *device) StreamBytes() int64 { return int64(C.call_stream_bytes(d.table, d.handle)) }

// PipelineIDs is backend.Pipelines'.
func (d *device) PipelineIDs() ([]byte, error) {
	if !d.Pipelines() {
		return nil, errNoPipelines
	}
	ids := make([]byte, C.FINDEP_IDS_BYTES)
	size := C.int64_t(len(ids))
	var e C.findep_error
	if status := C.call_pipeline_ids(d.table, d.handle, unsafe.Pointer(&ids[0]), &size, &e); status != C.FINDEP_OK {
		return nil, failure("making the ids of an epoch", status, &e.message[0])
	}
	return ids[:size], nil
}

// OpenPipeline is backend.Pipelines'.
func (d *device) OpenPipeline(c backend.PipelineConfig) (backend.Pipeline, error) {
	switch {
	case !d.Pipelines():
		return nil, errNoPipelines
	case c.World < 0 || c.World > math.MaxInt32 || c.Rank < 0 || c.Rank >= c.World:
		return nil, fmt.Errorf("%w: rank %d is not in a world of %d ranks", ErrInvalidArgument, c.Rank, c.World)
	}
	p := &pipeline{device: d}
	var e C.findep_error
	status := C.call_pipeline_open(d.table, d.handle, C.int32_t(c.Rank), C.int32_t(c.World), unsafe.Pointer(unsafe.SliceData(c.IDs)),
		C.int64_t(len(c.IDs)), C.int64_t(c.Timeout.Milliseconds()), &p.handle, &e)
	if status != C.FINDEP_OK {
		return nil, failure("meeting the other ranks", status, &e.message[0])
	}
	return p, nil
}

// pipeline implements backend.Pipeline.
type pipeline struct {
	device *device

	// mu keeps the handle alive while Cancel uses it.
	mu      sync.Mutex
	handle  *C.findep_pipeline
	handles []*C.findep_buffer
}

func (p *pipeline) Run(list []byte, buffers []backend.Buffer) error {
	p.handles = p.handles[:0]
	for _, b := range buffers {
		own, ok := b.(*buffer)
		if !ok || own.device != p.device || own.freed.Load() {
			return fmt.Errorf("enqueueing a step: %w: the buffer is a %T of another device, or freed", ErrInvalidArgument, b)
		}
		p.handles = append(p.handles, own.handle)
	}
	var e C.findep_error
	status := C.call_pipeline_run(p.device.table, p.handle, unsafe.Pointer(unsafe.SliceData(list)), C.int64_t(len(list)),
		unsafe.SliceData(p.handles), C.int64_t(len(p.handles)), &e)
	if status != C.FINDEP_OK {
		return failure("enqueueing a step", status, &e.message[0])
	}
	return nil
}

func (p *pipeline) Wait(timeout time.Duration) error {
	var e C.findep_error
	if status := C.call_pipeline_wait(p.device.table, p.handle, C.int64_t(timeout.Milliseconds()), &e); status != C.FINDEP_OK {
		return failure("waiting for a step", status, &e.message[0])
	}
	return nil
}

func (p *pipeline) Times(tasks []backend.TaskTime) error {
	times := make([]C.findep_task_time, len(tasks))
	var e C.findep_error
	if status := C.call_pipeline_times(p.device.table, p.handle, unsafe.SliceData(times), C.int64_t(len(times)), &e); status != C.FINDEP_OK {
		return failure("reading when tasks ran", status, &e.message[0])
	}
	for i, t := range times {
		tasks[i] = backend.TaskTime{Start: time.Duration(t.start), End: time.Duration(t.end)}
	}
	return nil
}

func (p *pipeline) Cancel() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.handle != nil {
		C.call_pipeline_cancel(p.device.table, p.handle)
	}
}

func (p *pipeline) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.handle != nil {
		C.call_pipeline_close(p.device.table, p.handle)
		p.handle = nil
	}
}
