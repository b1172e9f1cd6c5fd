// SPDX-License-Identifier: Apache-2.0

package resolve_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/findep/findep-operator/api/v1alpha1"
	"github.com/findep/findep-operator/controllers/resolve"
	"github.com/findep/findep-operator/test/wrappers"
)

// vllm is a deployment on vLLM that its plugin can run.
func vllm(version string, attention, expert int32, change ...func(*v1alpha1.MoEDeploymentSpec)) *v1alpha1.MoEDeployment {
	w := wrappers.MoEDeployment("lite").GPUs(attention, expert).VLLM(version)
	for _, f := range change {
		w.With(f)
	}
	return w.Obj()
}

func TestRatioRuleOf(t *testing.T) {
	cases := map[string]struct {
		version string
		rule    v1alpha1.RatioRule
		want    v1alpha1.RatioRule
	}{
		"old":                        {"0.26.0", "", v1alpha1.RatioDivisible},
		"release candidate":          {"0.19.1rc1", "", v1alpha1.RatioDivisible},
		"last before":                {"0.29.9", "", v1alpha1.RatioDivisible},
		"first with":                 {"0.30", "", v1alpha1.RatioUneven},
		"minor with a suffix":        {"0.30rc1", "", v1alpha1.RatioUneven},
		"major":                      {"1.2", "", v1alpha1.RatioUneven},
		"build in between":           {"0.28.1.dev3", v1alpha1.RatioUneven, v1alpha1.RatioUneven},
		"narrower than the version":  {"0.30.0", v1alpha1.RatioDivisible, v1alpha1.RatioDivisible},
		"text that is not a version": {"main", "", v1alpha1.RatioDivisible},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if got := resolve.RatioRuleOf(&v1alpha1.VLLMSpec{PluginVersion: tc.version, RatioRule: tc.rule}); got != tc.want {
				t.Errorf("got %s, want %s", got, tc.want)
			}
		})
	}
}

func TestCheckRatio(t *testing.T) {
	cases := map[string]struct {
		rule              v1alpha1.RatioRule
		attention, expert int
		// want is a part of the remedy; empty if there is nothing to remedy.
		want string
	}{
		"old 1A1F":                     {v1alpha1.RatioDivisible, 1, 1, ""},
		"old 2A1F":                     {v1alpha1.RatioDivisible, 2, 1, ""},
		"old 3A5F":                     {v1alpha1.RatioDivisible, 3, 5, "raise gpus.attention to 5, or lower gpus.expert to 3"},
		"old 5A3F":                     {v1alpha1.RatioDivisible, 5, 3, "use 3:3 or 6:3"},
		"old 4A2F, ffn in two pods":    {v1alpha1.RatioDivisible, 4, 2, "set gpus.expert to 1"},
		"new 4A4F":                     {v1alpha1.RatioUneven, 4, 4, ""},
		"new 5A3F":                     {v1alpha1.RatioUneven, 5, 3, ""},
		"new 3A5F":                     {v1alpha1.RatioUneven, 3, 5, "raise gpus.attention to 5"},
		"a build without a rule, 3A5F": {v1alpha1.RatioAny, 3, 5, ""},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			got := resolve.CheckRatio(tc.rule, tc.attention, tc.expert)
			if (got == "") != (tc.want == "") || !strings.Contains(got, tc.want) {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}

func TestCheckVLLM(t *testing.T) {
	cases := map[string]struct {
		spec v1alpha1.VLLMSpec
		want string
	}{
		"nothing":                  {v1alpha1.VLLMSpec{PluginVersion: "0.30"}, ""},
		"harmless arguments":       {v1alpha1.VLLMSpec{PluginVersion: "0.30", ExtraArgs: []string{"--enforce-eager", "--max-num-seqs=64", "--gpu-memory-utilization", "0.9"}}, ""},
		"the plugin's own":         {v1alpha1.VLLMSpec{PluginVersion: "0.30", ExtraArgs: []string{`--additional-config={}`}}, "--additional-config"},
		"written with underscores": {v1alpha1.VLLMSpec{PluginVersion: "0.30", ExtraArgs: []string{"--data_parallel_size", "3"}}, "--data-parallel-size"},
		"a family of arguments":    {v1alpha1.VLLMSpec{PluginVersion: "0.30", ExtraArgs: []string{"--dbo-decode-token-threshold=1"}}, "--dbo-decode-token-threshold"},
		"the short form":           {v1alpha1.VLLMSpec{PluginVersion: "0.30", ExtraArgs: []string{"-tp", "2"}}, "-tp"},
		"the port of requests":     {v1alpha1.VLLMSpec{PluginVersion: "0.30", Port: 8000}, "8000 is for requests"},
		"an ffn port of another":   {v1alpha1.VLLMSpec{PluginVersion: "0.26", Port: 13344}, "13345 is for the engines"},
		"beside it, one port only": {v1alpha1.VLLMSpec{PluginVersion: "0.30", Port: 13344}, ""},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			got := strings.Join(resolve.CheckVLLM(&tc.spec, 1), "; ")
			if (got == "") != (tc.want == "") || !strings.Contains(got, tc.want) {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}

func TestVLLMFindings(t *testing.T) {
	cases := map[string]struct {
		deployment      *v1alpha1.MoEDeployment
		reason, message string
	}{
		"fits":            {vllm("0.30.0", 5, 3), v1alpha1.ReasonFits, ""},
		"ratio":           {vllm("0.26.0", 3, 5), v1alpha1.ReasonRatioNotSupported, "raise gpus.attention"},
		"own argument":    {vllm("0.30.0", 2, 1, func(s *v1alpha1.MoEDeploymentSpec) { s.VLLM.ExtraArgs = []string{"--port=1"} }), v1alpha1.ReasonEngineSettingsInvalid, "--port"},
		"memory is first": {vllm("0.26.0", 3, 5, func(s *v1alpha1.MoEDeploymentSpec) { s.Model.Name = "deepseek-ai/DeepSeek-V3" }), v1alpha1.ReasonMemoryExceeded, ""},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			f := resolve.Resolve(tc.deployment, resolve.Facts{}).Feasible
			if f.Reason != tc.reason || !strings.Contains(f.Message, tc.message) {
				t.Errorf("got %+v, want %s with %q", f, tc.reason, tc.message)
			}
		})
	}
}

// TestVLLMSplitObeysTheRule: of all totals, the split that the solver chooses is
// one that the plugin can wire, and so is every alternative.
func TestVLLMSplitObeysTheRule(t *testing.T) {
	for _, version := range []string{"0.26.0", "0.30.0"} {
		for total := int32(2); total <= 16; total++ {
			d := wrappers.MoEDeployment("lite").TotalGPUs(total).VLLM(version).Obj()
			r := resolve.Resolve(d, resolve.Facts{})
			rule := resolve.RatioRuleOf(d.Spec.VLLM)
			if problem := resolve.CheckRatio(rule, r.Decision.Attention, r.Decision.Expert); problem != "" || r.Decision.Attention+r.Decision.Expert != int(total) {
				t.Errorf("%s, %d GPUs: split %d:%d; %s", version, total, r.Decision.Attention, r.Decision.Expert, problem)
			}
			if !strings.Contains(r.Decision.Why, string(rule)) {
				t.Errorf("%s, %d GPUs: the reason does not name the rule: %s", version, total, r.Decision.Why)
			}
			wired := func(a v1alpha1.SplitAlternative) bool {
				attention, expert, _ := strings.Cut(a.Ratio, ":")
				return len(attention) > len(expert) || len(attention) == len(expert) && attention >= expert
			}
			if i := slices.IndexFunc(r.Alternatives, func(a v1alpha1.SplitAlternative) bool { return !wired(a) }); i >= 0 {
				t.Errorf("%s, %d GPUs: alternative %s", version, total, r.Alternatives[i].Ratio)
			}
		}
	}
}

func TestVLLMPredictsTwoMicroBatches(t *testing.T) {
	for _, profile := range []string{"h100-sxm", "a10", "cpu"} {
		d := wrappers.MoEDeployment("lite").GPUs(4, 4).VLLM("0.30.0").Profile(profile).With(func(s *v1alpha1.MoEDeploymentSpec) { s.Workload.Concurrency = 4096 }).Obj()
		if r := resolve.Resolve(d, resolve.Facts{}); r.Start.R1 > resolve.VLLMMicroBatches {
			t.Errorf("%s: the split was judged by %s, which vLLM does not do", profile, r.Start.String())
		}
	}
	r := resolve.Resolve(vllm("0.30.0", 4, 4), resolve.Facts{})
	if r.Start.R1 > resolve.VLLMMicroBatches || r.Start.R2 != 1 || r.Start.Chunks > 1 {
		t.Errorf("the split was judged by %s, which vLLM does not do", r.Start.String())
	}
	if r.Predicted != nil {
		t.Errorf("vLLM's speed is predicted: %+v", r.Predicted)
	}
	off := resolve.Resolve(vllm("0.30.0", 4, 4, func(s *v1alpha1.MoEDeploymentSpec) { s.VLLM.DualBatchOverlap.Mode = v1alpha1.Disabled }), resolve.Facts{})
	if off.Start.R1 != 1 {
		t.Errorf("without overlap the split was judged by %s", off.Start.String())
	}
}

func TestVLLMIdleFields(t *testing.T) {
	d := vllm("0.26.0", 2, 1, func(s *v1alpha1.MoEDeploymentSpec) {
		s.Schedule.Policy = v1alpha1.PolicyPPPipe
		s.Images.Server = "mine"
	})
	r := resolve.Resolve(d, resolve.Facts{})
	if text := strings.Join(r.NotActedOn, "; "); !strings.Contains(text, "schedule (") || !strings.Contains(text, "images.runtime") {
		t.Errorf("without effect: %s", text)
	}
	if text := strings.Join(r.Warnings, "; "); !strings.Contains(text, "load all weights in both roles") {
		t.Errorf("warnings: %s", text)
	}
}

// TestVLLMIsIntent: a change of vLLM's settings makes a revision, which can be
// restored.
func TestVLLMIsIntent(t *testing.T) {
	old, changed := vllm("0.30.0", 2, 1), vllm("0.30.0", 2, 1, func(s *v1alpha1.MoEDeploymentSpec) { s.VLLM.Image = "vllm:2" })
	if resolve.Revision(old, nil) == resolve.Revision(changed, nil) {
		t.Error("another image of vLLM is no other revision")
	}
	restored, _ := resolve.IntentOf(old, nil).Restore(changed)
	if restored.Spec.VLLM.Image != old.Spec.VLLM.Image {
		t.Errorf("restored image %s", restored.Spec.VLLM.Image)
	}
}
