// SPDX-License-Identifier: Apache-2.0

// Package identity issues and checks the certificates of one MoEDeployment.
//
// Each deployment has its own certificate authority (ECDSA P-256). A rank's
// certificate carries the identity of its instance as URI subject alternative
// name (plan.Instance.Identity), so membership of an instance is what is
// authenticated: names and addresses, which change when pods are replaced, are
// not trusted. The operator has an identity of its own, OperatorURI, which may
// observe an instance and never join it.
//
// Configurations made here speak TLS 1.3 only, check both sides, and read the
// certificate files anew when they change, so that rotation needs no restart.
// Established connections keep the certificate they began with. To rotate an
// authority, put old and new into ca.crt first, reissue the leaves, and drop
// the old one last.
package identity

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/url"
	"time"
)

// OperatorURI is the identity of the operator: it may observe any instance of
// the deployment whose authority issued it, and join none.
const OperatorURI = "findep://operator"

// Keys of a certificate Secret, and file names where one is mounted.
const (
	CAFile   = "ca.crt"
	CertFile = "tls.crt"
	KeyFile  = "tls.key"
)

// Lifetimes used when the caller has no wish of its own.
const (
	DefaultCATTL   = 10 * 365 * 24 * time.Hour
	DefaultLeafTTL = 90 * 24 * time.Hour
)

// clockSkew is how far certificates are dated back, so that a machine whose
// clock is a little behind accepts a fresh one.
const clockSkew = 5 * time.Minute

// CA is one deployment's certificate authority, with its private key.
type CA struct {
	cert   *x509.Certificate
	key    crypto.Signer
	random io.Reader
}

// Bundle is one identity in PEM form, as it is stored in a Secret.
type Bundle struct {
	// CA holds one or more trusted authorities.
	CA []byte
	// Cert and Key are the leaf certificate and its PKCS #8 private key.
	Cert, Key []byte
}

// NewCA makes an authority valid from now for DefaultCATTL. Random is the
// source of serial numbers and, where the Go release honours it, of the key;
// nil means crypto/rand.
func NewCA(now time.Time, random io.Reader, name string) (*CA, error) {
	random = orSystem(random)
	key, err := ecdsa.GenerateKey(elliptic.P256(), random)
	if err != nil {
		return nil, fmt.Errorf("identity: key of authority %q: %w", name, err)
	}
	serial, err := newSerial(random)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: name, Organization: []string{"findep.dev"}},
		NotBefore:             now.Add(-clockSkew),
		NotAfter:              now.Add(DefaultCATTL),
		IsCA:                  true,
		MaxPathLenZero:        true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der, err := x509.CreateCertificate(random, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("identity: authority %q: %w", name, err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("identity: authority %q: %w", name, err)
	}
	return &CA{cert: cert, key: key, random: random}, nil
}

// LoadCA reads an authority that PEM and KeyPEM wrote.
func LoadCA(certPEM, keyPEM []byte, random io.Reader) (*CA, error) {
	cert, err := ParseCertificate(certPEM)
	if err != nil {
		return nil, err
	}
	if !cert.IsCA {
		return nil, fmt.Errorf("identity: certificate %q is not an authority", cert.Subject.CommonName)
	}
	block, _ := pem.Decode(keyPEM)
	if block == nil {
		return nil, errors.New("identity: the authority's key is not PEM")
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("identity: the authority's key: %w", err)
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("identity: the authority's key is a %T; only ECDSA is supported", parsed)
	}
	if !key.PublicKey.Equal(cert.PublicKey) {
		return nil, fmt.Errorf("identity: the key does not belong to authority %q", cert.Subject.CommonName)
	}
	return &CA{cert: cert, key: key, random: orSystem(random)}, nil
}

// Certificate is the authority's own certificate.
func (ca *CA) Certificate() *x509.Certificate { return ca.cert }

// PEM is the authority's certificate, for ca.crt.
func (ca *CA) PEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.cert.Raw})
}

// KeyPEM is the authority's private key. Only the operator may hold it.
func (ca *CA) KeyPEM() ([]byte, error) { return encodeKey(ca.key) }

// Issue makes a certificate for an identity, valid from now for ttl and never
// beyond the authority itself. dnsNames may hold host names or IP addresses;
// they help foreign clients and are not checked by this project. Role is
// recorded as organizational unit. The operator's identity can only act as
// client.
func (ca *CA) Issue(now time.Time, uri string, dnsNames []string, role string, ttl time.Duration) (*Bundle, error) {
	u, err := url.Parse(uri)
	if err != nil || u.Scheme != "findep" || u.Host == "" {
		return nil, fmt.Errorf("identity: %q is not an identity; it must look like findep://namespace/name/index", uri)
	}
	if ttl <= clockSkew {
		return nil, fmt.Errorf("identity: lifetime of %q is %v; it must be over %v", uri, ttl, clockSkew)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), ca.random)
	if err != nil {
		return nil, fmt.Errorf("identity: key of %q: %w", uri, err)
	}
	template, err := ca.leafTemplate(now, u, dnsNames, role, ttl)
	if err != nil {
		return nil, err
	}
	der, err := x509.CreateCertificate(ca.random, template, ca.cert, key.Public(), ca.key)
	if err != nil {
		return nil, fmt.Errorf("identity: certificate of %q: %w", uri, err)
	}
	keyPEM, err := encodeKey(key)
	if err != nil {
		return nil, err
	}
	return &Bundle{
		CA:   ca.PEM(),
		Cert: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		Key:  keyPEM,
	}, nil
}

func (ca *CA) leafTemplate(now time.Time, uri *url.URL, names []string, role string, ttl time.Duration) (*x509.Certificate, error) {
	serial, err := newSerial(ca.random)
	if err != nil {
		return nil, err
	}
	notAfter := now.Add(ttl)
	if notAfter.After(ca.cert.NotAfter) {
		notAfter = ca.cert.NotAfter
	}
	usage := []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	if uri.String() != OperatorURI {
		usage = append(usage, x509.ExtKeyUsageServerAuth)
	}
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{Organization: []string{"findep.dev"}, OrganizationalUnit: []string{role}},
		NotBefore:             now.Add(-clockSkew),
		NotAfter:              notAfter,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           usage,
		URIs:                  []*url.URL{uri},
		BasicConstraintsValid: true,
	}
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, name)
		}
	}
	return template, nil
}

// NeedsRotation reports whether a certificate has passed two thirds of its
// life, the point at which the operator replaces it.
func NeedsRotation(cert *x509.Certificate, now time.Time) bool {
	life := cert.NotAfter.Sub(cert.NotBefore)
	return !now.Before(cert.NotBefore.Add(life / 3 * 2))
}

// ParseCertificate reads the first certificate of a PEM file.
func ParseCertificate(certPEM []byte) (*x509.Certificate, error) {
	block, _ := pem.Decode(certPEM)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, errors.New("identity: no PEM certificate found")
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("identity: %w", err)
	}
	return cert, nil
}

func encodeKey(key crypto.Signer) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("identity: encode key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

func newSerial(random io.Reader) (*big.Int, error) {
	serial, err := rand.Int(random, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("identity: serial number: %w", err)
	}
	// Zero is not a valid serial number (RFC 5280, 4.1.2.2).
	return serial.Add(serial, big.NewInt(1)), nil
}

func orSystem(random io.Reader) io.Reader {
	if random == nil {
		return rand.Reader
	}
	return random
}
