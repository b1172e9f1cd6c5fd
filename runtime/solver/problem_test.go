// SPDX-License-Identifier: Apache-2.0

package solver_test

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/findep/findep-operator/runtime/plan"
	"github.com/findep/findep-operator/runtime/schedule"
	"github.com/findep/findep-operator/runtime/solver"
)

func TestValidateNamesTheField(t *testing.T) {
	for want, change := range map[string]func(*solver.Problem){
		"stages.attention.alpha is NaN":     func(p *solver.Problem) { p.Stages.Attention.Alpha = math.NaN() },
		"stages.e2a.beta is -1":             func(p *solver.Problem) { p.Stages.E2A.Beta = -1 },
		"stages.expert.beta is +Inf":        func(p *solver.Problem) { p.Stages.Expert.Beta = math.Inf(1) },
		"stages is all zero":                func(p *solver.Problem) { p.Stages = solver.Stages{} },
		"layers is 0":                       func(p *solver.Problem) { p.Layers = 0 },
		"attentionGPUs is 0":                func(p *solver.Problem) { p.AttentionGPUs = 0 },
		"sequenceTokens is 0":               func(p *solver.Problem) { p.SequenceTokens = 0 },
		"batch is -1":                       func(p *solver.Problem) { p.Batch = -1 },
		"tokensPerExpertPerSample is 0":     func(p *solver.Problem) { p.TokensPerExpertPerSample = 0 },
		"limits.maxSegments is 1000":        func(p *solver.Problem) { p.Limits.MaxSegments = 1000 },
		"limits.makespanMilliseconds is -1": func(p *solver.Problem) { p.Limits.MakespanMilliseconds = -1 },
		"limits.maxChunks is 65":            func(p *solver.Problem) { p.Limits.MaxChunks = 65 },
		"stages.attention.quadratic is -1":  func(p *solver.Problem) { p.Stages.Attention.Quadratic = -1 },
		"dense.beta is NaN":                 func(p *solver.Problem) { p.Dense.Beta = math.NaN() },
		"head.alpha is -1":                  func(p *solver.Problem) { p.Head.Alpha = -1 },
		"expertImbalance is 0.5":            func(p *solver.Problem) { p.ExpertImbalance = 0.5 },
		"expertActivation is 1.5":           func(p *solver.Problem) { p.ExpertActivation = 1.5 },
		"expertTileTokens is -1":            func(p *solver.Problem) { p.ExpertTileTokens = -1 },
		"perLayer is 2 entries":             func(p *solver.Problem) { p.PerLayer = make([]solver.Stages, 2) },
		"perLayer[25].shared.alpha is -1": func(p *solver.Problem) {
			p.PerLayer = make([]solver.Stages, 26)
			p.PerLayer[25].Shared.Alpha = -1
		},
		"limits is empty":                       func(p *solver.Problem) { p.Limits = solver.Limits{} },
		`order is "AAAA"`:                       func(p *solver.Problem) { p.Order = "AAAA" },
		"memory.attention.perSampleBytes is -1": func(p *solver.Problem) { p.Memory = memoryL(1 << 30); p.Memory.Attention.PerSampleBytes = -1 },
	} {
		p := standardL()
		p.Limits.SamplesInFlight = 4
		change(p)
		_, err := solver.Solve(p, plan.FinDEP)
		var field *solver.FieldError
		if !errors.As(err, &field) || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want one with %q", err, want)
		}
	}
}

func TestSolveRefusesAnUnknownPolicy(t *testing.T) {
	p := standardL()
	p.Limits.SamplesInFlight = 4
	if _, err := solver.Solve(p, "Tutel"); err == nil || !strings.Contains(err.Error(), `"Tutel"`) {
		t.Errorf("error %v, want one that names the policy", err)
	}
	if _, err := solver.Predict(p, plan.Plan{}); err == nil {
		t.Error("an empty plan was predicted")
	}
}

func TestRawFormInJSON(t *testing.T) {
	const raw = `{"stages":{"attention":{"alpha":0.06,"beta":0.25},"shared":{"alpha":0.06,"beta":0.18},"expert":{"alpha":0.03,"beta":0.003},
		"a2e":{"alpha":0.02,"beta":0.0026},"e2a":{"alpha":0.02,"beta":0.0026}},"layers":26,"tokensPerExpertPerSample":192,
		"attentionGPUs":2,"sequenceTokens":1024,"limits":{"samplesInFlight":2}}`
	var p solver.Problem
	if err := json.Unmarshal([]byte(raw), &p); err != nil {
		t.Fatal(err)
	}
	r := solve(t, &p, plan.FinDEP)
	data, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	var fields map[string]any
	if err := json.Unmarshal(data, &fields); err != nil {
		t.Fatal(err)
	}
	want := map[string]any{"policy": "FinDEP", "microBatchSize": 1.0, "r1": 2.0, "r2": 3.0, "order": "ASAS", "chunks": 1.0, "regime": "LatencyBound"}
	for name, v := range want {
		if diff := cmp.Diff(v, fields[name]); diff != "" {
			t.Errorf("%s in %s (-want +got):\n%s", name, data, diff)
		}
	}
}

// Any problem is solved or refused quickly, with finite numbers and a plan that
// every rank accepts and a schedule has room for.
func FuzzProblem(f *testing.F) {
	f.Add(0.1, 0.2, 0.0, 0.3, 0.01, 1.5, 0.0, 10.0, 26, 2, 1024, 0, 8, 0, int64(1000), int64(3), int64(7), uint16(0), 1)
	f.Add(0.0, 1e-15, 0.0, 0.0, 0.0, 1e12, 1e9, 0.0, 1024, 4096, 1<<24, 1<<24, 0, 256, int64(1)<<50, int64(1), int64(1), uint16(0xffff), 64)
	f.Add(1e9, 1e9, 1e9, 1e9, 1e9, 1e-12, 0.0, 1e9, 1, 1, 1, 0, 0, 0, int64(-1), int64(0), int64(0), uint16(0), 0)
	f.Add(0.1, 0.1, 0.1, 0.1, 0.1, 1.0, 0.0, 0.0, 60, 8, 4096, 0, 60000, 64, int64(-1), int64(0), int64(0), uint16(1<<3|1<<4), 8)
	f.Fuzz(func(t *testing.T, a, s, c, e, beta, kappa, load, limit float64, layers, ag, tokens, batch, inFlight, segments int, usable, perSample, perToken int64, form uint16, chunks int) {
		stage := func(alpha float64) solver.Affine { return solver.Affine{Alpha: alpha, Beta: beta} }
		p := &solver.Problem{
			Stages: solver.Stages{Attention: solver.AttentionTime{Alpha: a, Beta: beta}, Shared: stage(s), Expert: stage(e), A2E: stage(c), E2A: stage(c)},
			Layers: layers, TokensPerExpertPerSample: kappa, AttentionGPUs: ag, SequenceTokens: tokens, Batch: batch,
			ExpertLoadMilliseconds: load,
			Limits:                 solver.Limits{SamplesInFlight: inFlight, MaxSegments: segments, MakespanMilliseconds: limit, MaxChunks: chunks},
		}
		if usable >= 0 {
			p.Memory = &solver.Memory{
				Attention: solver.AttentionMemory{UsableBytes: usable, PerSampleBytes: perSample},
				Expert:    solver.ExpertMemory{UsableBytes: usable, PerTokenBytes: perToken},
			}
		}
		changeForm(p, form)
		var w solver.Solver
		for _, policy := range []plan.Policy{plan.FinDEP, plan.PPPipe, plan.Sequential} {
			r, err := w.Solve(t.Context(), p, policy)
			if err != nil {
				var field *solver.FieldError
				if !errors.As(err, &field) {
					t.Fatalf("error %v is no FieldError", err)
				}
				return
			}
			// The watchdog counts steps, so that a slow machine cannot raise it.
			if w.Steps() > mostSteps {
				t.Fatalf("%d steps, want at most %d for %+v", w.Steps(), mostSteps, p)
			}
			checkResult(t, p, &r)
			if policy != plan.FinDEP {
				continue
			}
			e, err := w.Explain(t.Context(), p, &r)
			if err != nil {
				t.Fatalf("%v explaining %+v", err, p)
			}
			checkSentences(t, p, e.Sentences)
			if w.AllSteps() > 2*mostSteps {
				t.Fatalf("%d steps with the explanation, want at most %d for %+v", w.AllSteps(), 2*mostSteps, p)
			}
		}
	})
}

// mostSteps bounds one search. Its allowance is looked at between evaluations,
// so it may be exceeded by one, by the predictions of the result, and by the
// few evaluations that find some plan after a search was cut.
const mostSteps = solver.MaxSteps + solver.MaxSteps/2

// changeForm turns each bit of a fuzzer's word into one form of problem.
func changeForm(p *solver.Problem, form uint16) {
	on := func(bit int) bool { return form&(1<<bit) != 0 }
	if on(0) {
		p.Stages.Attention.Quadratic = p.Stages.Attention.Beta
	}
	if on(1) {
		p.Dense, p.Head = p.Stages.Attention, p.Stages.Shared
	}
	if on(2) && p.Layers > 0 && p.Layers <= schedule.MaxLayers {
		p.PerLayer = slices.Repeat([]solver.Stages{p.Stages}, p.Layers)
		p.PerLayer[0].Shared.Alpha *= 2
	}
	if on(3) {
		p.ExpertTileTokens = 128
	}
	if on(4) {
		p.HalfDuplex = true
	}
	if on(5) {
		p.ExactRemainder = true
	}
	if on(6) {
		p.ExpertActivation = 0.05
	}
	if on(7) {
		p.ExpertImbalance = 1.3
	}
	if on(8) {
		p.Limits.UnequalChunks = true
	}
}

func checkResult(t *testing.T, p *solver.Problem, r *solver.Result) {
	t.Helper()
	if r.Infeasible != nil && r.R1 == 0 {
		return
	}
	if err := r.Plan.Validate(); err != nil {
		t.Fatalf("%v for %+v", err, p)
	}
	if n := p.Layers * r.R1 * r.Chunks * (2 + 3*r.R2); n > schedule.MaxTasks {
		t.Fatalf("%v makes %d tasks, more than a schedule holds", r.Plan, n)
	}
	for _, v := range []float64{r.MakespanMilliseconds, r.TokensPerSecond} {
		if !(v > 0) || math.IsInf(v, 1) {
			t.Fatalf("result %+v for %+v", r, p)
		}
	}
	if !(r.LayerPeriodMilliseconds >= 0) || !(r.Gap >= 0 && r.Gap <= 1) {
		t.Fatalf("layer period %v, gap %v for %+v", r.LayerPeriodMilliseconds, r.Gap, p)
	}
}

// The largest problems of every form end in a fraction of a second of work,
// which is bounded by counting it rather than by a clock.
func TestTheWorkOfASearchIsBounded(t *testing.T) {
	var w solver.Solver
	worst, cut := 0, false
	for _, form := range []uint16{0, 1, 1 << 2, 1 << 3, 1 << 4, 1<<3 | 1<<4, 0x1ff} {
		for _, layers := range largeLayers {
			for _, batch := range []int{0, 1 << 20} {
				p := standardL()
				p.Layers, p.SequenceTokens, p.Batch = layers, 8192, batch
				p.ExpertLoadMilliseconds = 0.1
				p.Limits = solver.Limits{MaxSegments: plan.MaxR2, MaxChunks: plan.MaxChunks, MaxMicroBatch: plan.MaxMicroBatch, MakespanMilliseconds: 1e6}
				changeForm(p, form)
				r, err := w.Solve(t.Context(), p, plan.FinDEP)
				if err != nil {
					t.Fatal(err)
				}
				checkResult(t, p, &r)
				if w.Steps() > mostSteps {
					t.Errorf("form %#x, %d layers, batch %d: %d steps, want at most %d", form, layers, batch, w.Steps(), mostSteps)
				}
				if r.SearchCut != (w.Steps() > solver.MaxSteps) && r.SearchCut {
					t.Errorf("form %#x, %d layers, batch %d: said to be cut after %d steps", form, layers, batch, w.Steps())
				}
				worst = max(worst, w.Steps())
				cut = cut || r.SearchCut
			}
		}
	}
	if !cut {
		t.Error("no search was cut; the problems are too small to prove anything")
	}
	t.Logf("at most %d steps", worst)
}

// Memory that only the smallest pieces fit leaves room in a schedule for few
// micro-batches, and that is no reason to find no plan.
func TestSmallPiecesLeaveRoomForFewMicroBatches(t *testing.T) {
	for name, change := range map[string]func(*solver.Problem){
		"whole samples": func(*solver.Problem) {},
		"chunks":        func(p *solver.Problem) { p.Limits = p.Limits.WithChunks() },
	} {
		p := standardL()
		p.Layers = 58
		p.Limits = solver.Limits{SamplesInFlight: 100_000}
		p.Memory = &solver.Memory{
			Attention: solver.AttentionMemory{UsableBytes: 1 << 40, PerSampleBytes: 1},
			// 192 tokens per expert and sample, 4 of which fit.
			Expert: solver.ExpertMemory{UsableBytes: 4 << 10, PerTokenBytes: 1 << 10},
		}
		change(p)
		r := solve(t, p, plan.FinDEP)
		if r.Infeasible != nil || r.R1 < 1 || r.TokensPerExpert > 4 {
			t.Errorf("%s: %v, infeasible %v, %v tokens per expert; want a plan with at most 4", name, r.Plan, r.Infeasible, r.TokensPerExpert)
		}
		if n := p.Layers * r.R1 * r.Chunks * (2 + 3*r.R2); n > schedule.MaxTasks {
			t.Errorf("%s: %v makes %d tasks", name, r.Plan, n)
		}
	}
}

// wholeAnswers are the largest questions there are: how to split 1,024 GPUs.
var wholeAnswers = map[string]func(*solver.Instance){
	"plain":          func(*solver.Instance) {},
	"half-duplex":    func(in *solver.Instance) { in.Options.HalfDuplex, in.Options.ExpertTileTokens = true, 128 },
	"unequal chunks": func(in *solver.Instance) { in.Options.Limits = in.Options.Limits.WithChunks() },
	"many chunks": func(in *solver.Instance) {
		in.Options.Limits.MaxChunks, in.Options.Limits.UnequalChunks = plan.MaxChunks, true
	},
	"decode of a lot": func(in *solver.Instance) { in.Workload = solver.Workload{Phase: solver.Decode, ContextTokens: 64} },
}

func wholeAnswer(t testing.TB, change func(*solver.Instance)) *solver.Instance {
	t.Helper()
	in := instance(t, v2, "b200", solver.Workload{Phase: solver.Prefill, SequenceTokens: 8192})
	in.Options.Limits.MaxSegments = plan.MaxR2
	change(in)
	return in
}

// A free split shares one allowance among its splits, and an explanation has
// allowances of its own, so that a whole answer stays within a second.
func TestTheWorkOfAWholeAnswerIsBounded(t *testing.T) {
	for name, change := range wholeAnswers {
		in := wholeAnswer(t, change)
		m, err := solver.NewModel(in.Shape, in.Profiles, in.Options)
		if err != nil {
			t.Fatal(err)
		}
		var w solver.Solver
		r, err := w.SolveTotal(t.Context(), m, &in.Workload, 1024, plan.FinDEP)
		if err != nil {
			t.Fatal(err)
		}
		if most := 2*solver.MaxSteps + solver.MaxSteps/2; w.AllSteps() > most {
			t.Errorf("%s: %d steps for all splits, want at most %d", name, w.AllSteps(), most)
		}
		e, err := w.ExplainTotal(t.Context(), m, &in.Workload, &r.Best)
		if err != nil {
			t.Fatal(err)
		}
		if most := 6 * solver.MaxSteps; w.AllSteps() > most {
			t.Errorf("%s: %d steps with the explanation, want at most %d", name, w.AllSteps(), most)
		}
		checkSentences(t, &r.Best.Problem, e.Sentences)
		t.Logf("%s: %d steps, %d splits cut", name, w.AllSteps(), r.CutSplits)
	}
}

func TestSolveHonoursCancellation(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var w solver.Solver
	for name, change := range map[string]func(*solver.Problem){
		"free":         func(*solver.Problem) {},
		"batch":        func(p *solver.Problem) { p.Batch = 8 },
		"every sample": func(p *solver.Problem) { p.HalfDuplex = true },
		"chunks":       func(p *solver.Problem) { p.Limits.MaxChunks, p.Limits.UnequalChunks = 8, true },
	} {
		p := standardL()
		p.Limits.SamplesInFlight = 4096
		change(p)
		if _, err := w.Solve(ctx, p, plan.FinDEP); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: error %v, want context.Canceled", name, err)
		}
		if w.Steps() > 100_000 {
			t.Errorf("%s: %d steps after cancellation", name, w.Steps())
		}
	}
}
