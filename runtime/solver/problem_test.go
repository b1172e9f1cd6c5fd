// SPDX-License-Identifier: Apache-2.0

package solver_test

import (
	"encoding/json"
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/findep/findep-operator/runtime/plan"
	"github.com/findep/findep-operator/runtime/solver"
)

func TestValidateNamesTheField(t *testing.T) {
	for want, change := range map[string]func(*solver.Problem){
		"stages.attention.alpha is NaN":         func(p *solver.Problem) { p.Stages.Attention.Alpha = math.NaN() },
		"stages.e2a.beta is -1":                 func(p *solver.Problem) { p.Stages.E2A.Beta = -1 },
		"stages.expert.beta is +Inf":            func(p *solver.Problem) { p.Stages.Expert.Beta = math.Inf(1) },
		"stages is all zero":                    func(p *solver.Problem) { p.Stages = solver.Stages{} },
		"layers is 0":                           func(p *solver.Problem) { p.Layers = 0 },
		"attentionGPUs is 0":                    func(p *solver.Problem) { p.AttentionGPUs = 0 },
		"sequenceTokens is 0":                   func(p *solver.Problem) { p.SequenceTokens = 0 },
		"batch is -1":                           func(p *solver.Problem) { p.Batch = -1 },
		"tokensPerExpertPerSample is 0":         func(p *solver.Problem) { p.TokensPerExpertPerSample = 0 },
		"limits.maxSegments is 1000":            func(p *solver.Problem) { p.Limits.MaxSegments = 1000 },
		"limits.makespanMilliseconds is -1":     func(p *solver.Problem) { p.Limits.MakespanMilliseconds = -1 },
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
// every rank accepts.
func FuzzSolve(f *testing.F) {
	f.Add(0.1, 0.2, 0.0, 0.3, 0.01, 1.5, 0.0, 10.0, 26, 2, 1024, 0, 8, 0, int64(1000), int64(3), int64(7))
	f.Add(0.0, 1e-15, 0.0, 0.0, 0.0, 1e12, 1e9, 0.0, 1024, 4096, 1<<24, 1<<24, 0, 256, int64(1)<<50, int64(1), int64(1))
	f.Add(1e9, 1e9, 1e9, 1e9, 1e9, 1e-12, 0.0, 1e9, 1, 1, 1, 0, 0, 0, int64(-1), int64(0), int64(0))
	f.Fuzz(func(t *testing.T, a, s, c, e, beta, kappa, load, limit float64, layers, ag, tokens, batch, inFlight, segments int, usable, perSample, perToken int64) {
		stage := func(alpha float64) solver.Affine { return solver.Affine{Alpha: alpha, Beta: beta} }
		p := &solver.Problem{
			Stages: solver.Stages{Attention: solver.AttentionTime{Alpha: a, Beta: beta}, Shared: stage(s), Expert: stage(e), A2E: stage(c), E2A: stage(c)},
			Layers: layers, TokensPerExpertPerSample: kappa, AttentionGPUs: ag, SequenceTokens: tokens, Batch: batch,
			ExpertLoadMilliseconds: load,
			Limits:                 solver.Limits{SamplesInFlight: inFlight, MaxSegments: segments, MakespanMilliseconds: limit},
		}
		if usable >= 0 {
			p.Memory = &solver.Memory{
				Attention: solver.AttentionMemory{UsableBytes: usable, PerSampleBytes: perSample},
				Expert:    solver.ExpertMemory{UsableBytes: usable, PerTokenBytes: perToken},
			}
		}
		for _, policy := range []plan.Policy{plan.FinDEP, plan.PPPipe, plan.Sequential} {
			r, err := solver.Solve(p, policy)
			if err != nil {
				var field *solver.FieldError
				if !errors.As(err, &field) {
					t.Fatalf("error %v is no FieldError", err)
				}
				return
			}
			const most = 3_000_000 // well below a second
			if r.Candidates > most {
				t.Fatalf("%d candidates for %+v", r.Candidates, p)
			}
			if r.Infeasible != nil && r.R1 == 0 {
				continue
			}
			if err := r.Plan.Validate(); err != nil {
				t.Fatalf("%v for %+v", err, p)
			}
			for _, v := range []float64{r.MakespanMilliseconds, r.TokensPerSecond, r.LayerPeriodMilliseconds} {
				if !(v > 0) || math.IsInf(v, 1) {
					t.Fatalf("result %+v for %+v", r, p)
				}
			}
		}
	})
}
