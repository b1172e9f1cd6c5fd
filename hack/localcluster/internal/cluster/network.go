// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
)

// overlapWith returns a test whether a route's destination, a network or an
// address, has addresses in common with prefix.
func overlapWith(prefix netip.Prefix) func(string) bool {
	return func(s string) bool {
		if other, err := netip.ParsePrefix(s); err == nil {
			// The default route contains everything and conflicts with nothing.
			return other.Bits() > 0 && prefix.Overlaps(other)
		}
		addr, err := netip.ParseAddr(s)
		return err == nil && prefix.Contains(addr)
	}
}

// networkCommands returns the "ip" commands that make the bridge, the nodes'
// namespaces and all routes. Each may be repeated: "File exists" is no failure.
func networkCommands(o Options) [][]string {
	bridge := o.Bridge()
	bits := o.NodeCIDR.Bits()
	var commands [][]string
	ip := func(format string, args ...any) {
		commands = append(commands, strings.Fields(fmt.Sprintf(format, args...)))
	}
	ip("link add %s type bridge", bridge)
	ip("addr replace %s/%d dev %s", o.Gateway(), bits, bridge)
	ip("link set %s up", bridge)
	for _, i := range o.nodeNumbers() {
		ns, veth := o.Netns(i), o.Veth(i)
		ip("netns add %s", ns)
		ip("link add %s type veth peer name eth0 netns %s", veth, ns)
		ip("link set %s master %s up", veth, bridge)
		ip("-n %s addr replace %s/%d dev eth0", ns, o.NodeAddr(i), bits)
		ip("-n %s link set lo up", ns)
		ip("-n %s link set eth0 up", ns)
		ip("-n %s route replace default via %s", ns, o.Gateway())
		ip("route replace %s via %s", o.PodSubnet(i), o.NodeAddr(i))
		for _, j := range o.nodeNumbers() {
			if i != j {
				ip("-n %s route replace %s via %s", ns, o.PodSubnet(j), o.NodeAddr(j))
			}
		}
	}
	return commands
}

// setUpNetwork makes the network, or repairs it.
func (c *Cluster) setUpNetwork(ctx context.Context) error {
	for _, args := range networkCommands(c.Options) {
		if out, err := run(ctx, "ip", args...); err != nil && !strings.Contains(out, "File exists") {
			return err
		}
	}
	for _, i := range c.Options.nodeNumbers() {
		// /proc/sys/net shows the settings of the reader's own namespace.
		set := "echo 1 > " + ipForwardFile +
			"; if [ -e /proc/sys/net/bridge/bridge-nf-call-iptables ]; then echo 1 > /proc/sys/net/bridge/bridge-nf-call-iptables; fi"
		args := inNode(c.Options, i, "sh", "-c", set)
		if _, err := run(ctx, args[0], args[1:]...); err != nil {
			return fmt.Errorf("set up %s: %w", c.Options.NodeName(i), err)
		}
	}
	return nil
}

// netnsDir is where "ip netns" keeps its namespaces.
const netnsDir = "/var/run/netns"

// removeNetwork deletes the cluster's namespaces and interfaces, and with them
// the addresses and routes. It goes by name and not by the options, so that it
// also works after the state was lost.
func (c *Cluster) removeNetwork(ctx context.Context) error {
	namespaces, links := c.networkLeftovers()
	var errs []error
	for _, ns := range namespaces {
		_, err := run(ctx, "ip", "netns", "del", ns)
		errs = append(errs, err)
	}
	for _, link := range links {
		// A veth may have gone with its namespace a moment ago.
		if out, err := run(ctx, "ip", "link", "del", link); err != nil && !strings.Contains(out, "Cannot find device") {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// networkLeftovers returns the cluster's network namespaces and host interfaces
// that exist.
func (c *Cluster) networkLeftovers() (namespaces, links []string) {
	entries, _ := os.ReadDir(netnsDir)
	for _, e := range entries {
		number, ours := strings.CutPrefix(e.Name(), c.Options.Name+"-node")
		if ours && number != "" && strings.Trim(number, "0123456789") == "" {
			namespaces = append(namespaces, e.Name())
		}
	}
	found, _ := filepath.Glob("/sys/class/net/" + c.Options.linkPrefix() + "*")
	for _, f := range found {
		links = append(links, filepath.Base(f))
	}
	return namespaces, links
}
