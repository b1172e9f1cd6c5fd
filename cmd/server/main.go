// SPDX-License-Identifier: Apache-2.0

// Command server is the main container of the leader's pod, rank 0 of an
// instance: it serves the OpenAI-compatible API, batches requests and drives the
// steps of the instance through the sidecar's socket.
package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/findep/findep-operator/runtime/plan"
)

// version is set by the linker.
var version = "dev"

// maxConfigBytes is a Secret's limit.
const maxConfigBytes = 1 << 20

// options are the command's flags.
type options struct {
	configDir, socket, listen string
	rank                      int
	maxQueue                  int
	maxBodyBytes              int64
	drainTimeout              time.Duration
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	log := slog.New(slog.NewJSONHandler(os.Stderr, nil))
	slog.SetDefault(log)
	if err := command(log).ExecuteContext(ctx); err != nil {
		log.Error("the server ends", "error", err)
		stop()
		os.Exit(1)
	}
}

func command(log *slog.Logger) *cobra.Command {
	var o options
	cmd := &cobra.Command{
		Use:           "server",
		Short:         "Serve the OpenAI-compatible API of an instance",
		Version:       version,
		Args:          cobra.NoArgs,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.rank > 0 {
				return idle(cmd.Context(), &o, log.With("rank", o.rank))
			}
			instance, err := o.load()
			if err != nil {
				return err
			}
			listener, err := o.bind(cmd.Context())
			if err != nil {
				return err
			}
			return run(cmd.Context(), &o, instance, listener, log.With("rank", 0))
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.configDir, "config-dir", "/etc/findep/instance", "directory with "+plan.InstanceFile)
	f.StringVar(&o.socket, "socket", "/run/findep/engine.sock", "Unix socket of the sidecar's Engine API")
	f.IntVar(&o.rank, "rank", 0, "this pod's rank; on another one than 0 only probes are answered")
	f.StringVar(&o.listen, "listen", ":"+strconv.Itoa(plan.ServingPort), "address to serve HTTP on")
	f.IntVar(&o.maxQueue, "max-queue", 1024, "prompts that may wait; more are answered with 429")
	f.Int64Var(&o.maxBodyBytes, "max-body-bytes", 8<<20, "largest request body; larger ones are answered with 413")
	f.DurationVar(&o.drainTimeout, "drain-timeout", 25*time.Second, "how long accepted requests may go on after SIGTERM")
	return cmd
}

func (o *options) bind(ctx context.Context) (net.Listener, error) {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", o.listen)
	if err != nil {
		return nil, fmt.Errorf("--listen %s: %w", o.listen, err)
	}
	return listener, nil
}

// load reads the instance's configuration and checks the flags against it.
func (o *options) load() (*plan.Instance, error) {
	path := filepath.Join(o.configDir, plan.InstanceFile)
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("instance configuration: %w", err)
	}
	if info.Size() > maxConfigBytes {
		return nil, fmt.Errorf("instance configuration %s has %d bytes; at most %d are read", path, info.Size(), maxConfigBytes)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("instance configuration: %w", err)
	}
	instance, err := plan.DecodeInstance(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	switch {
	case o.maxQueue < 1:
		return nil, fmt.Errorf("--max-queue is %d; it must be at least 1", o.maxQueue)
	case o.maxBodyBytes < 1:
		return nil, fmt.Errorf("--max-body-bytes is %d; it must be at least 1", o.maxBodyBytes)
	}
	return instance, nil
}
