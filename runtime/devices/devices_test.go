// SPDX-License-Identifier: Apache-2.0

package devices

import (
	"errors"
	"strings"
	"testing"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
	"github.com/NVIDIA/go-nvml/pkg/nvml/mock"
	"github.com/NVIDIA/go-nvml/pkg/nvml/mock/dgxh100"
)

// TestListDescribesEveryGPU asks the library's own model of a DGX H100.
func TestListDescribesEveryGPU(t *testing.T) {
	server := dgxh100.New()
	server.InitFunc = func() nvml.Return { return nvml.SUCCESS }
	stopped := 0
	server.ShutdownFunc = func() nvml.Return { stopped++; return nvml.SUCCESS }
	gpus, err := List(server)
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
			if _, err := List(tc.lib); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
}

// TestListWithTheRealLibrary must not fail in another way than by saying that
// there is no driver.
func TestListWithTheRealLibrary(t *testing.T) {
	gpus, err := List(nvml.New())
	if err != nil && !errors.Is(err, ErrNoDriver) {
		t.Fatal(err)
	}
	t.Logf("%d GPUs, %v", len(gpus), err)
}
