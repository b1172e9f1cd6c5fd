// SPDX-License-Identifier: Apache-2.0

package moedeployment

import (
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"

	"github.com/findep/findep-operator/controllers/certs"
	"github.com/findep/findep-operator/controllers/render"
	"github.com/findep/findep-operator/runtime/plan"
)

// reconcileSecrets makes and keeps the Secret of each instance: its configuration
// at the revision that it is to have, and its certificate, which is rotated at
// whatever revision its pods are. That of instance 0 also has the deployment's
// authority, so it is written first, and stays if that instance goes.
func (r *Reconciler) reconcileSecrets(ctx context.Context, s *scope) error {
	common := s.secrets[render.SecretName(s.owner.Name, 0)]
	if common == nil && !s.resolved.OK() {
		return nil
	}
	if common == nil {
		// A second authority must not take the place of one that the cache does not
		// know yet.
		var err error
		if common, err = r.secretPastCache(ctx, s, 0); err != nil {
			return err
		}
	}
	authority, err := certs.Next(render.ReadSecret(common).Authority, s.owner.Namespace+"/"+s.owner.Name, s.now)
	if err != nil {
		return err
	}
	if err := r.reconcileCommonSecret(ctx, s, authority, common); err != nil {
		return err
	}
	// From here on certificates may be shown: their authority cannot be lost.
	s.authority = authority
	var errs []error
	for _, i := range s.instances {
		if i.index == 0 || !i.live() {
			continue
		}
		if err := r.reconcileSecret(ctx, s, i); err != nil {
			errs = append(errs, fmt.Errorf("instance %d: %w", i.index, err))
		}
	}
	return errors.Join(errs...)
}

// reconcileCommonSecret writes the Secret of instance 0, whether there is such an
// instance or not.
func (r *Reconciler) reconcileCommonSecret(ctx context.Context, s *scope, authority *certs.Authority, existing *corev1.Secret) error {
	content := render.ReadSecret(existing)
	content.Authority, content.First = authority.Data, s.first
	i := s.find(0)
	if i != nil && i.live() {
		if err := s.fill(&content, i, authority); err != nil {
			return err
		}
	}
	if err := r.put(ctx, render.Secret(s.owner, 0, content), existing); err != nil {
		return err
	}
	if i != nil {
		i.configured = i.action == complete
	}
	return nil
}

func (r *Reconciler) reconcileSecret(ctx context.Context, s *scope, i *instance) (err error) {
	existing := s.secrets[render.SecretName(s.owner.Name, i.index)]
	if existing == nil {
		if existing, err = r.secretPastCache(ctx, s, i.index); err != nil {
			return err
		}
	}
	content := render.ReadSecret(existing)
	if err := s.fill(&content, i, s.authority); err != nil || !content.Configured() {
		return err
	}
	if err := r.put(ctx, render.Secret(s.owner, i.index, content), existing); err != nil {
		return err
	}
	i.configured = i.action == complete
	return nil
}

// fill brings configuration and certificate of an instance up to date. The
// configuration of one that is left as it is stays too.
func (s *scope) fill(content *render.SecretContent, i *instance, authority *certs.Authority) error {
	if i.action == complete {
		in, config := s.input(i), s.config(i)
		hash, err := plan.Hash(config)
		if err != nil {
			return err
		}
		// Pods of another engine do not read it.
		if in.VLLM == nil {
			i.configHash = hash
		}
		if i.scheduleHash, err = config.ScheduleHash(); err != nil {
			return err
		}
		if err := content.Configure(in, config); err != nil {
			return err
		}
	}
	if !content.Configured() {
		return nil
	}
	names := []string{
		fmt.Sprintf("*.%s.%s.svc", render.RanksName, s.owner.Namespace),
		fmt.Sprintf("%s.%s.svc", render.LeaderServiceName(s.owner.Name), s.owner.Namespace),
	}
	leaf, err := authority.Leaf(content.Leaf, identityOf(s, i), names, "rank", s.now)
	if err != nil {
		return err
	}
	content.Leaf = leaf
	return nil
}

// secretPastCache reads a Secret that the cache does not know; nil if there is
// none. One that is somebody else's is an error.
func (r *Reconciler) secretPastCache(ctx context.Context, s *scope, index int32) (*corev1.Secret, error) {
	var secret corev1.Secret
	name := render.SecretName(s.owner.Name, index)
	err := r.Reader.Get(ctx, types.NamespacedName{Namespace: s.owner.Namespace, Name: name}, &secret)
	switch {
	case apierrors.IsNotFound(err):
		return nil, nil
	case err != nil:
		return nil, err
	}
	return &secret, s.mine(&secret, "Secret")
}

// removeSecret removes what is an instance's own: its Secret, or all but the
// deployment's part of it.
func (r *Reconciler) removeSecret(ctx context.Context, s *scope, i *instance) error {
	existing := s.secrets[render.SecretName(s.owner.Name, i.index)]
	if existing == nil {
		return nil
	}
	if i.index != 0 {
		return r.delete(ctx, existing)
	}
	content := render.ReadSecret(existing)
	if !content.Configured() {
		return nil
	}
	content.Forget()
	return r.send(ctx, render.Secret(s.owner, 0, content))
}
