// SPDX-License-Identifier: Apache-2.0

//go:build findep_native && cgo

package native_test

import (
	"errors"
	"os"
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
	conformance.Run(t, open)
}

// TestCUDAShim runs the conformance suite on the CUDA backend's own sources,
// compiled for a model of CUDA on the CPU. It takes a minute, so only on request.
func TestCUDAShim(t *testing.T) {
	path := os.Getenv("FINDEP_CUDA_SHIM")
	if path == "" {
		t.Skip("FINDEP_CUDA_SHIM names no library; run `make test-cuda-shim`")
	}
	conformance.Run(t, func() (backend.Device, error) {
		return backend.Open(native.CUDA, backend.Options{Library: path})
	})
}
