// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/findep/findep-operator/hack/localcluster/binaries"
	"github.com/findep/findep-operator/hack/localcluster/internal/cluster"
)

// realTest guards the test that makes a cluster: it needs root and a few
// minutes.
const realTest = "FINDEP_TEST_LOCALCLUSTER"

// Everything differs from the defaults, so that the test can run beside a
// cluster that is in use, and shows that every address can be chosen.
var realFlags = []string{
	"--name=lctest", "--nodes=2", "--gpus=8", "--fast-faults",
	"--node-cidr=172.31.77.0/24", "--pod-cidr=10.177.0.0/16", "--service-cidr=10.178.0.0/16",
	"--api-port=16443", "--controller-manager-port=11257", "--scheduler-port=11259",
	"--etcd-port=33790", "--etcd-peer-port=33800",
}

// TestRealCluster goes through a cluster's life on this machine.
func TestRealCluster(t *testing.T) {
	if os.Getenv(realTest) == "" {
		t.Skipf("set %s=1 to make a real cluster (as root)", realTest)
	}
	r := &realCluster{t: t}
	r.mustRun(append([]string{"up"}, realFlags...)...)
	t.Cleanup(func() {
		r.mustRun("down", "--name=lctest")
		if left := traces(t); left != "" {
			t.Errorf("down left:\n%s", left)
		}
	})
	r.kubeconfig = strings.TrimSpace(r.mustRun("kubeconfig", "--name=lctest"))
	t.Run("nodes are ready and show their GPUs and racks", func(t *testing.T) { r.with(t).nodes() })
	t.Run("up again does nothing", func(t *testing.T) {
		if out := r.with(t).mustRun("up", "--name=lctest"); !strings.Contains(out, "already up") {
			t.Errorf("up prints %q, want already up", out)
		}
	})
	t.Run("up refuses other options", func(t *testing.T) {
		if _, err := r.run("up", "--name=lctest", "--nodes=3"); err == nil || !strings.Contains(err.Error(), "--nodes") {
			t.Errorf("error = %v, want one that names --nodes", err)
		}
	})
	r.loadImages()
	t.Run("pods reach each other by name and address", func(t *testing.T) { r.with(t).network() })
	t.Run("image volume under the restricted standard", func(t *testing.T) { r.with(t).imageVolume() })
	t.Run("dynamically linked program with its libraries", func(t *testing.T) { r.with(t).dynamicProgram() })
	t.Run("gangs are placed whole or not at all", func(t *testing.T) { r.with(t).gangs() })
	t.Run("up repairs a killed node and its GPUs stay", func(t *testing.T) { r.with(t).repair() })
}

type realCluster struct {
	t          *testing.T
	kubeconfig string
	dir        string
}

func (r *realCluster) with(t *testing.T) *realCluster {
	return &realCluster{t: t, kubeconfig: r.kubeconfig, dir: r.dir}
}

// run runs a command of localcluster in this process.
func (r *realCluster) run(args ...string) (string, error) {
	var out bytes.Buffer
	cmd := newCommand()
	cmd.SetArgs(args)
	cmd.SetOut(&out)
	err := cmd.ExecuteContext(context.Background())
	r.t.Logf("localcluster %s\n%s", strings.Join(args, " "), out.String())
	return out.String(), err
}

func (r *realCluster) mustRun(args ...string) string {
	r.t.Helper()
	out, err := r.run(args...)
	if err != nil {
		r.t.Fatal(err)
	}
	return out
}

func (r *realCluster) kubectl(stdin string, args ...string) string {
	r.t.Helper()
	builder, err := binaries.NewBuilder(nil)
	if err != nil {
		r.t.Fatal(err)
	}
	cmd := exec.Command(builder.Path("kubectl"), append([]string{"--kubeconfig=" + r.kubeconfig}, args...)...)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if err != nil {
		r.t.Fatalf("kubectl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// eventually waits until f returns an empty string, which says what is wrong.
func (r *realCluster) eventually(what string, f func() string) {
	r.t.Helper()
	var problem string
	for end := time.Now().Add(2 * time.Minute); time.Now().Before(end); time.Sleep(300 * time.Millisecond) {
		if problem = f(); problem == "" {
			return
		}
	}
	r.t.Fatalf("%s: %s\n%s", what, problem, r.kubectl("", "get", "pods,events", "-A"))
}

func (r *realCluster) nodes() {
	var list struct {
		Items []struct {
			Metadata struct{ Labels map[string]string }
			Status   struct{ Capacity, Allocatable map[string]string }
		}
	}
	if err := json.Unmarshal([]byte(r.kubectl("", "get", "nodes", "-o", "json")), &list); err != nil {
		r.t.Fatal(err)
	}
	racks := map[string]bool{}
	for _, n := range list.Items {
		racks[n.Metadata.Labels["topology.kubernetes.io/rack"]] = true
		if n.Status.Capacity["nvidia.com/gpu"] != "8" || n.Status.Allocatable["nvidia.com/gpu"] != "8" {
			r.t.Errorf("GPUs: capacity %v, allocatable %v", n.Status.Capacity, n.Status.Allocatable)
		}
		if got := n.Metadata.Labels["nvidia.com/gpu.product"]; got != "Simulated-CPU" {
			r.t.Errorf("product = %q", got)
		}
	}
	if len(list.Items) != 2 || !racks["r1"] || !racks["r2"] {
		r.t.Errorf("%d nodes in racks %v, want 2 in r1 and r2", len(list.Items), racks)
	}
	if out := r.kubectl("", "wait", "node", "--all", "--for=condition=Ready", "--timeout=1s"); strings.Count(out, "met") != 2 {
		r.t.Error(out)
	}
	if out, err := r.run("status", "--name=lctest"); err != nil || strings.Count(out, " yes ") != 11 {
		r.t.Errorf("status: %v, want 11 ready components", err)
	}
}

// loadImages makes the images of the pods below.
func (r *realCluster) loadImages() {
	r.dir = r.t.TempDir()
	build := exec.Command("go", "build", "-buildvcs=false", "-o", filepath.Join(r.dir, "probe"), "./internal/probe")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		r.t.Fatalf("%v\n%s", err, out)
	}
	if err := os.MkdirAll(filepath.Join(r.dir, "model"), 0o700); err != nil {
		r.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(r.dir, "model", "config.json"), []byte("weights"), 0o600); err != nil {
		r.t.Fatal(err)
	}
	r.mustRun("load-image", "--cluster=lctest", "--name=localhost/probe:dev", "--binary="+filepath.Join(r.dir, "probe"))
	r.mustRun("load-image", "--cluster=lctest", "--name=localhost/model:dev", "--add="+filepath.Join(r.dir, "model")+"=/model")
}

// restricted is the part of a pod that the restricted Pod Security Standard asks
// for.
const restricted = `
  securityContext: {runAsNonRoot: true, seccompProfile: {type: RuntimeDefault}}
  terminationGracePeriodSeconds: 0
  restartPolicy: Never`

// container is one container of such a pod.
func container(image string, args ...string) string {
	return fmt.Sprintf(`
  - name: c
    image: %s
    args: ["%s"]
    imagePullPolicy: Never
    securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}`, image, strings.Join(args, `", "`))
}

// logsOf waits until a pod has succeeded and returns what it printed.
func (r *realCluster) logsOf(pod string) string {
	r.t.Helper()
	r.eventually(pod+" succeeds", func() string {
		phase := r.kubectl("", "get", "pod", pod, "-o", "jsonpath={.status.phase}")
		if phase == "Failed" {
			r.t.Fatalf("%s failed: %s", pod, r.kubectl("", "logs", pod))
		}
		if phase != "Succeeded" {
			return "phase " + phase
		}
		return ""
	})
	return r.kubectl("", "logs", pod)
}

func (r *realCluster) network() {
	server := `
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {clusterIP: None, publishNotReadyAddresses: true, selector: {app: web}}
---
apiVersion: v1
kind: Service
metadata: {name: front}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Pod
metadata: {name: server, labels: {app: web}}
spec:
  hostname: p1
  subdomain: web
  nodeName: node1` + restricted + `
  containers:` + container("localhost/probe:dev", "serve", ":8080")
	r.kubectl(server, "apply", "-f", "-")
	for name, args := range map[string][]string{
		"lookup":         {"lookup", "p1.web.default.svc.cluster.local"},
		"get-by-name":    {"get", "http://p1.web:8080"},
		"get-by-service": {"get", "http://front"},
	} {
		for _, node := range []string{"node1", "node2"} {
			pod := "apiVersion: v1\nkind: Pod\nmetadata: {name: " + name + "-" + node + "}\nspec:\n  nodeName: " + node +
				restricted + "\n  containers:" + container("localhost/probe:dev", args...)
			r.kubectl(pod, "apply", "-f", "-")
		}
		for _, node := range []string{"node1", "node2"} {
			want := "hello 10.177."
			if name == "lookup" {
				want = "[10.177.1."
			}
			if got := r.logsOf(name + "-" + node); !strings.Contains(got, want) {
				r.t.Errorf("%s on %s prints %q, want %q in it", name, node, got, want)
			}
		}
	}
}

func (r *realCluster) imageVolume() {
	r.kubectl("", "create", "namespace", "strict")
	r.kubectl("", "label", "namespace", "strict", "pod-security.kubernetes.io/enforce=restricted")
	for i, node := range []string{"node1", "node2"} {
		pod := fmt.Sprintf("apiVersion: v1\nkind: Pod\nmetadata: {name: volume%d, namespace: strict}\nspec:\n  nodeName: %s", i, node) +
			restricted + "\n  containers:" + container("localhost/probe:dev", "cat", "/m/config.json") + `
    volumeMounts: [{name: m, mountPath: /m, subPath: model, readOnly: true}]
  volumes:
  - name: m
    image: {reference: "localhost/model:dev", pullPolicy: Never}
`
		r.kubectl(pod, "apply", "-f", "-")
	}
	r.kubectl("", "config", "set-context", "--current", "--namespace=strict")
	defer r.kubectl("", "config", "set-context", "--current", "--namespace=default")
	for _, pod := range []string{"volume0", "volume1"} {
		if got := r.logsOf(pod); got != "weights" {
			r.t.Errorf("%s prints %q, want weights", pod, got)
		}
	}
}

func (r *realCluster) dynamicProgram() {
	program := filepath.Join(r.t.TempDir(), "program")
	source := "#include <iostream>\n#include <cmath>\nint main(int c, char**) { std::cout << std::sqrt(48.0 + c) << std::endl; }\n"
	if err := os.WriteFile(program+".cc", []byte(source), 0o600); err != nil {
		r.t.Fatal(err)
	}
	if out, err := exec.Command("g++", "-o", program, program+".cc").CombinedOutput(); err != nil {
		r.t.Skipf("needs g++: %v %s", err, out)
	}
	r.mustRun("load-image", "--cluster=lctest", "--name=localhost/dynamic:dev", "--binary="+program, "--base-libs=auto")
	r.kubectl("apiVersion: v1\nkind: Pod\nmetadata: {name: dynamic}\nspec:"+restricted+"\n  containers:"+
		strings.Replace(container("localhost/dynamic:dev"), `args: [""]`, "args: []", 1), "apply", "-f", "-")
	if got := r.logsOf("dynamic"); got != "7\n" {
		r.t.Errorf("prints %q, want 7", got)
	}
}

// gang returns a PodGroup and its pods, of which each wants all GPUs of a node.
func gang(name string, pods int) string {
	var out strings.Builder
	fmt.Fprintf(&out, "apiVersion: scheduling.k8s.io/v1beta1\nkind: PodGroup\nmetadata: {name: %s}\nspec:\n  schedulingPolicy: {gang: {minCount: %d}}\n", name, pods)
	for i := range pods {
		fmt.Fprintf(&out, "---\napiVersion: v1\nkind: Pod\nmetadata: {name: %s-%d, labels: {gang: %s}}\nspec:\n  schedulingGroup: {podGroupName: %s}%s\n  containers:%s\n    resources: {limits: {nvidia.com/gpu: 8}}\n",
			name, i, name, name, restricted, container("localhost/probe:dev", "serve", ":8080"))
	}
	return out.String()
}

func (r *realCluster) gangs() {
	assigned := func(name string) string {
		return strings.TrimSpace(r.kubectl("", "get", "pods", "-l", "gang="+name, "-o", "jsonpath={range .items[*]}{.spec.nodeName} {.status.phase};{end}"))
	}
	r.kubectl(gang("big", 3), "apply", "-f", "-")
	r.eventually("the gang of three is refused", func() string {
		out := r.kubectl("", "get", "podgroup", "big", "-o", "jsonpath={.status.conditions}")
		if !strings.Contains(out, "Unschedulable") {
			return "conditions " + out
		}
		return ""
	})
	if got := assigned("big"); strings.Contains(got, "node") {
		r.t.Errorf("of a gang of three on two nodes some are placed: %s", got)
	}
	// The gang that does not fit must not hold on to anything.
	r.kubectl(gang("small", 2), "apply", "-f", "-")
	r.eventually("the gang of two runs", func() string {
		if got := assigned("small"); strings.Count(got, "Running") != 2 || !strings.Contains(got, "node1") || !strings.Contains(got, "node2") {
			return got
		}
		return ""
	})
	if got := assigned("big"); strings.Contains(got, "node") {
		r.t.Errorf("of a gang of three on two nodes some are placed: %s", got)
	}
	r.kubectl("", "delete", "pods,podgroups", "--all", "--force", "--grace-period=0")
}

// repair kills the node's processes as a crash would, and asks up for help.
func (r *realCluster) repair() {
	r.kubectl("apiVersion: v1\nkind: Pod\nmetadata: {name: survivor}\nspec:\n  nodeName: node2"+restricted+
		"\n  containers:"+container("localhost/probe:dev", "serve", ":8080"), "apply", "-f", "-")
	r.kubectl("", "wait", "pod", "survivor", "--for=condition=Ready", "--timeout=60s")
	records, err := filepath.Glob(filepath.Join(filepath.Dir(filepath.Dir(r.kubeconfig)), "run", "*-node1.json"))
	if err != nil || len(records) != 3 {
		r.t.Fatalf("records %v, %v, want 3", records, err)
	}
	records = append(records, filepath.Join(filepath.Dir(records[0]), "kube-apiserver.json"))
	for _, file := range records {
		var record struct{ PID int }
		data, err := os.ReadFile(file)
		if err != nil {
			r.t.Fatal(err)
		}
		if err := json.Unmarshal(data, &record); err != nil {
			r.t.Fatal(err)
		}
		if err := syscall.Kill(record.PID, syscall.SIGKILL); err != nil {
			r.t.Fatal(err)
		}
	}
	if out, err := r.run("status", "--name=lctest"); err == nil || !strings.Contains(out, "has ended") {
		r.t.Errorf("status after a crash: %v, want an error and 'has ended'", err)
	}
	r.mustRun("up", "--name=lctest")
	r.nodes()
	// Two reports of the kubelet (every 2 s here) would have taken the GPUs back.
	time.Sleep(6 * time.Second)
	r.nodes()
	if got := r.kubectl("", "get", "pod", "survivor", "-o", "jsonpath={.status.phase} {.status.containerStatuses[0].restartCount}"); got != "Running 0" {
		r.t.Errorf("pod of the other node: %s, want Running 0", got)
	}
}

// traces returns what a removed cluster must not leave on the machine.
func traces(t *testing.T) string {
	t.Helper()
	script := `ip netns | grep lctest; grep lctest /proc/self/mountinfo; find /sys/fs/cgroup -name 'findep-lctest*' 2>/dev/null
ls -d /run/findep/lctest 2>/dev/null; ip -o link | grep -E '` + linkNames() + `'; ip route | grep -E '172.31.77|10.177'
ls -l /var/log/containers /var/lib/cni/results 2>/dev/null | grep lctest
ps -eo pid,args | grep -E '(nsenter|/containerd|/kube|/etcd).*lctest' | grep -v grep; true`
	out, err := exec.Command("bash", "-c", script).Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return string(out)
}

// linkNames matches the host interfaces of the test's cluster.
func linkNames() string {
	o := cluster.Defaults()
	o.Name = "lctest"
	return strings.TrimSuffix(o.Bridge(), "br")
}
