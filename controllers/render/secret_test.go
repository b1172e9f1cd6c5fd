// SPDX-License-Identifier: Apache-2.0

package render_test

import (
	"encoding/json"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"

	"github.com/findep/findep-operator/api/v1alpha1"
	"github.com/findep/findep-operator/controllers/render"
	"github.com/findep/findep-operator/runtime/identity"
	"github.com/findep/findep-operator/runtime/plan"
)

// content is a Secret's, without configuration.
func content() render.SecretContent {
	return render.SecretContent{
		Leaf:      map[string][]byte{"tls.crt": []byte("c"), "tls.key": []byte("k"), "ca.crt": []byte("a")},
		Authority: map[string][]byte{"tls.crt": []byte("C"), "tls.key": []byte("K")},
		First:     []byte("{}"),
	}
}

// stored is the Secret as the API server would return it.
func stored(t *testing.T, in *render.Input, c render.SecretContent) *corev1.Secret {
	t.Helper()
	b, err := json.Marshal(render.Secret(in.Owner, in.Index, c))
	if err != nil {
		t.Fatal(err)
	}
	var s corev1.Secret
	if err := json.Unmarshal(b, &s); err != nil {
		t.Fatal(err)
	}
	return &s
}

func TestSecretIsReadAsItWasWritten(t *testing.T) {
	in := input()
	want := content()
	if err := want.Configure(in, instance(in)); err != nil {
		t.Fatal(err)
	}
	got := render.ReadSecret(stored(t, in, want))
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if !got.Configured() {
		t.Error("it is not configured")
	}
}

// TestSecretForgetsTheInstance: what the deployment needs outlives instance 0.
func TestSecretForgetsTheInstance(t *testing.T) {
	in := input()
	c := content()
	if err := c.Configure(in, instance(in)); err != nil {
		t.Fatal(err)
	}
	c.Forget()
	s := stored(t, in, c)
	got := render.ReadSecret(s)
	if got.Configured() || len(got.Leaf) > 0 || s.Labels[v1alpha1.LabelInstance] != "" {
		t.Errorf("something of the instance is left: %v, labels %v", got, s.Labels)
	}
	if diff := cmp.Diff(content().Authority, got.Authority); diff != "" {
		t.Error(diff)
	}
}

// TestPodsMountOnlyWhatIsTheirs: neither the authority's key nor the history gets
// into a pod, and the ranks' own key not into the server.
func TestPodsMountOnlyWhatIsTheirs(t *testing.T) {
	in := input()
	var pod corev1.Pod
	b, err := json.Marshal(render.Pod(in, 0))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &pod); err != nil {
		t.Fatal(err)
	}
	files := map[string][]string{}
	for _, v := range pod.Spec.Volumes {
		if v.Secret == nil {
			continue
		}
		if len(v.Secret.Items) == 0 {
			t.Errorf("volume %s mounts everything", v.Name)
		}
		for _, item := range v.Secret.Items {
			files[v.Name] = append(files[v.Name], item.Key)
		}
	}
	want := map[string][]string{"config": {plan.InstanceFile}, "tls": {identity.CAFile, identity.CertFile, identity.KeyFile}}
	if diff := cmp.Diff(want, files); diff != "" {
		t.Error(diff)
	}
	if slices.ContainsFunc(pod.Spec.Containers[0].VolumeMounts, func(m corev1.VolumeMount) bool { return m.Name == "tls" }) {
		t.Error("the server has the ranks' key")
	}
}

func TestBudgetsHoldSomethingBack(t *testing.T) {
	cases := map[string]struct {
		instances, size, unavailable int
		want                         int // 0 for none
	}{
		"one instance may always go":             {1, 16, 1, 0},
		"no instance":                            {0, 16, 1, 0},
		"all may go":                             {3, 16, 3, 0},
		"one of two":                             {2, 16, 1, 31},
		"two of three":                           {3, 16, 2, 31},
		"a surge stands in for what is lacking":  {2, 16, 0, 31},
		"a surge for one instance holds nothing": {1, 16, 0, 0},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			got := 0
			if b := render.DisruptionBudget(input().Owner, tc.instances, tc.size, tc.unavailable); b != nil {
				got = b.Spec.MinAvailable.IntValue()
			}
			if got != tc.want {
				t.Errorf("at least %d pods stay, want %d", got, tc.want)
			}
		})
	}
}
