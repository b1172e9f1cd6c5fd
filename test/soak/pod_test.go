// SPDX-License-Identifier: Apache-2.0

package soak

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/findep/findep-operator/runtime/backend"
	_ "github.com/findep/findep-operator/runtime/backend/native"
	"github.com/findep/findep-operator/runtime/identity"
	"github.com/findep/findep-operator/runtime/plan"
)

const (
	tinyModel = "../testdata/tinymodel"
	// The supervisor's waits before it starts a container again; the longer one
	// is reached when a container ends soon after its start again and again.
	minRestart, maxRestart = 200 * time.Millisecond, 2 * time.Second
	// runBytes and runInodes bound a pod's volume of sockets and logs.
	runBytes, runInodes = "32m", "24"
)

// container is one program of a pod, started again whenever it ends.
type container struct {
	pod  *pod
	name string
	args []string

	mu      sync.Mutex
	cmd     *exec.Cmd
	started time.Time
	starts  int
	closing bool
	ended   chan struct{}
}

// pod is a namespace with the process of a rank and, on rank 0, a server.
type pod struct {
	rank            int
	dir             string
	backend         string
	sidecar, server *container // server is nil but on rank 0

	mu sync.Mutex
	// uid counts the pods that have had this rank.
	uid int
}

func (p *pod) containers() []*container {
	if p.server == nil {
		return []*container{p.sidecar}
	}
	return []*container{p.sidecar, p.server}
}

// cluster is the whole instance.
type cluster struct {
	fabric *fabric
	pods   []*pod
	config *plan.Instance
	dir    string
}

// build compiles the programs that the pods run.
func build(t *testing.T, dir string) (backendName string) {
	t.Helper()
	backendName, tags := "reference", ""
	if device, err := backend.Open("cpu", backend.Options{}); err == nil {
		_ = device.Close()
		backendName, tags = "cpu", "findep_native"
	}
	out, err := exec.Command("go", "build", "-tags", tags, "-o", dir+"/", "./runtime", "../../cmd/server").CombinedOutput()
	if err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return backendName
}

func newCluster(t *testing.T, attention, expert int) *cluster {
	t.Helper()
	world := attention + expert
	c := &cluster{fabric: newFabric(t, world), dir: t.TempDir()}
	bin := filepath.Join(c.dir, "bin")
	backendName := build(t, bin)
	c.configure(t, attention, expert)
	for rank := range world {
		p := &pod{rank: rank, dir: filepath.Join(c.dir, fmt.Sprintf("pod%d", rank)), backend: backendName, uid: 1}
		if err := os.Mkdir(p.dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := syscall.Mount("tmpfs", p.dir, "tmpfs", 0, "size="+runBytes+",nr_inodes="+runInodes); err != nil {
			t.Fatalf("tmpfs: %v", err)
		}
		t.Cleanup(func() { _ = syscall.Unmount(p.dir, syscall.MNT_DETACH) })
		p.sidecar = &container{pod: p, name: "runtime", args: []string{filepath.Join(bin, "runtime"), "--config-dir", c.dir, "--tls-dir", c.dir,
			"--rank", strconv.Itoa(rank), "--advertise-host", address(rank + 1), "--backend", wedgeable}}
		if rank == 0 {
			serve := []string{"--socket", filepath.Join(p.dir, "engine.sock")}
			p.sidecar.args = append(p.sidecar.args, serve...)
			p.server = &container{pod: p, name: "server", args: append([]string{filepath.Join(bin, "server"), "--config-dir", c.dir}, serve...)}
		} else {
			p.sidecar.args = append(p.sidecar.args, "--socket", "", "--drain-timeout", "30s")
		}
		c.pods = append(c.pods, p)
	}
	t.Cleanup(c.stop)
	for _, p := range c.pods {
		for _, k := range p.containers() {
			go k.supervise()
		}
	}
	return c
}

// configure writes what the operator renders into ConfigMap and Secret.
func (c *cluster) configure(t *testing.T, attention, expert int) {
	t.Helper()
	path := modelDirectory(t, filepath.Join(c.dir, "model"))
	c.config = &plan.Instance{
		Namespace: "soak", Deployment: "tiny", Revision: "1", AttentionRanks: attention, ExpertRanks: expert,
		Model:    plan.ModelRef{Name: "tiny", Path: path, MaxContextTokens: 512},
		Schedule: plan.Schedule{Policy: plan.FinDEP, Order: plan.OrderAuto, Chunks: "Auto", Resolve: "Online"},
		Start:    plan.Plan{Policy: plan.FinDEP, MicroBatchSize: 1, R1: 1, R2: 1, Order: plan.ASAS, Chunks: 1},
	}
	for rank := range attention + expert {
		c.config.Hosts = append(c.config.Hosts, address(rank+1))
	}
	b, err := json.Marshal(c.config)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	ca, err := identity.NewCA(now, rand.Reader, "soak")
	if err != nil {
		t.Fatal(err)
	}
	bundle, err := ca.Issue(now, c.config.Identity(), c.config.Hosts, "instance", 24*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{
		plan.InstanceFile: b, identity.CAFile: bundle.CA, identity.CertFile: bundle.Cert, identity.KeyFile: bundle.Key,
	} {
		if err := os.WriteFile(filepath.Join(c.dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func (c *cluster) stop() {
	for _, p := range c.pods {
		for _, k := range p.containers() {
			k.close()
		}
	}
}

// supervise runs the container until close.
func (k *container) supervise() {
	wait := minRestart
	for {
		if err := k.start(); err != nil {
			return
		}
		began := time.Now()
		_ = k.cmd.Wait()
		close(k.ended)
		if time.Since(began) > 5*time.Second {
			wait = minRestart
		}
		time.Sleep(wait)
		wait = min(2*wait, maxRestart)
	}
}

func (k *container) start() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.closing {
		return os.ErrClosed
	}
	args := append([]string{"netns", "exec", namespace(k.pod.rank)}, k.args...)
	if k.name == "runtime" {
		args = append(args, "--pod-uid", fmt.Sprintf("pod-%d-%d", k.pod.rank, k.pod.current()))
	}
	k.cmd = exec.Command("ip", args...)
	// A log on a full volume must not be the end of anybody. The file is closed
	// here at once; the child has its own descriptor.
	if log, err := os.OpenFile(k.log(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600); err == nil {
		defer func() { _ = log.Close() }()
		k.cmd.Stderr = log
	}
	k.cmd.Env = append(os.Environ(), backendEnv+"="+k.pod.backend, wedgeEnv+"="+k.pod.wedgeFile())
	k.ended = make(chan struct{})
	k.started = time.Now()
	k.starts++
	return k.cmd.Start()
}

// Names that package runtime, the sidecar of the test, knows as well.
const (
	wedgeable  = "wedgeable"
	backendEnv = "FINDEP_SOAK_BACKEND"
	wedgeEnv   = "FINDEP_SOAK_WEDGE"
)

// wedgeFile makes the pod's kernels hang while it exists. It lies outside of the
// volume that faults fill.
func (p *pod) wedgeFile() string { return p.dir + ".wedge" }

func (k *container) log() string { return filepath.Join(k.pod.dir, k.name+".log") }

func (p *pod) current() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.uid
}

// replace makes what starts next another pod.
func (p *pod) replace() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.uid++
}

// state returns the process id, its start, and a channel that is closed when
// it has ended.
func (k *container) state() (pid int, started time.Time, ended <-chan struct{}) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.cmd.Process.Pid, k.started, k.ended
}

func (k *container) signal(s syscall.Signal) {
	pid, _, ended := k.state()
	select {
	case <-ended:
	default:
		_ = syscall.Kill(pid, s)
	}
}

func (k *container) close() {
	k.mu.Lock()
	k.closing = true
	cmd, ended := k.cmd, k.ended
	k.mu.Unlock()
	if cmd == nil || cmd.Process == nil {
		return
	}
	_ = cmd.Process.Kill()
	<-ended
}

// rankState is what a sidecar's /readyz says.
type rankState struct {
	Rank    int    `json:"rank"`
	Phase   string `json:"phase"`
	Epoch   uint64 `json:"epoch"`
	Ready   bool   `json:"ready"`
	Message string `json:"message"`
}

// loading begins the message of a rank that has not begun to join.
const loading = "loading the weights"

var prober = &http.Client{Timeout: 500 * time.Millisecond, Transport: &http.Transport{DisableKeepAlives: true}}

func (p *pod) url(port int, path string) string {
	return "http://" + net.JoinHostPort(address(p.rank+1), strconv.Itoa(port)) + path
}

// probe asks the sidecar how it is.
func (p *pod) probe() (rankState, error) {
	var s rankState
	r, err := prober.Get(p.url(plan.MetricsPort, "/readyz"))
	if err != nil {
		return s, err
	}
	defer func() { _ = r.Body.Close() }()
	return s, json.NewDecoder(r.Body).Decode(&s)
}

// serving tells whether every rank and the leader's server are Ready in the
// same epoch, and which it is.
func (c *cluster) serving() (epoch uint64, why string) {
	for _, p := range c.pods {
		s, err := p.probe()
		switch {
		case err != nil:
			return 0, fmt.Sprintf("rank %d: %v", p.rank, err)
		case !s.Ready:
			return 0, fmt.Sprintf("rank %d is %s: %s", p.rank, s.Phase, s.Message)
		case epoch != 0 && s.Epoch != epoch:
			return 0, fmt.Sprintf("rank %d is in epoch %d, others in %d", p.rank, s.Epoch, epoch)
		}
		epoch = s.Epoch
	}
	r, err := prober.Get(c.pods[0].url(plan.ServingPort, "/readyz"))
	if err != nil {
		return 0, fmt.Sprintf("server: %v", err)
	}
	defer func() { _ = r.Body.Close() }()
	if r.StatusCode != http.StatusOK {
		return 0, "the server is not ready"
	}
	return epoch, ""
}

// await waits until everything serves.
func (c *cluster) await(t *testing.T, within time.Duration) uint64 {
	t.Helper()
	for deadline := time.Now().Add(within); ; time.Sleep(50 * time.Millisecond) {
		epoch, why := c.serving()
		if why == "" {
			return epoch
		}
		if time.Now().After(deadline) {
			t.Fatalf("the instance does not serve after %v: %s", within, why)
		}
	}
}

// tail is the end of a pod's logs, for a failed test.
func (p *pod) tail() string {
	const most = 6000
	var all bytes.Buffer
	for _, k := range p.containers() {
		b, _ := os.ReadFile(k.log())
		fmt.Fprintf(&all, "--- rank %d %s\n%s\n", p.rank, k.name, b[max(0, len(b)-most):])
	}
	return all.String()
}
