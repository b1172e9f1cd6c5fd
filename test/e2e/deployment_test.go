// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/findep/findep-operator/api/v1alpha1"
)

var _ = Describe("A MoEDeployment", Ordered, func() {
	const name = "tiny"
	var prompts []reference

	BeforeAll(func(ctx context.Context) {
		prompts = references()
		create(ctx, tiny(name, 2, 2))
		eventuallyAvailable(ctx, name)
	})

	It("says in status what was chosen", func(ctx context.Context) {
		status := current(ctx, name).Status
		Expect(status.Split).NotTo(BeNil())
		Expect(status.Split.Attention).To(BeEquivalentTo(2))
		Expect(status.Split.Expert).To(BeEquivalentTo(2))
		Expect(status.Plan).NotTo(BeNil())
		Expect(status.ReadyReplicas).To(HaveValue(BeEquivalentTo(1)))
		Expect(podsOf(ctx, name)).To(HaveLen(4))
	})

	It("answers a completion as transformers does", func(ctx context.Context) {
		eventuallyAnswers(ctx, name, prompts[0])
	})

	It("answers 16 requests at once, each as transformers does", func(ctx context.Context) {
		var wg sync.WaitGroup
		wrong := make([]string, 16)
		for i := range wrong {
			wg.Go(func() {
				r := prompts[i%len(prompts)]
				text, err := completion(ctx, name, r)
				if err != nil || text != r.GreedyText {
					wrong[i] = fmt.Sprintf("prompt %s: got %q (%v), want %q", r.ID, text, err, r.GreedyText)
				}
			})
		}
		wg.Wait()
		for _, w := range wrong {
			Expect(w).To(BeEmpty())
		}
	})

	It("reports what the leader measured", func(ctx context.Context) {
		Eventually(ctx, func() *v1alpha1.ObservedStatus { return current(ctx, name).Status.Observed }).
			WithTimeout(changeWithin).WithPolling(pollEvery).ShouldNot(BeNil())
	})

	It("changes the policy without restarting a pod", func(ctx context.Context) {
		before := podState(ctx, name)
		for _, policy := range []v1alpha1.SchedulePolicy{v1alpha1.PolicyPPPipe, v1alpha1.PolicySequential, v1alpha1.PolicyFinDEP} {
			d := current(ctx, name)
			changed := d.DeepCopy()
			changed.Spec.Schedule.Policy = policy
			Expect(k8s.Patch(ctx, changed, client.MergeFrom(d))).To(Succeed())
			Eventually(ctx, func(g Gomega) {
				// A request makes the leader plan, and must stay right throughout.
				text, err := completion(ctx, name, prompts[1])
				g.Expect(err).NotTo(HaveOccurred())
				g.Expect(text).To(Equal(prompts[1].GreedyText))
				p := current(ctx, name).Status.Plan
				g.Expect(p).NotTo(BeNil())
				g.Expect(p.Source).To(Equal(v1alpha1.PlanFromLeader))
				g.Expect(p.Policy).To(Equal(policy))
				g.Expect(p.InUse).To(Equal(v1alpha1.PlanCurrent))
			}).WithTimeout(changeWithin).WithPolling(pollEvery).Should(Succeed())
		}
		Expect(podState(ctx, name)).To(Equal(before))
	})

	It("records a trace of all ranks through the kubectl plugin", func(ctx context.Context) {
		file := filepath.Join(GinkgoT().TempDir(), "trace.json")
		recorded := make(chan string, 1)
		go func() {
			text, err := plugin(ctx, "trace", name, "--steps", "8", "--output", file)
			recorded <- fmt.Sprint(text, err)
		}()
		for answered := false; !answered; {
			_, err := completion(ctx, name, prompts[0])
			Expect(err).NotTo(HaveOccurred())
			select {
			case text := <-recorded:
				Expect(text).To(ContainSubstring("perfetto"))
				answered = true
			default:
			}
		}
		trace, err := os.ReadFile(file)
		Expect(err).NotTo(HaveOccurred())
		for _, want := range []string{"rank 0 (Attention)", "rank 3 (Expert)", "ExpertCompute", "A2ELink", "predictedMilliseconds"} {
			Expect(string(trace)).To(ContainSubstring(want))
		}
	})

	It("says through the kubectl plugin that all is well", func(ctx context.Context) {
		Expect(plugin(ctx, "status", name)).To(And(ContainSubstring("1/1 ready"), ContainSubstring("Serving"), ContainSubstring("measured")))
		Expect(plugin(ctx, "rollout", "status", name, "--timeout", "1m")).To(ContainSubstring("Rolled out: 1 of 1"))
	})

	It("serves again by itself after an expert pod was killed", func(ctx context.Context) {
		var victim corev1.Pod
		for _, p := range podsOf(ctx, name) {
			if p.Labels[v1alpha1.LabelRole] == string(v1alpha1.RoleExpert) {
				victim = p
			}
		}
		Expect(victim.Name).NotTo(BeEmpty(), "an expert pod")
		epoch := current(ctx, name).Status.Instances[0].Epoch
		Expect(k8s.Delete(ctx, &victim, client.GracePeriodSeconds(0))).To(Succeed())
		Eventually(ctx, func(g Gomega) {
			status := current(ctx, name).Status
			g.Expect(status.Instances).To(HaveLen(1))
			g.Expect(status.Instances[0].Epoch).To(BeNumerically(">", epoch), "membership epoch")
		}).WithTimeout(changeWithin).WithPolling(pollEvery).Should(Succeed())
		eventuallyAvailable(ctx, name)
		eventuallyAnswers(ctx, name, prompts[2])
		Expect(podsOf(ctx, name)).To(HaveLen(4))
	})

	It("leaves nothing behind when it is deleted", func(ctx context.Context) {
		d := current(ctx, name)
		Expect(k8s.Delete(ctx, d)).To(Succeed())
		expectNoChildren(ctx, d)
	})
})

var _ = Describe("GPUs that are not free", Ordered, func() {
	It("keep a deployment wholly pending until another one is deleted", func(ctx context.Context) {
		first := tiny("first", 5, 5)
		create(ctx, first)
		eventuallyAvailable(ctx, first.Name)

		second := tiny("second", 4, 4)
		create(ctx, second)
		Eventually(ctx, func() string { return condition(ctx, second.Name, v1alpha1.ConditionScheduled) }).
			WithTimeout(changeWithin).WithPolling(pollEvery).Should(And(HavePrefix("False/"), ContainSubstring("nvidia.com/gpu")))
		Consistently(ctx, func() []string {
			var bound []string
			for _, p := range podsOf(ctx, second.Name) {
				if p.Spec.NodeName != "" {
					bound = append(bound, p.Name)
				}
			}
			return bound
		}).WithTimeout(settle).WithPolling(pollEvery).Should(BeEmpty(), "pods of a gang that does not fit")

		Expect(k8s.Delete(ctx, first)).To(Succeed())
		eventuallyAvailable(ctx, second.Name)
		eventuallyAnswers(ctx, second.Name, references()[0])
	})
})

var _ = Describe("What cannot work", func() {
	It("names an image that does not exist", func(ctx context.Context) {
		d := tiny("bad-image", 1, 1, func(d *v1alpha1.MoEDeployment) {
			d.Spec.Images.Runtime = "localhost/findep/absent:1"
		})
		create(ctx, d)
		Eventually(ctx, func() string { return condition(ctx, d.Name, v1alpha1.ConditionAvailable) }).
			WithTimeout(changeWithin).WithPolling(pollEvery).
			Should(And(HavePrefix("False/"), ContainSubstring("localhost/findep/absent:1")))
	})

	It("is refused for want of memory unless the user insists, and status says so", func(ctx context.Context) {
		d := tiny("too-big", 1, 1, func(d *v1alpha1.MoEDeployment) {
			d.Spec.Model = v1alpha1.ModelSpec{
				Name:   "deepseek-ai/DeepSeek-V3",
				Source: v1alpha1.ModelSource{URI: "pvc://weights"},
			}
			// An instance that nobody asks for is checked all the same.
			d.Spec.Replicas = ptr.To[int32](0)
		})
		eventuallyRefused(ctx, d, And(ContainSubstring("bytes"), ContainSubstring("are missing")))
		d.Annotations = map[string]string{v1alpha1.AnnotationMemoryCheck: v1alpha1.MemoryCheckOverride}
		create(ctx, d)
		Eventually(ctx, func() string { return condition(ctx, d.Name, v1alpha1.ConditionFeasible) }).
			WithTimeout(changeWithin).WithPolling(pollEvery).
			Should(And(HavePrefix("True/MemoryCheckOverridden"), ContainSubstring("are missing")))
		Expect(podsOf(ctx, d.Name)).To(BeEmpty())
	})
})
