// SPDX-License-Identifier: Apache-2.0

// Command runtime is the sidecar of every pod: it owns the accelerator, joins
// the other ranks of the instance, chooses schedules and executes them.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/findep/findep-operator/runtime/agent"
)

// version is set by the linker.
var version = "dev"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	var o agent.Options
	cmd := &cobra.Command{
		Use:           "runtime",
		Short:         "Run one rank of a disaggregated expert-parallel instance",
		Version:       version,
		Args:          cobra.NoArgs,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE:          func(cmd *cobra.Command, _ []string) error { return agent.Run(cmd.Context(), o) },
	}
	o.AddFlags(cmd.Flags())
	if err := cmd.ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "runtime:", err)
		stop()
		os.Exit(1)
	}
}
