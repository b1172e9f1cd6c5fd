// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"crypto/tls"
	"crypto/x509"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestParseStartTicks(t *testing.T) {
	const rest = " 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 4242 0 0"
	tests := []struct {
		name, stat string
		want       uint64
		fails      bool
	}{
		{"plain", "17 (etcd) S" + rest, 4242, false},
		{"parentheses and spaces in the name", "17 (a) S 1 (b) R" + rest, 4242, false},
		{"zombie", "17 (etcd) Z" + rest, 0, true},
		{"cut off", "17 (etcd) S 1 2", 0, true},
		{"empty", "", 0, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := parseStartTicks(tt.stat)
			if got != tt.want || (err != nil) != tt.fails {
				t.Errorf("parseStartTicks(%q) = %d, %v, want %d, error %t", tt.stat, got, err, tt.want, tt.fails)
			}
		})
	}
}

func FuzzParseProcFiles(f *testing.F) {
	f.Add("17 (etcd) S 0 1 2")
	f.Add(`36 35 98:0 /mnt1 /a\040b rw - ext3 /dev/root rw`)
	f.Fuzz(func(_ *testing.T, s string) {
		// What is checked is that no input makes them panic.
		_, _ = parseStartTicks(s)
		_ = parseMounts(s)
		_ = isOurs([]byte(s), testPaths(Defaults()))
	})
}

func TestKillSparesAnotherProcessWithTheSameID(t *testing.T) {
	cmd := exec.Command("sleep", "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { _ = cmd.Wait(); close(ended) }()
	start, err := startTicks(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	own := record{PID: cmd.Process.Pid, Start: start, Boot: bootID()}
	for name, stranger := range map[string]record{
		"other start": {PID: own.PID, Start: start + 1, Boot: own.Boot},
		"other boot":  {PID: own.PID, Start: start, Boot: "another"},
	} {
		if stranger.alive() {
			t.Errorf("%s: alive() = true", name)
		}
		stranger.kill()
	}
	if !own.alive() {
		t.Fatal("the process was killed by the record of another one")
	}
	own.kill()
	<-ended
	if own.alive() {
		t.Error("alive() = true after kill")
	}
}

const mountinfo = `25 1 0:23 / / rw - overlay overlay rw
26 25 0:24 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu
27 25 0:25 / /sys/fs/cgroup/unified rw - cgroup2 none rw
28 25 0:26 / /c/findep/a rw shared:1 - tmpfs tmpfs rw
29 28 0:27 / /c/findep/a/b\040c rw - tmpfs tmpfs rw
30 25 0:28 / /c/findep-other/a rw - tmpfs tmpfs rw
`

func TestMountsBelowAreInnermostFirstAndOnlyOurs(t *testing.T) {
	want := []string{"/c/findep/a/b c", "/c/findep/a"}
	if diff := cmp.Diff(want, mountsBelow(mountinfo, "/c/findep", "/run/findep/findep")); diff != "" {
		t.Errorf("mountsBelow (-want +got):\n%s", diff)
	}
}

func TestFindHierarchies(t *testing.T) {
	mixed, err := findHierarchies(mountinfo)
	if err != nil || mixed.unified || len(mixed.mounts) != 2 {
		t.Errorf("v1 with a v2 beside it: %+v, %v; want both mounts, not unified", mixed, err)
	}
	v2, err := findHierarchies("30 25 0:28 / /sys/fs/cgroup rw - cgroup2 cgroup rw\n")
	if err != nil || !v2.unified || !slices.Equal(v2.mounts, []string{"/sys/fs/cgroup"}) {
		t.Errorf("v2: %+v, %v; want one unified mount", v2, err)
	}
	if _, err := findHierarchies("25 1 0:23 / / rw - ext4 /dev/sda rw\n"); err == nil {
		t.Error("no hierarchy: no error")
	}
}

func TestCgroupsV1InheritTheCPUSet(t *testing.T) {
	mount := t.TempDir()
	o := Defaults()
	// The kernel makes these files with a cgroup; here they must be there first.
	for dir, value := range map[string]string{
		mount:                            "0-1\n",
		filepath.Join(mount, o.Cgroup()): "\n",
		filepath.Join(mount, o.Cgroup(), "node1"): "",
		filepath.Join(mount, o.Cgroup(), "node2"): "1\n",
	} {
		write(t, filepath.Join(dir, "cpuset.cpus"), value)
	}
	if err := (hierarchies{mounts: []string{mount}}).create(o); err != nil {
		t.Fatal(err)
	}
	for node, want := range map[string]string{"node1": "0-1", "node2": "1"} {
		got, err := os.ReadFile(filepath.Join(mount, o.Cgroup(), node, "cpuset.cpus"))
		if err != nil || strings.TrimSpace(string(got)) != want {
			t.Errorf("%s: cpuset.cpus = %q, %v, want %s", node, got, err, want)
		}
	}
}

func TestCgroupsV2DelegateControllers(t *testing.T) {
	mount := t.TempDir()
	o := Defaults()
	for _, dir := range []string{mount, filepath.Join(mount, o.Cgroup())} {
		write(t, filepath.Join(dir, "cgroup.controllers"), "pids\n")
		write(t, filepath.Join(dir, "cgroup.subtree_control"), "")
	}
	if err := (hierarchies{unified: true, mounts: []string{mount}}).create(o); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{mount, filepath.Join(mount, o.Cgroup())} {
		got, err := os.ReadFile(filepath.Join(dir, "cgroup.subtree_control"))
		if err != nil || string(got) != "+pids" {
			t.Errorf("%s: subtree_control = %q, %v, want +pids", dir, got, err)
		}
	}
	if _, err := os.Stat(filepath.Join(mount, o.Cgroup(), "node2")); err != nil {
		t.Error(err)
	}
}

func TestIsOurs(t *testing.T) {
	line := func(args ...string) []byte { return []byte(strings.Join(args, "\x00") + "\x00") }
	p := Paths{Base: "/c/cluster/a", Run: "/run/findep/a"}
	tests := []struct {
		name string
		line []byte
		want bool
	}{
		{"shim", line("/b/containerd-shim-runc-v2", "-namespace", "k8s.io", "-address", "/run/findep/a/node1/containerd.sock"), true},
		{"component", line("/b/etcd", "--data-dir=/c/cluster/a/etcd"), true},
		{"shim of another cluster", line("/b/containerd-shim-runc-v2", "-address", "/run/findep/ab/node1/containerd.sock"), false},
		{"component of another cluster", line("/b/etcd", "--data-dir=/c/cluster/ab/etcd"), false},
		{"shim of the host", line("/b/containerd-shim-runc-v2", "-address", "/run/containerd/containerd.sock"), false},
		{"reader of our logs", line("less", "/c/cluster/a/logs/etcd.log"), false},
		{"path in the middle of an argument", line("/b/etcd", "--data-dir=/tmp/c/cluster/a/etcd"), false},
		{"no arguments", line("/b/etcd"), false},
		{"kernel thread", nil, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := isOurs(tt.line, p); got != tt.want {
				t.Errorf("isOurs(%q) = %t, want %t", tt.line, got, tt.want)
			}
		})
	}
}

func TestCleanersLeaveOthersAlone(t *testing.T) {
	links := filepath.Join(t.TempDir(), "containers")
	if err := os.MkdirAll(links, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, target := range map[string]string{"ours.log": "/c/findep/node1/x", "other.log": "/c/findep-2/x"} {
		if err := os.Symlink(target, filepath.Join(links, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := removeLogLinks(links, "/c/findep"); err != nil {
		t.Fatal(err)
	}
	results := filepath.Join(t.TempDir(), "results")
	for _, name := range []string{"findep-node1-abc-eth0", "cni-loopback-abc-lo", "cni-loopback-def-lo", "findep2-node1-def-eth0"} {
		write(t, filepath.Join(results, name), "")
	}
	if err := removeCNIResults(results, "findep", []string{"abc"}); err != nil {
		t.Fatal(err)
	}
	got := append(names(t, links), names(t, results)...)
	want := []string{"other.log", "cni-loopback-def-lo", "findep2-node1-def-eth0"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("left (-want +got):\n%s", diff)
	}
}

func TestAuthFilesFitTogether(t *testing.T) {
	o := Defaults()
	files, err := authFiles(o, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(files["apiserver.crt"], files["apiserver.key"])
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(files["ca.crt"]) {
		t.Fatal("ca.crt holds no certificate")
	}
	for _, name := range []string{o.Gateway().String(), o.KubernetesAddr().String(), "kubernetes.default.svc"} {
		if _, err := pair.Leaf.Verify(x509.VerifyOptions{Roots: pool, DNSName: name}); err != nil {
			t.Errorf("apiserver.crt for %s: %v", name, err)
		}
	}
	tokens := map[string]bool{}
	for line := range strings.Lines(string(files["tokens.csv"])) {
		token, _, _ := strings.Cut(line, ",")
		tokens[token] = true
	}
	if len(tokens) != len(identities(o)) {
		t.Errorf("%d different tokens for %d identities", len(tokens), len(identities(o)))
	}
	if !strings.Contains(string(files["tokens.csv"]), `,system:node:node2,system:node:node2,"system:nodes"`) {
		t.Errorf("tokens.csv lacks node2:\n%s", files["tokens.csv"])
	}
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}
