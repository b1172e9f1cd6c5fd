// SPDX-License-Identifier: Apache-2.0

//go:build findep_native && cgo

package native

/*
#cgo CFLAGS: -I${SRCDIR}/../../../kernels/include
#cgo LDFLAGS: -L${SRCDIR}/../../../build/native -lfindep_cpu -lm -ldl
#include "table.h"
*/
import "C"

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"
	"unsafe"

	"github.com/findep/findep-operator/runtime/backend"
)

// Available tells whether the native backends are compiled in.
const Available = true

// Build identifies the linked CPU library.
const Build = C.FINDEP_LIBRARY_HASH

// openSymbol is what a shared library exports.
const openSymbol = "findep_backend_open"

func openCPU(options backend.Options) (backend.Device, error) {
	return openDevice(C.findep_backend_cpu(), options.Index)
}

func openCUDA(options backend.Options) (backend.Device, error) {
	path := options.Library
	if path == "" {
		path = os.Getenv(LibraryVariable)
	}
	if path == "" {
		path = DefaultLibrary
	}
	table, err := load(path)
	if err != nil {
		return nil, err
	}
	return openDevice(table, options.Index)
}

func openAuto(options backend.Options) (backend.Device, error) {
	dev, err := openCUDA(options)
	if err == nil || !errors.Is(err, ErrNoDevice) && !errors.Is(err, ErrNoLibrary) {
		return dev, err
	}
	if options.Fallback != nil {
		options.Fallback(err)
	}
	return openCPU(options)
}

// libraries are those loaded so far by path. They stay loaded: a CUDA library
// cannot be unloaded safely.
var libraries = struct {
	sync.Mutex
	tables map[string]*C.findep_backend
}{tables: map[string]*C.findep_backend{}}

// load returns the table of the library at path.
func load(path string) (*C.findep_backend, error) {
	libraries.Lock()
	defer libraries.Unlock()
	if table := libraries.tables[path]; table != nil {
		return table, nil
	}
	name := C.CString(path)
	defer C.free(unsafe.Pointer(name))
	// The reason of a failure is kept for the thread that called.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	handle := C.dlopen(name, C.RTLD_NOW|C.RTLD_LOCAL)
	if handle == nil {
		return nil, fmt.Errorf("%w: %s; install it, or name it in %s", ErrNoLibrary, C.GoString(C.dlerror()), LibraryVariable)
	}
	table, err := tableOf(path, handle)
	if err != nil {
		C.dlclose(handle)
		return nil, err
	}
	libraries.tables[path] = table
	return table, nil
}

func tableOf(path string, handle unsafe.Pointer) (*C.findep_backend, error) {
	name := C.CString(openSymbol)
	defer C.free(unsafe.Pointer(name))
	symbol := C.dlsym(handle, name)
	if symbol == nil {
		return nil, fmt.Errorf("%s is no FinDEP backend: it does not export %s", path, openSymbol)
	}
	var failure C.findep_error
	table := C.call_open(symbol, &failure)
	if table == nil {
		return nil, fmt.Errorf("%s refuses ABI version %d: %s", path, C.FINDEP_ABI_VERSION, C.GoString(&failure.message[0]))
	}
	if table.abi_version != C.FINDEP_ABI_VERSION {
		return nil, fmt.Errorf("%s has ABI version %d but this program needs %d: install the library that belongs to it",
			path, table.abi_version, C.FINDEP_ABI_VERSION)
	}
	if C.size_t(table.struct_size) < C.least_table_size() {
		return nil, fmt.Errorf("%s has a function table of %d bytes; it must have %d or more", path, table.struct_size, C.least_table_size())
	}
	return table, nil
}

// The kinds of failure that callers may want to tell apart with errors.Is.
var (
	ErrInvalidArgument = errors.New("invalid argument")
	ErrUnsupported     = errors.New("unsupported")
	ErrOutOfMemory     = errors.New("out of memory")
	ErrNoDevice        = errors.New("no device")
	ErrVersionMismatch = errors.New("version mismatch")
	ErrCancelled       = backend.ErrCancelled
	ErrDeviceLost      = backend.ErrDeviceLost
	ErrInternal        = errors.New("internal error")
	// ErrNoLibrary is a backend's shared library that cannot be loaded.
	ErrNoLibrary = errors.New("loading the library")
)

var kinds = map[C.findep_status]error{
	C.FINDEP_INVALID_ARGUMENT: ErrInvalidArgument,
	C.FINDEP_UNSUPPORTED:      ErrUnsupported,
	C.FINDEP_OUT_OF_MEMORY:    ErrOutOfMemory,
	C.FINDEP_NO_DEVICE:        ErrNoDevice,
	C.FINDEP_VERSION_MISMATCH: ErrVersionMismatch,
	C.FINDEP_CANCELLED:        ErrCancelled,
	C.FINDEP_DEVICE_LOST:      ErrDeviceLost,
	C.FINDEP_INTERNAL:         ErrInternal,
}

// failure makes an error of a status and its text.
func failure(doing string, status C.findep_status, text *C.char) error {
	kind := kinds[status]
	if kind == nil {
		kind = fmt.Errorf("status %d", status)
	}
	if message := C.GoString(text); message != "" {
		return fmt.Errorf("%s: %w: %s", doing, kind, message)
	}
	return fmt.Errorf("%s: %w", doing, kind)
}
