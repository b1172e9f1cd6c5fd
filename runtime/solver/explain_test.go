// SPDX-License-Identifier: Apache-2.0

package solver_test

import (
	"context"
	"errors"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/findep/findep-operator/runtime/plan"
	"github.com/findep/findep-operator/runtime/solver"
)

func explain(t *testing.T, p *solver.Problem, policy plan.Policy) (solver.Result, solver.Explanation) {
	t.Helper()
	var w solver.Solver
	r, err := w.Solve(t.Context(), p, policy)
	if err != nil {
		t.Fatal(err)
	}
	e, err := w.Explain(t.Context(), p, &r)
	if err != nil {
		t.Fatal(err)
	}
	return r, e
}

// number is how sentences write numbers; some are part of a name (r1, A2E).
var (
	number   = regexp.MustCompile(`[-+]?\d+(\.\d+)?(e[-+]?\d+)?`)
	percents = regexp.MustCompile(`(^|[ (])([-+]?[0-9.]+(e[-+]?\d+)?) %`)
)

// checkSentences refuses what no person wants to read: numbers that are not,
// times and shares below zero, shares above all there is, noise of rounding.
func checkSentences(t *testing.T, p *solver.Problem, sentences []string) {
	t.Helper()
	if len(sentences) == 0 {
		t.Fatalf("nothing is explained of %+v", p)
	}
	for _, s := range sentences {
		for _, bad := range []string{"NaN", "Inf", "%!", "e-1", "-0 ", "-0.0 ", "  ", "<nil>"} {
			if strings.Contains(s, bad) {
				t.Fatalf("%q contains %q for %+v", s, bad, p)
			}
		}
		if !strings.HasSuffix(s, ".") {
			t.Fatalf("%q is no sentence", s)
		}
		change := strings.Contains(s, "would change")
		for _, m := range number.FindAllString(s, -1) {
			if v, err := strconv.ParseFloat(m, 64); err != nil || v < 0 && !change || math.IsInf(v, 0) {
				t.Fatalf("%q has the number %s for %+v", s, m, p)
			}
		}
		if change {
			continue
		}
		for _, m := range percents.FindAllStringSubmatch(s, -1) {
			if v, _ := strconv.ParseFloat(m[2], 64); v > 100 {
				t.Fatalf("%q has a share above everything for %+v", s, p)
			}
		}
	}
}

// Whatever the problem, its explanation has numbers that make sense.
func TestSentencesMakeSense(t *testing.T) {
	var w solver.Solver
	for form := range len(forms) + 1 {
		for seed := range uint64(200) {
			r := newRand(seed, 700+uint64(form))
			p := randomForm(r, form)
			if r.IntN(4) == 0 {
				// Links that cost next to nothing leave nothing but rounding.
				p.Stages.A2E, p.Stages.E2A = solver.Affine{Alpha: 1e-14}, solver.Affine{}
			}
			policy := []plan.Policy{plan.FinDEP, plan.PPPipe, plan.Sequential}[r.IntN(3)]
			got, err := w.Solve(t.Context(), p, policy)
			if err != nil {
				t.Fatal(err)
			}
			e, err := w.Explain(t.Context(), p, &got)
			if err != nil {
				t.Fatal(err)
			}
			checkSentences(t, p, e.Sentences)
			if e.ExposedCommunicationMilliseconds < 0 || e.ExposedShare < 0 || e.ExposedShare > 1 {
				t.Fatalf("seed %d: exposed %v ms, %v", seed, e.ExposedCommunicationMilliseconds, e.ExposedShare)
			}
			for name, share := range map[string]float64{"A": e.Idle.Attention, "A2E": e.Idle.A2E, "E": e.Idle.Expert, "E2A": e.Idle.E2A} {
				if share < 0 || share > 1 {
					t.Fatalf("seed %d: %s idles %v of the time", seed, name, share)
				}
			}
		}
	}
}

func kinds(e solver.Explanation) []solver.SignatureKind {
	var list []solver.SignatureKind
	for _, s := range e.Signatures {
		list = append(list, s.Kind)
	}
	return list
}

func TestExplainLatencyBound(t *testing.T) {
	p := causal(false, 1024)
	p.Limits.SamplesInFlight, p.Limits.MaxChunks = 1, 16
	r, e := explain(t, p, plan.FinDEP)
	if e.Regime != r.Regime || e.Limit != solver.LimitSamplesInFlight || len(e.Signatures) != 0 {
		t.Errorf("regime %s, limit %s, signatures %v", e.Regime, e.Limit, e.Signatures)
	}
	if math.Abs(e.Busy.Expert+e.Idle.Expert-1) > 1e-12 || e.Busy.Expert < 0.1 || e.Busy.Attention > 1 {
		t.Errorf("busy %+v, idle %+v", e.Busy, e.Idle)
	}
	if e.ExposedShare <= 0 || e.ExposedShare >= 1 {
		t.Errorf("%v of the makespan is exposed communication", e.ExposedShare)
	}
	want := map[string]plan.Policy{"PPPipe": plan.PPPipe, "Sequential": plan.Sequential, "FinDEP without chunks": plan.FinDEP}
	for _, b := range e.Baselines {
		policy := want[b.Name]
		delete(want, b.Name)
		if policy == "" || b.Plan.Policy != policy || math.Abs(b.Gain*b.TokensPerSecond-r.TokensPerSecond) > 1e-6 {
			t.Errorf("baseline %+v of %v tokens/s", b, r.TokensPerSecond)
		}
		if b.Name == "PPPipe" && b.Plan.Chunks < 2 {
			t.Errorf("PPPipe is compared without chunks: %v", b.Plan)
		}
	}
	if len(want) != 0 {
		t.Errorf("baselines missing: %v", want)
	}
	text := strings.Join(e.Sentences, "\n")
	for _, phrase := range []string{"Busy: attention", "cap on samples in flight", "times the throughput of the best plan of PPPipe"} {
		if !strings.Contains(text, phrase) {
			t.Errorf("the explanation does not say %q:\n%s", phrase, text)
		}
	}
}

func TestExplainNamesFailureSignatures(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*solver.Problem)
		want   []solver.SignatureKind
		phrase string
	}{
		"many samples are bound by computation": {
			func(p *solver.Problem) { p.Limits.SamplesInFlight = 64 },
			[]solver.SignatureKind{solver.ComputeBound}, "no gain over PPPipe"},
		"short sequences pay for launches": {
			func(p *solver.Problem) {
				p.Batch, p.TokensPerExpertPerSample = 1, 0.01
				p.Stages.Attention.Beta, p.Stages.Shared.Beta = 1e-3, 1e-3
			},
			[]solver.SignatureKind{solver.LaunchOverhead}, "launch overhead dominates"},
		"a GPU that is too small": {
			func(p *solver.Problem) { p.Memory = memoryL(2 << 30) },
			[]solver.SignatureKind{solver.NoMicroBatchFits}, "Attention group needs"},
	} {
		t.Run(name, func(t *testing.T) {
			p := standardL()
			tc.change(p)
			_, e := explain(t, p, plan.FinDEP)
			if !slices.Equal(kinds(e), tc.want) {
				t.Errorf("signatures %v, want %v", kinds(e), tc.want)
			}
			if text := strings.Join(e.Sentences, "\n"); !strings.Contains(text, tc.phrase) {
				t.Errorf("the explanation does not say %q:\n%s", tc.phrase, text)
			}
		})
	}
	p := standardL()
	p.Memory = memoryL(2 << 30)
	r, e := explain(t, p, plan.FinDEP)
	if got, want := e.Signatures[0].MissingBytes, r.Infeasible.NeedBytes-r.Infeasible.HaveBytes; got != want || got <= 0 {
		t.Errorf("%d bytes are missing, want %d", got, want)
	}
}

func TestExplainSplitSaysWhatAGPUChanges(t *testing.T) {
	in := instance(t, v2, "h100-sxm", prefill(2048))
	m, err := solver.NewModel(in.Shape, in.Profiles, in.Options)
	if err != nil {
		t.Fatal(err)
	}
	at := func(split solver.Split) solver.Choice {
		c, err := solver.SolveModel(in, split, plan.FinDEP)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	var w solver.Solver
	c := at(solver.Split{Attention: 1, Expert: 7})
	e, err := w.ExplainSplit(t.Context(), m, &in.Workload, &c)
	if err != nil {
		t.Fatal(err)
	}
	want := []solver.Split{{Attention: 2, Expert: 7}, {Attention: 1, Expert: 8}, {Attention: 1, Expert: 6}}
	if len(e.Changes) != len(want) {
		t.Fatalf("changes %+v, want those of %v", e.Changes, want)
	}
	for i, change := range e.Changes {
		other := at(want[i])
		if change.Split != want[i] || (change.Infeasible == nil) != (other.Result.Infeasible == nil) {
			t.Errorf("change %+v, want that of %v", change, want[i])
		}
		if change.Infeasible == nil && !near(change.Factor, other.Result.TokensPerSecond/c.Result.TokensPerSecond, 1e-12) {
			t.Errorf("%v changes the throughput by %v", change.Split, change.Factor)
		}
	}
	if e.Changes[2].Infeasible == nil {
		t.Error("six GPUs cannot hold the experts, but no reason is given")
	}
	c = at(solver.Split{Attention: 1, Expert: 6})
	if e, err = w.ExplainSplit(t.Context(), m, &in.Workload, &c); err != nil || !strings.Contains(strings.Join(e.Sentences, "\n"), "One more expert GPU (1:7) would make a plan possible") {
		t.Errorf("%v; explanation of a split that does not fit:\n%s", err, strings.Join(e.Sentences, "\n"))
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	c = at(solver.Split{Attention: 1, Expert: 7})
	if _, err := w.ExplainSplit(ctx, m, &in.Workload, &c); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want context.Canceled", err)
	}
}

// Every kind of problem has an explanation in finite numbers.
func TestExplainEveryForm(t *testing.T) {
	for form := range len(forms) + 1 {
		for seed := range uint64(40) {
			p := randomForm(newRand(seed, 77), form)
			r, e := explain(t, p, plan.FinDEP)
			if len(e.Sentences) == 0 {
				t.Fatalf("%s, seed %d: nothing is said about %+v", formName(form), seed, r)
			}
			for _, share := range []float64{e.Busy.Attention, e.Busy.A2E, e.Busy.Expert, e.Busy.E2A, e.ExposedShare} {
				if !(share > -1e-9 && share < 1+1e-9) {
					t.Fatalf("%s, seed %d: share %v in %+v", formName(form), seed, share, e)
				}
			}
			if strings.Contains(strings.Join(e.Sentences, ""), "NaN") {
				t.Fatalf("%s, seed %d: %v", formName(form), seed, e.Sentences)
			}
		}
	}
}

// Where the split is free, the other policies are also taken at their own best
// one, which is the only comparison that nobody can call unfair.
func TestExplainTotalComparesAtEveryPolicysOwnSplit(t *testing.T) {
	found := false
	for _, tokens := range []int{256, 1024, 4096, 16384} {
		in := instance(t, v2, "h20", solver.Workload{Phase: solver.Prefill, SequenceTokens: tokens})
		in.Options.Limits.SamplesInFlight = 1
		m, err := solver.NewModel(in.Shape, in.Profiles, in.Options)
		if err != nil {
			t.Fatal(err)
		}
		r, err := solver.SolveTotal(t.Context(), in, 24, plan.FinDEP)
		if err != nil {
			t.Fatal(err)
		}
		var w solver.Solver
		e, err := w.ExplainTotal(t.Context(), m, &in.Workload, &r.Best)
		if err != nil {
			t.Fatal(err)
		}
		same := map[string]float64{}
		for _, b := range e.Baselines {
			if b.Split == (solver.Split{}) {
				same[b.Name] = b.TokensPerSecond
			}
		}
		for _, policy := range []plan.Policy{plan.PPPipe, plan.Sequential} {
			own, err := solver.SolveTotal(t.Context(), in, 24, policy)
			if err != nil {
				t.Fatal(err)
			}
			got := slices.IndexFunc(e.Baselines, func(b solver.Baseline) bool { return b.Name == string(policy) && b.Split != solver.Split{} })
			if own.Best.Split == r.Best.Split {
				if got >= 0 {
					t.Errorf("%d tokens, %s: its best split is the same and yet reported apart", tokens, policy)
				}
				continue
			}
			found = true
			if got < 0 {
				t.Fatalf("%d tokens, %s: its own best split %v is missing", tokens, policy, own.Best.Split)
			}
			b := e.Baselines[got]
			if b.Split != own.Best.Split || b.Plan != own.Best.Result.Plan || b.TokensPerSecond < same[b.Name] ||
				math.Abs(b.Gain*b.TokensPerSecond/r.Best.Result.TokensPerSecond-1) > 1e-9 {
				t.Errorf("%d tokens: %+v, want %v of split %v", tokens, b, own.Best.Result.Plan, own.Best.Split)
			}
		}
		checkSentences(t, &r.Best.Problem, e.Sentences)
	}
	if !found {
		t.Error("every policy likes the same split; the test lost its meaning")
	}
}
