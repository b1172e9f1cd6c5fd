// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/findep/findep-operator/runtime/agent/agentpb"
	"github.com/findep/findep-operator/runtime/executor"
	"github.com/findep/findep-operator/runtime/plan"
	"github.com/findep/findep-operator/runtime/schedule"
)

// measureRepeats is how often each point is measured, after one run that only
// warms caches and buffers; the median counts.
const measureRepeats = 3

// mostPlans is the number of plans that one workload runs under, at most.
const mostPlans = 4

// minStage is the shortest time, in milliseconds, whose relative error counts;
// clocks and scheduling say nothing about shorter ones.
const minStage = 1e-3

// measureSequence numbers the sequences of the warm-up, away from a server's.
const measureSequence = uint64(1) << 63

// workload is one point of the warm-up: sequences of each attention rank, with
// tokens already cached and new ones.
type workload struct{ sequences, cached, tokens int }

// small are the points that are always measured: both phases, with few tokens,
// so that intercepts are seen. large follow as long as time is left; without
// them the quadratic part of attention would be a guess.
var (
	small = []workload{{1, 0, 1}, {1, 0, 16}, {1, 0, 64}, {1, 0, 256}, {4, 0, 16}, {4, 0, 64}, {4, 64, 1}, {16, 64, 1}, {1, 128, 16}}
	large = []workload{{1, 0, 512}, {1, 0, 1024}, {1, 0, 2048}}
)

// fits tells whether a workload is within the limits.
func (l *leader) fits(w workload) bool {
	length := w.tokens
	if w.cached > 0 {
		length = w.cached + mostPlans*w.tokens
	}
	blocks := (length + l.limits.blockTokens - 1) / l.limits.blockTokens
	return length <= l.limits.maxContext && w.sequences*max(w.cached, w.tokens) <= l.limits.maxStepTokens &&
		w.sequences*blocks <= l.limits.blocksPerRank
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
	// steps is the number of steps that the point is the median of.
	steps int
}

// series is one workload, the plans that it runs under and, for each of them, what
// its runs measured.
type series struct {
	workload
	plans []plan.Plan
	runs  [][]point
}

// warmUp measures the points of one epoch.
type warmUp struct {
	leader *leader
	epoch  uint64
	series []*series
	// longest is the longest prompt measured, tokenTime what one of its tokens
	// took.
	longest   int
	tokenTime time.Duration
}

// measure runs workloads with nothing overlapped, so that every task's time is
// its own, then some with overlap, where tasks disturb each other: sending and
// receiving take time from the kernels of the same cores. It fits the stage
// models to both. After a first run of each, which warms caches and buffers, all
// are run in turns: something else that takes the cores for a while then spoils
// one of the three runs of many points, and their medians leave it out, where it
// would spoil all three runs of a few.
func (l *leader) measure(ctx context.Context, epoch uint64) error {
	m := warmUp{leader: l, epoch: epoch}
	if err := m.begin(ctx); err != nil {
		return err
	}
	for range measureRepeats {
		for _, s := range m.series {
			measured, err := m.run(ctx, s)
			if err != nil {
				return err
			}
			for i := range s.plans {
				s.runs[i] = append(s.runs[i], measured[i])
			}
		}
	}
	var points []point
	for _, s := range m.series {
		for _, runs := range s.runs {
			points = append(points, medians(runs))
		}
	}
	if len(points) == 0 {
		return fmt.Errorf("no workload fits: the context is %d tokens, a step takes %d", l.limits.maxContext, l.limits.maxStepTokens)
	}
	l.planner.start(points, l.config.current.Load())
	return nil
}

// errUntimed is a device that runs whole steps by itself and does not say how
// long their parts took.
var errUntimed = errors.New("the ranks' devices do not time their tasks")

func sequential(w workload) plan.Plan {
	return plan.Plan{Policy: plan.Sequential, MicroBatchSize: w.sequences, R1: 1, R2: 1, Order: plan.ASAS, Chunks: 1}
}

// begin runs everything once and keeps what all runs of it have time for.
func (m *warmUp) begin(ctx context.Context) error {
	for _, w := range small {
		if _, err := m.add(ctx, w, sequential(w)); err != nil {
			return err
		}
	}
	left := m.leader.warmUpBudget
	for _, w := range large {
		// A longer prompt takes more per token, because of attention, but not by
		// much at these lengths.
		if left < (measureRepeats+1)*time.Duration(w.tokens)*m.tokenTime {
			break
		}
		took, err := m.add(ctx, w, sequential(w))
		if err != nil {
			return err
		}
		left -= (measureRepeats + 1) * took
	}
	left = m.leader.warmUpBudget
	for _, s := range m.overlapped() {
		// Classes with too few points are fitted to those of their phase.
		if left <= 0 {
			break
		}
		took, err := m.add(ctx, s.workload, s.plans...)
		if err != nil {
			return err
		}
		left -= (measureRepeats + 1) * took
	}
	return nil
}

// overlapped are steps that cut a decode step, as many tokens as the longest
// prompt has in four prompts, and that prompt in various ways: few long tasks
// and many short ones.
func (m *warmUp) overlapped() []series {
	cut := func(w workload, r1, r2, chunks int) plan.Plan {
		return plan.Plan{Policy: plan.FinDEP, MicroBatchSize: w.sequences / r1, R1: r1, R2: r2, Order: plan.ASAS, Chunks: chunks}
	}
	one, four := workload{1, 0, m.longest}, workload{4, 0, m.longest / 4}
	tokens := workload{16, 64, 1}
	return []series{
		{workload: tokens, plans: []plan.Plan{cut(tokens, 2, 1, 1), cut(tokens, 2, 2, 1), cut(tokens, 4, 2, 1)}},
		{workload: four, plans: []plan.Plan{cut(four, 2, 4, 1), cut(four, 4, 1, 1)}},
		{workload: one, plans: []plan.Plan{cut(one, 1, 8, 1), cut(one, 1, 4, 4), cut(one, 1, 2, 1), cut(one, 1, 1, 2)}},
	}
}

// add runs a workload once under each plan and keeps them for further runs; what
// does not fit is left out. It returns how long they took.
func (m *warmUp) add(ctx context.Context, w workload, plans ...plan.Plan) (time.Duration, error) {
	if w.tokens == 0 || !m.leader.fits(w) {
		return 0, nil
	}
	start := time.Now()
	first := series{workload: w, plans: plans}
	measured, err := m.run(ctx, &first)
	if err != nil {
		return 0, err
	}
	if plans[0].Policy == plan.Sequential && w.sequences == 1 && w.tokens > m.longest {
		m.longest = w.tokens
		m.tokenTime = time.Duration(measured[0].measured*float64(time.Millisecond)) / time.Duration(w.tokens)
	}
	s := m.of(w)
	s.plans = append(s.plans, plans...)
	s.runs = append(s.runs, make([][]point, len(plans))...)
	return time.Since(start), nil
}

// of is the series of a workload. All plans that it runs under are of one series,
// so that what it has cached is computed once for all.
func (m *warmUp) of(w workload) *series {
	for _, s := range m.series {
		if s.workload == w {
			return s
		}
	}
	s := &series{workload: w}
	m.series = append(m.series, s)
	return s
}

// run runs a workload once under each of its plans. With something cached each
// goes on where the one before ended.
func (m *warmUp) run(ctx context.Context, s *series) ([]point, error) {
	l, w := m.leader, s.workload
	if w.cached > 0 {
		cached := l.warmUpPieces(w.sequences, 0, w.cached, agentpb.LogitsMode_LOGITS_NONE)
		if _, _, err := l.execute(m.epoch, m.step(w, sequential(w)), cached, nil); err != nil {
			return nil, fmt.Errorf("%d sequences of %d tokens: %w", w.sequences, w.cached, err)
		}
	}
	points := make([]point, len(s.plans))
	for i, p := range s.plans {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		start := w.cached
		if w.cached > 0 {
			start += i * w.tokens
		}
		var err error
		points[i], err = l.measurePoint(m.epoch, l.warmUpPieces(w.sequences, start, w.tokens, agentpb.LogitsMode_LOGITS_LAST), m.step(w, p))
		if err == nil && (w.cached == 0 || i == len(s.plans)-1) {
			err = l.releaseWarmUp(m.epoch, w)
		}
		if err == nil && points[i].kind == (point{}).kind {
			err = errUntimed
		}
		if err != nil {
			return nil, fmt.Errorf("%d sequences of %d tokens, %s: %w", w.sequences, w.tokens, p, err)
		}
	}
	return points, nil
}

// step is what a workload takes by what its tokens took so far, so that a slow
// machine's long prompts are not mistaken for a wedged rank.
func (m *warmUp) step(w workload, p plan.Plan) choice {
	return choice{plan: p, predicted: float64(w.sequences*max(w.cached, w.tokens)) * m.tokenTime.Seconds() * 1000}
}

// warmUpPieces are tokens [start, start+n) of each rank's sequences.
func (l *leader) warmUpPieces(sequences, start, n int, logits agentpb.LogitsMode) []*agentpb.Piece {
	var pieces []*agentpb.Piece
	for rank := range l.limits.attentionRanks {
		for i := range sequences {
			tokens := make([]int32, n)
			for j := range tokens {
				// Spread over the vocabulary, so that experts see different rows.
				tokens[j] = int32((i*7919 + (start+j)*104729) % l.limits.vocabulary)
			}
			pieces = append(pieces, &agentpb.Piece{
				Sequence: measureSequence + uint64(len(pieces)), AttentionRank: uint32(rank), Start: uint32(start), Tokens: tokens, Logits: logits,
			})
		}
	}
	return pieces
}

// releaseWarmUp frees the sequences of a workload.
func (l *leader) releaseWarmUp(epoch uint64, w workload) error {
	ids := make([]uint64, w.sequences*l.limits.attentionRanks)
	for i := range ids {
		ids[i] = measureSequence + uint64(i)
	}
	_, _, err := l.execute(epoch, choice{plan: sequential(w)}, nil, ids)
	return err
}

func (l *leader) measurePoint(epoch uint64, pieces []*agentpb.Piece, chosen choice) (point, error) {
	chosen.timed = true
	outcomes, elapsed, err := l.execute(epoch, chosen, pieces, nil)
	if err != nil {
		return point{}, err
	}
	return newPoint(shapeOf(pieces, l.limits.attentionRanks), chosen.plan, l.limits.attentionRanks, outcomes, elapsed), nil
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

// medians merges the repeats of one workload. Repeats whose tasks were not timed say
// nothing of them.
func medians(repeats []point) point {
	m := repeats[0]
	timed := slices.DeleteFunc(slices.Clone(repeats), func(p point) bool { return p.kind == point{}.kind })
	for k := range m.kind {
		m.kind[k] = medianOf(timed, func(p point) float64 { return p.kind[k] })
	}
	m.measured = medianOf(repeats, func(p point) float64 { return p.measured })
	m.steps = len(repeats)
	return m
}

func medianOf(points []point, value func(point) float64) float64 {
	v := make([]float64, len(points))
	for i, p := range points {
		v[i] = value(p)
	}
	return median(v)
}

// fitStages fits every kind against the work it does. A point weighs by its
// error relative to the square root of its time: between absolute errors, where
// a long prefill would decide what a short one is predicted to take, and
// relative ones, where the shortest tasks would decide the slope of all.
func fitStages(points []point) *stageModel {
	fit := func(kind executor.Kind, regressors func(point) []float64) []float64 {
		var x [][]float64
		var y []float64
		for _, p := range points {
			if p.kind[kind] == 0 {
				continue
			}
			row, weight := regressors(p), math.Sqrt(float64(max(1, p.steps))/max(p.kind[kind], minStage))
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
