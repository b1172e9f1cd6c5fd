// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Both ways to find a process must find the same: the record of a component, and
// its command line should the record be lost.
func TestNodeExtentCoversExactlyItsNode(t *testing.T) {
	o := Defaults()
	o.Nodes = 12
	c := &Cluster{Options: o, Paths: testPaths(o)}
	part := c.nodeExtent(1)
	var byName, byCommand []string
	for _, comp := range components(o, c.Paths, "/b") {
		if part.covers(comp.name) {
			byName = append(byName, comp.name)
		}
		args := comp.args
		if args[0] == "nsenter" {
			// It executes the program in its own place.
			args = args[2:]
		}
		if isOurs([]byte(strings.Join(args, "\x00")+"\x00"), part.paths) {
			byCommand = append(byCommand, comp.name)
		}
	}
	want := []string{"containerd-node1", "kubelet-node1", "kube-proxy-node1"}
	if diff := cmp.Diff(want, byName); diff != "" {
		t.Errorf("by name (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(want, byCommand); diff != "" {
		t.Errorf("by command (-want +got):\n%s", diff)
	}
	shim := "/b/containerd-shim-runc-v2\x00-address\x00" + c.Paths.Socket(1) + "\x00"
	if !isOurs([]byte(shim), part.paths) || isOurs([]byte(shim), c.nodeExtent(2).paths) {
		t.Errorf("the shim %q must belong to node1 alone", shim)
	}
	if part.cgroup != "findep-findep/node1" {
		t.Errorf("cgroup = %s, want findep-findep/node1", part.cgroup)
	}
}

func TestPowerOffNamesTheNodesThatThereAre(t *testing.T) {
	err := (&Cluster{Options: Defaults()}).PowerOff("node3")
	if err == nil || !strings.Contains(err.Error(), "node1 to node2") {
		t.Errorf("error = %v, want one that names node1 to node2", err)
	}
}
