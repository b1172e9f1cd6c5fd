// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"slices"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/findep/findep-operator/api/v1alpha1"
)

var _ = Describe("The webhooks", Ordered, func() {
	var name types.NamespacedName
	// configuration is the one of the chart, with what the operator added to it.
	configuration := func(ctx context.Context) *admissionv1.ValidatingWebhookConfiguration {
		GinkgoHelper()
		var list admissionv1.ValidatingWebhookConfigurationList
		Expect(k8s.List(ctx, &list)).To(Succeed())
		at := slices.IndexFunc(list.Items, func(c admissionv1.ValidatingWebhookConfiguration) bool {
			return len(c.Webhooks) > 0 && c.Webhooks[0].Name == "moedeployments.findep.dev"
		})
		if at < 0 {
			Skip("the chart was installed without webhooks")
		}
		return &list.Items[at]
	}
	eventuallyRefuses := func(ctx context.Context) {
		GinkgoHelper()
		eventuallyRefused(ctx, tiny("too-many", 1, 200), ContainSubstring("spec.gpus.expert"))
	}

	BeforeAll(func(ctx context.Context) {
		service := configuration(ctx).Webhooks[0].ClientConfig.Service
		Expect(service).NotTo(BeNil())
		name = types.NamespacedName{Namespace: service.Namespace, Name: service.Name + "-cert"}
	})

	It("refuse through the Service what cannot work", func(ctx context.Context) {
		eventuallyRefuses(ctx)
		Expect(k8s.Create(ctx, tiny("fine", 1, 1), client.DryRunAll)).To(Succeed())
	})

	It("go on refusing after their certificate was replaced", func(ctx context.Context) {
		before := configuration(ctx).Webhooks[0].ClientConfig.CABundle
		Expect(before).NotTo(BeEmpty())
		// Refuse when the certificate is not accepted, so that it would show.
		strict := configuration(ctx)
		changed := strict.DeepCopy()
		for i := range changed.Webhooks {
			changed.Webhooks[i].FailurePolicy = ptr.To(admissionv1.Fail)
		}
		Expect(k8s.Patch(ctx, changed, client.MergeFrom(strict))).To(Succeed())
		DeferCleanup(func(ctx context.Context) {
			lenient := configuration(ctx)
			changed := lenient.DeepCopy()
			for i := range changed.Webhooks {
				changed.Webhooks[i].FailurePolicy = strict.Webhooks[i].FailurePolicy
			}
			Expect(k8s.Patch(ctx, changed, client.MergeFrom(lenient))).To(Succeed())
		})

		Expect(k8s.Delete(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: name.Namespace, Name: name.Name}})).To(Succeed())
		Eventually(ctx, func() []byte { return configuration(ctx).Webhooks[0].ClientConfig.CABundle }).
			WithTimeout(changeWithin).WithPolling(pollEvery).ShouldNot(Equal(before))
		eventuallyRefuses(ctx)
		Eventually(ctx, func() error { return k8s.Create(ctx, tiny("fine", 1, 1), client.DryRunAll) }).
			WithTimeout(changeWithin).WithPolling(pollEvery).Should(Succeed())
	})

	It("do not hold up the deletion of a namespace", func(ctx context.Context) {
		ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "findep-leaving-"}}
		Expect(k8s.Create(ctx, ns)).To(Succeed())
		createModelConfig(ctx, ns.Name)
		d := tiny("leaving", 1, 1, func(d *v1alpha1.MoEDeployment) { d.Namespace = ns.Name })
		Expect(k8s.Create(ctx, d)).To(Succeed())
		// It serves, so that there is something of every kind to delete.
		Eventually(ctx, func(g Gomega) {
			g.Expect(k8s.Get(ctx, client.ObjectKeyFromObject(d), d)).To(Succeed())
			g.Expect(d.Status.ReadyReplicas).To(HaveValue(BeEquivalentTo(1)))
		}).WithTimeout(availableWithin).WithPolling(pollEvery).Should(Succeed())
		Expect(k8s.Delete(ctx, ns)).To(Succeed())
		Eventually(ctx, func() bool {
			return apierrors.IsNotFound(k8s.Get(ctx, client.ObjectKeyFromObject(ns), ns))
		}).WithTimeout(changeWithin).WithPolling(pollEvery).Should(BeTrue(), "the namespace is gone")
	})
})
