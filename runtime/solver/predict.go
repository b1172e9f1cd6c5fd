// SPDX-License-Identifier: Apache-2.0

package solver

import (
	"math"

	"github.com/findep/findep-operator/runtime/plan"
)

// result turns the best choice into a prediction.
func (s *search) result() Result {
	r := Result{Candidates: s.candidates, FrontierPoints: s.points, Infeasible: s.infeasible, SearchCut: s.exhausted, Gap: s.gap()}
	c := &s.best
	if c.r1 == 0 {
		return r
	}
	r.Plan = plan.Plan{
		Policy: s.policy, MicroBatchSize: c.m, R1: c.r1, R2: c.r2, Order: c.order,
		Chunks: c.chunks, ChunkBoundaries: c.unequal,
	}
	f := forecast{p: s.p, line: s.line}
	f.predict(&r)
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
	f := forecast{p: p, line: &timeline{}}
	f.predict(&r)
	return r, nil
}

// forecast evaluates one plan in several variations.
type forecast struct {
	p    *Problem
	line *timeline
}

// candidate is the form of a plan that a timeline takes.
func (f *forecast) candidate(chosen plan.Plan) candidate {
	c := candidate{
		m: chosen.MicroBatchSize, last: chosen.MicroBatchSize, r1: chosen.R1, r2: chosen.R2,
		order: chosen.Order, chunks: max(1, chosen.Chunks),
	}
	if b := f.p.Batch; b > 0 && f.p.ExactRemainder {
		// As ranks cut pieces: too many for the plan are spread over its
		// micro-batches, and micro-batches beyond the last sample are empty.
		c.m = max(c.m, ceilDiv(b, c.r1))
		c.r1 = ceilDiv(b, c.m)
		c.last = b - (c.r1-1)*c.m
	}
	if list, err := chosen.ChunkBoundaries.Permille(); err == nil && len(list) == c.chunks-1 && len(list) > 0 {
		for i, b := range list {
			f.line.fractions[i+1] = float64(b) / whole
		}
		f.line.fractions[c.chunks] = 1
		c.boundary = &f.line.fractions
	}
	return c
}

// predict fills in everything that follows from r.Plan.
func (f *forecast) predict(r *Result) {
	p, c := f.p, f.candidate(r.Plan)
	bare := *p
	bare.Dense, bare.Head = AttentionTime{}, Affine{}
	pipeline := f.makespan(&bare, r.Policy, &c)
	whole := pipeline
	if p.Dense != bare.Dense || p.Head != bare.Head {
		whole = f.makespan(p, r.Policy, &c)
	}
	outside := p.Outside.Alpha*float64(c.r1*c.chunks) + p.Outside.Beta*float64((c.r1-1)*c.m+c.last)
	r.MakespanMilliseconds = whole + outside
	r.OutsideMilliseconds = r.MakespanMilliseconds - pipeline
	r.TokensPerExpert = float64(c.m) * p.TokensPerExpertPerSample / float64(c.r2*c.chunks)
	samples := float64((c.r1-1)*c.m+c.last) * float64(p.AttentionGPUs)
	switch {
	case p.Samples > 0:
		samples = float64(p.Samples)
	case p.Batch > 0:
		samples = float64(p.Batch) * float64(p.AttentionGPUs)
	}
	r.TokensPerSecond = samples * float64(p.SequenceTokens) / r.MakespanMilliseconds * 1e3
	f.measure(&bare, r, &c, pipeline)
}

// measure fills in what the pipeline's timeline says.
func (f *forecast) measure(bare *Problem, r *Result, c *candidate, pipeline float64) {
	f.line.load(bare, r.Policy, c)
	r.Times = f.line.mean()
	busy := f.line.busy()
	if pipeline > 0 {
		share := func(busy float64) float64 { return min(1, busy/pipeline) }
		r.Shares = Shares{share(busy.Attention), share(busy.A2E), share(busy.Expert), share(busy.E2A)}
	}
	free := *bare
	free.Stages.A2E, free.Stages.E2A = Affine{}, Affine{}
	if len(bare.PerLayer) > 0 {
		free.PerLayer = append([]Stages(nil), bare.PerLayer...)
		for i := range free.PerLayer {
			free.PerLayer[i].A2E, free.PerLayer[i].E2A = Affine{}, Affine{}
		}
	}
	// What rounding leaves of nothing is nothing.
	if exposed := pipeline - f.makespan(&free, r.Policy, c); exposed > bounding*pipeline {
		r.ExposedCommunicationMilliseconds = exposed
	}
	r.LayerPeriodMilliseconds = f.period(bare, r, c, pipeline)
	layers := float64(bare.Layers)
	r.Regime = regime(r.Policy, r.LayerPeriodMilliseconds, busy.Attention/layers, max(busy.A2E, busy.E2A)/layers, busy.Expert/layers)
	if bare.HalfDuplex && r.Regime == LatencyBound && (busy.A2E+busy.E2A)/layers >= r.LayerPeriodMilliseconds*(1-bounding) {
		r.Regime = LinkBound
	}
}

// makespan is the pipeline of a candidate with its dense layers and heads.
func (f *forecast) makespan(p *Problem, policy plan.Policy, c *candidate) float64 {
	if p.uniform() && c.last == c.m && (c.chunks == 1 || p.Stages.Attention.Quadratic == 0 && c.boundary == nil) {
		t := p.piece(&p.Stages, float64(c.m), 0, 1/float64(c.chunks), c.r2)
		return t.Makespan(policy, c.order, p.Layers, c.r1*c.chunks, c.r2)
	}
	f.line.load(p, policy, c)
	return f.line.makespan(math.Inf(1))
}

// period is the steady-state time per layer: the closed form, or what more
// layers add. Layers that differ have a mean only.
func (f *forecast) period(p *Problem, r *Result, c *candidate, pipeline float64) float64 {
	if p.uniform() && c.chunks == 1 && c.last == c.m {
		return r.Times.LayerPeriod(r.Policy, c.order, c.r1, c.r2)
	}
	if len(p.PerLayer) > 0 {
		return pipeline / float64(p.Layers)
	}
	const more = 8
	longer := *p
	longer.Layers += more
	return (f.makespan(&longer, r.Policy, c) - pipeline) / more
}

// bounding is how close, relatively, a resource's busy time must be to the
// period to be called what bounds it.
const bounding = 1e-9

// regime names the resource that is busy all the time in the steady state.
func regime(policy plan.Policy, period, attention, link, expert float64) Regime {
	least := period * (1 - bounding)
	switch {
	case policy == plan.Sequential:
		return LatencyBound
	case attention >= least:
		return AttentionBound
	case expert >= least:
		return ExpertBound
	case link >= least:
		return LinkBound
	default:
		return LatencyBound
	}
}

// busy are the busy times of all resources over all layers.
func (l *timeline) busy() Times {
	var sum Times
	repeat := float64(l.layers / l.rows)
	for i := range l.cells {
		c, n := &l.cells[i], repeat*l.count(i%l.columns)
		sum.Attention += n * (c.Attention + c.Shared)
		sum.A2E += n * c.toExperts
		sum.Expert += n * c.experts
		sum.E2A += n * c.back
	}
	return sum
}

// mean are the mean durations of the tasks of each kind.
func (l *timeline) mean() Times {
	if len(l.cells) == 1 {
		return l.cells[0].Times
	}
	var sum Times
	total := 0.0
	for i := range l.cells {
		c, n := &l.cells[i], l.count(i%l.columns)
		total += n
		sum.Attention += n * c.Attention
		sum.Shared += n * c.Shared
		sum.A2E += n * c.A2E
		sum.Expert += n * c.Expert
		sum.E2A += n * c.E2A
	}
	return Times{sum.Attention / total, sum.Shared / total, sum.A2E / total, sum.Expert / total, sum.E2A / total}
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
	switch {
	case p.Limits.SamplesInFlight > 0 && samples > p.Limits.SamplesInFlight:
		return LimitSamplesInFlight
	case p.inFlight(m) < samples:
		return LimitAttentionMemory
	case !s.fits(m):
		return LimitExpertMemory
	case m > s.maxMicroBatch:
		return LimitMicroBatch
	case s.policy != plan.Sequential && r1 >= s.maxDegree:
		return LimitPipelineDegree
	}
	return LimitMakespan
}
