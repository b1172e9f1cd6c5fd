// SPDX-License-Identifier: Apache-2.0

package webhooks_test

import (
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/utils/ptr"

	"github.com/findep/findep-operator/api/v1alpha1"
	"github.com/findep/findep-operator/controllers/resolve"
	"github.com/findep/findep-operator/controllers/webhooks"
	"github.com/findep/findep-operator/test/wrappers"
)

const v3 = "deepseek-ai/DeepSeek-V3"

// large is a deployment of a model whose experts need 1.2 TiB.
func large(attention, expert int32) *wrappers.MoEDeploymentWrapper {
	return wrappers.MoEDeployment("a").Model(v3).GPUs(attention, expert)
}

// anyGPU leaves the profiles to the nodes.
func anyGPU(w *wrappers.MoEDeploymentWrapper) *wrappers.MoEDeploymentWrapper { return w.Profile("") }

func nodes(products ...string) []map[string]string {
	var list []map[string]string
	for _, p := range products {
		list = append(list, map[string]string{resolve.ProductLabel: p})
	}
	return list
}

func overridden(w *wrappers.MoEDeploymentWrapper) *v1alpha1.MoEDeployment {
	d := w.Obj()
	d.Annotations = map[string]string{v1alpha1.AnnotationMemoryCheck: v1alpha1.MemoryCheckOverride}
	return d
}

// onVLLM is a deployment on vLLM with a version of its plugin.
func onVLLM(version string, attention, expert int32, change ...func(*v1alpha1.MoEDeploymentSpec)) *v1alpha1.MoEDeployment {
	w := wrappers.MoEDeployment("a").GPUs(attention, expert).VLLM(version)
	for _, f := range change {
		w.With(f)
	}
	return w.Obj()
}

func TestCheckVLLM(t *testing.T) {
	const differs = "vLLM's use of memory differs"
	cases := map[string]struct {
		deployment           *v1alpha1.MoEDeployment
		wantError, wantWarns string
	}{
		"a split of the older plugin":       {onVLLM("0.26.0", 2, 1), "", differs},
		"a split of the newer plugin":       {onVLLM("0.30.0", 5, 3), "", differs},
		"more experts, older plugin":        {onVLLM("0.26.0", 3, 5), "raise gpus.attention to 5, or lower gpus.expert to 3", differs},
		"no multiple, older plugin":         {onVLLM("0.26.0", 5, 3), "use 3:3 or 6:3", differs},
		"ffn ranks in pods, older plugin":   {onVLLM("0.26.0", 4, 4), "use an image with plugin 0.30 or later", differs},
		"more experts, newer plugin":        {onVLLM("0.30.0", 3, 5), "spec.gpus: Invalid value: \"3:5\"", differs},
		"more experts, a build without it":  {onVLLM("0.30.0", 3, 5, func(s *v1alpha1.MoEDeploymentSpec) { s.VLLM.RatioRule = v1alpha1.RatioAny }), "", differs},
		"an argument that the operator has": {onVLLM("0.30.0", 2, 1, func(s *v1alpha1.MoEDeploymentSpec) { s.VLLM.ExtraArgs = []string{"--headless"} }), "spec.vllm: Forbidden: extraArgs has --headless", differs},
		"a schedule": {onVLLM("0.30.0", 2, 1, func(s *v1alpha1.MoEDeploymentSpec) { s.Schedule.MaxSegments = 4 }), "",
			"schedule (vLLM schedules by itself"},
		"too large a model, and the ratio": {onVLLM("0.26.0", 3, 5, func(s *v1alpha1.MoEDeploymentSpec) { s.Model.Name = v3 }), "raise gpus.attention", differs},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			expect(t, webhooks.Check(tc.deployment, nil, resolve.Facts{}), tc.wantError, tc.wantWarns)
		})
	}
}

// expect checks the errors and warnings of a verdict. An empty want means none.
func expect(t *testing.T, v webhooks.Verdict, wantError, wantWarning string) {
	t.Helper()
	var text string
	if err := v.Errors.ToAggregate(); err != nil {
		text = err.Error()
	}
	if (wantError == "") != (text == "") || !strings.Contains(text, wantError) {
		t.Errorf("errors: %q, want %q", text, wantError)
	}
	said := strings.Join(v.Warnings, "\n")
	if (wantWarning == "") != (said == "") || !strings.Contains(said, wantWarning) {
		t.Errorf("warnings: %q, want %q", said, wantWarning)
	}
}

func TestCheck(t *testing.T) {
	selector := map[string]string{"pool": "a"}
	cases := map[string]struct {
		deployment           *v1alpha1.MoEDeployment
		facts                resolve.Facts
		wantError, wantWarns string
	}{
		"what fits": {deployment: wrappers.MoEDeployment("a").Obj()},

		"experts that fit nowhere":        {deployment: large(2, 3).Obj(), wantError: "GPU of the expert group needs at least"},
		"the refusal says how to insist":  {deployment: large(2, 3).Obj(), wantError: "findep.dev/memory-check: override"},
		"no split of the total fits":      {deployment: large(2, 3).TotalGPUs(4).Obj(), wantError: "No split of 4 GPUs fits"},
		"the user insists":                {deployment: overridden(large(2, 3)), wantWarns: "makes the instances all the same"},
		"the user insists without need":   {deployment: overridden(wrappers.MoEDeployment("a"))},
		"nothing is known about the GPUs": {deployment: anyGPU(large(2, 3)).Obj(), wantWarns: "no node with a known GPU product exists"},
		"nodes that are too small": {
			deployment: anyGPU(large(2, 3)).Obj(), facts: resolve.Facts{NodeLabels: nodes("NVIDIA-A10")},
			wantError: "profile a10 ",
		},
		"other nodes would do": {
			deployment: anyGPU(large(8, 16)).Obj(), facts: resolve.Facts{NodeLabels: nodes("NVIDIA-A10", "NVIDIA-H200")},
			wantWarns: "It would fit on attention GPUs of profile a10 and expert GPUs of profile h200",
		},
		"it just fits": {
			deployment: wrappers.MoEDeployment("a").Profile("tight").Obj(),
			facts:      resolve.Facts{Profiles: []v1alpha1.GPUProfile{*wrappers.GPUProfile("tight").Memory(11_400_000_000).Obj()}},
			wantWarns:  "This is tight",
		},

		"a model that is not known yet":     {deployment: wrappers.MoEDeployment("a").Model("acme/new").Obj(), wantWarns: `spec.model of "a" is not resolved`},
		"a ConfigMap that is to come":       {deployment: wrappers.MoEDeployment("a").ConfigFrom("c").Obj(), facts: resolve.Facts{Config: &resolve.ConfigFile{Problem: "there is none"}}, wantWarns: "there is none"},
		"a profile that is not known yet":   {deployment: wrappers.MoEDeployment("a").Profile("b300").Obj(), wantWarns: `profileRef "b300" is neither`},
		"a directory of the node":           {deployment: wrappers.MoEDeployment("a").Source("hostpath:///m").Obj(), wantWarns: "hostPath"},
		"more expert GPUs than experts":     {deployment: wrappers.MoEDeployment("a").GPUs(1, 65).Obj(), wantError: "spec.gpus.expert"},
		"a context beyond the model's":      {deployment: wrappers.MoEDeployment("a").With(func(s *v1alpha1.MoEDeploymentSpec) { s.Model.MaxContextTokens = 1 << 20 }).Obj(), wantError: "spec.model.maxContextTokens"},
		"prompts beyond the context":        {deployment: wrappers.MoEDeployment("a").With(func(s *v1alpha1.MoEDeploymentSpec) { s.Workload.PromptTokens = 513 }).Obj(), wantError: "spec.workload.promptTokens"},
		"completions beyond the context":    {deployment: wrappers.MoEDeployment("a").With(func(s *v1alpha1.MoEDeploymentSpec) { s.Workload.PromptTokens, s.Workload.OutputTokens = 500, 13 }).Obj(), wantWarns: "requests of this length are cut off"},
		"an objective that cannot be met":   {deployment: wrappers.MoEDeployment("a").With(func(s *v1alpha1.MoEDeploymentSpec) { s.SLO.TimeToFirstTokenMilliseconds = 1 }).Obj(), wantWarns: "slo.timeToFirstTokenMilliseconds is 1"},
		"a partition that holds everything": {deployment: wrappers.MoEDeployment("a").Replicas(2).With(func(s *v1alpha1.MoEDeploymentSpec) { s.Rollout.Partition = 2 }).Obj(), wantWarns: "no instance is ever updated"},
		"bounds on no recovery": {deployment: wrappers.MoEDeployment("a").With(func(s *v1alpha1.MoEDeploymentSpec) {
			s.Recovery.Policy, s.Recovery.MaxRestarts = v1alpha1.RecoveryNone, 3
		}).Obj(), wantWarns: "recovery.policy is None"},
		"segments of a policy without any": {deployment: wrappers.MoEDeployment("a").Policy(v1alpha1.PolicySequential).With(func(s *v1alpha1.MoEDeploymentSpec) { s.Schedule.MaxSegments = 3 }).Obj(), wantWarns: "schedule.maxSegments has no effect"},
		"a patch of what is the operator's": {
			deployment: wrappers.MoEDeployment("a").With(func(s *v1alpha1.MoEDeploymentSpec) {
				s.Groups.Expert.PodTemplate = &runtime.RawExtension{Raw: []byte(`{"spec":{"hostNetwork":true}}`)}
			}).Obj(),
			wantError: "spec.groups.expert.podTemplate: Forbidden: spec.hostNetwork",
		},
		"a profile of other nodes": {
			deployment: wrappers.MoEDeployment("a").Profile("p").With(func(s *v1alpha1.MoEDeploymentSpec) { s.Groups.Expert.NodeSelector = map[string]string{"pool": "b"} }).Obj(),
			facts:      resolve.Facts{Profiles: []v1alpha1.GPUProfile{*wrappers.GPUProfile("p").Selector("pool", "a").Obj()}},
			wantError:  "spec.groups.expert.nodeSelector[pool]",
		},
		"a profile of the same nodes": {
			deployment: wrappers.MoEDeployment("a").Profile("p").With(func(s *v1alpha1.MoEDeploymentSpec) { s.Groups.Expert.NodeSelector = selector }).Obj(),
			facts:      resolve.Facts{Profiles: []v1alpha1.GPUProfile{*wrappers.GPUProfile("p").Selector("pool", "a").Obj()}},
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			expect(t, webhooks.Check(tc.deployment, nil, tc.facts), tc.wantError, tc.wantWarns)
		})
	}
}

func TestCheckOfChanges(t *testing.T) {
	running := func(w *wrappers.MoEDeploymentWrapper) *v1alpha1.MoEDeployment {
		d := w.Obj()
		d.Status.Replicas = ptr.To[int32](2)
		return d
	}
	cases := map[string]struct {
		old, now             *v1alpha1.MoEDeployment
		wantError, wantWarns string
	}{
		"the schedule": {old: running(wrappers.MoEDeployment("a")), now: wrappers.MoEDeployment("a").Policy(v1alpha1.PolicyPPPipe).Obj()},
		"the split of running instances": {
			old: running(wrappers.MoEDeployment("a")), now: wrappers.MoEDeployment("a").GPUs(1, 4).Replicas(2).Obj(),
			wantWarns: "changing spec.gpus recreates the pods of 2 instances",
		},
		"the split while one of the instances goes": {
			old: running(wrappers.MoEDeployment("a")), now: wrappers.MoEDeployment("a").GPUs(1, 4).Replicas(1).Obj(),
			wantWarns: "changing spec.gpus recreates the pods of 1 instance,",
		},
		"the split while nothing runs": {old: wrappers.MoEDeployment("a").Obj(), now: wrappers.MoEDeployment("a").GPUs(1, 4).Obj()},
		"the profile, which pods do not have": {
			old: running(wrappers.MoEDeployment("a")), now: wrappers.MoEDeployment("a").Profile("h200").Obj(),
		},
		"a new mistake": {old: wrappers.MoEDeployment("a").Obj(), now: wrappers.MoEDeployment("a").GPUs(1, 65).Obj(), wantError: "spec.gpus.expert"},
		"beside an old mistake": {
			old: wrappers.MoEDeployment("a").GPUs(1, 65).Obj(), now: wrappers.MoEDeployment("a").GPUs(1, 65).Replicas(0).Obj(),
			wantWarns: "spec.gpus.expert",
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			expect(t, webhooks.Check(tc.now, tc.old, resolve.Facts{}), tc.wantError, tc.wantWarns)
		})
	}
}

func TestCheckProfile(t *testing.T) {
	reserved := wrappers.GPUProfile("a").Memory(1 << 30).Obj()
	reserved.Spec.ReservedBytes = 1 << 30
	twin := wrappers.GPUProfile("b").Selector("gpu", "x").Obj()
	cases := map[string]struct {
		profile              *v1alpha1.GPUProfile
		facts                resolve.Facts
		wantError, wantWarns string
	}{
		"figures that can be planned with": {profile: wrappers.GPUProfile("a").Obj()},
		"no memory left":                   {profile: reserved, wantError: "spec.reservedBytes"},
		"the same nodes as another": {
			profile: wrappers.GPUProfile("a").Selector("gpu", "x").Obj(), facts: resolve.Facts{Profiles: []v1alpha1.GPUProfile{*twin}},
			wantWarns: "of the two, a is used",
		},
		"itself, as it was": {profile: twin, facts: resolve.Facts{Profiles: []v1alpha1.GPUProfile{*twin}}},
		"nodes that do not exist": {
			profile: twin, facts: resolve.Facts{NodeLabels: []map[string]string{{"gpu": "y"}}}, wantWarns: "no node of this cluster",
		},
		"nodes that exist": {profile: twin, facts: resolve.Facts{NodeLabels: []map[string]string{{"gpu": "x"}}}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			expect(t, webhooks.CheckProfile(tc.profile, tc.facts), tc.wantError, tc.wantWarns)
		})
	}
}
