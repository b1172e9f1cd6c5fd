// SPDX-License-Identifier: Apache-2.0

package moedeployment

import (
	"bytes"
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/findep/findep-operator/controllers/render"
	"github.com/findep/findep-operator/runtime/identity"
)

// Keys of the authority's Secret beside tls.crt and tls.key, which are the ones
// in use. An authority that is about to follow is trusted first and used later;
// one that was replaced stays trusted until the next change.
const (
	nextCert     = "next.crt"
	nextKey      = "next.key"
	previousCert = "previous.crt"
)

// trustDelay is how long a new authority is only trusted before certificates
// are issued from it. Secret volumes follow within two minutes; an hour also
// covers nodes that were away.
const trustDelay = time.Hour

// authority is a deployment's certificate authority and what its ranks trust.
type authority struct {
	ca *identity.CA
	// bundle is the content of ca.crt.
	bundle []byte
	// data is the content of the Secret.
	data map[string][]byte
}

// nextAuthority advances an authority's Secret: it makes one where there is none
// that can be used, and takes the next step of a rotation when it is due. Equal
// data comes back when there is nothing to do.
func nextAuthority(data map[string][]byte, name string, now time.Time) (*authority, error) {
	ca, err := identity.LoadCA(data[corev1.TLSCertKey], data[corev1.TLSPrivateKeyKey], nil)
	if err != nil || now.After(ca.Certificate().NotAfter) {
		return newAuthority(name, now)
	}
	if !identity.NeedsRotation(ca.Certificate(), now) {
		return trusting(ca, data), nil
	}
	next, err := identity.LoadCA(data[nextCert], data[nextKey], nil)
	if err != nil {
		if next, err = identity.NewCA(now, nil, name); err != nil {
			return nil, err
		}
		key, err := next.KeyPEM()
		if err != nil {
			return nil, err
		}
		return trusting(ca, map[string][]byte{
			corev1.TLSCertKey: data[corev1.TLSCertKey], corev1.TLSPrivateKeyKey: data[corev1.TLSPrivateKeyKey],
			nextCert: next.PEM(), nextKey: key,
		}), nil
	}
	if now.Before(next.Certificate().NotBefore.Add(trustDelay)) {
		return trusting(ca, data), nil
	}
	return trusting(next, map[string][]byte{
		corev1.TLSCertKey: data[nextCert], corev1.TLSPrivateKeyKey: data[nextKey],
		previousCert: data[corev1.TLSCertKey],
	}), nil
}

func newAuthority(name string, now time.Time) (*authority, error) {
	ca, err := identity.NewCA(now, nil, name)
	if err != nil {
		return nil, err
	}
	key, err := ca.KeyPEM()
	if err != nil {
		return nil, err
	}
	return trusting(ca, map[string][]byte{corev1.TLSCertKey: ca.PEM(), corev1.TLSPrivateKeyKey: key}), nil
}

func trusting(ca *identity.CA, data map[string][]byte) *authority {
	return &authority{ca: ca, data: data,
		bundle: bytes.Join([][]byte{data[corev1.TLSCertKey], data[nextCert], data[previousCert]}, nil)}
}

// leaf returns the content of an instance's Secret: what it has if that is still
// good, else a new certificate.
func (a *authority) leaf(data map[string][]byte, uri string, names []string, now time.Time) (map[string][]byte, error) {
	if a.good(data, uri, now) {
		return map[string][]byte{
			identity.CAFile: a.bundle, identity.CertFile: data[identity.CertFile], identity.KeyFile: data[identity.KeyFile],
		}, nil
	}
	b, err := a.ca.Issue(now, uri, names, "rank", identity.DefaultLeafTTL)
	if err != nil {
		return nil, err
	}
	return map[string][]byte{identity.CAFile: a.bundle, identity.CertFile: b.Cert, identity.KeyFile: b.Key}, nil
}

// good says whether an issued certificate can stay: it is the authority's, names
// the identity, and is not due for rotation.
func (a *authority) good(data map[string][]byte, uri string, now time.Time) bool {
	if len(data[identity.KeyFile]) == 0 {
		return false
	}
	cert, err := identity.ParseCertificate(data[identity.CertFile])
	if err != nil || len(cert.URIs) != 1 || cert.URIs[0].String() != uri {
		return false
	}
	return cert.CheckSignatureFrom(a.ca.Certificate()) == nil && !identity.NeedsRotation(cert, now)
}

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
	a, err := nextAuthority(data, s.owner.Namespace+"/"+s.owner.Name, s.now)
	if err != nil {
		return err
	}
	if err := r.apply(ctx, s, render.CASecret(s.owner, a.data), existing); err != nil {
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
	data, err := s.authority.leaf(data, identityOf(s, i), names, s.now)
	if err != nil {
		return err
	}
	return r.apply(ctx, s, render.InstanceSecret(s.owner, i.index, data), existing)
}
