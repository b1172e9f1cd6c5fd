// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// hierarchies are the cgroup mounts of the host: one for all controllers with
// cgroup v2, one or more controllers each with v1.
type hierarchies struct {
	// unified is true where cgroup v2 holds the controllers.
	unified bool
	// mounts are the mount points, the v2 one of a mixed host included: runc
	// makes cgroups there too.
	mounts []string
}

// findHierarchies reads the mounts from the contents of /proc/self/mountinfo.
func findHierarchies(mountinfo string) (hierarchies, error) {
	var h hierarchies
	v1 := false
	for _, m := range parseMounts(mountinfo) {
		switch m.fstype {
		case "cgroup":
			v1 = true
			h.mounts = append(h.mounts, m.target)
		case "cgroup2":
			h.mounts = append(h.mounts, m.target)
		}
	}
	if len(h.mounts) == 0 {
		return h, errors.New("no cgroup hierarchy is mounted: mount cgroup2 at /sys/fs/cgroup")
	}
	h.unified = !v1
	return h, nil
}

func hostHierarchies() (hierarchies, error) {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return hierarchies{}, err
	}
	return findHierarchies(string(data))
}

// create makes the cgroup of every node in every hierarchy. The kubelet demands
// that its root cgroup exists, with all controllers usable in it.
func (h hierarchies) create(o Options) error {
	for _, mount := range h.mounts {
		top := filepath.Join(mount, o.Cgroup())
		if err := h.createOne(top, mount); err != nil {
			return err
		}
		for _, i := range o.nodeNumbers() {
			if err := h.createOne(filepath.Join(top, o.NodeName(i)), top); err != nil {
				return err
			}
		}
	}
	return nil
}

func (h hierarchies) createOne(dir, parent string) error {
	if h.unified {
		if err := delegate(parent); err != nil {
			return err
		}
	}
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("make the cgroup %s: %w", dir, err)
	}
	// A new v1 cpuset is empty, and no process can enter it.
	for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
		if err := inheritCPUSet(filepath.Join(dir, file), filepath.Join(parent, file)); err != nil {
			return err
		}
	}
	return nil
}

func inheritCPUSet(file, parent string) error {
	own, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) || len(bytes.TrimSpace(own)) > 0 {
		return nil
	}
	value, err := os.ReadFile(parent)
	if errors.Is(err, fs.ErrNotExist) || len(bytes.TrimSpace(value)) == 0 {
		// With v2, the files of the root do not exist and empty means all.
		return nil
	}
	if err != nil {
		return err
	}
	if err := os.WriteFile(file, value, 0o644); err != nil {
		return fmt.Errorf("set %s: %w", file, err)
	}
	return nil
}

// delegate makes all controllers of a v2 cgroup usable in its children.
func delegate(dir string) error {
	data, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
	if err != nil {
		return fmt.Errorf("read the controllers of %s: %w", dir, err)
	}
	for _, controller := range strings.Fields(string(data)) {
		err := os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+"+controller), 0o644)
		if errors.Is(err, syscall.EBUSY) {
			return fmt.Errorf("delegate %s in %s: %w; inside a container, first move the processes of %s to a child cgroup",
				controller, dir, err, dir)
		}
		if err != nil && neededController(controller) {
			return fmt.Errorf("delegate %s in %s: %w", controller, dir, err)
		}
	}
	return nil
}

// neededController reports whether the kubelet cannot do without a controller.
func neededController(name string) bool {
	switch name {
	case "cpu", "cpuset", "memory", "pids":
		return true
	}
	return false
}

// processes returns the ids of all processes in a cgroup and those below it.
func (h hierarchies) processes(cgroup string) []int {
	seen := map[int]bool{}
	var pids []int
	for _, mount := range h.mounts {
		_ = filepath.WalkDir(filepath.Join(mount, cgroup), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.Name() != "cgroup.procs" {
				return nil //nolint:nilerr // A cgroup that vanished meanwhile has no processes.
			}
			data, _ := os.ReadFile(path)
			for _, field := range strings.Fields(string(data)) {
				if pid, err := strconv.Atoi(field); err == nil && !seen[pid] {
					seen[pid] = true
					pids = append(pids, pid)
				}
			}
			return nil
		})
	}
	return pids
}

// remove deletes the cluster's cgroups. The kernel refuses while a killed
// process is not quite gone, so it is retried until the deadline.
func (h hierarchies) remove(o Options, deadline time.Time) error {
	for {
		var last error
		for _, mount := range h.mounts {
			last = errors.Join(last, removeCgroup(filepath.Join(mount, o.Cgroup())))
		}
		if last == nil || time.Now().After(deadline) {
			return last
		}
		time.Sleep(pollEvery)
	}
}

// removeCgroup removes a cgroup and those below it, deepest first. Only rmdir
// works: the files in it cannot be removed.
func removeCgroup(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := removeCgroup(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	if err := syscall.Rmdir(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove the cgroup %s: %w", dir, err)
	}
	return nil
}
