// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"errors"
	"fmt"

	"github.com/findep/findep-operator/runtime/backend"
	"github.com/findep/findep-operator/runtime/executor"
	"github.com/findep/findep-operator/runtime/profile"
	"github.com/findep/findep-operator/runtime/rendezvous"
	"github.com/findep/findep-operator/runtime/transport"
)

// usablePermille is the part of a device's memory that the memory model counts
// on, as in the built-in profiles.
const usablePermille = 900

// meetTimeout bounds the meeting of devices, below the time in which an epoch
// must be connected, so that the rank says itself whom it waited for.
const meetTimeout = rendezvous.DefaultConnectTimeout / 2

// pipelinesOf is the device as one that runs whole steps, nil if it does not.
func pipelinesOf(dev backend.Device) backend.Pipelines {
	if p, ok := dev.(backend.Pipelines); ok && p.Pipelines() {
		return p
	}
	return nil
}

// reservePool takes all memory that the memory model counts on at once. What is
// too large for it is then known before a step begins.
func reservePool(dev backend.Device) error {
	p := pipelinesOf(dev)
	if p == nil {
		return nil
	}
	model := profile.Profile{MemoryBytes: dev.MemoryBytes(), UsableMemoryPermille: usablePermille}
	return p.ReservePool(model.UsableBytes())
}

// idsOf makes the ids of each epoch, nil where devices do not meet.
func idsOf(dev backend.Device) func() ([]byte, error) {
	if p := pipelinesOf(dev); p != nil {
		return p.PipelineIDs
	}
	return nil
}

// meet lets the device meet those of the other ranks, where devices do. It takes
// the links over, also when it fails.
func (r *rank) meet(links transport.Mesh, world *rendezvous.World, self int) (transport.Mesh, error) {
	switch {
	case r.pipelines == nil && len(world.IDs) == 0:
		return links, nil
	case r.pipelines == nil || len(world.IDs) == 0:
		return nil, errors.Join(fmt.Errorf("rank %d and the leader have different kinds of devices: start all ranks with the same --backend", self), links.Close())
	}
	p, err := r.pipelines.OpenPipeline(backend.PipelineConfig{
		Rank: self, World: len(world.Members), IDs: world.IDs, Timeout: meetTimeout,
	})
	if err != nil {
		return nil, errors.Join(err, links.Close())
	}
	return executor.NewPipelined(links, p), nil
}
