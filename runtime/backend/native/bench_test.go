// SPDX-License-Identifier: Apache-2.0

//go:build findep_native && cgo

package native_test

import (
	"testing"

	"github.com/findep/findep-operator/runtime/backend"
	"github.com/findep/findep-operator/runtime/backend/conformance"
	"github.com/findep/findep-operator/runtime/backend/native"
)

func BenchmarkCPU(b *testing.B) { conformance.Bench(b, open) }

// BenchmarkCUDA needs a GPU and the library in FINDEP_CUDA_LIBRARY.
func BenchmarkCUDA(b *testing.B) {
	openCUDA := func() (backend.Device, error) { return backend.Open(native.CUDA, backend.Options{}) }
	dev, err := openCUDA()
	if err != nil {
		b.Skip(err)
	}
	if err := dev.Close(); err != nil {
		b.Fatal(err)
	}
	conformance.Bench(b, openCUDA)
}
