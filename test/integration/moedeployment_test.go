// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	schedulingv1beta1 "k8s.io/api/scheduling/v1beta1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/dynamic"
	scaleclient "k8s.io/client-go/scale"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/findep/findep-operator/api/v1alpha1"
	"github.com/findep/findep-operator/controllers/render"
	"github.com/findep/findep-operator/controllers/resolve"
	"github.com/findep/findep-operator/runtime/identity"
	"github.com/findep/findep-operator/runtime/plan"
	"github.com/findep/findep-operator/test/wrappers"
)

var _ = Describe("A MoEDeployment", func() {
	const name = "lite"
	var w *world

	BeforeEach(func(ctx context.Context) { w = newWorld(ctx) })

	instance := func(ctx context.Context, index int32) *plan.Instance {
		GinkgoHelper()
		var secret corev1.Secret
		Expect(k8s.Get(ctx, types.NamespacedName{Namespace: w.namespace, Name: render.SecretName(name, index)}, &secret)).To(Succeed())
		in, err := plan.DecodeInstance(secret.Data[plan.InstanceFile])
		Expect(err).NotTo(HaveOccurred())
		return in
	}
	// formed is what the leader of the instance reports once it serves.
	formed := func(ctx context.Context) *plan.Observation {
		GinkgoHelper()
		in := instance(ctx, 0)
		hash, err := in.ScheduleHash()
		Expect(err).NotTo(HaveOccurred())
		o := &plan.Observation{Epoch: 1, Formed: true, ScheduleHash: hash}
		o.Prefill = &plan.PhaseObservation{Plan: in.Start, PredictedMilliseconds: 10, MeasuredMilliseconds: 10.5}
		return o
	}
	serve := func(ctx context.Context) {
		GinkgoHelper()
		w.settle(ctx, name)
		w.run(ctx, name)
		w.leader.observation = formed(ctx)
		w.settle(ctx, name)
	}

	secrets := func(ctx context.Context) []corev1.Secret {
		GinkgoHelper()
		var list corev1.SecretList
		Expect(k8s.List(ctx, &list, client.InNamespace(w.namespace), client.MatchingLabels(render.DeploymentLabels(name)))).To(Succeed())
		return list.Items
	}

	It("makes one gang of attention and expert pods and says so", func(ctx context.Context) {
		w.create(ctx, wrappers.MoEDeployment(name))
		w.settle(ctx, name)

		Expect(w.pods(ctx, name)).To(And(HaveLen(5), HaveKey("lite-0-ag-0"), HaveKey("lite-0-eg-2")))
		for _, pod := range w.pods(ctx, name) {
			Expect(pod.Spec.SchedulingGroup).NotTo(BeNil())
			Expect(pod.Spec.SchedulingGroup.PodGroupName).To(HaveValue(Equal("lite-0")))
		}
		var group schedulingv1beta1.PodGroup
		Expect(k8s.Get(ctx, types.NamespacedName{Namespace: w.namespace, Name: "lite-0"}, &group)).To(Succeed())
		Expect(group.Spec.SchedulingPolicy.Gang.MinCount).To(BeEquivalentTo(5))

		in := instance(ctx, 0)
		Expect(in.Hosts).To(HaveLen(5))
		Expect(in.Profile).To(HaveKey(plan.Attention))
		status := w.get(ctx, name).Status
		Expect(status.Ready).To(Equal("0/1"))
		Expect(status.Split.Ratio).To(Equal("2:3"))
		Expect(status.Plan.Source).To(Equal(v1alpha1.PlanFromOperator))
		Expect(status.Predicted.TokensPerSecond).To(BeNumerically(">", 0))
		Expect(status.Memory).To(HaveLen(2))
		Expect(status.ObservedGeneration).To(BeEquivalentTo(1))
	})

	It("serves when its pods are ready and its leader has formed", func(ctx context.Context) {
		w.create(ctx, wrappers.MoEDeployment(name))
		serve(ctx)

		Expect(w.condition(ctx, name, v1alpha1.ConditionAvailable)).To(HavePrefix("True/Serving"))
		Expect(w.condition(ctx, name, v1alpha1.ConditionProgressing)).To(HavePrefix("False/Complete"))
		Expect(w.condition(ctx, name, v1alpha1.ConditionRendezvousComplete)).To(HavePrefix("True/"))
		Expect(w.condition(ctx, name, v1alpha1.ConditionPredictionAccurate)).To(HavePrefix("True/"))
		status := w.get(ctx, name).Status
		Expect(status.ReadyReplicas).To(HaveValue(BeEquivalentTo(1)))
		Expect(status.Plan.Source).To(Equal(v1alpha1.PlanFromLeader))
		Expect(status.Plan.InUse).To(Equal(v1alpha1.PlanCurrent))
		Expect(w.reconcile(ctx, name).RequeueAfter).To(Equal(5 * time.Second))
		Expect(w.events.Events).NotTo(Receive(), "nobody has to act, and nothing changed")
	})

	It("shows the leader a certificate of the operator and expects the instance's", func(ctx context.Context) {
		w.create(ctx, wrappers.MoEDeployment(name))
		serve(ctx)
		target := w.leader.targets[len(w.leader.targets)-1]
		Expect(target.Identity).To(Equal("findep://" + w.namespace + "/lite/0"))
		cert, err := identity.ParseCertificate(target.Own.Cert)
		Expect(err).NotTo(HaveOccurred())
		Expect(cert.URIs[0].String()).To(Equal(identity.OperatorURI))
		var secret corev1.Secret
		Expect(k8s.Get(ctx, types.NamespacedName{Namespace: w.namespace, Name: render.SecretName(name, 0)}, &secret)).To(Succeed())
		source, err := identity.Bytes(&identity.Bundle{CA: secret.Data[identity.CAFile], Cert: secret.Data[identity.CertFile], Key: secret.Data[identity.KeyFile]})
		Expect(err).NotTo(HaveOccurred())
		Expect(source).NotTo(BeNil())
	})

	It("changes the schedule in place", func(ctx context.Context) {
		w.create(ctx, wrappers.MoEDeployment(name))
		serve(ctx)
		before := w.pods(ctx, name)

		w.change(ctx, name, func(s *v1alpha1.MoEDeploymentSpec) { s.Schedule.Policy = v1alpha1.PolicyPPPipe })
		w.settle(ctx, name)

		Expect(instance(ctx, 0).Schedule.Policy).To(Equal(plan.PPPipe))
		Expect(w.get(ctx, name).Status.Plan.InUse).To(Equal(v1alpha1.PlanStale))
		for podName, pod := range w.pods(ctx, name) {
			Expect(pod.UID).To(Equal(before[podName].UID), "pod %s", podName)
			Expect(pod.Annotations[v1alpha1.AnnotationConfigHash]).NotTo(Equal(before[podName].Annotations[v1alpha1.AnnotationConfigHash]))
		}
		Expect(w.condition(ctx, name, v1alpha1.ConditionAvailable)).To(HavePrefix("True/"))

		nudges := func() (values []string) {
			for podName, pod := range w.pods(ctx, name) {
				if v, ok := pod.Annotations[v1alpha1.AnnotationConfigNudge]; ok {
					Expect(podName).To(Equal("lite-0-ag-0"), "only the leader decides plans")
					values = append(values, v)
				}
			}
			return values
		}
		first := nudges()
		Expect(first).To(HaveLen(1), "the leader still reports the old schedule")
		w.clock.SetTime(w.clock.Now().Add(10 * time.Second))
		w.settle(ctx, name)
		Expect(nudges()).NotTo(Equal(first))

		w.leader.observation = formed(ctx)
		w.settle(ctx, name)
		Expect(w.get(ctx, name).Status.Plan.InUse).To(Equal(v1alpha1.PlanCurrent))
		last := nudges()
		w.clock.SetTime(w.clock.Now().Add(10 * time.Second))
		w.settle(ctx, name)
		Expect(nudges()).To(Equal(last), "nothing is written at rest")
	})

	It("replaces only the pod that is lost", func(ctx context.Context) {
		w.create(ctx, wrappers.MoEDeployment(name))
		serve(ctx)
		before := w.pods(ctx, name)
		w.kill(ctx, "lite-0-eg-1")
		w.reconcile(ctx, name)
		after := w.pods(ctx, name)
		Expect(after).To(HaveLen(5))
		for podName, pod := range after {
			if podName == "lite-0-eg-1" {
				Expect(pod.UID).NotTo(Equal(before[podName].UID))
			} else {
				Expect(pod.UID).To(Equal(before[podName].UID))
			}
		}
	})

	It("replaces a pod that has ended, after a pause if it ended at once", func(ctx context.Context) {
		w.create(ctx, wrappers.MoEDeployment(name))
		serve(ctx)
		pod := w.pods(ctx, name)["lite-0-eg-1"]
		w.clock.SetTime(pod.CreationTimestamp.Time.Add(time.Second))
		pod.Status.Phase, pod.Status.Reason = corev1.PodFailed, "Evicted"
		Expect(k8s.Status().Update(ctx, pod)).To(Succeed())
		Expect(w.reconcile(ctx, name).RequeueAfter).To(BeNumerically("<=", 5*time.Second))
		Expect(w.pods(ctx, name)["lite-0-eg-1"].DeletionTimestamp).To(BeNil())

		w.clock.SetTime(pod.CreationTimestamp.Time.Add(10 * time.Second))
		w.reconcile(ctx, name)
		w.finishDeletions(ctx, name)
		w.reconcile(ctx, name)
		Expect(w.pods(ctx, name)["lite-0-eg-1"].UID).NotTo(Equal(pod.UID))
		Expect(w.get(ctx, name).Status.Instances[0].LastFailure).To(ContainSubstring("Evicted"))
	})

	It("frees the name of a pod whose node is gone for good, and of no other", func(ctx context.Context) {
		node := wrappers.Node("lost-"+w.namespace, nil)
		Expect(k8s.Create(ctx, node)).To(Succeed())
		w.create(ctx, wrappers.MoEDeployment(name))
		w.settle(ctx, name)
		pod := w.pods(ctx, name)["lite-0-eg-1"]
		Expect(k8s.SubResource("binding").Create(ctx, pod, &corev1.Binding{
			ObjectMeta: metav1.ObjectMeta{Name: pod.Name, Namespace: pod.Namespace},
			Target:     corev1.ObjectReference{Kind: "Node", Name: node.Name},
		})).To(Succeed())
		serve(ctx)
		uid := func() types.UID { return w.pods(ctx, name)["lite-0-eg-1"].UID }

		node.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionUnknown}}
		Expect(k8s.Status().Update(ctx, node)).To(Succeed())
		Expect(k8s.Delete(ctx, pod)).To(Succeed()) // as Kubernetes does when the toleration ends
		w.settle(ctx, name)
		Expect(uid()).To(Equal(pod.UID), "it may still run there")
		Expect(w.condition(ctx, name, v1alpha1.ConditionNodesHealthy)).To(And(HavePrefix("False/NodeNotReady"), ContainSubstring(node.Name)))

		Expect(k8s.Delete(ctx, node)).To(Succeed())
		w.settle(ctx, name)
		Expect(uid()).NotTo(Equal(pod.UID))
		Expect(w.pods(ctx, name)).To(HaveLen(5))
		Expect(w.condition(ctx, name, v1alpha1.ConditionNodesHealthy)).To(HavePrefix("True/"))
	})

	It("recreates the whole instance if it is told to, after the failure is written down", func(ctx context.Context) {
		w.create(ctx, wrappers.MoEDeployment(name).With(func(s *v1alpha1.MoEDeploymentSpec) { s.Recovery.Policy = v1alpha1.RecoveryRecreateInstance }))
		serve(ctx)
		before := w.pods(ctx, name)
		w.clock.SetTime(w.clock.Now().Add(time.Hour))
		w.fail(ctx, "lite-0-eg-1", "Evicted")
		w.reconcile(ctx, name)
		Expect(w.get(ctx, name).Status.Instances[0].Failures).To(BeEquivalentTo(1))
		Expect(w.pods(ctx, name)["lite-0-ag-0"].DeletionTimestamp).To(BeNil(), "first the status, then the deed")
		w.reconcile(ctx, name)
		w.finishDeletions(ctx, name)
		w.settle(ctx, name)
		after := w.pods(ctx, name)
		Expect(after).To(HaveLen(5))
		for podName := range before {
			Expect(after[podName].UID).NotTo(Equal(before[podName].UID), "pod %s", podName)
		}
	})

	It("gives an instance up when its restarts are used, keeps its pods, and starts anew when they are deleted", func(ctx context.Context) {
		w.create(ctx, wrappers.MoEDeployment(name).With(func(s *v1alpha1.MoEDeploymentSpec) { s.Recovery.MaxRestarts = 2 }))
		serve(ctx)
		for range 3 {
			w.clock.SetTime(w.clock.Now().Add(time.Minute))
			w.fail(ctx, "lite-0-eg-1", "Evicted")
			w.settle(ctx, name)
			w.clock.SetTime(w.clock.Now().Add(time.Minute))
			w.settle(ctx, name)
			w.finishDeletions(ctx, name)
			w.settle(ctx, name)
			w.reconciler = w.restarted()
		}
		Expect(w.condition(ctx, name, v1alpha1.ConditionAvailable)).To(And(HavePrefix("False/RestartLimitReached"), ContainSubstring("Evicted")))
		Expect(w.condition(ctx, name, v1alpha1.ConditionProgressing)).To(HavePrefix("False/Blocked"))
		Expect(w.get(ctx, name).Status.Instances[0].Phase).To(Equal(v1alpha1.InstanceFailed))
		Expect(w.pods(ctx, name)["lite-0-eg-1"].Status.Phase).To(Equal(corev1.PodFailed), "its log can still be read")

		for podName := range w.pods(ctx, name) {
			w.kill(ctx, podName)
		}
		w.settle(ctx, name)
		Expect(w.pods(ctx, name)).To(HaveLen(5))
		Expect(w.get(ctx, name).Status.Instances[0].Failures).To(BeZero())
	})

	It("replaces nothing when recovery is off", func(ctx context.Context) {
		w.create(ctx, wrappers.MoEDeployment(name).With(func(s *v1alpha1.MoEDeploymentSpec) { s.Recovery.Policy = v1alpha1.RecoveryNone }))
		serve(ctx)
		w.kill(ctx, "lite-0-eg-1")
		w.settle(ctx, name)
		Expect(w.pods(ctx, name)).To(HaveLen(4))
		Expect(w.condition(ctx, name, v1alpha1.ConditionAvailable)).To(HavePrefix("False/RecoveryOff"))
	})

	It("recreates whole instances one at a time and never mixes revisions", func(ctx context.Context) {
		w.create(ctx, wrappers.MoEDeployment(name).Replicas(2))
		serve(ctx)
		w.change(ctx, name, func(s *v1alpha1.MoEDeploymentSpec) { s.GPUs.Expert = 2; s.Images.Server = "findep/server:2" })
		for range 40 {
			w.reconcile(ctx, name)
			w.finishDeletions(ctx, name)
			revisions := map[string]map[string]bool{}
			serving := map[string]int{}
			for _, pod := range w.pods(ctx, name) {
				i := pod.Labels[v1alpha1.LabelInstance]
				if revisions[i] == nil {
					revisions[i] = map[string]bool{}
				}
				revisions[i][pod.Labels[v1alpha1.LabelRevision]] = true
				for _, c := range pod.Status.Conditions {
					if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue {
						serving[i]++
					}
				}
			}
			for i, r := range revisions {
				Expect(r).To(HaveLen(1), "revisions of instance %s", i)
			}
			Expect(len(serving)).To(BeNumerically(">=", 1), "an instance serves throughout")
			w.run(ctx, name)
			if ptr.Deref(w.get(ctx, name).Status.UpdatedReplicas, 0) == 2 {
				break
			}
		}
		w.settle(ctx, name)
		Expect(w.get(ctx, name).Status.UpdatedReplicas).To(HaveValue(BeEquivalentTo(2)))
		Expect(w.pods(ctx, name)).To(HaveLen(8))
	})

	// roll changes the server's image and plays kubelet until nothing is written.
	roll := func(ctx context.Context, image string, each func()) {
		GinkgoHelper()
		w.change(ctx, name, func(s *v1alpha1.MoEDeploymentSpec) { s.Images.Server = image })
		for range 60 {
			w.writes.writes = nil
			w.reconcile(ctx, name)
			quiet := len(w.writes.writes) == 0
			each()
			w.finishDeletions(ctx, name)
			w.run(ctx, name)
			if quiet {
				return
			}
		}
		Fail("the rollout does not come to rest")
	}
	images := func(ctx context.Context) map[string]string {
		GinkgoHelper()
		of := map[string]string{}
		for _, pod := range w.pods(ctx, name) {
			if pod.Labels[v1alpha1.LabelLeader] == "true" {
				of[pod.Labels[v1alpha1.LabelInstance]] = pod.Spec.Containers[0].Image
			}
		}
		return of
	}

	It("leaves instances below the partition at their revision, and repairs them at it", func(ctx context.Context) {
		w.create(ctx, wrappers.MoEDeployment(name).Replicas(3).With(func(s *v1alpha1.MoEDeploymentSpec) { s.Rollout.Partition = 2 }))
		serve(ctx)
		roll(ctx, "findep/server:2", func() {})
		want := map[string]string{"0": "findep/server:1", "1": "findep/server:1", "2": "findep/server:2"}
		Expect(images(ctx)).To(Equal(want))
		Expect(w.condition(ctx, name, v1alpha1.ConditionProgressing)).To(And(HavePrefix("False/Complete"), ContainSubstring("rollout.partition (2)")))

		w.kill(ctx, "lite-0-eg-1")
		w.settle(ctx, name)
		pods := w.pods(ctx, name)
		Expect(pods["lite-0-eg-1"].Labels[v1alpha1.LabelRevision]).To(Equal(pods["lite-0-ag-0"].Labels[v1alpha1.LabelRevision]))

		w.change(ctx, name, func(s *v1alpha1.MoEDeploymentSpec) { s.Rollout.Partition = 0 })
		roll(ctx, "findep/server:2", func() {})
		Expect(images(ctx)).To(Equal(map[string]string{"0": "findep/server:2", "1": "findep/server:2", "2": "findep/server:2"}))
	})

	It("serves with a surge instance while others are replaced, and removes it afterwards", func(ctx context.Context) {
		w.create(ctx, wrappers.MoEDeployment(name).With(func(s *v1alpha1.MoEDeploymentSpec) { s.Rollout.MaxSurge = 1 }))
		serve(ctx)
		most := 0
		roll(ctx, "findep/server:2", func() {
			most = max(most, len(images(ctx)))
			Expect(w.condition(ctx, name, v1alpha1.ConditionAvailable)).To(HavePrefix("True/"))
			Expect(w.get(ctx, name).Status.ReadyReplicas).To(HaveValue(BeNumerically("<=", 1)), "the surge instance is none of spec.replicas")
		})
		w.settle(ctx, name)
		w.finishDeletions(ctx, name)
		w.settle(ctx, name)
		Expect(most).To(Equal(2))
		Expect(images(ctx)).To(Equal(map[string]string{"1": "findep/server:2"}), "the surge instance serves already, a successor would have to start")
	})

	It("keeps a history of what the user asked for, the newest with the highest number", func(ctx context.Context) {
		w.create(ctx, wrappers.MoEDeployment(name))
		serve(ctx)
		history := func() map[string]int64 {
			GinkgoHelper()
			var list appsv1.ControllerRevisionList
			Expect(k8s.List(ctx, &list, client.InNamespace(w.namespace))).To(Succeed())
			numbers := map[string]int64{}
			for _, c := range list.Items {
				var intent resolve.Intent
				Expect(json.Unmarshal(c.Data.Raw, &intent)).To(Succeed())
				numbers[intent.Images.Server] = c.Revision
			}
			return numbers
		}
		Expect(history()).To(BeEmpty(), "one revision is no history")
		w.change(ctx, name, func(s *v1alpha1.MoEDeploymentSpec) { s.Schedule.Policy = v1alpha1.PolicyPPPipe })
		w.settle(ctx, name)
		Expect(history()).To(BeEmpty(), "a schedule is no revision")
		roll(ctx, "findep/server:2", func() {})
		Expect(history()).To(Equal(map[string]int64{"": 1, "findep/server:2": 2}))
		roll(ctx, "", func() {})
		Expect(history()).To(Equal(map[string]int64{"": 3, "findep/server:2": 2}))
		for n := range 15 {
			w.change(ctx, name, func(s *v1alpha1.MoEDeploymentSpec) { s.Images.Server = fmt.Sprint("findep/server:x", n) })
			w.reconcile(ctx, name)
		}
		w.settle(ctx, name)
		Expect(len(history())).To(BeNumerically("<=", 12))
	})

	It("lets evictions break one instance and keeps strangers from the ranks, unless that is switched off", func(ctx context.Context) {
		w.create(ctx, wrappers.MoEDeployment(name).Replicas(3))
		serve(ctx)
		var budget policyv1.PodDisruptionBudget
		var policy networkingv1.NetworkPolicy
		key, shared := types.NamespacedName{Namespace: w.namespace, Name: name}, types.NamespacedName{Namespace: w.namespace, Name: render.RanksName}
		Expect(k8s.Get(ctx, key, &budget)).To(Succeed())
		Expect(budget.Spec.MinAvailable.IntValue()).To(Equal(14), "of 15 pods one may go; its instance is unready then, and unready pods may follow")
		Expect(budget.Spec.UnhealthyPodEvictionPolicy).To(HaveValue(Equal(policyv1.AlwaysAllow)))
		Expect(k8s.Get(ctx, shared, &policy)).To(Succeed())
		Expect(policy.Spec.Ingress).To(HaveLen(3))

		w.change(ctx, name, func(s *v1alpha1.MoEDeploymentSpec) { s.Rollout.MaxUnavailable = 2; s.Replicas = ptr.To[int32](4) })
		w.settle(ctx, name)
		Expect(k8s.Get(ctx, key, &budget)).To(Succeed())
		Expect(budget.Spec.MinAvailable.IntValue()).To(Equal(14), "of 20 pods, one instance and one pod may go")

		w.reconciler.DisruptionBudgets, w.reconciler.NetworkPolicies = false, false
		w.settle(ctx, name)
		Expect(apierrors.IsNotFound(k8s.Get(ctx, key, &budget))).To(BeTrue())
		Expect(apierrors.IsNotFound(k8s.Get(ctx, shared, &policy))).To(BeTrue())

		w.reconciler.DisruptionBudgets = true
		w.settle(ctx, name)
		Expect(k8s.Get(ctx, key, &budget)).To(Succeed())
		w.change(ctx, name, func(s *v1alpha1.MoEDeploymentSpec) { s.Rollout.MaxUnavailable, s.Replicas = 1, ptr.To[int32](1) })
		w.settle(ctx, name)
		Expect(apierrors.IsNotFound(k8s.Get(ctx, key, &budget))).To(BeTrue(), "the only instance may always go")
	})

	It("scales by the scale subresource, up and down, and leaves nothing of what it removes", func(ctx context.Context) {
		w.create(ctx, wrappers.MoEDeployment(name))
		serve(ctx)
		scale := func(n int32) {
			GinkgoHelper()
			d := w.get(ctx, name)
			s := &autoscalingv1.Scale{Spec: autoscalingv1.ScaleSpec{Replicas: n}}
			Expect(k8s.SubResource("scale").Update(ctx, d, client.WithSubResourceBody(s))).To(Succeed())
		}
		scale(3)
		w.settle(ctx, name)
		Expect(w.pods(ctx, name)).To(HaveLen(15))
		scale(1)
		w.settle(ctx, name)
		w.finishDeletions(ctx, name)
		w.settle(ctx, name)
		Expect(w.pods(ctx, name)).To(HaveLen(5))
		Expect(secrets(ctx)).To(HaveLen(1))
		Expect(w.get(ctx, name).Status.Instances).To(HaveLen(1))

		before := render.ReadSecret(&secrets(ctx)[0])
		scale(0)
		w.settle(ctx, name)
		w.finishDeletions(ctx, name)
		w.settle(ctx, name)
		Expect(w.pods(ctx, name)).To(BeEmpty())
		var groups schedulingv1beta1.PodGroupList
		Expect(k8s.List(ctx, &groups, client.InNamespace(w.namespace))).To(Succeed())
		for _, group := range groups.Items {
			Expect(group.DeletionTimestamp).NotTo(BeNil(), "PodGroup %s; a finalizer of Kubernetes may hold it", group.Name)
		}
		Expect(secrets(ctx)).To(HaveLen(1), "authority and history outlive the instance")
		after := render.ReadSecret(&secrets(ctx)[0])
		Expect(after.Configured()).To(BeFalse())
		Expect(after.Leaf).To(BeEmpty())
		Expect(after.Authority).To(Equal(before.Authority))
		Expect(after.First).To(Equal(before.First))

		w.releaseGroups(ctx)
		scale(1)
		w.settle(ctx, name)
		again := render.ReadSecret(&secrets(ctx)[0])
		Expect(again.Configured()).To(BeTrue())
		Expect(again.Authority).To(Equal(before.Authority))
	})

	It("removes the instance with the fewest requests, whatever happens after the choice, and fills the gap later", func(ctx context.Context) {
		w.create(ctx, wrappers.MoEDeployment(name).Replicas(3))
		serve(ctx)
		w.run(ctx, name)
		busy := func(requests ...int) {
			w.leader.of = map[string]*plan.Observation{}
			for index, n := range requests {
				o := *formed(ctx)
				o.Serving = &plan.ServingObservation{Running: n}
				w.leader.of[fmt.Sprintf("findep://%s/%s/%d", w.namespace, name, index)] = &o
			}
		}
		leaving := func() map[string]bool {
			of := map[string]bool{}
			for _, pod := range w.pods(ctx, name) {
				if !pod.DeletionTimestamp.IsZero() {
					of[pod.Labels[v1alpha1.LabelInstance]] = true
				}
			}
			return of
		}
		busy(5, 1, 2)
		w.settle(ctx, name)
		w.change(ctx, name, func(s *v1alpha1.MoEDeploymentSpec) { s.Replicas = ptr.To[int32](2) })
		w.reconcile(ctx, name)
		Expect(leaving()).To(BeEmpty(), "first the status, then the deed")
		Expect(w.get(ctx, name).Status.Instances[1].DrainingSince).NotTo(BeNil())
		Expect(w.get(ctx, name).Status.ReadyReplicas).To(HaveValue(BeEquivalentTo(2)))

		busy(0, 9, 9)
		w.reconciler = w.restarted()
		w.settle(ctx, name)
		Expect(leaving()).To(Equal(map[string]bool{"1": true}))
		Expect(w.condition(ctx, name, v1alpha1.ConditionProgressing)).To(HavePrefix("True/ScalingDown"))
		w.finishDeletions(ctx, name)
		w.settle(ctx, name)
		Expect(w.pods(ctx, name)).To(And(HaveLen(10), HaveKey("lite-0-ag-0"), HaveKey("lite-2-ag-0")))
		Expect(w.condition(ctx, name, v1alpha1.ConditionProgressing)).To(HavePrefix("False/Complete"))

		w.releaseGroups(ctx)
		w.change(ctx, name, func(s *v1alpha1.MoEDeploymentSpec) { s.Replicas = ptr.To[int32](3) })
		w.settle(ctx, name)
		Expect(w.pods(ctx, name)).To(And(HaveLen(15), HaveKey("lite-1-ag-0")))
	})

	It("takes a scale-down back as long as nothing was deleted", func(ctx context.Context) {
		w.create(ctx, wrappers.MoEDeployment(name).Replicas(2))
		serve(ctx)
		w.run(ctx, name)
		before := w.pods(ctx, name)
		w.change(ctx, name, func(s *v1alpha1.MoEDeploymentSpec) { s.Replicas = ptr.To[int32](1) })
		w.reconcile(ctx, name)
		w.change(ctx, name, func(s *v1alpha1.MoEDeploymentSpec) { s.Replicas = ptr.To[int32](2) })
		w.settle(ctx, name)
		for podName, pod := range w.pods(ctx, name) {
			Expect(pod.UID).To(Equal(before[podName].UID))
			Expect(pod.DeletionTimestamp).To(BeNil())
		}
		for _, i := range w.get(ctx, name).Status.Instances {
			Expect(i.DrainingSince).To(BeNil())
		}
	})

	It("offers an autoscaler what it reads, and obeys it", func(ctx context.Context) {
		w.create(ctx, wrappers.MoEDeployment(name).Replicas(2))
		serve(ctx)
		target := autoscalingv2.CrossVersionObjectReference{APIVersion: v1alpha1.GroupVersion.String(), Kind: "MoEDeployment", Name: name}
		hpa := &autoscalingv2.HorizontalPodAutoscaler{
			ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: w.namespace},
			Spec: autoscalingv2.HorizontalPodAutoscalerSpec{ScaleTargetRef: target, MinReplicas: ptr.To[int32](1), MaxReplicas: 4, Metrics: []autoscalingv2.MetricSpec{{
				Type: autoscalingv2.PodsMetricSourceType,
				Pods: &autoscalingv2.PodsMetricSource{
					Metric: autoscalingv2.MetricIdentifier{Name: "findep_requests_waiting"},
					Target: autoscalingv2.MetricTarget{Type: autoscalingv2.AverageValueMetricType, AverageValue: ptr.To(resource.MustParse("4"))},
				},
			}}},
		}
		Expect(k8s.Create(ctx, hpa)).To(Succeed())
		// What the controller of HorizontalPodAutoscalers does, through the same API:
		// find the scale of whatever the reference names, its pods by the selector, and
		// write the number. It divides by pods, so there must be one pod per replica.
		discovered, err := discovery.NewDiscoveryClientForConfig(config)
		Expect(err).NotTo(HaveOccurred())
		scales, err := scaleclient.NewForConfig(config, k8s.RESTMapper(), dynamic.LegacyAPIPathResolverFunc, scaleclient.NewDiscoveryScaleKindResolver(discovered))
		Expect(err).NotTo(HaveOccurred())
		resourceOf := schema.GroupResource{Group: v1alpha1.GroupVersion.Group, Resource: "moedeployments"}
		scale, err := scales.Scales(w.namespace).Get(ctx, resourceOf, target.Name, metav1.GetOptions{})
		Expect(err).NotTo(HaveOccurred())
		Expect(scale.Spec.Replicas).To(BeEquivalentTo(2))
		Expect(scale.Status.Replicas).To(BeEquivalentTo(2))
		selector, err := labels.Parse(scale.Status.Selector)
		Expect(err).NotTo(HaveOccurred())
		var counted corev1.PodList
		Expect(k8s.List(ctx, &counted, client.InNamespace(w.namespace), client.MatchingLabelsSelector{Selector: selector})).To(Succeed())
		Expect(counted.Items).To(HaveLen(2), "one pod per instance, its leader")

		scale.Spec.Replicas = 3
		_, err = scales.Scales(w.namespace).Update(ctx, resourceOf, scale, metav1.UpdateOptions{})
		Expect(err).NotTo(HaveOccurred())
		w.settle(ctx, name)
		Expect(w.pods(ctx, name)).To(HaveLen(15))
	})

	It("owns everything it makes, so that deletion takes it along", func(ctx context.Context) {
		w.create(ctx, wrappers.MoEDeployment(name))
		w.settle(ctx, name)
		uid := w.get(ctx, name).UID
		for _, list := range []client.ObjectList{
			&corev1.PodList{}, &corev1.ServiceList{}, &corev1.SecretList{}, &schedulingv1beta1.PodGroupList{},
		} {
			Expect(k8s.List(ctx, list, client.InNamespace(w.namespace), client.MatchingLabels(render.DeploymentLabels(name)))).To(Succeed())
			b, err := json.Marshal(list)
			Expect(err).NotTo(HaveOccurred())
			var objects struct {
				Items []metav1.PartialObjectMetadata `json:"items"`
			}
			Expect(json.Unmarshal(b, &objects)).To(Succeed())
			Expect(objects.Items).NotTo(BeEmpty(), "%T", list)
			for _, o := range objects.Items {
				Expect(metav1.GetControllerOf(&o)).NotTo(BeNil(), "%T %s", list, o.Name)
				Expect(metav1.GetControllerOf(&o).UID).To(Equal(uid))
			}
		}
		Expect(w.get(ctx, name).Finalizers).To(BeEmpty())
	})

	It("makes nothing and says why when the model does not fit", func(ctx context.Context) {
		w.create(ctx, wrappers.MoEDeployment(name).Model("deepseek-ai/DeepSeek-V3").GPUs(1, 1))
		w.settle(ctx, name)
		Expect(w.pods(ctx, name)).To(BeEmpty())
		Expect(w.condition(ctx, name, v1alpha1.ConditionFeasible)).To(And(HavePrefix("False/MemoryExceeded"), ContainSubstring("bytes")))
		Expect(w.condition(ctx, name, v1alpha1.ConditionAvailable)).To(HavePrefix("False/Infeasible"))

		w.change(ctx, name, func(s *v1alpha1.MoEDeploymentSpec) { s.Model.Name = "deepseek-ai/DeepSeek-V2-Lite" })
		w.settle(ctx, name)
		Expect(w.pods(ctx, name)).To(HaveLen(2))
	})

	It("keeps what serves when a change cannot be carried out", func(ctx context.Context) {
		w.create(ctx, wrappers.MoEDeployment(name))
		serve(ctx)
		w.change(ctx, name, func(s *v1alpha1.MoEDeploymentSpec) { s.GPUs.Expert = 65 })
		w.settle(ctx, name)
		Expect(w.pods(ctx, name)).To(HaveLen(5))
		Expect(w.condition(ctx, name, v1alpha1.ConditionAvailable)).To(HavePrefix("True/Serving"))
		Expect(w.condition(ctx, name, v1alpha1.ConditionFeasible)).To(HavePrefix("False/TooManyExpertGPUs"))
	})

	It("reads config.json from a ConfigMap as soon as there is one", func(ctx context.Context) {
		w.create(ctx, wrappers.MoEDeployment(name).ConfigFrom("shape"))
		Expect(w.reconcile(ctx, name).RequeueAfter).To(Equal(10 * time.Second))
		Expect(w.condition(ctx, name, v1alpha1.ConditionModelResolved)).To(And(HavePrefix("False/ConfigNotFound"), ContainSubstring(`"shape"`)))
		Expect(k8s.Create(ctx, &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Name: "shape", Namespace: w.namespace},
			Data:       map[string]string{"config.json": liteConfig()},
		})).To(Succeed())
		w.settle(ctx, name)
		Expect(w.pods(ctx, name)).To(HaveLen(5))
		Expect(instance(ctx, 0).Model.Name).To(Equal(name))
	})

	It("reports the scheduler's own words while GPUs are missing", func(ctx context.Context) {
		w.create(ctx, wrappers.MoEDeployment(name))
		w.settle(ctx, name)
		for _, pod := range w.pods(ctx, name) {
			setPodCondition(pod, corev1.PodScheduled, corev1.ConditionFalse, "0/2 nodes are available: 2 Insufficient nvidia.com/gpu.")
			Expect(k8s.Status().Update(ctx, pod)).To(Succeed())
		}
		w.settle(ctx, name)
		Expect(w.condition(ctx, name, v1alpha1.ConditionScheduled)).To(And(HavePrefix("False/Unschedulable"), ContainSubstring("2 Insufficient nvidia.com/gpu")))
		Expect(w.condition(ctx, name, v1alpha1.ConditionProgressing)).To(HavePrefix("False/Blocked"))
	})

	It("makes no gang where PodGroups are not served, and says so", func(ctx context.Context) {
		w.reconciler.GangServed = false
		w.create(ctx, wrappers.MoEDeployment(name))
		serve(ctx)
		for _, pod := range w.pods(ctx, name) {
			Expect(pod.Spec.SchedulingGroup).To(BeNil())
		}
		Expect(w.condition(ctx, name, v1alpha1.ConditionScheduled)).To(ContainSubstring("does not serve scheduling.k8s.io"))

		// An upgraded cluster serves them; a lost pod must still join its own kind.
		w.reconciler.GangServed = true
		w.kill(ctx, "lite-0-eg-0")
		w.settle(ctx, name)
		Expect(w.pods(ctx, name)["lite-0-eg-0"].Spec.SchedulingGroup).To(BeNil())
	})

	It("makes no pods when a gang is required and cannot be had", func(ctx context.Context) {
		w.reconciler.GangServed = false
		w.create(ctx, wrappers.MoEDeployment(name).With(func(s *v1alpha1.MoEDeploymentSpec) { s.Placement.Gang = v1alpha1.GangRequired }))
		w.settle(ctx, name)
		Expect(w.pods(ctx, name)).To(BeEmpty())
		Expect(w.condition(ctx, name, v1alpha1.ConditionScheduled)).To(HavePrefix("False/GangNotServed"))
	})

	It("does not restart pods when the operator is upgraded to other images", func(ctx context.Context) {
		w.create(ctx, wrappers.MoEDeployment(name))
		serve(ctx)
		before := w.pods(ctx, name)
		w.reconciler.Images.Runtime, w.reconciler.Images.Server = "findep/runtime:2", "findep/server:2"
		w.settle(ctx, name)
		w.kill(ctx, "lite-0-eg-0")
		w.settle(ctx, name)
		after := w.pods(ctx, name)
		Expect(after["lite-0-ag-0"].UID).To(Equal(before["lite-0-ag-0"].UID))
		Expect(after["lite-0-eg-0"].Spec.Containers[0].Image).To(Equal("findep/runtime:1"))
	})

	It("puts right what somebody changed in a child", func(ctx context.Context) {
		w.create(ctx, wrappers.MoEDeployment(name))
		w.settle(ctx, name)
		var service corev1.Service
		key := types.NamespacedName{Namespace: w.namespace, Name: name}
		Expect(k8s.Get(ctx, key, &service)).To(Succeed())
		service.Spec.Selector = map[string]string{"app": "other"}
		Expect(k8s.Update(ctx, &service)).To(Succeed())
		w.settle(ctx, name)
		Expect(k8s.Get(ctx, key, &service)).To(Succeed())
		Expect(service.Spec.Selector).To(HaveKeyWithValue(v1alpha1.LabelLeader, "true"))
	})

	It("leaves alone what it does not own, even with its labels", func(ctx context.Context) {
		labels := render.DeploymentLabels(name)
		labels[v1alpha1.LabelInstance] = "5"
		Expect(k8s.Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{
			Name: render.SecretName(name, 5), Namespace: w.namespace, Labels: labels,
		}})).To(Succeed())
		w.create(ctx, wrappers.MoEDeployment(name))
		w.settle(ctx, name)
		Expect(k8s.Get(ctx, types.NamespacedName{Namespace: w.namespace, Name: render.SecretName(name, 5)}, &corev1.Secret{})).To(Succeed())
	})

	It("does not take over a Service of the same name, and says so", func(ctx context.Context) {
		mine := &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: w.namespace},
			Spec:       corev1.ServiceSpec{Selector: map[string]string{"app": "mine"}, Ports: []corev1.ServicePort{{Port: 80}}},
		}
		Expect(k8s.Create(ctx, mine)).To(Succeed())
		w.create(ctx, wrappers.MoEDeployment(name))
		_, err := w.reconciler.Reconcile(ctx, w.request(name))
		Expect(err).To(MatchError(ContainSubstring(`Service "lite" exists and does not belong`)))
		Expect(w.condition(ctx, name, v1alpha1.ConditionProgressing)).To(ContainSubstring(`Service "lite" exists`))
		Expect(k8s.Get(ctx, client.ObjectKeyFromObject(mine), mine)).To(Succeed())
		Expect(mine.Spec.Selector).To(Equal(map[string]string{"app": "mine"}))
		Expect(mine.OwnerReferences).To(BeEmpty())
	})

	It("rotates certificates without a moment in which ranks distrust each other", func(ctx context.Context) {
		w.create(ctx, wrappers.MoEDeployment(name))
		serve(ctx)
		leaf := func() map[string][]byte {
			GinkgoHelper()
			var s corev1.Secret
			Expect(k8s.Get(ctx, types.NamespacedName{Namespace: w.namespace, Name: render.SecretName(name, 0)}, &s)).To(Succeed())
			return s.Data
		}
		first := leaf()
		w.clock.SetTime(w.clock.Now().Add(identity.DefaultLeafTTL * 3 / 4))
		w.settle(ctx, name)
		second := leaf()
		Expect(second[identity.CertFile]).NotTo(Equal(first[identity.CertFile]))
		Expect(second[identity.CAFile]).To(Equal(first[identity.CAFile]))

		w.clock.SetTime(w.clock.Now().Add(identity.DefaultCATTL * 3 / 4))
		w.settle(ctx, name)
		third := leaf()
		Expect(strings.Count(string(third[identity.CAFile]), "BEGIN CERTIFICATE")).To(Equal(2), "old and next authority are trusted")
		w.clock.SetTime(w.clock.Now().Add(2 * time.Hour))
		w.settle(ctx, name)
		fourth := leaf()
		Expect(fourth[identity.CertFile]).NotTo(Equal(third[identity.CertFile]))
		Expect(strings.Count(string(fourth[identity.CAFile]), "BEGIN CERTIFICATE")).To(Equal(2), "the previous authority stays trusted")
	})

	It("converges although each write fails once", func(ctx context.Context) {
		w.create(ctx, wrappers.MoEDeployment(name))
		seen := map[string]bool{}
		w.writes.fail = func(write string) error {
			if !seen[write] {
				seen[write] = true
				return errors.New("the API server is having a bad day")
			}
			return nil
		}
		for range 20 {
			_, _ = w.reconciler.Reconcile(ctx, w.request(name))
		}
		w.writes.fail = nil
		w.settle(ctx, name)
		Expect(w.pods(ctx, name)).To(HaveLen(5))
		Expect(w.get(ctx, name).Status.ObservedGeneration).To(BeEquivalentTo(1))
	})

	It("says in status that a write failed", func(ctx context.Context) {
		w.create(ctx, wrappers.MoEDeployment(name))
		w.writes.fail = func(write string) error {
			if strings.Contains(write, "create *v1.Pod") {
				return errors.New("exceeded quota: gpus")
			}
			return nil
		}
		_, err := w.reconciler.Reconcile(ctx, w.request(name))
		Expect(err).To(MatchError(ContainSubstring("exceeded quota")))
		Expect(w.condition(ctx, name, v1alpha1.ConditionProgressing)).To(And(HavePrefix("False/ReconcileFailed"), ContainSubstring("exceeded quota: gpus")))
		Expect(w.get(ctx, name).Status.ObservedGeneration).To(BeZero())
	})

	It("takes the profile from the labels of nodes", func(ctx context.Context) {
		node := wrappers.Node("gpu-"+w.namespace, map[string]string{"pool": w.namespace, "nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"})
		Expect(k8s.Create(ctx, node)).To(Succeed())
		DeferCleanup(func(ctx context.Context) { Expect(k8s.Delete(ctx, node)).To(Succeed()) })
		w.create(ctx, wrappers.MoEDeployment(name).Profile("").With(func(s *v1alpha1.MoEDeploymentSpec) {
			s.Groups.Attention.NodeSelector = map[string]string{"pool": w.namespace}
			s.Groups.Expert.NodeSelector = map[string]string{"pool": w.namespace}
		}))
		w.settle(ctx, name)
		Expect(w.get(ctx, name).Status.Profiles[0].Name).To(Equal("h100-sxm"))
	})

	It("ends quietly when the object is gone", func(ctx context.Context) {
		Expect(w.reconcile(ctx, "absent").RequeueAfter).To(BeZero())
	})
})

var _ = Describe("A MoEDeployment that comes up as it should", func() {
	const name = "lite"
	var w *world

	BeforeEach(func(ctx context.Context) { w = newWorld(ctx) })

	// at sets the clock to a time after the deployment, and its pods, were made.
	at := func(ctx context.Context, age time.Duration) {
		GinkgoHelper()
		latest := w.get(ctx, name).CreationTimestamp.Time
		for _, pod := range w.pods(ctx, name) {
			if pod.CreationTimestamp.After(latest) {
				latest = pod.CreationTimestamp.Time
			}
		}
		w.clock.SetTime(latest.Add(age))
	}
	statuses := func() (n int) {
		for _, write := range w.writes.writes {
			if write == "patch status" {
				n++
			}
		}
		return n
	}

	It("costs a write for each pod and five more, and says nothing but that it serves", func(ctx context.Context) {
		w.create(ctx, wrappers.MoEDeployment(name))
		at(ctx, 0)
		Expect(w.reconcile(ctx, name).RequeueAfter).To(BeNumerically("<=", 5*time.Second))
		Expect(w.get(ctx, name).Status.Conditions).To(BeEmpty())
		w.run(ctx, name)
		w.leader.observation = formedAs(ctx, w, name)
		at(ctx, 2*time.Second)
		w.reconcile(ctx, name)
		Expect(w.condition(ctx, name, v1alpha1.ConditionAvailable)).To(HavePrefix("True/Serving"))
		Expect(statuses()).To(Equal(1))
		const perNamespace = 2
		// Service, Secret, PodGroup and status.
		Expect(w.writes.writes).To(HaveLen(5+4+perNamespace), "%v", w.writes.writes)
		Expect(w.events.Events).NotTo(Receive())
		w.settle(ctx, name)
		Expect(w.writes.writes).To(BeEmpty())
	})

	It("has a status after five seconds that says what it waits for", func(ctx context.Context) {
		w.create(ctx, wrappers.MoEDeployment(name))
		at(ctx, 0)
		w.reconcile(ctx, name)
		at(ctx, 4*time.Second)
		Expect(w.reconcile(ctx, name).RequeueAfter).To(Equal(time.Second))
		Expect(w.get(ctx, name).Status.Conditions).To(BeEmpty())
		at(ctx, 5*time.Second)
		w.reconcile(ctx, name)
		Expect(w.condition(ctx, name, v1alpha1.ConditionScheduled)).To(ContainSubstring("the scheduler has not placed 5 of 5 pods yet"))
	})

	It("tells of mere progress again when as much time has passed as before, and at once that it serves", func(ctx context.Context) {
		w.create(ctx, wrappers.MoEDeployment(name))
		at(ctx, 0)
		w.reconcile(ctx, name)
		at(ctx, time.Hour)
		w.reconcile(ctx, name)
		Expect(statuses()).To(Equal(1))
		var written time.Time
		for _, m := range w.get(ctx, name).ManagedFields {
			if m.Subresource == "status" {
				written = m.Time.Time
			}
		}
		for _, pod := range w.pods(ctx, name) {
			Expect(k8s.SubResource("binding").Create(ctx, pod, &corev1.Binding{
				ObjectMeta: metav1.ObjectMeta{Name: pod.Name, Namespace: w.namespace}, Target: corev1.ObjectReference{Kind: "Node", Name: "node1"},
			})).To(Succeed())
			break
		}
		w.clock.SetTime(written.Add(4 * time.Second))
		Expect(w.reconcile(ctx, name).RequeueAfter).To(BeNumerically(">=", time.Second))
		Expect(statuses()).To(Equal(1))
		w.clock.SetTime(written.Add(time.Minute))
		w.reconcile(ctx, name)
		Expect(statuses()).To(Equal(2))
		Expect(w.condition(ctx, name, v1alpha1.ConditionScheduled)).To(ContainSubstring("the scheduler has not placed 4 of 5 pods yet"))
		w.run(ctx, name)
		w.leader.observation = formedAs(ctx, w, name)
		w.reconcile(ctx, name)
		Expect(w.condition(ctx, name, v1alpha1.ConditionAvailable)).To(HavePrefix("True/Serving"))
	})

	It("says at once what somebody has to act on", func(ctx context.Context) {
		w.create(ctx, wrappers.MoEDeployment(name).Model("deepseek-ai/DeepSeek-V3").GPUs(1, 1))
		at(ctx, 0)
		w.reconcile(ctx, name)
		Expect(w.condition(ctx, name, v1alpha1.ConditionFeasible)).To(HavePrefix("False/MemoryExceeded"))
		Expect(w.events.Events).To(Receive(ContainSubstring("MemoryExceeded")))
	})
})

// formedAs is the observation of a leader that has the configuration that was
// written.
func formedAs(ctx context.Context, w *world, name string) *plan.Observation {
	GinkgoHelper()
	var secret corev1.Secret
	Expect(k8s.Get(ctx, types.NamespacedName{Namespace: w.namespace, Name: render.SecretName(name, 0)}, &secret)).To(Succeed())
	in, err := plan.DecodeInstance(secret.Data[plan.InstanceFile])
	Expect(err).NotTo(HaveOccurred())
	hash, err := in.ScheduleHash()
	Expect(err).NotTo(HaveOccurred())
	return &plan.Observation{Epoch: 1, Formed: true, ScheduleHash: hash}
}
