// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
	"github.com/NVIDIA/go-nvml/pkg/nvml/mock"
	"github.com/spf13/pflag"

	"github.com/findep/findep-operator/runtime/backend"
	"github.com/findep/findep-operator/runtime/devices"
	"github.com/findep/findep-operator/runtime/plan"
)

// named is a device with nothing but a name.
type named struct {
	backend.Device
	name string
}

func (d named) Name() string { return d.name }

// TestDeviceHealthIsOfTheGPUInUse asks a driver whose second GPU is lost.
func TestDeviceHealthIsOfTheGPUInUse(t *testing.T) {
	lib := &mock.Interface{
		InitFunc:           func() nvml.Return { return nvml.SUCCESS },
		ShutdownFunc:       func() nvml.Return { return nvml.SUCCESS },
		DeviceGetCountFunc: func() (int, nvml.Return) { return 2, nvml.SUCCESS },
		ExtensionsFunc: func() nvml.ExtendedInterface {
			return &mock.ExtendedInterface{LookupSymbolFunc: func(string) error { return nvml.ERROR_NOT_FOUND }}
		},
		EventSetCreateFunc: func() (nvml.EventSet, nvml.Return) { return nil, nvml.ERROR_NOT_SUPPORTED },
		DeviceGetHandleByIndexFunc: func(i int) (nvml.Device, nvml.Return) {
			state := []nvml.Return{nvml.SUCCESS, nvml.ERROR_GPU_IS_LOST}[i]
			return &mock.Device{
				GetUUIDFunc:                  func() (string, nvml.Return) { return []string{"GPU-a", "GPU-b"}[i], nvml.SUCCESS },
				GetNameFunc:                  func() (string, nvml.Return) { return "NVIDIA H100", nvml.SUCCESS },
				GetMemoryInfoFunc:            func() (nvml.Memory, nvml.Return) { return nvml.Memory{Total: 1}, nvml.SUCCESS },
				GetCudaComputeCapabilityFunc: func() (int, int, nvml.Return) { return 9, 0, nvml.SUCCESS },
				GetPciInfoFunc:               func() (nvml.PciInfo, nvml.Return) { return nvml.PciInfo{}, nvml.ERROR_NOT_SUPPORTED },
				GetTemperatureFunc:           func(nvml.TemperatureSensors) (uint32, nvml.Return) { return 50, state },
				GetPowerUsageFunc:            func() (uint32, nvml.Return) { return 0, nvml.ERROR_NOT_SUPPORTED },
				GetTotalEccErrorsFunc: func(nvml.MemoryErrorType, nvml.EccCounterType) (uint64, nvml.Return) {
					return 0, nvml.ERROR_NOT_SUPPORTED
				},
			}, nvml.SUCCESS
		},
	}
	log := &bytes.Buffer{}
	a := &agent{gpus: devices.Watch(t.Context(), lib, devices.Options{}), log: slog.New(slog.NewTextHandler(log, nil))}
	a.metrics = newMetrics(0, a.status)
	a.reportGPUs()
	if !strings.Contains(log.String(), "GPU-b") || !strings.Contains(log.String(), "errors of GPUs are only seen") {
		t.Errorf("the log does not name the GPUs, or what is not seen: %s", log)
	}
	for name, tc := range map[string]struct {
		device, visible string
		want            *plan.DeviceHealth
	}{
		"CPU":        {"cpu", "", nil},
		"reference":  {"reference", "1", nil},
		"first GPU":  {"cuda:0 NVIDIA H100", "", &plan.DeviceHealth{State: plan.DeviceHealthy, UUID: "GPU-a"}},
		"second GPU": {"cuda:0 NVIDIA H100", "1", &plan.DeviceHealth{State: plan.DeviceFailed, UUID: "GPU-b", Reason: devices.ReasonLost}},
		"by UUID":    {"cuda:0 NVIDIA H100", "GPU-b", &plan.DeviceHealth{State: plan.DeviceFailed, UUID: "GPU-b", Reason: devices.ReasonLost}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("CUDA_VISIBLE_DEVICES", tc.visible)
			a.device = named{name: tc.device}
			got := a.deviceHealth()
			if (got == nil) != (tc.want == nil) || got != nil && (got.State != tc.want.State || got.UUID != tc.want.UUID || got.Reason != tc.want.Reason) {
				t.Errorf("got %+v, want %+v", got, tc.want)
			}
		})
	}
}

func TestBackendComesFromTheEnvironment(t *testing.T) {
	for name, tc := range map[string]struct {
		variable string
		args     []string
		want     string
	}{
		"nothing said": {"", nil, "cpu"},
		"image":        {"auto", nil, "auto"},
		"flag wins":    {"auto", []string{"--backend", "reference"}, "reference"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv(BackendVariable, tc.variable)
			var o Options
			f := pflag.NewFlagSet("runtime", pflag.ContinueOnError)
			o.AddFlags(f)
			if err := f.Parse(tc.args); err != nil || o.Backend != tc.want {
				t.Errorf("backend %q, %v; want %q", o.Backend, err, tc.want)
			}
		})
	}
}
