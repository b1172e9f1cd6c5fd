// SPDX-License-Identifier: Apache-2.0

package local

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
)

// Link is a pair of network namespaces, one per group, joined by a link of a
// given rate in each direction. It needs root, iproute2 and the tbf qdisc.
type Link struct {
	names [2]string
}

// The two ends' addresses; nothing else is in their namespaces.
var linkHosts = [2]string{"10.255.77.1", "10.255.77.2"}

// NewLink makes the namespaces. Rate is in tc's notation, such as 1gbit; empty
// means unshaped. Close must be called.
func NewLink(rate string) (*Link, error) {
	id := os.Getpid()
	l := &Link{names: [2]string{fmt.Sprintf("findep%da", id), fmt.Sprintf("findep%de", id)}}
	devices := [2]string{fmt.Sprintf("fa%d", id), fmt.Sprintf("fe%d", id)}
	commands := [][]string{
		{"ip", "netns", "add", l.names[0]}, {"ip", "netns", "add", l.names[1]},
		{"ip", "link", "add", devices[0], "netns", l.names[0], "type", "veth", "peer", "name", devices[1], "netns", l.names[1]},
	}
	for i, ns := range l.names {
		commands = append(commands,
			[]string{"ip", "-n", ns, "addr", "add", linkHosts[i] + "/24", "dev", devices[i]},
			[]string{"ip", "-n", ns, "link", "set", "lo", "up"},
			[]string{"ip", "-n", ns, "link", "set", devices[i], "up"})
		// Reno fills the shaper's queue and leaves the pace to it. BBR, some systems'
		// default, probes for a pace of its own and pauses to do so.
		commands = append(commands, []string{"ip", "netns", "exec", ns, "sysctl", "-q", "-w", "net.ipv4.tcp_congestion_control=reno"})
		if rate != "" {
			// Segments small enough for the burst go through the shaper whole; larger
			// ones it would cut into packets, at a cost to the cores that a
			// network card would bear.
			commands = append(commands, []string{"ip", "-n", ns, "link", "set", "dev", devices[i], "gso_max_size", "15000"})
			// A small burst, or an idle link would save up credit and carry whole
			// messages at once, which no real link does; and a queue long enough
			// that TCP and not the shaper sets the pace.
			commands = append(commands, []string{"tc", "-n", ns, "qdisc", "add", "dev", devices[i], "root", "tbf",
				"rate", rate, "burst", "16kb", "latency", "200ms"})
		}
	}
	for _, c := range commands {
		if out, err := exec.Command(c[0], c[1:]...).CombinedOutput(); err != nil {
			return nil, errors.Join(fmt.Errorf("%s: %w: %s", strings.Join(c, " "), err, out), l.Close())
		}
	}
	return l, nil
}

// Place puts attention ranks at one end and expert ranks at the other. With
// pin, each group has one core of its own.
func (l *Link) Place(attention int, pin bool) func(rank int) (string, []string) {
	return func(rank int) (string, []string) {
		end := 0
		if rank >= attention {
			end = 1
		}
		under := []string{"ip", "netns", "exec", l.names[end]}
		if pin {
			under = append(under, "taskset", "-c", fmt.Sprint(end))
		}
		return linkHosts[end], under
	}
}

// Close removes the namespaces and with them the link. Processes in them must
// have ended.
func (l *Link) Close() error {
	var errs []error
	for _, ns := range l.names {
		if _, err := os.Stat("/var/run/netns/" + ns); err != nil {
			continue
		}
		if out, err := exec.Command("ip", "netns", "del", ns).CombinedOutput(); err != nil {
			errs = append(errs, fmt.Errorf("ip netns del %s: %w: %s", ns, err, out))
		}
	}
	return errors.Join(errs...)
}
