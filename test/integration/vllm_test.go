// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"context"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	schedulingv1beta1 "k8s.io/api/scheduling/v1beta1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"

	"github.com/findep/findep-operator/api/v1alpha1"
	"github.com/findep/findep-operator/controllers/render"
	"github.com/findep/findep-operator/test/wrappers"
)

var _ = Describe("A MoEDeployment on vLLM", func() {
	const name = "lite"
	var w *world

	BeforeEach(func(ctx context.Context) { w = newWorld(ctx) })

	// run makes pods run as vLLM's do: one container, and no sidecar.
	run := func(ctx context.Context) {
		GinkgoHelper()
		w.run(ctx, name)
		w.eachPod(ctx, name, func(pod *corev1.Pod) { pod.Status.InitContainerStatuses = nil })
	}
	serve := func(ctx context.Context) {
		GinkgoHelper()
		w.settle(ctx, name)
		run(ctx)
		w.settle(ctx, name)
	}
	uids := func(ctx context.Context) map[types.UID]bool {
		GinkgoHelper()
		of := map[types.UID]bool{}
		for _, pod := range w.pods(ctx, name) {
			of[pod.UID] = true
		}
		return of
	}

	It("has the same gang, services and pods by the same names, with vLLM in them", func(ctx context.Context) {
		w.create(ctx, wrappers.MoEDeployment(name).GPUs(3, 2).VLLM("0.30.0"))
		w.settle(ctx, name)
		pods := w.pods(ctx, name)
		Expect(pods).To(And(HaveLen(5), HaveKey("lite-0-ag-0"), HaveKey("lite-0-eg-1")))
		for _, pod := range pods {
			Expect(pod.Spec.SchedulingGroup.PodGroupName).To(HaveValue(Equal("lite-0")))
			Expect(pod.Spec.InitContainers).To(BeEmpty())
			Expect(pod.Spec.Containers[0].Command).To(Equal([]string{"vllm", "serve"}))
			Expect(pod.Spec.Containers[0].Image).To(Equal("vllm:1"))
			Expect(pod.Annotations).NotTo(HaveKey(v1alpha1.AnnotationConfigHash))
		}
		Expect(pods["lite-0-eg-0"].Annotations).To(HaveKeyWithValue(v1alpha1.AnnotationWorldRank, "0"))
		var group schedulingv1beta1.PodGroup
		Expect(k8s.Get(ctx, types.NamespacedName{Namespace: w.namespace, Name: "lite-0"}, &group)).To(Succeed())
		Expect(group.Spec.SchedulingPolicy.Gang.MinCount).To(BeEquivalentTo(5))
		var policy networkingv1.NetworkPolicy
		Expect(k8s.Get(ctx, types.NamespacedName{Namespace: w.namespace, Name: render.VLLMNetworkPolicyName(name)}, &policy)).To(Succeed())
	})

	It("serves when its pods are ready, says what it does not know, and is left alone", func(ctx context.Context) {
		w.create(ctx, wrappers.MoEDeployment(name).GPUs(2, 1).VLLM("0.26.0").With(func(s *v1alpha1.MoEDeploymentSpec) {
			s.Schedule.Policy = v1alpha1.PolicyPPPipe
		}))
		w.settle(ctx, name)
		Expect(w.condition(ctx, name, v1alpha1.ConditionRendezvousComplete)).To(HavePrefix("Unknown/EngineFormsItself"))
		serve(ctx)
		Expect(w.condition(ctx, name, v1alpha1.ConditionAvailable)).To(HavePrefix("True/Serving"))
		Expect(w.condition(ctx, name, v1alpha1.ConditionProgressing)).To(HavePrefix("False/Complete"))
		Expect(w.condition(ctx, name, v1alpha1.ConditionRendezvousComplete)).To(HavePrefix("True/EngineFormsItself"))
		Expect(w.condition(ctx, name, v1alpha1.ConditionPredictionAccurate)).To(And(HavePrefix("Unknown/EngineFormsItself"), ContainSubstring("/metrics")))
		Expect(w.condition(ctx, name, v1alpha1.ConditionFullyActedOn)).To(And(HavePrefix("False/"), ContainSubstring("vLLM schedules by itself")))
		status := w.get(ctx, name).Status
		Expect(status.Plan).To(BeNil())
		Expect(status.Predicted).To(BeNil())
		Expect(status.Split.Ratio).To(Equal("2:1"))
		Expect(w.leader.targets).To(BeEmpty(), "there is no leader to ask")
		Expect(w.reconcile(ctx, name).RequeueAfter).To(BeZero(), "nothing to look at again")

		w.change(ctx, name, func(s *v1alpha1.MoEDeploymentSpec) { s.Workload.PromptTokens = 100 })
		before := uids(ctx)
		w.settle(ctx, name)
		Expect(uids(ctx)).To(Equal(before))
	})

	It("makes the whole instance again when a pod is lost, since its ranks cannot form again", func(ctx context.Context) {
		w.create(ctx, wrappers.MoEDeployment(name).GPUs(2, 1).VLLM("0.30.0"))
		serve(ctx)
		before := uids(ctx)
		w.clock.SetTime(w.clock.Now().Add(time.Hour))
		w.kill(ctx, "lite-0-ag-1")
		for range 6 {
			w.settle(ctx, name)
			w.finishDeletions(ctx, name)
		}
		w.settle(ctx, name)
		after := uids(ctx)
		Expect(after).To(HaveLen(3))
		for uid := range after {
			Expect(before).NotTo(HaveKey(uid))
		}
		run(ctx)
		w.settle(ctx, name)
		Expect(w.condition(ctx, name, v1alpha1.ConditionAvailable)).To(HavePrefix("True/"))
	})

	It("makes the whole instance again when the container of a rank has exited", func(ctx context.Context) {
		w.create(ctx, wrappers.MoEDeployment(name).GPUs(2, 1).VLLM("0.30.0"))
		serve(ctx)
		before := uids(ctx)
		w.clock.SetTime(w.clock.Now().Add(time.Hour))
		pod := w.pods(ctx, name)["lite-0-eg-0"]
		pod.Status.ContainerStatuses[0].RestartCount = 1
		setPodCondition(pod, corev1.PodReady, corev1.ConditionFalse, "")
		Expect(k8s.Status().Update(ctx, pod)).To(Succeed())
		for range 6 {
			w.settle(ctx, name)
			w.finishDeletions(ctx, name)
		}
		w.settle(ctx, name)
		after := uids(ctx)
		Expect(after).To(HaveLen(3))
		for uid := range after {
			Expect(before).NotTo(HaveKey(uid), "survivors would wait for the old process")
		}
	})

	It("rolls whole instances when vLLM's settings change", func(ctx context.Context) {
		w.create(ctx, wrappers.MoEDeployment(name).GPUs(2, 1).VLLM("0.30.0").Replicas(2))
		serve(ctx)
		w.change(ctx, name, func(s *v1alpha1.MoEDeploymentSpec) { s.VLLM.Image = "vllm:2" })
		for range 30 {
			w.reconcile(ctx, name)
			w.finishDeletions(ctx, name)
			images := map[string]map[string]bool{}
			for _, pod := range w.pods(ctx, name) {
				i := pod.Labels[v1alpha1.LabelInstance]
				if images[i] == nil {
					images[i] = map[string]bool{}
				}
				images[i][pod.Spec.Containers[0].Image] = true
			}
			for i, of := range images {
				Expect(of).To(HaveLen(1), "images of instance %s", i)
			}
			run(ctx)
		}
		w.settle(ctx, name)
		for _, pod := range w.pods(ctx, name) {
			Expect(pod.Spec.Containers[0].Image).To(Equal("vllm:2"))
		}
		Expect(w.get(ctx, name).Status.UpdatedReplicas).To(HaveValue(BeEquivalentTo(2)))
	})

	It("chooses a split that the plugin can wire, and takes its policy away with the switch", func(ctx context.Context) {
		w.create(ctx, wrappers.MoEDeployment(name).TotalGPUs(8).VLLM("0.26.0"))
		serve(ctx)
		Expect(w.get(ctx, name).Status.Split.Ratio).To(Equal("7:1"))
		Expect(w.get(ctx, name).Status.Split.Why).To(ContainSubstring("rule Divisible"))
		w.reconciler.NetworkPolicies = false
		w.settle(ctx, name)
		var policy networkingv1.NetworkPolicy
		Expect(apierrors.IsNotFound(k8s.Get(ctx, types.NamespacedName{Namespace: w.namespace, Name: render.VLLMNetworkPolicyName(name)}, &policy))).To(BeTrue())
	})
})
