// SPDX-License-Identifier: Apache-2.0

package moedeployment

import (
	"context"
	"fmt"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/findep/findep-operator/controllers/render"
)

// reconcileProtection makes the PodDisruptionBudget of the deployment, or removes
// it where it is switched off or has nothing to hold back.
func (r *Reconciler) reconcileProtection(ctx context.Context, s *scope) error {
	d := &s.resolved.Decision
	budget := render.DisruptionBudget(s.owner, int(s.replicas()), d.Attention+d.Expert, s.maxUnavailable())
	useful := budget != nil || !s.resolved.OK()
	if err := r.protect(ctx, s, r.DisruptionBudgets && useful, budget, s.budget); err != nil {
		return fmt.Errorf("PodDisruptionBudget: %w", err)
	}
	return nil
}

func (r *Reconciler) protect(ctx context.Context, s *scope, enabled bool, wanted child, existing client.Object) error {
	switch {
	case !enabled && !absent(existing):
		return r.delete(ctx, existing)
	case !enabled, !s.resolved.OK():
		// What protects running instances stays as it is until the spec makes sense.
		return nil
	}
	return r.apply(ctx, s, wanted, existing)
}
