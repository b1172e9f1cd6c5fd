// SPDX-License-Identifier: Apache-2.0

package executor

import (
	"context"
	"errors"
	"fmt"

	"github.com/findep/findep-operator/runtime/backend"
	"github.com/findep/findep-operator/runtime/model"
	"github.com/findep/findep-operator/runtime/schedule"
	"github.com/findep/findep-operator/runtime/transport"
	"github.com/findep/findep-operator/runtime/weights"
)

// ExpertConfig describes an expert rank.
type ExpertConfig struct {
	// Rank is this rank's number, from AttentionRanks on.
	Rank                        int
	AttentionRanks, ExpertRanks int
	Shape                       *model.Shape
	Device                      backend.Device
	// Weights hold the rank's block of experts, see weights.ExpertRange. They
	// stay the caller's, who frees them after Close.
	Weights *weights.Experts
	// MaxStepTokens is the attention ranks' limit; it bounds the rows of one
	// message.
	MaxStepTokens int
	// Threads bounds the host threads of a CPU backend's compute stream; 0
	// leaves the choice to it.
	Threads int
	// Now is the rank's clock; nil means the process's monotonic clock.
	Now Clock
}

func (c *ExpertConfig) validate() error {
	world := c.AttentionRanks + c.ExpertRanks
	if err := validateRanks(c.Rank, c.AttentionRanks, world, c.AttentionRanks, c.ExpertRanks, c.Shape); err != nil {
		return err
	}
	if c.Device == nil || c.Weights == nil {
		return errors.New("an expert rank needs a device and weights")
	}
	first, last := weights.ExpertRange(c.Shape.MoE.Experts, c.ExpertRanks, c.Rank-c.AttentionRanks)
	switch {
	case c.Weights.First != first || c.Weights.Last != last:
		return fmt.Errorf("weights are of experts [%d, %d); this rank holds [%d, %d)", c.Weights.First, c.Weights.Last, first, last)
	case len(c.Weights.Layers) != c.Shape.MoELayers():
		return fmt.Errorf("weights have %d MoE layers, the model %d", len(c.Weights.Layers), c.Shape.MoELayers())
	}
	return checkStepTokens(c.MaxStepTokens, c.Shape)
}

// ExpertRank runs the expert group's part of steps. Run and Close may be called
// from any goroutine; one step runs at a time.
type ExpertRank struct {
	engine
	config ExpertConfig
	shape  *model.Shape
	local  int // experts on this rank
	links  []peerLinks

	// slots are rings of one place: the slot of (micro-batch, segment) is used
	// once per layer.
	slots []*slot
	// Scratch of the compute worker.
	groupStart, groupRow, groupWeight, workspace *array
	load                                         []uint64
	// Scratch of the receive worker and of the send worker. Argument lists of
	// interface methods would be allocated at each call.
	headers   []transport.Header
	got, sent [][]byte

	// For steps on a pipeline.
	listed listed
	intake *intake
}

// slot holds the rows of one segment from all attention ranks, in rank order.
type slot struct {
	x, out, pairStart, pairExpert, pairWeight *array
	// rows and pairs count all ranks together; rank a owns the rows
	// [first[a], first[a+1]).
	rows, pairs int
	first       []int
}

func newSlot(dev backend.Device, hidden int) *slot {
	return &slot{
		x: newArray(dev, backend.F32, hidden), out: newArray(dev, backend.F32, hidden),
		pairStart: newArray(dev, backend.I32, 1), pairExpert: newArray(dev, backend.I32, 1),
		pairWeight: newArray(dev, backend.F32, 1),
	}
}

func (s *slot) free() {
	for _, a := range []*array{s.x, s.out, s.pairStart, s.pairExpert, s.pairWeight} {
		a.free()
	}
}

// NewExpert starts the rank's workers.
func NewExpert(c ExpertConfig) (*ExpertRank, error) {
	if err := c.validate(); err != nil {
		return nil, fmt.Errorf("expert rank %d: %w", c.Rank, err)
	}
	e := &ExpertRank{config: c, shape: c.Shape, local: c.Weights.Last - c.Weights.First}
	e.engine.rank, e.engine.layers, e.engine.now = c.Rank, c.Shape.MoELayers(), c.Now
	e.engine.options.SharedExperts = c.Shape.MoE.SharedExperts > 0
	if err := e.init(c.Device, c.Threads, schedule.ExpertCompute); err != nil {
		e.stop()
		return nil, fmt.Errorf("expert rank %d: %w", c.Rank, err)
	}
	e.groupStart, e.groupRow = newArray(c.Device, backend.I32, 1), newArray(c.Device, backend.I32, 1)
	e.groupWeight = newArray(c.Device, backend.F32, 1)
	e.workspace = newArray(c.Device, backend.F32, 3*c.Shape.MoE.IntermediateSize+2*c.Shape.HiddenSize)
	e.lanes[0].task = e.compute
	e.lanes[1].task = e.receive
	e.lanes[2].task = e.send
	// A slot is free once what it held in the layer before was sent. Peers that
	// keep to the schedule never make this wait.
	e.extra = func(t *schedule.Task) (schedule.TaskID, bool) {
		if t.Kind != schedule.A2E || t.Layer == 0 {
			return 0, false
		}
		return e.schedule.Find(schedule.E2A, int(t.Layer)-1, int(t.MicroBatch), int(t.Segment))
	}
	e.start()
	return e, nil
}

// Close stops the workers and frees the rank's own memory. It waits for a
// running step; end that by its context or mesh first.
func (e *ExpertRank) Close() {
	e.close()
	e.running.Lock()
	defer e.running.Unlock()
	for _, s := range e.slots {
		s.free()
	}
	e.slots = nil
	for _, a := range []*array{e.groupStart, e.groupRow, e.groupWeight, e.workspace} {
		a.free()
	}
	if e.intake != nil {
		for _, a := range e.intake.arrays() {
			a.free()
		}
	}
}

// Run runs the rank's part of a step over the mesh, which it aborts when the
// step fails or ctx ends. The mesh stays the caller's to close.
func (e *ExpertRank) Run(ctx context.Context, step *Step, mesh transport.Mesh) (Result, error) {
	if err := e.begin(step, mesh); err != nil {
		return e.refuse(step, mesh, err)
	}
	defer e.running.Unlock()
	var err error
	if e.links, err = connect(e.links, mesh, 0, e.config.AttentionRanks); err != nil {
		return e.refuse(step, mesh, err)
	}
	e.load = make([]uint64, e.local)
	var result Result
	if p, ok := mesh.(Pipelined); ok {
		result, err = e.listExperts(ctx, step, p.Pipeline())
	} else {
		for len(e.slots) < e.schedule.MicroBatches*e.schedule.Segments {
			e.slots = append(e.slots, newSlot(e.config.Device, e.shape.HiddenSize))
		}
		result, err = e.run(ctx, step)
	}
	if err != nil {
		return Result{}, e.wrap(step, err)
	}
	result.ExpertLoad = e.load
	return result, nil
}

func (e *ExpertRank) slot(t *schedule.Task) *slot {
	return e.slots[int(t.MicroBatch)*e.schedule.Segments+int(t.Segment)]
}

// compute runs the routed experts on the rows of one segment.
func (e *ExpertRank) compute(t *schedule.Task) error {
	s := e.slot(t)
	if s.rows == 0 {
		return nil
	}
	ops, w := e.lanes[0].stream, &e.config.Weights.Layers[t.Layer]
	starts, err := e.groupStart.rows(e.local + 1)
	if err != nil {
		return err
	}
	rows, err := e.groupRow.rows(s.pairs)
	if err != nil {
		return err
	}
	gains, err := e.groupWeight.rows(s.pairs)
	if err != nil {
		return err
	}
	workspace, err := e.workspace.rows(s.pairs)
	if err != nil {
		return err
	}
	err = ops.GroupExperts(backend.GroupExpertsArgs{
		Rows: s.rows, Experts: e.local,
		PairStart: s.pairStart.view(0, s.rows+1), PairExpert: s.pairExpert.view(0, s.pairs), PairWeight: s.pairWeight.view(0, s.pairs),
		GroupStart: starts, GroupRow: rows, GroupWeight: gains,
	})
	if err != nil {
		return fmt.Errorf("grouping %d rows: %w", s.rows, err)
	}
	err = ops.ExpertMLP(s.out.view(0, s.rows), s.x.view(0, s.rows), backend.ExpertMLPArgs{
		Experts: e.local, Hidden: e.shape.MoE.IntermediateSize, GateUp: w.GateUp, Down: w.Down,
		GroupStart: starts, GroupRow: rows, GroupWeight: gains, Workspace: workspace,
	})
	if err != nil {
		return err
	}
	if err := ops.Synchronize(); err != nil {
		return err
	}
	return e.count()
}

// count adds the segment's pairs per expert to the load.
func (e *ExpertRank) count() error {
	if err := e.groupStart.pull(e.lanes[0].stream, 0, e.local+1); err != nil {
		return err
	}
	starts := ints(e.groupStart.host(0, e.local+1))
	for i := range e.load {
		e.load[i] += uint64(starts[i+1] - starts[i])
	}
	return nil
}
