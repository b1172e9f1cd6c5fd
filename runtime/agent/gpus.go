// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/findep/findep-operator/runtime/backend/native"
	"github.com/findep/findep-operator/runtime/devices"
	"github.com/findep/findep-operator/runtime/plan"
)

// driverPatience bounds how long the start of a rank waits for the driver to say
// which GPUs there are; what it says later is reported all the same.
const driverPatience = 5 * time.Second

// watchGPUs starts to watch what the driver shows, until ctx ends.
func (a *agent) watchGPUs(ctx context.Context) {
	a.gpus = devices.Watch(ctx, nvml.New(), devices.Options{Event: func(gpu devices.GPU, x devices.XID) {
		a.log.Warn("the driver reports an error of a GPU", "gpu", gpu.Index, "uuid", gpu.UUID, "xid", x.Number)
	}})
	rank := prometheus.Labels{"rank": strconv.Itoa(a.options.Rank)}
	prometheus.WrapRegistererWith(rank, a.metrics.registry).MustRegister(devices.Collector(a.gpus))
}

// reportGPUs tells people and metrics what the driver shows. Ranks on the CPU
// backend need none, so a missing driver is not an error here.
func (a *agent) reportGPUs() {
	select {
	case <-a.gpus.Ready():
	case <-time.After(driverPatience):
		a.log.Warn("no GPUs", "reason", devices.ErrNoAnswer.Error())
		return
	}
	seen := a.gpus.Snapshot()
	if seen.Err != nil {
		a.log.Info("no GPUs", "reason", seen.Err.Error())
		return
	}
	list := make([]devices.GPU, 0, len(seen.GPUs))
	for _, s := range seen.GPUs {
		list = append(list, s.GPU)
		a.metrics.gpus.WithLabelValues(strconv.Itoa(s.GPU.Index), s.GPU.UUID, s.GPU.Product).Set(float64(s.GPU.MemoryBytes))
	}
	a.log.Info("GPUs", "devices", list, "nvlinkDomains", devices.Domains(list))
	if seen.NoEvents != "" {
		a.log.Warn("errors of GPUs are only seen in what they count", "reason", seen.NoEvents)
	}
}

// deviceHealth says how this rank's GPU does; nil on another backend.
func (a *agent) deviceHealth() *plan.DeviceHealth {
	if !strings.HasPrefix(a.device.Name(), native.CUDA+":") {
		return nil
	}
	return a.gpus.Health(devices.Chosen(a.seenGPUs(), os.Getenv("CUDA_VISIBLE_DEVICES")))
}
