// SPDX-License-Identifier: Apache-2.0

package certs_test

import (
	"bytes"
	"crypto/x509"
	"testing"
	"time"

	"github.com/findep/findep-operator/controllers/certs"
	"github.com/findep/findep-operator/runtime/identity"
)

const uri = "findep://serving/webhook"

// TestRotationKeepsTrust lives through thirty years of rotations, a week at a
// time. At each step a peer that still has the bundle of the step before must
// accept the certificate of now: nobody learns of a change at once.
func TestRotationKeepsTrust(t *testing.T) {
	now := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	var stored, leaf map[string][]byte
	var bundle []byte
	authorities, leaves := map[string]bool{}, map[string]bool{}
	for end := now.AddDate(30, 0, 0); now.Before(end); now = now.Add(7 * 24 * time.Hour) {
		a, err := certs.Next(stored, "serving/webhook", now)
		if err != nil {
			t.Fatal(err)
		}
		leaf, err = a.Leaf(leaf, uri, []string{"webhook.serving.svc"}, "webhook", now)
		if err != nil {
			t.Fatal(err)
		}
		for name, trusted := range map[string][]byte{"old": bundle, "new": a.Bundle} {
			if len(trusted) == 0 {
				continue
			}
			verify(t, name, leaf[identity.CertFile], trusted, now)
		}
		if again, err := certs.Next(a.Data, "serving/webhook", now); err != nil || !bytes.Equal(again.Bundle, a.Bundle) {
			t.Fatalf("%v: a second look changed the authority (%v)", now, err)
		}
		stored, bundle = a.Data, a.Bundle
		authorities[string(a.CA.PEM())], leaves[string(leaf[identity.CertFile])] = true, true
	}
	if len(authorities) < 4 || len(leaves) < 100 {
		t.Errorf("%d authorities and %d certificates in 30 years; want several of each", len(authorities), len(leaves))
	}
}

func verify(t *testing.T, name string, leaf, bundle []byte, now time.Time) {
	t.Helper()
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(bundle)
	cert, err := identity.ParseCertificate(leaf)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cert.Verify(x509.VerifyOptions{
		Roots: roots, DNSName: "webhook.serving.svc", CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}); err != nil {
		t.Fatalf("%v, %s bundle: %v", now, name, err)
	}
}

func TestNextStartsAnewWhenTheSecretIsSpoilt(t *testing.T) {
	now := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	first, err := certs.Next(nil, "a", now)
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string]map[string][]byte{
		"empty":       {},
		"not PEM":     {"tls.crt": []byte("x"), "tls.key": first.Data["tls.key"]},
		"no key":      {"tls.crt": first.Data["tls.crt"]},
		"another key": {"tls.crt": first.Data["tls.crt"], "tls.key": otherKey(t, now)},
	} {
		t.Run(name, func(t *testing.T) {
			a, err := certs.Next(data, "a", now)
			if err != nil || bytes.Equal(a.Bundle, first.Bundle) {
				t.Errorf("got %v; want a new authority", err)
			}
		})
	}
}

func otherKey(t *testing.T, now time.Time) []byte {
	t.Helper()
	other, err := certs.Next(nil, "b", now)
	if err != nil {
		t.Fatal(err)
	}
	return other.Data["tls.key"]
}
