// SPDX-License-Identifier: Apache-2.0

// Package native drives backends written in C or C++ through the function
// table of kernels/include/findep/backend.h. It registers "cpu", which is
// linked in, "cuda", a shared library that is loaded when it is first opened,
// and "auto", which prefers the latter.
//
// It is the only package of the project that uses cgo, and only when it is
// built with the tag findep_native after `make native`; otherwise both names
// open with an error that says so.
//
// Each operation is one call into C. Arguments travel in C structures on the
// Go stack, which hold addresses of C memory alone; a buffer's Host slice is
// that same memory and must not be used after Free.
package native

import "github.com/findep/findep-operator/runtime/backend"

// The names under which the backends are registered. Auto is CUDA where there
// is a library and a device, else CPU; every other failure of CUDA, such as a
// driver that is too old, stays an error, because its remedy is not a slower
// device.
const (
	CPU  = "cpu"
	CUDA = "cuda"
	Auto = "auto"
)

const (
	// LibraryVariable names the environment variable with the path of the CUDA
	// backend; Options.Library takes precedence.
	LibraryVariable = "FINDEP_CUDA_LIBRARY"
	// DefaultLibrary is looked up on the loader's path without either.
	DefaultLibrary = "libfindep_cuda.so"
)

func init() {
	backend.Register(CPU, openCPU)
	backend.Register(CUDA, openCUDA)
	backend.Register(Auto, openAuto)
}
