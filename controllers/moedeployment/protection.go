// SPDX-License-Identifier: Apache-2.0

package moedeployment

import (
	"context"
	"errors"
	"fmt"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/findep/findep-operator/controllers/render"
)

// reconcileProtection makes the PodDisruptionBudget and the NetworkPolicy of the
// deployment, or removes them where they are switched off.
func (r *Reconciler) reconcileProtection(ctx context.Context, s *scope) error {
	budget := render.DisruptionBudget(s.owner, int(s.replicas()), s.resolved.Decision.Attention+s.resolved.Decision.Expert, s.maxUnavailable())
	var errs []error
	if err := r.protect(ctx, s, r.DisruptionBudgets, budget, s.budget); err != nil {
		errs = append(errs, fmt.Errorf("PodDisruptionBudget: %w", err))
	}
	if err := r.protect(ctx, s, r.NetworkPolicies, render.NetworkPolicy(s.owner), s.policy); err != nil {
		errs = append(errs, fmt.Errorf("NetworkPolicy: %w", err))
	}
	return errors.Join(errs...)
}

func (r *Reconciler) protect(ctx context.Context, s *scope, enabled bool, wanted child, existing client.Object) error {
	switch {
	case !enabled && existing != nil:
		return r.delete(ctx, existing)
	case !enabled, !s.resolved.OK():
		// What protects running instances stays as it is until the spec makes sense.
		return nil
	}
	return r.apply(ctx, s, wanted, existing)
}
