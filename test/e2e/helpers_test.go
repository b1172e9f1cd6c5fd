// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/findep/findep-operator/api/v1alpha1"
)

const (
	testdata        = "../testdata"
	modelConfigName = "tiny-config"
)

// reference is one prompt with what transformers answered.
type reference struct {
	ID           string  `json:"id"`
	Prompt       string  `json:"prompt"`
	GreedyTokens []int32 `json:"greedyTokens"`
	GreedyText   string  `json:"greedyText"`
}

func references() []reference {
	b, err := os.ReadFile(filepath.Join(testdata, "reference", "prompts.json"))
	Expect(err).NotTo(HaveOccurred())
	var all []reference
	Expect(json.Unmarshal(b, &all)).To(Succeed())
	Expect(len(all)).To(BeNumerically(">=", 20), "reference prompts")
	return all
}

func createModelConfig(ctx context.Context, namespace string) {
	GinkgoHelper()
	b, err := os.ReadFile(filepath.Join(testdata, "tinymodel", "config.json"))
	Expect(err).NotTo(HaveOccurred())
	Expect(k8s.Create(ctx, &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: modelConfigName, Namespace: namespace},
		Data:       map[string]string{"config.json": string(b)},
	})).To(Succeed())
}

// tiny is a deployment of the sample model on ag + eg GPUs.
func tiny(name string, attention, expert int32, change ...func(*v1alpha1.MoEDeployment)) *v1alpha1.MoEDeployment {
	image := os.Getenv("FINDEP_MODEL_IMAGE")
	if image == "" {
		image = "localhost/findep/tinymodel:dev"
	}
	d := &v1alpha1.MoEDeployment{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace},
		Spec: v1alpha1.MoEDeploymentSpec{
			Model: v1alpha1.ModelSpec{
				ConfigFrom:       &v1alpha1.ModelConfigSource{Name: modelConfigName},
				Source:           v1alpha1.ModelSource{URI: "oci://" + image},
				MaxContextTokens: 512,
			},
			GPUs:     v1alpha1.GPUSpec{Attention: attention, Expert: expert},
			Schedule: v1alpha1.ScheduleSpec{Policy: v1alpha1.PolicyFinDEP},
		},
	}
	for _, f := range change {
		f(d)
	}
	return d
}

func create(ctx context.Context, d *v1alpha1.MoEDeployment) {
	GinkgoHelper()
	Expect(k8s.Create(ctx, d)).To(Succeed())
	DeferCleanup(func(ctx context.Context) {
		Expect(client.IgnoreNotFound(k8s.Delete(ctx, d))).To(Succeed())
		expectNoChildren(ctx, d)
	})
}

// eventuallyRefused waits until admission refuses a deployment: the chart's
// webhooks let pass what they cannot be asked about, while the operator starts.
func eventuallyRefused(ctx context.Context, d *v1alpha1.MoEDeployment, reason OmegaMatcher) {
	GinkgoHelper()
	Eventually(ctx, func() error { return k8s.Create(ctx, d.DeepCopy(), client.DryRunAll) }).
		WithTimeout(changeWithin).WithPolling(pollEvery).Should(MatchError(reason))
}

// current reads the deployment anew.
func current(ctx context.Context, name string) *v1alpha1.MoEDeployment {
	GinkgoHelper()
	var d v1alpha1.MoEDeployment
	Expect(k8s.Get(ctx, types.NamespacedName{Namespace: namespace, Name: name}, &d)).To(Succeed())
	return &d
}

// condition is the status, reason and message of one condition as one string,
// so that a failed expectation shows all three.
func condition(ctx context.Context, name, kind string) string {
	GinkgoHelper()
	c := meta.FindStatusCondition(current(ctx, name).Status.Conditions, kind)
	if c == nil {
		return "absent"
	}
	return fmt.Sprintf("%s/%s: %s", c.Status, c.Reason, c.Message)
}

func eventuallyAvailable(ctx context.Context, name string) {
	GinkgoHelper()
	Eventually(ctx, func() string { return condition(ctx, name, v1alpha1.ConditionAvailable) }).
		WithTimeout(availableWithin).WithPolling(pollEvery).Should(HavePrefix("True/"), "deployment %s", name)
}

func podsOf(ctx context.Context, name string) []corev1.Pod {
	GinkgoHelper()
	var pods corev1.PodList
	Expect(k8s.List(ctx, &pods, client.InNamespace(namespace),
		client.MatchingLabels{v1alpha1.LabelDeployment: name})).To(Succeed())
	return pods.Items
}

// podState maps each pod's name to its UID and restart count: equal before and
// after means that nothing restarted.
func podState(ctx context.Context, name string) map[string]string {
	GinkgoHelper()
	state := map[string]string{}
	for _, p := range podsOf(ctx, name) {
		restarts := int32(0)
		for _, c := range append(p.Status.InitContainerStatuses, p.Status.ContainerStatuses...) {
			restarts += c.RestartCount
		}
		state[p.Name] = fmt.Sprintf("%s restarts=%d", p.UID, restarts)
	}
	return state
}

// plugin runs the command line tool, which hack/e2e.sh has built, on the
// namespace of the tests.
func plugin(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "../../bin/findep", append(args, "--namespace", namespace)...) //nolint:gosec // the tests' own arguments
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// eventuallyAnswers waits until a request goes through and is right: a new
// Service may refuse for a moment, and so may an instance that re-forms.
func eventuallyAnswers(ctx context.Context, name string, r reference) {
	GinkgoHelper()
	Eventually(ctx, func() (string, error) { return completion(ctx, name, r) }).
		WithTimeout(changeWithin).WithPolling(pollEvery).Should(Equal(r.GreedyText), "prompt %s", r.ID)
}

// expectNoChildren waits until nothing that the operator made for d is left.
func expectNoChildren(ctx context.Context, d *v1alpha1.MoEDeployment) {
	GinkgoHelper()
	kinds := []schemaList{
		{"", "v1", "PodList"}, {"", "v1", "ServiceList"}, {"", "v1", "SecretList"},
		{"apps", "v1", "ControllerRevisionList"}, {"scheduling.k8s.io", "v1beta1", "PodGroupList"},
	}
	Eventually(ctx, func(g Gomega) {
		for _, k := range kinds {
			left, err := k.ownedBy(ctx, d.UID)
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(left).To(BeEmpty(), "children of kind %s", k.kind)
		}
	}).WithTimeout(changeWithin).WithPolling(pollEvery).Should(Succeed())
}

// schemaList is a list kind that may not be served.
type schemaList struct{ group, version, kind string }

func (s schemaList) ownedBy(ctx context.Context, uid types.UID) ([]string, error) {
	list := &metav1.PartialObjectMetadataList{}
	list.APIVersion, list.Kind = s.version, s.kind
	if s.group != "" {
		list.APIVersion = s.group + "/" + s.version
	}
	err := k8s.List(ctx, list, client.InNamespace(namespace))
	if meta.IsNoMatchError(err) {
		return nil, nil
	}
	var names []string
	for _, o := range list.Items {
		for _, owner := range o.OwnerReferences {
			if owner.UID == uid {
				names = append(names, o.Name)
			}
		}
	}
	return names, err
}

// dumpNamespace prints what explains a failure.
func dumpNamespace(ctx context.Context) {
	var all v1alpha1.MoEDeploymentList
	_ = k8s.List(ctx, &all, client.InNamespace(namespace))
	for _, d := range all.Items {
		b, _ := json.MarshalIndent(d.Status, "", "  ")
		fmt.Fprintf(GinkgoWriter, "MoEDeployment %s status:\n%s\n", d.Name, b)
	}
	var pods corev1.PodList
	_ = k8s.List(ctx, &pods, client.InNamespace(namespace))
	for _, p := range pods.Items {
		fmt.Fprintf(GinkgoWriter, "pod %s on %q: %s\n", p.Name, p.Spec.NodeName, p.Status.Phase)
		for _, c := range append(p.Spec.InitContainers, p.Spec.Containers...) {
			tail := int64(15)
			log, err := clientset.CoreV1().Pods(namespace).
				GetLogs(p.Name, &corev1.PodLogOptions{Container: c.Name, TailLines: &tail}).DoRaw(ctx)
			fmt.Fprintf(GinkgoWriter, "--- %s/%s (%v)\n%s\n", p.Name, c.Name, err, log)
		}
	}
}
