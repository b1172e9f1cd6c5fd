// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"errors"
	"fmt"

	"github.com/findep/findep-operator/runtime/backend"
	"github.com/findep/findep-operator/runtime/executor"
	"github.com/findep/findep-operator/runtime/kvcache"
	"github.com/findep/findep-operator/runtime/plan"
	"github.com/findep/findep-operator/runtime/profile"
	"github.com/findep/findep-operator/runtime/rendezvous"
	"github.com/findep/findep-operator/runtime/transport"
	"github.com/findep/findep-operator/runtime/weights"
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

// reservePool takes all memory that the memory model counts on at once: the usable
// part of the device, from which the model's reserve is taken too. A rank that cannot
// fit is refused before, and what is too large later on is known before a step begins.
func (a *agent) reservePool(in *plan.Instance) error {
	p := pipelinesOf(a.device)
	if p == nil {
		return nil
	}
	model := profile.Profile{MemoryBytes: a.device.MemoryBytes(), UsableMemoryPermille: usablePermille}
	if given, err := profile.Decode(in.Profile[in.RoleOf(a.options.Rank)]); err == nil {
		model.UsableMemoryPermille = given.UsableMemoryPermille
	}
	pool := model.UsableBytes()
	if need := a.memoryNeed(in, p); need.total() > pool {
		return fmt.Errorf("%w: rank %d needs at least %d bytes (weights in %s %d, KV cache of %d tokens in %s %d, workspaces of streams %d), but of the %d bytes of %s %d may be used: use more or larger GPUs, --weight-type BF16 or a smaller KV cache",
			backend.ErrMemoryExceeded, a.options.Rank, need.total(), a.weightOptions().DType, need.weights, a.limits.blocksPerRank*kvcache.BlockTokens, a.kvType(), need.cache,
			need.workspaces, a.device.MemoryBytes(), a.device.Name(), pool)
	}
	return p.ReservePool(pool)
}

// memoryNeed is the least memory of a rank in bytes, before the buffers of steps.
type memoryNeed struct{ weights, cache, workspaces int64 }

func (n memoryNeed) total() int64 { return n.weights + n.cache + n.workspaces }

// productStreams is how many streams a rank has that run products: the executor's
// and the pipeline's.
const productStreams = executor.Lanes + 1

func (a *agent) memoryNeed(in *plan.Instance, p backend.Pipelines) memoryNeed {
	parameters, element := a.shape.Parameters(), int64(a.weightOptions().DType.Size())
	need := memoryNeed{workspaces: productStreams * p.StreamBytes()}
	if in.RoleOf(a.options.Rank) == plan.Attention {
		need.weights = element * parameters.AttentionGroup
		perToken := a.shape.KVElementsPerTokenLayer() * int64(a.shape.Layers*a.kvType().Size())
		need.cache = perToken * int64(a.limits.blocksPerRank) * kvcache.BlockTokens
		return need
	}
	first, last := weights.ExpertRange(a.shape.MoE.Experts, in.ExpertRanks, a.options.Rank-in.AttentionRanks)
	need.weights = element * parameters.Expert * int64(last-first) * int64(a.shape.MoELayers())
	return need
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
