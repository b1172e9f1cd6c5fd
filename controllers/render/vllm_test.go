// SPDX-License-Identifier: Apache-2.0

package render_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	corev1ac "k8s.io/client-go/applyconfigurations/core/v1"

	"github.com/findep/findep-operator/api/v1alpha1"
	"github.com/findep/findep-operator/controllers/render"
	"github.com/findep/findep-operator/controllers/resolve"
	"github.com/findep/findep-operator/test/wrappers"
)

// vllmInput is what one instance of a deployment on vLLM is rendered from.
func vllmInput(t *testing.T, d *v1alpha1.MoEDeployment) *render.Input {
	t.Helper()
	facts := resolve.Facts{Images: resolve.Images{PullPolicy: corev1.PullIfNotPresent}}
	r := resolve.Resolve(d, facts)
	if !r.OK() {
		t.Fatalf("refused: %s %s", r.Feasible.Reason, r.Feasible.Message)
	}
	r.Revision = "0123456789abcdef"
	return render.NewInput(render.Owner{Namespace: "serving", Name: "lite", UID: "uid-1"}, 0, r)
}

func vllmPods(in *render.Input) []*corev1ac.PodApplyConfiguration {
	var pods []*corev1ac.PodApplyConfiguration
	for rank := range in.Attention + in.Expert {
		pods = append(pods, render.Pod(in, rank))
	}
	return pods
}

// commands are name, world rank and command line of each pod, in the order of
// the plugin's world: what a person would type.
func commands(in *render.Input) string {
	pods := vllmPods(in)
	slices.SortStableFunc(pods, func(a, b *corev1ac.PodApplyConfiguration) int {
		return strings.Compare(a.Annotations[v1alpha1.AnnotationWorldRank], b.Annotations[v1alpha1.AnnotationWorldRank])
	})
	var text strings.Builder
	for _, pod := range pods {
		c := pod.Spec.Containers[0]
		text.WriteString("# " + *pod.Name + ", world rank " + pod.Annotations[v1alpha1.AnnotationWorldRank] + "\n")
		text.WriteString(strings.Join(append(c.Command, c.Args...), " \\\n  ") + "\n")
	}
	return text.String()
}

func TestGoldenVLLM(t *testing.T) {
	in := vllmInput(t, wrappers.MoEDeployment("lite").GPUs(2, 1).VLLM("0.26.0").Obj())
	wrappers.Golden(t, "vllm-2a1f.golden.yaml", toYAML(t, render.Pod(in, 0), render.Pod(in, 1), render.Pod(in, 2), render.VLLMNetworkPolicy(in.Owner)))
}

func TestGoldenVLLMCommands(t *testing.T) {
	for name, d := range map[string]*v1alpha1.MoEDeployment{
		"4a4f": wrappers.MoEDeployment("lite").GPUs(4, 4).VLLM("0.30.0").Obj(),
		"5a3f": wrappers.MoEDeployment("lite").GPUs(5, 3).VLLM("0.30.0").With(func(s *v1alpha1.MoEDeploymentSpec) {
			s.Model.DType = v1alpha1.BF16
			s.VLLM.Port, s.VLLM.Gate = 6239, v1alpha1.RoleAttention
			s.VLLM.DualBatchOverlap = v1alpha1.DualBatchOverlapSpec{DecodeTokenThreshold: 2, PrefillTokenThreshold: 12}
			s.VLLM.ExtraArgs = []string{"--enforce-eager", "--chat-template=$(HOME)/x"}
		}).Obj(),
		"3a5f": wrappers.MoEDeployment("lite").GPUs(3, 5).VLLM("0.30.0").With(func(s *v1alpha1.MoEDeploymentSpec) {
			s.VLLM.RatioRule = v1alpha1.RatioAny
			s.VLLM.DualBatchOverlap.Mode = v1alpha1.Disabled
		}).Obj(),
	} {
		t.Run(name, func(t *testing.T) {
			wrappers.Golden(t, "vllm-"+name+".golden.sh", commands(vllmInput(t, d)))
		})
	}
}

// TestVLLMRanksAgree: all that the plugin's rendezvous depends on is the same in
// every pod, and each rank of its world is held by one pod.
func TestVLLMRanksAgree(t *testing.T) {
	for attention := 1; attention <= 6; attention++ {
		for expert := 1; expert <= attention; expert++ {
			in := vllmInput(t, wrappers.MoEDeployment("lite").GPUs(int32(attention), int32(expert)).VLLM("0.30.0").Obj())
			seen, common := map[string]bool{}, ""
			for _, pod := range vllmPods(in) {
				seen[pod.Annotations[v1alpha1.AnnotationWorldRank]] = true
				text := afdOf(t, pod)
				role := map[string]string{string(v1alpha1.RoleAttention): "attention", string(v1alpha1.RoleExpert): "ffn"}[pod.Labels[v1alpha1.LabelRole]]
				if text["role"] != role {
					t.Errorf("%s is of role %v, want %s", *pod.Name, text["role"], role)
				}
				delete(text, "role")
				b, _ := json.Marshal(text)
				if common == "" {
					common = string(b)
				}
				if string(b) != common {
					t.Errorf("%s is told %s, others %s", *pod.Name, b, common)
				}
			}
			if len(seen) != attention+expert {
				t.Errorf("%dA%dF: %d world ranks", attention, expert, len(seen))
			}
			if !strings.Contains(common, `"host":"lite-0-eg-0.`) {
				t.Errorf("the host is not the first ffn rank: %s", common)
			}
		}
	}
}

func afdOf(t *testing.T, pod *corev1ac.PodApplyConfiguration) map[string]any {
	t.Helper()
	for _, arg := range pod.Spec.Containers[0].Args {
		if text, found := strings.CutPrefix(arg, "--additional-config="); found {
			var config map[string]map[string]any
			if err := json.Unmarshal([]byte(text), &config); err != nil {
				t.Fatal(err)
			}
			return config["afd"]
		}
	}
	t.Fatalf("%s has no --additional-config", *pod.Name)
	return nil
}

func TestVLLMWorldRank(t *testing.T) {
	want := []int{3, 4, 0, 1, 2}
	for rank, world := range want {
		if got := render.VLLMWorldRank(2, 3, rank); got != world {
			t.Errorf("rank %d of 2A3F: world rank %d, want %d", rank, got, world)
		}
	}
}

// TestVLLMPodsTakePatches: the user's patch reaches the one container.
func TestVLLMPodsTakePatches(t *testing.T) {
	d := wrappers.MoEDeployment("lite").GPUs(2, 1).VLLM("0.30.0").Obj()
	d.Spec.Groups.Attention.PodTemplate = &runtime.RawExtension{Raw: []byte(`{"spec":{"containers":[{"name":"server","env":[{"name":"VLLM_USE_V2_MODEL_RUNNER","value":"1"}]}],"volumes":[{"name":"shm","emptyDir":{"sizeLimit":"8Gi"}}]}}`)}
	pod, err := render.PatchedPod(vllmInput(t, d), 0)
	if err != nil {
		t.Fatal(err)
	}
	got := toYAML(t, pod)
	for _, want := range []string{"value: \"1\"", "sizeLimit: 8Gi", "medium: Memory"} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in:\n%s", want, got)
		}
	}
	if strings.Count(got, "VLLM_USE_V2_MODEL_RUNNER") != 1 {
		t.Errorf("the variable is not replaced:\n%s", got)
	}
}
