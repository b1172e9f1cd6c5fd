// SPDX-License-Identifier: Apache-2.0

package devices

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
	"github.com/NVIDIA/go-nvml/pkg/nvml/mock"
)

// fakeGPU answers what a test sets, through the library's own mock.
type fakeGPU struct {
	mock.Device
	index int

	mu       sync.Mutex
	lost     nvml.Return
	throttle uint64
	ecc      [2]uint64
	remap    [2]bool
	linkDown map[int]bool
}

func (g *fakeGPU) set(change func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	change()
}

// bus is the address of a fake GPU.
func bus(index int) (id [32]int8) {
	for i, c := range fmt.Sprintf("00000000:%02x:00.0", index) {
		id[i] = int8(c)
	}
	return id
}

// newFakeGPU has links to the GPUs of the given indexes; -1 is a switch.
func newFakeGPU(index int, links ...int) *fakeGPU {
	g := &fakeGPU{index: index, linkDown: map[int]bool{}}
	ok := func() nvml.Return {
		if g.lost != nvml.SUCCESS {
			return g.lost
		}
		return nvml.SUCCESS
	}
	locked := func() func() { g.mu.Lock(); return g.mu.Unlock }
	g.GetUUIDFunc = func() (string, nvml.Return) { return fmt.Sprintf("GPU-%d", index), nvml.SUCCESS }
	g.GetIndexFunc = func() (int, nvml.Return) { return index, nvml.SUCCESS }
	g.GetNameFunc = func() (string, nvml.Return) { return "NVIDIA H100 80GB HBM3", nvml.SUCCESS }
	g.GetMemoryInfoFunc = func() (nvml.Memory, nvml.Return) { return nvml.Memory{Total: 80 << 30}, nvml.SUCCESS }
	g.GetCudaComputeCapabilityFunc = func() (int, int, nvml.Return) { return 9, 0, nvml.SUCCESS }
	g.GetPciInfoFunc = func() (nvml.PciInfo, nvml.Return) { return nvml.PciInfo{BusId: bus(index)}, nvml.SUCCESS }
	g.GetMigModeFunc = func() (int, int, nvml.Return) { return nvml.DEVICE_MIG_DISABLE, 0, nvml.SUCCESS }
	g.GetGpuFabricInfoFunc = func() (nvml.GpuFabricInfo, nvml.Return) {
		return nvml.GpuFabricInfo{State: nvml.GPU_FABRIC_STATE_COMPLETED, ClusterUuid: [16]uint8{0xab}, CliqueId: 7}, nvml.SUCCESS
	}
	g.GetNvLinkStateFunc = func(n int) (nvml.EnableState, nvml.Return) {
		defer locked()()
		switch {
		case n >= len(links):
			return 0, nvml.ERROR_INVALID_ARGUMENT
		case g.linkDown[n]:
			return nvml.FEATURE_DISABLED, nvml.SUCCESS
		}
		return nvml.FEATURE_ENABLED, nvml.SUCCESS
	}
	g.GetNvLinkRemoteDeviceTypeFunc = func(n int) (nvml.IntNvLinkDeviceType, nvml.Return) {
		if links[n] < 0 {
			return nvml.NVLINK_DEVICE_TYPE_SWITCH, nvml.SUCCESS
		}
		return nvml.NVLINK_DEVICE_TYPE_GPU, nvml.SUCCESS
	}
	g.GetNvLinkRemotePciInfoFunc = func(n int) (nvml.PciInfo, nvml.Return) { return nvml.PciInfo{BusId: bus(links[n])}, nvml.SUCCESS }
	g.GetTemperatureFunc = func(nvml.TemperatureSensors) (uint32, nvml.Return) { defer locked()(); return 61, ok() }
	g.GetPowerUsageFunc = func() (uint32, nvml.Return) { defer locked()(); return 512_500, ok() }
	g.GetCurrentClocksEventReasonsFunc = func() (uint64, nvml.Return) { defer locked()(); return g.throttle, ok() }
	g.GetTotalEccErrorsFunc = func(kind nvml.MemoryErrorType, _ nvml.EccCounterType) (uint64, nvml.Return) {
		defer locked()()
		return g.ecc[kind], ok()
	}
	g.GetRemappedRowsFunc = func() (int, int, bool, bool, nvml.Return) {
		defer locked()()
		return 0, 0, g.remap[0], g.remap[1], ok()
	}
	g.GetSupportedEventTypesFunc = func() (uint64, nvml.Return) {
		return nvml.EventTypeXidCriticalError | nvml.EventTypeClock, nvml.SUCCESS
	}
	g.RegisterEventsFunc = func(uint64, nvml.EventSet) nvml.Return { return nvml.SUCCESS }
	return g
}

// fakeLibrary is a driver with some GPUs. Its clock advances by what a wait for
// events would take, so no test waits.
type fakeLibrary struct {
	mock.Interface
	events chan nvml.EventData
	// waits receives once for each wait for events, which goes on when taken.
	waits chan struct{}

	mu  sync.Mutex
	now time.Time
}

func (l *fakeLibrary) clock() time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.now
}

func (l *fakeLibrary) advance(d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.now = l.now.Add(d)
}

// newFakeLibrary knows every function but those of lacks.
func newFakeLibrary(lacks []string, gpus ...*fakeGPU) *fakeLibrary {
	l := &fakeLibrary{events: make(chan nvml.EventData, 16), waits: make(chan struct{}), now: time.Unix(1e9, 0)}
	l.InitFunc = func() nvml.Return { return nvml.SUCCESS }
	l.ShutdownFunc = func() nvml.Return { return nvml.SUCCESS }
	l.DeviceGetCountFunc = func() (int, nvml.Return) { return len(gpus), nvml.SUCCESS }
	l.DeviceGetHandleByIndexFunc = func(i int) (nvml.Device, nvml.Return) { return gpus[i], nvml.SUCCESS }
	l.ExtensionsFunc = func() nvml.ExtendedInterface {
		return &mock.ExtendedInterface{LookupSymbolFunc: func(name string) error {
			for _, lack := range lacks {
				if name == lack {
					return errors.New("undefined symbol")
				}
			}
			return nil
		}}
	}
	l.EventSetCreateFunc = func() (nvml.EventSet, nvml.Return) {
		return &mock.EventSet{FreeFunc: func() nvml.Return { return nvml.SUCCESS }}, nvml.SUCCESS
	}
	l.EventSetWaitFunc = func(_ nvml.EventSet, milliseconds uint32) (nvml.EventData, nvml.Return) {
		<-l.waits
		select {
		case e := <-l.events:
			return e, nvml.SUCCESS
		default:
			l.advance(time.Duration(milliseconds) * time.Millisecond)
			return nvml.EventData{}, nvml.ERROR_TIMEOUT
		}
	}
	return l
}
