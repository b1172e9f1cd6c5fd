// SPDX-License-Identifier: Apache-2.0

// Command runtime is the sidecar of the soak test: cmd/runtime with one backend
// more, whose kernels can be made to hang.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"github.com/findep/findep-operator/runtime/agent"
	"github.com/findep/findep-operator/runtime/backend"
)

// The backend wedgeable is the one that backendEnv names; its experts and matrix
// products hang while the file that wedgeEnv names exists.
const (
	wedgeable  = "wedgeable"
	backendEnv = "FINDEP_SOAK_BACKEND"
	wedgeEnv   = "FINDEP_SOAK_WEDGE"
	// watchInterval is how often the file is looked for.
	watchInterval = 5 * time.Millisecond
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	backend.Register(wedgeable, open)
	var o agent.Options
	flags := pflag.NewFlagSet("runtime", pflag.ExitOnError)
	o.AddFlags(flags)
	_ = flags.Parse(os.Args[1:])
	if err := agent.Run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "runtime:", err)
		stop()
		os.Exit(1)
	}
}

func open(o backend.Options) (backend.Device, error) {
	d, err := backend.Open(os.Getenv(backendEnv), o)
	if err != nil {
		return nil, err
	}
	w := &device{Device: d}
	go w.watch(os.Getenv(wedgeEnv))
	return w, nil
}

type device struct {
	backend.Device
	wedged atomic.Bool
}

// watch looks for the file for as long as the process lives.
func (d *device) watch(path string) {
	for ; ; time.Sleep(watchInterval) {
		_, err := os.Stat(path)
		d.wedged.Store(err == nil)
	}
}

func (d *device) NewStream(threads int) (backend.Stream, error) {
	s, err := d.Device.NewStream(threads)
	return stream{s, d}, err
}

type stream struct {
	backend.Stream
	device *device
}

// hang keeps the thread in the system for ever, out of reach of everything in
// the process.
func (s stream) hang() {
	for s.device.wedged.Load() {
		_, _ = unix.Poll(nil, -1)
	}
}

func (s stream) MatMul(out, x, w backend.Matrix, accumulate bool) error {
	s.hang()
	return s.Stream.MatMul(out, x, w, accumulate)
}

func (s stream) ExpertMLP(out, x backend.Matrix, args backend.ExpertMLPArgs) error {
	s.hang()
	return s.Stream.ExpertMLP(out, x, args)
}
