// SPDX-License-Identifier: Apache-2.0

package profile_test

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/findep/findep-operator/runtime/profile"
)

// datasheets are the published peaks: dense BF16 TFLOP/s, memory in GiB and
// GB/s, link in GB/s per direction.
var datasheets = []struct {
	name, sheet                        string
	teraflops, memory, bandwidth, link float64
}{
	{"a6000", "NVIDIA RTX A6000 datasheet", 154.8, 48, 768, 31.5},
	{"a10", "NVIDIA A10 Tensor Core GPU datasheet", 125, 24, 600, 31.5},
	{"l40s", "NVIDIA L40S datasheet", 362, 48, 864, 31.5},
	{"h20", "NVIDIA H20 datasheet", 148, 96, 4000, 450},
	{"h100-sxm", "NVIDIA H100 Tensor Core GPU datasheet", 989, 80, 3350, 450},
	{"h200", "NVIDIA H200 Tensor Core GPU datasheet", 989, 141, 4800, 450},
	{"b200", "NVIDIA DGX B200 datasheet", 2250, 180, 8000, 900},
}

// efficiency is what a preset's source says that it assumes of a peak.
func efficiency(t *testing.T, source, of string) float64 {
	t.Helper()
	_, rest, ok := strings.Cut(source[strings.Index(source, "Assumed efficiency"):], " "+of+" ")
	var e float64
	if _, err := fmt.Sscanf(rest, "%g", &e); !ok || err != nil || e < 0.3 || e > 0.9 {
		t.Fatalf("efficiency of %s is %g (%v) in %q", of, e, err, source)
	}
	return e
}

// TestPresetsFollowTheirDatasheets recomputes every slope from the published
// peak and the efficiency that the source states.
func TestPresetsFollowTheirDatasheets(t *testing.T) {
	var known []string
	for _, d := range datasheets {
		known = append(known, d.name)
		t.Run(d.name, func(t *testing.T) {
			p, err := profile.Preset(d.name)
			if err != nil {
				t.Fatal(err)
			}
			if p.Name != d.name || p.Calibrated || !strings.HasPrefix(p.Source, d.sheet) {
				t.Errorf("name %q, calibrated %v, source %q; want %q", p.Name, p.Calibrated, p.Source, d.sheet)
			}
			if got := float64(p.MemoryBytes) / (1 << 30); got != d.memory {
				t.Errorf("memory is %g GiB, want %g", got, d.memory)
			}
			// 10^9 MAC are 2*10^9 FLOP; 10^6 bytes at 1 GB/s take 1000 us.
			for what, v := range map[string][2]float64{
				"GEMM":         {p.GEMM.MicrosecondsPerGigaMAC, 2000 / d.teraflops},
				"grouped GEMM": {p.GroupedGEMM.MicrosecondsPerGigaMAC, 2000 / d.teraflops},
				"attention":    {p.Attention.MicrosecondsPerGigaMAC, 2000 / d.teraflops},
				"memory":       {p.Memory.MicrosecondsPerMegabyte, 1000 / d.bandwidth},
				"link":         {p.Link.MicrosecondsPerMegabyte, 1000 / d.link},
			} {
				want := v[1] / efficiency(t, p.Source, what)
				if math.Abs(v[0]/want-1) > 0.01 {
					t.Errorf("%s: slope %g, want %g", what, v[0], want)
				}
			}
			// Whoever doubts a number finds it in the source, with where it was read.
			for _, figure := range []string{
				fmt.Sprintf("%g TFLOP/s", d.teraflops), fmt.Sprintf("%g GB,", d.memory), "https://",
				fmt.Sprintf("(%g GB/s", d.link), "latencies are estimates", "reserve of memory are estimates",
			} {
				if !strings.Contains(p.Source, figure) {
					t.Errorf("source has no %q: %s", figure, p.Source)
				}
			}
			if !strings.Contains(p.Source, fmt.Sprintf("%g GB/s ", d.bandwidth)) && !strings.Contains(p.Source, fmt.Sprintf("%g TB/s ", d.bandwidth/1000)) &&
				!strings.Contains(p.Source, fmt.Sprintf("%.1f TB/s ", d.bandwidth/1000)) {
				t.Errorf("source has no memory bandwidth of %g GB/s: %s", d.bandwidth, p.Source)
			}
			for what, alpha := range map[string]float64{
				"GEMM": p.GEMM.AlphaMicroseconds, "grouped GEMM": p.GroupedGEMM.AlphaMicroseconds,
				"attention": p.Attention.AlphaMicroseconds, "link": p.Link.AlphaMicroseconds,
			} {
				if alpha < 1 || alpha > 100 {
					t.Errorf("%s: %g us per launch is not plausible", what, alpha)
				}
			}
		})
	}
	known = append(known, "cpu")
	slices.Sort(known)
	if diff := cmp.Diff(known, profile.Presets()); diff != "" {
		t.Errorf("presets without a line here, or missing (-want +got):\n%s", diff)
	}
}

func TestEveryPresetSurvivesJSON(t *testing.T) {
	for _, name := range profile.Presets() {
		p, err := profile.Preset(name)
		if err != nil {
			t.Fatal(err)
		}
		data, err := p.Encode()
		if err != nil {
			t.Fatal(err)
		}
		again, err := profile.Decode(data)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(p, again); diff != "" {
			t.Errorf("%s changed on its way through JSON (-want +got):\n%s", name, diff)
		}
	}
}

func TestLinks(t *testing.T) {
	peaks := map[string]float64{
		"pcie-4": 31.5, "pcie-5": 63, "nvlink-4": 450, "nvlink-5": 900,
		"rdma-100g": 12.5, "rdma-200g": 25, "rdma-400g": 50,
	}
	if got := profile.Links(); len(got) != len(peaks) || !slices.IsSorted(got) {
		t.Errorf("links are %v", got)
	}
	p, err := profile.Preset("h20")
	if err != nil {
		t.Fatal(err)
	}
	for name, peak := range peaks {
		l, err := profile.Link(strings.ToUpper(name))
		if err != nil {
			t.Fatal(err)
		}
		if l.Calibrated || l.GigabytesPerSecond != peak || !strings.Contains(l.Source, "pecification") && !strings.Contains(l.Source, "datasheet") {
			t.Errorf("%s: %+v", name, l)
		}
		want := 1000 / peak / efficiency(t, l.Source, "efficiency")
		if math.Abs(l.Transfer.MicrosecondsPerMegabyte/want-1) > 0.01 || l.Transfer.AlphaMicroseconds < 1 {
			t.Errorf("%s: %+v, want a slope of %g", name, l.Transfer, want)
		}
		q := p.WithLink(l)
		if err := q.Validate(); err != nil || q.Link != l.Transfer || q.GEMM != p.GEMM || !strings.Contains(q.Source, l.Source) {
			t.Errorf("%s: profile with this link is %+v (%v)", name, q, err)
		}
	}
	if p.Link.Name != "NVLink 4" {
		t.Errorf("WithLink changed the original's link to %q", p.Link.Name)
	}
	if _, err := profile.Link("token-ring"); err == nil || !strings.Contains(err.Error(), "nvlink-4, nvlink-5") {
		t.Errorf("unknown link: %v", err)
	}
}
