// SPDX-License-Identifier: Apache-2.0

package moedeployment

import (
	"context"
	"encoding/json"
	"fmt"
	"reflect"

	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/findep/findep-operator/controllers/render"
)

// apply makes a child equal to what was rendered. A child that already holds
// every rendered field is left alone, so that nothing is written at rest, and
// what somebody else changed in our fields is put right.
func (r *Reconciler) apply(ctx context.Context, wanted runtime.ApplyConfiguration, existing client.Object) error {
	if existing != nil && !reflect.ValueOf(existing).IsNil() {
		same, err := holds(existing, wanted)
		if err != nil || same {
			return err
		}
	}
	return r.Client.Apply(ctx, wanted, FieldOwner, client.ForceOwnership)
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

// reconcileServices makes the two Services of the deployment.
func (r *Reconciler) reconcileServices(ctx context.Context, s *scope) error {
	if !s.resolved.OK() && len(s.services) == 0 {
		return nil
	}
	headless, leader := render.HeadlessService(s.owner), render.LeaderService(s.owner)
	if err := r.apply(ctx, headless, s.services[*headless.Name]); err != nil {
		return err
	}
	return r.apply(ctx, leader, s.services[*leader.Name])
}
