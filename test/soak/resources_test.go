// SPDX-License-Identifier: Apache-2.0

package soak

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/findep/findep-operator/runtime/plan"
)

// What a process may hold more at the end than at its first sample. Goroutines
// and descriptors vary by a connection or two that is being made; memory by
// what the garbage collector has not returned.
const (
	moreGoroutines  = 12
	moreDescriptors = 12
	moreMegabytes   = 64
	// moreSockets is for a whole namespace.
	moreSockets = 16
)

// usage is what one process holds.
type usage struct {
	Name        string  `json:"name"`
	PID         int     `json:"pid"`
	Faults      int     `json:"faults"` // struck before the sample
	Megabytes   float64 `json:"megabytes"`
	Goroutines  int     `json:"goroutines"`
	Descriptors int     `json:"descriptors"`
	// Sockets are those of the process's namespace that are not waiting for
	// their end; Listening is part of them.
	Sockets     int `json:"sockets"`
	Listening   int `json:"listening"`
	WeightLoads int `json:"weightLoads,omitempty"`
}

// sample reads what every process holds now.
func (c *cluster) sample(faults int) (map[int]usage, error) {
	all := map[int]usage{}
	for _, p := range c.pods {
		for _, k := range p.containers() {
			port := plan.MetricsPort
			if k == p.server {
				port = plan.ServingPort
			}
			pid, _, _ := k.state()
			u, err := p.usage(pid, port)
			if err != nil {
				return nil, fmt.Errorf("rank %d %s: %w", p.rank, k.name, err)
			}
			u.Name, u.PID, u.Faults = fmt.Sprintf("rank %d %s", p.rank, k.name), pid, faults
			all[pid] = u
		}
	}
	return all, nil
}

func (p *pod) usage(pid, port int) (usage, error) {
	var u usage
	dir := filepath.Join("/proc", strconv.Itoa(pid))
	status, err := os.ReadFile(filepath.Join(dir, "status"))
	if err != nil {
		return u, err
	}
	for line := range strings.Lines(string(status)) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "VmRSS:" {
			kib, _ := strconv.ParseFloat(f[1], 64)
			u.Megabytes = kib / 1024
		}
	}
	descriptors, err := os.ReadDir(filepath.Join(dir, "fd"))
	if err != nil {
		return u, err
	}
	u.Descriptors = len(descriptors)
	if u.Sockets, u.Listening, err = sockets(dir); err != nil {
		return u, err
	}
	values, err := p.metrics(port)
	u.Goroutines, u.WeightLoads = int(values["go_goroutines"]), int(values["findep_weight_loads_total"])
	return u, err
}

// sockets counts the TCP sockets of a process's namespace.
func sockets(dir string) (all, listening int, err error) {
	const timeWait, listen = "06", "0A"
	for _, name := range []string{"net/tcp", "net/tcp6"} {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return 0, 0, err
		}
		for line := range strings.Lines(string(b)) {
			f := strings.Fields(line)
			if len(f) < 4 || f[3] == "st" || f[3] == timeWait {
				continue
			}
			all++
			if f[3] == listen {
				listening++
			}
		}
	}
	return all, listening, nil
}

// metrics reads the series of a port, without their labels.
func (p *pod) metrics(port int) (map[string]float64, error) {
	r, err := prober.Get(p.url(port, "/metrics"))
	if err != nil {
		return nil, err
	}
	defer func() { _ = r.Body.Close() }()
	values := map[string]float64{}
	lines := bufio.NewScanner(io.LimitReader(r.Body, 8<<20))
	for lines.Scan() {
		name, value, ok := strings.Cut(lines.Text(), " ")
		if !ok || strings.HasPrefix(name, "#") {
			continue
		}
		name, _, _ = strings.Cut(name, "{")
		if v, err := strconv.ParseFloat(lines.Text()[strings.LastIndexByte(lines.Text(), ' ')+1:], 64); err == nil {
			values[name] += v
		}
		_ = value
	}
	return values, lines.Err()
}

// leaks compares the last sample of a process with its first.
func leaks(first, last usage) []string {
	var all []string
	grown := func(what string, before, after, most float64) {
		if after > before+most {
			all = append(all, fmt.Sprintf("%s (pid %d) has %.0f %s after %d faults, and had %.0f", last.Name, last.PID, after, what, last.Faults-first.Faults, before))
		}
	}
	grown("MB", first.Megabytes, last.Megabytes, moreMegabytes)
	grown("goroutines", float64(first.Goroutines), float64(last.Goroutines), moreGoroutines)
	grown("file descriptors", float64(first.Descriptors), float64(last.Descriptors), moreDescriptors)
	grown("sockets", float64(first.Sockets), float64(last.Sockets), moreSockets)
	grown("listening ports", float64(first.Listening), float64(last.Listening), 0)
	return all
}
