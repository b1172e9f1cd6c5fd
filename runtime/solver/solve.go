// SPDX-License-Identifier: Apache-2.0

package solver

import (
	"fmt"
	"math"
	"sort"

	"github.com/findep/findep-operator/runtime/plan"
)

// Limit says what keeps the batch from growing.
type Limit string

// The binding limits.
const (
	LimitBatch           Limit = "Batch"
	LimitAttentionMemory Limit = "AttentionMemory"
	LimitExpertMemory    Limit = "ExpertMemory"
	LimitSamplesInFlight Limit = "SamplesInFlight"
	LimitMicroBatch      Limit = "MaxMicroBatch"
	LimitPipelineDegree  Limit = "MaxPipelineDegree"
	LimitMakespan        Limit = "Makespan"
)

// Result is the best plan and what it is predicted to do.
type Result struct {
	// Plan is the choice. When Infeasible is set for latency, it is the fastest
	// plan; for other reasons it is zero.
	plan.Plan
	// MakespanMilliseconds is one forward pass, pipeline and outside: the time
	// to first token (without queueing) in prefill, the time per output token
	// in decode.
	MakespanMilliseconds float64 `json:"makespanMilliseconds"`
	// OutsideMilliseconds is the part of it outside the pipeline.
	OutsideMilliseconds float64 `json:"outsideMilliseconds"`
	TokensPerSecond     float64 `json:"tokensPerSecond"`
	// LayerPeriodMilliseconds is the steady-state time per layer.
	LayerPeriodMilliseconds float64 `json:"layerPeriodMilliseconds"`
	Regime                  Regime  `json:"regime,omitempty"`
	// Limit is what keeps the batch from growing.
	Limit Limit `json:"limit,omitempty"`
	// TokensPerExpert is m_e, the mean tokens per expert and segment.
	TokensPerExpert float64 `json:"tokensPerExpert"`
	Times           Times   `json:"times"`
	// Shares are the busy parts of the pipeline's makespan.
	Shares Shares `json:"shares"`
	// ExposedCommunicationMilliseconds is the makespan less that with links
	// that take no time, same plan.
	ExposedCommunicationMilliseconds float64 `json:"exposedCommunicationMilliseconds"`
	// Candidates counts evaluated plans, FrontierPoints the pairs (m_a, r1)
	// they come from.
	Candidates     int `json:"candidates"`
	FrontierPoints int `json:"frontierPoints"`
	// Infeasible is nil when the plan meets all limits.
	Infeasible *Infeasible `json:"infeasible,omitempty"`
}

// Shares are busy parts of the makespan, between 0 and 1.
type Shares struct {
	Attention float64 `json:"attention"`
	A2E       float64 `json:"a2e"`
	Expert    float64 `json:"expert"`
	E2A       float64 `json:"e2a"`
}

// Solve returns the best plan of a policy. For FinDEP that is Algorithm 1 of
// arXiv 2512.21487 with exact makespans; PPPipe and Sequential get their own
// best plan, so that comparisons are fair. The error is a FieldError for an
// invalid problem, or names an unknown policy.
func Solve(p *Problem, policy plan.Policy) (Result, error) {
	if err := p.Validate(); err != nil {
		return Result{}, err
	}
	switch policy {
	case plan.FinDEP, plan.PPPipe, plan.Sequential:
	default:
		return Result{}, fmt.Errorf("policy %q is unknown; use FinDEP, PPPipe or Sequential", string(policy))
	}
	s := newSearch(p, policy)
	if p.Batch > 0 {
		s.fixedBatch()
	} else {
		s.frontier()
	}
	return s.result(), nil
}

// search is one run of Solve. It lives on the stack.
type search struct {
	p      *Problem
	policy plan.Policy
	// maxMicroBatch, maxDegree and maxSegments bound m_a, r1 and r2.
	maxMicroBatch, maxDegree, maxSegments int
	// maxTokens bounds m_e.
	maxTokens float64
	tryASAS   bool
	tryAASS   bool

	best       choice
	candidates int
	points     int
	infeasible *Infeasible
}

// choice is one evaluated plan; r1 = 0 means none.
type choice struct {
	m, r1, r2 int
	order     plan.Order
	// time is the whole makespan, cost is what is minimised: time per sample,
	// or time for a fixed batch.
	time, cost float64
}

func newSearch(p *Problem, policy plan.Policy) search {
	orDefault := func(v, missing int) int {
		if v > 0 {
			return v
		}
		return missing
	}
	s := search{
		p: p, policy: policy,
		maxMicroBatch: orDefault(p.Limits.MaxMicroBatch, plan.MaxMicroBatch),
		maxDegree:     orDefault(p.Limits.MaxPipelineDegree, plan.MaxR1),
		maxSegments:   orDefault(p.Limits.MaxSegments, DefaultMaxSegments),
		maxTokens:     p.maxTokensPerExpert(),
	}
	if policy == plan.Sequential {
		s.maxDegree = 1
	}
	if policy != plan.FinDEP {
		s.maxSegments = 1
	}
	// Without shared experts the orders coincide; then ASAS stands for both,
	// unless AASS was asked for.
	noShared := p.Stages.Shared.Alpha == 0 && p.Stages.Shared.Beta == 0
	findep := policy == plan.FinDEP
	s.tryASAS = !findep || p.Order != plan.AASS
	s.tryAASS = findep && p.Order != plan.ASAS && (!noShared || p.Order == plan.AASS)
	return s
}

// frontier is Algorithm 1: for every number of micro-batches that fits, the
// largest micro-batch (Theorem 2), each with its best r2 and order. The
// largest micro-batch may need many segments to fit the expert GPUs, so for
// every r2 the largest one that fits with r2 segments is tried as well.
func (s *search) frontier() {
	m := s.largestMicroBatch()
	if m == 0 {
		s.infeasible = s.memoryInfeasible(1, 1)
		return
	}
	lowest, _ := s.segmentRange(m)
	previous := 0
	for m >= 1 {
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
	for r2 := lowest - 1; r2 >= 1; r2-- {
		// One sample more and then down to the first that fits, because the
		// division rounds.
		m := int(float64(r2)*s.maxTokens/s.p.TokensPerExpertPerSample) + 1
		for ; m >= 1; m-- {
			if low, _ := s.segmentRange(m); low <= r2 {
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

// largestMicroBatch is the largest m_a that fits with r1 = 1; 0 if none does.
func (s *search) largestMicroBatch() int {
	return sort.Search(s.maxMicroBatch, func(i int) bool {
		low, high := s.segmentRange(i + 1)
		return low > high || s.p.MaxPipelineDegree(i+1) < 1
	})
}

// nextMicroBatch is the largest micro-batch below m that allows more than r1
// micro-batches in flight; 0 if there is none. Degrees fall with m.
func (s *search) nextMicroBatch(m, r1 int) int {
	return sort.Search(m-1, func(i int) bool { return s.degree(i+1) <= r1 })
}

// degree is the largest r1 for micro-batches of m samples under all limits.
func (s *search) degree(m int) int {
	r1 := min(s.p.MaxPipelineDegree(m), s.maxDegree)
	limit := s.p.Limits.MakespanMilliseconds
	if limit == 0 || r1 == 0 {
		return r1
	}
	// The makespan grows with r1, so bisect.
	return sort.Search(r1, func(i int) bool { return s.fastest(m, i+1).time > limit })
}

// fixedBatch tries every r1 with m_a = ceil(B/r1), in order of falling m_a; of
// several r1 with the same m_a only the smallest matters.
func (s *search) fixedBatch() {
	batch := s.p.Batch
	for m := min(batch, s.maxMicroBatch); m >= 1; {
		r1 := ceilDiv(batch, m)
		if r1 > s.maxDegree {
			break
		}
		m = ceilDiv(batch, r1)
		low, high := s.segmentRange(m)
		if low <= high && s.p.inFlight(m) >= batch {
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

// batchInfeasible finds the largest batch that fits.
func (s *search) batchInfeasible() {
	if s.infeasible = s.memoryInfeasible(1, 1); s.infeasible != nil {
		return
	}
	fits := func(batch int) bool {
		m := ceilDiv(batch, s.maxDegree)
		low, high := s.segmentRange(m)
		return m <= s.maxMicroBatch && low <= high && s.p.inFlight(m) >= batch
	}
	nearest := sort.Search(s.p.Batch, func(i int) bool { return !fits(i + 1) })
	m := ceilDiv(s.p.Batch, s.maxDegree)
	s.infeasible = &Infeasible{}
	if m <= s.maxMicroBatch {
		if memory := s.memoryInfeasible(m, s.p.Batch); memory != nil {
			s.infeasible = memory
		}
	}
	s.infeasible.Reason = BatchExceeded
	s.infeasible.Nearest = Nearest{Batch: nearest}
}

// tooSlow records that even the smallest forward pass exceeds the bound.
func (s *search) tooSlow() {
	s.best = s.fastest(1, 1)
	s.infeasible = &Infeasible{Reason: LatencyExceeded, Nearest: Nearest{MakespanMilliseconds: s.best.time}}
}

// consider evaluates one (m_a, r1) and keeps it if it is better.
func (s *search) consider(m, r1 int) {
	if r1 < 1 {
		return
	}
	c := s.fastest(m, r1)
	if c.cost = c.time; s.p.Batch == 0 {
		c.cost /= float64(m) * float64(r1)
	}
	if s.best.r1 == 0 || c.better(&s.best) {
		s.best = c
	}
}

// better prefers lower cost; among equals fewer launches, then ASAS. Costs that
// differ by rounding only count as equal.
func (c *choice) better(than *choice) bool {
	const rounding = 1e-12
	if d := c.cost - than.cost; math.Abs(d) > rounding*than.cost {
		return d < 0
	}
	if a, b := c.r1*c.r2, than.r1*than.r2; a != b {
		return a < b
	}
	return c.order == plan.ASAS && than.order == plan.AASS
}

// fastest is the best r2 and order for given m_a and r1.
func (s *search) fastest(m, r1 int) choice {
	var best choice
	if s.tryASAS {
		best = s.bestSegments(m, r1, plan.ASAS)
	}
	// With one micro-batch the orders coincide too.
	if s.tryAASS && (r1 > 1 || !s.tryASAS) {
		if c := s.bestSegments(m, r1, plan.AASS); best.r1 == 0 || c.better(&best) {
			best = c
		}
	}
	return best
}

// bestSegments scans r2. The makespan is convex in r2 (Theorem 4), so the scan
// ends at the first increase; only an expert floor below one token per expert
// breaks convexity, then all r2 are tried.
func (s *search) bestSegments(m, r1 int, order plan.Order) choice {
	low, high := s.segmentRange(m)
	convex := s.p.ExpertLoadMilliseconds <= s.p.Stages.Expert.Beta ||
		float64(m)*s.p.TokensPerExpertPerSample >= float64(high)
	outside := float64(r1) * s.p.Outside.At(float64(m))
	best := choice{m: m, r1: r1, order: order}
	for r2 := low; r2 <= high; r2++ {
		s.candidates++
		d := outside + s.p.Times(m, r2).Makespan(s.policy, order, s.p.Layers, r1, r2)
		if best.r2 == 0 || d < best.time {
			best.r2, best.time = r2, d
		} else if convex && d > best.time {
			break
		}
	}
	best.cost = best.time
	return best
}

// result turns the best choice into a prediction.
func (s *search) result() Result {
	r := Result{Candidates: s.candidates, FrontierPoints: s.points, Infeasible: s.infeasible}
	c := &s.best
	if c.r1 == 0 {
		return r
	}
	p := s.p
	r.Plan = plan.Plan{Policy: s.policy, MicroBatchSize: c.m, R1: c.r1, R2: c.r2, Order: c.order, Chunks: 1}
	predict(p, &r)
	if s.infeasible == nil {
		r.Limit = s.limit()
	}
	return r
}

// Predict evaluates a given plan on a problem, without checking limits. The
// error names the invalid field of either.
func Predict(p *Problem, chosen plan.Plan) (Result, error) {
	if err := p.Validate(); err != nil {
		return Result{}, err
	}
	if err := chosen.Validate(); err != nil {
		return Result{}, err
	}
	r := Result{Plan: chosen}
	predict(p, &r)
	return r, nil
}

// predict fills in everything that follows from r.Plan.
func predict(p *Problem, r *Result) {
	m, r1, r2 := r.MicroBatchSize, r.R1, r.R2
	t := p.Times(m, r2)
	pipeline := t.Makespan(r.Policy, r.Order, p.Layers, r1, r2)
	r.Times = t
	r.TokensPerExpert = float64(m) * p.TokensPerExpertPerSample / float64(r2)
	r.OutsideMilliseconds = float64(r1) * p.Outside.At(float64(m))
	r.MakespanMilliseconds = pipeline + r.OutsideMilliseconds
	r.LayerPeriodMilliseconds = t.LayerPeriod(r.Policy, r.Order, r1, r2)
	r.Regime = t.Regime(r.Policy, r.Order, r1, r2)
	samples := float64(r1) * float64(m) * float64(p.AttentionGPUs)
	switch {
	case p.Samples > 0:
		samples = float64(p.Samples)
	case p.Batch > 0:
		samples = float64(p.Batch) * float64(p.AttentionGPUs)
	}
	r.TokensPerSecond = samples * float64(p.SequenceTokens) / r.MakespanMilliseconds * 1e3
	tasks := float64(p.Layers) * float64(r1) / pipeline
	segments := tasks * float64(r2)
	r.Shares = Shares{
		Attention: tasks * (t.Attention + t.Shared),
		A2E:       segments * t.A2E, Expert: segments * t.Expert, E2A: segments * t.E2A,
	}
	free := t
	free.A2E, free.E2A = 0, 0
	r.ExposedCommunicationMilliseconds = pipeline - free.Makespan(r.Policy, r.Order, p.Layers, r1, r2)
}

// limit names what keeps the best choice from having one more micro-batch, or
// for the policy without micro-batches, one more sample.
func (s *search) limit() Limit {
	p, m, r1 := s.p, s.best.m, s.best.r1
	if p.Batch > 0 {
		return LimitBatch
	}
	samples := (r1 + 1) * m
	if s.policy == plan.Sequential {
		m++
		samples = m
	}
	low, high := s.segmentRange(m)
	switch {
	case p.Limits.SamplesInFlight > 0 && samples > p.Limits.SamplesInFlight:
		return LimitSamplesInFlight
	case p.inFlight(m) < samples:
		return LimitAttentionMemory
	case low > high:
		return LimitExpertMemory
	case m > s.maxMicroBatch:
		return LimitMicroBatch
	case s.policy != plan.Sequential && r1 >= s.maxDegree:
		return LimitPipelineDegree
	}
	return LimitMakespan
}

// ceilDiv is a/b rounded up, for positive values.
func ceilDiv(a, b int) int { return (a + b - 1) / b }
