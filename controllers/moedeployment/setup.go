// SPDX-License-Identifier: Apache-2.0

package moedeployment

import (
	"context"
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	schedulingv1beta1 "k8s.io/api/scheduling/v1beta1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/findep/findep-operator/api/v1alpha1"
	"github.com/findep/findep-operator/controllers/resolve"
)

// CacheObjects restricts what the manager's cache holds to our own children:
// without it, every Secret of the cluster would be in memory.
func CacheObjects() map[client.Object]cache.ByObject {
	ours := cache.ByObject{Label: labels.SelectorFromSet(labels.Set{v1alpha1.LabelManagedBy: v1alpha1.ManagedByValue})}
	return map[client.Object]cache.ByObject{
		&v1alpha1.MoEDeployment{}: {Transform: slimDeployment},
		&corev1.Node{}:            {Transform: slimNode},
		&corev1.Pod{}:             {Label: ours.Label, Transform: slimPod}, &corev1.Service{}: ours, &corev1.Secret{}: ours,
		&appsv1.ControllerRevision{}:    ours,
		&policyv1.PodDisruptionBudget{}: ours, &networkingv1.NetworkPolicy{}: ours,
	}
}

// slimPod forgets what the operator never looks at again: most of a pod is the
// spec that it wrote itself, and with thousands of pods that would be most of its
// memory. A phase that needs another field of pods has to keep it here.
func slimPod(o any) (any, error) {
	pod, ok := o.(*corev1.Pod)
	if !ok {
		return o, nil
	}
	pod.ManagedFields = nil
	spec := corev1.PodSpec{NodeName: pod.Spec.NodeName, SchedulingGates: pod.Spec.SchedulingGates}
	for _, c := range pod.Spec.InitContainers {
		spec.InitContainers = append(spec.InitContainers, corev1.Container{Name: c.Name, Image: c.Image})
	}
	for _, c := range pod.Spec.Containers {
		spec.Containers = append(spec.Containers, corev1.Container{Name: c.Name, Image: c.Image})
	}
	for _, v := range pod.Spec.Volumes {
		if v.Image != nil {
			spec.Volumes = append(spec.Volumes, corev1.Volume{Name: v.Name, VolumeSource: corev1.VolumeSource{Image: v.Image}})
		}
	}
	pod.Spec = spec
	pod.Status = corev1.PodStatus{
		Phase: pod.Status.Phase, Reason: pod.Status.Reason, Message: pod.Status.Message,
		Conditions: pod.Status.Conditions, PodIP: pod.Status.PodIP,
		InitContainerStatuses: slimStatuses(pod.Status.InitContainerStatuses),
		ContainerStatuses:     slimStatuses(pod.Status.ContainerStatuses),
	}
	return pod, nil
}

// slimStatuses forgets most of what does not tell how a container fares.
func slimStatuses(list []corev1.ContainerStatus) []corev1.ContainerStatus {
	var slim []corev1.ContainerStatus
	for _, c := range list {
		slim = append(slim, corev1.ContainerStatus{
			Name: c.Name, Image: c.Image, Ready: c.Ready, RestartCount: c.RestartCount,
			State: c.State, LastTerminationState: c.LastTerminationState, AllocatedResourcesStatus: c.AllocatedResourcesStatus,
		})
	}
	return slim
}

// slimNode forgets what is never looked at: the images of a node alone are more
// than the rest.
func slimNode(o any) (any, error) {
	if node, ok := o.(*corev1.Node); ok {
		node.ManagedFields, node.Annotations = nil, nil
		node.Spec = corev1.NodeSpec{Unschedulable: node.Spec.Unschedulable, Taints: node.Spec.Taints}
		node.Status = corev1.NodeStatus{
			Conditions: node.Status.Conditions, NodeInfo: corev1.NodeSystemInfo{BootID: node.Status.NodeInfo.BootID},
			Capacity: onlyGPUs(node.Status.Capacity), Allocatable: onlyGPUs(node.Status.Allocatable),
		}
	}
	return o, nil
}

// SetupWithManager registers the reconciler and what it watches.
func (r *Reconciler) SetupWithManager(mgr ctrl.Manager, concurrency int) error {
	// Status writes do not change the generation, so they do not cause a pass.
	own := builder.WithPredicates(predicate.GenerationChangedPredicate{})
	// An annotation may override a check.
	deployment := builder.WithPredicates(predicate.Or[client.Object](predicate.GenerationChangedPredicate{}, predicate.AnnotationChangedPredicate{}))
	children := gathering{handler.EnqueueRequestForOwner(mgr.GetScheme(), mgr.GetRESTMapper(), &v1alpha1.MoEDeployment{}, handler.OnlyControllerOwner())}
	r.backlog, r.expected, r.cluster, r.totals = &backlog{}, &expected{}, &cluster{}, &totalsKept{}
	r.places, r.turns = newPlaces(), &turns{}
	if err := r.indexChildren(mgr); err != nil {
		return err
	}
	b := ctrl.NewControllerManagedBy(mgr).
		For(&v1alpha1.MoEDeployment{}, deployment).
		Watches(&corev1.Pod{}, children).
		Watches(&corev1.Pod{}, r.backlog.placing()).
		Watches(&corev1.Pod{}, r.turns.placing(r.Clock.Now)).
		Watches(&corev1.Pod{}, r.expected.seeing()).
		Watches(&corev1.Pod{}, r.places.podEvents()).
		Watches(&corev1.Service{}, children).
		Watches(&corev1.Service{}, namespaceOf()).
		Watches(&corev1.Secret{}, children).
		Watches(&policyv1.PodDisruptionBudget{}, children, own).
		Watches(&networkingv1.NetworkPolicy{}, children).
		Watches(&networkingv1.NetworkPolicy{}, namespaceOf()).
		WithOptions(controller.Options{MaxConcurrentReconciles: concurrency})
	if r.GangServed {
		b = b.Watches(&schedulingv1beta1.PodGroup{}, children)
	}
	if r.ClusterReads {
		everyone := handler.EnqueueRequestsFromMapFunc(r.everyDeployment)
		b = b.Watches(&v1alpha1.GPUProfile{}, r.cluster.watched(everyone), own)
		if err := mgr.GetFieldIndexer().IndexField(context.Background(), &corev1.Pod{}, podNode, nodeOf); err != nil {
			return err
		}
		b = b.Watches(&corev1.Node{}, r.cluster.watched(r.nodeWatch()))
	}
	return b.Complete(r)
}

// indexChildren lets the cache find children by their owner.
func (r *Reconciler) indexChildren(mgr ctrl.Manager) error {
	children := []client.Object{
		&corev1.Pod{}, &corev1.Service{}, &corev1.Secret{}, &appsv1.ControllerRevision{}, &policyv1.PodDisruptionBudget{},
	}
	if r.GangServed {
		children = append(children, &schedulingv1beta1.PodGroup{})
	}
	for _, o := range children {
		if err := mgr.GetFieldIndexer().IndexField(context.Background(), o, ownerField, controllerOf); err != nil {
			return fmt.Errorf("index %T by owner: %w", o, err)
		}
	}
	r.indexed = true
	return nil
}

// onlyGPUs keeps the GPUs of a node's resources.
func onlyGPUs(list corev1.ResourceList) corev1.ResourceList {
	n, ok := list[resolve.GPUResource]
	if !ok {
		return nil
	}
	return corev1.ResourceList{resolve.GPUResource: n}
}

// everyDeployment is for changes that may concern any deployment.
func (r *Reconciler) everyDeployment(ctx context.Context, _ client.Object) []reconcile.Request {
	var list v1alpha1.MoEDeploymentList
	if err := r.Client.List(ctx, &list); err != nil {
		return nil
	}
	requests := make([]reconcile.Request, 0, len(list.Items))
	for i := range list.Items {
		requests = append(requests, reconcile.Request{NamespacedName: types.NamespacedName{
			Namespace: list.Items[i].Namespace, Name: list.Items[i].Name,
		}})
	}
	return requests
}
