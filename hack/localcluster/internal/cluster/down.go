// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// downTimeout bounds how long killed processes may take to be gone.
const downTimeout = 20 * time.Second

// Down removes the cluster: all its processes and containers, mounts, cgroups,
// namespaces, interfaces, files, and what it changed on the host. It may be
// repeated, and needs no records: of a cluster whose state was lost, only the
// host's settings stay as they are. An error lists what could not be removed.
func (c *Cluster) Down(ctx context.Context) error {
	unlock, err := c.lock()
	if err != nil {
		return err
	}
	defer unlock()
	start := time.Now()
	h, err := hostHierarchies()
	if err != nil {
		return err
	}
	deadline := start.Add(downTimeout)
	c.stopProcesses(h, c.everything(), deadline)
	sandboxes := c.sandboxes()
	errs := []error{
		unmountBelow(c.Paths.Base, c.Paths.Run),
		h.remove(c.Options, deadline),
		c.removeNetwork(ctx),
		c.restoreHost(ctx),
		removeLogLinks("/var/log/containers", c.Paths.Base),
		removeCNIResults("/var/lib/cni/results", c.Options.Name, sandboxes),
		os.RemoveAll(c.Paths.Run),
	}
	_ = os.Remove(runRoot) // Fails while another cluster uses it.
	// The state goes last: without it, a repeated Down knows less.
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if err := os.RemoveAll(c.Paths.Base); err != nil {
		return err
	}
	if left := c.leftovers(h); len(left) > 0 {
		return fmt.Errorf("these are left: %s; run down again", strings.Join(left, ", "))
	}
	c.printf("cluster %s is gone after %.1f s\n", c.Options.Name, time.Since(start).Seconds())
	return os.Remove(c.Paths.lock())
}

// extent is a part of a cluster, as its processes show it.
type extent struct {
	// covers says of a component, by its name, that it belongs to the part.
	covers func(component string) bool
	// paths are the folders that the part's own programs are started with.
	paths Paths
	// cgroup holds the part's containers.
	cgroup string
}

// everything is the whole cluster.
func (c *Cluster) everything() extent {
	return extent{covers: func(string) bool { return true }, paths: c.Paths, cgroup: c.Options.Cgroup()}
}

// stopProcesses kills, in turn, what starts containers, what keeps them, and the
// containers, and repeats until nothing is found: a process may have been
// starting another meanwhile. It returns what was still there at the deadline.
func (c *Cluster) stopProcesses(h hierarchies, part extent, deadline time.Time) (left int) {
	for {
		records, _ := loadRecords(c.Paths)
		running := 0
		for _, r := range records {
			if part.covers(r.Name) && r.alive() {
				running++
				r.kill()
			}
		}
		pids := append(strays(part.paths), h.processes(part.cgroup)...)
		for _, pid := range pids {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		if running+len(pids) == 0 || time.Now().After(deadline) {
			return running + len(pids)
		}
		time.Sleep(pollEvery)
	}
}

// strays returns the ids of processes that no record names but that are the
// cluster's all the same: the shims, which containerd starts, and any component
// whose record was lost.
func strays(paths Paths) []int {
	entries, _ := os.ReadDir("/proc")
	var pids []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		data, err := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		if err == nil && isOurs(data, paths) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// programs are the components' executables, and the shim's.
var programs = map[string]bool{
	"etcd": true, "kube-apiserver": true, "kube-controller-manager": true, "kube-scheduler": true,
	"containerd": true, "containerd-shim-runc-v2": true, "kubelet": true, "kube-proxy": true,
}

// isOurs reports whether a command line, as in /proc/PID/cmdline, is that of one
// of the programs at work on the cluster's own folders.
func isOurs(cmdline []byte, p Paths) bool {
	args := strings.Split(string(bytes.TrimRight(cmdline, "\x00")), "\x00")
	if !programs[filepath.Base(args[0])] {
		return false
	}
	for _, a := range args[1:] {
		_, value, isFlag := strings.Cut(a, "=")
		if !isFlag {
			value = a
		}
		if strings.HasPrefix(value, p.Base+"/") || strings.HasPrefix(value, p.Run+"/") {
			return true
		}
	}
	return false
}

// sandboxes returns the ids of all containers that containerd had running.
func (c *Cluster) sandboxes() []string {
	bundles, _ := filepath.Glob(filepath.Join(c.Paths.Base,
		"node*", "containerd", "state", "io.containerd.runtime.v2.task", "k8s.io", "*"))
	ids := make([]string, 0, len(bundles))
	for _, b := range bundles {
		ids = append(ids, filepath.Base(b))
	}
	return ids
}

// removeLogLinks deletes the links that kubelets leave in the one folder that
// all share, if they point into base.
func removeLogLinks(dir, base string) error {
	links, err := filepath.Glob(filepath.Join(dir, "*.log"))
	if err != nil {
		return err
	}
	var errs []error
	for _, l := range links {
		if target, err := os.Readlink(l); err == nil && strings.HasPrefix(target, base+"/") {
			errs = append(errs, os.Remove(l))
		}
	}
	_ = os.Remove(dir) // Fails while it holds others.
	return errors.Join(errs...)
}

// removeCNIResults deletes what the CNI library remembers of networks that were
// not taken down pod by pod: files that begin with the name of a node's network,
// or that belong to the loopback of one of the sandboxes.
func removeCNIResults(dir, cluster string, sandboxes []string) error {
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		return err
	}
	var errs []error
	for _, f := range files {
		name := filepath.Base(f)
		ours := strings.HasPrefix(name, cluster+"-node")
		for _, id := range sandboxes {
			ours = ours || strings.Contains(name, "-"+id+"-")
		}
		if ours {
			errs = append(errs, os.Remove(f))
		}
	}
	_ = os.Remove(dir)
	return errors.Join(errs...)
}

// leftovers names everything of the cluster that still exists.
func (c *Cluster) leftovers(h hierarchies) []string {
	var left []string
	add := func(kind string, items ...string) {
		for _, i := range items {
			left = append(left, kind+" "+i)
		}
	}
	for _, pid := range append(strays(c.Paths), h.processes(c.Options.Cgroup())...) {
		add("process", strconv.Itoa(pid))
	}
	namespaces, links := c.networkLeftovers()
	add("namespace", namespaces...)
	add("interface", links...)
	if data, err := os.ReadFile("/proc/self/mountinfo"); err == nil {
		add("mount", mountsBelow(string(data), c.Paths.Base, c.Paths.Run)...)
	}
	for _, m := range h.mounts {
		if _, err := os.Stat(filepath.Join(m, c.Options.Cgroup())); err == nil {
			add("cgroup", filepath.Join(m, c.Options.Cgroup()))
		}
	}
	return left
}
