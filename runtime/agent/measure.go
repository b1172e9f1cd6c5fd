// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/findep/findep-operator/runtime/agent/agentpb"
	"github.com/findep/findep-operator/runtime/executor"
	"github.com/findep/findep-operator/runtime/plan"
	"github.com/findep/findep-operator/runtime/schedule"
)

// measureRepeats is how often each point is measured, after one run that only
// warms caches and buffers; the median counts.
const measureRepeats = 3

// minStage is the shortest time, in milliseconds, whose relative error counts;
// clocks and scheduling say nothing about shorter ones.
const minStage = 1e-3

// measureSequence numbers the sequences of the warm-up, away from a server's.
const measureSequence = uint64(1) << 63

// workload is one point of the warm-up: sequences of each attention rank, with
// tokens already cached and new ones.
type workload struct{ sequences, cached, tokens int }

// workloads are the points; the first of each kind is small, so that intercepts
// are seen, and what does not fit is left out.
func (l *leader) workloads() []workload {
	var fit []workload
	for _, w := range []workload{{1, 0, 1}, {1, 0, 16}, {1, 0, 64}, {1, 0, 256}, {4, 0, 16}, {4, 0, 64}, {4, 64, 1}, {16, 64, 1}, {1, 128, 16}} {
		blocks := (w.cached + w.tokens + l.limits.blockTokens - 1) / l.limits.blockTokens
		if w.cached+w.tokens <= l.limits.maxContext && w.sequences*max(w.cached, w.tokens) <= l.limits.maxStepTokens &&
			w.sequences*blocks <= l.limits.blocksPerRank {
			fit = append(fit, w)
		}
	}
	return fit
}

// point is one executed step: the milliseconds per task of each kind on the
// slowest rank, the mean work of such a task, and the whole step.
type point struct {
	shape batchShape
	plan  plan.Plan
	// tokens, pairs and samples are those of one micro-batch on one attention
	// rank; segment is the tokens of one segment of it.
	tokens, pairs, samples, segment float64
	kind                            [executor.NumKinds]float64
	measured                        float64
}

// measure runs the workloads with nothing overlapped, so that every task's time
// is its own, and fits the stage model.
func (l *leader) measure(ctx context.Context, epoch uint64) error {
	var points []point
	for _, w := range l.workloads() {
		for i := range measureRepeats + 1 {
			if err := ctx.Err(); err != nil {
				return err
			}
			p, err := l.measurePoint(epoch, w)
			if err != nil {
				return fmt.Errorf("%d sequences of %d tokens: %w", w.sequences, w.tokens, err)
			}
			if p.kind == (point{}).kind {
				return errUntimed
			}
			if i > 0 {
				points = append(points, p)
			}
		}
	}
	if len(points) == 0 {
		return fmt.Errorf("no workload fits: the context is %d tokens, a step takes %d", l.limits.maxContext, l.limits.maxStepTokens)
	}
	l.planner.start(medians(points), l.config.current.Load())
	return nil
}

// errUntimed is a device that runs whole steps by itself and does not say how
// long their parts took.
var errUntimed = errors.New("the ranks' devices do not time their tasks")

func (l *leader) measurePoint(epoch uint64, w workload) (point, error) {
	var cached, fresh []*agentpb.Piece
	var ids []uint64
	for rank := range l.limits.attentionRanks {
		for i := range w.sequences {
			id := measureSequence + uint64(len(ids))
			ids = append(ids, id)
			piece := func(start, n int, logits agentpb.LogitsMode) *agentpb.Piece {
				tokens := make([]int32, n)
				for j := range tokens {
					// Spread over the vocabulary, so that experts see different rows.
					tokens[j] = int32((i*7919 + (start+j)*104729) % l.limits.vocabulary)
				}
				return &agentpb.Piece{Sequence: id, AttentionRank: uint32(rank), Start: uint32(start), Tokens: tokens, Logits: logits}
			}
			if w.cached > 0 {
				cached = append(cached, piece(0, w.cached, agentpb.LogitsMode_LOGITS_NONE))
			}
			fresh = append(fresh, piece(w.cached, w.tokens, agentpb.LogitsMode_LOGITS_LAST))
		}
	}
	sequential := choice{plan: plan.Plan{Policy: plan.Sequential, MicroBatchSize: w.sequences, R1: 1, R2: 1, Order: plan.ASAS, Chunks: 1}}
	if len(cached) > 0 {
		if _, _, err := l.execute(epoch, sequential, cached, nil); err != nil {
			return point{}, err
		}
	}
	outcomes, elapsed, err := l.execute(epoch, sequential, fresh, nil)
	if err != nil {
		return point{}, err
	}
	if _, _, err := l.execute(epoch, sequential, nil, ids); err != nil {
		return point{}, err
	}
	return newPoint(shapeOf(fresh, l.limits.attentionRanks), sequential.plan, l.limits.attentionRanks, outcomes, elapsed), nil
}

func newPoint(shape batchShape, chosen plan.Plan, attentionRanks int, outcomes []*agentpb.RankOutcome, elapsed time.Duration) point {
	batches := float64(attentionRanks * chosen.R1 * chosen.Chunks)
	p := point{
		shape: shape, plan: chosen, measured: float64(elapsed) / float64(time.Millisecond),
		tokens: float64(shape.tokens) / batches, pairs: float64(shape.pairs) / batches, samples: float64(shape.samples) / batches,
		segment: float64(shape.tokens) / (batches * float64(chosen.R2)),
	}
	for _, o := range outcomes {
		for _, d := range o.Durations {
			for k := range p.kind {
				if executor.Kind(k).String() == d.Kind && d.Tasks > 0 {
					p.kind[k] = max(p.kind[k], d.Milliseconds/float64(d.Tasks))
				}
			}
		}
	}
	return p
}

// medians merges the repeats of each workload, which stand side by side.
func medians(points []point) []point {
	var merged []point
	for i := 0; i+measureRepeats <= len(points); i += measureRepeats {
		m := points[i]
		repeats := points[i : i+measureRepeats]
		for k := range m.kind {
			m.kind[k] = medianOf(repeats, func(p point) float64 { return p.kind[k] })
		}
		m.measured = medianOf(repeats, func(p point) float64 { return p.measured })
		merged = append(merged, m)
	}
	return merged
}

func medianOf(points []point, value func(point) float64) float64 {
	v := make([]float64, len(points))
	for i, p := range points {
		v[i] = value(p)
	}
	return median(v)
}

// fitStages fits every kind against the work it does. Points count by their
// relative error, or a long prefill would decide what a decode step is
// predicted to take.
func fitStages(points []point) *stageModel {
	fit := func(kind executor.Kind, regressors func(point) []float64) []float64 {
		var x [][]float64
		var y []float64
		for _, p := range points {
			if p.kind[kind] == 0 {
				continue
			}
			row, weight := regressors(p), 1/max(p.kind[kind], minStage)
			for i := range row {
				row[i] *= weight
			}
			x, y = append(x, row), append(y, p.kind[kind]*weight)
		}
		if len(x) == 0 {
			// No task of this kind: a model without shared experts, say.
			return make([]float64, 3)
		}
		return fitNonNegative(x, y)
	}
	pairs := func(p point) []float64 { return []float64{1, p.tokens, p.pairs} }
	tokens := func(p point) []float64 { return []float64{1, p.tokens} }
	segment := func(p point) []float64 { return []float64{1, p.segment} }
	samples := func(p point) []float64 { return []float64{1, p.samples} }

	s := &stageModel{
		attention: [3]float64(fit(executor.Kind(schedule.Attention), pairs)),
		shared:    [2]float64(fit(executor.Kind(schedule.Shared), tokens)),
		a2e:       [2]float64(fit(executor.Kind(schedule.A2E), segment)),
		expert:    [2]float64(fit(executor.Kind(schedule.Expert), segment)),
		e2a:       [2]float64(fit(executor.Kind(schedule.E2A), segment)),
	}
	dense, head := fit(executor.Dense, tokens), fit(executor.Head, samples)
	s.outside = [3]float64{dense[0] + head[0], dense[1], head[1]}
	return s
}
