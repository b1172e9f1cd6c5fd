// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/findep/findep-operator/api/v1alpha1"
)

var _ = Describe("Topology", Ordered, func() {
	const domain = "e2e.findep.dev/domain"

	BeforeAll(func(ctx context.Context) {
		// Every node is a domain of its own.
		var nodes corev1.NodeList
		Expect(k8s.List(ctx, &nodes)).To(Succeed())
		label := func(ctx context.Context, node *corev1.Node, value string) {
			GinkgoHelper()
			changed := node.DeepCopy()
			changed.Labels[domain] = value
			if value == "" {
				delete(changed.Labels, domain)
			}
			Expect(k8s.Patch(ctx, changed, client.MergeFrom(node))).To(Succeed())
			changed.DeepCopyInto(node)
		}
		for i := range nodes.Items {
			node := &nodes.Items[i]
			label(ctx, node, node.Name)
			DeferCleanup(func(ctx context.Context) { label(ctx, node, "") })
		}
	})

	DescribeTable("keeps an instance in one domain", func(ctx context.Context, name string, topology v1alpha1.TopologySpec) {
		d := tiny(name, 1, 1, func(d *v1alpha1.MoEDeployment) { d.Spec.Placement.Topology = topology })
		create(ctx, d)
		eventuallyAvailable(ctx, name)
		status := current(ctx, name).Status
		Expect(status.Placement).To(HaveValue(HaveField("Topology", Not(BeEmpty()))))
		Expect(status.Instances).To(HaveLen(1))
		p := status.Instances[0].Placement
		Expect(p).NotTo(BeNil())
		Expect(p.Nodes).To(ConsistOf(HaveField("Ranks", "0-1")))
		Expect(p.Domains).To(HaveEach(HaveField("Reached", v1alpha1.DomainYes)))
	},
		Entry("that it prefers", "prefers", v1alpha1.TopologySpec{Key: domain}),
		Entry("that it requires", "requires", v1alpha1.TopologySpec{Instance: v1alpha1.TopologyRequired, Key: domain}),
		Entry("that its groups require too", "composed", v1alpha1.TopologySpec{
			Instance: v1alpha1.TopologyRequired, Key: domain,
			Attention: &v1alpha1.TopologyRule{Mode: v1alpha1.TopologyRequired, Key: domain},
		}),
	)

	It("leaves an instance pending that no domain holds, and says so", func(ctx context.Context) {
		var nodes corev1.NodeList
		Expect(k8s.List(ctx, &nodes)).To(Succeed())
		largest := int64(0)
		for _, n := range nodes.Items {
			gpus := n.Status.Allocatable["nvidia.com/gpu"]
			largest = max(largest, gpus.Value())
		}
		d := tiny("too-wide", 1, int32(largest), func(d *v1alpha1.MoEDeployment) {
			d.Spec.Placement.Topology = v1alpha1.TopologySpec{Instance: v1alpha1.TopologyRequired, Key: domain}
		})
		create(ctx, d)
		Eventually(ctx, func() string { return condition(ctx, d.Name, v1alpha1.ConditionScheduled) }).
			WithTimeout(changeWithin).WithPolling(pollEvery).Should(HavePrefix("False/Unschedulable"))
	})
})
