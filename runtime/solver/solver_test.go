// SPDX-License-Identifier: Apache-2.0

package solver_test

import (
	"context"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/findep/findep-operator/runtime/plan"
	"github.com/findep/findep-operator/runtime/schedule"
	"github.com/findep/findep-operator/runtime/sim"
	"github.com/findep/findep-operator/runtime/solver"
)

// near tells whether two times agree up to the digits that the test vectors
// are printed with.
func near(got, want, digits float64) bool {
	return math.Abs(got-want) <= digits*math.Max(1, math.Abs(want))
}

func makespan(t solver.Times, order plan.Order, layers, r1, r2 int) float64 {
	return t.Makespan(plan.FinDEP, order, layers, r1, r2)
}

func simulate(t testing.TB, times solver.Times, policy plan.Policy, order plan.Order, layers, r1, r2 int) float64 {
	t.Helper()
	s, err := schedule.Build(plan.Plan{Policy: policy, MicroBatchSize: 1, R1: r1, R2: r2, Order: order, Chunks: 1},
		layers, schedule.Options{SharedExperts: true})
	if err != nil {
		t.Fatal(err)
	}
	r, err := sim.Run(s, times.Duration)
	if err != nil {
		t.Fatal(err)
	}
	return r.Makespan
}

// problemL is the worked example of the mathematics: the shape of
// DeepSeek-V2-Lite with synthetic coefficients, section 1.15.
func problemL(gemm, attention, link float64) *solver.Problem {
	const (
		m, h, e, topK, shared, s, local = 2048, 1408, 64, 6, 2, 1024, 32
		perMAC, perPair, perByte        = 1e-11, 2e-11, 2e-8
	)
	macs := float64(2048*3072 + 2048*576 + 512*4096 + 2048*2048)
	transfer := solver.Affine{Alpha: link, Beta: perByte * 2 * local * m}
	return &solver.Problem{
		Stages: solver.Stages{
			Attention: solver.AttentionTime{Alpha: 4*gemm + attention, Beta: perMAC*s*macs + perPair*s*s*16*(192+128)},
			Shared:    solver.Affine{Alpha: 3 * shared * gemm, Beta: 3 * shared * perMAC * s * m * h},
			Expert:    solver.Affine{Alpha: 3 * gemm, Beta: 3 * local * perMAC * m * h},
			A2E:       transfer,
			E2A:       transfer,
		},
		Layers: 26, AttentionGPUs: 2, SequenceTokens: s,
		TokensPerExpertPerSample: 2.0 * topK * s / e,
	}
}

func standardL() *solver.Problem { return problemL(0.01, 0.02, 0.02) }

func solve(t testing.TB, p *solver.Problem, policy plan.Policy) solver.Result {
	t.Helper()
	r, err := solver.Solve(p, policy)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// randomTimes draws integer durations, for which all sums are exact.
func randomTimes(r *rand.Rand) (times solver.Times, layers, r1, r2 int) {
	d := func() float64 { return float64(r.IntN(20)) }
	return solver.Times{Attention: d(), Shared: d(), A2E: d(), Expert: d(), E2A: d()}, 1 + r.IntN(12), 1 + r.IntN(7), 1 + r.IntN(6)
}

func TestClosedFormsEqualSimulation(t *testing.T) {
	for seed := range uint64(4000) {
		times, layers, r1, r2 := randomTimes(rand.New(rand.NewPCG(seed, 4)))
		for _, order := range []plan.Order{plan.ASAS, plan.AASS} {
			if got, want := makespan(times, order, layers, r1, r2), simulate(t, times, plan.FinDEP, order, layers, r1, r2); got != want {
				t.Fatalf("seed %d: %s of %+v, layers=%d r1=%d r2=%d: closed form %v, simulation %v", seed, order, times, layers, r1, r2, got, want)
			}
		}
		if got, want := times.Makespan(plan.PPPipe, plan.ASAS, layers, r1, 1), simulate(t, times, plan.PPPipe, plan.ASAS, layers, r1, 1); got != want {
			t.Fatalf("seed %d: PPPipe closed form %v, simulation %v", seed, got, want)
		}
		if got, want := times.Makespan(plan.Sequential, plan.ASAS, layers, 1, 1), simulate(t, times, plan.Sequential, plan.ASAS, layers, 1, 1); got != want {
			t.Fatalf("seed %d: Sequential closed form %v, simulation %v", seed, got, want)
		}
	}
}

// AASS can save at most the fill of the pipeline, and the printed Eq. 13 is
// too long by (r2-1)*Y.
func TestOrdersAndLiteralForm(t *testing.T) {
	for seed := range uint64(10000) {
		times, layers, r1, r2 := randomTimes(rand.New(rand.NewPCG(seed, 5)))
		slowest := max(times.A2E, times.Expert, times.E2A)
		x, y := times.Attention+times.Shared, float64(r2)*slowest
		f, fa := max(x, y), max(times.Attention, y)
		asas, aass := makespan(times, plan.ASAS, layers, r1, r2), makespan(times, plan.AASS, layers, r1, r2)
		if asas-aass > float64(r1-1)*(f-fa) {
			t.Fatalf("seed %d: AASS saves %v, more than %v", seed, asas-aass, float64(r1-1)*(f-fa))
		}
		g := times.Attention + times.A2E + times.Expert + times.E2A + float64(r2-1)*slowest
		if g < x {
			continue // the printed form has no case for a last task on the attention GPU
		}
		literal := float64(layers-1)*max(g, float64(r1)*f) + g + float64(r1-1)*f + float64(r2-1)*slowest
		if literal-asas != float64(r2-1)*slowest {
			t.Fatalf("seed %d: the printed form exceeds the exact one by %v, want %v", seed, literal-asas, float64(r2-1)*slowest)
		}
	}
}

// randomProblem draws affine stages, always with some cost per launch.
func randomProblem(r *rand.Rand) *solver.Problem {
	stage := func() solver.Affine {
		return solver.Affine{Alpha: 0.01 + r.Float64()*float64(r.IntN(3)), Beta: 0.01 + r.Float64()*float64(r.IntN(3))}
	}
	attention := func() solver.AttentionTime {
		a := stage()
		return solver.AttentionTime{Alpha: a.Alpha, Beta: a.Beta}
	}
	p := &solver.Problem{
		Stages: solver.Stages{Attention: attention(), Shared: stage(), Expert: stage(), A2E: stage(), E2A: stage()},
		Layers: 1 + r.IntN(10), AttentionGPUs: 1 + r.IntN(4), SequenceTokens: 1 + r.IntN(20),
		TokensPerExpertPerSample: 0.1 + 4*r.Float64(),
	}
	if r.IntN(3) == 0 {
		p.Stages.Shared = solver.Affine{}
	}
	if r.IntN(3) == 0 {
		p.Outside = stage()
	}
	return p
}

func TestTheorems(t *testing.T) {
	const rounding = 1 + 1e-9
	for seed := range uint64(4000) {
		r := rand.New(rand.NewPCG(seed, 6))
		p := randomProblem(r)
		m, r1, r2 := 1+r.IntN(8), 1+r.IntN(8), 1+r.IntN(8)
		for _, order := range []plan.Order{plan.ASAS, plan.AASS} {
			d := func(m, r1, r2 int) float64 { return makespan(p.Times(m, r2), order, p.Layers, r1, r2) }
			base := d(m, r1, r2)
			if d(m+1, r1, r2)/float64(m+1) > base/float64(m)*rounding {
				t.Fatalf("seed %d, %s: throughput falls with m_a (Theorem 1)", seed, order)
			}
			if d(m, r1+1, r2)/float64(r1+1) > base/float64(r1)*rounding {
				t.Fatalf("seed %d, %s: throughput falls with r1 (Theorem 3)", seed, order)
			}
			if d(m, r1, r2)+d(m, r1, r2+2) < 2*d(m, r1, r2+1)/rounding {
				t.Fatalf("seed %d, %s: the makespan is not convex in r2 (Theorem 4)", seed, order)
			}
		}
	}
}

// limited adds random limits of every form to a random problem.
func limited(r *rand.Rand) *solver.Problem {
	p := randomProblem(r)
	p.Limits = solver.Limits{MaxMicroBatch: 1 + r.IntN(12), MaxPipelineDegree: 1 + r.IntN(10), MaxSegments: 1 + r.IntN(12)}
	if r.IntN(2) == 0 {
		p.Limits.SamplesInFlight = 1 + r.IntN(30)
	}
	if r.IntN(2) == 0 {
		p.Batch = 1 + r.IntN(20)
	}
	if r.IntN(2) == 0 {
		p.Limits.MakespanMilliseconds = 100 * r.Float64() * r.Float64()
	}
	if r.IntN(2) == 0 {
		p.Memory = &solver.Memory{
			Attention: solver.AttentionMemory{UsableBytes: int64(r.IntN(300)), FixedBytes: int64(r.IntN(50)), PerSampleBytes: int64(r.IntN(20)), WorkspaceBytes: int64(r.IntN(10))},
			Expert:    solver.ExpertMemory{UsableBytes: int64(r.IntN(100)), FixedBytes: int64(r.IntN(20)), PerTokenBytes: int64(r.IntN(40))},
		}
	}
	if r.IntN(3) == 0 {
		p.ExpertLoadMilliseconds = 3 * r.Float64()
	}
	if r.IntN(4) == 0 {
		p.Order = []plan.Order{plan.ASAS, plan.AASS}[r.IntN(2)]
	}
	return p
}

// Under a cap on samples in flight FinDEP must never lose to its baselines, with
// chunks or without; how much it wins is for the log. With many samples in
// flight both are bound by the same resource.
func TestGainsOverTheBaselines(t *testing.T) {
	gains := func(most, chunks int) []float64 {
		var list []float64
		for seed := range uint64(gainProblems) {
			r := rand.New(rand.NewPCG(seed, 10))
			p := randomProblem(r)
			p.SequenceTokens, p.Stages.Attention.Quadratic = 4096, r.Float64()
			p.Limits = solver.Limits{SamplesInFlight: most, MaxChunks: chunks, MaxSegments: 16}
			if most < 8 {
				p.Limits.SamplesInFlight = 1 + r.IntN(most)
			}
			findep := solve(t, p, plan.FinDEP).TokensPerSecond
			for _, policy := range []plan.Policy{plan.Sequential, plan.PPPipe} {
				other := solve(t, p, policy).TokensPerSecond
				if other > findep*(1+1e-12) {
					t.Fatalf("seed %d, %d chunks: %s serves %v tokens/s, FinDEP %v", seed, chunks, policy, other, findep)
				}
				if policy == plan.PPPipe {
					list = append(list, findep/other)
				}
			}
		}
		slices.Sort(list)
		t.Logf("at most %d in flight, %d chunks: gain over PPPipe 10 %%: %.3f, median %.3f, 90 %%: %.3f, most %.3f", most, chunks,
			list[len(list)/10], list[len(list)/2], list[len(list)*9/10], list[len(list)-1])
		return list
	}
	for _, chunks := range []int{1, 8} {
		few, many := gains(4, chunks), gains(4096, chunks)
		if few[len(few)*9/10] < 1.1 {
			t.Errorf("%d chunks, few in flight: a tenth of the gains exceed %v only, want 1.1", chunks, few[len(few)*9/10])
		}
		if many[len(many)*9/10] > 1.02 {
			t.Errorf("%d chunks, many in flight: a tenth of the gains exceed %v, want parity", chunks, many[len(many)*9/10])
		}
	}
}

func TestTiesPreferFewerLaunches(t *testing.T) {
	// Free experts and links without launch cost: every r2 takes the same time.
	p := &solver.Problem{
		Stages: solver.Stages{Attention: solver.AttentionTime{Beta: 1}, Shared: solver.Affine{Beta: 1}},
		Layers: 4, AttentionGPUs: 1, SequenceTokens: 16, TokensPerExpertPerSample: 1, Limits: solver.Limits{SamplesInFlight: 8},
	}
	if r := solve(t, p, plan.FinDEP); r.R1 != 1 || r.R2 != 1 || r.MicroBatchSize != 8 || r.Order != plan.ASAS {
		t.Errorf("plan %v, want one micro-batch of one segment, ASAS", r.Plan)
	}
}

func TestRegimes(t *testing.T) {
	for want, times := range map[solver.Regime]solver.Times{
		solver.LatencyBound:   {Attention: 1, Shared: 1, A2E: 3, Expert: 3, E2A: 3},
		solver.AttentionBound: {Attention: 9, Shared: 9, A2E: 1, Expert: 1, E2A: 1},
		solver.LinkBound:      {Attention: 1, A2E: 1, Expert: 1, E2A: 9},
		solver.ExpertBound:    {Attention: 1, A2E: 1, Expert: 9, E2A: 1},
	} {
		if got := times.Regime(plan.FinDEP, plan.ASAS, 2, 1); got != want {
			t.Errorf("%+v: %s, want %s", times, got, want)
		}
	}
}

func TestPredictionAgreesWithSimulation(t *testing.T) {
	p := standardL()
	p.Limits.SamplesInFlight = 3
	r := solve(t, p, plan.FinDEP)
	s, err := schedule.Build(r.Plan, p.Layers, schedule.Options{SharedExperts: true})
	if err != nil {
		t.Fatal(err)
	}
	result, err := sim.Run(s, r.Times.Duration)
	if err != nil {
		t.Fatal(err)
	}
	exposed, err := sim.ExposedCommunication(s, r.Times.Duration)
	if err != nil {
		t.Fatal(err)
	}
	for name, v := range map[string][2]float64{
		"makespan":              {r.MakespanMilliseconds, result.Makespan},
		"attention share":       {r.Shares.Attention, result.BusyShare(schedule.AttentionCompute)},
		"A2E share":             {r.Shares.A2E, result.BusyShare(schedule.A2ELink)},
		"expert share":          {r.Shares.Expert, result.BusyShare(schedule.ExpertCompute)},
		"E2A share":             {r.Shares.E2A, result.BusyShare(schedule.E2ALink)},
		"exposed communication": {r.ExposedCommunicationMilliseconds, exposed},
	} {
		if !near(v[0], v[1], 1e-9) {
			t.Errorf("%s: predicted %v, simulated %v", name, v[0], v[1])
		}
	}
}

func TestSolveDoesNotAllocate(t *testing.T) {
	p := standardL()
	p.Memory = memoryL(24 << 30)
	for name, batch := range map[string]int{"free": 0, "fixed batch": 64} {
		p.Batch = batch
		var w solver.Solver
		n := testing.AllocsPerRun(20, func() {
			if _, err := w.Solve(context.Background(), p, plan.FinDEP); err != nil {
				t.Fatal(err)
			}
		})
		if n != 0 {
			t.Errorf("%s: %v allocations per solve", name, n)
		}
	}
}
