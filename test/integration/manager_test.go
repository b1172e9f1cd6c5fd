// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"context"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/discovery"
	"k8s.io/utils/clock"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/findep/findep-operator/api/v1alpha1"
	"github.com/findep/findep-operator/controllers/moedeployment"
	"github.com/findep/findep-operator/controllers/render"
	"github.com/findep/findep-operator/test/wrappers"
)

// These specs run the manager, to prove that watches bring about the passes that
// the other specs call themselves.
var _ = Describe("The manager", Ordered, func() {
	const (
		name   = "watched"
		within = 60 * time.Second
	)
	var w *world
	var cached client.Client
	used := &usedRights{}

	BeforeAll(func(ctx context.Context) {
		w = newWorld(ctx)
		// The manager has the rights of its role and no others.
		mgr, err := ctrl.NewManager(restricted(ctx, used), ctrl.Options{
			Scheme: scheme, Metrics: metricsserver.Options{BindAddress: "0"},
			Cache: cache.Options{
				ByObject:          moedeployment.CacheObjects(),
				DefaultNamespaces: map[string]cache.Config{w.namespace: {}},
			},
		})
		Expect(err).NotTo(HaveOccurred())
		discover, err := discovery.NewDiscoveryClientForConfig(config)
		Expect(err).NotTo(HaveOccurred())
		backends := &moedeployment.DiscoveryDetector{Discovery: discover, Clock: clock.RealClock{}}
		served, err := backends.Served()
		Expect(err).NotTo(HaveOccurred())
		Expect(served.PodGroup).To(BeTrue(), "the API server of the tests serves PodGroups")
		r := &moedeployment.Reconciler{
			Client: mgr.GetClient(), Reader: mgr.GetAPIReader(), Recorder: mgr.GetEventRecorder("findep-operator"),
			Clock: clock.RealClock{}, Observer: w.leader, Images: images, GangServed: served.PodGroup, Backends: backends, ClusterReads: true,
			DisruptionBudgets: true, NetworkPolicies: true,
		}
		Expect(r.SetupWithManager(mgr, 1)).To(Succeed())
		cached = mgr.GetClient()
		running, stop := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- mgr.Start(running) }()
		DeferCleanup(func() {
			stop()
			Eventually(done).WithTimeout(within).Should(Receive(BeNil()))
		})
		w.create(ctx, wrappers.MoEDeployment(name))
	})

	podNames := func(ctx context.Context) func() int {
		return func() int { return len(w.pods(ctx, name)) }
	}

	It("makes a new deployment's pods", func(ctx context.Context) {
		Eventually(podNames(ctx)).WithTimeout(within).Should(Equal(5))
	})

	It("notices that pods became ready", func(ctx context.Context) {
		w.run(ctx, name)
		Eventually(func() string { return w.condition(ctx, name, v1alpha1.ConditionAvailable) }).
			WithTimeout(within).Should(HavePrefix("True/"))
	})

	It("finds pods by their node in its cache", func(ctx context.Context) {
		var pods corev1.PodList
		Eventually(func() (int, error) {
			err := cached.List(ctx, &pods, client.MatchingFields{"spec.nodeName": "node1"})
			return len(pods.Items), err
		}).WithTimeout(within).Should(Equal(5))
	})

	It("notices that a pod is gone", func(ctx context.Context) {
		uid := w.pods(ctx, name)["watched-0-eg-0"].UID
		w.kill(ctx, "watched-0-eg-0")
		Eventually(func() types.UID {
			if p := w.pods(ctx, name)["watched-0-eg-0"]; p != nil {
				return p.UID
			}
			return uid
		}).WithTimeout(within).ShouldNot(Equal(uid))
	})

	It("notices that a Service or what is shared was deleted or changed", func(ctx context.Context) {
		for _, key := range []types.NamespacedName{{Namespace: w.namespace, Name: name}, {Namespace: w.namespace, Name: render.RanksName}} {
			var service corev1.Service
			Expect(k8s.Get(ctx, key, &service)).To(Succeed())
			Expect(k8s.Delete(ctx, &service)).To(Succeed())
			Eventually(func() error { return k8s.Get(ctx, key, &service) }).WithTimeout(within).Should(Succeed())
		}
		key := types.NamespacedName{Namespace: w.namespace, Name: render.RanksName}
		var policy networkingv1.NetworkPolicy
		Expect(k8s.Get(ctx, key, &policy)).To(Succeed())
		policy.Spec.Ingress = []networkingv1.NetworkPolicyIngressRule{{}}
		Expect(k8s.Update(ctx, &policy)).To(Succeed())
		Eventually(func() int {
			Expect(k8s.Get(ctx, key, &policy)).To(Succeed())
			return len(policy.Spec.Ingress)
		}).WithTimeout(within).Should(Equal(3))
	})

	It("notices a GPUProfile for its nodes", func(ctx context.Context) {
		node := wrappers.Node("watched-"+w.namespace, map[string]string{"pool": w.namespace})
		profile := wrappers.GPUProfile("watched-"+w.namespace).Selector("pool", w.namespace).Obj()
		w.change(ctx, name, func(s *v1alpha1.MoEDeploymentSpec) { s.Groups = v1alpha1.GroupsSpec{} })
		Eventually(func() string { return w.get(ctx, name).Status.Profiles[0].Name }).
			WithTimeout(within).Should(Equal("cpu"))
		for _, o := range []client.Object{node, profile} {
			Expect(k8s.Create(ctx, o)).To(Succeed())
			DeferCleanup(func(ctx context.Context) { Expect(k8s.Delete(ctx, o)).To(Succeed()) })
		}
		Eventually(func() string { return w.get(ctx, name).Status.Profiles[0].Name }).
			WithTimeout(within).Should(Equal(profile.Name))
	})

	It("writes nothing at rest", func(ctx context.Context) {
		// What is not at rest yet comes to rest within a poll or two.
		Eventually(func() bool {
			before := w.get(ctx, name).ResourceVersion
			time.Sleep(7 * time.Second)
			return w.get(ctx, name).ResourceVersion == before
		}).WithTimeout(within).WithPolling(time.Millisecond).Should(BeTrue())
	})

	It("uses every right that its role gives it", func(ctx context.Context) {
		w.change(ctx, name, func(s *v1alpha1.MoEDeploymentSpec) {
			s.Groups = wrappers.MoEDeployment(name).Obj().Spec.Groups
			s.Replicas = ptr.To[int32](2)
		})
		Eventually(podNames(ctx)).WithTimeout(within).Should(Equal(10))
		w.change(ctx, name, func(s *v1alpha1.MoEDeploymentSpec) { s.Replicas = ptr.To[int32](1) })
		Eventually(podNames(ctx)).WithTimeout(within).Should(Equal(5))
		// A second revision, which no pod gets to see.
		w.change(ctx, name, func(s *v1alpha1.MoEDeploymentSpec) {
			s.Images.Server, s.Rollout.Paused = "findep/server:2", v1alpha1.Enabled
		})
		Eventually(used.missing).WithTimeout(within).Should(BeEmpty())
	})

	It("removes what is shared when the last pod of the last deployment is gone", func(ctx context.Context) {
		Expect(k8s.Delete(ctx, w.get(ctx, name))).To(Succeed())
		key := types.NamespacedName{Namespace: w.namespace, Name: render.RanksName}
		var policy networkingv1.NetworkPolicy
		Consistently(func() error { return k8s.Get(ctx, key, &policy) }).WithTimeout(time.Second).Should(Succeed(), "pods are left to protect")
		// There is no garbage collection here.
		for podName := range w.pods(ctx, name) {
			w.kill(ctx, podName)
		}
		Eventually(func() bool {
			return apierrors.IsNotFound(k8s.Get(ctx, key, &policy)) && apierrors.IsNotFound(k8s.Get(ctx, key, &corev1.Service{}))
		}).WithTimeout(within).Should(BeTrue())
	})
})
