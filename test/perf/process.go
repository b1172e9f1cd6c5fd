// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// process is a program that was started for the measurement.
type process struct {
	name string
	cmd  *exec.Cmd
	log  string
	// done is closed when it has ended.
	done chan struct{}
}

// start runs a program with its output in dir/name.log. The environment is not
// passed on: a proxy setting would send requests out of the machine.
func start(dir, name string, env []string, args ...string) (*process, error) {
	p := &process{name: name, log: filepath.Join(dir, name+".log"), done: make(chan struct{})}
	out, err := os.OpenFile(p.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, err
	}
	defer func() { _ = out.Close() }()
	p.cmd = exec.Command(args[0], args[1:]...)
	p.cmd.Dir, p.cmd.Stdout, p.cmd.Stderr = dir, out, out
	p.cmd.Env = append([]string{"PATH=/usr/bin:/bin", "HOME=" + dir}, env...)
	// What was started must not outlive this program, however it ends.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	go func() {
		_ = p.cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

// alive returns an error with the end of the log if the process has ended.
func (p *process) alive() error {
	select {
	case <-p.done:
		return fmt.Errorf("%s has ended (%v); its log %s ends with:\n%s", p.name, p.cmd.ProcessState, p.log, lastLines(p.log, 10))
	default:
		return nil
	}
}

// stop ends the process, first gently.
func (p *process) stop() {
	if p == nil {
		return
	}
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(20 * time.Second):
		_ = p.cmd.Process.Kill()
		<-p.done
	}
}

// usage is what a process has cost so far.
type usage struct {
	// CPUSeconds is user and system time.
	CPUSeconds float64 `json:"cpuSeconds"`
	// PeakMiB is the largest resident set.
	PeakMiB float64 `json:"peakMiB"`
}

// ticksPerSecond is USER_HZ, which Linux fixes at 100 for user space.
const ticksPerSecond = 100

// usage reads /proc, so that it is known while the process runs.
func (p *process) usage() (usage, error) {
	if p == nil {
		return usage{}, nil
	}
	dir := filepath.Join("/proc", strconv.Itoa(p.cmd.Process.Pid))
	stat, err := os.ReadFile(filepath.Join(dir, "stat"))
	if err != nil {
		return usage{}, errors.Join(err, p.alive())
	}
	status, err := os.ReadFile(filepath.Join(dir, "status"))
	if err != nil {
		return usage{}, err
	}
	return parseUsage(string(stat), string(status))
}

// parseUsage reads /proc/PID/stat and /proc/PID/status (proc(5)).
func parseUsage(stat, status string) (usage, error) {
	// The second field is the name in parentheses, which may hold spaces.
	_, rest, found := strings.Cut(stat, ") ")
	fields := strings.Fields(rest)
	const utime, stime = 11, 12
	if !found || len(fields) <= stime {
		return usage{}, fmt.Errorf("/proc/PID/stat is %q; expected at least 15 fields", stat)
	}
	var u usage
	for _, at := range []int{utime, stime} {
		ticks, err := strconv.ParseFloat(fields[at], 64)
		if err != nil {
			return usage{}, fmt.Errorf("/proc/PID/stat: %w", err)
		}
		u.CPUSeconds += ticks / ticksPerSecond
	}
	for line := range strings.Lines(status) {
		if value, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kib, err := strconv.ParseFloat(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(value), "kB")), 64)
			if err != nil {
				return usage{}, fmt.Errorf("/proc/PID/status: %w", err)
			}
			u.PeakMiB = kib / 1024
		}
	}
	return u, nil
}

func lastLines(path string, n int) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	lines := bytes.Split(bytes.TrimSpace(b), []byte("\n"))
	return string(bytes.Join(lines[max(0, len(lines)-n):], []byte("\n")))
}
