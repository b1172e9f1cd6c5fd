// SPDX-License-Identifier: Apache-2.0

package profile_test

import (
	"strings"
	"testing"

	"github.com/findep/findep-operator/runtime/profile"
)

func TestMismatchNamesWhatDiffers(t *testing.T) {
	h100 := profile.Device{Backend: profile.BackendCUDA, Product: "NVIDIA H100 80GB HBM3", ComputeCapability: "9.0"}
	const memory = int64(85520809984) // What a driver shows of 80 GiB.
	for name, tc := range map[string]struct {
		preset string
		change func(*profile.Profile)
		found  profile.Device
		memory int64
		want   []string
	}{
		"the preset's":          {preset: "h100-sxm", found: h100, memory: memory},
		"another product":       {preset: "l40s", found: h100, memory: memory, want: []string{"product is NVIDIA H100 80GB HBM3, not L40S", "compute capability is 9.0, not 8.9", "memory is 85520809984 bytes, not"}},
		"more memory":           {preset: "h100-sxm", found: h100, memory: 2 * memory, want: []string{"memory is 171041619968 bytes, not 85899345920"}},
		"less memory":           {preset: "h100-sxm", found: h100, memory: memory / 2, want: []string{"memory is 42760404992 bytes"}},
		"the CPU":               {preset: "h100-sxm", found: profile.Device{Backend: profile.BackendCPU}, memory: 1, want: []string{"backend is cpu, not cuda", "h100-sxm"}},
		"a GPU for the CPU":     {preset: "cpu", found: h100, memory: memory, want: []string{"backend is cuda, not cpu"}},
		"memory of the CPU":     {preset: "cpu", found: profile.Device{Backend: profile.BackendCPU}, memory: 1},
		"unknown backend":       {preset: "h100-sxm", memory: 1},
		"NVML does not answer":  {preset: "h100-sxm", found: profile.Device{Backend: profile.BackendCUDA, Product: "NVIDIA H100 80GB HBM3"}, memory: memory},
		"profile of nothing":    {preset: "h100-sxm", change: func(p *profile.Profile) { p.Device = profile.Device{} }, found: h100, memory: memory},
		"label of the node":     {preset: "h100-sxm", change: func(p *profile.Profile) { p.Device.Product = "NVIDIA-H100-80GB-HBM3" }, found: h100, memory: memory},
		"label of shared GPUs":  {preset: "h100-sxm", change: func(p *profile.Profile) { p.Device.Product = "NVIDIA-H100-80GB-HBM3-SHARED" }, found: h100, memory: memory},
		"another form":          {preset: "h100-sxm", change: func(p *profile.Profile) { p.Device.Product = "NVIDIA-H100-PCIe" }, found: h100, memory: memory, want: []string{"not NVIDIA-H100-PCIe"}},
		"a product it begins":   {preset: "a10", change: func(p *profile.Profile) { p.MemoryBytes = memory }, found: profile.Device{Backend: profile.BackendCUDA, Product: "NVIDIA A100"}, memory: memory, want: []string{"not A10"}},
		"only the architecture": {preset: "h20", change: func(p *profile.Profile) { p.Device.Product = "" }, found: profile.Device{Backend: profile.BackendCUDA, ComputeCapability: "8.0"}, memory: 103079215104, want: []string{"compute capability is 8.0, not 9.0"}},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := profile.Preset(tc.preset)
			if err != nil {
				t.Fatal(err)
			}
			if tc.change != nil {
				tc.change(p)
			}
			got := p.Mismatch(tc.found, tc.memory)
			if (got == "") != (len(tc.want) == 0) {
				t.Fatalf("got %q", got)
			}
			for _, part := range tc.want {
				if !strings.Contains(got, part) {
					t.Errorf("no %q in %q", part, got)
				}
			}
			if got != "" && !strings.Contains(got, "Calibrate this device") {
				t.Errorf("no remedy in %q", got)
			}
		})
	}
}

func TestValidateRefusesWrongDevices(t *testing.T) {
	for field, device := range map[string]profile.Device{
		"device.backend":           {Backend: "rocm"},
		"device.product":           {Product: strings.Repeat("x", 254)},
		"device.computeCapability": {ComputeCapability: "sm_90"},
	} {
		p, err := profile.Preset("cpu")
		if err != nil {
			t.Fatal(err)
		}
		p.Device = device
		if err := p.Validate(); err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("%s: error %v", field, err)
		}
	}
}
