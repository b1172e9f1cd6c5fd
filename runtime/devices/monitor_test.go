// SPDX-License-Identifier: Apache-2.0

package devices

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
	"github.com/NVIDIA/go-nvml/pkg/nvml/mock"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/findep/findep-operator/runtime/plan"
)

// patience bounds every wait of these tests; nothing depends on its length.
const patience = 60 * time.Second

// watched is a monitor of a fake library, moved by the test.
type watched struct {
	*Monitor
	t      *testing.T
	lib    *fakeLibrary
	cancel context.CancelFunc
}

func watch(t *testing.T, lib *fakeLibrary) *watched {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	w := &watched{Watch(ctx, lib, Options{Interval: time.Second, Patience: 30 * time.Second, Now: lib.clock}), t, lib, cancel}
	w.receive(w.Ready())
	t.Cleanup(w.end)
	return w
}

func (w *watched) receive(from <-chan struct{}) {
	w.t.Helper()
	select {
	case <-from:
	case <-time.After(patience):
		w.t.Fatal("waited in vain for the monitor")
	}
}

// end lets the monitor go and waits until it has.
func (w *watched) end() {
	w.cancel()
	for {
		select {
		case <-w.Done():
			return
		case w.lib.waits <- struct{}{}:
		case <-time.After(patience):
			w.t.Fatal("the monitor does not end")
		}
	}
}

// wait lets one wait for events happen, and what follows it up to the next.
func (w *watched) wait(times int) {
	w.t.Helper()
	for range times {
		select {
		case w.lib.waits <- struct{}{}:
		case <-time.After(patience):
			w.t.Fatal("the monitor does not wait for events")
		}
	}
}

// readings lets some readings happen: two waits of half a second each. One more
// wait is begun, so that the last reading is published.
func (w *watched) readings(n int) { w.wait(2*n + 1) }

func (w *watched) want(index int, state plan.DeviceState, reason string) {
	w.t.Helper()
	h := w.Health(index)
	if h == nil || h.State != state || h.Reason != reason || (h.Message == "") != (state == plan.DeviceHealthy) {
		w.t.Errorf("GPU %d is %+v, want %s %s", index, h, state, reason)
	}
}

func TestHealthFollowsReadings(t *testing.T) {
	for name, tc := range map[string]struct {
		change   func(g *fakeGPU)
		readings int
		state    plan.DeviceState
		reason   string
	}{
		"nothing":                {func(*fakeGPU) {}, 5, plan.DeviceHealthy, ""},
		"power limit":            {func(g *fakeGPU) { g.throttle = nvml.ClocksEventReasonSwPowerCap }, 5, plan.DeviceHealthy, ""},
		"hot for a moment":       {func(g *fakeGPU) { g.throttle = nvml.ClocksEventReasonSwThermalSlowdown }, 2, plan.DeviceHealthy, ""},
		"hot for long":           {func(g *fakeGPU) { g.throttle = nvml.ClocksEventReasonSwThermalSlowdown }, 3, plan.DeviceDegraded, ReasonThrottled},
		"power brake":            {func(g *fakeGPU) { g.throttle = nvml.ClocksThrottleReasonHwPowerBrakeSlowdown }, 4, plan.DeviceDegraded, ReasonThrottled},
		"corrected errors":       {func(g *fakeGPU) { g.ecc[0] = 1000 }, 1, plan.DeviceHealthy, ""},
		"uncorrected errors":     {func(g *fakeGPU) { g.ecc[1] = 1 }, 1, plan.DeviceDegraded, ReasonUncorrectedErrors},
		"row to be replaced":     {func(g *fakeGPU) { g.remap[0] = true }, 1, plan.DeviceDegraded, ReasonRowRemappingPending},
		"no spare row":           {func(g *fakeGPU) { g.remap = [2]bool{true, true} }, 1, plan.DeviceFailed, ReasonRowRemappingFailed},
		"link down":              {func(g *fakeGPU) { g.linkDown[1] = true }, 1, plan.DeviceDegraded, ReasonLinkDown},
		"lost":                   {func(g *fakeGPU) { g.lost = nvml.ERROR_GPU_IS_LOST }, 1, plan.DeviceFailed, ReasonLost},
		"to be reset":            {func(g *fakeGPU) { g.lost = nvml.ERROR_RESET_REQUIRED }, 1, plan.DeviceFailed, ReasonLost},
		"gravest first":          {func(g *fakeGPU) { g.remap[0], g.ecc[1], g.lost = true, 1, nvml.ERROR_GPU_IS_LOST }, 1, plan.DeviceFailed, ReasonLost},
		"not answered, not lost": {func(g *fakeGPU) { g.lost = nvml.ERROR_UNKNOWN }, 3, plan.DeviceHealthy, ""},
	} {
		t.Run(name, func(t *testing.T) {
			sick := newFakeGPU(1, 0, 0)
			w := watch(t, newFakeLibrary(nil, newFakeGPU(0, 1, 1), sick))
			w.want(1, plan.DeviceHealthy, "")
			sick.set(func() { tc.change(sick) })
			w.readings(tc.readings)
			w.want(1, tc.state, tc.reason)
			w.want(0, plan.DeviceHealthy, "")
			if h := w.Health(2); h != nil {
				t.Errorf("GPU 2 does not exist and is %+v", h)
			}
		})
	}
}

func TestHealthFollowsEvents(t *testing.T) {
	gpu := newFakeGPU(0)
	w := watch(t, newFakeLibrary(nil, gpu))
	happens := func(number uint64) {
		w.lib.events <- nvml.EventData{Device: gpu, EventType: nvml.EventTypeXidCriticalError, EventData: number}
		w.wait(2)
	}
	happens(31)
	w.want(0, plan.DeviceHealthy, "")
	happens(94)
	w.want(0, plan.DeviceDegraded, "XID94")
	w.lib.advance(recoverableFor)
	w.readings(1)
	w.want(0, plan.DeviceHealthy, "")
	happens(4711)
	w.want(0, plan.DeviceDegraded, "XID4711")
	happens(79)
	w.want(0, plan.DeviceFailed, "XID79")
	happens(13)
	w.lib.advance(100 * recoverableFor)
	w.readings(1)
	w.want(0, plan.DeviceFailed, "XID79")
	// Other events, and those of no device, are nobody's trouble.
	w.lib.events <- nvml.EventData{Device: gpu, EventType: nvml.EventTypeClock, EventData: 79}
	w.lib.events <- nvml.EventData{EventType: nvml.EventTypeXidCriticalError, EventData: 79}
	w.wait(3)
	if got := w.Snapshot().GPUs[0].XIDs; got[31] != 1 || got[79] != 1 || got[4711] != 1 || len(got) != 5 {
		t.Errorf("counted %v", got)
	}
}

// TestMonitorWithADriverThatHangs never lets the library answer again.
func TestMonitorWithADriverThatHangs(t *testing.T) {
	w := watch(t, newFakeLibrary(nil, newFakeGPU(0)))
	w.lib.advance(29 * time.Second)
	w.want(0, plan.DeviceHealthy, "")
	w.lib.advance(2 * time.Second)
	w.want(0, plan.DeviceDegraded, ReasonNoAnswer)
	// The readings of before stay, or a hang would hide a failure.
	if s := w.Snapshot(); len(s.GPUs) != 1 || s.GPUs[0].Reading.TemperatureCelsius != 61 {
		t.Errorf("snapshot %+v", s)
	}
	// When it answers again, all is well again.
	w.readings(1)
	w.want(0, plan.DeviceHealthy, "")
}

// TestMonitorWithADriverThatNeverAnswers hangs from the start.
func TestMonitorWithADriverThatNeverAnswers(t *testing.T) {
	lib, release := newFakeLibrary(nil), make(chan struct{})
	lib.InitFunc = func() nvml.Return { <-release; return nvml.ERROR_UNKNOWN }
	m := Watch(t.Context(), lib, Options{Now: lib.clock})
	if h := m.Health(0); h != nil {
		t.Errorf("known before it answered: %+v", h)
	}
	lib.advance(time.Minute)
	if h := m.Health(0); h == nil || h.State != plan.DeviceDegraded || h.Reason != ReasonNoAnswer {
		t.Errorf("after a minute: %+v", h)
	}
	close(release)
	<-m.Done()
	if s := m.Snapshot(); s == nil || s.Err == nil || m.Health(0) != nil {
		t.Errorf("after it failed: %+v, %+v", s, m.Health(0))
	}
}

func TestMonitorWithoutADriver(t *testing.T) {
	lib := &mock.Interface{InitFunc: func() nvml.Return { return nvml.ERROR_LIBRARY_NOT_FOUND }}
	m := Watch(t.Context(), lib, Options{})
	<-m.Done()
	if s := m.Snapshot(); !errors.Is(s.Err, ErrNoDriver) || m.Health(0) != nil {
		t.Errorf("snapshot %+v, health %+v", s, m.Health(0))
	}
	if n, err := testutil.GatherAndCount(registry(t, m)); n != 0 || err != nil {
		t.Errorf("%d metrics, %v", n, err)
	}
}

// TestMonitorNeedsNoEvents reads on where events are not to be had.
func TestMonitorNeedsNoEvents(t *testing.T) {
	for name, change := range map[string]func(*fakeLibrary, *fakeGPU){
		"no set": func(l *fakeLibrary, _ *fakeGPU) {
			l.EventSetCreateFunc = func() (nvml.EventSet, nvml.Return) { return nil, nvml.ERROR_NOT_SUPPORTED }
		},
		"not registered": func(_ *fakeLibrary, g *fakeGPU) {
			g.RegisterEventsFunc = func(uint64, nvml.EventSet) nvml.Return { return nvml.ERROR_NOT_SUPPORTED }
		},
		"not supported": func(_ *fakeLibrary, g *fakeGPU) {
			g.GetSupportedEventTypesFunc = func() (uint64, nvml.Return) { return nvml.EventTypeClock, nvml.SUCCESS }
		},
	} {
		t.Run(name, func(t *testing.T) {
			gpu := newFakeGPU(0)
			lib := newFakeLibrary(nil, gpu)
			change(lib, gpu)
			w := watch(t, lib)
			if s := w.Snapshot(); !strings.Contains(s.NoEvents, "NVML could not") {
				t.Errorf("does not say that there are no events: %+v", s)
			}
			w.want(0, plan.DeviceHealthy, "")
		})
	}
}

// TestMonitorNeedsNoNewDriver leaves out what older drivers do not have.
func TestMonitorNeedsNoNewDriver(t *testing.T) {
	gpu := newFakeGPU(0)
	gpu.GetCurrentClocksEventReasonsFunc, gpu.GetRemappedRowsFunc = nil, nil
	w := watch(t, newFakeLibrary([]string{"nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetRemappedRows"}, gpu))
	w.readings(1)
	w.want(0, plan.DeviceHealthy, "")
}

func registry(t *testing.T, m *Monitor) *prometheus.Registry {
	t.Helper()
	r := prometheus.NewPedanticRegistry()
	if err := r.Register(Collector(m)); err != nil {
		t.Fatal(err)
	}
	return r
}

func TestCollector(t *testing.T) {
	gpu := newFakeGPU(0, -1, -1, -1)
	gpu.throttle, gpu.ecc = nvml.ClocksThrottleReasonHwThermalSlowdown|nvml.ClocksEventReasonGpuIdle, [2]uint64{4, 2}
	w := watch(t, newFakeLibrary(nil, gpu))
	w.lib.events <- nvml.EventData{Device: gpu, EventType: nvml.EventTypeXidCriticalError, EventData: 63}
	w.wait(2)
	const want = `
# HELP findep_gpu_ecc_errors_total Errors of a GPU's memory since the driver was loaded.
# TYPE findep_gpu_ecc_errors_total counter
findep_gpu_ecc_errors_total{index="0",kind="corrected",uuid="GPU-0"} 4
findep_gpu_ecc_errors_total{index="0",kind="uncorrected",uuid="GPU-0"} 2
# HELP findep_gpu_health 1 for the state a GPU is in: Healthy, Degraded or Failed; reason says why.
# TYPE findep_gpu_health gauge
findep_gpu_health{index="0",reason="",state="Failed",uuid="GPU-0"} 0
findep_gpu_health{index="0",reason="",state="Healthy",uuid="GPU-0"} 0
findep_gpu_health{index="0",reason="XID63",state="Degraded",uuid="GPU-0"} 1
# HELP findep_gpu_nvlinks_up NVLink links of a GPU that are up.
# TYPE findep_gpu_nvlinks_up gauge
findep_gpu_nvlinks_up{index="0",uuid="GPU-0"} 3
# HELP findep_gpu_power_watts Power that a GPU draws.
# TYPE findep_gpu_power_watts gauge
findep_gpu_power_watts{index="0",uuid="GPU-0"} 512.5
# HELP findep_gpu_temperature_celsius Temperature of a GPU.
# TYPE findep_gpu_temperature_celsius gauge
findep_gpu_temperature_celsius{index="0",uuid="GPU-0"} 61
# HELP findep_gpu_throttled 1 while a GPU's clocks are held down for a reason.
# TYPE findep_gpu_throttled gauge
findep_gpu_throttled{index="0",reason="hardware_slowdown",uuid="GPU-0"} 0
findep_gpu_throttled{index="0",reason="hardware_thermal",uuid="GPU-0"} 1
findep_gpu_throttled{index="0",reason="power_brake",uuid="GPU-0"} 0
findep_gpu_throttled{index="0",reason="power_cap",uuid="GPU-0"} 0
findep_gpu_throttled{index="0",reason="thermal",uuid="GPU-0"} 0
# HELP findep_gpu_xid_errors_total Errors that the driver reported since the process started, by XID.
# TYPE findep_gpu_xid_errors_total counter
findep_gpu_xid_errors_total{index="0",uuid="GPU-0",xid="63"} 1
`
	err := testutil.GatherAndCompare(registry(t, w.Monitor), strings.NewReader(want), "findep_gpu_ecc_errors_total", "findep_gpu_health",
		"findep_gpu_nvlinks_up", "findep_gpu_power_watts", "findep_gpu_temperature_celsius", "findep_gpu_throttled", "findep_gpu_xid_errors_total")
	if err != nil {
		t.Error(err)
	}
}
