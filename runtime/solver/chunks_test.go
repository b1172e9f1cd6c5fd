// SPDX-License-Identifier: Apache-2.0

package solver_test

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/findep/findep-operator/runtime/plan"
	"github.com/findep/findep-operator/runtime/solver"
)

// causal is problem L (DeepSeek-V2-Lite's shape, or Qwen3-30B-A3B's with the
// same machine) with a causal mask and sequences of s tokens.
func causal(qwen bool, s float64) *solver.Problem {
	const gemm, core, link, perMAC, perPair, perByte = 0.01, 0.02, 0.02, 1e-11, 2e-11, 2e-8
	m, h, experts, topK, layers, local := 2048.0, 1408.0, 64.0, 6.0, 26, 32.0
	macs, heads := float64(2048*3072+2048*576+512*4096+2048*2048), 16*320.0
	shared := solver.Affine{Alpha: 3 * gemm, Beta: 3 * 2 * perMAC * s * m * h}
	if qwen {
		h, experts, topK, layers, local = 768, 128, 8, 48, 64
		macs, heads = float64(2*2048*32*128+2*2048*4*128), 32*256.0
		shared = solver.Affine{}
	}
	transfer := solver.Affine{Alpha: link, Beta: perByte * 2 * local * m}
	return &solver.Problem{
		Stages: solver.Stages{
			Attention: solver.AttentionTime{Alpha: 4*gemm + core, Beta: perMAC * s * macs, Quadratic: perPair * s * s / 2 * heads},
			Shared:    shared,
			Expert:    solver.Affine{Alpha: 3 * gemm, Beta: 3 * local * perMAC * m * h},
			A2E:       transfer, E2A: transfer,
		},
		Layers: layers, AttentionGPUs: 2, SequenceTokens: int(s), TokensPerExpertPerSample: 2 * topK * s / experts,
		Limits: solver.Limits{MaxSegments: 8},
	}
}

// The table of what causal chunks gain, in thousand tokens per second, from an
// independent simulation that tried every plan with at most 16 chunks and 8
// segments.
func TestCausalChunksTable(t *testing.T) {
	for _, tc := range []struct {
		name                              string
		qwen                              bool
		tokens                            float64
		samples                           int
		pppipe, findep, chunkedPPPipe, ck float64
	}{
		{"V2-Lite, S=1024, R=1", false, 1024, 1, 38.1, 67.1, 105.1, 108.8},
		{"V2-Lite, S=1024, R=2", false, 1024, 2, 75.3, 123.5, 129.8, 130.3},
		{"V2-Lite, S=1024, R=4", false, 1024, 4, 136.8, 137.2, 136.8, 137.3},
		{"V2-Lite, S=8192, R=1", false, 8192, 1, 34.2, 62.0, 97.5, 101.4},
		{"V2-Lite, S=8192, R=2", false, 8192, 2, 67.5, 102.9, 100.3, 102.9},
		{"Qwen3-30B, S=1024, R=1", true, 1024, 1, 20.0, 31.5, 56.1, 56.1},
		{"Qwen3-30B, S=8192, R=1", true, 8192, 1, 16.3, 24.8, 46.4, 46.9},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := causal(tc.qwen, tc.tokens)
			p.Limits.SamplesInFlight = tc.samples
			best := func(policy plan.Policy, chunks int, want float64) solver.Result {
				p.Limits.MaxChunks = chunks
				r := solve(t, p, policy)
				if math.Abs(r.TokensPerSecond/1e3-want) > 0.1 || r.Gap != 0 {
					t.Errorf("%v serves %.2f thousand tokens/s (gap %v), want %v", r.Plan, r.TokensPerSecond/1e3, r.Gap, want)
				}
				return r
			}
			pppipe := best(plan.PPPipe, 1, tc.pppipe)
			findep := best(plan.FinDEP, 1, tc.findep)
			best(plan.PPPipe, 16, tc.chunkedPPPipe)
			chunked := best(plan.FinDEP, 16, tc.ck)
			t.Logf("%v: %.2f times PPPipe, %.2f times FinDEP", chunked.Plan,
				chunked.TokensPerSecond/pppipe.TokensPerSecond, chunked.TokensPerSecond/findep.TokensPerSecond)
			if tc.samples > 1 {
				return
			}
			if chunked.TokensPerSecond < 2.4*pppipe.TokensPerSecond || chunked.TokensPerSecond < 1.45*findep.TokensPerSecond {
				t.Errorf("%v serves %.1f tokens/s; want 2.4 times PPPipe's %.1f and 1.45 times FinDEP's %.1f",
					chunked.Plan, chunked.TokensPerSecond, pppipe.TokensPerSecond, findep.TokensPerSecond)
			}
		})
	}
}

// Unequal chunks are never worse than equal ones, and close to the best of a
// full scan over one boundary.
func TestUnequalChunks(t *testing.T) {
	var w solver.Solver
	var e solver.Evaluator
	better, worst := 0, 0.0
	for seed := range uint64(60) {
		r := rand.New(rand.NewPCG(seed, 31))
		p := randomProblem(r)
		p.SequenceTokens, p.Stages.Attention.Quadratic = 4096, 2*r.Float64()
		p.Limits = solver.Limits{SamplesInFlight: 1 + r.IntN(2), MaxSegments: 4, MaxChunks: 2}
		equal := solve(t, p, plan.FinDEP)
		p.Limits.UnequalChunks = true
		got, err := w.Solve(t.Context(), p, plan.FinDEP)
		if err != nil {
			t.Fatal(err)
		}
		if got.MakespanMilliseconds > equal.MakespanMilliseconds*(1+1e-12) {
			t.Fatalf("seed %d: %v takes %v ms, equal chunks %v", seed, got.Plan, got.MakespanMilliseconds, equal.MakespanMilliseconds)
		}
		if err := got.Plan.Validate(); err != nil {
			t.Fatal(err)
		}
		if got.ChunkBoundaries != "" {
			better++
		}
		worst = max(worst, got.MakespanMilliseconds/min(equal.MakespanMilliseconds, scanOfTwo(t, &e, p, got.Plan))-1)
	}
	t.Logf("%d of 60 plans have unequal chunks; the worst is %.2f %% above the full scan", better, 100*worst)
	if better == 0 {
		t.Error("no plan has unequal chunks; the test lost its meaning")
	}
	if worst > 0.01 {
		t.Errorf("a plan is %.2f %% slower than the best of a scan, want at most 1 %%", 100*worst)
	}
}

// scanOfTwo is the least makespan over two chunks that meet at every third
// permille, every r2 and both orders.
func scanOfTwo(t *testing.T, e *solver.Evaluator, p *solver.Problem, c plan.Plan) float64 {
	t.Helper()
	least := math.Inf(1)
	c.Chunks = 2
	for at := 1; at < 1000; at += 3 {
		b, err := plan.NewBoundaries([]int{at})
		if err != nil {
			t.Fatal(err)
		}
		c.ChunkBoundaries = b
		for c.R2 = 1; c.R2 <= p.Limits.MaxSegments; c.R2++ {
			for _, c.Order = range []plan.Order{plan.ASAS, plan.AASS} {
				least = min(least, e.Makespan(p, c))
			}
		}
	}
	return least
}

// GEMM tiles make throughput fall between multiples of the tile, so the best
// micro-batch is not the largest (TV7).
func TestTV7TilesChooseTheFullOne(t *testing.T) {
	p := &solver.Problem{
		Stages: solver.Stages{
			Attention: solver.AttentionTime{Alpha: 0.05, Beta: 0.1}, Expert: solver.Affine{Alpha: 0.03, Beta: 0.01},
			A2E: solver.Affine{Alpha: 0.02, Beta: 0.0005}, E2A: solver.Affine{Alpha: 0.02, Beta: 0.0005},
		},
		Layers: 10, AttentionGPUs: 1, SequenceTokens: 32, TokensPerExpertPerSample: 32, ExpertTileTokens: 128,
		Limits: solver.Limits{MaxPipelineDegree: 1, MaxSegments: 1},
	}
	for most, want := range map[int]struct {
		m    int
		time float64
	}{1: {1, 15.32}, 2: {2, 16.64}, 3: {3, 17.96}, 4: {4, 19.28}, 5: {4, 19.28}, 6: {4, 19.28}, 7: {4, 19.28}, 8: {8, 37.36}} {
		p.Limits.MaxMicroBatch = most
		if r := solve(t, p, plan.FinDEP); r.MicroBatchSize != want.m || !near(r.MakespanMilliseconds, want.time, 1e-12) {
			t.Errorf("at most %d samples: %v in %v ms, want m_a=%d in %v", most, r.Plan, r.MakespanMilliseconds, want.m, want.time)
		}
	}
}
