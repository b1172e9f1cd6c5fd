// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/findep/findep-operator/runtime/agent/agentpb"
	"github.com/findep/findep-operator/runtime/executor"
	"github.com/findep/findep-operator/runtime/rendezvous"
)

// leader drives the steps of an instance from rank 0.
type leader struct {
	coordinator *rendezvous.Coordinator
	config      *configFile
	planner     *planner
	limits      limits
	metrics     *metrics
	log         *slog.Logger
	// machine is what this rank's stages are measured on.
	machine string
	warmUp  bool
	// warmUpBudget bounds how long larger and larger prompts are measured.
	warmUpBudget time.Duration
	// now is the clock that recorded steps are put on, the same as rank 0's.
	now    executor.Clock
	tracer tracer

	// step serialises steps: the ranks run them one after another anyway.
	step sync.Mutex
	// Below, guarded by step.
	ledger    *ledger
	number    uint64
	deadlines deadlines
	// session is the client that the ledger's sequences belong to.
	session uint64
	// failed is when the last epoch ended, zero before one has.
	failed time.Time
	// sent and arrived are the times of the last step, see tracedStep.
	sent    int64
	arrived []int64

	mu sync.Mutex
	// Below, guarded by mu.
	epoch    uint64 // 0 while no epoch is ready for requests
	observed observed
}

// run follows the epochs until ctx ends: each one formed is measured once and
// then opened to requests.
func (l *leader) run(ctx context.Context) error {
	for ctx.Err() == nil {
		world, err := l.coordinator.WaitFormed(ctx)
		if err != nil {
			return err
		}
		l.open(ctx, world.Epoch)
		select {
		case <-ctx.Done():
		case <-l.coordinator.Failed(world.Epoch):
		}
		l.close(world.Epoch)
	}
	return ctx.Err()
}

func (l *leader) open(ctx context.Context, epoch uint64) {
	l.step.Lock()
	defer l.step.Unlock()
	l.ledger = newLedger(l.limits)
	if l.warmUp {
		l.learnStages(ctx, epoch)
	}
	select {
	case <-l.coordinator.Failed(epoch):
		return
	default:
	}
	if !l.failed.IsZero() {
		l.metrics.recovery.Observe(time.Since(l.failed).Seconds())
	}
	l.mu.Lock()
	l.epoch = epoch
	l.mu.Unlock()
	l.log.Info("instance formed", "epoch", epoch)
}

// learnStages gives the planner its stage models: those it has, those of the
// leader before, or those it measures now. Every rank keeps them.
func (l *leader) learnStages(ctx context.Context, epoch uint64) {
	if !l.planner.measured() && !l.recall(epoch) {
		start := time.Now()
		if err := l.measure(ctx, epoch); err != nil {
			l.log.Warn("warm-up failed; plans rest on the profile", "epoch", epoch, "reason", err.Error())
		} else {
			l.log.Info("stages measured", "epoch", epoch, "milliseconds", time.Since(start).Milliseconds(), "stages", l.planner.describe())
		}
		l.ledger = newLedger(l.limits)
	}
	l.entrust(epoch)
}

func (l *leader) close(epoch uint64) {
	now := time.Now()
	l.mu.Lock()
	l.epoch = 0
	l.mu.Unlock()
	l.step.Lock()
	l.failed = now
	l.step.Unlock()
	l.metrics.failures.Inc()
	f := l.coordinator.Failure()
	l.log.Warn("epoch ended", "epoch", epoch, "reason", f.Reason)
}

// readyEpoch is the epoch that takes requests, or 0.
func (l *leader) readyEpoch() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.epoch
}

// Step runs one forward pass on all ranks; see agentpb for its errors.
func (l *leader) Step(_ context.Context, req *agentpb.StepRequest) (*agentpb.StepResponse, error) {
	l.step.Lock()
	defer l.step.Unlock()
	epoch := l.readyEpoch()
	switch {
	case epoch == 0:
		return nil, status.Error(codes.Unavailable, "the instance is not formed: "+l.missing())
	case req.Epoch != epoch:
		return nil, status.Errorf(codes.Aborted, "the request is for epoch %d, the instance is in epoch %d; send the sequences again from token 0", req.Epoch, epoch)
	}
	if req.Session != l.session {
		req.Release = append(l.ledger.held(), req.Release...)
	}
	if err := l.ledger.apply(req); err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	l.session = req.Session
	shape := shapeOf(req.Pieces, l.limits.attentionRanks)
	choice := l.planner.choose(shape, l.config.current.Load())
	outcomes, elapsed, err := l.execute(epoch, choice, req.Pieces, req.Release)
	if err != nil {
		l.metrics.steps.WithLabelValues(string(shape.phase()), "failed").Inc()
		return nil, status.Error(codes.Unavailable, err.Error())
	}
	results, err := merge(req.Pieces, outcomes)
	if err != nil {
		l.coordinator.Abort(epoch, err.Error())
		return nil, status.Error(codes.Unavailable, err.Error())
	}
	number, measured := l.number, float64(elapsed)/float64(time.Millisecond)
	if shape.samples > 0 {
		l.record(shape, choice, measured)
		refitted := l.planner.learn(shape, choice, l.config.current.Load(), outcomes, elapsed)
		l.metrics.skew(outcomes)
		l.trace(shape, choice, outcomes)
		if refitted {
			l.entrust(epoch)
		}
	}
	return &agentpb.StepResponse{
		Epoch: epoch, Step: number, Results: results, Plan: planToProto(choice.plan),
		MeasuredMilliseconds: measured, PredictedMilliseconds: choice.predicted,
		ExposedCommunicationMilliseconds: choice.exposed, Busiest: busiest(outcomes),
	}, nil
}

// trace keeps a step that all ranks have recorded. One that was under way when
// the recording began is left out.
func (l *leader) trace(shape batchShape, c choice, outcomes []*agentpb.RankOutcome) {
	for _, o := range outcomes {
		if o.AnsweredNanoseconds == 0 {
			return
		}
	}
	l.tracer.add(tracedStep{number: l.number, phase: shape.phase(), choice: c, sent: l.sent, arrived: l.arrived, outcomes: outcomes})
}

// busiest is, for each kind of task, the time on the rank that spent most.
func busiest(outcomes []*agentpb.RankOutcome) []*agentpb.KindTime {
	var all []*agentpb.KindTime
	for kind := range executor.NumKinds {
		most := 0.0
		for _, o := range outcomes {
			for _, d := range o.Durations {
				if d.Kind == kind.String() {
					most = max(most, d.Milliseconds)
				}
			}
		}
		if most > 0 {
			all = append(all, &agentpb.KindTime{Kind: kind.String(), Milliseconds: most})
		}
	}
	return all
}

// missing says which ranks the instance waits for.
func (l *leader) missing() string {
	text := ""
	for _, r := range l.coordinator.Snapshot().Ranks {
		if !r.Joined {
			text += fmt.Sprintf("rank %d (%s, %s): %s; ", r.Rank, r.Role, r.Host, r.Message)
		}
	}
	if text == "" {
		return "all ranks have joined, the data links are being made"
	}
	return text[:len(text)-2]
}

var errStepTimeout = errors.New("a rank did not answer in time")

// execute sends one step to all ranks and gathers what they answer, by rank.
// On an error the epoch is over.
func (l *leader) execute(epoch uint64, c choice, pieces []*agentpb.Piece, release []uint64) ([]*agentpb.RankOutcome, time.Duration, error) {
	return l.command(epoch, c, &agentpb.StepCommand{Pieces: pieces, Release: release, Trace: l.tracer.wanted(), Times: c.timed || l.planner.doubts()})
}

// command fills in what every step has, and executes it.
func (l *leader) command(epoch uint64, c choice, command *agentpb.StepCommand) ([]*agentpb.RankOutcome, time.Duration, error) {
	l.number++
	deadline := l.deadlines.of(c.predicted)
	command.Number, command.Plan = l.number, planToProto(c.plan)
	command.DeadlineMilliseconds = uint32(min(deadline.Milliseconds(), math.MaxUint32))
	payload, err := proto.Marshal(command)
	if err != nil {
		return nil, 0, fmt.Errorf("step %d: %w", l.number, err)
	}
	start := time.Now()
	l.sent = l.now()
	if err := l.coordinator.Send(epoch, rendezvous.All, payload); err != nil {
		return nil, 0, fmt.Errorf("step %d: %w", l.number, err)
	}
	outcomes, err := l.gather(epoch, deadline)
	switch {
	case err == nil:
		l.deadlines.missed = 0
	case errors.Is(err, errStepTimeout):
		l.deadlines.missed++
		l.coordinator.Abort(epoch, err.Error())
	}
	return outcomes, time.Since(start), err
}

func (l *leader) gather(epoch uint64, deadline time.Duration) ([]*agentpb.RankOutcome, error) {
	in := l.config.current.Load()
	outcomes := make([]*agentpb.RankOutcome, in.WorldSize())
	l.arrived = make([]int64, len(outcomes))
	timeout := time.NewTimer(deadline)
	defer timeout.Stop()
	for missing := len(outcomes); missing > 0; {
		select {
		case <-l.coordinator.Failed(epoch):
			return nil, fmt.Errorf("step %d: epoch %d ended: %s", l.number, epoch, l.coordinator.Failure().Reason)
		case <-timeout.C:
			return nil, fmt.Errorf("step %d of epoch %d: %w (%v): %s", l.number, epoch, errStepTimeout, deadline.Round(time.Millisecond), l.silent(outcomes))
		case r := <-l.coordinator.Results():
			o := &agentpb.RankOutcome{}
			if err := proto.Unmarshal(r.Payload, o); err != nil {
				l.coordinator.Abort(epoch, fmt.Sprintf("rank %d answered with something unreadable", r.Rank))
				return nil, fmt.Errorf("step %d: answer of rank %d: %w", l.number, r.Rank, err)
			}
			// Answers to steps of earlier epochs may still be in the queue.
			if r.Epoch == epoch && o.Number == l.number && outcomes[r.Rank] == nil {
				outcomes[r.Rank], l.arrived[r.Rank] = o, l.now()
				missing--
			}
		}
	}
	return outcomes, nil
}

// silent names the ranks that have not answered, which are the wedged one and
// those that wait for it.
func (l *leader) silent(outcomes []*agentpb.RankOutcome) string {
	var ranks []int
	for rank, o := range outcomes {
		if o == nil {
			ranks = append(ranks, rank)
		}
	}
	return l.coordinator.Describe(ranks)
}

// merge puts the ranks' results into the order of the request's pieces.
func merge(pieces []*agentpb.Piece, outcomes []*agentpb.RankOutcome) ([]*agentpb.PieceResult, error) {
	next := make([]int, len(outcomes))
	results := make([]*agentpb.PieceResult, len(pieces))
	for i, p := range pieces {
		rank := int(p.AttentionRank)
		from := outcomes[rank].Results
		if next[rank] >= len(from) || from[next[rank]].Sequence != p.Sequence {
			return nil, fmt.Errorf("rank %d answered out of order for sequence %d", rank, p.Sequence)
		}
		results[i] = from[next[rank]]
		next[rank]++
	}
	return results, nil
}
