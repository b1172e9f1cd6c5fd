// SPDX-License-Identifier: Apache-2.0

//go:build findep_native && cgo

package native_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/findep/findep-operator/runtime/backend"
	"github.com/findep/findep-operator/runtime/backend/native"
)

// compile makes a shared library of C source that sees the ABI's header.
func compile(t *testing.T, source string) string {
	t.Helper()
	dir := t.TempDir()
	from, to := filepath.Join(dir, "backend.c"), filepath.Join(dir, "libbackend.so")
	if err := os.WriteFile(from, []byte(source), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("gcc", "-shared", "-fPIC", "-Wall", "-Werror", "-I../../../kernels/include", "-o", to, from).CombinedOutput()
	if err != nil {
		t.Fatalf("gcc: %v\n%s", err, out)
	}
	return to
}

// TestLibraryRefused opens libraries that are not what they should be.
func TestLibraryRefused(t *testing.T) {
	for _, c := range []struct{ name, source, want string }{
		{"no backend", `int x;`, "does not export findep_backend_open"},
		{"refuses our version", `#include <stdio.h>
#include "findep/backend.h"
const findep_backend* findep_backend_open(uint32_t v, findep_error* e) {
  snprintf(e->message, sizeof(e->message), "I speak version 7, not %u", v); return 0; }`, "I speak version 7, not 1"},
		{"other version", `#include "findep/backend.h"
static findep_backend table = {FINDEP_ABI_VERSION + 1, sizeof(findep_backend), "other"};
const findep_backend* findep_backend_open(uint32_t v, findep_error* e) { return &table; }`, "has ABI version 2"},
		{"short table", `#include "findep/backend.h"
static findep_backend table = {FINDEP_ABI_VERSION, 24, "short"};
const findep_backend* findep_backend_open(uint32_t v, findep_error* e) { return &table; }`, "function table of 24 bytes"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := backend.Open(native.CUDA, backend.Options{Library: compile(t, c.source)})
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("the error is %v; it must say %q", err, c.want)
			}
		})
	}
}

func TestLibraryMissing(t *testing.T) {
	t.Setenv(native.LibraryVariable, "/nowhere/libfindep_cuda.so")
	_, err := backend.Open(native.CUDA, backend.Options{})
	if err == nil || !strings.Contains(err.Error(), "/nowhere/libfindep_cuda.so") || !strings.Contains(err.Error(), native.LibraryVariable) {
		t.Errorf("the error is %v; it must name the file and the variable", err)
	}
}

// TestLibraryWithoutDevices opens a library that loads but finds no device, as
// a CUDA backend on a machine without a driver.
func TestLibraryWithoutDevices(t *testing.T) {
	path := compile(t, `#include <stdio.h>
#include "findep/backend.h"
static findep_status device_open(int32_t i, findep_device** d, findep_error* e) {
  e->status = FINDEP_NO_DEVICE; snprintf(e->message, sizeof(e->message), "no driver is installed"); return FINDEP_NO_DEVICE; }
static findep_backend table = {FINDEP_ABI_VERSION, sizeof(findep_backend), "empty", .device_open = device_open};
const findep_backend* findep_backend_open(uint32_t v, findep_error* e) { return &table; }`)
	for range 2 { // the second time from the cache
		_, err := backend.Open(native.CUDA, backend.Options{Library: path})
		if !errors.Is(err, native.ErrNoDevice) || !strings.Contains(err.Error(), "no driver is installed") {
			t.Errorf("the error is %v", err)
		}
	}
}

func TestCPUDevice(t *testing.T) {
	if _, err := backend.Open(native.CPU, backend.Options{Index: 1}); !errors.Is(err, native.ErrNoDevice) {
		t.Errorf("opening the second CPU: %v", err)
	}
	dev, err := backend.Open(native.CPU, backend.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	if _, err := dev.Alloc(1 << 60); !errors.Is(err, native.ErrOutOfMemory) {
		t.Errorf("allocating an exabyte: %v", err)
	}
	s, err := dev.NewStream(1)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	m, err := backend.AllocMatrix(dev, backend.F32, 2, 3)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Buffer.Free()
	err = s.MatMul(m, m, m, false)
	if !errors.Is(err, native.ErrInvalidArgument) || !strings.Contains(err.Error(), ".cc:") {
		t.Errorf("a wrong product: %v; the error must say where it was noticed", err)
	}
	if native.Build == "" {
		t.Error("the linked library has no identity")
	}
}
