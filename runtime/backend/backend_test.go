// SPDX-License-Identifier: Apache-2.0

package backend_test

import (
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/findep/findep-operator/runtime/backend"
	"github.com/findep/findep-operator/runtime/backend/reference"
)

func TestHalfPrecision(t *testing.T) {
	for _, c := range []struct {
		name      string
		value     float32
		bf16, f16 uint16
	}{
		{"zero", 0, 0, 0},
		{"negative zero", float32(math.Copysign(0, -1)), 0x8000, 0x8000},
		{"one", 1, 0x3f80, 0x3c00},
		{"infinity", float32(math.Inf(1)), 0x7f80, 0x7c00},
		{"largest F16", 65504, 0x4780, 0x7bff},
		{"just below overflow of F16", 65519, 0x4780, 0x7bff},
		{"overflow of F16", 65520, 0x4780, 0x7c00},
		{"smallest normal F16", 1.0 / (1 << 14), 0x3880, 0x0400},
		{"subnormal F16", 3.0 / (1 << 24), 0x3440, 0x0003},
		{"rounds up into the normal F16", 1023.75 / (1 << 24), 0x3880, 0x0400},
		{"underflow of F16 to even", 0.5 / (1 << 24), 0x3300, 0},
		{"tie to even, down", 1 + 1.0/256, 0x3f80, 0x3c04},
		{"tie to even, up", 1 + 3.0/256, 0x3f82, 0x3c0c},
		{"F16 tie to even, down", 1 + 1.0/2048, 0x3f80, 0x3c00},
		{"F16 tie to even, up", 1 + 3.0/2048, 0x3f80, 0x3c02},
	} {
		if got := backend.Float32ToBF16(c.value); got != c.bf16 {
			t.Errorf("%s: BF16 %#04x, want %#04x", c.name, got, c.bf16)
		}
		if got := backend.Float32ToF16(c.value); got != c.f16 {
			t.Errorf("%s: F16 %#04x, want %#04x", c.name, got, c.f16)
		}
	}
}

// TestHalfPrecisionRoundTrip widens and rounds every one of the 65536 values.
func TestHalfPrecisionRoundTrip(t *testing.T) {
	for bits := range 1 << 16 {
		b := uint16(bits)
		wide16, wideBF := backend.F16ToFloat32(b), backend.BF16ToFloat32(b)
		if got := backend.Float32ToF16(wide16); got != b && wide16 == wide16 {
			t.Fatalf("F16 %#04x is %v and comes back as %#04x", b, wide16, got)
		}
		if got := backend.Float32ToBF16(wideBF); got != b && wideBF == wideBF {
			t.Fatalf("BF16 %#04x is %v and comes back as %#04x", b, wideBF, got)
		}
		if nan := b&0x7fff > 0x7c00; nan != (wide16 != wide16) {
			t.Fatalf("F16 %#04x is %v", b, wide16)
		}
	}
	if v := backend.Float32ToBF16(math.Float32frombits(0x7f800001)); v&0x7fff <= 0x7f80 {
		t.Errorf("a NaN with a small payload becomes BF16 %#04x", v)
	}
}

func TestRegistry(t *testing.T) {
	failure := errors.New("no such thing")
	backend.Register("test-broken", func(backend.Options) (backend.Device, error) { return nil, failure })
	if _, err := backend.Open("test-broken", backend.Options{}); !errors.Is(err, failure) || !strings.Contains(err.Error(), "test-broken") {
		t.Errorf("opening a broken backend: %v", err)
	}
	if _, err := backend.Open("nonesuch", backend.Options{}); err == nil || !strings.Contains(err.Error(), reference.Name) {
		t.Errorf("opening an unknown backend: %v; the error must list those that exist", err)
	}
	dev, err := backend.Open(reference.Name, backend.Options{})
	if err != nil || dev.Name() != reference.Name {
		t.Errorf("opening the reference: %v, %v", dev, err)
	}
}

// TestViews reads and writes through a column range of a row range.
func TestViews(t *testing.T) {
	dev := reference.New(1 << 20)
	s, err := dev.NewStream(0)
	if err != nil {
		t.Fatal(err)
	}
	m, err := backend.AllocMatrix(dev, backend.F32, 4, 5)
	if err != nil {
		t.Fatal(err)
	}
	part := m.RowRange(1, 3).ColRange(2, 4)
	if err := backend.WriteFloat32s(s, part, []float32{1, 2, 3, 4}); err != nil {
		t.Fatal(err)
	}
	want := []float32{0, 0, 0, 0, 0, 0, 0, 1, 2, 0, 0, 0, 3, 4, 0, 0, 0, 0, 0, 0}
	if diff := cmp.Diff(want, backend.Float32s(m)); diff != "" {
		t.Errorf("whole (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(want[7:14], backend.Float32s(part)); diff != "" {
		t.Errorf("the host's view of a part (-want +got):\n%s", diff)
	}
	got, err := backend.ReadFloat32s(s, part)
	if err != nil || cmp.Diff([]float32{1, 2, 3, 4}, got) != "" {
		t.Errorf("read %v, %v", got, err)
	}
	if backend.Int32s(m) != nil || backend.Float32s(m.RowRange(0, 5)) != nil {
		t.Error("a view of another type, or beyond the buffer, has a host slice")
	}
	if err := backend.WriteInt32s(s, m, make([]int32, 20)); err == nil {
		t.Error("integers were written to an F32 matrix")
	}
	if err := backend.WriteFloat32s(s, m, make([]float32, 3)); err == nil {
		t.Error("three values were written to twenty elements")
	}
}

func TestAllocMatrixBounds(t *testing.T) {
	dev := reference.New(1 << 20)
	for _, size := range [][2]int{{-1, 1}, {1, -1}, {math.MaxInt, math.MaxInt}, {1 << 20, 1}} {
		if m, err := backend.AllocMatrix(dev, backend.F32, size[0], size[1]); err == nil {
			t.Errorf("a matrix of %v was made: %+v", size, m)
		}
	}
	if _, err := backend.AllocMatrix(dev, backend.F32, 0, 7); err != nil {
		t.Errorf("a matrix without rows: %v", err)
	}
}
