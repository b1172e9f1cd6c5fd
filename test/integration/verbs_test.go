// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"context"
	"fmt"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	schedulingv1beta1 "k8s.io/api/scheduling/v1beta1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/findep/findep-operator/api/v1alpha1"
	"github.com/findep/findep-operator/controllers/moedeployment"
	"github.com/findep/findep-operator/controllers/render"
	"github.com/findep/findep-operator/test/wrappers"
)

// writeCounter counts what a reconciler writes, and can make writes fail.
type writeCounter struct {
	writes []string
	// fail, if set, may refuse a write.
	fail func(write string) error
}

func (w *writeCounter) note(format string, args ...any) error {
	write := fmt.Sprintf(format, args...)
	w.writes = append(w.writes, write)
	if w.fail != nil {
		return w.fail(write)
	}
	return nil
}

func (w *writeCounter) wrap(c client.Client) client.Client {
	withWatch, err := client.NewWithWatch(config, client.Options{Scheme: scheme})
	Expect(err).NotTo(HaveOccurred())
	_ = c
	return interceptor.NewClient(withWatch, interceptor.Funcs{
		Apply: func(ctx context.Context, c client.WithWatch, o runtime.ApplyConfiguration, opts ...client.ApplyOption) error {
			if err := w.note("apply %T", o); err != nil {
				return err
			}
			return c.Apply(ctx, o, opts...)
		},
		Create: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.CreateOption) error {
			if err := w.note("create %T %s", o, o.GetName()); err != nil {
				return err
			}
			return c.Create(ctx, o, opts...)
		},
		Delete: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.DeleteOption) error {
			if err := w.note("delete %T %s", o, o.GetName()); err != nil {
				return err
			}
			return c.Delete(ctx, o, opts...)
		},
		SubResourcePatch: func(ctx context.Context, c client.Client, sub string, o client.Object, p client.Patch, opts ...client.SubResourcePatchOption) error {
			if err := w.note("patch %s", sub); err != nil {
				return err
			}
			return c.SubResource(sub).Patch(ctx, o, p, opts...)
		},
	})
}

// create creates a deployment in the world's namespace.
func (w *world) create(ctx context.Context, b *wrappers.MoEDeploymentWrapper) {
	GinkgoHelper()
	Expect(k8s.Create(ctx, b.Namespace(w.namespace).Obj())).To(Succeed())
}

// get reads the deployment.
func (w *world) get(ctx context.Context, name string) *v1alpha1.MoEDeployment {
	GinkgoHelper()
	var d v1alpha1.MoEDeployment
	Expect(k8s.Get(ctx, types.NamespacedName{Namespace: w.namespace, Name: name}, &d)).To(Succeed())
	return &d
}

// change changes the spec.
func (w *world) change(ctx context.Context, name string, f func(*v1alpha1.MoEDeploymentSpec)) {
	GinkgoHelper()
	d := w.get(ctx, name)
	changed := d.DeepCopy()
	f(&changed.Spec)
	Expect(k8s.Patch(ctx, changed, client.MergeFrom(d))).To(Succeed())
}

func (w *world) request(name string) ctrl.Request {
	return ctrl.Request{NamespacedName: types.NamespacedName{Namespace: w.namespace, Name: name}}
}

// reconcile runs one pass.
func (w *world) reconcile(ctx context.Context, name string) ctrl.Result {
	GinkgoHelper()
	result, err := w.reconciler.Reconcile(ctx, w.request(name))
	Expect(err).NotTo(HaveOccurred())
	return result
}

// settle runs passes until nothing is written.
func (w *world) settle(ctx context.Context, name string) {
	GinkgoHelper()
	const most = 20
	for range most {
		w.writes.writes = nil
		w.reconcile(ctx, name)
		if len(w.writes.writes) == 0 {
			return
		}
	}
	Fail(fmt.Sprintf("still writing after %d passes: %v", most, w.writes.writes))
}

// pods lists the pods of a deployment by name.
func (w *world) pods(ctx context.Context, name string) map[string]*corev1.Pod {
	GinkgoHelper()
	var list corev1.PodList
	Expect(k8s.List(ctx, &list, client.InNamespace(w.namespace), client.MatchingLabels(render.DeploymentLabels(name)))).To(Succeed())
	byName := map[string]*corev1.Pod{}
	for i := range list.Items {
		byName[list.Items[i].Name] = &list.Items[i]
	}
	return byName
}

// eachPod changes the status of every pod, as kubelets and the scheduler would.
func (w *world) eachPod(ctx context.Context, name string, f func(*corev1.Pod)) {
	GinkgoHelper()
	for _, pod := range w.pods(ctx, name) {
		if pod.Spec.NodeName == "" {
			Expect(k8s.SubResource("binding").Create(ctx, pod, &corev1.Binding{
				ObjectMeta: metav1.ObjectMeta{Name: pod.Name, Namespace: pod.Namespace},
				Target:     corev1.ObjectReference{Kind: "Node", Name: "node1"},
			})).To(Succeed())
			Expect(k8s.Get(ctx, client.ObjectKeyFromObject(pod), pod)).To(Succeed())
		}
		f(pod)
		Expect(k8s.Status().Update(ctx, pod)).To(Succeed())
	}
}

// run makes every pod run and be ready.
func (w *world) run(ctx context.Context, name string) {
	GinkgoHelper()
	w.eachPod(ctx, name, func(pod *corev1.Pod) {
		running := corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}
		pod.Status.Phase, pod.Status.PodIP = corev1.PodRunning, "10.0.0.1"
		pod.Status.PodIPs = []corev1.PodIP{{IP: "10.0.0.1"}}
		pod.Status.InitContainerStatuses = []corev1.ContainerStatus{{Name: render.RuntimeContainer, State: running}}
		pod.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: render.ServerContainer, State: running}}
		setPodCondition(pod, corev1.PodReady, corev1.ConditionTrue, "")
	})
}

func setPodCondition(pod *corev1.Pod, kind corev1.PodConditionType, status corev1.ConditionStatus, message string) {
	for i := range pod.Status.Conditions {
		if pod.Status.Conditions[i].Type == kind {
			pod.Status.Conditions[i].Status, pod.Status.Conditions[i].Message = status, message
			return
		}
	}
	pod.Status.Conditions = append(pod.Status.Conditions, corev1.PodCondition{Type: kind, Status: status, Message: message})
}

// kill deletes a pod at once, as a node that is gone would.
func (w *world) kill(ctx context.Context, name string) {
	GinkgoHelper()
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: w.namespace}}
	Expect(k8s.Delete(ctx, pod, client.GracePeriodSeconds(0))).To(Succeed())
}

// fail ends a pod, as an eviction by the kubelet does.
func (w *world) fail(ctx context.Context, name, reason string) {
	GinkgoHelper()
	var pod corev1.Pod
	Expect(k8s.Get(ctx, types.NamespacedName{Namespace: w.namespace, Name: name}, &pod)).To(Succeed())
	pod.Status.Phase, pod.Status.Reason = corev1.PodFailed, reason
	Expect(k8s.Status().Update(ctx, &pod)).To(Succeed())
}

// restarted is the reconciler of an operator that was just started again.
func (w *world) restarted() *moedeployment.Reconciler {
	again := *w.reconciler
	return &again
}

// finishDeletions does the kubelets' part: pods that are being deleted go.
func (w *world) finishDeletions(ctx context.Context, name string) {
	GinkgoHelper()
	for _, pod := range w.pods(ctx, name) {
		if !pod.DeletionTimestamp.IsZero() {
			w.kill(ctx, pod.Name)
		}
	}
}

// releaseGroups does what the controller of PodGroups does to those that are being
// deleted when their last pod is gone.
func (w *world) releaseGroups(ctx context.Context) {
	GinkgoHelper()
	var groups schedulingv1beta1.PodGroupList
	Expect(k8s.List(ctx, &groups, client.InNamespace(w.namespace))).To(Succeed())
	for i := range groups.Items {
		if group := &groups.Items[i]; !group.DeletionTimestamp.IsZero() {
			group.Finalizers = nil
			Expect(k8s.Update(ctx, group)).To(Succeed())
		}
	}
}

// condition is status, reason and message of a condition in one text.
func (w *world) condition(ctx context.Context, name, kind string) string {
	GinkgoHelper()
	c := meta.FindStatusCondition(w.get(ctx, name).Status.Conditions, kind)
	if c == nil {
		return "absent"
	}
	return fmt.Sprintf("%s/%s: %s", c.Status, c.Reason, c.Message)
}
