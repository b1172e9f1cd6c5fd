// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"context"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/findep/findep-operator/api/v1alpha1"
	"github.com/findep/findep-operator/controllers/resolve"
	"github.com/findep/findep-operator/runtime/plan"
	"github.com/findep/findep-operator/test/wrappers"
)

var _ = Describe("An instance with pods on a sick GPU", func() {
	const name = "lite"
	var w *world
	var sick, spare *corev1.Node

	node := func(ctx context.Context, name string) *corev1.Node {
		GinkgoHelper()
		n := wrappers.Node(name+"-"+w.namespace, map[string]string{"pool": w.namespace})
		Expect(k8s.Create(ctx, n)).To(Succeed())
		DeferCleanup(func(ctx context.Context) { Expect(client.IgnoreNotFound(k8s.Delete(ctx, n))).To(Succeed()) })
		n.Status.NodeInfo.BootID = "first"
		n.Status.Capacity = corev1.ResourceList{resolve.GPUResource: resource.MustParse("8")}
		n.Status.Allocatable = n.Status.Capacity
		n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}
		Expect(k8s.Status().Update(ctx, n)).To(Succeed())
		return n
	}
	breaks := func(ctx context.Context, n *corev1.Node) {
		GinkgoHelper()
		n.Status.Conditions = append(n.Status.Conditions, corev1.NodeCondition{
			Type: "GpuMemWatch", Status: corev1.ConditionTrue, Reason: "GpuMemWatchIsNotHealthy", Message: "ECC.",
		})
		Expect(k8s.Status().Update(ctx, n)).To(Succeed())
	}
	// place binds the pods that have no node: the last expert of an instance to one
	// node, the others to another.
	place := func(ctx context.Context, last, others *corev1.Node) {
		GinkgoHelper()
		for _, pod := range w.pods(ctx, name) {
			target := others.Name
			if pod.Labels[v1alpha1.LabelRank] == "4" {
				target = last.Name
			}
			if pod.Spec.NodeName == "" {
				Expect(k8s.SubResource("binding").Create(ctx, pod, &corev1.Binding{
					ObjectMeta: metav1.ObjectMeta{Name: pod.Name, Namespace: pod.Namespace},
					Target:     corev1.ObjectReference{Kind: "Node", Name: target},
				})).To(Succeed())
			}
		}
		w.run(ctx, name)
	}
	serve := func(ctx context.Context, change func(*v1alpha1.MoEDeploymentSpec)) {
		GinkgoHelper()
		w.create(ctx, wrappers.MoEDeployment(name).With(func(s *v1alpha1.MoEDeploymentSpec) {
			s.Groups.Attention.NodeSelector = map[string]string{"pool": w.namespace}
			s.Groups.Expert.NodeSelector = map[string]string{"pool": w.namespace}
			if change != nil {
				change(s)
			}
		}))
		w.settle(ctx, name)
		place(ctx, sick, spare)
		w.settle(ctx, name)
		w.clock.SetTime(w.clock.Now().Add(time.Hour))
	}
	stops := func(ctx context.Context, podName string) {
		GinkgoHelper()
		pod := w.pods(ctx, name)[podName]
		setPodCondition(pod, corev1.PodReady, corev1.ConditionFalse, "")
		Expect(k8s.Status().Update(ctx, pod)).To(Succeed())
	}
	leaving := func(ctx context.Context) (names []string) {
		for podName, pod := range w.pods(ctx, name) {
			if pod.DeletionTimestamp != nil {
				names = append(names, podName)
			}
		}
		return names
	}
	keepsOff := func(pod *corev1.Pod) []string {
		GinkgoHelper()
		Expect(pod).NotTo(BeNil())
		if pod.Spec.Affinity == nil || pod.Spec.Affinity.NodeAffinity == nil {
			return nil
		}
		var nodes []string
		for _, f := range pod.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms[0].MatchFields {
			Expect(f.Operator).To(Equal(corev1.NodeSelectorOpNotIn))
			nodes = append(nodes, f.Values...)
		}
		return nodes
	}
	told := func(ctx context.Context) string { return w.condition(ctx, name, v1alpha1.ConditionNodesHealthy) }

	BeforeEach(func(ctx context.Context) {
		w = newWorld(ctx)
		sick, spare = node(ctx, "a"), node(ctx, "b")
	})

	It("goes on serving, and is moved off the node once it is down, after that is written down", func(ctx context.Context) {
		serve(ctx, nil)
		breaks(ctx, sick)
		w.settle(ctx, name)
		Expect(told(ctx)).To(And(HavePrefix("False/GPUUnhealthy"), ContainSubstring("GpuMemWatch"),
			ContainSubstring("Instance 0 stays on node "+sick.Name+": it serves, and recovery.unhealthyGPUs is MoveWhenDown.")))

		stops(ctx, "lite-0-eg-2")
		w.reconcile(ctx, name)
		before := w.get(ctx, name).Status.Instances[0]
		Expect(before.Moving).NotTo(BeNil())
		Expect(before.Moving.Nodes).To(Equal([]string{sick.Name}))
		Expect(before.Failures).To(BeEquivalentTo(1), "a move counts")
		Expect(leaving(ctx)).To(BeEmpty(), "first the status, then the deed")
		Expect(told(ctx)).To(ContainSubstring("Instance 0 is moved off node " + sick.Name))

		w.settle(ctx, name)
		Expect(leaving(ctx)).To(Equal([]string{"lite-0-eg-2"}), "the others keep their weights")
		Expect(w.events.Events).To(Receive(ContainSubstring("Moving instance 0 off node " + sick.Name)))
		w.finishDeletions(ctx, name)
		w.settle(ctx, name)
		Expect(keepsOff(w.pods(ctx, name)["lite-0-eg-2"])).To(Equal([]string{sick.Name}))
		Expect(w.get(ctx, name).Status.Instances[0].Moving).NotTo(BeNil())
		place(ctx, spare, spare)
		w.settle(ctx, name)
		Expect(w.get(ctx, name).Status.Instances[0].Moving).To(BeNil())
		Expect(told(ctx)).To(HavePrefix("True/"))
		Expect(w.get(ctx, name).Status.Instances[0].Failures).To(BeEquivalentTo(1))
	})

	It("is remembered by what its own pod said, until the node restarts", func(ctx context.Context) {
		observation := &plan.Observation{Formed: true, Ranks: []plan.RankState{{Rank: 4, Joined: true, Device: &plan.DeviceHealth{
			State: plan.DeviceFailed, Reason: "XID79", Message: "The GPU fell off the bus.",
		}}}}
		serve(ctx, nil)
		w.leader.observation = observation
		w.settle(ctx, name)
		gpus := w.get(ctx, name).Status.UnhealthyGPUs
		Expect(gpus).To(HaveLen(1))
		Expect(gpus[0].Node).To(Equal(sick.Name))
		Expect(gpus[0].Message).To(ContainSubstring("fell off the bus"))

		// Nobody says anything any more.
		w.leader.observation = nil
		stops(ctx, "lite-0-eg-2")
		w.settle(ctx, name)
		Expect(leaving(ctx)).To(Equal([]string{"lite-0-eg-2"}))
		w.finishDeletions(ctx, name)
		w.settle(ctx, name)
		Expect(keepsOff(w.pods(ctx, name)["lite-0-eg-2"])).To(Equal([]string{sick.Name}))

		sick.Status.NodeInfo.BootID = "second"
		Expect(k8s.Status().Update(ctx, sick)).To(Succeed())
		w.settle(ctx, name)
		Expect(w.get(ctx, name).Status.UnhealthyGPUs).To(BeEmpty())
		w.kill(ctx, "lite-0-eg-2")
		w.settle(ctx, name)
		Expect(keepsOff(w.pods(ctx, name)["lite-0-eg-2"])).To(BeEmpty())
	})

	It("is moved while it serves if the user says so, one at a time", func(ctx context.Context) {
		two := int32(2)
		serve(ctx, func(s *v1alpha1.MoEDeploymentSpec) {
			s.Replicas, s.Recovery.UnhealthyGPUs = &two, v1alpha1.UnhealthyGPUMove
		})
		node(ctx, "c")
		breaks(ctx, sick)
		w.settle(ctx, name)
		Expect(leaving(ctx)).To(Equal([]string{"lite-0-eg-2"}))
		Expect(told(ctx)).To(ContainSubstring("Instance 1 stays on node " + sick.Name + ": it serves, and rollout.maxUnavailable (1)"))
		w.finishDeletions(ctx, name)
		w.settle(ctx, name)
		Expect(leaving(ctx)).To(BeEmpty(), "the first does not serve yet")
		place(ctx, spare, spare)
		w.settle(ctx, name)
		Expect(leaving(ctx)).To(Equal([]string{"lite-1-eg-2"}))
	})

	It("stays where no other node has GPUs, and is moved when one has", func(ctx context.Context) {
		serve(ctx, nil)
		spare.Status.Allocatable = corev1.ResourceList{resolve.GPUResource: resource.MustParse("4")}
		Expect(k8s.Status().Update(ctx, spare)).To(Succeed())
		breaks(ctx, sick)
		stops(ctx, "lite-0-eg-2")
		w.settle(ctx, name)
		Expect(leaving(ctx)).To(BeEmpty())
		Expect(told(ctx)).To(ContainSubstring("no other nodes that it may run on offer GPUs enough"))
		node(ctx, "c")
		w.settle(ctx, name)
		Expect(leaving(ctx)).To(Equal([]string{"lite-0-eg-2"}))
	})

	It("is recreated as a whole with that policy, for a taint too, unless it tolerates it", func(ctx context.Context) {
		taint := corev1.Taint{Key: v1alpha1.TaintGPUUnhealthy, Value: "known", Effect: corev1.TaintEffectNoSchedule}
		serve(ctx, func(s *v1alpha1.MoEDeploymentSpec) {
			s.Recovery.Policy = v1alpha1.RecoveryRecreateInstance
			s.Groups.Expert.Tolerations = []corev1.Toleration{{Key: taint.Key, Operator: corev1.TolerationOpEqual, Value: taint.Value}}
		})
		stops(ctx, "lite-0-eg-2")
		mark := func(value string) {
			taint.Value = value
			sick.Spec.Taints = []corev1.Taint{taint}
			Expect(k8s.Update(ctx, sick)).To(Succeed())
			w.settle(ctx, name)
		}
		mark("known")
		Expect(leaving(ctx)).To(BeEmpty())
		Expect(told(ctx)).To(HavePrefix("True/"))
		mark("new")
		Expect(leaving(ctx)).To(HaveLen(5))
	})

	It("is only reported if the user says so", func(ctx context.Context) {
		serve(ctx, func(s *v1alpha1.MoEDeploymentSpec) { s.Recovery.UnhealthyGPUs = v1alpha1.UnhealthyGPUReport })
		breaks(ctx, sick)
		stops(ctx, "lite-0-eg-2")
		w.settle(ctx, name)
		Expect(leaving(ctx)).To(BeEmpty())
		Expect(told(ctx)).To(And(HavePrefix("False/GPUUnhealthy"), ContainSubstring("recovery.unhealthyGPUs is Report")))
		w.kill(ctx, "lite-0-eg-2")
		w.settle(ctx, name)
		Expect(keepsOff(w.pods(ctx, name)["lite-0-eg-2"])).To(BeEmpty())
	})
})
