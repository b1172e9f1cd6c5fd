// SPDX-License-Identifier: Apache-2.0

// Package harness runs all ranks of an instance in one process, unless told
// otherwise over the in-process transport: deterministic, without sockets,
// certificates or a leader. Tests and measurements of the executor stand on it.
package harness

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/findep/findep-operator/runtime/backend"
	"github.com/findep/findep-operator/runtime/executor"
	"github.com/findep/findep-operator/runtime/kvcache"
	"github.com/findep/findep-operator/runtime/model"
	"github.com/findep/findep-operator/runtime/plan"
	"github.com/findep/findep-operator/runtime/sampling"
	"github.com/findep/findep-operator/runtime/transport"
	"github.com/findep/findep-operator/runtime/transport/inproc"
	"github.com/findep/findep-operator/runtime/weights"
)

// Config describes an instance.
type Config struct {
	Shape *model.Shape
	// Checkpoint is the folder of the weights.
	Checkpoint string
	// Attention and Expert are the group sizes.
	Attention, Expert int
	// OpenDevice opens the device of a rank; every rank has its own.
	OpenDevice func(rank int) (backend.Device, error)
	// KVTokens is the KV capacity of each attention rank, MaxContextTokens the
	// longest sequence, MaxStepTokens the largest step of one rank; 0 means
	// 4096 tokens, as far as the model allows.
	KVTokens, MaxContextTokens, MaxStepTokens int
	// Threads bounds each rank's host threads for one operation; 0 means one.
	Threads int
	// Weights choose how weights are stored.
	Weights weights.Options
	// KVType is the type of the KV cache's elements.
	KVType backend.DType
	// Depth is the number of messages a link holds, see inproc.NewHub.
	Depth int
	// Ends are what connects the ranks, by rank; nil means in-process links.
	Ends []End
	// Now is the clock of all ranks; nil gives each its own.
	Now executor.Clock
	// Pipelines lets the devices run whole steps, transfers included.
	Pipelines bool
}

// End is a rank's end of a transport, and where it listens.
type End struct {
	transport.Connector
	Address string
}

func (c *Config) defaults() {
	const usual = 4096
	if c.KVTokens == 0 {
		c.KVTokens = usual
	}
	if c.MaxContextTokens == 0 {
		c.MaxContextTokens = min(usual, c.Shape.MaxPositionEmbeddings)
	}
	if c.MaxStepTokens == 0 {
		c.MaxStepTokens = usual
	}
	c.Threads = max(c.Threads, 1)
}

// Instance is a set of ranks with their meshes.
type Instance struct {
	Config    Config
	Attention []*executor.AttentionRank
	Expert    []*executor.ExpertRank
	// Meshes are those of the current epoch, by rank.
	Meshes []transport.Mesh

	devices []backend.Device

	hub   *inproc.Hub
	epoch uint64
	step  uint64
	frees []func()
}

// New loads the checkpoint into every rank and connects them.
func New(c Config) (*Instance, error) {
	c.defaults()
	in := &Instance{Config: c, hub: inproc.NewHub(c.Depth)}
	ckpt, err := weights.Open(c.Checkpoint)
	if err != nil {
		return nil, err
	}
	defer ckpt.Close()
	for rank := range c.Attention + c.Expert {
		if err := in.addRank(ckpt, rank); err != nil {
			in.Close()
			return nil, err
		}
	}
	if err := in.Connect(context.Background()); err != nil {
		in.Close()
		return nil, err
	}
	return in, nil
}

func (in *Instance) addRank(ckpt *weights.Checkpoint, rank int) error {
	dev, err := in.Config.OpenDevice(rank)
	if err != nil {
		return err
	}
	in.frees = append(in.frees, func() { _ = dev.Close() })
	in.devices = append(in.devices, dev)
	if rank < in.Config.Attention {
		return in.addAttention(ckpt, dev, rank)
	}
	return in.addExpert(ckpt, dev, rank)
}

func (in *Instance) addAttention(ckpt *weights.Checkpoint, dev backend.Device, rank int) error {
	c := in.Config
	w, err := weights.LoadAttention(dev, ckpt, c.Shape, c.Weights)
	if err != nil {
		return err
	}
	in.frees = append(in.frees, w.Free)
	r, err := executor.NewAttention(executor.AttentionConfig{
		Rank: rank, AttentionRanks: c.Attention, ExpertRanks: c.Expert, Shape: c.Shape, Device: dev, Weights: w,
		KVBlocks:         (c.KVTokens + kvcache.BlockTokens - 1) / kvcache.BlockTokens,
		KVType:           c.KVType,
		MaxContextTokens: c.MaxContextTokens, MaxStepTokens: c.MaxStepTokens, Threads: c.Threads, Now: c.Now,
	})
	if err != nil {
		return err
	}
	in.frees = append(in.frees, r.Close)
	in.Attention = append(in.Attention, r)
	return nil
}

func (in *Instance) addExpert(ckpt *weights.Checkpoint, dev backend.Device, rank int) error {
	c := in.Config
	first, last := weights.ExpertRange(c.Shape.MoE.Experts, c.Expert, rank-c.Attention)
	w, err := weights.LoadExperts(dev, ckpt, c.Shape, first, last, c.Weights)
	if err != nil {
		return err
	}
	in.frees = append(in.frees, w.Free)
	r, err := executor.NewExpert(executor.ExpertConfig{
		Rank: rank, AttentionRanks: c.Attention, ExpertRanks: c.Expert, Shape: c.Shape, Device: dev, Weights: w,
		MaxStepTokens: c.MaxStepTokens, Threads: c.Threads, Now: c.Now,
	})
	if err != nil {
		return err
	}
	in.frees = append(in.frees, r.Close)
	in.Expert = append(in.Expert, r)
	return nil
}

// Connect gives all ranks new meshes of a new epoch.
func (in *Instance) Connect(ctx context.Context) error {
	in.disconnect()
	in.epoch++
	world := in.Config.Attention + in.Config.Expert
	in.Meshes = make([]transport.Mesh, world)
	err := each(world, func(rank int) (err error) {
		in.Meshes[rank], err = in.connector(rank).Connect(ctx, in.epoch, rank, in.peers(rank))
		return err
	})
	if err != nil || !in.Config.Pipelines {
		return err
	}
	return in.meet(world)
}

// meetTimeout bounds the meeting of pipelines in one process.
const meetTimeout = 10 * time.Second

// meet opens a pipeline on every device.
func (in *Instance) meet(world int) error {
	leader, ok := in.devices[0].(backend.Pipelines)
	if !ok {
		return fmt.Errorf("the device %s has no pipelines", in.devices[0].Name())
	}
	ids, err := leader.PipelineIDs()
	if err != nil {
		return err
	}
	return each(world, func(rank int) error {
		p, err := in.devices[rank].(backend.Pipelines).OpenPipeline(backend.PipelineConfig{Rank: rank, World: world, IDs: ids, Timeout: meetTimeout})
		if err == nil {
			in.Meshes[rank] = executor.NewPipelined(in.Meshes[rank], p)
		}
		return err
	})
}

func (in *Instance) connector(rank int) transport.Connector {
	if in.Config.Ends == nil {
		return in.hub
	}
	return in.Config.Ends[rank]
}

// peers are the ranks of the other group.
func (in *Instance) peers(rank int) []transport.Peer {
	first, last := 0, in.Config.Attention
	if rank < in.Config.Attention {
		first, last = in.Config.Attention, in.Config.Attention+in.Config.Expert
	}
	var peers []transport.Peer
	for r := first; r < last; r++ {
		peer := transport.Peer{Rank: r}
		if in.Config.Ends != nil {
			peer.Address = in.Config.Ends[r].Address
		}
		peers = append(peers, peer)
	}
	return peers
}

// each runs f for every rank at once and joins the errors.
func each(world int, f func(rank int) error) error {
	errs := make([]error, world)
	var wg sync.WaitGroup
	for rank := range world {
		wg.Go(func() { errs[rank] = f(rank) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

func (in *Instance) disconnect() {
	for _, m := range in.Meshes {
		if m != nil {
			_ = m.Close() // Closing an in-process mesh cannot fail.
		}
	}
	in.Meshes = nil
}

// Reset makes the instance usable again after a failed step: new meshes, empty
// KV caches.
func (in *Instance) Reset(ctx context.Context) error {
	for _, a := range in.Attention {
		a.Reset()
	}
	return in.Connect(ctx)
}

// Close stops all ranks and frees their memory.
func (in *Instance) Close() {
	for _, m := range in.Meshes {
		if m != nil {
			m.Abort(errors.New("the instance is closed"))
		}
	}
	for i := len(in.frees) - 1; i >= 0; i-- {
		in.frees[i]()
	}
	in.frees = nil
	in.disconnect()
}

// Run runs one step on all ranks and returns their results by rank. Number and
// Epoch are filled in.
func (in *Instance) Run(ctx context.Context, step executor.Step) ([]executor.Result, error) {
	in.step++
	step.Epoch, step.Number = in.epoch, in.step
	results := make([]executor.Result, in.Config.Attention+in.Config.Expert)
	err := each(len(results), func(rank int) (err error) {
		if rank < in.Config.Attention {
			results[rank], err = in.Attention[rank].Run(ctx, &step, in.Meshes[rank])
		} else {
			results[rank], err = in.Expert[rank-in.Config.Attention].Run(ctx, &step, in.Meshes[rank])
		}
		if err != nil {
			in.abort(err)
		}
		return err
	})
	return results, err
}

// abort tells every rank of a failure, as the rendezvous does. Ranks without a
// pipeline learn it from their links.
func (in *Instance) abort(reason error) {
	for _, m := range in.Meshes {
		if p, ok := m.(executor.Pipelined); ok {
			p.Abort(reason)
		}
	}
}

// Prompt is a sequence to continue.
type Prompt struct {
	ID     uint64
	Tokens []int32
	// MaxTokens is the number of tokens to generate.
	MaxTokens int
	Sampling  sampling.Params
}

// Completion is what a prompt gave.
type Completion struct {
	Tokens []int32
	// PromptLogits are [prompt tokens, vocabulary], Logits one row per
	// generated token after the first: the logits that gave it.
	PromptLogits, Logits []float32
}

// Options choose how Generate runs.
type Options struct {
	Plan plan.Plan
	// Trace keeps the last step's results in Results.
	Trace bool
	// Pieces cuts every prompt into that many pieces of one step each; 0 means
	// one.
	Pieces int
}

// Generate continues all prompts together: prompt i lives on attention rank
// i mod attention, one step for each prompt piece, then one step per token. It
// releases the sequences at the end.
func (in *Instance) Generate(ctx context.Context, prompts []Prompt, o Options) ([]Completion, error) {
	done := make([]Completion, len(prompts))
	pieces := max(o.Pieces, 1)
	for p := range pieces {
		if err := in.prefill(ctx, prompts, done, o, p, pieces); err != nil {
			return nil, fmt.Errorf("prefill, piece %d: %w", p, err)
		}
	}
	for n := 1; ; n++ {
		more, err := in.decode(ctx, prompts, done, o, n)
		if err != nil {
			return nil, fmt.Errorf("decoding token %d: %w", n, err)
		}
		if !more {
			break
		}
	}
	var all []uint64
	for _, p := range prompts {
		all = append(all, p.ID)
	}
	_, err := in.Run(ctx, executor.Step{Plan: o.Plan, Release: all})
	return done, err
}

func (in *Instance) prefill(ctx context.Context, prompts []Prompt, done []Completion, o Options, p, pieces int) error {
	step := executor.Step{Plan: o.Plan, Pieces: make([][]executor.Piece, in.Config.Attention), Trace: o.Trace}
	var owners []int
	for i, prompt := range prompts {
		from, to := p*len(prompt.Tokens)/pieces, (p+1)*len(prompt.Tokens)/pieces
		if from == to {
			continue
		}
		a := i % in.Config.Attention
		step.Pieces[a] = append(step.Pieces[a], executor.Piece{
			Sequence: prompt.ID, Start: from, Tokens: prompt.Tokens[from:to], Logits: executor.LogitsAll, Sampling: prompt.Sampling,
		})
		owners = append(owners, i)
	}
	return in.collect(ctx, step, owners, func(i int, out executor.Output) {
		done[i].PromptLogits = append(done[i].PromptLogits, out.Logits...)
		if p == pieces-1 && prompts[i].MaxTokens > 0 {
			done[i].Tokens = append(done[i].Tokens, out.Token)
		}
	})
}

func (in *Instance) decode(ctx context.Context, prompts []Prompt, done []Completion, o Options, n int) (bool, error) {
	step := executor.Step{Plan: o.Plan, Pieces: make([][]executor.Piece, in.Config.Attention), Trace: o.Trace}
	var owners []int
	for i, prompt := range prompts {
		if n >= prompt.MaxTokens {
			continue
		}
		a := i % in.Config.Attention
		step.Pieces[a] = append(step.Pieces[a], executor.Piece{
			Sequence: prompt.ID, Start: len(prompt.Tokens) + n - 1, Tokens: done[i].Tokens[n-1:],
			Logits: executor.LogitsLast, ReturnLogits: true, Sampling: prompt.Sampling,
		})
		owners = append(owners, i)
	}
	if len(owners) == 0 {
		return false, nil
	}
	return true, in.collect(ctx, step, owners, func(i int, out executor.Output) {
		done[i].Logits = append(done[i].Logits, out.Logits...)
		done[i].Tokens = append(done[i].Tokens, out.Token)
	})
}

// collect runs a step and hands each owner's output over. Owners were added to
// the ranks in turn.
func (in *Instance) collect(ctx context.Context, step executor.Step, owners []int, take func(int, executor.Output)) error {
	results, err := in.Run(ctx, step)
	if err != nil {
		return err
	}
	next := make([]int, in.Config.Attention)
	for _, i := range owners {
		a := i % in.Config.Attention
		take(i, results[a].Outputs[next[a]])
		next[a]++
	}
	return nil
}
