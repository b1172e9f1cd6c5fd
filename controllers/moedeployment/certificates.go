// SPDX-License-Identifier: Apache-2.0

package moedeployment

import (
	"context"
	"fmt"

	"github.com/findep/findep-operator/controllers/certs"
	"github.com/findep/findep-operator/controllers/render"
)

// reconcileCertificates makes and rotates the deployment's authority and the
// certificate of each instance, at whatever revision its pods are.
func (r *Reconciler) reconcileCertificates(ctx context.Context, s *scope) error {
	existing := s.secrets[render.CASecretName(s.owner.Name)]
	if existing == nil && !s.resolved.OK() {
		return nil
	}
	var data map[string][]byte
	if existing != nil {
		data = existing.Data
	}
	a, err := certs.Next(data, s.owner.Namespace+"/"+s.owner.Name, s.now)
	if err != nil {
		return err
	}
	if err := r.apply(ctx, s, render.CASecret(s.owner, a.Data), existing); err != nil {
		return err
	}
	s.authority = a
	for _, i := range s.instances {
		if !i.live() || !s.resolved.OK() && len(i.pods) == 0 {
			continue
		}
		if err := r.reconcileInstanceSecret(ctx, s, i); err != nil {
			return err
		}
	}
	return nil
}

func (r *Reconciler) reconcileInstanceSecret(ctx context.Context, s *scope, i *instance) error {
	existing := s.secrets[render.TLSSecretName(s.owner.Name, i.index)]
	var data map[string][]byte
	if existing != nil {
		data = existing.Data
	}
	names := []string{
		fmt.Sprintf("*.%s.%s.svc", render.HeadlessServiceName(s.owner.Name), s.owner.Namespace),
		fmt.Sprintf("%s.%s.svc", render.LeaderServiceName(s.owner.Name), s.owner.Namespace),
	}
	data, err := s.authority.Leaf(data, identityOf(s, i), names, "rank", s.now)
	if err != nil {
		return err
	}
	return r.apply(ctx, s, render.InstanceSecret(s.owner, i.index, data), existing)
}
