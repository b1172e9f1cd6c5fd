// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"context"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	schedulingv1alpha3 "k8s.io/api/scheduling/v1alpha3"
	schedulingv1beta1 "k8s.io/api/scheduling/v1beta1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/discovery"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	"github.com/findep/findep-operator/api/v1alpha1"
	"github.com/findep/findep-operator/controllers/moedeployment"
	"github.com/findep/findep-operator/test/wrappers"
)

var _ = Describe("Placement", func() {
	const (
		name = "lite"
		rack = "topology.kubernetes.io/rack"
	)
	var w *world
	placed := func(f func(*v1alpha1.PlacementSpec)) *wrappers.MoEDeploymentWrapper {
		return wrappers.MoEDeployment(name).With(func(s *v1alpha1.MoEDeploymentSpec) { f(&s.Placement) })
	}
	// detecting makes the world's operator ask the API server what it serves.
	detecting := func() {
		GinkgoHelper()
		d, err := discovery.NewDiscoveryClientForConfig(config)
		Expect(err).NotTo(HaveOccurred())
		w.reconciler.Backends = &moedeployment.DiscoveryDetector{Discovery: d, Clock: w.clock}
	}
	install := func(path string) (remove func()) {
		GinkgoHelper()
		crds, err := envtest.InstallCRDs(config, envtest.CRDInstallOptions{Paths: []string{path}})
		Expect(err).NotTo(HaveOccurred())
		gone := false
		remove = func() {
			if !gone {
				gone = true
				Expect(envtest.UninstallCRDs(config, envtest.CRDInstallOptions{CRDs: crds})).To(Succeed())
			}
		}
		DeferCleanup(remove)
		return remove
	}
	exists := func(ctx context.Context, o client.Object, name string) bool {
		GinkgoHelper()
		err := k8s.Get(ctx, types.NamespacedName{Namespace: w.namespace, Name: name}, o)
		Expect(client.IgnoreNotFound(err)).NotTo(HaveOccurred())
		return err == nil
	}

	// release lets PodGroups go that are being deleted: the controller that
	// protects those in use does not run here.
	release := func(ctx context.Context) {
		GinkgoHelper()
		var list schedulingv1beta1.PodGroupList
		Expect(k8s.List(ctx, &list, client.InNamespace(w.namespace))).To(Succeed())
		for i := range list.Items {
			if g := &list.Items[i]; !g.DeletionTimestamp.IsZero() {
				freed := g.DeepCopy()
				freed.Finalizers = nil
				Expect(k8s.Patch(ctx, freed, client.MergeFrom(g))).To(Succeed())
			}
		}
		var wholes schedulingv1alpha3.CompositePodGroupList
		Expect(k8s.List(ctx, &wholes, client.InNamespace(w.namespace))).To(Succeed())
		for i := range wholes.Items {
			if g := &wholes.Items[i]; !g.DeletionTimestamp.IsZero() {
				freed := g.DeepCopy()
				freed.Finalizers = nil
				Expect(k8s.Patch(ctx, freed, client.MergeFrom(g))).To(Succeed())
			}
		}
	}

	BeforeEach(func(ctx context.Context) { w = newWorld(ctx) })

	It("puts an instance and its groups into domains by PodGroups within a PodGroup", func(ctx context.Context) {
		detecting()
		w.create(ctx, placed(func(p *v1alpha1.PlacementSpec) {
			p.Topology = v1alpha1.TopologySpec{
				Instance: v1alpha1.TopologyRequired, Key: rack,
				Attention: &v1alpha1.TopologyRule{Mode: v1alpha1.TopologyRequired, Key: "nvidia.com/gpu.clique"},
			}
		}))
		w.settle(ctx, name)
		var whole schedulingv1alpha3.CompositePodGroup
		Expect(exists(ctx, &whole, "lite-0")).To(BeTrue())
		Expect(whole.Spec.SchedulingConstraints.Topology[0].Key).To(Equal(rack))
		var attention, expert schedulingv1beta1.PodGroup
		Expect(exists(ctx, &attention, "lite-0-ag")).To(BeTrue())
		Expect(exists(ctx, &expert, "lite-0-eg")).To(BeTrue())
		Expect(attention.Spec.SchedulingConstraints.Topology[0].Key).To(Equal("nvidia.com/gpu.clique"))
		Expect(expert.Spec.SchedulingConstraints).To(BeNil())
		pods := w.pods(ctx, name)
		Expect(*pods["lite-0-ag-1"].Spec.SchedulingGroup.PodGroupName).To(Equal("lite-0-ag"))
		Expect(*pods["lite-0-eg-0"].Spec.SchedulingGroup.PodGroupName).To(Equal("lite-0-eg"))
		Expect(w.get(ctx, name).Status.Placement).To(HaveValue(And(
			HaveField("Backend", "PodGroup"), HaveField("Topology", ContainSubstring("always within one "+rack)))))

		By("removing all of it with the instance")
		w.change(ctx, name, func(s *v1alpha1.MoEDeploymentSpec) { s.Replicas = new(int32) })
		w.settle(ctx, name)
		w.finishDeletions(ctx, name)
		w.settle(ctx, name)
		release(ctx)
		for _, o := range []struct {
			client.Object
			name string
		}{{&whole, "lite-0"}, {&schedulingv1beta1.Workload{}, "lite-0"}, {&attention, "lite-0-ag"}, {&expert, "lite-0-eg"}} {
			Expect(exists(ctx, o.Object, o.name)).To(BeFalse(), "%T %s", o.Object, o.name)
		}
	})

	It("moves to another topology with a new revision, although a PodGroup's cannot be changed", func(ctx context.Context) {
		detecting()
		w.create(ctx, placed(func(p *v1alpha1.PlacementSpec) { p.Topology.Instance = v1alpha1.TopologyRequired }))
		w.settle(ctx, name)
		w.change(ctx, name, func(s *v1alpha1.MoEDeploymentSpec) { s.Placement.Topology.Key = "zone" })
		for range 4 {
			w.settle(ctx, name)
			w.finishDeletions(ctx, name)
			release(ctx)
		}
		var group schedulingv1beta1.PodGroup
		Expect(exists(ctx, &group, "lite-0")).To(BeTrue())
		Expect(group.Spec.SchedulingConstraints.Topology[0].Key).To(Equal("zone"))
		Expect(w.pods(ctx, name)).To(HaveLen(5))
	})

	It("uses Volcano and Kueue as they come and go", func(ctx context.Context) {
		detecting()
		volcano := func(p *v1alpha1.PlacementSpec) { p.Backend, p.Queue = v1alpha1.BackendVolcano, "serving" }
		w.create(ctx, placed(volcano))
		w.settle(ctx, name)
		Expect(w.pods(ctx, name)).To(BeEmpty())
		Expect(w.condition(ctx, name, v1alpha1.ConditionScheduled)).To(And(HavePrefix("False/GangNotServed"), ContainSubstring("Volcano")))

		By("making pods once Volcano is there")
		remove := install("../testdata/crds/volcano.yaml")
		w.clock.SetTime(w.clock.Now().Add(2 * time.Minute))
		w.settle(ctx, name)
		pods := w.pods(ctx, name)
		Expect(pods).To(HaveLen(5))
		Expect(pods["lite-0-ag-0"].Spec.SchedulerName).To(Equal("volcano"))
		Expect(pods["lite-0-ag-0"].Annotations).To(HaveKeyWithValue("scheduling.k8s.io/group-name", "lite-0"))
		group := &unstructured.Unstructured{}
		group.SetAPIVersion("scheduling.volcano.sh/v1beta1")
		group.SetKind("PodGroup")
		Expect(exists(ctx, group, "lite-0")).To(BeTrue())
		Expect(group.Object["spec"]).To(And(HaveKeyWithValue("minMember", BeEquivalentTo(5)), HaveKeyWithValue("queue", "serving")))
		Expect(w.get(ctx, name).Status.Placement).To(HaveValue(HaveField("Why", "placement.backend names it.")))

		By("going on without it")
		remove()
		w.clock.SetTime(w.clock.Now().Add(2 * time.Minute))
		w.settle(ctx, name)
		Expect(w.pods(ctx, name)).To(HaveLen(5))

		By("letting Kueue admit a deployment that has a queue")
		install("../testdata/crds/kueue.yaml")
		w.clock.SetTime(w.clock.Now().Add(2 * time.Minute))
		w.create(ctx, wrappers.MoEDeployment("queued").With(func(s *v1alpha1.MoEDeploymentSpec) { s.Placement.Queue = "serving" }))
		w.settle(ctx, "queued")
		pods = w.pods(ctx, "queued")
		Expect(pods["queued-0-ag-0"].Labels).To(And(HaveKeyWithValue("kueue.x-k8s.io/queue-name", "serving"), HaveKeyWithValue("kueue.x-k8s.io/pod-group-name", "queued-0")))
		Expect(pods["queued-0-ag-0"].Spec.SchedulingGroup).To(BeNil())
		Expect(w.get(ctx, "queued").Status.Placement).To(HaveValue(HaveField("Backend", "Kueue")))
	})

	It("claims GPUs by Dynamic Resource Allocation", func(ctx context.Context) {
		w.create(ctx, wrappers.MoEDeployment(name).With(func(s *v1alpha1.MoEDeploymentSpec) {
			s.Groups.Expert.DeviceClaim = &v1alpha1.DeviceClaimSpec{
				DeviceClassName: "gpu.nvidia.com", Selectors: []string{"device.attributes['gpu.nvidia.com'].architecture == 'Hopper'"},
			}
		}))
		w.settle(ctx, name)
		pods := w.pods(ctx, name)
		expert, attention := pods["lite-0-eg-0"], pods["lite-0-ag-0"]
		Expect(expert.Spec.ResourceClaims).To(HaveLen(1))
		Expect(expert.Spec.Containers[0].Resources.Claims).To(HaveLen(1))
		Expect(expert.Spec.Containers[0].Resources.Limits).NotTo(HaveKey(corev1.ResourceName("nvidia.com/gpu")))
		Expect(attention.Spec.InitContainers[0].Resources.Limits).To(HaveKey(corev1.ResourceName("nvidia.com/gpu")))
		var template resourcev1.ResourceClaimTemplate
		Expect(exists(ctx, &template, *expert.Spec.ResourceClaims[0].ResourceClaimTemplateName)).To(BeTrue())
		Expect(template.Spec.Spec.Devices.Requests[0].Exactly.DeviceClassName).To(Equal("gpu.nvidia.com"))

		w.change(ctx, name, func(s *v1alpha1.MoEDeploymentSpec) { s.Replicas = new(int32) })
		w.settle(ctx, name)
		w.finishDeletions(ctx, name)
		w.settle(ctx, name)
		Expect(exists(ctx, &template, template.Name)).To(BeFalse())
	})

	It("applies the user's patch to pods, and keeps to what was decided", func(ctx context.Context) {
		w.create(ctx, wrappers.MoEDeployment(name).With(func(s *v1alpha1.MoEDeploymentSpec) {
			s.Groups.Attention.PodTemplate = &runtime.RawExtension{Raw: []byte(`{"metadata":{"labels":{"team":"moe"}},
				"spec":{"initContainers":[{"name":"runtime","env":[{"name":"NCCL_DEBUG","value":"INFO"}]}]}}`)}
		}))
		w.settle(ctx, name)
		pods := w.pods(ctx, name)
		Expect(pods["lite-0-ag-0"].Labels).To(HaveKeyWithValue("team", "moe"))
		Expect(pods["lite-0-ag-0"].Spec.InitContainers[0].Env).To(ContainElement(corev1.EnvVar{Name: "NCCL_DEBUG", Value: "INFO"}))
		By("the same for the other ranks of the group, whose runtime is their only container")
		Expect(pods["lite-0-ag-1"].Spec.Containers[0].Env).To(ContainElement(corev1.EnvVar{Name: "NCCL_DEBUG", Value: "INFO"}))
		Expect(pods["lite-0-eg-0"].Labels).NotTo(HaveKey("team"))
		Expect(w.condition(ctx, name, v1alpha1.ConditionFullyActedOn)).To(HavePrefix("True/"))
	})

	It("makes no pods from a patch that changes what it must not", func(ctx context.Context) {
		w.create(ctx, wrappers.MoEDeployment(name).With(func(s *v1alpha1.MoEDeploymentSpec) {
			s.Groups.Expert.PodTemplate = &runtime.RawExtension{Raw: []byte(`{"spec":{"hostNetwork":true}}`)}
		}))
		w.settle(ctx, name)
		Expect(w.pods(ctx, name)).To(BeEmpty())
		Expect(w.condition(ctx, name, v1alpha1.ConditionFeasible)).To(And(HavePrefix("False/PodTemplateInvalid"), ContainSubstring("spec.hostNetwork")))
	})

	It("says where pods are and whether they are as near as was asked for", func(ctx context.Context) {
		for node, value := range map[string]string{"near-" + w.namespace: "r1", "far-" + w.namespace: "r2"} {
			n := wrappers.Node(node, map[string]string{"placement-rack": value})
			Expect(k8s.Create(ctx, n)).To(Succeed())
			DeferCleanup(func(ctx context.Context) { Expect(k8s.Delete(ctx, n)).To(Succeed()) })
		}
		w.create(ctx, placed(func(p *v1alpha1.PlacementSpec) {
			p.Topology.Key = "placement-rack"
			p.Topology.Expert = &v1alpha1.TopologyRule{Mode: v1alpha1.TopologyPreferred, Key: "placement-rack"}
		}))
		w.settle(ctx, name)
		for _, pod := range w.pods(ctx, name) {
			node := "near-" + w.namespace
			if pod.Name == "lite-0-ag-1" {
				node = "far-" + w.namespace
			}
			Expect(k8s.SubResource("binding").Create(ctx, pod, &corev1.Binding{
				ObjectMeta: metav1.ObjectMeta{Name: pod.Name}, Target: corev1.ObjectReference{Kind: "Node", Name: node},
			})).To(Succeed())
		}
		w.settle(ctx, name)
		Expect(w.get(ctx, name).Status.Instances[0].Placement).To(HaveValue(Equal(v1alpha1.InstancePlacement{
			Nodes: []v1alpha1.NodeRanks{{Node: "near-" + w.namespace, Ranks: "0,2-4"}, {Node: "far-" + w.namespace, Ranks: "1"}},
			Domains: []v1alpha1.DomainStatus{
				{Of: "Instance", Key: "placement-rack", Reached: v1alpha1.DomainNo, Values: []string{"r1", "r2"}},
				{Of: "Expert", Key: "placement-rack", Reached: v1alpha1.DomainYes, Values: []string{"r1"}},
			},
		})))
	})
})
