// SPDX-License-Identifier: Apache-2.0

// Package profile describes how fast a GPU (or CPU) and its interconnect are,
// as linear models of time: t(x) = alpha + beta*x. It holds presets as data,
// reads and writes profiles as JSON, and fits the models to measurements.
//
// Work x of a matrix product [m,k]x[k,n] is counted in multiply-accumulates
// (MACs), m*k*n; that is half the FLOPs. Every time is in microseconds.
package profile

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
)

// Profile is one kind of device together with the link that joins the
// attention and the expert group.
type Profile struct {
	// Name identifies the profile, for example "H100-SXM".
	Name string `json:"name"`
	// Calibrated is false while the numbers come from a datasheet and true
	// once they were fitted to measurements.
	Calibrated bool `json:"calibrated"`
	// Source says where the numbers come from.
	Source string `json:"source"`
	// Device is what the numbers are of.
	Device Device `json:"device,omitzero"`
	// MemoryBytes is the device memory, UsableMemoryPermille the part of it
	// that may be planned with.
	MemoryBytes          int64 `json:"memoryBytes"`
	UsableMemoryPermille int   `json:"usableMemoryPermille"`
	// ReservedBytes is taken from the usable part for the runtime itself:
	// contexts, libraries' workspaces, communication buffers.
	ReservedBytes int64 `json:"reservedBytes"`
	// GEMM is one dense matrix product, GroupedGEMM one launch over all local
	// experts, Attention the core of one layer (scores and weighted values).
	GEMM        Compute `json:"gemm"`
	GroupedGEMM Compute `json:"groupedGEMM"`
	Attention   Compute `json:"attention"`
	// DecodeAttention is the core of one layer in decode, per multiply-accumulate
	// of the absorbed form where the model has one; the zero value means that it
	// takes the same time per multiply-accumulate as Attention.
	DecodeAttention Compute `json:"decodeAttention,omitzero"`
	// Memory is reading device memory: weights and KV cache in decode.
	Memory Transfer `json:"memory"`
	// Link is one transfer between the groups, per GPU and direction.
	Link Transfer `json:"link"`
}

// Compute is the time of one launch as a function of its work.
type Compute struct {
	// AlphaMicroseconds is paid per launch.
	AlphaMicroseconds float64 `json:"alphaMicroseconds"`
	// MicrosecondsPerGigaMAC is the slope, per 10^9 multiply-accumulates.
	MicrosecondsPerGigaMAC float64 `json:"microsecondsPerGigaMAC"`
	// RSquared is the quality of the fit; 0 when it was not fitted.
	RSquared float64 `json:"rSquared,omitempty"`
}

// Transfer is the time to move bytes.
type Transfer struct {
	// Name says what moves them, for example "NVLink 4".
	Name string `json:"name,omitempty"`
	// AlphaMicroseconds is paid per transfer.
	AlphaMicroseconds float64 `json:"alphaMicroseconds"`
	// MicrosecondsPerMegabyte is the slope, per 10^6 bytes.
	MicrosecondsPerMegabyte float64 `json:"microsecondsPerMegabyte"`
	// RSquared is the quality of the fit; 0 when it was not fitted.
	RSquared float64 `json:"rSquared,omitempty"`
}

// Decode is the attention core in decode.
func (p *Profile) Decode() Compute {
	if p.DecodeAttention == (Compute{}) {
		return p.Attention
	}
	return p.DecodeAttention
}

// AlphaMilliseconds is the intercept in the solver's unit.
func (c Compute) AlphaMilliseconds() float64 { return c.AlphaMicroseconds / 1e3 }

// MillisecondsPerMAC is the slope in the solver's unit.
func (c Compute) MillisecondsPerMAC() float64 { return c.MicrosecondsPerGigaMAC / 1e12 }

// AlphaMilliseconds is the intercept in the solver's unit.
func (t Transfer) AlphaMilliseconds() float64 { return t.AlphaMicroseconds / 1e3 }

// MillisecondsPerByte is the slope in the solver's unit.
func (t Transfer) MillisecondsPerByte() float64 { return t.MicrosecondsPerMegabyte / 1e9 }

// UsableBytes is the memory that weights, caches and buffers may take; never
// negative.
func (p *Profile) UsableBytes() int64 {
	whole, rest := p.MemoryBytes/1000, p.MemoryBytes%1000
	permille := int64(p.UsableMemoryPermille)
	return max(0, whole*permille+rest*permille/1000-p.ReservedBytes)
}

// Bounds of a valid profile: 1 PiB of memory, an hour per launch or unit.
const (
	maxMemoryBytes  = 1 << 50
	maxMicroseconds = 3.6e9
	maxNameBytes    = 253
	maxSourceBytes  = 4096
	maxJSONBytes    = 1 << 16
)

// Validate reports every field that planning could not use, with its value and
// the allowed range.
func (p *Profile) Validate() error {
	var errs []error
	fail := func(field string, value any, problem string) {
		errs = append(errs, fmt.Errorf("profile %q: %s is %v: %s", p.Name, field, value, problem))
	}
	if p.Name == "" || len(p.Name) > maxNameBytes {
		fail("name", fmt.Sprintf("%d bytes", len(p.Name)), fmt.Sprintf("need 1 to %d", maxNameBytes))
	}
	if len(p.Source) > maxSourceBytes {
		fail("source", fmt.Sprintf("%d bytes", len(p.Source)), fmt.Sprintf("at most %d", maxSourceBytes))
	}
	p.Device.validate(fail)
	if p.MemoryBytes < 1 || p.MemoryBytes > maxMemoryBytes {
		fail("memoryBytes", p.MemoryBytes, fmt.Sprintf("must be between 1 and %d", int64(maxMemoryBytes)))
	}
	if p.UsableMemoryPermille < 1 || p.UsableMemoryPermille > 1000 {
		fail("usableMemoryPermille", p.UsableMemoryPermille, "must be between 1 and 1000")
	}
	if p.ReservedBytes < 0 || p.ReservedBytes > maxMemoryBytes {
		fail("reservedBytes", p.ReservedBytes, fmt.Sprintf("must be between 0 and %d", int64(maxMemoryBytes)))
	}
	for _, f := range p.coefficients() {
		// The negated form also refuses NaN.
		if !(f.value >= 0 && f.value <= f.max) {
			fail(f.name, f.value, fmt.Sprintf("must be between 0 and %g", f.max))
		}
	}
	for _, c := range []struct {
		name string
		beta float64
	}{
		{"gemm.microsecondsPerGigaMAC", p.GEMM.MicrosecondsPerGigaMAC},
		{"groupedGEMM.microsecondsPerGigaMAC", p.GroupedGEMM.MicrosecondsPerGigaMAC},
		{"attention.microsecondsPerGigaMAC", p.Attention.MicrosecondsPerGigaMAC},
		{"decodeAttention.microsecondsPerGigaMAC", p.Decode().MicrosecondsPerGigaMAC},
		{"link.microsecondsPerMegabyte", p.Link.MicrosecondsPerMegabyte},
	} {
		if c.beta == 0 {
			fail(c.name, 0, "must be positive: no device is infinitely fast")
		}
	}
	return errors.Join(errs...)
}

type coefficient struct {
	name       string
	value, max float64
}

func (p *Profile) coefficients() []coefficient {
	list := make([]coefficient, 0, 18)
	add := func(name string, alpha float64, slope string, beta, r2 float64) {
		list = append(list,
			coefficient{name + ".alphaMicroseconds", alpha, maxMicroseconds},
			coefficient{name + "." + slope, beta, maxMicroseconds},
			coefficient{name + ".rSquared", r2, 1})
	}
	compute := func(name string, c Compute) {
		add(name, c.AlphaMicroseconds, "microsecondsPerGigaMAC", c.MicrosecondsPerGigaMAC, c.RSquared)
	}
	transfer := func(name string, t Transfer) {
		add(name, t.AlphaMicroseconds, "microsecondsPerMegabyte", t.MicrosecondsPerMegabyte, t.RSquared)
	}
	compute("gemm", p.GEMM)
	compute("groupedGEMM", p.GroupedGEMM)
	compute("attention", p.Attention)
	compute("decodeAttention", p.DecodeAttention)
	transfer("memory", p.Memory)
	transfer("link", p.Link)
	return list
}

// Decode reads and validates one profile. Unknown fields are an error, because
// a misspelt coefficient would silently be zero.
func Decode(data []byte) (*Profile, error) {
	if len(data) > maxJSONBytes {
		return nil, fmt.Errorf("profile: %d bytes; at most %d", len(data), maxJSONBytes)
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	var p Profile
	if err := d.Decode(&p); err != nil {
		return nil, fmt.Errorf("profile: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("profile: data after the closing brace; need one JSON object")
	}
	if err := p.Validate(); err != nil {
		return nil, err
	}
	return &p, nil
}

// Encode writes a valid profile as indented JSON that Decode reads back to an
// equal value.
func (p *Profile) Encode() ([]byte, error) {
	if err := p.Validate(); err != nil {
		return nil, err
	}
	b, err := json.MarshalIndent(p, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("profile %q: %w", p.Name, err)
	}
	return append(b, '\n'), nil
}

// finite tells whether x is a usable measurement.
func finite(x float64) bool { return !math.IsNaN(x) && !math.IsInf(x, 0) }
