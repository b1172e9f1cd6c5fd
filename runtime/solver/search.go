// SPDX-License-Identifier: Apache-2.0

package solver

import (
	"context"
	"math"
	"sort"

	"github.com/findep/findep-operator/runtime/plan"
	"github.com/findep/findep-operator/runtime/schedule"
)

// search is one run of Solve.
type search struct {
	ctx    context.Context
	p      *Problem
	policy plan.Policy
	line   *timeline
	// maxMicroBatch, maxDegree, maxSegments and maxChunks bound m_a, r1, r2
	// and q.
	maxMicroBatch, maxDegree, maxSegments, maxChunks int
	// maxTokens bounds m_e.
	maxTokens float64
	tryASAS   bool
	tryAASS   bool
	// closed tells that whole samples have a closed form, closedChunks that
	// equal chunks have, monotone that throughput rises with m_a and r1.
	closed, closedChunks, monotone bool
	// sums are the stages of all layers together.
	sums Stages

	best       choice
	candidates int
	points     int
	infeasible *Infeasible
	// near remembers the last best r2 of each order, where the next search
	// starts.
	near [2]int
	// allowance is the number of steps after which the search is cut short;
	// exhausted is set when that happened.
	allowance int
	exhausted bool
}

// choice is one evaluated plan; r1 = 0 means none.
type choice struct {
	m, r1, r2, chunks int
	order             plan.Order
	unequal           plan.Boundaries
	// time is the whole makespan, cost is what is minimised: time per sample,
	// or time for a fixed batch.
	time, cost float64
}

// rounding is the relative difference up to which costs count as equal.
const rounding = 1e-12

func newSearch(ctx context.Context, p *Problem, policy plan.Policy, line *timeline) search {
	s := search{
		ctx: ctx, p: p, policy: policy, line: line,
		maxMicroBatch: orDefault(p.Limits.MaxMicroBatch, plan.MaxMicroBatch),
		maxDegree:     orDefault(p.Limits.MaxPipelineDegree, plan.MaxR1),
		maxSegments:   orDefault(p.Limits.MaxSegments, DefaultMaxSegments),
		maxChunks:     min(orDefault(p.Limits.MaxChunks, 1), p.SequenceTokens),
		maxTokens:     p.maxTokensPerExpert(),
		allowance:     maxSteps,
	}
	line.spent += line.steps
	line.steps = 0
	if policy == plan.Sequential {
		s.maxDegree, s.maxChunks = 1, 1
	}
	if policy != plan.FinDEP {
		s.maxSegments = 1
	}
	s.maxDegree = min(s.maxDegree, s.mostPieces(1))
	s.sumStages()
	// Without shared experts the orders coincide; then ASAS stands for both,
	// unless AASS was asked for.
	noShared := s.sums.Shared == (Affine{})
	findep := policy == plan.FinDEP
	s.tryASAS = !findep || p.Order != plan.AASS
	s.tryAASS = findep && p.Order != plan.ASAS && (!noShared || p.Order == plan.AASS)
	s.closed = p.uniform()
	s.closedChunks = s.closed && p.Stages.Attention.Quadratic == 0
	s.monotone = !p.HalfDuplex && p.ExpertTileTokens == 0 && !s.chunksNeedMemory()
	return s
}

func orDefault(v, missing int) int {
	if v > 0 {
		return v
	}
	return missing
}

// uniform tells that all tasks of a kind take the same time and nothing else
// shares their resources, which the closed forms need.
func (p *Problem) uniform() bool {
	return len(p.PerLayer) == 0 && !p.HalfDuplex && p.Dense == (AttentionTime{}) && p.Head == (Affine{})
}

func (s *search) sumStages() {
	if len(s.p.PerLayer) == 0 {
		s.sums = s.p.Stages.scaled(float64(s.p.Layers))
		return
	}
	for i := range s.p.PerLayer {
		s.sums.add(&s.p.PerLayer[i])
	}
}

// mostPieces is the number of micro-batches or chunks of r2 segments that a
// schedule has room for.
func (s *search) mostPieces(r2 int) int {
	return schedule.MaxTasks / (s.p.Layers * (2 + 3*r2))
}

const (
	// maxSteps bounds the work of one search to a fraction of a second. A step
	// is one piece in one layer, 10 to 25 ns. Every loop of the search that may
	// be long counts its steps and looks at stopped.
	maxSteps = 6_000_000
	// totalSteps bounds that of all splits of a number of GPUs together,
	// baselineSteps and changeSteps that of each search of an explanation.
	totalSteps         = 2 * maxSteps
	baselineSteps      = maxSteps / 4
	baselineTotalSteps = maxSteps / 2
	changeSteps        = maxSteps / 8
	// closedSteps and loadSteps are what evaluating a closed form and
	// preparing a piece amount to.
	closedSteps, loadSteps = 8, 4
)

// stopped tells whether to give up: cancelled, or too much work.
func (s *search) stopped() bool {
	if s.line.steps > s.allowance {
		s.exhausted = true
	}
	return s.exhausted || s.ctx.Err() != nil
}

// frontier is Algorithm 1: for every number of micro-batches that fits, the
// largest micro-batch (Theorem 2), each with its best r2, order and chunks. The
// largest micro-batch may need many segments to fit the expert GPUs, so for
// every r2 the largest one that fits with r2 segments is tried as well.
func (s *search) frontier() {
	m := s.largestMicroBatch()
	if m == 0 {
		s.infeasible = s.memoryInfeasible(1, 1)
		return
	}
	lowest, _ := s.segmentRange(m, 1)
	previous := 0
	for m >= 1 && !s.stopped() && !s.hopeless(m) {
		r1 := s.degree(m)
		if r1 > previous {
			s.points++
			s.consider(m, r1)
			previous = r1
		}
		if r1 >= s.maxDegree {
			break
		}
		m = s.nextMicroBatch(m, previous)
	}
	for r2 := lowest - 1; r2 >= 1 && !s.stopped(); r2-- {
		// One sample more and then down to the first that fits, because the
		// division rounds.
		m := int(float64(r2)*s.maxTokens/(s.p.TokensPerExpertPerSample*s.p.imbalance())) + 1
		for ; m >= 1; m-- {
			if low, _ := s.segmentRange(m, 1); low <= r2 {
				break
			}
		}
		if m >= 1 {
			s.consider(m, s.degree(m))
		}
	}
	if s.best.r1 == 0 {
		s.tooSlow()
	}
}

// everyMicroBatch tries every m_a, for times with which throughput may fall
// when m_a grows (GEMM tiles). If it may also fall when r1 grows (one link for
// both directions), every r1 is tried too.
func (s *search) everyMicroBatch() {
	fitting := 0
	for m := s.mostSamples(); m >= 1 && !s.stopped() && !s.hopeless(m); m-- {
		if !s.fits(m) {
			continue
		}
		fitting++
		most := s.mostDegree(m)
		if !s.promising(m, most) {
			continue
		}
		s.points++
		if !s.p.HalfDuplex {
			s.consider(m, s.degree(m))
			continue
		}
		for r1 := most; r1 >= 1 && s.promising(m, r1) && !s.stopped(); r1-- {
			s.consider(m, r1)
		}
	}
	switch {
	case s.best.r1 > 0:
	case fitting == 0:
		s.infeasible = s.memoryInfeasible(1, 1)
	default:
		s.tooSlow()
	}
}

// hopeless tells that no micro-batch of at most m samples can improve on the
// best plan: work per sample only grows when m_a shrinks.
func (s *search) hopeless(m int) bool {
	return s.best.r1 > 0 && s.perSample(m) > s.best.cost*(1+rounding)
}

// promising tells that some plan with this m_a and at most r1 micro-batches can
// improve on the best one.
func (s *search) promising(m, r1 int) bool {
	return r1 >= 1 && (s.best.r1 == 0 || s.lower(m, r1, 1, s.maxChunks) <= s.best.cost*s.samples(m, r1)*(1+rounding))
}

// mostSamples is the largest m_a that the attention group has room for.
func (s *search) mostSamples() int {
	return sort.Search(s.maxMicroBatch, func(i int) bool { return s.p.MaxPipelineDegree(i+1) < 1 })
}

// largestMicroBatch is the largest m_a that fits with r1 = 1; 0 if none does.
func (s *search) largestMicroBatch() int {
	return sort.Search(s.maxMicroBatch, func(i int) bool {
		return !s.fits(i+1) || s.p.MaxPipelineDegree(i+1) < 1
	})
}

// nextMicroBatch is the largest micro-batch below m that allows more than r1
// micro-batches in flight; 0 if there is none. Degrees fall with m.
func (s *search) nextMicroBatch(m, r1 int) int {
	return sort.Search(m-1, func(i int) bool { return s.degree(i+1) <= r1 })
}

// mostDegree is the largest r1 for micro-batches of m samples that memory and
// the lower bound of the makespan allow.
func (s *search) mostDegree(m int) int {
	r1 := min(s.p.MaxPipelineDegree(m), s.maxDegree, s.room(m))
	limit := s.p.Limits.MakespanMilliseconds
	if limit == 0 || r1 == 0 {
		return r1
	}
	return sort.Search(r1, func(i int) bool { return s.lower(m, i+1, 1, s.maxChunks) > limit*(1+rounding) })
}

// room is the number of micro-batches of m samples for which a schedule has
// room when each is cut as little as the expert GPUs' memory allows; 0 if they
// do not fit. Whoever needs many segments to fit has fewer micro-batches.
func (s *search) room(m int) int {
	most := 0
	for q := 1; q <= s.maxChunks; q++ {
		if low, high := s.segmentRange(m, q); low <= high {
			most = max(most, s.mostPieces(low)/q)
		}
	}
	return most
}

// degree is the largest r1 for micro-batches of m samples under all limits.
func (s *search) degree(m int) int {
	r1, limit := s.mostDegree(m), s.p.Limits.MakespanMilliseconds
	if limit == 0 || r1 == 0 {
		return r1
	}
	// The makespan grows with r1, so bisect.
	return sort.Search(r1, func(i int) bool { return !s.meets(m, i+1, limit) })
}

// fixedBatch tries every r1 with m_a = ceil(B/r1), in order of falling m_a; of
// several r1 with the same m_a only the smallest matters.
func (s *search) fixedBatch() {
	batch := s.p.Batch
	for m := min(batch, s.maxMicroBatch); m >= 1 && !s.stopped(); {
		r1 := ceilDiv(batch, m)
		if r1 > s.maxDegree {
			break
		}
		m = ceilDiv(batch, r1)
		if s.fits(m) && s.p.inFlight(m) >= batch {
			s.points++
			s.consider(m, r1)
		}
		m = min(m-1, ceilDiv(batch, r1+1))
	}
	switch limit := s.p.Limits.MakespanMilliseconds; {
	case s.best.r1 == 0:
		s.batchInfeasible()
	case limit > 0 && s.best.time > limit:
		s.infeasible = &Infeasible{Reason: LatencyExceeded, Nearest: Nearest{MakespanMilliseconds: s.best.time}}
	}
}

// tooSlow records that even the smallest forward pass exceeds the bound, unless
// the search was cut short before it found any.
func (s *search) tooSlow() {
	if s.exhausted {
		s.fallBack()
		return
	}
	s.best = s.fastest(1, 1, math.Inf(1))
	s.infeasible = &Infeasible{Reason: LatencyExceeded, Nearest: Nearest{MakespanMilliseconds: s.best.time}}
}

// fallBack finds some plan within the bound by halving the micro-batch.
func (s *search) fallBack() {
	for m := s.mostSamples(); m >= 1; m /= 2 {
		low, high := s.segmentRange(m, 1)
		if low > high {
			continue
		}
		c := choice{m: m, r1: 1, r2: low, chunks: 1, order: plan.ASAS}
		if !s.tryASAS {
			c.order = plan.AASS
		}
		c.time = s.evaluate(&c, c.r2, math.Inf(1))
		if limit := s.p.Limits.MakespanMilliseconds; m == 1 || limit == 0 || c.time <= limit {
			c.cost = c.time / s.samples(m, 1)
			s.best = c
			if limit > 0 && c.time > limit {
				s.infeasible = &Infeasible{Reason: LatencyExceeded, Nearest: Nearest{MakespanMilliseconds: c.time}}
			}
			return
		}
	}
	// Whole samples do not fit; one sample in chunks may.
	if s.best = s.fastest(1, 1, math.Inf(1)); s.best.r1 == 0 {
		s.infeasible = s.memoryInfeasible(1, 1)
	}
}

// samples is what the makespan is divided by to get the cost.
func (s *search) samples(m, r1 int) float64 {
	if s.p.Batch > 0 {
		return 1
	}
	return float64(m) * float64(r1)
}

// consider evaluates one (m_a, r1) and keeps it if it is better.
func (s *search) consider(m, r1 int) {
	if r1 < 1 {
		return
	}
	bound := math.Inf(1)
	if limit := s.p.Limits.MakespanMilliseconds; limit > 0 && s.p.Batch == 0 {
		bound = limit
	}
	samples := s.samples(m, r1)
	if s.best.r1 > 0 {
		bound = min(bound, s.best.cost*samples*(1+2*rounding))
	}
	c := s.fastest(m, r1, bound)
	if c.cost = c.time / samples; c.r1 > 0 && c.time <= bound && (s.best.r1 == 0 || c.better(&s.best)) {
		s.best = c
	}
}

// better prefers lower cost; among equals fewer launches, then ASAS.
func (c *choice) better(than *choice) bool {
	if d := c.cost - than.cost; math.Abs(d) > rounding*than.cost {
		return d < 0
	}
	if a, b := c.r1*c.r2*c.chunks, than.r1*than.r2*than.chunks; a != b {
		return a < b
	}
	return c.order == plan.ASAS && than.order == plan.AASS
}

// fastest is the best r2, order and number of chunks for given m_a and r1. Its
// r1 is 0 if every plan is certain to exceed the bound.
func (s *search) fastest(m, r1 int, bound float64) choice {
	return s.choose(m, r1, bound, false)
}

// meets tells whether some plan with this m_a and r1 takes at most the limit.
func (s *search) meets(m, r1 int, limit float64) bool {
	return s.choose(m, r1, limit, true).time <= limit
}

// choose is fastest, or if any plan within the bound will do, the first found.
func (s *search) choose(m, r1 int, bound float64, anyone bool) choice {
	best, limit := choice{time: math.Inf(1), cost: math.Inf(1)}, bound
	for q := 1; q <= s.maxChunks; q++ {
		if q > 1 && s.stopped() {
			break
		}
		if s.lower(m, r1, q, q) > bound*(1+rounding) {
			continue
		}
		for i, order := range [...]plan.Order{plan.ASAS, plan.AASS} {
			if !s.tries(order, r1*q) {
				continue
			}
			c := choice{m: m, r1: r1, chunks: q, order: order}
			if s.bestSegments(&c, &s.near[i], bound); c.r2 > 0 && (best.r1 == 0 || c.better(&best)) {
				best, bound = c, min(bound, c.time)
			}
			if anyone && best.time <= limit {
				return best
			}
		}
	}
	return best
}

// tries says whether an order is searched. With one piece the orders coincide,
// so one of the two is enough.
func (s *search) tries(order plan.Order, pieces int) bool {
	if order == plan.ASAS {
		return s.tryASAS
	}
	return s.tryAASS && (pieces > 1 || !s.tryASAS)
}

// ceilDiv is a/b rounded up, for positive values.
func ceilDiv(a, b int) int { return (a + b - 1) / b }
