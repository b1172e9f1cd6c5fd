// SPDX-License-Identifier: Apache-2.0

//go:build findep_native && cgo

package native_test

import (
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/findep/findep-operator/runtime/backend"
	"github.com/findep/findep-operator/runtime/backend/native"
	"github.com/findep/findep-operator/runtime/backend/tasklist"
)

// shimDevice opens the CUDA backend's own sources on the model of CUDA.
func shimDevice(t *testing.T) (backend.Device, backend.Pipelines) {
	t.Helper()
	dev, err := backend.Open(native.CUDA, backend.Options{Library: os.Getenv("FINDEP_CUDA_SHIM")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := dev.Close(); err != nil {
			t.Error(err)
		}
	})
	p, ok := dev.(backend.Pipelines)
	if !ok || !p.Pipelines() {
		t.Fatal("the device has no pipelines")
	}
	return dev, p
}

// expect tells whether err is of a kind and names what it is about.
func expect(t *testing.T, err, kind error, words ...string) {
	t.Helper()
	if !errors.Is(err, kind) {
		t.Errorf("error %v; it must be %q", err, kind)
		return
	}
	for _, w := range append(words, kind.Error()) {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("error %q does not mention %q", err, w)
		}
	}
}

// TestCUDAShimFailures injects every failure that a person has to act upon
// beneath the ABI and looks for it by name above. The cases share a process, and
// a library of NCCL that is loaded stays so: those without one come first.
func TestCUDAShimFailures(t *testing.T) {
	library, fake := os.Getenv("FINDEP_CUDA_SHIM"), os.Getenv("FINDEP_NCCL_LIBRARY")
	if library == "" || fake == "" {
		t.Skip("FINDEP_CUDA_SHIM or FINDEP_NCCL_LIBRARY names no library; run `make test-cuda-shim`")
	}
	t.Run("no NCCL", func(t *testing.T) {
		t.Setenv("FINDEP_NCCL_LIBRARY", "/nowhere/libnccl.so.2")
		_, p := shimDevice(t)
		_, err := p.PipelineIDs()
		expect(t, err, backend.ErrNoCommLibrary, "/nowhere/libnccl.so.2", "FINDEP_NCCL_LIBRARY")
	})
	t.Run("old NCCL", func(t *testing.T) {
		t.Setenv("FAKENCCL_VERSION", "22703")
		_, p := shimDevice(t)
		_, err := p.PipelineIDs()
		expect(t, err, native.ErrVersionMismatch, "2.27.3", "2.28")
	})
	t.Run("other NCCL than the leader", func(t *testing.T) {
		_, p := shimDevice(t)
		ids, err := p.PipelineIDs()
		if err != nil {
			t.Fatal(err)
		}
		t.Setenv("FAKENCCL_VERSION", "22810")
		_, err = p.OpenPipeline(backend.PipelineConfig{Rank: 1, World: 2, IDs: ids, Timeout: time.Second})
		expect(t, err, backend.ErrCommVersion, "rank 1 has NCCL 2.28.10", "the leader 2.28.9")
	})
	t.Run("peer that never comes", func(t *testing.T) {
		_, p := shimDevice(t)
		ids, err := p.PipelineIDs()
		if err != nil {
			t.Fatal(err)
		}
		_, err = p.OpenPipeline(backend.PipelineConfig{Rank: 0, World: 2, IDs: ids, Timeout: 50 * time.Millisecond})
		expect(t, err, backend.ErrTimedOut, "not all ranks")
	})
	t.Run("driver too old", func(t *testing.T) {
		t.Setenv("FINDEP_CUDA_SHIM_FAIL", "cudaGetDeviceCount")
		_, err := backend.Open(native.CUDA, backend.Options{Library: library})
		expect(t, err, backend.ErrDriverTooOld, "update the driver")
	})
	t.Run("no kernel image", func(t *testing.T) {
		t.Setenv("FINDEP_CUDA_SHIM_FAIL", "cudaFuncGetAttributes")
		_, err := backend.Open(native.CUDA, backend.Options{Library: library})
		expect(t, err, backend.ErrNoKernelImage, "compute capability")
	})
	t.Run("plan exceeds memory", func(t *testing.T) {
		dev, p := shimDevice(t)
		if err := p.ReservePool(1 << 20); err != nil {
			t.Fatal(err)
		}
		b, err := dev.Alloc(600 << 10)
		if err != nil {
			t.Fatal(err)
		}
		_, err = dev.Alloc(500 << 10)
		expect(t, err, backend.ErrMemoryExceeded, "512000 bytes more", "614400 are in use", "smaller")
		expect(t, p.ReservePool(2<<20), native.ErrInvalidArgument, "in use")
		b.Free()
		if err := p.ReservePool(0); err != nil {
			t.Error(err)
		}
	})
	t.Run("streams are of the pool", shimStreamsOfThePool)
	t.Run("times of tasks", shimTimes)
	t.Run("GPU lost in mid-step", func(t *testing.T) { shimLostInMidStep(t) })
}

// What products need on a stream comes out of the pool like any buffer, is missed
// before anything runs, and goes back.
func shimStreamsOfThePool(t *testing.T) {
	dev, p := shimDevice(t)
	if got := p.StreamBytes(); got != 64<<20 {
		t.Fatalf("a stream takes %d bytes", got)
	}
	for range 2 {
		if err := p.ReservePool(p.StreamBytes() + 1<<20); err != nil {
			t.Fatal(err)
		}
		s, err := dev.NewStream(0)
		if err != nil {
			t.Fatal(err)
		}
		_, err = dev.NewStream(0)
		expect(t, err, backend.ErrMemoryExceeded, "67108864 are in use")
		_, err = dev.Alloc(2 << 20)
		expect(t, err, backend.ErrMemoryExceeded)
		expect(t, p.ReservePool(0), native.ErrInvalidArgument, "in use")
		if err := errors.Join(s.Close(), p.ReservePool(0)); err != nil {
			t.Fatal(err)
		}
	}
}

// The model's events have a clock, so a timed list says when its tasks ran.
func shimTimes(t *testing.T) {
	devices, pipelines := meet(t)
	x, err := backend.AllocMatrix(devices[0], backend.F32, 2, 2)
	if err != nil {
		t.Fatal(err)
	}
	defer x.Buffer.Free()
	list := func(id tasklist.Identity) ([]byte, []backend.Buffer) {
		var e tasklist.Encoder
		e.Reset(0, 2)
		for i := range 3 {
			e.Begin(tasklist.Dense, 0, i, 0, nil)
			_ = e.Add(x, x, x)
		}
		list, buffers, err := e.Finish(id)
		if err != nil {
			t.Fatal(err)
		}
		return list, buffers
	}
	run := func(id tasklist.Identity) {
		bytes, buffers := list(id)
		if err := errors.Join(pipelines[0].Run(bytes, buffers), pipelines[0].Wait(time.Minute)); err != nil {
			t.Fatal(err)
		}
	}
	var times [3]backend.TaskTime
	for range 2 {
		run(tasklist.Identity{Timed: true})
		if err := pipelines[0].Times(times[:]); err != nil {
			t.Fatal(err)
		}
		last := time.Duration(0)
		for i, at := range times {
			if at.Start < last || at.End <= at.Start {
				t.Errorf("task %d ran from %v to %v, the one before until %v", i, at.Start, at.End, last)
			}
			last = at.End
		}
	}
	expect(t, pipelines[0].Times(times[:2]), native.ErrInvalidArgument, "3 tasks")
	run(tasklist.Identity{})
	expect(t, pipelines[0].Times(times[:]), native.ErrInvalidArgument, "did not ask")
}

// meet opens the pipelines of two ranks.
func meet(t *testing.T) (devices [2]backend.Device, pipelines [2]backend.Pipeline) {
	t.Helper()
	var sides [2]backend.Pipelines
	for rank := range 2 {
		devices[rank], sides[rank] = shimDevice(t)
	}
	ids, err := sides[0].PipelineIDs()
	if err != nil {
		t.Fatal(err)
	}
	errs := make(chan error, 2)
	for rank := range 2 {
		go func() {
			var err error
			pipelines[rank], err = sides[rank].OpenPipeline(backend.PipelineConfig{Rank: rank, World: 2, IDs: ids, Timeout: time.Minute})
			errs <- err
		}()
	}
	if err := errors.Join(<-errs, <-errs); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pipelines[0].Close)
	t.Cleanup(pipelines[1].Close)
	return devices, pipelines
}

func shimLostInMidStep(t *testing.T) {
	devices, pipelines := meet(t)
	x, err := backend.AllocMatrix(devices[0], backend.F32, 2, 2)
	if err != nil {
		t.Fatal(err)
	}
	defer x.Buffer.Free()
	var e tasklist.Encoder
	e.Reset(0, 2)
	e.Begin(tasklist.Dense, 0, 0, 0, nil)
	_ = e.Add(x, x, x)
	list, buffers, err := e.Finish(tasklist.Identity{})
	if err != nil {
		t.Fatal(err)
	}
	p := pipelines[0]
	for range 2 {
		if err := errors.Join(p.Run(list, buffers), p.Wait(time.Minute)); err != nil {
			t.Fatal(err)
		}
	}
	expect(t, p.Run(list[:len(list)-8], buffers), native.ErrInvalidArgument, "the header's size is not the list's")
	expect(t, p.Run(list, nil), native.ErrInvalidArgument, "another number of buffers")
	foreign, err := devices[1].Alloc(16)
	if err != nil {
		t.Fatal(err)
	}
	defer foreign.Free()
	expect(t, p.Run(list, []backend.Buffer{foreign}), native.ErrInvalidArgument, "another device")
	if err := p.Run(list, buffers); err != nil {
		t.Fatal(err)
	}
	t.Setenv("FINDEP_CUDA_SHIM_FAIL", "cudaEventQuery")
	expect(t, p.Wait(time.Minute), backend.ErrDeviceLost, "must start again")
	t.Setenv("FINDEP_CUDA_SHIM_FAIL", "")
	expect(t, p.Run(list, buffers), backend.ErrCancelled, "next epoch")
}
