// SPDX-License-Identifier: Apache-2.0

//go:build findep_native && cgo

package native_test

import (
	"debug/elf"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/findep/findep-operator/runtime/backend"
	"github.com/findep/findep-operator/runtime/backend/conformance"
	"github.com/findep/findep-operator/runtime/backend/native"
)

// builtCUDA is the library that the variable names, or, without it, the one
// that make left; the test is skipped if there is none.
func builtCUDA(t *testing.T) string {
	t.Helper()
	path := os.Getenv(native.LibraryVariable)
	if path == "" {
		path = "../../../build/cuda/libfindep_cuda.so"
		if _, err := os.Stat(path); err != nil {
			t.Skipf("%s is not built; run `make cuda`", path)
		}
	}
	return path
}

// TestCUDALibrary opens the real CUDA backend. With a GPU it must pass the
// conformance suite; without one it must say so, as an error.
func TestCUDALibrary(t *testing.T) {
	path := builtCUDA(t)
	open := func() (backend.Device, error) {
		return backend.Open(native.CUDA, backend.Options{Library: path})
	}
	dev, err := open()
	if errors.Is(err, native.ErrNoDevice) {
		for range 3 { // being refused leaves nothing behind
			_, err = open()
		}
		if !errors.Is(err, native.ErrNoDevice) || !strings.Contains(err.Error(), "no CUDA device: ") {
			t.Fatalf("the error is %v; it must say that there is no CUDA device, and why", err)
		}
		t.Logf("the conformance suite did not run: %v", err)
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("the device is %s", dev.Name())
	if err := dev.Close(); err != nil {
		t.Fatal(err)
	}
	runCUDA(t, open)
}

// activationsVariable says what products do with activations in F32 whose weights
// have 16 bits.
const activationsVariable = "FINDEP_CUDA_ACTIVATIONS"

// runCUDA runs the conformance suite with exact activations, where all results are
// those of F32, and with rounded ones the products that differ.
func runCUDA(t *testing.T, open func() (backend.Device, error)) {
	t.Run("exact", func(t *testing.T) {
		t.Setenv(activationsVariable, "exact")
		conformance.Run(t, open)
	})
	t.Run("rounded", func(t *testing.T) {
		t.Setenv(activationsVariable, "rounded")
		conformance.RunRounding(t, open)
	})
}

// TestCUDASymbols looks at what the shared library shows to and asks of the
// process: the runtimes inside must not clash with others, and a machine without
// a driver must be able to load it.
func TestCUDASymbols(t *testing.T) {
	library, err := elf.Open(builtCUDA(t))
	if err != nil {
		t.Fatal(err)
	}
	defer library.Close()
	symbols, err := library.DynamicSymbols()
	if err != nil {
		t.Fatal(err)
	}
	var exported []string
	for _, s := range symbols {
		if s.Section != elf.SHN_UNDEF && elf.ST_TYPE(s.Info) != elf.STT_SECTION {
			exported = append(exported, s.Name)
		}
	}
	if want := []string{"findep_backend_open"}; !slices.Equal(exported, want) {
		t.Errorf("it exports %d symbols, %q; it must export %q only", len(exported), exported, want)
	}
	if name, err := library.DynString(elf.DT_SONAME); err != nil || !slices.Equal(name, []string{native.DefaultLibrary}) {
		t.Errorf("its SONAME is %q, %v; it must be %s", name, err, native.DefaultLibrary)
	}
	needed, err := library.ImportedLibraries()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range needed {
		if strings.HasPrefix(name, "libcuda.") || strings.HasPrefix(name, "libstdc++") {
			t.Errorf("it needs %s, which not every machine has", name)
		}
	}
}

// TestCUDAAuto asks for a GPU where there may be none.
func TestCUDAAuto(t *testing.T) {
	for _, c := range []struct{ name, library, reason string }{
		{"no library", "/nowhere/libfindep_cuda.so", "/nowhere/libfindep_cuda.so"},
		{"no device", builtCUDA(t), "no CUDA device"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var reason error
			dev, err := backend.Open(native.Auto, backend.Options{Library: c.library, Fallback: func(e error) { reason = e }})
			if err != nil {
				t.Fatal(err)
			}
			defer dev.Close()
			if reason == nil && strings.HasPrefix(dev.Name(), "cuda:") {
				t.Skipf("the device is %s", dev.Name())
			}
			if dev.Name() != native.CPU || reason == nil || !strings.Contains(reason.Error(), c.reason) {
				t.Errorf("the device is %s because of %v; it must be the CPU because of %q", dev.Name(), reason, c.reason)
			}
		})
	}
}

// TestAutoKeepsOtherFailures: a remedy other than the CPU must not be hidden.
func TestAutoKeepsOtherFailures(t *testing.T) {
	path := compile(t, `#include <stdio.h>
#include "findep/backend.h"
static findep_status device_open(int32_t i, findep_device** d, findep_error* e) {
  e->status = FINDEP_VERSION_MISMATCH; snprintf(e->message, sizeof(e->message), "update the driver"); return e->status; }
static findep_backend table = {FINDEP_ABI_VERSION, sizeof(findep_backend), "old", .device_open = device_open};
const findep_backend* findep_backend_open(uint32_t v, findep_error* e) { return &table; }`)
	_, err := backend.Open(native.Auto, backend.Options{Library: path})
	if !errors.Is(err, native.ErrVersionMismatch) || !strings.Contains(err.Error(), "update the driver") {
		t.Errorf("the error is %v; it must be the library's", err)
	}
}

// FuzzCUDAShim draws shapes for the index arithmetic of the same sources.
func FuzzCUDAShim(f *testing.F) {
	path := os.Getenv("FINDEP_CUDA_SHIM")
	if path == "" {
		f.Skip("FINDEP_CUDA_SHIM names no library; run `make test-cuda-shim`")
	}
	conformance.Fuzz(f, func() (backend.Device, error) {
		return backend.Open(native.CUDA, backend.Options{Library: path})
	})
}

// TestCUDAShim runs the conformance suite on the CUDA backend's own sources,
// compiled for a model of CUDA on the CPU. It takes a minute, so only on request.
func TestCUDAShim(t *testing.T) {
	path := os.Getenv("FINDEP_CUDA_SHIM")
	if path == "" {
		t.Skip("FINDEP_CUDA_SHIM names no library; run `make test-cuda-shim`")
	}
	open := func() (backend.Device, error) {
		return backend.Open(native.CUDA, backend.Options{Library: path})
	}
	runCUDA(t, open)
	t.Run("unknown activations", func(t *testing.T) {
		t.Setenv(activationsVariable, "fp4")
		dev, err := open()
		if !errors.Is(err, native.ErrInvalidArgument) || !strings.Contains(err.Error(), `"fp4"; it must be rounded or exact`) {
			t.Errorf("the error is %v; it must name the variable's value and the remedy", err)
		}
		if err == nil {
			dev.Close()
		}
	})
}
