// SPDX-License-Identifier: Apache-2.0

// Package certs makes and rotates the certificates that the operator keeps in
// Secrets. It is pure but for randomness: the caller reads and writes.
//
// A rotation never leaves anybody without a common authority: the next one is
// trusted first and used later, the previous one stays trusted.
package certs

import (
	"bytes"
	"time"

	corev1 "k8s.io/api/core/v1"

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

// TrustDelay is how long a new authority is only trusted before certificates
// are issued from it. Secret volumes follow within two minutes; an hour also
// covers nodes that were away.
const TrustDelay = time.Hour

// Authority is a certificate authority, and what those who rely on it trust.
type Authority struct {
	CA *identity.CA
	// Bundle is the content of ca.crt.
	Bundle []byte
	// Data is the content of the Secret.
	Data map[string][]byte
}

// Next advances an authority's Secret: it makes one where there is none
// that can be used, and takes the next step of a rotation when it is due. Equal
// data comes back when there is nothing to do.
func Next(data map[string][]byte, name string, now time.Time) (*Authority, error) {
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
	if now.Before(next.Certificate().NotBefore.Add(TrustDelay)) {
		return trusting(ca, data), nil
	}
	return trusting(next, map[string][]byte{
		corev1.TLSCertKey: data[nextCert], corev1.TLSPrivateKeyKey: data[nextKey],
		previousCert: data[corev1.TLSCertKey],
	}), nil
}

func newAuthority(name string, now time.Time) (*Authority, error) {
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

func trusting(ca *identity.CA, data map[string][]byte) *Authority {
	return &Authority{CA: ca, Data: data,
		Bundle: bytes.Join([][]byte{data[corev1.TLSCertKey], data[nextCert], data[previousCert]}, nil)}
}

// Leaf returns the certificate of an identity, under the keys of the package
// identity: what data holds if that is still good, else a new one for the DNS
// names. The role is recorded in it.
func (a *Authority) Leaf(data map[string][]byte, uri string, names []string, role string, now time.Time) (map[string][]byte, error) {
	if a.good(data, uri, now) {
		return map[string][]byte{
			identity.CAFile: a.Bundle, identity.CertFile: data[identity.CertFile], identity.KeyFile: data[identity.KeyFile],
		}, nil
	}
	b, err := a.CA.Issue(now, uri, names, role, identity.DefaultLeafTTL)
	if err != nil {
		return nil, err
	}
	return map[string][]byte{identity.CAFile: a.Bundle, identity.CertFile: b.Cert, identity.KeyFile: b.Key}, nil
}

// good says whether an issued certificate can stay: it is the authority's, names
// the identity, and is not due for rotation.
func (a *Authority) good(data map[string][]byte, uri string, now time.Time) bool {
	if len(data[identity.KeyFile]) == 0 {
		return false
	}
	cert, err := identity.ParseCertificate(data[identity.CertFile])
	if err != nil || len(cert.URIs) != 1 || cert.URIs[0].String() != uri {
		return false
	}
	return cert.CheckSignatureFrom(a.CA.Certificate()) == nil && !identity.NeedsRotation(cert, now)
}

// Pending says that a rotation has begun, whose next step is due within
// TrustDelay.
func (a *Authority) Pending() bool { return len(a.Data[nextCert]) > 0 }
