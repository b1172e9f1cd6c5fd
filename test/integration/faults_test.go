// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	schedulingv1beta1 "k8s.io/api/scheduling/v1beta1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/findep/findep-operator/api/v1alpha1"
	"github.com/findep/findep-operator/controllers/render"
	"github.com/findep/findep-operator/runtime/plan"
	"github.com/findep/findep-operator/test/wrappers"
)

// fault is a way in which a call of the API server fails.
type fault string

const (
	// refused calls have no effect.
	refused fault = "refused"
	// conflicting calls have none either, and say that somebody else was faster.
	conflicting fault = "conflicting"
	// lost calls took effect, but the answer never came.
	lost fault = "lost"
)

// faults makes one call of a client fail.
type faults struct {
	mu sync.Mutex
	// made are the calls so far, without namespaces.
	made []string
	// at is the number of the call that fails, -1 for none.
	at   int
	kind fault
}

func (f *faults) call(what string, real func() error) error {
	f.mu.Lock()
	n := len(f.made)
	f.made = append(f.made, what)
	f.mu.Unlock()
	if n != f.at {
		return real()
	}
	switch f.kind {
	case conflicting:
		return apierrors.NewConflict(schema.GroupResource{Resource: "things"}, what, errors.New("somebody was faster"))
	case lost:
		if err := real(); err != nil {
			return err
		}
		return apierrors.NewTimeoutError("the answer was lost", 1)
	default:
		return apierrors.NewInternalError(errors.New("etcdserver: leader changed"))
	}
}

// wrap makes a client whose calls all pass through call.
func (f *faults) wrap() client.Client {
	GinkgoHelper()
	c, err := client.NewWithWatch(config, client.Options{Scheme: scheme})
	Expect(err).NotTo(HaveOccurred())
	return interceptor.NewClient(c, interceptor.Funcs{
		Get: func(ctx context.Context, c client.WithWatch, key client.ObjectKey, o client.Object, opts ...client.GetOption) error {
			return f.call(fmt.Sprintf("get %T %s", o, key.Name), func() error { return c.Get(ctx, key, o, opts...) })
		},
		List: func(ctx context.Context, c client.WithWatch, list client.ObjectList, opts ...client.ListOption) error {
			return f.call(fmt.Sprintf("list %T", list), func() error { return c.List(ctx, list, opts...) })
		},
		Create: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.CreateOption) error {
			return f.call(fmt.Sprintf("create %T %s", o, o.GetName()), func() error { return c.Create(ctx, o, opts...) })
		},
		Apply: func(ctx context.Context, c client.WithWatch, o runtime.ApplyConfiguration, opts ...client.ApplyOption) error {
			named, ok := o.(interface{ GetName() *string })
			Expect(ok).To(BeTrue())
			return f.call(fmt.Sprintf("apply %T %s", o, *named.GetName()), func() error { return c.Apply(ctx, o, opts...) })
		},
		Delete: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.DeleteOption) error {
			return f.call(fmt.Sprintf("delete %T %s", o, o.GetName()), func() error { return c.Delete(ctx, o, opts...) })
		},
		Patch: func(ctx context.Context, c client.WithWatch, o client.Object, p client.Patch, opts ...client.PatchOption) error {
			return f.call(fmt.Sprintf("patch %T %s", o, o.GetName()), func() error { return c.Patch(ctx, o, p, opts...) })
		},
		SubResourcePatch: func(ctx context.Context, c client.Client, sub string, o client.Object, p client.Patch, opts ...client.SubResourcePatchOption) error {
			return f.call("patch "+sub, func() error { return c.SubResource(sub).Patch(ctx, o, p, opts...) })
		},
	})
}

// digest is what a story ends with, as far as it must not depend on how it went.
func (w *world) digest(ctx context.Context, name string) string {
	GinkgoHelper()
	var lines []string
	for podName, pod := range w.pods(ctx, name) {
		lines = append(lines, fmt.Sprintf("pod %s %s %s", podName, pod.Labels[v1alpha1.LabelRevision], pod.Spec.Containers[0].Image))
	}
	for _, list := range []client.ObjectList{
		&corev1.ServiceList{}, &corev1.SecretList{}, &appsv1.ControllerRevisionList{}, &schedulingv1beta1.PodGroupList{},
	} {
		Expect(k8s.List(ctx, list, client.InNamespace(w.namespace), client.MatchingLabels(render.DeploymentLabels(name)))).To(Succeed())
		items, err := apimeta.ExtractList(list)
		Expect(err).NotTo(HaveOccurred())
		for _, item := range items {
			o, ok := item.(client.Object)
			Expect(ok).To(BeTrue())
			lines = append(lines, fmt.Sprintf("%T %s", item, o.GetName()))
		}
	}
	slices.Sort(lines)
	status := w.get(ctx, name).Status
	// A condition that came first in a pass that failed stays first.
	slices.SortFunc(status.Conditions, func(a, b metav1.Condition) int { return strings.Compare(a.Type, b.Type) })
	for n := range status.Conditions {
		status.Conditions[n].LastTransitionTime.Reset()
	}
	for n := range status.Instances {
		status.Instances[n].CompleteSince = nil
	}
	b, err := json.MarshalIndent(status, "", " ")
	Expect(err).NotTo(HaveOccurred())
	return strings.ReplaceAll(strings.Join(append(lines, string(b)), "\n"), w.namespace, "NAMESPACE")
}

// live plays kubelet and passes of the operator until both have nothing to do.
// A pass that fails is repeated, as the manager does.
func (w *world) live(ctx context.Context, name string, f *faults) {
	GinkgoHelper()
	const most = 60
	isWrite := func(call string) bool { return !strings.HasPrefix(call, "get ") && !strings.HasPrefix(call, "list ") }
	for range most {
		before := len(f.made)
		_, err := w.reconciler.Reconcile(ctx, w.request(name))
		quiet := err == nil && !slices.ContainsFunc(f.made[before:], isWrite)
		w.finishDeletions(ctx, name)
		w.run(ctx, name)
		// Time passes, so that pauses end.
		w.clock.SetTime(w.clock.Now().Add(time.Second))
		if quiet {
			return
		}
	}
	Fail(fmt.Sprintf("still at work after %d passes; the last calls were %v", most, f.made[len(f.made)-20:]))
}

// story is a deployment's life: it comes up, loses a pod, rolls and shrinks.
func (w *world) story(ctx context.Context, f *faults) string {
	GinkgoHelper()
	const name = "tale"
	c := f.wrap()
	w.reconciler.Client, w.reconciler.Reader = c, c
	w.create(ctx, wrappers.MoEDeployment(name).GPUs(1, 1).Replicas(2))
	w.live(ctx, name, f)
	w.leader.observation = &plan.Observation{Epoch: 1, Formed: true}
	w.live(ctx, name, f)
	w.kill(ctx, "tale-1-eg-0")
	w.live(ctx, name, f)
	w.change(ctx, name, func(s *v1alpha1.MoEDeploymentSpec) { s.Images.Server = "findep/server:2" })
	w.live(ctx, name, f)
	w.change(ctx, name, func(s *v1alpha1.MoEDeploymentSpec) { s.Replicas = ptr.To[int32](1) })
	w.live(ctx, name, f)
	return w.digest(ctx, name)
}

var _ = Describe("Any call of the API server may fail", func() {
	It("and the deployment gets where it would have got without", func(ctx context.Context) {
		clean := &faults{at: -1}
		want := newWorld(ctx).story(ctx, clean)
		Expect(want).To(ContainSubstring("pod tale-0-eg-0"))
		const sample = 7
		kinds := []fault{refused, conflicting, lost}
		told := map[string]bool{}
		for n, what := range clean.made {
			if told[what] {
				continue
			}
			told[what] = true
			// The long tests let each call fail in each way, the others some of them, in
			// ways that take turns.
			these := kinds
			if os.Getenv("FINDEP_TEST_LONG") == "" {
				if len(told)%sample != 0 {
					continue
				}
				these = kinds[len(told)/sample%len(kinds):][:1]
			}
			for _, kind := range these {
				By(fmt.Sprintf("call %d, %s, is %s", n, what, kind))
				got := newWorld(ctx).story(ctx, &faults{at: n, kind: kind})
				Expect(got).To(Equal(want), "call %d, %s, was %s", n, what, kind)
			}
		}
	})
})
