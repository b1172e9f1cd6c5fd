// SPDX-License-Identifier: Apache-2.0

// Package devices asks the NVIDIA driver about the GPUs that a rank can see:
// what they are, how they are linked, and how they do. It works, and says so,
// where there is no driver: the library is loaded when it is asked for, never
// before.
//
// The library may hang when a GPU does. List gives up waiting after a while, and
// a Monitor asks from one goroutine that nobody waits for.
package devices

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
)

// ErrNoDriver says that this machine has no NVIDIA driver; ranks then run on
// another backend.
var ErrNoDriver = errors.New("no NVIDIA driver: libnvidia-ml.so.1 is not on this machine or not mounted into the container")

// ErrNoAnswer says that the driver's library did not answer in time.
var ErrNoAnswer = errors.New("NVML does not answer: the driver hangs, as it does when a GPU is lost; see `dmesg | grep -i xid` on the node")

// maxGPUs and maxSlices bound what a driver is believed.
const (
	maxGPUs   = 64
	maxSlices = 16
)

// GPU is what planning and people want to know of one device.
type GPU struct {
	Index int `json:"index"`
	// UUID identifies the device across restarts.
	UUID string `json:"uuid"`
	// Product is the marketing name that profiles are matched by.
	Product string `json:"product"`
	// MemoryBytes is the total memory.
	MemoryBytes uint64 `json:"memoryBytes"`
	// ComputeCapability is major.minor, for example 9.0.
	ComputeCapability string `json:"computeCapability"`
	// Bus is the PCI address, for example 00000000:65:00.0.
	Bus string `json:"bus,omitempty"`
	// MIG says that the device is partitioned; a rank then gets one of Slices.
	MIG    bool    `json:"mig,omitempty"`
	Slices []Slice `json:"slices,omitempty"`
	// Links are the NVLink links that were up when the GPU was asked.
	Links []Link `json:"links,omitempty"`
	// Fabric names the NVLink fabric and the clique in it, where GPUs of several
	// nodes share one; empty elsewhere.
	Fabric string `json:"fabric,omitempty"`
}

// Slice is a MIG instance.
type Slice struct {
	UUID        string `json:"uuid"`
	Product     string `json:"product"`
	MemoryBytes uint64 `json:"memoryBytes"`
}

// ProductLabel is the GPU's name as feature discovery writes it into the node
// label nvidia.com/gpu.product: with dashes for spaces, and the slice's where the
// GPU is partitioned into slices of one kind.
func (g *GPU) ProductLabel() string {
	name := g.Product
	if len(g.Slices) > 0 {
		name = g.Slices[0].Product
		for _, s := range g.Slices {
			if s.Product != name {
				name = g.Product
			}
		}
	}
	return strings.ReplaceAll(name, " ", "-")
}

// Chosen returns the index of the GPU that CUDA numbers 0 under a value of
// CUDA_VISIBLE_DEVICES, which lists indexes or the beginnings of UUIDs; the first
// where the variable is empty or names none of them.
func Chosen(gpus []GPU, visible string) int {
	first, _, _ := strings.Cut(visible, ",")
	first = strings.TrimSpace(first)
	for i := range gpus {
		if first == fmt.Sprint(gpus[i].Index) || strings.HasPrefix(first, "GPU-") && strings.HasPrefix(gpus[i].UUID, first) {
			return i
		}
		for _, s := range gpus[i].Slices {
			if strings.HasPrefix(first, "MIG-") && strings.HasPrefix(s.UUID, first) {
				return i
			}
		}
	}
	return 0
}

// List returns the GPUs in driver order. The error is ErrNoDriver where there
// is none, ErrNoAnswer if the context ends first, else it names the question
// that the driver did not answer.
func List(ctx context.Context, lib nvml.Interface) ([]GPU, error) {
	type answer struct {
		gpus []GPU
		err  error
	}
	// Room for an answer that comes too late: the goroutine ends when the
	// library lets it.
	answers := make(chan answer, 1)
	go func() {
		gpus, err := list(lib)
		answers <- answer{gpus, err}
	}()
	select {
	case a := <-answers:
		return a.gpus, a.err
	case <-ctx.Done():
		return nil, ErrNoAnswer
	}
}

func list(lib nvml.Interface) (found []GPU, err error) {
	if err := start(lib); err != nil {
		return nil, err
	}
	defer func() {
		if ret := lib.Shutdown(); !errors.Is(ret, nvml.SUCCESS) {
			err = errors.Join(err, failed("stop the library", ret))
		}
	}()
	handles, err := open(lib)
	if err != nil {
		return nil, err
	}
	for i, d := range handles {
		gpu, err := describe(lib, d, i)
		if err != nil {
			return nil, fmt.Errorf("GPU %d: %w", i, err)
		}
		found = append(found, gpu)
	}
	return found, nil
}

// start loads the library.
func start(lib nvml.Interface) error {
	switch ret := lib.Init(); {
	case errors.Is(ret, nvml.ERROR_LIBRARY_NOT_FOUND), errors.Is(ret, nvml.ERROR_DRIVER_NOT_LOADED):
		return ErrNoDriver
	case !errors.Is(ret, nvml.SUCCESS):
		return failed("start the library", ret)
	}
	return nil
}

// open returns the devices in driver order.
func open(lib nvml.Interface) ([]nvml.Device, error) {
	count, ret := lib.DeviceGetCount()
	if !errors.Is(ret, nvml.SUCCESS) {
		return nil, failed("count the GPUs", ret)
	}
	handles := make([]nvml.Device, 0, min(count, maxGPUs))
	for i := range min(count, maxGPUs) {
		d, ret := lib.DeviceGetHandleByIndex(i)
		if !errors.Is(ret, nvml.SUCCESS) {
			return nil, fmt.Errorf("GPU %d: %w", i, failed("open it", ret))
		}
		handles = append(handles, d)
	}
	return handles, nil
}

// describe asks what a GPU is. What not every GPU has is left out where the
// driver does not know it.
func describe(lib nvml.Interface, d nvml.Device, index int) (GPU, error) {
	g := GPU{Index: index}
	var ret nvml.Return
	if g.UUID, ret = d.GetUUID(); !errors.Is(ret, nvml.SUCCESS) {
		return g, failed("read its UUID", ret)
	}
	if g.Product, ret = d.GetName(); !errors.Is(ret, nvml.SUCCESS) {
		return g, failed("read its name", ret)
	}
	memory, ret := d.GetMemoryInfo()
	if !errors.Is(ret, nvml.SUCCESS) {
		return g, failed("read its memory", ret)
	}
	major, minor, ret := d.GetCudaComputeCapability()
	if !errors.Is(ret, nvml.SUCCESS) {
		return g, failed("read its compute capability", ret)
	}
	g.MemoryBytes, g.ComputeCapability = memory.Total, fmt.Sprintf("%d.%d", major, minor)
	if pci, ret := d.GetPciInfo(); errors.Is(ret, nvml.SUCCESS) {
		g.Bus = busID(pci)
	}
	g.Slices, g.MIG = slices(lib, d)
	g.Links = links(lib, d)
	g.Fabric = fabric(lib, d)
	return g, nil
}

// slices lists the MIG instances that this process may see.
func slices(lib nvml.Interface, d nvml.Device) (found []Slice, enabled bool) {
	if !has(lib, "nvmlDeviceGetMigMode") {
		return nil, false
	}
	if mode, _, ret := d.GetMigMode(); !errors.Is(ret, nvml.SUCCESS) || mode != nvml.DEVICE_MIG_ENABLE {
		return nil, false
	}
	most, ret := d.GetMaxMigDeviceCount()
	if !errors.Is(ret, nvml.SUCCESS) {
		return nil, true
	}
	for i := range min(most, maxSlices) {
		m, ret := d.GetMigDeviceHandleByIndex(i)
		if !errors.Is(ret, nvml.SUCCESS) {
			continue
		}
		var s Slice
		if s.UUID, ret = m.GetUUID(); !errors.Is(ret, nvml.SUCCESS) {
			continue
		}
		s.Product, _ = m.GetName()
		if memory, ret := m.GetMemoryInfo(); errors.Is(ret, nvml.SUCCESS) {
			s.MemoryBytes = memory.Total
		}
		found = append(found, s)
	}
	return found, true
}

// has says whether the driver knows a function. Calling one that an older
// driver lacks would end the process, since symbols are bound when called.
func has(lib nvml.Interface, symbol string) bool {
	return lib.Extensions().LookupSymbol(symbol) == nil
}

func failed(what string, ret nvml.Return) error {
	return fmt.Errorf("NVML could not %s: %w", what, ret)
}
