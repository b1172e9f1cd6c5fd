// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"syscall"
)

// insideVariable marks the process that runs in the network namespace.
const insideVariable = "FINDEP_PERF_INSIDE"

// inside says whether this process is the one in the namespace.
func inside() bool { return os.Getenv(insideVariable) != "" }

// enter runs this program again in a network namespace of its own, where every
// port and every address of 127/8 is free. It needs root, as `ip netns` does.
func enter(ctx context.Context) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	c := exec.CommandContext(ctx, self, os.Args[1:]...)
	c.Env = append(os.Environ(), insideVariable+"=1")
	c.Stdin, c.Stdout, c.Stderr = os.Stdin, os.Stdout, os.Stderr
	c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	c.Cancel = func() error { return c.Process.Signal(syscall.SIGTERM) }
	if err := c.Run(); err != nil {
		return fmt.Errorf("measure in a network namespace of its own (needs root): %w", err)
	}
	return nil
}

// bringUpLoopback makes 127/8 usable: in a new namespace it is down.
func bringUpLoopback(ctx context.Context) error {
	out, err := exec.CommandContext(ctx, "ip", "link", "set", "lo", "up").CombinedOutput()
	if err != nil {
		return fmt.Errorf("ip link set lo up: %w: %s", err, out)
	}
	return nil
}
