// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/findep/findep-operator/api/v1alpha1"
	"github.com/findep/findep-operator/controllers/resolve"
	"github.com/findep/findep-operator/test/wrappers"
)

// runOffline runs the plan command on a text, without any cluster.
func runOffline(t *testing.T, text string, args ...string) (string, error) {
	t.Helper()
	t.Setenv("KUBECONFIG", filepath.Join(t.TempDir(), "none"))
	cmd := NewPlan()
	var out bytes.Buffer
	cmd.SetOut(&out)
	cmd.SetErr(&out)
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	cmd.SetIn(strings.NewReader(text))
	cmd.SetArgs(append([]string{"-f", "-"}, args...))
	err := cmd.Execute()
	return out.String(), err
}

func sample(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("../../../config/samples/findep_v1alpha1_moedeployment.yaml")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestPlanOfTheSample(t *testing.T) {
	out, err := runOffline(t, sample(t))
	if err != nil {
		t.Fatal(err)
	}
	wrappers.Golden(t, "plan.txt", out)
	if out, err = runOffline(t, sample(t), "-o", "yaml", "--objects"); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"kind: PodGroup", "name: tiny-0-eg-2", "kind: Service", "tokensPerSecondPerGPU:"} {
		if !strings.Contains(out, want) {
			t.Errorf("the output lacks %q:\n%s", want, out)
		}
	}
}

func TestPlanTakesThePresetOfTheProduct(t *testing.T) {
	text := strings.NewReplacer("profileRef: cpu", "nodeSelector: {}").Replace(sample(t))
	out, err := runOffline(t, text, "--gpu-product", "NVIDIA-H100-80GB-HBM3")
	if err != nil || !strings.Contains(out, "h100") {
		t.Errorf("error %v; the output names no H100 preset:\n%s", err, out)
	}
}

func TestPlanRefuses(t *testing.T) {
	for _, tc := range []struct {
		name, text, want string
		args             []string
		infeasible       bool
	}{
		{name: "no deployment", text: "kind: ConfigMap\napiVersion: v1\n", want: "no MoEDeployment"},
		{name: "unknown field", text: strings.Replace(sample(t), "replicas: 1", "replica: 1", 1), want: `unknown field "spec.replica"`},
		{name: "not YAML", text: "a: [", want: "document 1"},
		{name: "no name", text: strings.Replace(sample(t), "  name: tiny\nspec", "  labels: {}\nspec", 1), want: "metadata.name"},
		{name: "too large", text: strings.Repeat("#", maxManifestBytes+1), want: "more than 16777216 bytes"},
		{name: "output format", text: sample(t), args: []string{"-o", "xml"}, want: "use table, json or yaml"},
		{name: "contradiction", text: sample(t), args: []string{"--server", "--gpu-product", "x"}, want: "cannot be used with --server"},
		{name: "config missing", text: sample(t)[strings.Index(sample(t), "---"):], want: "holds no ConfigMap", infeasible: true},
		{name: "too many GPUs", text: strings.Replace(sample(t), "expert: 3", "expert: 17", 1), want: "16 routed experts", infeasible: true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := runOffline(t, tc.text, tc.args...)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("error = %v, want one with %q", err, tc.want)
			}
			var input BadInput
			var infeasible Infeasible
			if errors.As(err, &input) == tc.infeasible || errors.As(err, &infeasible) != tc.infeasible {
				t.Errorf("%T is the wrong kind of error", err)
			}
		})
	}
}

func TestCommandsNameWhatIsMissing(t *testing.T) {
	kubeconfig := filepath.Join(t.TempDir(), "none")
	t.Setenv("KUBECONFIG", kubeconfig)
	for _, tc := range []struct {
		name, want string
		cmd        *cobra.Command
		args       []string
	}{
		{"no name", "status needs the name of one MoEDeployment", NewStatus(nil), nil},
		{"two names", "was given 2", NewRollout(), []string{"undo", "a", "b"}},
		{"no kubeconfig", kubeconfig + ": set KUBECONFIG", NewStatus(nil), []string{"a"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tc.cmd.SetArgs(tc.args)
			tc.cmd.SilenceErrors, tc.cmd.SilenceUsage = true, true
			err := tc.cmd.Execute()
			var input BadInput
			if !errors.As(err, &input) || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error = %v, want bad input with %q", err, tc.want)
			}
		})
	}
}

func TestProgressOf(t *testing.T) {
	serving := func(change func(*v1alpha1.MoEDeployment)) *v1alpha1.MoEDeployment {
		d := wrappers.MoEDeployment("lite").Replicas(3).Obj()
		d.Generation, d.Status.ObservedGeneration = 4, 4
		d.Status.UpdatedReplicas, d.Status.ReadyReplicas = ptr.To[int32](3), ptr.To[int32](3)
		change(d)
		return d
	}
	for _, tc := range []struct {
		name   string
		change func(*v1alpha1.MoEDeployment)
		text   string
		done   bool
		fails  string
	}{
		{name: "done", change: func(*v1alpha1.MoEDeployment) {}, text: "Rolled out: 3 of 3", done: true},
		{name: "not seen", change: func(d *v1alpha1.MoEDeployment) { d.Generation = 5 }, text: "generation 5, seen 4"},
		{name: "old instances", text: "Waiting: 1 of 3 instances are at the current revision; instance 2: image", change: func(d *v1alpha1.MoEDeployment) {
			d.Status.UpdatedReplicas = ptr.To[int32](1)
			d.Status.Instances = []v1alpha1.InstanceStatus{{Index: 2, Phase: v1alpha1.InstanceStarting, Message: "image"}}
		}},
		{name: "paused", text: "Paused: 1 of 3", change: func(d *v1alpha1.MoEDeployment) {
			d.Status.UpdatedReplicas, d.Spec.Rollout.Paused = ptr.To[int32](1), v1alpha1.Enabled
		}},
		{name: "not serving", text: "Waiting: 2 of 3 instances serve", change: func(d *v1alpha1.MoEDeployment) { d.Status.ReadyReplicas = ptr.To[int32](2) }},
		{name: "partition", text: "partition 2 allows: 1 of 3", done: true, change: func(d *v1alpha1.MoEDeployment) {
			d.Status.UpdatedReplicas, d.Spec.Rollout.Partition = ptr.To[int32](1), 2
		}},
		{name: "does not fit", fails: "Feasible is False (MemoryExceeded): too big", change: func(d *v1alpha1.MoEDeployment) {
			d.Status.Conditions = []metav1.Condition{{Type: v1alpha1.ConditionFeasible, Status: metav1.ConditionFalse, Reason: "MemoryExceeded", Message: "too big"}}
		}},
		{name: "failed", fails: "instance 1 has failed for good", change: func(d *v1alpha1.MoEDeployment) {
			d.Status.Instances = []v1alpha1.InstanceStatus{{Index: 1, Phase: v1alpha1.InstanceFailed}}
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			text, done, err := progressOf(serving(tc.change))
			if tc.fails != "" {
				if err == nil || !strings.Contains(err.Error(), tc.fails) {
					t.Errorf("error = %v, want one with %q", err, tc.fails)
				}
				return
			}
			if err != nil || done != tc.done || !strings.Contains(text, tc.text) {
				t.Errorf("got %q, done %v, error %v; want %q, done %v", text, done, err, tc.text, tc.done)
			}
		})
	}
}

func TestChangesBetween(t *testing.T) {
	base := resolve.IntentOf(wrappers.MoEDeployment("lite").GPUs(2, 3).Obj(), nil)
	other := base
	other.GPUs.Expert, other.Config, other.Images.Server = 4, strings.Repeat("x", 1000), "s:2"
	if got, want := changesBetween(base, other), "config (unset) -> (1000 characters), gpus.expert 3 -> 4, images.server (unset) -> s:2"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := changesBetween(base, base); got != "none" {
		t.Errorf("equal intents: %q", got)
	}
}
