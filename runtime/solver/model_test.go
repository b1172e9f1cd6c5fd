// SPDX-License-Identifier: Apache-2.0

package solver_test

import (
	"context"
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/findep/findep-operator/runtime/model"
	"github.com/findep/findep-operator/runtime/plan"
	"github.com/findep/findep-operator/runtime/profile"
	"github.com/findep/findep-operator/runtime/solver"
)

// instance is a catalogue model on GPUs of one preset.
func instance(t testing.TB, name, preset string, w solver.Workload) *solver.Instance {
	t.Helper()
	shape, err := model.ByName(name)
	if err != nil {
		t.Fatal(err)
	}
	p, err := profile.Preset(preset)
	if err != nil {
		t.Fatal(err)
	}
	return &solver.Instance{Shape: shape, Profiles: solver.Profiles{Attention: p, Expert: p}, Workload: w}
}

func prefill(tokens int) solver.Workload {
	return solver.Workload{Phase: solver.Prefill, SequenceTokens: tokens}
}

const (
	v2Lite  = "deepseek-ai/DeepSeek-V2-Lite"
	v2      = "deepseek-ai/DeepSeek-V2"
	qwen30b = "Qwen/Qwen3-30B-A3B"
)

// exactProfile has the coefficients of problem L in the profile's units.
func exactProfile() *profile.Profile {
	gemm := profile.Compute{AlphaMicroseconds: 10, MicrosecondsPerGigaMAC: 10}
	return &profile.Profile{
		Name: "L", MemoryBytes: 24 << 30, UsableMemoryPermille: 900,
		GEMM: gemm, GroupedGEMM: gemm, Attention: profile.Compute{AlphaMicroseconds: 20, MicrosecondsPerGigaMAC: 20},
		Link: profile.Transfer{AlphaMicroseconds: 20, MicrosecondsPerMegabyte: 20},
	}
}

// The model form must reproduce problem L, apart from what that leaves out: it
// has no router, one launch per shared expert, and attention without a mask.
func TestFromModelReproducesProblemL(t *testing.T) {
	in := instance(t, v2Lite, "cpu", prefill(1024))
	in.Profiles = solver.Profiles{Attention: exactProfile(), Expert: exactProfile()}
	in.Options.ReplicatedTransfers = true
	p, err := solver.FromModel(in, solver.Split{Attention: 2, Expert: 2})
	if err != nil {
		t.Fatal(err)
	}
	want := standardL()
	router := solver.Affine{Alpha: 0.01, Beta: 1024 * 2048 * 64 * 1e-11}
	masked := 2e-11 * 16 * 320 * (1024*1024 - 1024*1025.0/2)
	want.Stages.Attention.Alpha += router.Alpha
	// Half of the core is masked away, and half of a token is on the diagonal.
	core := 2e-11 * 16 * 320 * 1024 * 1024 / 2
	want.Stages.Attention.Beta += router.Beta - masked - core
	want.Stages.Attention.Quadratic = core
	want.Stages.Shared.Alpha /= 2
	if diff := cmp.Diff(want.Stages, p.Stages, cmpopts.EquateApprox(1e-12, 1e-15)); diff != "" {
		t.Errorf("stages (-want +got):\n%s", diff)
	}
	if p.Layers != want.Layers || p.TokensPerExpertPerSample != want.TokensPerExpertPerSample || p.SequenceTokens != 1024 {
		t.Errorf("problem %+v, want that of %+v", p, want)
	}
	// One dense layer and the head run outside the pipeline.
	macs := 13_762_560 + 3*2048*10944.0
	dense := solver.AttentionTime{
		Alpha:     4*0.01 + 0.02 + 3*0.01, // projections, core, dense MLP
		Beta:      1e-11*1024*macs + 2e-11*16*320*1024/2,
		Quadratic: core,
	}
	head := solver.Affine{Alpha: 0.01, Beta: 1e-11 * 2048 * 102400}
	if diff := cmp.Diff([]any{dense, head}, []any{p.Dense, p.Head}, cmpopts.EquateApprox(1e-12, 1e-15)); diff != "" {
		t.Errorf("dense layers and head (-want +got):\n%s", diff)
	}
}

func TestMemoryOfModelForm(t *testing.T) {
	in := instance(t, v2Lite, "h100-sxm", solver.Workload{Phase: solver.Prefill, SequenceTokens: 1024, ContextTokens: 4096})
	p, err := solver.FromModel(in, solver.Split{Attention: 2, Expert: 5})
	if err != nil {
		t.Fatal(err)
	}
	// 13 experts on the fullest of 5 GPUs; a token reaches 5*(1-C(51,6)/C(64,6)) = 3.80 of them.
	want := solver.Memory{
		Attention: solver.AttentionMemory{
			UsableBytes:    (80<<30)*9/10 - 2<<30,
			FixedBytes:     2 * 1_311_632_896,
			PerSampleBytes: 31_104*4096 + 2*2048*1024*(2+4+4),
			WorkspaceBytes: 2 * 1024 * 2 * 10944,
		},
		Expert: solver.ExpertMemory{
			UsableBytes:   (80<<30)*9/10 - 2<<30,
			FixedBytes:    2 * 26 * 13 * 8_650_752,
			PerTokenBytes: 2 * 2 * 13 * 2 * (2048 + 1408),
		},
	}
	if diff := cmp.Diff(&want, p.Memory); diff != "" {
		t.Errorf("memory (-want +got):\n%s", diff)
	}
}

// TestLinkBuffersAreNotUsable: two links to every rank opposite, on the CPU.
func TestLinkBuffersAreNotUsable(t *testing.T) {
	const mib = 1 << 20
	for name, tc := range map[string]struct {
		backend           string
		memory            int64
		split             solver.Split
		attention, expert int64
	}{
		"each group has the other's links": {profile.BackendCPU, 1000 * mib, solver.Split{Attention: 2, Expert: 5}, 960 * mib, 984 * mib},
		"GPUs reserve them":                {profile.BackendCUDA, 1000 * mib, solver.Split{Attention: 2, Expert: 5}, 1000 * mib, 1000 * mib},
		"nothing is left":                  {profile.BackendCPU, 30 * mib, solver.Split{Attention: 2, Expert: 5}, 0, 14 * mib},
	} {
		t.Run(name, func(t *testing.T) {
			in := instance(t, v2Lite, "cpu", prefill(16))
			p := *in.Profiles.Attention
			p.Device.Backend, p.MemoryBytes, p.UsableMemoryPermille, p.ReservedBytes = tc.backend, tc.memory, 1000, 0
			in.Profiles = solver.Profiles{Attention: &p, Expert: &p}
			problem, err := solver.FromModel(in, tc.split)
			if err != nil {
				t.Fatal(err)
			}
			if a, e := problem.Memory.Attention.UsableBytes, problem.Memory.Expert.UsableBytes; a != tc.attention || e != tc.expert {
				t.Errorf("attention may use %d bytes, experts %d, want %d and %d", a, e, tc.attention, tc.expert)
			}
		})
	}
}

func TestElementSizes(t *testing.T) {
	in := instance(t, v2Lite, "h100-sxm", prefill(1024))
	bytes := func(d model.DType) (weights, perSample int64) {
		in.Options.DType = d
		p, err := solver.FromModel(in, solver.Split{Attention: 1, Expert: 1})
		if err != nil {
			t.Fatal(err)
		}
		return p.Memory.Expert.FixedBytes, p.Memory.Attention.PerSampleBytes
	}
	w16, s16 := bytes("")
	for d, factor := range map[model.DType][2]float64{model.BFloat16: {1, 1}, model.Float32: {2, 2}, model.Float8: {0.5, 1}} {
		w, s := bytes(d)
		if float64(w) != factor[0]*float64(w16) || float64(s) != factor[1]*float64(s16) {
			t.Errorf("%s: %d bytes of weights, %d per sample; want %v times %d and %d", d, w, s, factor, w16, s16)
		}
	}
}

// Copies per token of section 1.12, seen through the link's slope relative to
// one copy per expert.
func TestTokensTravelOncePerExpertGPU(t *testing.T) {
	for _, tc := range []struct {
		name   string
		eg     int
		copies float64
	}{
		{v2, 5, 3.7204}, {v2, 8, 4.4586}, {"deepseek-ai/DeepSeek-V3", 8, 5.2947},
		{qwen30b, 4, 3.6290}, {v2Lite, 2, 1.9758}, {v2Lite, 4, 3.3453},
	} {
		in := instance(t, tc.name, "h100-sxm", prefill(128))
		slope := func(replicated bool) float64 {
			in.Options.ReplicatedTransfers = replicated
			p, err := solver.FromModel(in, solver.Split{Attention: tc.eg, Expert: tc.eg})
			if err != nil {
				t.Fatal(err)
			}
			return p.Stages.A2E.Beta
		}
		if got := slope(false) / slope(true) * float64(in.Shape.MoE.ExpertsPerToken); math.Abs(got-tc.copies) > 5e-5 {
			t.Errorf("%s on %d expert GPUs: %v copies per token, want %v", tc.name, tc.eg, got, tc.copies)
		}
	}
}

// The smaller group carries the same rows over fewer links.
func TestLinkCountsTheBusierSide(t *testing.T) {
	in := instance(t, v2Lite, "h100-sxm", prefill(128))
	in.Options.ReplicatedTransfers = true
	perToken := 6 * 2048 * 2 * in.Profiles.Attention.Link.MillisecondsPerByte()
	for _, s := range []solver.Split{{Attention: 1, Expert: 4}, {Attention: 4, Expert: 1}, {Attention: 4, Expert: 4}} {
		p, err := solver.FromModel(in, s)
		if err != nil {
			t.Fatal(err)
		}
		// One sample per attention GPU, one segment: all tokens times six rows.
		got := p.Stages.A2E.Beta * p.TokensPerExpertPerSample
		want := perToken * 128 * float64(s.Attention) / float64(min(s.Attention, s.Expert))
		if !near(got, want, 1e-12) {
			t.Errorf("%s: a transfer takes %v ms, want %v", s, got, want)
		}
	}
}

func TestDecodeIsBoundByMemory(t *testing.T) {
	in := instance(t, v2, "h100-sxm", solver.Workload{Phase: solver.Decode, ContextTokens: 4096, Batch: 64})
	in.Options.Limits.MaxSegments = 16
	long, err := solver.SolveModel(in, solver.Split{Attention: 2, Expert: 8}, plan.FinDEP)
	if err != nil {
		t.Fatal(err)
	}
	p := &long.Problem
	if p.SequenceTokens != 1 || p.Batch != 32 || p.Samples != 64 {
		t.Errorf("S=%d, batch %d per GPU of %d; want 1, 32, 64", p.SequenceTokens, p.Batch, p.Samples)
	}
	// 20 experts of 23.6 M weights at 2 bytes and 0.351 us per megabyte.
	if want := 20 * 23_592_960 * 2 * 0.351e-9; !near(p.ExpertLoadMilliseconds, want, 1e-12) {
		t.Errorf("expert load %v ms, want %v", p.ExpertLoadMilliseconds, want)
	}
	// A segment of n tokens touches a part of the experts, and reads those.
	tokens := long.Result.TokensPerExpert * 160 / 6
	if floor := p.Stages.Expert.Alpha + p.ExpertLoadMilliseconds*(1-math.Pow(1-6.0/160, tokens)); !near(long.Result.Times.Expert, floor, 1e-9) {
		t.Errorf("expert task takes %v ms, want to read what %v tokens touch in %v", long.Result.Times.Expert, tokens, floor)
	}
	in.Workload.ContextTokens = 512
	short, err := solver.SolveModel(in, solver.Split{Attention: 2, Expert: 8}, plan.FinDEP)
	if err != nil {
		t.Fatal(err)
	}
	if short.Result.MakespanMilliseconds >= long.Result.MakespanMilliseconds {
		t.Errorf("a shorter context is not faster: %v ms and %v ms", short.Result.MakespanMilliseconds, long.Result.MakespanMilliseconds)
	}
	if got, want := short.Result.TokensPerSecond, 64/short.Result.MakespanMilliseconds*1e3; !near(got, want, 1e-12) {
		t.Errorf("%v tokens/s, want the 64 samples of the batch per pass, %v", got, want)
	}
}

// A profile may tell decode's attention apart: it is another kernel, in another
// form. Without that, decode is planned with prefill's numbers.
func TestDecodeUsesItsOwnAttention(t *testing.T) {
	in := instance(t, v2, "h100-sxm", solver.Workload{Phase: solver.Decode, ContextTokens: 4096, Batch: 64})
	split := solver.Split{Attention: 2, Expert: 8}
	before, err := solver.FromModel(in, split)
	if err != nil {
		t.Fatal(err)
	}
	measured := *in.Profiles.Attention
	measured.DecodeAttention = measured.Attention
	in.Profiles.Attention = &measured
	if same, err := solver.FromModel(in, split); err != nil || same.Stages != before.Stages {
		t.Errorf("%+v and %+v, error %v; want the same stages for the same numbers", same.Stages, before.Stages, err)
	}
	measured.DecodeAttention = profile.Compute{AlphaMicroseconds: measured.Attention.AlphaMicroseconds + 5, MicrosecondsPerGigaMAC: 1000}
	after, err := solver.FromModel(in, split)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := after.Stages.Attention.Alpha-before.Stages.Attention.Alpha, 5e-3; !near(got, want, 1e-9) {
		t.Errorf("decode's own launch adds %v ms, want %v", got, want)
	}
	// The absorbed form: 139,264 multiply-accumulates per token of context.
	absorbed := 4096 * 139_264 * 1000 / 1e12
	if got := after.Stages.Attention.Beta; got < absorbed || got > absorbed*1.5 {
		t.Errorf("a sample takes %v ms, want %v for its core and a little for the rest", got, absorbed)
	}
	in.Workload = solver.Workload{Phase: solver.Prefill, SequenceTokens: 1024}
	with, err := solver.FromModel(in, split)
	if err != nil {
		t.Fatal(err)
	}
	measured.DecodeAttention = profile.Compute{}
	if without, err := solver.FromModel(in, split); err != nil || with.Stages != without.Stages {
		t.Errorf("prefill changes with decode's attention: error %v", err)
	}
}

func TestPrefixMakesAttentionDearer(t *testing.T) {
	in := instance(t, v2Lite, "h100-sxm", prefill(1024))
	beta := func() float64 {
		p, err := solver.FromModel(in, solver.Split{Attention: 1, Expert: 1})
		if err != nil {
			t.Fatal(err)
		}
		return p.Stages.Attention.Beta
	}
	without := beta()
	in.Workload.PrefixTokens = 2048
	if got, want := beta()-without, 1024*2048*5120*in.Profiles.Attention.Attention.MillisecondsPerMAC(); !near(got, want, 1e-12) {
		t.Errorf("a prefix of 2048 tokens costs %v ms, want %v", got, want)
	}
}

func TestInfeasibleExpertGroupNamesTheNearestSplit(t *testing.T) {
	// A GPU has 70 GiB to use. Six GPUs would hold 27 of 160 experts at most,
	// 70.005 GiB, so seven are needed.
	in := instance(t, v2, "h100-sxm", prefill(2048))
	for name, tc := range map[string]struct{ split, want solver.Split }{
		"same total":      {solver.Split{Attention: 4, Expert: 4}, solver.Split{Attention: 1, Expert: 7}},
		"more GPUs":       {solver.Split{Attention: 1, Expert: 2}, solver.Split{Attention: 1, Expert: 7}},
		"one GPU too few": {solver.Split{Attention: 1, Expert: 6}, solver.Split{Attention: 1, Expert: 7}},
	} {
		t.Run(name, func(t *testing.T) {
			c, err := solver.SolveModel(in, tc.split, plan.FinDEP)
			if err != nil {
				t.Fatal(err)
			}
			i := c.Result.Infeasible
			if i == nil {
				t.Fatalf("feasible as %v", c.Result.Plan)
			}
			if i.Reason != solver.MemoryExceeded || i.Group != plan.Expert || i.NeedBytes <= i.HaveBytes || i.Nearest.Split == nil || *i.Nearest.Split != tc.want {
				t.Errorf("infeasible %+v, nearest %v; want the expert group and %v", i, i.Nearest.Split, tc.want)
			}
			for _, want := range []string{"Expert group needs", "nearest split"} {
				if !strings.Contains(i.String(), want) {
					t.Errorf("message %q does not say %q", i, want)
				}
			}
			again, err := solver.SolveModel(in, *i.Nearest.Split, plan.FinDEP)
			if err != nil || again.Result.Infeasible != nil {
				t.Errorf("the nearest split is infeasible too: %v, %v", again.Result.Infeasible, err)
			}
		})
	}
}

func TestInfeasibleAttentionGroupNamesTheLongestContext(t *testing.T) {
	in := instance(t, v2, "a6000", solver.Workload{Phase: solver.Decode, ContextTokens: 1 << 20})
	split := solver.Split{Attention: 2, Expert: 16}
	c, err := solver.SolveModel(in, split, plan.FinDEP)
	if err != nil {
		t.Fatal(err)
	}
	i := c.Result.Infeasible
	if i == nil || i.Group != plan.Attention || i.Nearest.ContextTokens == 0 {
		t.Fatalf("infeasible %+v, want the attention group with a context", i)
	}
	for n, feasible := range map[int]bool{i.Nearest.ContextTokens: true, i.Nearest.ContextTokens + 1: false} {
		in.Workload.ContextTokens = n
		c, err := solver.SolveModel(in, split, plan.FinDEP)
		if err != nil || (c.Result.Infeasible == nil) != feasible {
			t.Errorf("context %d: infeasible %v, %v; want feasible %v", n, c.Result.Infeasible, err, feasible)
		}
	}
}

func TestInfeasibleBatchNamesTheLargest(t *testing.T) {
	in := instance(t, v2Lite, "a6000", solver.Workload{Phase: solver.Decode, ContextTokens: 16384, Batch: 1000})
	split := solver.Split{Attention: 2, Expert: 2}
	c, err := solver.SolveModel(in, split, plan.FinDEP)
	if err != nil {
		t.Fatal(err)
	}
	i := c.Result.Infeasible
	if i == nil || i.Reason != solver.BatchExceeded || i.Group != plan.Attention || i.Nearest.Batch == 0 {
		t.Fatalf("infeasible %+v, want a batch that is too large for the attention group", i)
	}
	for b, feasible := range map[int]bool{2 * i.Nearest.Batch: true, 2*i.Nearest.Batch + 1: false} {
		in.Workload.Batch = b
		c, err := solver.SolveModel(in, split, plan.FinDEP)
		if err != nil || (c.Result.Infeasible == nil) != feasible {
			t.Errorf("batch %d: infeasible %v, %v; want feasible %v", b, c.Result.Infeasible, err, feasible)
		}
	}
	if i.Nearest.Split == nil {
		t.Error("no split named that holds the batch")
	}
}

func TestLatencyObjective(t *testing.T) {
	in := instance(t, qwen30b, "h100-sxm", prefill(2048))
	split := solver.Split{Attention: 4, Expert: 4}
	free, err := solver.SolveModel(in, split, plan.FinDEP)
	if err != nil {
		t.Fatal(err)
	}
	in.Options.Limits.MakespanMilliseconds = free.Result.MakespanMilliseconds / 4
	c, err := solver.SolveModel(in, split, plan.FinDEP)
	if err != nil {
		t.Fatal(err)
	}
	if r := c.Result; r.Infeasible != nil || r.MakespanMilliseconds > in.Options.Limits.MakespanMilliseconds || r.Limit != solver.LimitMakespan {
		t.Errorf("%v takes %v ms (limit %s), want at most %v", r.Plan, r.MakespanMilliseconds, r.Limit, in.Options.Limits.MakespanMilliseconds)
	}
	in.Options.Limits.MakespanMilliseconds = 1e-3
	c, err = solver.SolveModel(in, split, plan.FinDEP)
	if err != nil {
		t.Fatal(err)
	}
	i := c.Result.Infeasible
	if i == nil || i.Reason != solver.LatencyExceeded || i.Nearest.MakespanMilliseconds != c.Result.MakespanMilliseconds || c.Result.R1 == 0 {
		t.Errorf("infeasible %+v with plan %v, want the fastest plan and its time", i, c.Result.Plan)
	}
}

func TestSolveTotalEqualsTheBestSplit(t *testing.T) {
	in := instance(t, v2, "h100-sxm", prefill(2048))
	in.Options.Limits.SamplesInFlight = 4
	r, err := solver.SolveTotal(context.Background(), in, 16, plan.FinDEP)
	if err != nil {
		t.Fatal(err)
	}
	var best solver.Choice
	for ag := 1; ag < 16; ag++ {
		c, err := solver.SolveModel(in, solver.Split{Attention: ag, Expert: 16 - ag}, plan.FinDEP)
		if err != nil {
			t.Fatal(err)
		}
		if c.Result.Infeasible == nil && c.Result.TokensPerSecond > best.Result.TokensPerSecond {
			best = c
		}
	}
	if diff := cmp.Diff(best, r.Best); diff != "" {
		t.Errorf("best split (-each by itself +SolveTotal):\n%s", diff)
	}
	if len(r.Alternatives) != 14 {
		t.Fatalf("%d alternatives, want 14", len(r.Alternatives))
	}
	for _, a := range r.Alternatives {
		if a.Why == "" || (a.Infeasible == nil) != (a.TokensPerSecond > 0) || a.TokensPerSecond > best.Result.TokensPerSecond {
			t.Errorf("alternative %+v", a)
		}
	}
}

func TestSolveTotalWithoutASolution(t *testing.T) {
	in := instance(t, v2, "a6000", prefill(2048))
	r, err := solver.SolveTotal(context.Background(), in, 4, plan.FinDEP)
	if err != nil {
		t.Fatal(err)
	}
	i := r.Best.Result.Infeasible
	if i == nil || i.Nearest.Split == nil || i.Nearest.Split.Total() <= 4 {
		t.Fatalf("infeasible %+v, want a larger split", i)
	}
	if len(r.Alternatives) != 2 {
		t.Errorf("alternatives %+v, want 2", r.Alternatives)
	}
}

func TestSolveTotalHonoursCancellation(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := solver.SolveTotal(ctx, instance(t, v2, "h100-sxm", prefill(64)), 16, plan.FinDEP); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want context.Canceled", err)
	}
}

func TestModelFormRefuses(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*solver.Instance)
		split  solver.Split
		field  string
	}{
		"no model":         {func(in *solver.Instance) { in.Shape = nil }, solver.Split{Attention: 1, Expert: 1}, "model"},
		"no profile":       {func(in *solver.Instance) { in.Profiles.Expert = nil }, solver.Split{Attention: 1, Expert: 1}, "model"},
		"no phase":         {func(in *solver.Instance) { in.Workload.Phase = "" }, solver.Split{Attention: 1, Expert: 1}, "workload.phase"},
		"no tokens":        {func(in *solver.Instance) { in.Workload.SequenceTokens = 0 }, solver.Split{Attention: 1, Expert: 1}, "workload.sequenceTokens"},
		"negative batch":   {func(in *solver.Instance) { in.Workload.Batch = -1 }, solver.Split{Attention: 1, Expert: 1}, "workload.batch"},
		"unknown dtype":    {func(in *solver.Instance) { in.Options.DType = "int4" }, solver.Split{Attention: 1, Expert: 1}, "options.dtype"},
		"no attention GPU": {func(*solver.Instance) {}, solver.Split{Attention: 0, Expert: 1}, "split"},
		"too many experts": {func(*solver.Instance) {}, solver.Split{Attention: 1, Expert: 65}, "split"},
	} {
		t.Run(name, func(t *testing.T) {
			in := instance(t, v2Lite, "cpu", prefill(64))
			tc.change(in)
			_, err := solver.SolveModel(in, tc.split, plan.FinDEP)
			var field *solver.FieldError
			if !errors.As(err, &field) || field.Field != tc.field {
				t.Errorf("error %v, want one about %s", err, tc.field)
			}
		})
	}
	for _, total := range []int{-1, 1, plan.MaxRanks + 1} {
		if _, err := solver.SolveTotal(context.Background(), instance(t, v2Lite, "cpu", prefill(64)), total, plan.FinDEP); err == nil {
			t.Errorf("a total of %d GPUs is accepted", total)
		}
	}
}
