// SPDX-License-Identifier: Apache-2.0

package solver_test

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/findep/findep-operator/runtime/plan"
	"github.com/findep/findep-operator/runtime/solver"
)

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
