// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"maps"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// subject is what makes the pods.
type subject interface {
	// install prepares the cluster and starts the controllers, before the clock.
	install(ctx context.Context, b *bench) error
	// apply makes the group with a number, of as many pods as the bench says.
	apply(ctx context.Context, b *bench, i int) error
	// groups is the kind whose objects say when they are available; empty if
	// there is none.
	groups() schema.GroupVersionKind
	// available says whether a group says so.
	available(*unstructured.Unstructured) bool
	// writers are the users whose writes count as the subject's.
	writers() []string
}

var subjects = map[string]func() subject{
	"findep":        func() subject { return &findep{gang: true} },
	"findep-nogang": func() subject { return &findep{} },
	"bare":          func() subject { return &bare{} },
	"statefulset":   func() subject { return statefulSet{} },
	"lws":           func() subject { return lws{} },
}

// podTemplate is the pod of the subjects other than the operator: as small as
// one that asks for a GPU can be.
func podTemplate(labels map[string]string) corev1.PodTemplateSpec {
	return corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: labels},
		Spec: corev1.PodSpec{
			AutomountServiceAccountToken: ptr.To(false),
			Containers: []corev1.Container{{
				Name: "server", Image: "localhost/none:1",
				Resources: corev1.ResourceRequirements{Limits: corev1.ResourceList{"nvidia.com/gpu": resource.MustParse("1")}},
			}},
		},
	}
}

func groupName(i int) string { return fmt.Sprintf("group-%04d", i) }

// bare creates pods and nothing else: the ceiling of the control plane.
type bare struct{ client client.Client }

func (*bare) groups() schema.GroupVersionKind           { return schema.GroupVersionKind{} }
func (*bare) available(*unstructured.Unstructured) bool { return true }
func (*bare) writers() []string                         { return []string{userSubject} }

func (s *bare) install(_ context.Context, b *bench) (err error) {
	s.client, err = b.plane.client(userSubject)
	return err
}

func (s *bare) apply(ctx context.Context, b *bench, i int) error {
	for n := range b.pods {
		t := podTemplate(map[string]string{"group": groupName(i)})
		pod := &corev1.Pod{ObjectMeta: t.ObjectMeta, Spec: t.Spec}
		pod.Namespace, pod.Name = namespace, fmt.Sprintf("%s-%d", groupName(i), n)
		if err := s.client.Create(ctx, pod); err != nil {
			return err
		}
	}
	return nil
}

// statefulSet makes one StatefulSet per group. Its pods start in parallel.
type statefulSet struct{}

func (statefulSet) groups() schema.GroupVersionKind {
	return appsv1.SchemeGroupVersion.WithKind("StatefulSet")
}
func (statefulSet) writers() []string { return []string{userController} }

func (statefulSet) available(o *unstructured.Unstructured) bool {
	ready, _, _ := unstructured.NestedInt64(o.Object, "status", "readyReplicas")
	wanted, _, _ := unstructured.NestedInt64(o.Object, "spec", "replicas")
	return ready == wanted
}

func (statefulSet) install(_ context.Context, b *bench) (err error) {
	b.manager, err = b.plane.startControllers("statefulset-controller")
	return err
}

func (statefulSet) apply(ctx context.Context, b *bench, i int) error {
	labels := map[string]string{"group": groupName(i)}
	return b.client.Create(ctx, &appsv1.StatefulSet{
		ObjectMeta: metav1.ObjectMeta{Name: groupName(i), Namespace: namespace},
		Spec: appsv1.StatefulSetSpec{
			Replicas: ptr.To(int32(b.pods)), ServiceName: groupName(i), PodManagementPolicy: appsv1.ParallelPodManagement,
			Selector: &metav1.LabelSelector{MatchLabels: labels}, Template: podTemplate(maps.Clone(labels)),
		},
	})
}

// conditionTrue reads a condition of any object.
func conditionTrue(o *unstructured.Unstructured, kind string) bool {
	list, _, _ := unstructured.NestedSlice(o.Object, "status", "conditions")
	for _, c := range list {
		if m, ok := c.(map[string]any); ok && m["type"] == kind {
			return m["status"] == "True"
		}
	}
	return false
}
