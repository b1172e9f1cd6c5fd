// SPDX-License-Identifier: Apache-2.0

package moedeployment

import (
	"context"
	"maps"

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
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/findep/findep-operator/api/v1alpha1"
)

// CacheObjects restricts what the manager's cache holds to our own children:
// without it, every Secret and ConfigMap of the cluster would be in memory.
func CacheObjects() map[client.Object]cache.ByObject {
	ours := cache.ByObject{Label: labels.SelectorFromSet(labels.Set{v1alpha1.LabelManagedBy: v1alpha1.ManagedByValue})}
	return map[client.Object]cache.ByObject{
		&corev1.Pod{}: ours, &corev1.Service{}: ours, &corev1.ConfigMap{}: ours, &corev1.Secret{}: ours,
		&appsv1.ControllerRevision{}:    ours,
		&policyv1.PodDisruptionBudget{}: ours, &networkingv1.NetworkPolicy{}: ours,
	}
}

// SetupWithManager registers the reconciler and what it watches.
func (r *Reconciler) SetupWithManager(mgr ctrl.Manager, concurrency int) error {
	// Status writes do not change the generation, so they do not cause a pass.
	own := builder.WithPredicates(predicate.GenerationChangedPredicate{})
	// An annotation may override a check.
	deployment := builder.WithPredicates(predicate.Or[client.Object](predicate.GenerationChangedPredicate{}, predicate.AnnotationChangedPredicate{}))
	b := ctrl.NewControllerManagedBy(mgr).
		For(&v1alpha1.MoEDeployment{}, deployment).
		Owns(&corev1.Pod{}).
		Owns(&corev1.Service{}).
		Owns(&corev1.ConfigMap{}).
		Owns(&corev1.Secret{}).
		Owns(&policyv1.PodDisruptionBudget{}, own).
		Owns(&networkingv1.NetworkPolicy{}).
		WithOptions(controller.Options{MaxConcurrentReconciles: concurrency})
	if r.GangServed {
		b = b.Owns(&schedulingv1beta1.PodGroup{})
	}
	if r.ClusterReads {
		everyone := handler.EnqueueRequestsFromMapFunc(r.everyDeployment)
		b = b.Watches(&v1alpha1.GPUProfile{}, everyone, own)
		b = b.WatchesMetadata(&corev1.Node{}, everyone, builder.WithPredicates(labelsChanged()))
	}
	return b.Complete(r)
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

// labelsChanged ignores the heartbeats of nodes.
func labelsChanged() predicate.Predicate {
	return predicate.Funcs{
		UpdateFunc: func(e event.UpdateEvent) bool {
			return !maps.Equal(e.ObjectOld.GetLabels(), e.ObjectNew.GetLabels())
		},
	}
}
