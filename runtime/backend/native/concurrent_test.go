// SPDX-License-Identifier: Apache-2.0

//go:build findep_native && cgo

package native_test

import (
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/findep/findep-operator/runtime/backend"
	"github.com/findep/findep-operator/runtime/backend/native"
)

// Products on streams of different threads do not mix. The BLAS has scratch
// memory of its own, which some builds hand to two threads at once; a few in ten
// thousand products were wrong then.
func TestConcurrentStreamsDoNotMix(t *testing.T) {
	dev, err := backend.Open(native.CPU, backend.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := dev.Close(); err != nil {
			t.Error(err)
		}
	})
	var wg sync.WaitGroup
	for g := range 3 {
		s, err := dev.NewStream(1)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = s.Close() })
		random := rand.New(rand.NewPCG(uint64(g), 0))
		matrix := func(rows, cols int) backend.Matrix {
			m, err := backend.AllocMatrix(dev, backend.F32, rows, cols)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(m.Buffer.Free)
			for i := range backend.Float32s(m) {
				backend.Float32s(m)[i] = random.Float32() - 0.5
			}
			return m
		}
		x, w, out := matrix(16, 160), matrix(192, 160), matrix(16, 192)
		if err := s.MatMul(out, x, w, false); err != nil {
			t.Fatal(err)
		}
		want := slices.Clone(backend.Float32s(out))
		wg.Go(func() {
			wrong := 0
			for range 20000 {
				if err := s.MatMul(out, x, w, false); err != nil {
					t.Error(err)
					return
				}
				if !slices.Equal(want, backend.Float32s(out)) {
					wrong++
				}
			}
			if wrong > 0 {
				t.Errorf("%d of 20000 products are wrong", wrong)
			}
		})
	}
	wg.Wait()
}
