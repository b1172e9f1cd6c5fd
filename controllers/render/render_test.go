// SPDX-License-Identifier: Apache-2.0

package render_test

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"sigs.k8s.io/yaml"

	"github.com/findep/findep-operator/api/v1alpha1"
	"github.com/findep/findep-operator/controllers/render"
	"github.com/findep/findep-operator/controllers/resolve"
	"github.com/findep/findep-operator/runtime/plan"
	"github.com/findep/findep-operator/test/wrappers"
)

func input() *render.Input {
	images := resolve.Images{Runtime: "findep/runtime:1", Server: "findep/server:1", PullPolicy: corev1.PullIfNotPresent}
	return &render.Input{
		Owner: render.Owner{Namespace: "serving", Name: "lite", UID: "uid-1"}, Index: 1, Revision: "0123456789abcdef",
		Attention: 2, Expert: 3, Images: images, Gang: true, ConfigHash: "fedcba9876543210",
		Source:   resolve.Source{Kind: resolve.SourcePVC, Reference: "weights", SubPath: "lite"},
		Decision: resolve.Decision{Attention: 2, Expert: 3, Why: "Given by spec.gpus.", Images: images, Gang: true},
	}
}

func instance(in *render.Input) *plan.Instance {
	return &plan.Instance{
		Namespace: in.Owner.Namespace, Deployment: in.Owner.Name, Index: int(in.Index), Revision: in.Revision,
		AttentionRanks: in.Attention, ExpertRanks: in.Expert,
		Hosts:    render.Hosts(in.Owner, in.Index, in.Attention, in.Expert),
		Model:    plan.ModelRef{Name: "lite", Path: render.ModelDir, MaxContextTokens: 512},
		Schedule: plan.Schedule{Policy: plan.FinDEP, Order: plan.OrderAuto, Chunks: "Auto", Resolve: "Online"},
		Start:    plan.Plan{Policy: plan.FinDEP, MicroBatchSize: 4, R1: 2, R2: 3, Order: plan.ASAS, Chunks: 1},
	}
}

// toYAML joins objects into one readable text.
func toYAML(t *testing.T, objects ...any) string {
	t.Helper()
	var parts []string
	for _, o := range objects {
		b, err := yaml.Marshal(o)
		if err != nil {
			t.Fatal(err)
		}
		parts = append(parts, string(b))
	}
	return strings.Join(parts, "---\n")
}

func TestGoldenInstance(t *testing.T) {
	in := input()
	content := content()
	if err := content.Configure(in, instance(in)); err != nil {
		t.Fatal(err)
	}
	wrappers.Golden(t, "instance.golden.yaml", toYAML(t,
		render.RanksService(in.Owner.Namespace), render.NetworkPolicy(in.Owner.Namespace), render.LeaderService(in.Owner),
		render.PodGroup(in), render.DisruptionBudget(in.Owner, 2, 5, 1),
		render.Secret(in.Owner, in.Index, content), render.Pod(in, 0)))
}

func TestGoldenExpertPodWithOverrides(t *testing.T) {
	in := input()
	in.Gang, in.PriorityClassName = false, "high"
	in.Source = resolve.Source{Kind: resolve.SourceImage, Reference: "r/model:1"}
	in.Images.PullSecrets = []string{"credentials"}
	in.Groups.Expert = v1alpha1.GroupSpec{
		NodeSelector: map[string]string{"pool": "experts"},
		Tolerations:  []corev1.Toleration{{Key: "dedicated", Operator: corev1.TolerationOpEqual, Value: "moe"}},
		Resources: &corev1.ResourceRequirements{
			Limits:   corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("64Mi")},
			Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("2")},
		},
	}
	wrappers.Golden(t, "expert-pod.golden.yaml", toYAML(t, render.Pod(in, 4)))
}

func TestModelVolumes(t *testing.T) {
	cases := map[string]struct {
		source resolve.Source
		want   string
	}{
		"claim": {resolve.Source{Kind: resolve.SourcePVC, Reference: "w"}, "claimName: w"},
		"image": {resolve.Source{Kind: resolve.SourceImage, Reference: "r/m:1"}, "reference: r/m:1"},
		"host":  {resolve.Source{Kind: resolve.SourceHostPath, Reference: "/m"}, "path: /m"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			in := input()
			in.Source = tc.source
			if got := toYAML(t, render.Pod(in, 0)); !strings.Contains(got, tc.want) {
				t.Errorf("no %q in:\n%s", tc.want, got)
			}
		})
	}
}

// TestLongestNamesFit guards api/v1alpha1.MaxNameLength: the names that are made
// from the longest admitted name must be DNS labels.
func TestLongestNamesFit(t *testing.T) {
	const dnsLabel = 63
	name := strings.Repeat("n", v1alpha1.MaxNameLength)
	for _, got := range []string{
		render.PodName(name, 999, 1024, 1023), render.PodName(name, 999, 1, 1024),
		render.RanksName, render.LeaderServiceName(name), render.SecretName(name, 999),
	} {
		if len(got) > dnsLabel {
			t.Errorf("%s has %d characters; at most %d fit", got, len(got), dnsLabel)
		}
	}
}

func TestConfigureRefusesWhatPodsCannotRead(t *testing.T) {
	in := input()
	broken := instance(in)
	broken.Hosts = nil
	var content render.SecretContent
	if err := content.Configure(in, broken); err == nil || !strings.Contains(err.Error(), "hosts") {
		t.Errorf("got %v, want an error about hosts", err)
	}
}

// TestRankNames ties names, hosts and roles of the same rank together, and what
// makes a leader's name known: its label, its host name and the Service.
func TestRankNames(t *testing.T) {
	in := input()
	for rank, want := range []string{"lite-1-ag-0", "lite-1-ag-1", "lite-1-eg-0", "lite-1-eg-1", "lite-1-eg-2"} {
		pod := render.Pod(in, rank)
		host := instance(in).Hosts[rank]
		if *pod.Name != want || !strings.HasPrefix(host, want+".findep-ranks.serving.svc") {
			t.Errorf("rank %d: pod %s, host %s; want %s", rank, *pod.Name, host, want)
		}
		service, named := render.RanksService("serving"), pod.Spec.Hostname != nil && pod.Spec.Subdomain != nil
		if selected := resolve.Matches(service.Spec.Selector, pod.Labels); selected != (rank == 0) || named != selected {
			t.Errorf("rank %d: in the Service: %v, with a host name: %v; want both for the leader only", rank, selected, named)
		}
		if named && (*pod.Spec.Hostname != want || *pod.Spec.Subdomain != *service.Name) {
			t.Errorf("rank %d: is called %s.%s, want %s.%s", rank, *pod.Spec.Hostname, *pod.Spec.Subdomain, want, *service.Name)
		}
		role := string(instance(in).RoleOf(rank))
		if pod.Labels[v1alpha1.LabelRole] != role {
			t.Errorf("rank %d: label says %s, configuration %s", rank, pod.Labels[v1alpha1.LabelRole], role)
		}
	}
}
