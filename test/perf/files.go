// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"strings"
)

// auditPolicy records who wrote what, of the users that are measured only: a
// line for each request of every component would be a load of its own.
const auditPolicy = `apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: Metadata
  users: [` + userSubject + `, ` + userController + `]
- level: None
`

const schedulerConfig = `apiVersion: kubescheduler.config.k8s.io/v1
kind: KubeSchedulerConfiguration
leaderElection: {leaderElect: false}
clientConnection: {kubeconfig: %s, qps: %d, burst: %d}
`

// writeFiles writes everything that the components read.
func (p *plane) writeFiles() error {
	users := []string{userHarness, userSubject, userController, userScheduler, userKwok}
	var tokens strings.Builder
	files := map[string][]byte{"audit.yaml": []byte(auditPolicy), "stages.yaml": stages}
	for _, user := range users {
		fmt.Fprintf(&tokens, "%s,%s,%s,system:masters\n", user, user, user)
		files[user+".kubeconfig"] = []byte(kubeconfig(p.server, user))
	}
	files["tokens.csv"] = []byte(tokens.String())
	files["scheduler.yaml"] = fmt.Appendf(nil, schedulerConfig, p.kubeconfig(userScheduler), clientQPS, 2*clientQPS)
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return err
	}
	public, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		return err
	}
	files["sa.key"] = pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})
	files["sa.pub"] = pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public})
	for name, content := range files {
		if err := os.WriteFile(p.path(name), content, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// kubeconfig is the path of a user's kubeconfig.
func (p *plane) kubeconfig(user string) string { return p.path(user + ".kubeconfig") }

func kubeconfig(server, user string) string {
	return fmt.Sprintf(`apiVersion: v1
kind: Config
clusters: [{name: perf, cluster: {server: %q, insecure-skip-tls-verify: true}}]
users: [{name: %[2]s, user: {token: %[2]s}}]
contexts: [{name: perf, context: {cluster: perf, user: %[2]s, namespace: %[3]s}}]
current-context: perf
`, server, user, namespace)
}
