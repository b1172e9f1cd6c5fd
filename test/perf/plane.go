// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/tls"
	_ "embed"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"k8s.io/client-go/rest"

	"github.com/findep/findep-operator/hack/localcluster/binaries"
	"github.com/findep/findep-operator/hack/localcluster/features"
)

// The users of the measurement. Each has a token of its own name, so that the
// audit log tells who wrote what.
const (
	userHarness    = "harness"
	userSubject    = "subject"
	userController = "controller-manager"
	userScheduler  = "scheduler"
	userKwok       = "kwok"
)

// clientQPS is the limit of every client, the burst is twice that.
const clientQPS = 500

//go:embed stages.yaml
var stages []byte

// plane is a control plane with everything that runs beside it.
type plane struct {
	dir, bin string
	// gates are the feature gates of all components.
	gates  string
	server string
	// scheduler is the scheduler's port.
	scheduler int
	processes []*process
	apiserver *process
}

// startPlane starts etcd, the API server, the scheduler and KWOK.
func startPlane(ctx context.Context, dir, gates string) (*plane, error) {
	builder, err := binaries.NewBuilder(os.Stderr)
	if err != nil {
		return nil, err
	}
	if err := builder.Ensure(ctx, "etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kwok"); err != nil {
		return nil, err
	}
	p := &plane{dir: dir, bin: builder.Bin, gates: gates}
	if err := p.up(ctx); err != nil {
		p.stop()
		return nil, err
	}
	return p, nil
}

func (p *plane) up(ctx context.Context) error {
	ports, err := freePorts(4)
	if err != nil {
		return err
	}
	client, peer, secure := ports[0], ports[1], ports[2]
	p.scheduler = ports[3]
	p.server = fmt.Sprintf("https://127.0.0.1:%d", secure)
	if err := p.writeFiles(); err != nil {
		return err
	}
	etcd := fmt.Sprintf("http://127.0.0.1:%d", client)
	peers := fmt.Sprintf("http://127.0.0.1:%d", peer)
	if _, err := p.run("etcd", "--data-dir="+filepath.Join(p.dir, "etcd"), "--log-level=warn", "--unsafe-no-fsync",
		"--listen-client-urls="+etcd, "--advertise-client-urls="+etcd, "--quota-backend-bytes=8589934592",
		"--listen-peer-urls="+peers, "--initial-advertise-peer-urls="+peers, "--initial-cluster=default="+peers); err != nil {
		return err
	}
	if p.apiserver, err = p.run("kube-apiserver", p.apiserverArgs(etcd, secure)...); err != nil {
		return err
	}
	if err := p.ready(ctx); err != nil {
		return err
	}
	_, err = p.run("kube-scheduler", "--config="+p.path("scheduler.yaml"), "--bind-address=127.0.0.1",
		"--secure-port="+strconv.Itoa(p.scheduler), "--feature-gates="+p.gates,
		// Profiles are taken without a token: the port is the namespace's own.
		"--authorization-always-allow-paths=/healthz,/readyz,/livez,/debug/pprof/*")
	return err
}

func (p *plane) apiserverArgs(etcd string, port int) []string {
	return []string{
		"--etcd-servers=" + etcd, "--bind-address=127.0.0.1", "--advertise-address=127.0.0.1", "--endpoint-reconciler-type=none",
		"--secure-port=" + strconv.Itoa(port), "--cert-dir=" + p.path("pki"),
		"--token-auth-file=" + p.path("tokens.csv"), "--authorization-mode=RBAC",
		"--service-account-issuer=https://kubernetes.default.svc",
		"--service-account-key-file=" + p.path("sa.pub"), "--service-account-signing-key-file=" + p.path("sa.key"),
		"--service-cluster-ip-range=10.96.0.0/16", "--allow-privileged=true",
		"--enable-priority-and-fairness=false",
		"--feature-gates=" + p.gates, "--runtime-config=" + features.RuntimeConfig,
		"--audit-policy-file=" + p.path("audit.yaml"), "--audit-log-path=" + p.auditLog(),
		"--audit-log-mode=batch", "--audit-log-batch-max-wait=1s", "--audit-log-batch-max-size=100",
	}
}

func (p *plane) auditLog() string { return p.path("audit.log") }

func (p *plane) path(name string) string { return filepath.Join(p.dir, name) }

// run starts one of the programs of the cache.
func (p *plane) run(name string, args ...string) (*process, error) {
	return p.runAt(filepath.Join(p.bin, name), nil, args...)
}

// runAt starts any program, with variables of its own.
func (p *plane) runAt(path string, env []string, args ...string) (*process, error) {
	started, err := start(p.dir, filepath.Base(path), env, append([]string{path}, args...)...)
	if err != nil {
		return nil, err
	}
	p.processes = append(p.processes, started)
	return started, nil
}

// startKwok begins to play the nodes. They have to exist already: KWOK then
// reads them at once instead of one by one.
func (p *plane) startKwok() error {
	_, err := p.run("kwok", "--kubeconfig="+p.kubeconfig(userKwok), "--config="+p.path("stages.yaml"), "--manage-all-nodes",
		"--node-lease-duration-seconds=0", "--cidr="+podCIDR, "--node-ip=127.0.0.1")
	return err
}

// startControllers runs the controllers that a subject needs, and no others.
func (p *plane) startControllers(names ...string) (*process, error) {
	return p.run("kube-controller-manager", "--kubeconfig="+p.kubeconfig(userController), "--leader-elect=false",
		"--service-account-private-key-file="+p.path("sa.key"), "--secure-port=0", "--allocate-node-cidrs=false",
		"--kube-api-qps="+strconv.Itoa(clientQPS), "--kube-api-burst="+strconv.Itoa(2*clientQPS),
		"--controllers="+strings.Join(names, ","), "--feature-gates="+p.gates)
}

func (p *plane) stop() {
	for i := len(p.processes) - 1; i >= 0; i-- {
		p.processes[i].stop()
	}
}

// alive returns an error if any process has ended.
func (p *plane) alive() error {
	for _, one := range p.processes {
		if err := one.alive(); err != nil {
			return err
		}
	}
	return nil
}

// ready waits for the API server.
func (p *plane) ready(ctx context.Context) error {
	client := &http.Client{Timeout: time.Second, Transport: &http.Transport{
		//nolint:gosec // The API server made its own certificate a moment ago.
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true},
	}}
	for begin := time.Now(); time.Since(begin) < time.Minute; time.Sleep(200 * time.Millisecond) {
		if err := p.alive(); err != nil {
			return err
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.server+"/readyz", nil)
		if err != nil {
			return err
		}
		if answer, err := client.Do(req); err == nil {
			_ = answer.Body.Close()
			if answer.StatusCode == http.StatusOK {
				return nil
			}
		}
	}
	return fmt.Errorf("the API server was not ready within a minute; see %s", p.path("kube-apiserver.log"))
}

// config is a client configuration for one of the users.
func (p *plane) config(user string) *rest.Config {
	return &rest.Config{
		Host: p.server, BearerToken: user, QPS: clientQPS, Burst: 2 * clientQPS,
		TLSClientConfig: rest.TLSClientConfig{Insecure: true},
	}
}

// freePorts finds n free ports of the loopback interface.
func freePorts(n int) ([]int, error) {
	var ports []int
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		// Closed only when all are known, so that none comes twice.
		defer func() { _ = l.Close() }()
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
	}
	return ports, nil
}

// forget takes a process that was stopped on purpose off the list.
func (p *plane) forget(stopped *process) {
	p.processes = slices.DeleteFunc(p.processes, func(one *process) bool { return one == stopped })
}

// usage is what every process has cost so far.
func (p *plane) usage() (map[string]usage, error) {
	all := map[string]usage{}
	for _, one := range p.processes {
		u, err := one.usage()
		if err != nil {
			return nil, err
		}
		all[one.name] = u
	}
	return all, nil
}
