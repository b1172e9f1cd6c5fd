// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/yaml"
)

// lwsSettings say where LeaderWorkerSet is. docs/benchmarks.md has the commands
// that fetch and build it.
type lwsSettings struct {
	// manager is its program, source the folder of its module, for its CRD and
	// webhooks.
	manager, source string
}

// lws makes one LeaderWorkerSet of one group each. Its controller makes a
// StatefulSet for the leader and one for the workers, so the StatefulSet
// controller runs too, and its webhooks write the ranks into the pods.
type lws struct{}

func (lws) groups() schema.GroupVersionKind {
	return schema.GroupVersionKind{Group: "leaderworkerset.x-k8s.io", Version: "v1", Kind: "LeaderWorkerSet"}
}
func (lws) writers() []string                           { return []string{userSubject, userController} }
func (lws) available(o *unstructured.Unstructured) bool { return conditionTrue(o, "Available") }

const lwsConfig = `apiVersion: config.lws.x-k8s.io/v1alpha1
kind: Configuration
leaderElection: {leaderElect: false}
internalCertManagement: {enable: false}
webhook: {port: %d, host: 127.0.0.1, certDir: %q}
metrics: {bindAddress: "0"}
health: {healthProbeBindAddress: "0"}
clientConnection: {qps: %d, burst: %d}
`

func (lws) install(ctx context.Context, b *bench) error {
	if b.lws.manager == "" || b.lws.source == "" {
		return errors.New("--lws-manager and --lws-source are needed: docs/benchmarks.md says how to get them")
	}
	if err := applyFiles(ctx, b.client, filepath.Join(b.lws.source, "config/crd/bases/*.yaml")); err != nil {
		return err
	}
	if _, err := b.plane.startControllers("statefulset-controller"); err != nil {
		return err
	}
	ports, err := freePorts(1)
	if err != nil {
		return err
	}
	certs := b.plane.path("lws-certs")
	authority, err := servingCertificate(certs)
	if err != nil {
		return err
	}
	config := fmt.Sprintf(lwsConfig, ports[0], certs, clientQPS, 2*clientQPS)
	if err := os.WriteFile(b.plane.path("lws.yaml"), []byte(config), 0o600); err != nil {
		return err
	}
	env := []string{"KUBECONFIG=" + b.plane.kubeconfig(userSubject)}
	if b.manager, err = b.plane.runAt(b.lws.manager, env, "--config="+b.plane.path("lws.yaml"), "--zap-log-level=error"); err != nil {
		return err
	}
	address := net.JoinHostPort("127.0.0.1", fmt.Sprint(ports[0]))
	if _, err := until(ctx, "the webhooks of LeaderWorkerSet listen", time.Minute, b.plane.alive, func() (bool, string) {
		c, err := net.Dial("tcp", address)
		if err == nil {
			_ = c.Close()
		}
		return err == nil, fmt.Sprint(err)
	}); err != nil {
		return err
	}
	return applyWebhooks(ctx, b, address, authority)
}

// applyWebhooks registers the webhooks of LeaderWorkerSet at an address instead
// of a Service, which has no endpoints here.
func applyWebhooks(ctx context.Context, b *bench, address string, authority []byte) error {
	all, err := os.ReadFile(filepath.Join(b.lws.source, "config/webhook/manifests.yaml"))
	if err != nil {
		return err
	}
	for document := range bytes.SplitSeq(all, []byte("\n---")) {
		var o unstructured.Unstructured
		if err := yaml.Unmarshal(document, &o.Object); err != nil {
			return err
		}
		hooks, _, err := unstructured.NestedSlice(o.Object, "webhooks")
		if err != nil {
			return err
		}
		for _, hook := range hooks {
			h, ok := hook.(map[string]any)
			if !ok {
				return fmt.Errorf("a webhook of LeaderWorkerSet is a %T", hook)
			}
			path, _, err := unstructured.NestedString(h, "clientConfig", "service", "path")
			if err != nil {
				return err
			}
			h["clientConfig"] = map[string]any{
				"url": "https://" + address + path, "caBundle": base64.StdEncoding.EncodeToString(authority),
			}
		}
		if err := unstructured.SetNestedSlice(o.Object, hooks, "webhooks"); err != nil {
			return err
		}
		if err := b.client.Create(ctx, &o); err != nil {
			return err
		}
	}
	return nil
}

// servingCertificate writes a certificate for this machine into a folder, and
// returns it: it is its own authority.
func servingCertificate(dir string) ([]byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "perf"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	return cert, errors.Join(os.MkdirAll(dir, 0o700),
		os.WriteFile(filepath.Join(dir, "tls.crt"), cert, 0o600),
		os.WriteFile(filepath.Join(dir, "tls.key"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), 0o600))
}

func (lws) apply(ctx context.Context, b *bench, i int) error {
	t := podTemplate(map[string]string{"group": groupName(i)})
	template, err := runtime.DefaultUnstructuredConverter.ToUnstructured(&t)
	if err != nil {
		return err
	}
	return b.client.Create(ctx, &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "leaderworkerset.x-k8s.io/v1", "kind": "LeaderWorkerSet",
		"metadata": map[string]any{"name": groupName(i), "namespace": namespace},
		"spec": map[string]any{
			"replicas":             int64(1),
			"leaderWorkerTemplate": map[string]any{"size": int64(b.pods), "workerTemplate": template},
		},
	}})
}
