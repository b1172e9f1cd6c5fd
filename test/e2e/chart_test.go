// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/findep/findep-operator/api/v1alpha1"
)

const (
	release       = "findep"
	operator      = "findep-operator"
	operatorSpace = "findep-system"
	presentChart  = "../../charts/findep-operator"
	previousChart = testdata + "/charts/findep-operator-0.1.0.tgz"
	helmTimeout   = "180s"
)

// helm runs helm on the namespace of the operator.
func helm(ctx context.Context, args ...string) (string, error) {
	GinkgoHelper()
	return helmIn(ctx, operatorSpace, args...)
}

func helmIn(ctx context.Context, in string, args ...string) (string, error) {
	GinkgoHelper()
	path, err := exec.LookPath("helm")
	if err != nil {
		Skip("there is no helm on the PATH; hack/stack.sh puts it there")
	}
	out, err := exec.CommandContext(ctx, path, append(args, "--namespace", in)...).CombinedOutput() //nolint:gosec // the tests' own arguments
	return string(out), err
}

func mustHelm(ctx context.Context, args ...string) string {
	GinkgoHelper()
	return mustHelmIn(ctx, operatorSpace, args...)
}

func mustHelmIn(ctx context.Context, in string, args ...string) string {
	GinkgoHelper()
	out, err := helmIn(ctx, in, args...)
	Expect(err).NotTo(HaveOccurred(), "helm %v: %s", args, out)
	return out
}

// borrowRelease returns the file with the values that the chart is installed with,
// and has it installed with them again at the end: the other specs find the
// operator as it was, whatever happens.
func borrowRelease(ctx context.Context) string {
	GinkgoHelper()
	installed, err := helm(ctx, "get", "values", release, "--output", "json")
	if err != nil {
		Skip("the chart is not installed as release " + release + " in " + operatorSpace + ": " + installed)
	}
	values := filepath.Join(GinkgoT().TempDir(), "values.json")
	Expect(os.WriteFile(values, []byte(installed), 0o600)).To(Succeed())
	DeferCleanup(func(ctx context.Context) {
		mustHelm(ctx, "upgrade", "--install", release, presentChart, "--values", values, "--wait", "--timeout", helmTimeout)
	})
	return values
}

// traffic asks one deployment again and again, and collects what went wrong.
type traffic struct {
	stop context.CancelFunc
	done sync.WaitGroup

	mu       sync.Mutex
	answered int
	failures []string
}

func beginTraffic(name string, r reference) *traffic {
	ctx, cancel := context.WithCancel(context.Background())
	t := &traffic{stop: cancel}
	t.done.Go(func() {
		for ctx.Err() == nil {
			text, err := completion(ctx, name, r)
			if ctx.Err() == nil {
				t.note(text == r.GreedyText, fmt.Sprintf("answered %q, %v", text, err))
			}
		}
	})
	return t
}

func (t *traffic) note(right bool, what string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if right {
		t.answered++
		return
	}
	t.failures = append(t.failures, what)
}

func (t *traffic) soFar() (answered int, failures []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.answered, slices.Clone(t.failures)
}

func (t *traffic) end() {
	t.stop()
	t.done.Wait()
}

// schemaHas looks for a property of status.instances[] in the CRD that is
// served: it is what version 0.2.0 of the chart adds to that of 0.1.0.
func schemaHas(ctx context.Context, property string) (bool, error) {
	crd := &unstructured.Unstructured{}
	crd.SetGroupVersionKind(schema.GroupVersionKind{Group: "apiextensions.k8s.io", Version: "v1", Kind: "CustomResourceDefinition"})
	if err := k8s.Get(ctx, types.NamespacedName{Name: "moedeployments.findep.dev"}, crd); err != nil {
		return false, err
	}
	versions, _, err := unstructured.NestedSlice(crd.Object, "spec", "versions")
	if err != nil {
		return false, err
	}
	_, found, err := unstructured.NestedMap(versions[0].(map[string]any), "schema", "openAPIV3Schema", "properties", "status",
		"properties", "instances", "items", "properties", property)
	return found, err
}

// managerImage is the image that the operator's Deployment asks for.
func managerImage(ctx context.Context) string {
	GinkgoHelper()
	var d appsv1.Deployment
	Expect(k8s.Get(ctx, types.NamespacedName{Namespace: operatorSpace, Name: operator}, &d)).To(Succeed())
	return d.Spec.Template.Spec.Containers[0].Image
}

// scaleManager sets the number of managers and waits until so many are ready.
func scaleManager(ctx context.Context, n int32) {
	GinkgoHelper()
	d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: operatorSpace, Name: operator}}
	Expect(k8s.SubResource("scale").Update(ctx, d, client.WithSubResourceBody(&autoscalingv1.Scale{Spec: autoscalingv1.ScaleSpec{Replicas: n}}))).To(Succeed())
	Eventually(ctx, func() (int32, error) {
		err := k8s.Get(ctx, client.ObjectKeyFromObject(d), d)
		return d.Status.ReadyReplicas, err
	}).WithTimeout(availableWithin).WithPolling(pollEvery).Should(Equal(n), "managers that are ready")
}

// helmTest runs helm test and returns the phases that the pod of the test went
// through meanwhile.
func helmTest(ctx context.Context) (phases []corev1.PodPhase, output string, err error) {
	GinkgoHelper()
	seen, watchErr := clientset.CoreV1().Pods(operatorSpace).Watch(ctx, metav1.ListOptions{FieldSelector: "metadata.name=" + operator + "-test"})
	Expect(watchErr).NotTo(HaveOccurred())
	var done sync.WaitGroup
	done.Go(func() {
		for e := range seen.ResultChan() {
			if pod, ok := e.Object.(*corev1.Pod); ok && e.Type != watch.Deleted {
				phases = append(phases, pod.Status.Phase)
			}
		}
	})
	output, err = helm(ctx, "test", release, "--timeout", helmTimeout)
	seen.Stop()
	done.Wait()
	return phases, output, err
}

// leftovers lists what the operator and its chart have in the cluster: by name
// in the cluster's scope, and in the operator's namespace everything that is not
// in every namespace. What outlives the chart because it is the users' is not
// listed: the definitions and what the API server makes of them, and namespaces.
func leftovers(ctx context.Context) ([]string, error) {
	lists, err := clientset.Discovery().ServerPreferredResources()
	if err != nil {
		return nil, err
	}
	var left []string
	for _, list := range lists {
		for _, r := range list.APIResources {
			users := r.Kind == "CustomResourceDefinition" || r.Kind == "APIService" || r.Kind == "Namespace"
			if users || r.Kind == "Event" || !slices.Contains(r.Verbs, "list") {
				continue
			}
			found := &metav1.PartialObjectMetadataList{}
			found.APIVersion, found.Kind = list.GroupVersion, r.Kind+"List"
			if err := k8s.List(ctx, found, client.InNamespace(operatorSpace)); err != nil {
				return nil, fmt.Errorf("list %s: %w", r.Name, err)
			}
			for _, o := range found.Items {
				everywhere := o.Name == "default" || o.Name == "kube-root-ca.crt"
				if r.Namespaced && !everywhere || !r.Namespaced && strings.Contains(o.Name, release) {
					left = append(left, r.Kind+" "+o.Name)
				}
			}
		}
	}
	return left, nil
}

var _ = Describe("The chart, from the version before to none at all", Label("chart"), Ordered, func() {
	const name = "lasting"
	var (
		first    map[string]string
		load     *traffic
		values   string
		prompt   reference
		previous = os.Getenv("FINDEP_PREVIOUS_MANAGER_TAG")
	)
	install := func(ctx context.Context, chart string, more ...string) {
		GinkgoHelper()
		// Two managers, so that they elect a leader.
		args := []string{"upgrade", "--install", release, chart, "--values", values, "--set", "replicas=2", "--wait", "--timeout", helmTimeout}
		for _, set := range more {
			args = append(args, "--set", set)
		}
		mustHelm(ctx, args...)
	}
	// No node has these images: a pod that was made of them would not start.
	upgrade := func(ctx context.Context) {
		GinkgoHelper()
		install(ctx, presentChart, "images.runtime.tag=next", "images.server.tag=next")
		Expect(schemaHas(ctx, "drainingSince")).To(BeTrue(), "the next version's definitions")
	}
	expectUndisturbed := func(ctx context.Context) {
		GinkgoHelper()
		// An operator that wants to change something does so in its first passes.
		before, _ := load.soFar()
		Consistently(ctx, func() map[string]string { return podState(ctx, name) }).
			WithTimeout(settle).WithPolling(pollEvery).Should(Equal(first), "pods and their restarts")
		Eventually(ctx, func() int {
			answered, _ := load.soFar()
			return answered
		}).WithTimeout(changeWithin).WithPolling(pollEvery).Should(BeNumerically(">", before), "requests answered")
		_, failures := load.soFar()
		Expect(failures).To(BeEmpty(), "requests since the version before was installed")
	}

	BeforeAll(func(ctx context.Context) {
		values = borrowRelease(ctx)
		prompt = references()[0]
		mustHelm(ctx, "uninstall", release, "--wait", "--timeout", helmTimeout)

		By("serving with the version before")
		// hack/e2e.sh builds the manager of that version from its commit, where the
		// history has it. Without it the chart is old and the manager is not.
		var set []string
		if previous != "" {
			set = append(set, "images.manager.tag="+previous)
		}
		AddReportEntry("settings of the version before", fmt.Sprint(set))
		install(ctx, previousChart, set...)
		create(ctx, tiny(name, 1, 1))
		eventuallyAvailable(ctx, name)
		eventuallyAnswers(ctx, name, prompt)
		Expect(schemaHas(ctx, "drainingSince")).To(BeFalse(), "a field of the next version")
		first = podState(ctx, name)
		Expect(first).To(HaveLen(2))
		load = beginTraffic(name, prompt)
		DeferCleanup(load.end)
	})

	It("is upgraded with its definitions, and no pod of an instance notices", func(ctx context.Context) {
		before := managerImage(ctx)
		upgrade(ctx)
		if previous != "" {
			Expect(managerImage(ctx)).NotTo(Equal(before))
		}
		Expect(mustHelm(ctx, "list")).NotTo(ContainSubstring(strings.TrimSuffix(filepath.Base(previousChart), ".tgz")))
		expectUndisturbed(ctx)
		Expect(condition(ctx, name, v1alpha1.ConditionAvailable)).To(HavePrefix("True/"))
	})

	It("tests itself, and its test can fail", func(ctx context.Context) {
		phases, output, err := helmTest(ctx)
		Expect(err).NotTo(HaveOccurred(), output)
		Expect(phases).To(ContainElement(corev1.PodSucceeded), "phases of the test's pod")

		scaleManager(ctx, 0)
		phases, output, err = helmTest(ctx)
		Expect(err).To(HaveOccurred(), output)
		Expect(phases).To(ContainElement(corev1.PodFailed))
		// It is kept for its log.
		log, err := clientset.CoreV1().Pods(operatorSpace).GetLogs(operator+"-test", &corev1.PodLogOptions{}).DoRaw(ctx)
		Expect(err).NotTo(HaveOccurred())
		Expect(string(log)).To(ContainSubstring("error: "))

		scaleManager(ctx, 2)
		_, output, err = helmTest(ctx)
		Expect(err).NotTo(HaveOccurred(), output)
		expectUndisturbed(ctx)
	})

	It("has dashboards and alerts of series that are served", func(ctx context.Context) {
		var managers corev1.PodList
		Expect(k8s.List(ctx, &managers, client.InNamespace(operatorSpace), client.MatchingLabels{"findep.dev/component": "manager"})).To(Succeed())
		Eventually(ctx, func() ([]string, error) {
			pods := slices.Concat(podsOf(ctx, name), managers.Items)
			known, err := series(ctx, pods)
			var unknown []string
			for _, metric := range watched() {
				if !known[metric] {
					unknown = append(unknown, metric)
				}
			}
			return unknown, err
		}).WithTimeout(changeWithin).WithPolling(pollEvery).Should(BeEmpty())
	})

	It("is rolled back, and upgraded again", func(ctx context.Context) {
		mustHelm(ctx, "rollback", release, "1", "--wait", "--timeout", helmTimeout)
		Expect(schemaHas(ctx, "drainingSince")).To(BeFalse())
		expectUndisturbed(ctx)
		upgrade(ctx)
		expectUndisturbed(ctx)
	})

	It("leaves the users' objects when it is uninstalled, and nothing else", func(ctx context.Context) {
		Expect(leftovers(ctx)).To(ContainElements("Lease findep-operator.findep.dev", "Secret findep-operator-webhook-cert"),
			"what must go although helm did not make it")
		mustHelm(ctx, "uninstall", release, "--wait", "--timeout", helmTimeout)
		Eventually(ctx, func() ([]string, error) { return leftovers(ctx) }).
			WithTimeout(changeWithin).WithPolling(pollEvery).Should(BeEmpty())
		Expect(schemaHas(ctx, "drainingSince")).To(BeTrue(), "the definitions stay")
		expectUndisturbed(ctx)
	})

	It("takes over what it left when it is installed again", func(ctx context.Context) {
		install(ctx, presentChart)
		expectUndisturbed(ctx)
		load.end()
		answered, _ := load.soFar()
		AddReportEntry("requests answered, none failed", answered)

		d := current(ctx, name)
		changed := d.DeepCopy()
		changed.Spec.Schedule.Policy = v1alpha1.PolicySequential
		Expect(k8s.Patch(ctx, changed, client.MergeFrom(d))).To(Succeed())
		Eventually(ctx, func() int64 { return current(ctx, name).Status.ObservedGeneration }).
			WithTimeout(changeWithin).WithPolling(pollEvery).Should(Equal(changed.Generation))
	})
})
