// SPDX-License-Identifier: Apache-2.0

package identity_test

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/findep/findep-operator/runtime/identity"
)

const (
	instance = "findep://serving/deepseek/0"
	sibling  = "findep://serving/deepseek/1"
)

var now = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

func clock() time.Time { return now }

func newCA(t *testing.T) *identity.CA {
	t.Helper()
	ca, err := identity.NewCA(now, nil, "serving/deepseek")
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

func issue(t *testing.T, ca *identity.CA, at time.Time, uri string) *identity.Bundle {
	t.Helper()
	b, err := ca.Issue(at, uri, []string{"rank-0.headless", "10.0.0.1"}, "Attention", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func source(t *testing.T, b *identity.Bundle) identity.Source {
	t.Helper()
	s, err := identity.Bytes(b)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// handshake connects the two and returns what each side ended with. A byte
// travels from server to client, because with TLS 1.3 the client's handshake
// ends before the server has judged it.
func handshake(t *testing.T, server, client *tls.Config) (serverErr, clientErr error) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	done := make(chan error, 1)
	go func() {
		conn, err := listener.Accept()
		if err != nil {
			done <- err
			return
		}
		defer func() { _ = conn.Close() }()
		_, err = tls.Server(conn, server).Write([]byte{1})
		done <- err
	}()
	conn, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	_, clientErr = tls.Client(conn, client).Read(make([]byte, 1))
	_ = conn.Close()
	return <-done, clientErr
}

func TestBothSidesVerify(t *testing.T) {
	ca, stranger := newCA(t), newCA(t)
	for _, tc := range []struct {
		name           string
		server, client *identity.Bundle
		serverRefuses  identity.Reason
		clientRefuses  identity.Reason
	}{
		{"same instance", issue(t, ca, now, instance), issue(t, ca, now, instance), "", ""},
		{"client of another instance", issue(t, ca, now, instance), issue(t, ca, now, sibling), identity.ReasonIdentity, ""},
		{"server of another instance", issue(t, ca, now, sibling), issue(t, ca, now, instance), "", identity.ReasonIdentity},
		{"the operator as client", issue(t, ca, now, instance), issue(t, ca, now, identity.OperatorURI), identity.ReasonIdentity, ""},
		{"the operator as server", issue(t, ca, now, identity.OperatorURI), issue(t, ca, now, instance), "", identity.ReasonAuthority},
		{"client expired", issue(t, ca, now, instance), issue(t, ca, now.Add(-2*time.Hour), instance), identity.ReasonExpired, ""},
		{"server not valid yet", issue(t, ca, now.Add(time.Hour), instance), issue(t, ca, now, instance), "", identity.ReasonExpired},
		{"client within clock skew", issue(t, ca, now, instance), issue(t, ca, now.Add(time.Minute), instance), "", ""},
		{"client of another authority", issue(t, ca, now, instance), issue(t, stranger, now, instance), identity.ReasonAuthority, identity.ReasonAuthority},
		{"client without a certificate", issue(t, ca, now, instance), nil, identity.ReasonMissing, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var counted []identity.Reason
			server, err := identity.ServerTLS(identity.Config{
				Source: source(t, tc.server), Peers: []string{instance}, Now: clock,
				Refused: func(e *identity.RefusedError) { counted = append(counted, e.Reason) },
			})
			if err != nil {
				t.Fatal(err)
			}
			var client *tls.Config
			if tc.client == nil {
				client = &tls.Config{InsecureSkipVerify: true} //nolint:gosec // A stranger that checks nothing.
			} else if client, err = identity.ClientTLS(identity.Config{Source: source(t, tc.client), Peers: []string{instance}, Now: clock}); err != nil {
				t.Fatal(err)
			}
			serverErr, clientErr := handshake(t, server, client)
			if tc.clientRefuses != "" {
				var refused *identity.RefusedError
				if !errors.As(clientErr, &refused) || refused.Reason != tc.clientRefuses {
					t.Errorf("the client ended with %v, want a refusal for %s", clientErr, tc.clientRefuses)
				}
				return // The server is told by an alert, and refuses nothing itself.
			}
			var refused *identity.RefusedError
			switch {
			case tc.serverRefuses == "" && (serverErr != nil || clientErr != nil || len(counted) > 0):
				t.Errorf("server %v, client %v, counted %v", serverErr, clientErr, counted)
			case tc.serverRefuses != "" && (!errors.As(serverErr, &refused) || refused.Reason != tc.serverRefuses || clientErr == nil):
				t.Errorf("server %v, client %v, want a refusal for %s", serverErr, clientErr, tc.serverRefuses)
			case tc.serverRefuses != "" && !slices.Equal(counted, []identity.Reason{tc.serverRefuses}):
				t.Errorf("counted %v", counted)
			}
		})
	}
}

func TestOldTLSIsRefused(t *testing.T) {
	ca := newCA(t)
	b := issue(t, ca, now, instance)
	server, err := identity.ServerTLS(identity.Config{Source: source(t, b), Peers: []string{instance}, Now: clock})
	if err != nil {
		t.Fatal(err)
	}
	client, err := identity.ClientTLS(identity.Config{Source: source(t, b), Peers: []string{instance}, Now: clock})
	if err != nil {
		t.Fatal(err)
	}
	client.MinVersion, client.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
	if serverErr, clientErr := handshake(t, server, client); serverErr == nil || clientErr == nil {
		t.Error("TLS 1.2 was accepted")
	}
}

func TestSeveralIdentitiesMayBeLetIn(t *testing.T) {
	ca := newCA(t)
	server, err := identity.ServerTLS(identity.Config{
		Source: source(t, issue(t, ca, now, instance)), Peers: []string{instance, identity.OperatorURI}, Now: clock,
	})
	if err != nil {
		t.Fatal(err)
	}
	client, err := identity.ClientTLS(identity.Config{
		Source: source(t, issue(t, ca, now, identity.OperatorURI)), Peers: []string{instance}, Now: clock,
	})
	if err != nil {
		t.Fatal(err)
	}
	seen := make(chan string, 1)
	verify := server.VerifyConnection
	server.VerifyConnection = func(state tls.ConnectionState) error {
		uri, err := identity.PeerURI(state)
		seen <- uri
		return errors.Join(err, verify(state))
	}
	if serverErr, clientErr := handshake(t, server, client); serverErr != nil || clientErr != nil {
		t.Fatalf("server %v, client %v", serverErr, clientErr)
	}
	if uri := <-seen; uri != identity.OperatorURI {
		t.Errorf("peer is %q", uri)
	}
}

func write(t *testing.T, dir string, b *identity.Bundle) {
	t.Helper()
	for name, data := range map[string][]byte{identity.CAFile: b.CA, identity.CertFile: b.Cert, identity.KeyFile: b.Key} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// publish does what the kubelet does to a Secret volume: a directory per
// generation, and a link that is swapped.
func publish(t *testing.T, dir, generation string, b *identity.Bundle) {
	t.Helper()
	if err := os.Mkdir(filepath.Join(dir, generation), 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, generation), b)
	if err := os.Symlink(generation, filepath.Join(dir, "..tmp")); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(dir, "..tmp"), filepath.Join(dir, "..data")); err != nil {
		t.Fatal(err)
	}
}

// TestRotationNeedsNoRestart moves a server to another authority while a
// client of the new one waits outside.
func TestRotationNeedsNoRestart(t *testing.T) {
	oldCA, newerCA := newCA(t), newCA(t)
	dir := t.TempDir()
	publish(t, dir, "..1", issue(t, oldCA, now, instance))
	files, err := identity.NewDirectory(dir, func(err error) { t.Errorf("unusable: %v", err) })
	if err != nil {
		t.Fatal(err)
	}
	server, err := identity.ServerTLS(identity.Config{Source: files, Peers: []string{instance}, Now: clock})
	if err != nil {
		t.Fatal(err)
	}
	clientOf := func(ca *identity.CA) *tls.Config {
		config, err := identity.ClientTLS(identity.Config{Source: source(t, issue(t, ca, now, instance)), Peers: []string{instance}, Now: clock})
		if err != nil {
			t.Fatal(err)
		}
		return config
	}
	oldClient, newClient := clientOf(oldCA), clientOf(newerCA)
	accepts := func(client *tls.Config) bool {
		serverErr, clientErr := handshake(t, server, client)
		return serverErr == nil && clientErr == nil
	}
	if !accepts(oldClient) || accepts(newClient) {
		t.Fatal("before the rotation, only the old authority must be trusted")
	}
	both := issue(t, oldCA, now, instance)
	both.CA = append(both.CA, newerCA.PEM()...)
	publish(t, dir, "..2", both)
	if serverErr, _ := handshake(t, server, newClient); serverErr != nil && errors.As(serverErr, new(*identity.RefusedError)) {
		t.Errorf("with both authorities the server refuses the new one: %v", serverErr)
	}
	publish(t, dir, "..3", issue(t, newerCA, now, instance))
	if accepts(oldClient) || !accepts(newClient) {
		t.Error("after the rotation, only the new authority must be trusted")
	}
}

func TestUnusableFilesKeepTheLastGoodOnes(t *testing.T) {
	ca := newCA(t)
	dir := t.TempDir()
	good := issue(t, ca, now, instance)
	write(t, dir, good)
	var failures []error
	files, err := identity.NewDirectory(dir, func(err error) { failures = append(failures, err) })
	if err != nil {
		t.Fatal(err)
	}
	before, err := files.Material()
	if err != nil {
		t.Fatal(err)
	}
	for name, breakIt := range map[string]func(){
		"key of another certificate": func() {
			write(t, dir, &identity.Bundle{CA: good.CA, Cert: good.Cert, Key: issue(t, ca, now, instance).Key})
		},
		"no authority": func() { write(t, dir, &identity.Bundle{CA: []byte("x"), Cert: good.Cert, Key: good.Key}) },
		"oversized":    func() { write(t, dir, &identity.Bundle{CA: make([]byte, 2<<20), Cert: good.Cert, Key: good.Key}) },
		"missing":      func() { _ = os.Remove(filepath.Join(dir, identity.KeyFile)) },
	} {
		failures = nil
		breakIt()
		m, err := files.Material()
		if err != nil || m != before || len(failures) == 0 {
			t.Errorf("%s: material %p, want %p; %v; %d failures told", name, m, before, err, len(failures))
		}
		if _, err := identity.NewDirectory(dir, nil); err == nil {
			t.Errorf("%s: a fresh start accepts it", name)
		}
	}
}

func TestCertificatesAsIssued(t *testing.T) {
	ca := newCA(t)
	cert, err := identity.ParseCertificate(issue(t, ca, now, instance).Cert)
	if err != nil {
		t.Fatal(err)
	}
	if len(cert.URIs) != 1 || cert.URIs[0].String() != instance || !slices.Equal(cert.DNSNames, []string{"rank-0.headless"}) ||
		len(cert.IPAddresses) != 1 || cert.Subject.OrganizationalUnit[0] != "Attention" || cert.IsCA {
		t.Errorf("certificate %+v", cert)
	}
	operator, err := identity.ParseCertificate(issue(t, ca, now, identity.OperatorURI).Cert)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(operator.ExtKeyUsage, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}) {
		t.Errorf("the operator may be used for %v", operator.ExtKeyUsage)
	}
	for at, want := range map[time.Duration]bool{0: false, 30 * time.Minute: false, 45 * time.Minute: true, 2 * time.Hour: true} {
		if got := identity.NeedsRotation(cert, now.Add(at)); got != want {
			t.Errorf("after %v of 1h: rotate %v, want %v", at, got, want)
		}
	}
	long, err := ca.Issue(now, instance, nil, "", 20*365*24*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if leaf, _ := identity.ParseCertificate(long.Cert); leaf.NotAfter.After(ca.Certificate().NotAfter) {
		t.Errorf("the leaf outlives its authority: %v", leaf.NotAfter)
	}
	for uri, ttl := range map[string]time.Duration{"": time.Hour, "https://a/b": time.Hour, "findep:x": time.Hour, instance: time.Second} {
		if _, err := ca.Issue(now, uri, nil, "", ttl); err == nil {
			t.Errorf("issued %q for %v", uri, ttl)
		}
	}
}

func TestAuthorityIsStoredAndLoaded(t *testing.T) {
	ca := newCA(t)
	key, err := ca.KeyPEM()
	if err != nil {
		t.Fatal(err)
	}
	loaded, err := identity.LoadCA(ca.PEM(), key, nil)
	if err != nil {
		t.Fatal(err)
	}
	server, err := identity.ServerTLS(identity.Config{Source: source(t, issue(t, ca, now, instance)), Peers: []string{instance}, Now: clock})
	if err != nil {
		t.Fatal(err)
	}
	client, err := identity.ClientTLS(identity.Config{Source: source(t, issue(t, loaded, now, instance)), Peers: []string{instance}, Now: clock})
	if err != nil {
		t.Fatal(err)
	}
	if serverErr, clientErr := handshake(t, server, client); serverErr != nil || clientErr != nil {
		t.Errorf("server %v, client %v", serverErr, clientErr)
	}
	leaf := issue(t, ca, now, instance)
	otherKey, err := newCA(t).KeyPEM()
	if err != nil {
		t.Fatal(err)
	}
	for name, pair := range map[string][2][]byte{
		"not an authority":     {leaf.Cert, leaf.Key},
		"key does not belong":  {ca.PEM(), otherKey},
		"key is not PEM":       {ca.PEM(), []byte("x")},
		"no PEM certificate":   {[]byte("x"), key},
		"no PEM certificate f": {key, key},
	} {
		if _, err := identity.LoadCA(pair[0], pair[1], nil); err == nil || !strings.Contains(err.Error(), strings.TrimSuffix(name, " f")) {
			t.Errorf("%s: error %v", name, err)
		}
	}
}

func TestConfigurationsThatCouldNeverWork(t *testing.T) {
	s := source(t, issue(t, newCA(t), now, instance))
	for name, c := range map[string]identity.Config{
		"no peers":  {Source: s},
		"no source": {Peers: []string{instance}},
	} {
		if _, err := identity.ServerTLS(c); err == nil {
			t.Errorf("%s: server accepted", name)
		}
		if _, err := identity.ClientTLS(c); err == nil {
			t.Errorf("%s: client accepted", name)
		}
	}
	if _, err := identity.NewDirectory(t.TempDir(), nil); err == nil {
		t.Error("an empty directory was accepted")
	}
}
