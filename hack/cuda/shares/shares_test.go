// SPDX-License-Identifier: Apache-2.0

package main

import (
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/findep/findep-operator/runtime/backend"
	_ "github.com/findep/findep-operator/runtime/backend/reference"
)

func TestShares(t *testing.T) {
	samples := []Sample{
		{Op: "peak", Unit: FLOP, Work: 100, Seconds: []float64{1}},
		{Op: "peak", Unit: FLOP, Work: 400, Seconds: []float64{2, 1, 90}},
		{Op: "peak", Unit: Bytes, Work: 50, Seconds: []float64{1}},
		{Op: "gemm", Unit: FLOP, Work: 340, Seconds: []float64{9, 2, 2}, Goal: 0.85},
		{Op: "grouped", Unit: FLOP, Work: 74, Seconds: []float64{0.5}, Goal: 0.75},
		{Op: "copy", Unit: Bytes, Work: 40, Seconds: []float64{1}, Goal: 0.8},
	}
	list, peaks, err := Shares(samples)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[Unit]float64{FLOP: 200, Bytes: 50}, peaks); diff != "" {
		t.Error(diff)
	}
	for i, want := range []struct {
		of      float64
		reached bool
	}{{0.85, true}, {0.74, false}, {0.8, true}} {
		if s := &list[i]; math.Abs(s.Of-want.of) > 1e-12 || s.Reached() != want.reached {
			t.Errorf("%s: share %v, reached %v; want %v, %v", s.Op, s.Of, s.Reached(), want.of, want.reached)
		}
	}
	var out strings.Builder
	if err := Print(&out, "cuda:0 NVIDIA X", list, peaks); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"cuda:0 NVIDIA X: measured peaks 2e-07 GFLOP/s, 5e-08 GB/s", "74 %           75 %  below", "80 %           80 %  reached"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
	if _, _, err := Shares(samples[2:4]); err == nil || !strings.Contains(err.Error(), "gemm: no peak in FLOP/s") {
		t.Errorf("no peak for gemm, and yet %v", err)
	}
	if _, _, err := Shares([]Sample{{Op: "peak", Unit: FLOP}, samples[3]}); err == nil {
		t.Error("a peak without times counts")
	}
}

// TestMeasureRunsEverything goes through all operations on the reference, with a
// clock that ticks once for each question.
func TestMeasureRunsEverything(t *testing.T) {
	dev, err := backend.Open("reference", backend.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = dev.Close() }()
	at := time.Unix(0, 0)
	samples, err := Measure(dev, backend.BF16, small, 1, func() time.Time { at = at.Add(time.Millisecond); return at })
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]int{}
	for _, s := range samples {
		got[s.Op]++
		if s.Work <= 0 || len(s.Seconds) != small.batches || s.Seconds[0] != 1e-3 {
			t.Errorf("%+v", s)
		}
	}
	if diff := cmp.Diff(map[string]int{"peak": 5, "gemm": 1, "grouped MLP": 1, "dispatch": 1, "combine": 1, "decode attention": 1}, got); diff != "" {
		t.Error(diff)
	}
	if list, _, err := Shares(samples); err != nil || len(list) != 5 {
		t.Errorf("%d shares, %v", len(list), err)
	}
}

func TestRunRefuses(t *testing.T) {
	for name, tc := range map[string]struct{ backend, dtype, want string }{
		"type":    {"reference", "fp4", `--dtype is "fp4"`},
		"backend": {"abacus", "bf16", "abacus"},
	} {
		t.Run(name, func(t *testing.T) {
			if err := run(tc.backend, tc.dtype, true, 1, &strings.Builder{}); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v", err)
			}
		})
	}
}
