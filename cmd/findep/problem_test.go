// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/findep/findep-operator/runtime/plan"
	"github.com/findep/findep-operator/runtime/solver"
)

const problems = "testdata/problems"

const rawText = `
stages:
  attention: {alpha: 0.9, beta: 2.6}
  shared: {alpha: 0.3, beta: 0.5}
  expert: {alpha: 0.4, beta: 0.011}
  a2e: {alpha: 0.1, beta: 0.007}
  e2a: {alpha: 0.1, beta: 0.007}
layers: 8
tokensPerExpertPerSample: 230.4
attentionGPUs: 3
sequenceTokens: 2048
limits: {samplesInFlight: 2}
`

const modelText = `
model: {name: deepseek-ai/DeepSeek-V2}
profile: {name: h20}
gpus: {attention: 3, expert: 5}
workload: {phase: Prefill, sequenceTokens: 2048, contextTokens: 4096}
limits: {samplesInFlight: 4}
`

func parse(text string) (*job, error) {
	data, err := toJSON([]byte(text))
	if err != nil {
		return nil, err
	}
	return parseJob(data, problems)
}

func TestRawFormIsTheStageForm(t *testing.T) {
	j, err := parse(rawText)
	if err != nil {
		t.Fatal(err)
	}
	want := &solver.Problem{
		Stages: solver.Stages{
			Attention: solver.AttentionTime{Alpha: 0.9, Beta: 2.6}, Shared: solver.Affine{Alpha: 0.3, Beta: 0.5},
			Expert: solver.Affine{Alpha: 0.4, Beta: 0.011}, A2E: solver.Affine{Alpha: 0.1, Beta: 0.007}, E2A: solver.Affine{Alpha: 0.1, Beta: 0.007},
		},
		Layers: 8, TokensPerExpertPerSample: 230.4, AttentionGPUs: 3, SequenceTokens: 2048,
		Limits: solver.Limits{SamplesInFlight: 2},
	}
	if diff := cmp.Diff(want, j.raw); diff != "" {
		t.Errorf("raw form (-want +got):\n%s", diff)
	}
}

func TestModelForm(t *testing.T) {
	config, err := filepath.Abs("../../test/testdata/tinymodel/config.json")
	if err != nil {
		t.Fatal(err)
	}
	contents, err := os.ReadFile(config)
	if err != nil {
		t.Fatal(err)
	}
	const gpus, work = "\ngpus: {attention: 1, expert: 2}", "\nworkload: {phase: Decode, contextTokens: 64, batch: 4}"
	for name, tc := range map[string]struct {
		text  string
		check func(*job) bool
	}{
		"names": {modelText, func(j *job) bool {
			return j.split == solver.Split{Attention: 3, Expert: 5} && j.instance.Shape.Layers == 60 && j.instance.Profiles.Expert.Name == "h20" &&
				j.instance.Options.Limits == solver.Limits{SamplesInFlight: 4, MaxChunks: solver.DefaultMaxChunks, UnequalChunks: true}
		}},
		"path of a config":     {"model: {config: " + config + "}\nprofile: {name: cpu}" + gpus + work, func(j *job) bool { return j.instance.Shape.MoE.Experts == 16 }},
		"relative path":        {"model: {config: ../../../../test/testdata/tinymodel/config.json}\nprofile: {name: cpu}" + gpus + work, func(j *job) bool { return j.instance.Shape.MoE.Experts == 16 }},
		"contents of a config": {"model: {config: " + strings.ReplaceAll(string(contents), "\n", " ") + "}\nprofile: {name: cpu}" + gpus + work, func(j *job) bool { return j.instance.Shape.MoE.Experts == 16 }},
		"profile for each group": {strings.Replace(modelText, "{name: h20}", "{attention: {name: h20}, expert: {name: H200, link: rdma-400g}}", 1), func(j *job) bool {
			return j.instance.Profiles.Attention.Name == "h20" && j.instance.Profiles.Expert.Name == "h200" && j.instance.Profiles.Expert.Link.Name == "RDMA 400 Gb/s"
		}},
		"inline profile": {strings.Replace(modelText, "{name: h20}", `{inline: {name: mine, calibrated: true, source: measured, memoryBytes: 99000000000, usableMemoryPermille: 1000, reservedBytes: 0,
  gemm: {alphaMicroseconds: 1, microsecondsPerGigaMAC: 1}, groupedGEMM: {alphaMicroseconds: 1, microsecondsPerGigaMAC: 1}, attention: {alphaMicroseconds: 1, microsecondsPerGigaMAC: 1},
  memory: {alphaMicroseconds: 0, microsecondsPerMegabyte: 1}, link: {alphaMicroseconds: 1, microsecondsPerMegabyte: 1}}}`, 1),
			func(j *job) bool { return j.instance.Profiles.Attention.Name == "mine" }},
		"free split":         {strings.Replace(modelText, "{attention: 3, expert: 5}", "{total: 8}", 1), func(j *job) bool { return j.total == 8 && j.split == solver.Split{} }},
		"total and one side": {strings.Replace(modelText, "{attention: 3, expert: 5}", "{total: 8, attention: 2}", 1), func(j *job) bool { return j.total == 0 && j.split == solver.Split{Attention: 2, Expert: 6} }},
		"whole samples":      {strings.Replace(modelText, "samplesInFlight: 4", "maxChunks: 1", 1), func(j *job) bool { return j.instance.Options.Limits == solver.Limits{MaxChunks: 1} }},
		"options":            {modelText + "options: {order: AASS, halfDuplex: true, expertImbalance: 1.5}", func(j *job) bool { return j.instance.Options.Order == plan.AASS && j.instance.Options.HalfDuplex }},
	} {
		t.Run(name, func(t *testing.T) {
			j, err := parse(tc.text)
			if err != nil {
				t.Fatal(err)
			}
			if !tc.check(j) {
				t.Errorf("read as %+v", j)
			}
		})
	}
}

// TestBadInputNamesTheField has one case for every kind of mistake.
func TestBadInputNamesTheField(t *testing.T) {
	raw := func(from, to string) string {
		if !strings.Contains(rawText, from) {
			t.Fatalf("%q is not in the raw form", from)
		}
		return strings.Replace(rawText, from, to, 1)
	}
	mod := func(from, to string) string {
		if !strings.Contains(modelText, from) {
			t.Fatalf("%q is not in the model form", from)
		}
		return strings.Replace(modelText, from, to, 1)
	}
	for name, tc := range map[string]struct{ text, want string }{
		"negative":                {raw("alpha: 0.9", "alpha: -1"), "stages.attention.alpha is -1"},
		"NaN":                     {raw("beta: 0.011", "beta: .nan"), "stages.expert.beta is NaN"},
		"infinite":                {raw("beta: 0.011", "beta: .inf"), "stages.expert.beta is +Inf"},
		"too large for a number":  {raw("beta: 0.011", "beta: 1e999"), "stages.expert.beta"},
		"text for a number":       {raw("beta: 0.011", "beta: fast"), "stages.expert.beta is a string"},
		"fraction for an integer": {raw("layers: 8", "layers: 8.5"), "layers is a number 8.5"},
		"zero layers":             {raw("layers: 8", "layers: 0"), "layers is 0"},
		"no layers":               {raw("layers: 8", ""), "layers is 0"},
		"sequence 0":              {raw("sequenceTokens: 2048", "sequenceTokens: 0"), "sequenceTokens is 0"},
		"negative sequence":       {mod("sequenceTokens: 2048", "sequenceTokens: -3"), "workload.sequenceTokens is -3"},
		"unknown field":           {raw("layers: 8", "layers: 8\nlayer: 8"), `unknown field "layer"`},
		"unknown stage":           {raw("shared:", "share:"), `unknown field "stages.share"`},
		"wrong case":              {raw("layers: 8", "Layers: 8"), `unknown field "Layers"`},
		"repeated field":          {raw("layers: 8", "layers: 8\nlayers: 9"), `"layers" already set`},
		"unknown in model form":   {modelText + "limit: {}", `unknown field "limit"`},
		"unknown in profile":      {mod("name: h20", "name: h20, lnk: x"), `profile: unknown field "lnk"`},
		"no limit":                {raw("limits: {samplesInFlight: 2}", ""), "limits is empty"},
		"batch above the cap":     {raw("limits:", "batch: 3\nlimits:"), "limits.samplesInFlight is 2: contradicts the batch, 3"},
		"samples above the batch": {raw("limits:", "batch: 2\nsamples: 7\nlimits:"), "samples is 7"},
		"negative SLO":            {raw("samplesInFlight: 2", "makespanMilliseconds: -1"), "limits.makespanMilliseconds is -1"},
		"both forms":              {rawText + modelText[:strings.Index(modelText, "profile")], "stages contradicts model"},
		"neither form":            {"layers: 8", "neither model nor stages"},
		"empty":                   {"", "neither model nor stages"},
		"a list":                  {"[1]", "need an object"},
		"not YAML":                {"{", "did not find"},
		"two documents":           {rawText + "---\n" + rawText, "more than one YAML document"},
		"too long":                {strings.Repeat("#", maxProblemBytes+1), "more than"},
		"unknown model":           {mod("deepseek-ai/DeepSeek-V2", "gpt-2"), "model.name"},
		"no model":                {mod("name: deepseek-ai/DeepSeek-V2", ""), "model.name is missing"},
		"model twice":             {mod("name: deepseek-ai/DeepSeek-V2", "name: a, config: b"), "model.config contradicts model.name"},
		"no such config":          {mod("name: deepseek-ai/DeepSeek-V2", "config: nowhere.json"), "model.config"},
		"bad config":              {mod("name: deepseek-ai/DeepSeek-V2", "config: {model_type: llama}"), "model.config"},
		"unknown profile":         {mod("h20", "tpu"), "profile.name"},
		"unknown link":            {mod("name: h20", "name: h20, link: string"), "profile.link"},
		"no profile":              {mod("profile: {name: h20}", ""), "profile is missing"},
		"profile twice":           {mod("name: h20", "name: h20, expert: {name: h20}"), "profile.attention and profile.expert contradict"},
		"half a profile":          {mod("name: h20", "attention: {name: h20}"), "profile.expert is missing"},
		"bad inline profile":      {mod("name: h20", "inline: {name: x}"), "profile.inline"},
		"more EG than experts":    {mod("expert: 5", "expert: 161"), "gpus is 3:161"},
		"no attention GPU":        {mod("attention: 3", "attention: 0"), "gpus.attention is 0"},
		"no expert GPU":           {mod("attention: 3, expert: 5", "attention: 3"), "gpus.expert is missing"},
		"one GPU":                 {mod("attention: 3, expert: 5", "total: 1"), "gpus.total is 1"},
		"contradictory GPUs":      {mod("attention: 3, expert: 5", "attention: 3, expert: 5, total: 9"), "gpus.total is 9"},
		"all for one group":       {mod("attention: 3, expert: 5", "attention: 8, total: 8"), "gpus.total is 8"},
		"unknown phase":           {mod("Prefill", "Train"), `workload.phase is "Train"`},
		"context below prompt":    {mod("contextTokens: 4096", "contextTokens: 100"), "workload.contextTokens is 100"},
		"model batch above cap":   {mod("contextTokens: 4096", "contextTokens: 4096, batch: 30"), "limits.samplesInFlight is 4: contradicts the batch, 10"},
		"unknown order":           {modelText + "options: {order: SASA}", `order is "SASA"`},
		"alias bomb":              {"a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d]\nf: &f [*e,*e,*e,*e,*e,*e,*e,*e,*e]\ng: [*f,*f,*f,*f,*f,*f,*f,*f,*f]\n", ""},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "problem.yaml")
			if err := os.WriteFile(path, []byte(tc.text), 0o600); err != nil {
				t.Fatal(err)
			}
			for _, command := range [][]string{{"solve", "-o", "json"}, {"simulate"}} {
				out, err := findep(t, append(command, "-f", path)...)
				if err == nil || !strings.Contains(err.Error(), tc.want) {
					t.Fatalf("%s: got %v, want %q", command[0], err, tc.want)
				}
				if code := exitCode(err); code != exitUsage || out != "" {
					t.Errorf("%s: exit code %d and output %q, want %d and none: %v", command[0], code, out, exitUsage, err)
				}
			}
		})
	}
}

func TestCancellationIsHonoured(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	j, err := parse(strings.Replace(modelText, "{attention: 3, expert: 5}", "{total: 160}", 1))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := j.solve(ctx, plan.FinDEP, time.Now); !errors.Is(err, context.Canceled) || exitCode(err) != exitFailure {
		t.Errorf("got %v", err)
	}
}

// FuzzProblem feeds the parser and, for what it accepts, the solver: neither
// may panic, and every answer is a plan or says what is missing.
func FuzzProblem(f *testing.F) {
	f.Add([]byte(rawText))
	f.Add([]byte(modelText))
	for _, name := range []string{"deepseek-v2.yaml", "free-split.yaml", "raw.yaml", "infeasible.json"} {
		b, err := os.ReadFile(filepath.Join(problems, name))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte("a: &a [*a]"))
	f.Add([]byte("{stages: {attention: {beta: 1e308}}, layers: 1024, perLayer: [{}]}"))
	f.Fuzz(func(t *testing.T, text []byte) {
		data, err := toJSON(text)
		if err != nil {
			return
		}
		j, err := parseJob(data, t.TempDir())
		if err != nil {
			return
		}
		r, err := j.report(t.Context(), time.Now)
		if err != nil {
			if exitCode(err) != exitUsage {
				t.Fatal(err)
			}
			return
		}
		if r.infeasible == nil && (r.R1 < 1 || !(r.Makespan > 0)) {
			t.Errorf("neither a plan nor a reason: %+v", r)
		}
	})
}
