// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Reason says why a peer's certificate was refused.
type Reason string

// The reasons a peer can be refused for.
const (
	// ReasonMissing is a peer that showed no certificate.
	ReasonMissing Reason = "missing"
	// ReasonExpired is a certificate outside its lifetime.
	ReasonExpired Reason = "expired"
	// ReasonAuthority is a certificate of another deployment's authority, or
	// one not meant for this use.
	ReasonAuthority Reason = "authority"
	// ReasonIdentity is a certificate of this deployment for another instance.
	ReasonIdentity Reason = "identity"
)

// RefusedError is what a handshake fails with when the peer is refused.
type RefusedError struct {
	Reason Reason
	// Message names the peer's identity and the expected one.
	Message string
	// Err is the verification error, if there is one.
	Err error
}

// Error implements error.
func (e *RefusedError) Error() string {
	if e.Err == nil {
		return "identity: peer refused: " + e.Message
	}
	return fmt.Sprintf("identity: peer refused: %s: %v", e.Message, e.Err)
}

// Unwrap gives the verification error.
func (e *RefusedError) Unwrap() error { return e.Err }

// Config is what one side of a connection needs to know.
type Config struct {
	// Source holds the own certificate and the trusted authorities.
	Source Source
	// Peers lists the identities that are let in.
	Peers []string
	// Refused, if set, is called for each peer refused; it must not block.
	Refused func(*RefusedError)
	// Now is the clock certificates are checked against; nil means time.Now.
	Now func() time.Time
}

// ServerTLS makes the configuration of an accepting side: it asks for a client
// certificate and lets in the identities in c.Peers only.
func ServerTLS(c Config) (*tls.Config, error) {
	v, err := newVerifier(c, x509.ExtKeyUsageClientAuth)
	if err != nil {
		return nil, err
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		// The certificate is asked for here and required in VerifyConnection,
		// so that a peer without one is counted like every other.
		ClientAuth:       tls.RequestClientCert,
		VerifyConnection: v.verify,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return v.certificate()
		},
		// A resumed session would outlive a change of authority.
		SessionTicketsDisabled: true,
	}, nil
}

// ClientTLS makes the configuration of a dialling side: it shows its own
// certificate and goes on only if the server has one of the identities in
// c.Peers. Host names are not checked: the identity is stronger, and pods are
// dialled by addresses that change.
func ClientTLS(c Config) (*tls.Config, error) {
	v, err := newVerifier(c, x509.ExtKeyUsageServerAuth)
	if err != nil {
		return nil, err
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		//nolint:gosec // VerifyConnection checks the chain and the identity instead of the host name.
		InsecureSkipVerify: true,
		VerifyConnection:   v.verify,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return v.certificate()
		},
	}, nil
}

// PeerURI returns the identity of the other side of a verified connection.
func PeerURI(state tls.ConnectionState) (string, error) {
	if len(state.PeerCertificates) == 0 {
		return "", errors.New("identity: the peer showed no certificate")
	}
	return certURI(state.PeerCertificates[0])
}

type verifier struct {
	Config
	usage x509.ExtKeyUsage
}

// newVerifier loads the material once, so that a configuration that could
// never work fails at start and not at the first connection.
func newVerifier(c Config, usage x509.ExtKeyUsage) (*verifier, error) {
	if len(c.Peers) == 0 {
		return nil, errors.New("identity: no peer identity is allowed; name at least one")
	}
	if c.Source == nil {
		return nil, errors.New("identity: no source of certificates")
	}
	if _, err := c.Source.Material(); err != nil {
		return nil, err
	}
	c.Peers = slices.Clone(c.Peers)
	if c.Now == nil {
		c.Now = time.Now
	}
	return &verifier{Config: c, usage: usage}, nil
}

func (v *verifier) certificate() (*tls.Certificate, error) {
	m, err := v.Source.Material()
	if err != nil {
		return nil, err
	}
	return m.Certificate, nil
}

func (v *verifier) verify(state tls.ConnectionState) error {
	refused := v.check(state)
	if refused == nil {
		return nil
	}
	if v.Refused != nil {
		v.Refused(refused)
	}
	return refused
}

func (v *verifier) check(state tls.ConnectionState) *RefusedError {
	if len(state.PeerCertificates) == 0 {
		return &RefusedError{Reason: ReasonMissing, Message: "it showed no certificate"}
	}
	m, err := v.Source.Material()
	if err != nil {
		return &RefusedError{Reason: ReasonAuthority, Message: "own authorities cannot be read", Err: err}
	}
	leaf := state.PeerCertificates[0]
	uri, uriErr := certURI(leaf)
	_, err = leaf.Verify(x509.VerifyOptions{
		Roots:       m.Authorities,
		CurrentTime: v.Now(),
		KeyUsages:   []x509.ExtKeyUsage{v.usage},
	})
	var invalid x509.CertificateInvalidError
	switch {
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return &RefusedError{Reason: ReasonExpired, Message: fmt.Sprintf("certificate of %q", uri), Err: err}
	case err != nil:
		return &RefusedError{Reason: ReasonAuthority, Message: fmt.Sprintf("certificate of %q", uri), Err: err}
	case uriErr != nil:
		return &RefusedError{Reason: ReasonIdentity, Message: "its certificate names no identity", Err: uriErr}
	case !slices.Contains(v.Peers, uri):
		return &RefusedError{Reason: ReasonIdentity,
			Message: fmt.Sprintf("it is %q, expected %s", uri, strings.Join(v.Peers, " or "))}
	}
	return nil
}

// certURI returns the one identity of a certificate. Several would make it
// ambiguous which of them is meant, so that is refused.
func certURI(cert *x509.Certificate) (string, error) {
	if len(cert.URIs) != 1 {
		return "", fmt.Errorf("identity: the certificate has %d URI names, want exactly 1", len(cert.URIs))
	}
	return cert.URIs[0].String(), nil
}
