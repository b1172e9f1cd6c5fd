// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"os"
	"strings"

	"github.com/findep/findep-operator/runtime/backend/native"
	"github.com/findep/findep-operator/runtime/devices"
	"github.com/findep/findep-operator/runtime/profile"
)

// profileMismatch says how this rank's device is another than the one that its
// group's profile describes; empty if it is not, or if no profile was given. The
// profile may change while the rank runs, so it is compared again each time.
func (a *agent) profileMismatch() string {
	in := a.config.current.Load()
	raw := in.Profile[in.RoleOf(a.options.Rank)]
	if len(raw) == 0 {
		return ""
	}
	p, err := profile.Decode(raw)
	if err != nil {
		return "the profile in the instance's configuration cannot be compared with the device: " + err.Error()
	}
	found, memoryBytes := a.foundDevice()
	return p.Mismatch(found, memoryBytes)
}

// reportMismatch tells the log once; heartbeats tell the leader from then on.
func (a *agent) reportMismatch() {
	if mismatch := a.profileMismatch(); mismatch != "" {
		a.log.Error("plans will be wrong", "reason", mismatch)
	}
}

// foundDevice is the device in use and its memory: what the driver shows of it, or
// what its backend says where the driver's library does not answer.
func (a *agent) foundDevice() (profile.Device, int64) {
	kind, product, _ := strings.Cut(a.device.Name(), " ")
	backend, _, _ := strings.Cut(kind, ":")
	switch backend {
	case native.CPU:
		return profile.Device{Backend: profile.BackendCPU}, a.device.MemoryBytes()
	case native.CUDA:
	default:
		return profile.Device{}, a.device.MemoryBytes()
	}
	found := profile.Device{Backend: profile.BackendCUDA, Product: product}
	if list := a.seenGPUs(); len(list) > 0 {
		gpu := &list[devices.Chosen(list, os.Getenv("CUDA_VISIBLE_DEVICES"))]
		found.Product, found.ComputeCapability = gpu.ProductLabel(), gpu.ComputeCapability
	}
	return found, a.device.MemoryBytes()
}

// seenGPUs are the GPUs of the driver's last answer, nil while there is none.
func (a *agent) seenGPUs() []devices.GPU {
	seen := a.gpus.Snapshot()
	if seen == nil {
		return nil
	}
	list := make([]devices.GPU, len(seen.GPUs))
	for i := range seen.GPUs {
		list[i] = seen.GPUs[i].GPU
	}
	return list
}
