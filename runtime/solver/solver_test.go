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

func TestTV1ClosedForms(t *testing.T) {
	times := solver.Times{Attention: 4, Shared: 2, A2E: 1, Expert: 2, E2A: 1}
	coarse := solver.Times{Attention: 4, Shared: 2, A2E: 2, Expert: 4, E2A: 2}
	tests := map[string]struct{ got, want float64 }{
		"ASAS":               {makespan(times, plan.ASAS, 2, 2, 2), 28},
		"AASS":               {makespan(times, plan.AASS, 2, 2, 2), 26},
		"ASAS with r2=1":     {makespan(coarse, plan.ASAS, 2, 2, 1), 30},
		"PPPipe":             {coarse.Makespan(plan.PPPipe, plan.ASAS, 2, 2, 1), 34},
		"Sequential":         {coarse.Makespan(plan.Sequential, plan.ASAS, 2, 1, 1), 28},
		"layer period, ASAS": {times.LayerPeriod(plan.FinDEP, plan.ASAS, 2, 2), 12},
		"layer period, AASS": {times.LayerPeriod(plan.FinDEP, plan.AASS, 2, 2), 12},
	}
	for name, tc := range tests {
		if tc.got != tc.want {
			t.Errorf("%s: %v, want %v", name, tc.got, tc.want)
		}
	}
}

func TestTV2DeepPipelinesFavourASAS(t *testing.T) {
	times := solver.Times{Attention: 1, Shared: 2, A2E: 3, Expert: 2, E2A: 3}
	for layers, want := range map[int][2]float64{
		1: {15, 15}, 2: {24, 24}, 3: {33, 37}, 4: {42, 46}, 8: {78, 90}, 16: {150, 178}, 60: {546, 662},
	} {
		got := [2]float64{makespan(times, plan.ASAS, layers, 3, 1), makespan(times, plan.AASS, layers, 3, 1)}
		if got != want {
			t.Errorf("%d layers: ASAS and AASS take %v, want %v", layers, got, want)
		}
	}
	for order, want := range map[plan.Order]float64{plan.ASAS: 9, plan.AASS: 11} {
		if got := times.LayerPeriod(plan.FinDEP, order, 3, 1); got != want {
			t.Errorf("%s: layer period %v, want %v", order, got, want)
		}
	}
}

func TestTV3WithoutSharedExpertsTheOrdersCoincide(t *testing.T) {
	for seed := range uint64(5000) {
		times, layers, r1, r2 := randomTimes(rand.New(rand.NewPCG(seed, 3)))
		sum := times.Attention + times.A2E + times.Expert + times.E2A
		if times.Shared <= times.A2E+times.Expert+times.E2A {
			if got := makespan(times, plan.ASAS, layers, 1, 1); got != float64(layers)*sum {
				t.Fatalf("seed %d: one task at a time takes %v, want %v", seed, got, float64(layers)*sum)
			}
		}
		times.Shared = 0
		if a, b := makespan(times, plan.ASAS, layers, r1, r2), makespan(times, plan.AASS, layers, r1, r2); a != b {
			t.Fatalf("seed %d: ASAS %v, AASS %v", seed, a, b)
		}
	}
}

func TestProblemLCoefficients(t *testing.T) {
	s := standardL().Stages
	for name, v := range map[string][2]float64{
		"alpha_a": {s.Attention.Alpha, 0.06}, "beta_a": {s.Attention.Beta, 0.2483027968},
		"alpha_s": {s.Shared.Alpha, 0.06}, "beta_s": {s.Shared.Beta, 0.17716740096},
		"alpha_e": {s.Expert.Alpha, 0.03}, "beta_e": {s.Expert.Beta, 0.00276824064},
		"alpha_c": {s.A2E.Alpha, 0.02}, "beta_c": {s.A2E.Beta, 0.00262144},
	} {
		if !near(v[0], v[1], 1e-12) {
			t.Errorf("%s = %v, want %v", name, v[0], v[1])
		}
	}
	p := standardL()
	want := solver.Times{Attention: 0.5566055936, Shared: 0.41433480192, A2E: 0.27165824, Expert: 0.29575110144, E2A: 0.27165824}
	got := p.Times(2, 4)
	for _, v := range [][2]float64{{got.Attention, want.Attention}, {got.Shared, want.Shared}, {got.A2E, want.A2E}, {got.Expert, want.Expert}, {got.E2A, want.E2A}} {
		if !near(v[0], v[1], 1e-12) {
			t.Errorf("times of m_a=2, r2=4: %+v, want %+v", got, want)
		}
	}
}

func TestProblemLMakespans(t *testing.T) {
	p := standardL()
	for _, tc := range []struct {
		order            plan.Order
		m, r1, r2        int
		time, throughput float64
	}{
		{plan.ASAS, 1, 1, 1, 49.827386952, 41.101894466},
		{plan.ASAS, 1, 1, 6, 31.917006152, 64.166419315},
		{plan.ASAS, 1, 2, 4, 34.478075587, 118.800134007},
		{plan.AASS, 1, 2, 4, 35.433206344, 115.597780237},
		{plan.ASAS, 2, 2, 4, 62.616151173, 130.828865181},
		{plan.AASS, 2, 2, 4, 64.046412687, 127.907241893},
		{plan.AASS, 2, 4, 2, 118.395696753, 138.383407923},
		{plan.ASAS, 4, 11, 1, 621.738263122, 144.935586797},
	} {
		p.Limits.SamplesInFlight = 64
		r, err := solver.Predict(p, plan.Plan{Policy: plan.FinDEP, MicroBatchSize: tc.m, R1: tc.r1, R2: tc.r2, Order: tc.order, Chunks: 1})
		if err != nil {
			t.Fatal(err)
		}
		if !near(r.MakespanMilliseconds, tc.time, 1e-9) || !near(r.TokensPerSecond/1e3, tc.throughput, 1e-9) {
			t.Errorf("%s m_a=%d r1=%d r2=%d: %v ms, %v tokens/ms; want %v, %v",
				tc.order, tc.m, tc.r1, tc.r2, r.MakespanMilliseconds, r.TokensPerSecond/1e3, tc.time, tc.throughput)
		}
	}
	curve := func(order plan.Order, m, r1 int, want ...float64) {
		for i, w := range want {
			if got := makespan(p.Times(m, i+1), order, 26, r1, i+1); !near(got, w, 1e-6) {
				t.Errorf("%s m_a=%d r1=%d r2=%d: %v ms, want %v", order, m, r1, i+1, got, w)
			}
		}
	}
	curve(plan.ASAS, 1, 1, 49.82739, 37.52116, 33.93908, 32.53804, 32.00942, 31.91701, 32.07385, 32.38649)
	curve(plan.ASAS, 2, 2, 97.3678, 72.0053, 64.0912, 62.6162, 64.0755, 65.5684)
	curve(plan.AASS, 2, 2, 97.3678, 72.0053, 65.5021, 64.0464, 64.0755, 65.5684)
}

// memoryL is the memory model of TV4 for a GPU with the given bytes.
func memoryL(gpuBytes int64) *solver.Memory {
	return &solver.Memory{
		Attention: solver.AttentionMemory{
			UsableBytes:    gpuBytes * 9 / 10,
			FixedBytes:     2 * 1_311_632_896,
			PerSampleBytes: 31_104*1024 + 2*2048*1024*(2+6+1),
			WorkspaceBytes: 1024 * 2 * (16*192*2 + 16*128),
		},
		Expert: solver.ExpertMemory{UsableBytes: 1 << 40},
	}
}

func TestTV4PipelineDegrees(t *testing.T) {
	for gib, want := range map[int64]map[int]int{
		24: {1: 295, 2: 147, 4: 73, 8: 36, 16: 18, 24: 12, 32: 8, 40: 7, 48: 5, 64: 4},
		6:  {1: 45, 2: 22, 3: 14, 4: 11, 6: 7, 8: 5, 12: 3, 16: 2},
	} {
		p := standardL()
		p.Memory = memoryL(gib << 30)
		for m, r1 := range want {
			if got := p.MaxPipelineDegree(m); got != r1 {
				t.Errorf("%d GiB: getMaxR1(%d) = %d, want %d", gib, m, got, r1)
			}
		}
	}
}

func TestTV4Algorithm1(t *testing.T) {
	tests := map[string]struct {
		gib        int64
		policy     plan.Policy
		m, r1, r2  int
		throughput float64
		points     int
	}{
		"24 GiB":         {24, plan.FinDEP, 13, 22, 1, 146.9527806, 30},
		"24 GiB, PPPipe": {24, plan.PPPipe, 12, 24, 1, 146.8702179, 30},
		"6 GiB":          {6, plan.FinDEP, 4, 11, 1, 144.9355868, 12},
		"6 GiB, PPPipe":  {6, plan.PPPipe, 4, 11, 1, 144.7566208, 12},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			p := standardL()
			p.Memory = memoryL(tc.gib << 30)
			p.Limits.MaxMicroBatch = 64
			r := solve(t, p, tc.policy)
			if r.MicroBatchSize != tc.m || r.R1 != tc.r1 || r.R2 != tc.r2 || r.Order != plan.ASAS {
				t.Errorf("plan %v, want m_a=%d r1=%d r2=%d ASAS", r.Plan, tc.m, tc.r1, tc.r2)
			}
			if !near(r.TokensPerSecond/1e3, tc.throughput, 1e-8) {
				t.Errorf("%v tokens/ms, want %v", r.TokensPerSecond/1e3, tc.throughput)
			}
			degrees := map[int]bool{}
			for m := 1; m <= 64; m++ {
				degrees[p.MaxPipelineDegree(m)] = true
			}
			delete(degrees, 0)
			if len(degrees) != tc.points || r.FrontierPoints > tc.points {
				t.Errorf("%d frontier points, of which %d were searched; want %d", len(degrees), r.FrontierPoints, tc.points)
			}
			if r.Limit != solver.LimitAttentionMemory {
				t.Errorf("limit %s, want %s", r.Limit, solver.LimitAttentionMemory)
			}
		})
	}
}

func TestTV5SamplesInFlight(t *testing.T) {
	for samples, want := range map[int]struct {
		m, r1, r2                  int
		findep, pppipe, sequential float64
	}{
		1: {1, 1, 6, 64.1664, 36.5755, 36.5755},
		2: {1, 2, 4, 118.8001, 72.4248, 38.2634},
		3: {1, 3, 2, 130.7546, 107.5692, 38.8612},
		4: {1, 4, 1, 137.1019, 136.5599, 39.1671},
		8: {2, 4, 1, 140.8984, 140.3982, 39.6352},
	} {
		p := standardL()
		p.Limits.SamplesInFlight = samples
		r := solve(t, p, plan.FinDEP)
		if r.MicroBatchSize != want.m || r.R1 != want.r1 || r.R2 != want.r2 || r.Order != plan.ASAS {
			t.Errorf("R=%d: plan %v, want m_a=%d r1=%d r2=%d ASAS", samples, r.Plan, want.m, want.r1, want.r2)
		}
		for policy, throughput := range map[plan.Policy]float64{plan.FinDEP: want.findep, plan.PPPipe: want.pppipe, plan.Sequential: want.sequential} {
			if got := solve(t, p, policy).TokensPerSecond / 1e3; !near(got, throughput, 1e-6) {
				t.Errorf("R=%d, %s: %v tokens/ms, want %v", samples, policy, got, throughput)
			}
		}
		if r.Limit != solver.LimitSamplesInFlight {
			t.Errorf("R=%d: limit %s", samples, r.Limit)
		}
	}
}

func TestTV6FixedBatch(t *testing.T) {
	raised := problemL(0.2, 0.3, 0.5)
	for name, tc := range map[string]struct {
		p     *solver.Problem
		order plan.Order
		want  map[int][2]float64 // r1: makespan, r2
		best  int
	}{
		"ASAS":   {standardL(), plan.ASAS, map[int][2]float64{1: {190.366, 16}, 2: {118.892, 4}, 4: {116.282, 1}, 8: {118.147, 1}}, 4},
		"AASS":   {standardL(), plan.AASS, map[int][2]float64{1: {190.366, 16}, 2: {120.251, 5}, 4: {118.396, 2}, 8: {118.147, 1}}, 8},
		"raised": {raised, plan.ASAS, map[int][2]float64{1: {331.544, 4}, 2: {221.398, 3}, 4: {330.413, 2}, 8: {568.659, 1}}, 2},
	} {
		t.Run(name, func(t *testing.T) {
			tc.p.Order, tc.p.Batch = tc.order, 8
			for r1, want := range tc.want {
				// With one allowed r1, the given batch leaves only r2 to choose.
				p := *tc.p
				p.Limits.MaxMicroBatch, p.Limits.MaxPipelineDegree = 8/r1, r1
				r := solve(t, &p, plan.FinDEP)
				if r.R1 != r1 || r.R2 != int(want[1]) || !near(r.MakespanMilliseconds, want[0], 1e-5) {
					t.Errorf("r1=%d: %v in %v ms, want r2=%v in %v ms", r1, r.Plan, r.MakespanMilliseconds, want[1], want[0])
				}
			}
			r := solve(t, tc.p, plan.FinDEP)
			if r.R1 != tc.best || r.MicroBatchSize != 8/tc.best || r.Limit != solver.LimitBatch {
				t.Errorf("best plan %v (limit %s), want r1=%d", r.Plan, r.Limit, tc.best)
			}
		})
	}
}

// A staircase is outside the affine model: throughput is not monotone in m_a,
// so such times must not go through Algorithm 1.
func TestTV7StaircaseIsNotMonotone(t *testing.T) {
	want := map[int]float64{1: 15.32, 2: 16.64, 3: 17.96, 4: 19.28, 5: 33.40, 6: 34.72, 8: 37.36}
	at := func(m int) float64 {
		k := 32 * float64(m)
		c := 0.02 + 0.0005*k
		return makespan(solver.Times{Attention: 0.05 + 0.1*float64(m), A2E: c, Expert: 0.03 + 0.01*128*math.Ceil(k/128), E2A: c}, plan.ASAS, 10, 1, 1)
	}
	for m, w := range want {
		if got := at(m); !near(got, w, 1e-12) {
			t.Errorf("m_a=%d: %v ms, want %v", m, got, w)
		}
	}
	if 4/at(4) <= 5/at(5) {
		t.Error("throughput rises from m_a=4 to 5; the staircase should make it fall")
	}
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
