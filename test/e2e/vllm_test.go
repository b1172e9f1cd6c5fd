// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"os"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/findep/findep-operator/api/v1alpha1"
)

// standInAnswer is what test/vllmstandin says when every rank has reached every
// port.
var standInAnswer = reference{ID: "stand-in", GreedyText: "All ranks of this world have reached each other.", GreedyTokens: []int32{0}}

var _ = Describe("vLLM", Ordered, func() {
	// on is a deployment whose pods run the stand-in for vLLM with a version of its
	// plugin.
	on := func(name, version, behaves string, attention, expert int32) *v1alpha1.MoEDeployment {
		return tiny(name, attention, expert, func(d *v1alpha1.MoEDeployment) {
			d.Spec.Schedule = v1alpha1.ScheduleSpec{}
			d.Spec.Engine = v1alpha1.EngineVLLMAFD
			d.Spec.VLLM = &v1alpha1.VLLMSpec{
				Image: os.Getenv("FINDEP_VLLM_IMAGE"), PluginVersion: version, ExtraArgs: []string{"--enforce-eager", "--standin-plugin=" + behaves},
			}
		})
	}
	const older, newer = "vllm-older", "vllm-newer"

	BeforeAll(func(ctx context.Context) {
		if os.Getenv("FINDEP_VLLM_IMAGE") == "" {
			Skip("FINDEP_VLLM_IMAGE does not name an image of test/vllmstandin")
		}
		create(ctx, on(older, "0.26.0", "0.26", 2, 1))
		create(ctx, on(newer, "0.30.0", "0.30", 3, 2))
	})

	It("serves when every rank has reached every port, by either contract of its plugin", func(ctx context.Context) {
		for _, name := range []string{older, newer} {
			eventuallyAvailable(ctx, name)
			eventuallyAnswers(ctx, name, standInAnswer)
			Expect(condition(ctx, name, v1alpha1.ConditionRendezvousComplete)).To(HavePrefix("True/EngineFormsItself"))
			Expect(current(ctx, name).Status.Plan).To(BeNil())
		}
		Expect(podsOf(ctx, older)).To(HaveLen(3))
		Expect(podsOf(ctx, newer)).To(HaveLen(5))
		// It has done its part, and goes while the rest runs.
		Expect(k8s.Delete(ctx, current(ctx, older))).To(Succeed())
	})

	It("serves again with new pods after one was killed", func(ctx context.Context) {
		before := map[types.UID]bool{}
		for _, p := range podsOf(ctx, newer) {
			before[p.UID] = true
		}
		victim := podsOf(ctx, newer)[0]
		Expect(k8s.Delete(ctx, &victim, client.GracePeriodSeconds(0))).To(Succeed())
		Eventually(ctx, func(g Gomega) {
			pods := podsOf(ctx, newer)
			g.Expect(pods).To(HaveLen(5))
			for _, p := range pods {
				g.Expect(before).NotTo(HaveKey(p.UID), "pod %s", p.Name)
			}
		}).WithTimeout(changeWithin).WithPolling(pollEvery).Should(Succeed())
		eventuallyAvailable(ctx, newer)
		eventuallyAnswers(ctx, newer, standInAnswer)
	})

	It("is refused a split that the plugin cannot wire", func(ctx context.Context) {
		eventuallyRefused(ctx, on("vllm-odd", "0.26.0", "0.26", 3, 5), ContainSubstring("raise gpus.attention, lower gpus.expert"))
	})
})
