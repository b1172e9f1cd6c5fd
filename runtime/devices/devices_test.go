// SPDX-License-Identifier: Apache-2.0

package devices

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
	"github.com/NVIDIA/go-nvml/pkg/nvml/mock"
	"github.com/NVIDIA/go-nvml/pkg/nvml/mock/dgxh100"
	"github.com/NVIDIA/go-nvml/pkg/nvml/mock/server"
	"github.com/google/go-cmp/cmp"
)

// TestListDescribesEveryGPU asks the library's own model of a DGX H100.
func TestListDescribesEveryGPU(t *testing.T) {
	dgx := dgxh100.New()
	for _, d := range dgx.Devices {
		// The model leaves out what is asked for here.
		g := d.(*server.Device)
		g.GetNvLinkStateFunc = func(int) (nvml.EnableState, nvml.Return) { return 0, nvml.ERROR_NOT_SUPPORTED }
		g.GetGpuFabricInfoFunc = func() (nvml.GpuFabricInfo, nvml.Return) { return nvml.GpuFabricInfo{}, nvml.ERROR_NOT_SUPPORTED }
	}
	dgx.InitFunc = func() nvml.Return { return nvml.SUCCESS }
	stopped := 0
	dgx.ShutdownFunc = func() nvml.Return { stopped++; return nvml.SUCCESS }
	gpus, err := List(t.Context(), dgx)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for i, g := range gpus {
		if g.Index != i || !strings.Contains(g.Product, "H100") || g.MemoryBytes < 70<<30 || g.ComputeCapability != "9.0" || seen[g.UUID] {
			t.Errorf("GPU %d is %+v", i, g)
		}
		seen[g.UUID] = true
	}
	if len(gpus) != 8 || stopped != 1 {
		t.Errorf("%d GPUs, library stopped %d times", len(gpus), stopped)
	}
}

func TestListSaysWhatTheDriverRefused(t *testing.T) {
	up := func() nvml.Return { return nvml.SUCCESS }
	for name, tc := range map[string]struct {
		lib  *mock.Interface
		want string
	}{
		"no library": {&mock.Interface{InitFunc: func() nvml.Return { return nvml.ERROR_LIBRARY_NOT_FOUND }}, ErrNoDriver.Error()},
		"no driver":  {&mock.Interface{InitFunc: func() nvml.Return { return nvml.ERROR_DRIVER_NOT_LOADED }}, ErrNoDriver.Error()},
		"no rights":  {&mock.Interface{InitFunc: func() nvml.Return { return nvml.ERROR_NO_PERMISSION }}, "could not start the library"},
		"no count": {&mock.Interface{InitFunc: up, ShutdownFunc: up,
			DeviceGetCountFunc: func() (int, nvml.Return) { return 0, nvml.ERROR_UNKNOWN }}, "could not count the GPUs"},
		"lost GPU": {&mock.Interface{InitFunc: up, ShutdownFunc: up,
			DeviceGetCountFunc:         func() (int, nvml.Return) { return 1, nvml.SUCCESS },
			DeviceGetHandleByIndexFunc: func(int) (nvml.Device, nvml.Return) { return nil, nvml.ERROR_GPU_IS_LOST }}, "GPU 0: NVML could not open it"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := List(t.Context(), tc.lib); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
}

func TestListGivesUpOnALibraryThatHangs(t *testing.T) {
	release := make(chan struct{})
	defer close(release)
	lib := &mock.Interface{InitFunc: func() nvml.Return { <-release; return nvml.ERROR_LIBRARY_NOT_FOUND }}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := List(ctx, lib); !errors.Is(err, ErrNoAnswer) {
		t.Errorf("got %v, want %v", err, ErrNoAnswer)
	}
}

// TestListNeedsNoNewDriver leaves out what older drivers do not have; calling it
// would end the process.
func TestListNeedsNoNewDriver(t *testing.T) {
	gpu := newFakeGPU(0, -1)
	lacks := []string{"nvmlDeviceGetMigMode", "nvmlDeviceGetNvLinkRemoteDeviceType", "nvmlDeviceGetGpuFabricInfo"}
	gpu.GetMigModeFunc, gpu.GetNvLinkRemoteDeviceTypeFunc, gpu.GetGpuFabricInfoFunc = nil, nil, nil
	gpus, err := List(t.Context(), newFakeLibrary(lacks, gpu))
	if err != nil || len(gpus) != 1 || gpus[0].Links != nil || gpus[0].Fabric != "" || gpus[0].MIG {
		t.Errorf("got %+v, %v", gpus, err)
	}
}

func TestListShowsSlices(t *testing.T) {
	gpu := newFakeGPU(0)
	gpu.GetMigModeFunc = func() (int, int, nvml.Return) { return nvml.DEVICE_MIG_ENABLE, 0, nvml.SUCCESS }
	gpu.GetMaxMigDeviceCountFunc = func() (int, nvml.Return) { return 1 << 30, nvml.SUCCESS }
	names := []string{"NVIDIA H100 80GB HBM3 MIG 3g.40gb", "NVIDIA H100 80GB HBM3 MIG 3g.40gb"}
	gpu.GetMigDeviceHandleByIndexFunc = func(i int) (nvml.Device, nvml.Return) {
		// The first place is empty: instances keep their numbers.
		if i == 0 || i > len(names) {
			return nil, nvml.ERROR_NOT_FOUND
		}
		return &mock.Device{
			GetUUIDFunc:       func() (string, nvml.Return) { return fmt.Sprintf("MIG-%d", i), nvml.SUCCESS },
			GetNameFunc:       func() (string, nvml.Return) { return names[i-1], nvml.SUCCESS },
			GetMemoryInfoFunc: func() (nvml.Memory, nvml.Return) { return nvml.Memory{Total: 40 << 30}, nvml.SUCCESS },
		}, nvml.SUCCESS
	}
	list := func() GPU {
		gpus, err := List(t.Context(), newFakeLibrary(nil, gpu))
		if err != nil {
			t.Fatal(err)
		}
		return gpus[0]
	}
	g := list()
	want := []Slice{{"MIG-1", names[0], 40 << 30}, {"MIG-2", names[1], 40 << 30}}
	if !g.MIG || !cmp.Equal(g.Slices, want) {
		t.Errorf("slices %+v, want %+v", g.Slices, want)
	}
	if got := g.ProductLabel(); got != "NVIDIA-H100-80GB-HBM3-MIG-3g.40gb" {
		t.Errorf("label of slices of one kind: %s", got)
	}
	names[1] = "NVIDIA H100 80GB HBM3 MIG 1g.10gb"
	if g = list(); g.ProductLabel() != "NVIDIA-H100-80GB-HBM3" {
		t.Errorf("label of different slices: %s", g.ProductLabel())
	}
}

func TestDomains(t *testing.T) {
	for name, tc := range map[string]struct {
		gpus []*fakeGPU
		want [][]int
	}{
		"none":           {nil, nil},
		"no links":       {[]*fakeGPU{newFakeGPU(0), newFakeGPU(1)}, [][]int{{0}, {1}}},
		"pairs":          {[]*fakeGPU{newFakeGPU(0, 2), newFakeGPU(1, 3), newFakeGPU(2, 0), newFakeGPU(3, 1)}, [][]int{{0, 2}, {1, 3}}},
		"chain":          {[]*fakeGPU{newFakeGPU(0, 1), newFakeGPU(1, 0, 2), newFakeGPU(2, 1)}, [][]int{{0, 1, 2}}},
		"switch":         {[]*fakeGPU{newFakeGPU(0, -1, -1), newFakeGPU(1, -1), newFakeGPU(2), newFakeGPU(3, -1)}, [][]int{{0, 1, 3}, {2}}},
		"unknown peer":   {[]*fakeGPU{newFakeGPU(0, 9), newFakeGPU(1)}, [][]int{{0}, {1}}},
		"switch and own": {[]*fakeGPU{newFakeGPU(0, 1), newFakeGPU(1, 0, -1), newFakeGPU(2, -1)}, [][]int{{0, 1, 2}}},
	} {
		t.Run(name, func(t *testing.T) {
			gpus, err := List(t.Context(), newFakeLibrary(nil, tc.gpus...))
			if err != nil {
				t.Fatal(err)
			}
			if got := Domains(gpus); !cmp.Equal(got, tc.want) {
				t.Errorf("got %v, want %v", got, tc.want)
			}
			for _, g := range gpus {
				if g.Fabric != "ab000000000000000000000000000000.7" {
					t.Errorf("fabric %q", g.Fabric)
				}
			}
		})
	}
}

func TestChosen(t *testing.T) {
	gpus := []GPU{{Index: 0, UUID: "GPU-aa"}, {Index: 1, UUID: "GPU-bb", Slices: []Slice{{UUID: "MIG-cc"}}}, {Index: 2, UUID: "GPU-dd"}}
	for visible, want := range map[string]int{
		"": 0, "2": 2, "1,0": 1, " 2 , 1": 2, "GPU-bb": 1, "GPU-d": 2, "MIG-c": 1, "7": 0, "GPU-x": 0, "GPU-": 0, "-1": 0,
	} {
		if got := Chosen(gpus, visible); got != want {
			t.Errorf("CUDA_VISIBLE_DEVICES=%q means %d, want %d", visible, got, want)
		}
	}
}

// TestListWithTheRealLibrary must not fail in another way than by saying that
// there is no driver.
func TestListWithTheRealLibrary(t *testing.T) {
	gpus, err := List(t.Context(), nvml.New())
	if err != nil && !errors.Is(err, ErrNoDriver) {
		t.Fatal(err)
	}
	t.Logf("%d GPUs, %v", len(gpus), err)
}
