// SPDX-License-Identifier: Apache-2.0

package main

import (
	"github.com/spf13/cobra"

	"github.com/findep/findep-operator/runtime/agent"
)

// newRank is the process that `findep run` starts once per rank: the sidecar
// itself, in this binary.
func newRank() *cobra.Command {
	var o agent.Options
	cmd := &cobra.Command{
		Use:    "rank",
		Short:  "Run one rank of a local instance",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE:   func(cmd *cobra.Command, _ []string) error { return agent.Run(cmd.Context(), o) },
	}
	o.AddFlags(cmd.Flags())
	return cmd
}
