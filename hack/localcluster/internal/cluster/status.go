// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
)

// Status is what is known of one component.
type Status struct {
	Component string
	// PID is 0 if the component does not run, or is not a process.
	PID int
	// Ready is true if the component does its work, not only exists.
	Ready bool
	// Detail is a remark for people.
	Detail string
	// Log is the path of its log file.
	Log string
}

// Status looks at every component. It does not wait.
func (c *Cluster) Status(ctx context.Context) ([]Status, error) {
	records, err := loadRecords(c.Paths)
	if err != nil {
		return nil, err
	}
	nodes, dns := c.observe(ctx)
	var all []Status
	for _, comp := range components(c.Options, c.Paths, c.bin()) {
		r := records[comp.name]
		s := Status{Component: comp.name, Log: r.Log}
		switch {
		case r.PID == 0:
			s.Detail = "was not started"
		case !r.alive():
			s.Detail = "has ended"
		default:
			s.PID = r.PID
			s.Ready, s.Detail = c.componentReady(ctx, comp, nodes)
		}
		all = append(all, s)
	}
	all = append(all, Status{Component: "coredns", Ready: dns, Detail: "Deployment kube-system/coredns"})
	return all, nil
}

// observe reads the nodes and the state of DNS; an API server that does not
// answer shows as none of both.
func (c *Cluster) observe(ctx context.Context) (map[string]nodeObject, bool) {
	api, err := newAPIClient(c.Options, c.Paths)
	if err != nil {
		return nil, false
	}
	nodes, err := api.nodes(ctx)
	if err != nil {
		return nil, false
	}
	dns, err := api.dnsReady(ctx)
	return nodes, err == nil && dns
}

func (c *Cluster) componentReady(ctx context.Context, comp component, nodes map[string]nodeObject) (bool, string) {
	kind, node, _ := strings.Cut(comp.name, "-node")
	name := "node" + node
	switch kind {
	case "containerd":
		for _, i := range c.Options.nodeNumbers() {
			if c.Options.NodeName(i) == name {
				return listening(ctx, c.Paths.Socket(i)), ""
			}
		}
		return false, ""
	case "kubelet":
		n := nodes[name]
		switch {
		case !n.ready():
			return false, "node is not Ready"
		case !n.hasGPUs(c.Options):
			return false, "node does not show its GPUs"
		}
		return true, fmt.Sprintf("%s GPUs, rack %s", n.Status.Allocatable[gpuResource], n.Metadata.Labels[rackLabel])
	}
	return healthy(ctx, comp.health), ""
}

// ready reports whether there is nothing for Up to do.
func (c *Cluster) ready(ctx context.Context) bool {
	all, err := c.Status(ctx)
	return err == nil && AllReady(all)
}

// AllReady reports whether every component is ready.
func AllReady(all []Status) bool {
	for _, s := range all {
		if !s.Ready {
			return false
		}
	}
	return len(all) > 0
}

// WriteStatus prints a table for people.
func WriteStatus(w io.Writer, all []Status) error {
	table := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	fmt.Fprintln(table, "COMPONENT\tPID\tREADY\tDETAIL\tLOG")
	for _, s := range all {
		pid, ready := "-", "no"
		if s.PID > 0 {
			pid = fmt.Sprint(s.PID)
		}
		if s.Ready {
			ready = "yes"
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\n", s.Component, pid, ready, s.Detail, s.Log)
	}
	return table.Flush()
}
