// SPDX-License-Identifier: Apache-2.0

package executor

import (
	"context"
	"errors"
	"fmt"

	"github.com/findep/findep-operator/runtime/backend"
	"github.com/findep/findep-operator/runtime/kvcache"
	"github.com/findep/findep-operator/runtime/model"
	"github.com/findep/findep-operator/runtime/sampling"
	"github.com/findep/findep-operator/runtime/schedule"
	"github.com/findep/findep-operator/runtime/transport"
	"github.com/findep/findep-operator/runtime/weights"
)

// AttentionConfig describes an attention rank.
type AttentionConfig struct {
	// Rank is this rank's number, below AttentionRanks. Expert ranks follow
	// the attention ranks.
	Rank                        int
	AttentionRanks, ExpertRanks int
	Shape                       *model.Shape
	Device                      backend.Device
	// Weights stay the caller's, who frees them after Close.
	Weights *weights.Attention
	// KVBlocks is the capacity of the KV cache in blocks of
	// kvcache.BlockTokens tokens.
	KVBlocks int
	// KVType is the type of the cache's elements: F32, or BF16 for half the memory
	// where kvcache.Supports admits it.
	KVType backend.DType
	// MaxContextTokens bounds one sequence, MaxStepTokens the tokens of one
	// step on this rank.
	MaxContextTokens, MaxStepTokens int
	// Threads bounds the host threads of a CPU backend's compute stream; 0
	// leaves the choice to it.
	Threads int
	// Now is the rank's clock; nil means the process's monotonic clock.
	Now Clock
}

func (c *AttentionConfig) validate() error {
	if err := validateRanks(c.Rank, 0, c.AttentionRanks, c.AttentionRanks, c.ExpertRanks, c.Shape); err != nil {
		return err
	}
	switch {
	case c.Device == nil || c.Weights == nil:
		return errors.New("an attention rank needs a device and weights")
	case len(c.Weights.Layers) != c.Shape.Layers:
		return fmt.Errorf("weights have %d layers, the model %d", len(c.Weights.Layers), c.Shape.Layers)
	case c.MaxContextTokens < 1 || c.MaxContextTokens > c.Shape.MaxPositionEmbeddings:
		return fmt.Errorf("a context of %d tokens is asked for; the model allows 1 to %d", c.MaxContextTokens, c.Shape.MaxPositionEmbeddings)
	}
	return checkStepTokens(c.MaxStepTokens, c.Shape)
}

// validateRanks checks the parts of a configuration that both roles have.
func validateRanks(rank, first, last, ag, eg int, s *model.Shape) error {
	switch {
	case s == nil:
		return errors.New("a rank needs the model's shape")
	case ag < 1 || eg < 1:
		return fmt.Errorf("%d attention and %d expert ranks; at least one of each is needed", ag, eg)
	case eg > s.MoE.Experts:
		return fmt.Errorf("%d expert ranks for %d routed experts; every rank needs at least one", eg, s.MoE.Experts)
	case rank < first || rank >= last:
		return fmt.Errorf("rank %d is not among its group's ranks %d to %d", rank, first, last-1)
	case s.MoELayers() < 1:
		return errors.New("the model has no MoE layers")
	}
	return nil
}

// AttentionRank runs the attention group's part of steps, with its own
// sequences and KV cache. Run, Reset and Close may be called from any
// goroutine; one step runs at a time.
type AttentionRank struct {
	engine
	config AttentionConfig
	shape  *model.Shape
	cache  *kvcache.Cache
	links  []peerLinks

	// Of the current step.
	pieces  []Piece
	outputs []Output
	batches []batch
	memory  attentionMemory
	// Scratch of the send worker and of the receive worker. Argument lists of
	// interface methods would be allocated at each call.
	starts    []int32
	sent, got [][]byte
	sampler   sampling.Sampler

	// For steps on a pipeline.
	listed   listed
	exchange exchange
}

// peerLinks are the two directions to one peer.
type peerLinks struct {
	rank     int
	to, from transport.Link
}

// connect looks the links to peers [first, last) up.
func connect(links []peerLinks, mesh transport.Mesh, first, last int) ([]peerLinks, error) {
	links = links[:0]
	for peer := first; peer < last; peer++ {
		to, err := mesh.To(peer)
		if err != nil {
			return nil, err
		}
		from, err := mesh.From(peer)
		if err != nil {
			return nil, err
		}
		links = append(links, peerLinks{peer, to, from})
	}
	return links, nil
}

// NewAttention reserves the KV cache and starts the rank's workers.
func NewAttention(c AttentionConfig) (*AttentionRank, error) {
	if err := c.validate(); err != nil {
		return nil, fmt.Errorf("attention rank %d: %w", c.Rank, err)
	}
	a := &AttentionRank{config: c, shape: c.Shape}
	a.engine.rank, a.engine.layers, a.engine.now = c.Rank, c.Shape.MoELayers(), c.Now
	a.engine.options.SharedExperts = c.Shape.MoE.SharedExperts > 0
	if err := a.reserve(); err != nil {
		a.stop()
		a.release()
		return nil, fmt.Errorf("attention rank %d: %w", c.Rank, err)
	}
	a.lanes[0].task, a.lanes[0].after = a.compute, a.heads
	a.lanes[1].task = a.send
	a.lanes[2].task = a.receive
	// What an expert rank returns is only known once it was sent.
	a.extra = func(t *schedule.Task) (schedule.TaskID, bool) {
		if t.Kind != schedule.E2A {
			return 0, false
		}
		return a.schedule.Find(schedule.A2E, int(t.Layer), int(t.MicroBatch), int(t.Segment))
	}
	a.start()
	return a, nil
}

func (a *AttentionRank) reserve() error {
	if err := a.init(a.config.Device, a.config.Threads, schedule.AttentionCompute); err != nil {
		return err
	}
	cache, err := kvcache.New(a.config.Device, a.shape, a.config.KVBlocks, a.config.KVType)
	if err != nil {
		return err
	}
	a.cache = cache
	return a.memory.init(&a.config, a.computeStream())
}

// computeStream is the compute stream.
func (a *AttentionRank) computeStream() backend.Stream { return a.lanes[0].stream }

func (a *AttentionRank) release() {
	a.memory.free()
	if a.cache != nil {
		a.cache.Close()
	}
}

// Capacity is the number of tokens that the KV cache holds, CachedTokens how
// many it holds now. They may be called between steps only.
func (a *AttentionRank) Capacity() int { return a.cache.Capacity() }

// CachedTokens is the number of tokens in the KV cache.
func (a *AttentionRank) CachedTokens() int { return a.cache.Used() }

// Reset forgets all sequences. It waits for a running step.
func (a *AttentionRank) Reset() {
	a.running.Lock()
	defer a.running.Unlock()
	a.cache.Reset()
}

// Close stops the workers and frees the rank's own memory. It waits for a
// running step; end that by its context or mesh first.
func (a *AttentionRank) Close() {
	a.close()
	a.running.Lock()
	defer a.running.Unlock()
	a.release()
}

// Run runs the rank's part of a step over the mesh, which it aborts when the
// step fails or ctx ends. The mesh stays the caller's to close.
func (a *AttentionRank) Run(ctx context.Context, step *Step, mesh transport.Mesh) (Result, error) {
	if err := a.begin(step, mesh); err != nil {
		return a.refuse(step, mesh, err)
	}
	defer a.running.Unlock()
	if err := a.prepare(step, mesh); err != nil {
		return a.refuse(step, mesh, err)
	}
	var result Result
	var err error
	if p, ok := mesh.(Pipelined); ok {
		result, err = a.listAttention(ctx, step, p.Pipeline())
	} else {
		result, err = a.run(ctx, step)
	}
	if err != nil {
		return Result{}, a.wrap(step, err)
	}
	result.Outputs = a.outputs
	return result, nil
}

// refuse ends the mesh of a step that did not begin, because the peers would
// wait for this rank.
func (e *engine) refuse(step *Step, mesh transport.Mesh, err error) (Result, error) {
	err = e.wrap(step, err)
	if !errors.Is(err, ErrBusy) {
		mesh.Abort(err)
	}
	return Result{}, err
}

func (a *AttentionRank) prepare(step *Step, mesh transport.Mesh) (err error) {
	if a.links, err = connect(a.links, mesh, a.config.AttentionRanks, a.config.AttentionRanks+a.config.ExpertRanks); err != nil {
		return err
	}
	if err := a.admit(step); err != nil {
		return err
	}
	return a.layOut(step)
}

// admit checks the pieces before anything is changed, then updates the KV
// cache's books.
func (a *AttentionRank) admit(step *Step) error {
	a.pieces = step.pieces(a.rank)
	if len(step.Pieces) > a.config.AttentionRanks {
		return fmt.Errorf("%w: it has pieces for %d attention ranks, there are %d", ErrStep, len(step.Pieces), a.config.AttentionRanks)
	}
	released := map[uint64]bool{}
	for _, id := range step.Release {
		released[id] = true
	}
	length, tokens := map[uint64]int{}, 0
	for i := range a.pieces {
		p := &a.pieces[i]
		cached, seen := length[p.Sequence]
		if !seen && !released[p.Sequence] {
			cached = a.cache.Tokens(p.Sequence)
		}
		if err := p.check(cached, a.shape.VocabSize, a.config.MaxContextTokens); err != nil {
			return fmt.Errorf("%w: %w", ErrStep, err)
		}
		length[p.Sequence] = cached + len(p.Tokens)
		tokens += len(p.Tokens)
	}
	if tokens > a.config.MaxStepTokens {
		return fmt.Errorf("%w: it has %d tokens for this rank, which takes %d", ErrStep, tokens, a.config.MaxStepTokens)
	}
	for _, id := range step.Release {
		a.cache.Free(id)
	}
	for i := range a.pieces {
		if err := a.cache.Append(a.pieces[i].Sequence, len(a.pieces[i].Tokens)); err != nil {
			return fmt.Errorf("%w: %w", ErrStep, err)
		}
	}
	return nil
}
