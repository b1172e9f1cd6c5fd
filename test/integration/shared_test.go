// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"context"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/findep/findep-operator/api/v1alpha1"
	"github.com/findep/findep-operator/controllers/render"
	"github.com/findep/findep-operator/test/wrappers"
)

var _ = Describe("What the deployments of a namespace share", func() {
	var w *world
	var key types.NamespacedName

	BeforeEach(func(ctx context.Context) {
		w = newWorld(ctx)
		key = types.NamespacedName{Namespace: w.namespace, Name: render.RanksName}
	})

	shared := func(ctx context.Context) (service *corev1.Service, policy *networkingv1.NetworkPolicy) {
		GinkgoHelper()
		service, policy = &corev1.Service{}, &networkingv1.NetworkPolicy{}
		Expect(k8s.Get(ctx, key, service)).To(Succeed())
		Expect(k8s.Get(ctx, key, policy)).To(Succeed())
		return service, policy
	}
	gone := func(ctx context.Context) bool {
		return apierrors.IsNotFound(k8s.Get(ctx, key, &corev1.Service{})) && apierrors.IsNotFound(k8s.Get(ctx, key, &networkingv1.NetworkPolicy{}))
	}
	remove := func(ctx context.Context, name string) {
		GinkgoHelper()
		Expect(k8s.Delete(ctx, w.get(ctx, name))).To(Succeed())
		for podName := range w.pods(ctx, name) {
			w.kill(ctx, podName)
		}
		w.reconcile(ctx, name)
	}

	It("is made once, belongs to nobody, and goes with the last of them", func(ctx context.Context) {
		w.create(ctx, wrappers.MoEDeployment("one"))
		w.settle(ctx, "one")
		first, policy := shared(ctx)
		Expect(first.OwnerReferences).To(BeEmpty())
		Expect(policy.OwnerReferences).To(BeEmpty())
		Expect(first.Spec.PublishNotReadyAddresses).To(BeTrue())
		Expect(w.pods(ctx, "one")["one-0-ag-0"].Spec.Subdomain).To(Equal(first.Name), "the leader has its name by the Service")

		w.create(ctx, wrappers.MoEDeployment("two"))
		w.settle(ctx, "two")
		second, _ := shared(ctx)
		Expect(second.ResourceVersion).To(Equal(first.ResourceVersion), "the second deployment has nothing to write")

		remove(ctx, "one")
		third, _ := shared(ctx)
		Expect(third.UID).To(Equal(first.UID))
		remove(ctx, "two")
		Expect(gone(ctx)).To(BeTrue())
	})

	It("stays while pods of the last deployment are left", func(ctx context.Context) {
		w.create(ctx, wrappers.MoEDeployment("one"))
		w.settle(ctx, "one")
		Expect(k8s.Delete(ctx, w.get(ctx, "one"))).To(Succeed())
		w.reconcile(ctx, "one")
		shared(ctx)
		for podName := range w.pods(ctx, "one") {
			w.kill(ctx, podName)
		}
		w.reconcile(ctx, "one")
		Expect(gone(ctx)).To(BeTrue())
	})

	It("comes back when it goes while a deployment has just been made", func(ctx context.Context) {
		w.create(ctx, wrappers.MoEDeployment("two"))
		w.settle(ctx, "two")
		for _, o := range []client.Object{&corev1.Service{}, &networkingv1.NetworkPolicy{}} {
			o.SetNamespace(key.Namespace)
			o.SetName(key.Name)
			Expect(k8s.Delete(ctx, o)).To(Succeed())
		}
		// The pass that the deletion brings about.
		w.reconcile(ctx, render.RanksName)
		shared(ctx)
	})

	It("is put right when somebody changes it", func(ctx context.Context) {
		w.create(ctx, wrappers.MoEDeployment("one"))
		w.settle(ctx, "one")
		service, policy := shared(ctx)
		service.Spec.Selector = map[string]string{"app": "mine"}
		policy.Spec.PodSelector = metav1.LabelSelector{MatchLabels: map[string]string{"app": "mine"}}
		Expect(k8s.Update(ctx, service)).To(Succeed())
		Expect(k8s.Update(ctx, policy)).To(Succeed())
		w.reconcile(ctx, render.RanksName)
		service, policy = shared(ctx)
		Expect(service.Spec.Selector).To(Equal(render.RanksService(service.Namespace).Spec.Selector))
		Expect(policy.Spec.PodSelector.MatchLabels).To(Equal(render.SharedLabels()))
	})

	It("is not taken from somebody else, who is told", func(ctx context.Context) {
		mine := &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Name: key.Name, Namespace: key.Namespace},
			Spec:       corev1.ServiceSpec{Selector: map[string]string{"app": "mine"}, Ports: []corev1.ServicePort{{Port: 80}}},
		}
		Expect(k8s.Create(ctx, mine)).To(Succeed())
		w.create(ctx, wrappers.MoEDeployment("one"))
		_, err := w.reconciler.Reconcile(ctx, w.request("one"))
		Expect(err).To(MatchError(ContainSubstring("Service findep-ranks: it exists and is not the operator's")))
		Expect(w.condition(ctx, "one", v1alpha1.ConditionProgressing)).To(ContainSubstring("Service findep-ranks"))
		Expect(k8s.Get(ctx, key, mine)).To(Succeed())
		Expect(mine.Spec.Selector).To(Equal(map[string]string{"app": "mine"}))

		remove(ctx, "one")
		Expect(k8s.Get(ctx, key, mine)).To(Succeed())
	})

	It("has a name that no deployment may have", func(ctx context.Context) {
		err := k8s.Create(ctx, wrappers.MoEDeployment(render.RanksName).Namespace(w.namespace).Obj())
		Expect(err).To(MatchError(ContainSubstring("must not be findep-ranks")))
	})
})
