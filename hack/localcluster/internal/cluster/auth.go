// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// identity is a user of the API server who shows a bearer token.
type identity struct {
	file, user string
	groups     string
}

func identities(o Options) []identity {
	all := []identity{
		{"admin", "admin", "system:masters"},
		{"kube-controller-manager", "system:kube-controller-manager", ""},
		{"kube-scheduler", "system:kube-scheduler", ""},
		{"kube-proxy", "system:kube-proxy", ""},
	}
	for _, i := range o.nodeNumbers() {
		all = append(all, identity{o.NodeName(i), "system:node:" + o.NodeName(i), "system:nodes"})
	}
	return all
}

// writeAuth makes all keys, certificates, tokens and kubeconfigs, unless they are
// there. The folder appears at once, by a rename, so an interrupted run leaves
// no half of it.
func writeAuth(o Options, p Paths, now time.Time) error {
	if _, err := os.Stat(p.auth()); err == nil {
		return nil
	}
	files, err := authFiles(o, now)
	if err != nil {
		return err
	}
	temporary := p.auth() + ".part"
	if err := os.RemoveAll(temporary); err != nil {
		return err
	}
	if err := os.MkdirAll(temporary, 0o700); err != nil {
		return err
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(temporary, name), content, 0o600); err != nil {
			return err
		}
	}
	return os.Rename(temporary, p.auth())
}

// authFiles returns the contents of the auth folder by file name.
func authFiles(o Options, now time.Time) (map[string][]byte, error) {
	files := map[string][]byte{}
	ca, err := newAuthority(now)
	if err != nil {
		return nil, err
	}
	files["ca.crt"] = ca.pem
	err = ca.issue(files, "apiserver", x509.Certificate{
		Subject:     pkix.Name{CommonName: "kube-apiserver"},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames: []string{"kubernetes", "kubernetes.default", "kubernetes.default.svc",
			"kubernetes.default.svc.cluster.local", "localhost"},
		IPAddresses: []net.IP{net.IP(o.Gateway().AsSlice()), net.IP(o.KubernetesAddr().AsSlice()), net.IPv4(127, 0, 0, 1)},
	})
	if err != nil {
		return nil, err
	}
	// The kubelets let in this certificate's group for logs, exec and
	// port-forward, and nobody else.
	err = ca.issue(files, "kubelet-client", x509.Certificate{
		Subject: pkix.Name{
			CommonName:   "kube-apiserver-kubelet-client",
			Organization: []string{"system:masters"},
		},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	if err != nil {
		return nil, err
	}
	if err := serviceAccountKeys(files); err != nil {
		return nil, err
	}
	return files, addTokens(files, o, ca.pem)
}

func addTokens(files map[string][]byte, o Options, ca []byte) error {
	var csv bytes.Buffer
	for _, id := range identities(o) {
		raw := make([]byte, 16)
		if _, err := rand.Read(raw); err != nil {
			return err
		}
		token := hex.EncodeToString(raw)
		fmt.Fprintf(&csv, "%s,%s,%s", token, id.user, id.user)
		if id.groups != "" {
			fmt.Fprintf(&csv, ",%q", id.groups)
		}
		csv.WriteByte('\n')
		config, err := kubeconfig(o, id.user, token, ca)
		if err != nil {
			return err
		}
		files[id.file+".kubeconfig"] = config
		if id.file == "admin" {
			files["admin.token"] = []byte(token)
		}
	}
	files["tokens.csv"] = csv.Bytes()
	return nil
}

// validity is far beyond the life of any such cluster.
const validity = 10 * 365 * 24 * time.Hour

// authority is the cluster's certificate authority. Its key is never written.
type authority struct {
	key         *ecdsa.PrivateKey
	certificate *x509.Certificate
	pem         []byte
	notBefore   time.Time
	serial      int64
}

func newAuthority(now time.Time) (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	// An hour's margin: clocks of machines that use the kubeconfig differ.
	notBefore := now.Add(-time.Hour)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "findep local cluster"},
		NotBefore: notBefore, NotAfter: notBefore.Add(validity),
		IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &authority{
		key: key, certificate: certificate, notBefore: notBefore, serial: 1,
		pem: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
	}, nil
}

// issue adds name.crt and name.key to files.
func (a *authority) issue(files map[string][]byte, name string, template x509.Certificate) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	a.serial++
	template.SerialNumber = big.NewInt(a.serial)
	template.NotBefore, template.NotAfter = a.notBefore, a.notBefore.Add(validity)
	template.KeyUsage = x509.KeyUsageDigitalSignature
	der, err := x509.CreateCertificate(rand.Reader, &template, a.certificate, key.Public(), a.key)
	if err != nil {
		return err
	}
	encoded, err := encodeKey(key)
	if err != nil {
		return err
	}
	files[name+".crt"] = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	files[name+".key"] = encoded
	return nil
}

func encodeKey(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), nil
}

// serviceAccountKeys adds the pair that signs and checks the pods' tokens.
func serviceAccountKeys(files map[string][]byte) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	private, err := encodeKey(key)
	if err != nil {
		return err
	}
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return err
	}
	files["sa.key"] = private
	files["sa.pub"] = pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public})
	return nil
}
