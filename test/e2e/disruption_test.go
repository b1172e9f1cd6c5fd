// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/findep/findep-operator/api/v1alpha1"
)

var _ = Describe("Requests go on", Ordered, func() {
	const name = "busy"
	var requests *clients

	BeforeAll(func(ctx context.Context) {
		create(ctx, tiny(name, 1, 1, func(d *v1alpha1.MoEDeployment) { d.Spec.Replicas = ptr.To[int32](2) }))
		eventuallyAvailable(ctx, name)
		eventuallyReady(ctx, name, 2)
	})
	BeforeEach(func() { requests = newClients(service(name)) })
	AfterEach(func() { requests.stop() })

	change := func(ctx context.Context, f func(*v1alpha1.MoEDeploymentSpec)) {
		GinkgoHelper()
		d := current(ctx, name)
		changed := d.DeepCopy()
		f(&changed.Spec)
		Expect(k8s.Patch(ctx, changed, client.MergeFrom(d))).To(Succeed())
	}

	It("while an instance is added and one is drained", func(ctx context.Context) {
		change(ctx, func(s *v1alpha1.MoEDeploymentSpec) { s.Replicas = ptr.To[int32](3) })
		eventuallyReady(ctx, name, 3)
		change(ctx, func(s *v1alpha1.MoEDeploymentSpec) { s.Replicas = ptr.To[int32](2) })
		Eventually(ctx, func() int { return len(podsOf(ctx, name)) }).WithTimeout(changeWithin).WithPolling(pollEvery).Should(Equal(4))
		requests.expectNoLoss()
	})

	It("while instances are recreated and the operator is killed", func(ctx context.Context) {
		before := podState(ctx, name)
		change(ctx, func(s *v1alpha1.MoEDeploymentSpec) {
			s.Groups.Expert.PodTemplate = &runtime.RawExtension{Raw: []byte(`{"metadata":{"annotations":{"e2e.findep.dev/again":"yes"}}}`)}
		})
		Eventually(ctx, func() map[string]string { return podState(ctx, name) }).
			WithTimeout(changeWithin).WithPolling(pollEvery).ShouldNot(Equal(before), "an instance is on its way")
		Expect(k8s.DeleteAllOf(ctx, &corev1.Pod{}, client.InNamespace(operatorSpace), client.GracePeriodSeconds(0),
			client.MatchingLabels{v1alpha1.LabelComponent: v1alpha1.ComponentManager})).To(Succeed())
		eventuallyReady(ctx, name, 2)
		for pod, state := range podState(ctx, name) {
			Expect(state).NotTo(Equal(before[pod]), "pod %s", pod)
		}
		requests.expectNoLoss()
	})

	It("while a pod is evicted, and evictions break one instance at a time", func(ctx context.Context) {
		pods := podsOf(ctx, name)
		first := pods[0].Labels[v1alpha1.LabelInstance]
		var other corev1.Pod
		for _, p := range pods {
			if p.Labels[v1alpha1.LabelInstance] != first {
				other = p
			}
		}
		Expect(evict(ctx, &pods[0])).To(Succeed())
		Eventually(ctx, func() error { return evict(ctx, &other) }).WithTimeout(settle).WithPolling(pollEvery).
			Should(Satisfy(apierrors.IsTooManyRequests), "the budget is for one instance")
		eventuallyReady(ctx, name, 2)
		requests.expectNoLoss()
	})
})

func evict(ctx context.Context, pod *corev1.Pod) error {
	return clientset.PolicyV1().Evictions(pod.Namespace).Evict(ctx, &policyv1.Eviction{
		ObjectMeta: metav1.ObjectMeta{Name: pod.Name, Namespace: pod.Namespace},
	})
}

// eventuallyReady waits until the operator has seen the last change and that many
// instances serve at the current revision.
func eventuallyReady(ctx context.Context, name string, instances int32) {
	GinkgoHelper()
	Eventually(ctx, func(g Gomega) {
		d := current(ctx, name)
		g.Expect(d.Status.ObservedGeneration).To(Equal(d.Generation))
		g.Expect(d.Status.ReadyReplicas).To(HaveValue(Equal(instances)))
		g.Expect(d.Status.UpdatedReplicas).To(HaveValue(Equal(instances)))
	}).WithTimeout(availableWithin).WithPolling(pollEvery).Should(Succeed())
}
