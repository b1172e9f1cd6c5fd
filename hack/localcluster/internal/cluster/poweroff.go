// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"fmt"
	"path/filepath"
	"strings"
	"time"
)

// PowerOff ends a node as a power cut does: its kubelet, containerd, kube-proxy
// and all containers are killed at once, and nobody tells the API server. The
// node's files stay, as a disk does; Up switches it on again.
func (c *Cluster) PowerOff(node string) error {
	numbers, err := c.nodesByName([]string{node})
	if err != nil {
		return err
	}
	unlock, err := c.lock()
	if err != nil {
		return err
	}
	defer unlock()
	h, err := hostHierarchies()
	if err != nil {
		return err
	}
	start := time.Now()
	if left := c.stopProcesses(h, c.nodeExtent(numbers[0]), start.Add(downTimeout)); left > 0 {
		return fmt.Errorf("%d processes of %s still run after %s", left, node, downTimeout)
	}
	c.printf("%s is off after %.1f s; up switches it on again\n", node, time.Since(start).Seconds())
	return nil
}

// nodeExtent is node i without its network, which the host keeps.
func (c *Cluster) nodeExtent(i int) extent {
	name := c.Options.NodeName(i)
	return extent{
		covers: func(component string) bool { return strings.HasSuffix(component, "-"+name) },
		paths:  Paths{Base: c.Paths.node(i), Run: filepath.Dir(c.Paths.Socket(i))},
		cgroup: filepath.Join(c.Options.Cgroup(), name),
	}
}
