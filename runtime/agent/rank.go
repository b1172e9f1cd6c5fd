// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/findep/findep-operator/runtime/agent/agentpb"
	"github.com/findep/findep-operator/runtime/backend"
	"github.com/findep/findep-operator/runtime/executor"
	"github.com/findep/findep-operator/runtime/kvcache"
	"github.com/findep/findep-operator/runtime/plan"
	"github.com/findep/findep-operator/runtime/rendezvous"
	"github.com/findep/findep-operator/runtime/schedule"
	"github.com/findep/findep-operator/runtime/transport"
	"github.com/findep/findep-operator/runtime/weights"
)

// Defaults where the configuration leaves the choice.
const (
	// defaultStepTokens bounds the new tokens of one step on one rank.
	defaultStepTokens = 8192
	// defaultSequences is the number of full-length sequences the KV cache is
	// made for when memory allows.
	defaultSequences = 64
	// kvMemoryShare is the share of the device's memory the default KV cache
	// may take, as a divisor. Several simulated ranks share one host.
	kvMemoryShare = 16
	// maxPieces bounds the sequences of one step.
	maxPieces = 4096
)

// runner is what attention and expert ranks have in common.
type runner interface {
	Run(ctx context.Context, step *executor.Step, mesh transport.Mesh) (executor.Result, error)
	Close()
}

// rank executes steps and keeps the mesh of the current epoch.
type rank struct {
	role           plan.Role
	attentionRanks int
	runner         runner
	reset          func()            // forgets the KV cache; nil on expert ranks
	free           func()            // gives the weights back
	pipelines      backend.Pipelines // nil where the device has none
	metrics        *metrics
	log            *slog.Logger
	watch          *watchdog
	now            executor.Clock

	mu    sync.Mutex
	epoch uint64
	mesh  transport.Mesh
	kept  []byte // for the next leader, see keep.go
	links []transport.LinkKinds
}

// load opens the device, reads this rank's share of the weights and makes its
// executor.
func (a *agent) load() error {
	in := a.config.current.Load()
	a.reportGPUs()
	var err error
	a.device, err = backend.Open(a.options.Backend, backend.Options{Fallback: func(reason error) {
		a.log.Warn("no GPU backend, using the CPU", "reason", reason.Error())
	}})
	if err != nil {
		return err
	}
	a.log.Info("device", "name", a.device.Name())
	a.reportMismatch()
	a.limits = limits{
		attentionRanks: in.AttentionRanks, vocabulary: a.shape.VocabSize,
		maxContext:    min(in.Model.MaxContextTokens, a.shape.MaxPositionEmbeddings),
		maxStepTokens: defaultStepTokens, blockTokens: kvcache.BlockTokens, maxPiecesPerStep: maxPieces,
	}
	a.limits.blocksPerRank = a.kvBlocks(in)
	if err := a.reservePool(in); err != nil {
		return err
	}
	a.watch.load(a.options.LoadTimeout)
	defer a.watch.done()
	checkpoint, err := weights.Open(in.Model.Path)
	if err != nil {
		return err
	}
	defer func() { _ = checkpoint.Close() }()
	a.rank = &rank{role: in.RoleOf(a.options.Rank), attentionRanks: in.AttentionRanks, pipelines: pipelinesOf(a.device),
		metrics: a.metrics, log: a.log, now: a.now, watch: a.watch}
	a.metrics.loads.Inc()
	if a.rank.role == plan.Attention {
		return a.loadAttention(in, checkpoint)
	}
	return a.loadExperts(in, checkpoint)
}

// weightOptions say how this rank keeps its weights.
func (a *agent) weightOptions() weights.Options {
	dtype, _ := a.options.weightType() // Checked when the process started.
	return weights.Options{DType: dtype, Progress: a.watch.advance}
}

// kvType is the type of the KV cache's elements: BF16 beside weights of BF16,
// where the device has such a cache, as a model that computes in BF16 has it.
func (a *agent) kvType() backend.DType {
	dtype := a.weightOptions().DType
	if kvcache.Supports(a.device, dtype) {
		return dtype
	}
	return backend.F32
}

// kvBlocks is the capacity of each rank's KV cache: what was asked for, or room
// for many full-length sequences within a share of the memory.
func (a *agent) kvBlocks(in *plan.Instance) int {
	tokens := in.Model.KVCacheTokens
	if tokens == 0 {
		perToken := max(1, a.shape.KVElementsPerTokenLayer()*int64(a.shape.Layers*a.kvType().Size()))
		tokens = int(min(int64(defaultSequences*a.limits.maxContext), a.device.MemoryBytes()/kvMemoryShare/perToken))
		tokens = max(tokens, a.limits.maxContext)
	}
	return max(1, (tokens+kvcache.BlockTokens-1)/kvcache.BlockTokens)
}

func (a *agent) loadAttention(in *plan.Instance, checkpoint *weights.Checkpoint) error {
	w, err := weights.LoadAttention(a.device, checkpoint, a.shape, a.weightOptions())
	if err != nil {
		return err
	}
	a.rank.free = w.Free
	r, err := executor.NewAttention(executor.AttentionConfig{
		Rank: a.options.Rank, AttentionRanks: in.AttentionRanks, ExpertRanks: in.ExpertRanks,
		Shape: a.shape, Device: a.device, Weights: w, KVBlocks: a.limits.blocksPerRank, KVType: a.kvType(),
		MaxContextTokens: a.limits.maxContext, MaxStepTokens: a.limits.maxStepTokens, Threads: a.options.Threads, Now: a.now,
	})
	if err != nil {
		return err
	}
	a.rank.runner, a.rank.reset = r, r.Reset
	return nil
}

func (a *agent) loadExperts(in *plan.Instance, checkpoint *weights.Checkpoint) error {
	first, last := weights.ExpertRange(a.shape.MoE.Experts, in.ExpertRanks, a.options.Rank-in.AttentionRanks)
	w, err := weights.LoadExperts(a.device, checkpoint, a.shape, first, last, a.weightOptions())
	if err != nil {
		return err
	}
	a.rank.free = w.Free
	r, err := executor.NewExpert(executor.ExpertConfig{
		Rank: a.options.Rank, AttentionRanks: in.AttentionRanks, ExpertRanks: in.ExpertRanks,
		Shape: a.shape, Device: a.device, Weights: w, MaxStepTokens: a.limits.maxStepTokens, Threads: a.options.Threads, Now: a.now,
	})
	if err != nil {
		return err
	}
	a.rank.runner = r
	return nil
}

// connect makes the data mesh of an epoch. The KV cache belonged to the epoch
// before, whose server sends its sequences again.
func (r *rank) connect(connector transport.Connector, self int) func(context.Context, rendezvous.World) error {
	return func(ctx context.Context, world rendezvous.World) error {
		var peers []transport.Peer
		for _, m := range world.Members {
			if m.Role != r.role {
				peers = append(peers, transport.Peer{Rank: m.Rank, Address: m.DataAddress})
			}
		}
		r.watch.begin("connecting the data links", world.Epoch, 0)
		defer r.watch.end()
		r.drop()
		mesh, err := connector.Connect(ctx, world.Epoch, self, peers)
		if err != nil {
			return err
		}
		r.describe(world.Epoch, mesh)
		if mesh, err = r.meet(mesh, &world, self); err != nil {
			return err
		}
		if r.reset != nil {
			r.reset()
		}
		r.mu.Lock()
		r.mesh, r.epoch = mesh, world.Epoch
		r.mu.Unlock()
		return nil
	}
}

// drop closes the mesh of the epoch before.
func (r *rank) drop() {
	r.mu.Lock()
	mesh := r.mesh
	r.mesh = nil
	r.mu.Unlock()
	if mesh != nil {
		_ = mesh.Close()
	}
}

// step runs one command of the leader.
func (r *rank) step(ctx context.Context, epoch uint64, payload []byte) ([]byte, error) {
	received := r.now()
	command := &agentpb.StepCommand{}
	if err := proto.Unmarshal(payload, command); err != nil {
		return nil, fmt.Errorf("the leader's command is unreadable: %w", err)
	}
	r.mu.Lock()
	mesh, current := r.mesh, r.epoch
	r.mu.Unlock()
	if mesh == nil || current != epoch {
		return nil, fmt.Errorf("step %d is for epoch %d; the data links are of epoch %d", command.Number, epoch, current)
	}
	r.watch.begin(fmt.Sprintf("step %d", command.Number), epoch, time.Duration(command.DeadlineMilliseconds)*time.Millisecond)
	defer r.watch.end()
	result, err := r.runner.Run(ctx, stepFromProto(epoch, command, r.attentionRanks), mesh)
	if err != nil {
		return nil, err
	}
	r.count(&result)
	outcome := outcomeToProto(command.Number, &result)
	outcome.Stages = r.keep(command)
	if command.Trace {
		outcome.ReceivedNanoseconds, outcome.StartedNanoseconds, outcome.AnsweredNanoseconds = received, result.Started, r.now()
	}
	return proto.Marshal(outcome)
}

func (r *rank) count(result *executor.Result) {
	var busy [schedule.NumResources]int64
	for kind, d := range result.Durations {
		if d.Tasks > 0 {
			r.metrics.stage.WithLabelValues(executor.Kind(kind).String()).Add(float64(d.Nanoseconds) / 1e9)
			busy[resourceOf(executor.Kind(kind))] += d.Nanoseconds
		}
	}
	for i, nanoseconds := range busy {
		if nanoseconds == 0 {
			continue
		}
		resource := schedule.Resource(i)
		r.metrics.busy.WithLabelValues(resource.String()).Add(float64(nanoseconds) / 1e9)
		r.metrics.bubble.WithLabelValues(resource.String()).Add(float64(max(0, result.Nanoseconds-nanoseconds)) / 1e9)
	}
	for expert, rows := range result.ExpertLoad {
		r.metrics.rows.WithLabelValues(fmt.Sprint(expert)).Add(float64(rows))
	}
}

// abort fails whatever is in flight; it does not wait for it.
func (r *rank) abort(epoch uint64, reason string) {
	r.watch.release(epoch)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.mesh != nil && r.epoch == epoch {
		r.mesh.Abort(errors.New(reason))
	}
}

func (r *rank) close() {
	r.drop()
	if r.runner != nil {
		r.runner.Close()
	}
	if r.free != nil {
		r.free()
	}
}
