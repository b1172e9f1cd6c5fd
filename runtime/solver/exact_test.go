// SPDX-License-Identifier: Apache-2.0

package solver_test

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/findep/findep-operator/runtime/plan"
	"github.com/findep/findep-operator/runtime/schedule"
	"github.com/findep/findep-operator/runtime/sim"
	"github.com/findep/findep-operator/runtime/solver"
)

// stage draws a stage with some cost per launch.
func stage(r *rand.Rand) solver.Affine {
	return solver.Affine{Alpha: 0.01 + r.Float64()*float64(r.IntN(3)), Beta: 0.01 + r.Float64()*float64(r.IntN(3))}
}

func attentionTime(r *rand.Rand) solver.AttentionTime {
	a := stage(r)
	return solver.AttentionTime{Alpha: a.Alpha, Beta: a.Beta}
}

// forms are the changes that make a random problem one of each form.
var forms = []struct {
	name string
	make func(*rand.Rand, *solver.Problem)
}{
	{"affine", func(*rand.Rand, *solver.Problem) {}},
	{"dense layers and head", func(r *rand.Rand, p *solver.Problem) {
		p.Dense, p.Head = attentionTime(r), stage(r)
		p.Dense.Quadratic = float64(r.IntN(2)) * r.Float64()
	}},
	{"chunks", func(r *rand.Rand, p *solver.Problem) {
		p.Limits.MaxChunks = 2 + r.IntN(3)
		p.Stages.Attention.Quadratic = float64(r.IntN(3)) * r.Float64()
	}},
	{"layers differ", func(r *rand.Rand, p *solver.Problem) {
		for range p.Layers {
			p.PerLayer = append(p.PerLayer, solver.Stages{
				Attention: attentionTime(r), Shared: stage(r), Expert: stage(r), A2E: stage(r), E2A: stage(r)})
		}
	}},
	{"GEMM tiles", func(r *rand.Rand, p *solver.Problem) { p.ExpertTileTokens = 1 + r.IntN(8) }},
	{"distinct experts", func(r *rand.Rand, p *solver.Problem) {
		p.ExpertLoadMilliseconds, p.ExpertActivation = 5*r.Float64(), 0.01+0.99*r.Float64()
	}},
	{"hot experts", func(r *rand.Rand, p *solver.Problem) { p.ExpertImbalance = 1 + 2*r.Float64() }},
	{"one link for both directions", func(_ *rand.Rand, p *solver.Problem) { p.HalfDuplex = true }},
	{"exact remainder", func(r *rand.Rand, p *solver.Problem) { p.Batch, p.ExactRemainder = 1+r.IntN(20), true }},
}

// randomForm draws a problem of one form, or for form = len(forms) of several
// at once, with random limits.
func randomForm(r *rand.Rand, form int) *solver.Problem {
	p := limited(r)
	p.Layers = 1 + r.IntN(6)
	if form < len(forms) {
		forms[form].make(r, p)
		return p
	}
	for i := range forms {
		if r.IntN(2) == 0 {
			forms[i].make(r, p)
		}
	}
	return p
}

func formName(form int) string {
	if form < len(forms) {
		return forms[form].name
	}
	return "several at once"
}

// everyPlan calls f with every plan of a policy that the limits may allow.
func everyPlan(p *solver.Problem, policy plan.Policy, f func(plan.Plan)) {
	for m := 1; m <= p.Limits.MaxMicroBatch; m++ {
		for r1 := 1; r1 <= p.Limits.MaxPipelineDegree; r1++ {
			for q := 1; q <= min(max(1, p.Limits.MaxChunks), p.SequenceTokens); q++ {
				for r2 := 1; r2 <= min(p.Limits.MaxSegments, m*p.SequenceTokens/q); r2++ {
					for _, order := range []plan.Order{plan.ASAS, plan.AASS} {
						f(plan.Plan{Policy: policy, MicroBatchSize: m, R1: r1, R2: r2, Order: order, Chunks: q})
					}
				}
			}
		}
	}
}

// withinLimits tells by the definition of the limits whether a plan is allowed,
// all but the bound on the makespan.
func withinLimits(p *solver.Problem, c plan.Plan) bool {
	if c.Policy != plan.FinDEP && (c.R2 > 1 || c.Order != plan.ASAS) || c.Policy == plan.Sequential && (c.R1 > 1 || c.Chunks > 1) {
		return false
	}
	if p.Order != "" && c.Policy == plan.FinDEP && c.Order != p.Order {
		return false
	}
	m, samples := c.MicroBatchSize, c.R1*c.MicroBatchSize
	if p.Batch > 0 {
		if m != (p.Batch+c.R1-1)/c.R1 || c.R1 != (p.Batch+m-1)/m {
			return false
		}
		samples = p.Batch
	}
	if p.Limits.SamplesInFlight > 0 && samples > p.Limits.SamplesInFlight {
		return false
	}
	if mem := p.Memory; mem != nil {
		a, e := mem.Attention, mem.Expert
		if a.FixedBytes+a.WorkspaceBytes*int64(m)+a.PerSampleBytes*int64(samples) > a.UsableBytes {
			return false
		}
		perExpert := float64(m) * p.TokensPerExpertPerSample * max(1, p.ExpertImbalance) / float64(c.R2*c.Chunks)
		if float64(e.FixedBytes)+float64(e.PerTokenBytes)*perExpert > float64(e.UsableBytes) {
			return false
		}
	}
	return true
}

// costOf evaluates an allowed plan; ok is false if it takes too long.
func costOf(e *solver.Evaluator, p *solver.Problem, c plan.Plan) (cost float64, ok bool) {
	d := e.Makespan(p, c)
	if limit := p.Limits.MakespanMilliseconds; limit > 0 && d > limit {
		return d, false
	}
	if p.Batch == 0 {
		d /= float64(c.R1 * c.MicroBatchSize)
	}
	return d, true
}

// The answer of every form costs what exhaustive search over all plans finds.
func TestEveryFormEqualsExhaustiveSearch(t *testing.T) {
	for form := range len(forms) + 1 {
		t.Run(formName(form), func(t *testing.T) {
			t.Parallel()
			var w solver.Solver
			var e solver.Evaluator
			infeasible, chunked := 0, 0
			for seed := range uint64(problemsPerForm) {
				r := rand.New(rand.NewPCG(seed, uint64(form)))
				p := randomForm(r, form)
				policy := []plan.Policy{plan.FinDEP, plan.FinDEP, plan.PPPipe, plan.Sequential}[r.IntN(4)]
				got, err := w.Solve(t.Context(), p, policy)
				if err != nil {
					t.Fatal(err)
				}
				best := math.Inf(1)
				var want plan.Plan
				everyPlan(p, policy, func(c plan.Plan) {
					if !withinLimits(p, c) {
						return
					}
					if cost, ok := costOf(&e, p, c); ok && cost < best {
						best, want = cost, c
					}
				})
				if (got.Infeasible == nil) != (best < math.Inf(1)) {
					t.Fatalf("seed %d: infeasible %+v, exhaustive search finds %v\n%+v", seed, got.Infeasible, want, p)
				}
				if got.Infeasible != nil {
					infeasible++
					continue
				}
				if got.Chunks > 1 {
					chunked++
				}
				if cost, ok := costOf(&e, p, got.Plan); !ok || !withinLimits(p, got.Plan) || !near(cost, best, 1e-10) || got.Gap != 0 {
					t.Fatalf("seed %d: %v costs %v (gap %v), exhaustive search finds %v at %v\n%+v", seed, got.Plan, cost, got.Gap, want, best, p)
				}
			}
			if infeasible == 0 {
				t.Error("no problem was infeasible; the test lost that half of its meaning")
			}
			if forms := formName(form); forms == "chunks" && chunked == 0 {
				t.Error("no plan has chunks; the test lost its meaning")
			}
		})
	}
}

// simulated is the makespan of a plan on the schedule that ranks execute, with
// output heads after it.
func simulated(t *testing.T, p *solver.Problem, c plan.Plan) float64 {
	t.Helper()
	s, err := schedule.Build(c, p.Layers, schedule.Options{SharedExperts: true})
	if err != nil {
		t.Fatal(err)
	}
	d, err := p.Durations(c)
	if err != nil {
		t.Fatal(err)
	}
	run := sim.Run
	if p.HalfDuplex {
		run = sim.RunHalfDuplex
	}
	r, err := run(s, d.Duration)
	if err != nil {
		t.Fatal(err)
	}
	end, at := r.Makespan, 0.0
	for _, id := range s.Stream(schedule.AttentionCompute) {
		at = max(at, r.End[id])
	}
	for g := range c.R1 {
		m := c.MicroBatchSize
		if p.Batch > 0 && p.ExactRemainder && g == c.R1-1 {
			m = p.Batch - g*m
		}
		if h := p.Head.At(float64(m)); h > 0 {
			back, _ := s.Find(schedule.E2A, p.Layers-1, (g+1)*c.Chunks-1, c.R2-1)
			at = max(at, r.End[back]) + h
			end = max(end, at)
		}
	}
	return end
}

// The makespan of every form equals the simulation of the schedule.
func TestEveryFormEqualsSimulation(t *testing.T) {
	for form := range len(forms) + 1 {
		t.Run(formName(form), func(t *testing.T) {
			t.Parallel()
			var e solver.Evaluator
			for seed := range uint64(problemsPerForm) {
				r := rand.New(rand.NewPCG(seed, 100+uint64(form)))
				p := randomForm(r, form)
				p.Layers, p.PerLayer = 1+r.IntN(20), nil
				if form == 3 {
					forms[3].make(r, p)
				}
				p.Outside = solver.Affine{}
				c := plan.Plan{
					Policy: []plan.Policy{plan.FinDEP, plan.PPPipe}[r.IntN(2)], MicroBatchSize: 1 + r.IntN(6), R1: 1 + r.IntN(6),
					R2: 1 + r.IntN(5), Order: []plan.Order{plan.ASAS, plan.AASS}[r.IntN(2)], Chunks: 1 + r.IntN(3),
				}
				if c.Policy == plan.PPPipe {
					c.R2, c.Order = 1, plan.ASAS
				}
				if b := p.Batch; b > 0 {
					c.MicroBatchSize = (b + c.R1 - 1) / c.R1
					c.R1 = (b + c.MicroBatchSize - 1) / c.MicroBatchSize
				}
				if c.Chunks > 1 && r.IntN(2) == 0 {
					b, err := plan.NewBoundaries([]int{100 + r.IntN(300), 500 + r.IntN(499)}[:c.Chunks-1])
					if err != nil {
						t.Fatal(err)
					}
					c.ChunkBoundaries = b
				}
				want := simulated(t, p, c)
				for name, got := range map[string]float64{"makespan": e.Makespan(p, c), "recurrence": e.Recurrence(p, c)} {
					if !near(got, want, 1e-11) {
						t.Fatalf("seed %d: %v of %v: %s %v, simulation %v\n%+v", seed, c, p.Layers, name, got, want, p)
					}
				}
			}
		})
	}
}

func newRand(seed, stream uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, stream)) }
