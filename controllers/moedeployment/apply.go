// SPDX-License-Identifier: Apache-2.0

package moedeployment

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/findep/findep-operator/controllers/render"
)

// child is an apply configuration of any kind of child.
type child = render.Child

// apply makes a child equal to what was rendered. A child that already holds
// every rendered field is left alone, so that nothing is written at rest, and
// what somebody else changed in our fields is put right.
func (r *Reconciler) apply(ctx context.Context, s *scope, wanted child, existing client.Object) error {
	if absent(existing) {
		if err := r.ensureFree(ctx, s, wanted); err != nil {
			return err
		}
	}
	return r.put(ctx, wanted, existing)
}

// put is apply for an object that is known to be absent or the operator's own.
func (r *Reconciler) put(ctx context.Context, wanted child, existing client.Object) error {
	if !absent(existing) {
		if same, err := holds(existing, wanted); err != nil || same {
			return err
		}
	}
	return r.send(ctx, wanted)
}

// send applies a child. Kinds that are not of Kubernetes itself are unknown to
// the client's scheme and go without a type.
func (r *Reconciler) send(ctx context.Context, wanted child) error {
	if _, foreign := wanted.(*render.VolcanoPodGroup); !foreign {
		return r.Client.Apply(ctx, wanted, FieldOwner, client.ForceOwnership)
	}
	b, err := json.Marshal(wanted)
	if err != nil {
		return err
	}
	u := &unstructured.Unstructured{}
	if err := json.Unmarshal(b, &u.Object); err != nil {
		return err
	}
	return r.Client.Apply(ctx, client.ApplyConfigurationFromUnstructured(u), FieldOwner, client.ForceOwnership)
}

// ensureFree refuses to take over an object of the same name that is somebody
// else's: applying would overwrite it, and deleting the MoEDeployment would
// delete it. The cache does not know such objects, so this reads past it.
func (r *Reconciler) ensureFree(ctx context.Context, s *scope, wanted child) error {
	o := &metav1.PartialObjectMetadata{}
	o.APIVersion, o.Kind = *wanted.GetAPIVersion(), *wanted.GetKind()
	err := r.Reader.Get(ctx, types.NamespacedName{Namespace: s.owner.Namespace, Name: *wanted.GetName()}, o)
	switch {
	case apierrors.IsNotFound(err):
		return nil
	case err != nil:
		return err
	}
	return s.mine(o, o.Kind)
}

// mine is an error unless an object belongs to the deployment.
func (s *scope) mine(o metav1.Object, kind string) error {
	if metav1.IsControlledBy(o, s.deployment) {
		return nil
	}
	return fmt.Errorf("%s %q exists and does not belong to this MoEDeployment; rename or remove one of them", kind, o.GetName())
}

// convert turns an apply configuration into the object that it describes.
func convert(wanted runtime.ApplyConfiguration, into client.Object) error {
	b, err := json.Marshal(wanted)
	if err != nil {
		return err
	}
	return json.Unmarshal(b, into)
}

// holds says whether a live object has every field of an apply configuration.
func holds(live client.Object, wanted runtime.ApplyConfiguration) (bool, error) {
	var tree [2]any
	for i, o := range []any{wanted, live} {
		b, err := json.Marshal(o)
		if err != nil {
			return false, fmt.Errorf("compare with what exists: %w", err)
		}
		if err := json.Unmarshal(b, &tree[i]); err != nil {
			return false, fmt.Errorf("compare with what exists: %w", err)
		}
	}
	if object, ok := tree[0].(map[string]any); ok {
		// Typed objects that were read have lost their type information.
		delete(object, "apiVersion")
		delete(object, "kind")
	}
	return within(tree[0], tree[1]), nil
}

// within says whether every leaf of wanted is in live. Lists must have the same
// length: their order means something in every child that we compare.
func within(wanted, live any) bool {
	switch w := wanted.(type) {
	case map[string]any:
		l, ok := live.(map[string]any)
		if !ok {
			return false
		}
		for k, v := range w {
			if !within(v, l[k]) {
				return false
			}
		}
		return true
	case []any:
		l, ok := live.([]any)
		if !ok || len(l) != len(w) {
			return false
		}
		for i := range w {
			if !within(w[i], l[i]) {
				return false
			}
		}
		return true
	default:
		return reflect.DeepEqual(wanted, live)
	}
}

// reconcileServices makes the Service of the deployment, and what it shares with
// others.
func (r *Reconciler) reconcileServices(ctx context.Context, s *scope) error {
	if !s.resolved.OK() && len(s.services) == 0 {
		return nil
	}
	leader := render.LeaderService(s.owner)
	return errors.Join(
		r.reconcileShared(ctx, s.owner.Namespace),
		r.apply(ctx, s, leader, s.services[*leader.Name]))
}
