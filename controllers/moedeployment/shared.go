// SPDX-License-Identifier: Apache-2.0

package moedeployment

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"sync"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/findep/findep-operator/api/v1alpha1"
	"github.com/findep/findep-operator/controllers/render"
)

// This file keeps what the MoEDeployments of a namespace share. It belongs to
// none of them, so garbage collection does not remove it; a pass for a
// MoEDeployment that is gone does, if it was the last. There is no finalizer for
// that, which could hold up the deletion of a namespace. A MoEDeployment that is
// made at that moment may find the objects there and see them go afterwards:
// their deletion brings about another pass, and so do its own pods.

// sharing keeps passes over several new deployments, none of which finds the
// objects, from all making them.
var sharing sync.Mutex

// sharedObject is one of the objects, and whether there is to be one.
type sharedObject struct {
	wanted  child
	live    client.Object
	enabled bool
}

func (r *Reconciler) shared(namespace string) []sharedObject {
	return []sharedObject{
		{render.RanksService(namespace), &corev1.Service{}, true},
		{render.NetworkPolicy(namespace), &networkingv1.NetworkPolicy{}, r.NetworkPolicies},
	}
}

// reconcileShared makes the objects and puts right what somebody changed.
func (r *Reconciler) reconcileShared(ctx context.Context, namespace string) error {
	var errs []error
	for _, o := range r.shared(namespace) {
		if err := r.share(ctx, namespace, o); err != nil {
			errs = append(errs, fmt.Errorf("%s %s: %w", *o.wanted.GetKind(), render.RanksName, err))
		}
	}
	return errors.Join(errs...)
}

func (r *Reconciler) share(ctx context.Context, namespace string, o sharedObject) error {
	key := types.NamespacedName{Namespace: namespace, Name: render.RanksName}
	err := r.Client.Get(ctx, key, o.live)
	switch {
	case err == nil && !o.enabled:
		return r.delete(ctx, o.live)
	case !o.enabled:
		return client.IgnoreNotFound(err)
	case apierrors.IsNotFound(err):
		sharing.Lock()
		defer sharing.Unlock()
		// The cache may lag, and does not know what is somebody else's.
		err = r.Reader.Get(ctx, key, o.live)
	}
	switch {
	case apierrors.IsNotFound(err):
		return r.put(ctx, o.wanted, nil)
	case err != nil:
		return err
	case o.live.GetLabels()[v1alpha1.LabelManagedBy] != v1alpha1.ManagedByValue:
		return errors.New("it exists and is not the operator's; rename or remove it, since the ranks of this namespace need the name")
	}
	return r.put(ctx, o.wanted, o.live)
}

// reconcileNamespace looks after what is shared in a namespace when it changed,
// or when a MoEDeployment has gone.
func (r *Reconciler) reconcileNamespace(ctx context.Context, namespace string) error {
	var deployments v1alpha1.MoEDeploymentList
	var pods corev1.PodList
	for _, list := range []client.ObjectList{&deployments, &pods} {
		options := []client.ListOption{client.InNamespace(namespace), client.UnsafeDisableDeepCopy}
		if list == &pods {
			options = append(options, client.MatchingLabels(render.SharedLabels()))
		}
		if err := r.Client.List(ctx, list, options...); err != nil {
			return err
		}
	}
	switch {
	case len(deployments.Items) > 0 && len(pods.Items) > 0:
		err := r.reconcileShared(ctx, namespace)
		if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
			return nil
		}
		return err
	case len(deployments.Items) > 0 || len(pods.Items) > 0:
		// Deployments that make pods make what these need. Pods that are left of the
		// last deployment go on being protected; each that goes brings another pass.
		return nil
	}
	var errs []error
	for _, o := range r.shared(namespace) {
		err := r.Client.Get(ctx, types.NamespacedName{Namespace: namespace, Name: render.RanksName}, o.live)
		if err == nil && o.live.GetLabels()[v1alpha1.LabelManagedBy] == v1alpha1.ManagedByValue {
			err = r.delete(ctx, o.live)
		}
		errs = append(errs, client.IgnoreNotFound(err))
	}
	return errors.Join(errs...)
}

// namespaceOf asks for a pass over a namespace when one of its shared objects
// changes. It is a request for a MoEDeployment with a name that none can have.
func namespaceOf() handler.EventHandler {
	return handler.EnqueueRequestsFromMapFunc(func(_ context.Context, o client.Object) []reconcile.Request {
		if o.GetName() != render.RanksName || len(o.GetOwnerReferences()) > 0 {
			return nil
		}
		return []reconcile.Request{{NamespacedName: types.NamespacedName{Namespace: o.GetNamespace(), Name: o.GetName()}}}
	})
}

// absent says that there is no object, be it a nil pointer in an interface.
func absent(o client.Object) bool { return o == nil || reflect.ValueOf(o).IsNil() }
