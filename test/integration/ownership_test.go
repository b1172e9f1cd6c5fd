// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"context"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/findep/findep-operator/api/v1alpha1"
)

// An autoscaler writes the scale subresource; what keeps manifests applies them
// on the server's side. These specs hold what docs/gitops.md says of the two.
var _ = Describe("Who owns spec.replicas", func() {
	var w *world
	BeforeEach(func(ctx context.Context) { w = newWorld(ctx) })

	apply := func(ctx context.Context, context int64, replicas ...int64) error {
		spec := map[string]any{
			"model": map[string]any{"name": "deepseek-ai/DeepSeek-V2-Lite", "source": map[string]any{"uri": "hostpath:///models"}, "maxContextTokens": context},
			"gpus":  map[string]any{"attention": int64(1), "expert": int64(4)},
		}
		for _, n := range replicas {
			spec["replicas"] = n
		}
		manifest := &unstructured.Unstructured{Object: map[string]any{"spec": spec}}
		manifest.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind("MoEDeployment"))
		manifest.SetNamespace(w.namespace)
		manifest.SetName("kept")
		return k8s.Apply(ctx, client.ApplyConfigurationFromUnstructured(manifest), client.FieldOwner("argocd-controller"))
	}
	replicas := func(ctx context.Context) int32 {
		GinkgoHelper()
		return ptr.Deref(w.get(ctx, "kept").Spec.Replicas, -1)
	}
	scale := func(ctx context.Context, n int32) {
		GinkgoHelper()
		s := &autoscalingv1.Scale{Spec: autoscalingv1.ScaleSpec{Replicas: n}}
		Expect(k8s.SubResource("scale").Update(ctx, w.get(ctx, "kept"), client.WithSubResourceBody(s), client.FieldOwner("kube-controller-manager"))).To(Succeed())
	}

	It("is the autoscaler's where the manifest does not name it", func(ctx context.Context) {
		Expect(apply(ctx, 4096)).To(Succeed())
		Expect(replicas(ctx)).To(BeEquivalentTo(1))
		scale(ctx, 3)
		w.reconcile(ctx, "kept")
		Expect(apply(ctx, 2048)).To(Succeed())
		Expect(replicas(ctx)).To(BeEquivalentTo(3))
		Expect(w.get(ctx, "kept").Spec.Model.MaxContextTokens).To(BeEquivalentTo(2048))
	})

	It("is told to be the autoscaler's where the manifest names it", func(ctx context.Context) {
		Expect(apply(ctx, 4096, 2)).To(Succeed())
		scale(ctx, 3)
		err := apply(ctx, 4096, 2)
		Expect(apierrors.IsConflict(err)).To(BeTrue(), "%v", err)
		Expect(err).To(MatchError(ContainSubstring(".spec.replicas")))
		Expect(replicas(ctx)).To(BeEquivalentTo(3))
	})

	It("passes from manifest to autoscaler once that has written it, and not before", func(ctx context.Context) {
		Expect(apply(ctx, 4096, 2)).To(Succeed())
		Expect(apply(ctx, 4096)).To(Succeed())
		Expect(replicas(ctx)).To(BeEquivalentTo(1), "the default, since nobody wants anything else")

		Expect(apply(ctx, 4096, 2)).To(Succeed())
		scale(ctx, 3)
		Expect(apply(ctx, 4096)).To(Succeed())
		Expect(replicas(ctx)).To(BeEquivalentTo(3))
	})
})
