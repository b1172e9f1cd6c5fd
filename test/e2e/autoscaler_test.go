// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"os"
	"path/filepath"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/findep/findep-operator/api/v1alpha1"
)

// modelChart is how a team would ship a model: a chart whose MoEDeployment does
// not name replicas. No node has the label that it asks for, so that no pod runs.
const modelChart = `apiVersion: findep.dev/v1alpha1
kind: MoEDeployment
metadata: {name: scaled}
spec:
  model:
    configFrom: {name: ` + modelConfigName + `}
    source: {uri: "hostpath:///nowhere"}
    maxContextTokens: {{ .Values.context }}
  gpus: {attention: 1, expert: 1}
  groups:
    attention: {nodeSelector: {findep.dev/test: nowhere}}
    expert: {nodeSelector: {findep.dev/test: nowhere}}
`

var _ = Describe("A HorizontalPodAutoscaler and helm", func() {
	It("leave each other's fields alone", func(ctx context.Context) {
		chart := filepath.Join(GinkgoT().TempDir(), "model")
		Expect(os.MkdirAll(filepath.Join(chart, "templates"), 0o750)).To(Succeed())
		for file, text := range map[string]string{
			"Chart.yaml": "apiVersion: v2\nname: model\nversion: 1.0.0\n", "values.yaml": "context: 512\n", "templates/model.yaml": modelChart,
		} {
			Expect(os.WriteFile(filepath.Join(chart, file), []byte(text), 0o600)).To(Succeed())
		}
		install := func(context string) {
			GinkgoHelper()
			mustHelmIn(ctx, namespace, "upgrade", "--install", "model", chart, "--set", "context="+context)
		}
		replicas := func() int32 {
			GinkgoHelper()
			return ptr.Deref(current(ctx, "scaled").Spec.Replicas, -1)
		}
		install("512")
		DeferCleanup(func(ctx context.Context) {
			mustHelmIn(ctx, namespace, "uninstall", "model", "--wait")
		})
		Expect(replicas()).To(BeEquivalentTo(1))

		By("raising it to the least that the autoscaler allows, which takes no metric")
		hpa := &autoscalingv2.HorizontalPodAutoscaler{
			ObjectMeta: metav1.ObjectMeta{Name: "scaled", Namespace: namespace},
			Spec: autoscalingv2.HorizontalPodAutoscalerSpec{
				ScaleTargetRef: autoscalingv2.CrossVersionObjectReference{APIVersion: v1alpha1.GroupVersion.String(), Kind: "MoEDeployment", Name: "scaled"},
				MinReplicas:    ptr.To[int32](3), MaxReplicas: 4,
			},
		}
		Expect(k8s.Create(ctx, hpa)).To(Succeed())
		DeferCleanup(func(ctx context.Context) { Expect(client.IgnoreNotFound(k8s.Delete(ctx, hpa))).To(Succeed()) })
		Eventually(ctx, replicas).WithTimeout(changeWithin).WithPolling(pollEvery).Should(BeEquivalentTo(3))

		By("upgrading the model's chart in another field")
		install("256")
		Expect(current(ctx, "scaled").Spec.Model.MaxContextTokens).To(BeEquivalentTo(256))
		Expect(replicas()).To(BeEquivalentTo(3))
		Consistently(ctx, replicas).WithTimeout(settle).WithPolling(pollEvery).Should(BeEquivalentTo(3))
	})
})
