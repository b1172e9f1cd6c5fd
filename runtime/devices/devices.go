// SPDX-License-Identifier: Apache-2.0

// Package devices asks the NVIDIA driver which GPUs a rank can see. It works,
// and says so, where there is no driver: the library is loaded when it is asked
// for, never before.
package devices

import (
	"errors"
	"fmt"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
)

// ErrNoDriver says that this machine has no NVIDIA driver; ranks then run on
// another backend.
var ErrNoDriver = errors.New("no NVIDIA driver: libnvidia-ml.so.1 is not on this machine or not mounted into the container")

// GPU is what planning and people want to know of one device.
type GPU struct {
	Index int `json:"index"`
	// UUID identifies the device, or the MIG slice, across restarts.
	UUID string `json:"uuid"`
	// Product is the marketing name that profiles are matched by.
	Product string `json:"product"`
	// MemoryBytes is the total memory.
	MemoryBytes uint64 `json:"memoryBytes"`
	// ComputeCapability is major.minor, for example 9.0.
	ComputeCapability string `json:"computeCapability"`
}

// List returns the GPUs in driver order. The error is ErrNoDriver where there
// is none, else it names the question the driver did not answer.
func List(lib nvml.Interface) (found []GPU, err error) {
	switch ret := lib.Init(); {
	case errors.Is(ret, nvml.ERROR_LIBRARY_NOT_FOUND), errors.Is(ret, nvml.ERROR_DRIVER_NOT_LOADED):
		return nil, ErrNoDriver
	case !errors.Is(ret, nvml.SUCCESS):
		return nil, failed("start the library", ret)
	}
	defer func() {
		if ret := lib.Shutdown(); !errors.Is(ret, nvml.SUCCESS) {
			err = errors.Join(err, failed("stop the library", ret))
		}
	}()
	count, ret := lib.DeviceGetCount()
	if !errors.Is(ret, nvml.SUCCESS) {
		return nil, failed("count the GPUs", ret)
	}
	for i := range count {
		gpu, err := describe(lib, i)
		if err != nil {
			return nil, fmt.Errorf("GPU %d: %w", i, err)
		}
		found = append(found, gpu)
	}
	return found, nil
}

func describe(lib nvml.Interface, index int) (GPU, error) {
	g := GPU{Index: index}
	d, ret := lib.DeviceGetHandleByIndex(index)
	if !errors.Is(ret, nvml.SUCCESS) {
		return g, failed("open it", ret)
	}
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
	return g, nil
}

func failed(what string, ret nvml.Return) error {
	return fmt.Errorf("NVML could not %s: %w", what, ret)
}
