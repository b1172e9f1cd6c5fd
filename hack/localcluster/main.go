// SPDX-License-Identifier: Apache-2.0

// Command localcluster runs a real Kubernetes cluster on this machine, as root,
// without a container engine and without a registry. See docs/localcluster.md.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/findep/findep-operator/hack/localcluster/binaries"
	"github.com/findep/findep-operator/hack/localcluster/internal/cluster"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := newCommand().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "Error:", err)
		stop()
		os.Exit(1)
	}
}

func newCommand() *cobra.Command {
	name := cluster.Defaults().Name
	root := &cobra.Command{
		Use:           "localcluster",
		Short:         "Run a real Kubernetes cluster on this machine, without a container engine",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.PersistentFlags().StringVar(&name, "name", name, "name of the cluster")
	root.AddCommand(
		buildCommand(), upCommand(&name), downCommand(&name), statusCommand(&name), powerOffCommand(&name),
		loadImageCommand(), kubeconfigCommand(&name), binDirCommand(),
	)
	return root
}

func buildCommand() *cobra.Command {
	var only []string
	cmd := &cobra.Command{
		Use:   "build [cluster|envtest|tools|all|NAME...]",
		Short: "Build programs into the cache folder",
		Long: `Build the named programs, or sets of programs, from their pinned modules into
$FINDEP_CACHE/bin (default ~/.cache/findep/bin). What is there and current is not
built again. Without arguments: those that a cluster needs.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			args = append(args, only...)
			builder, err := binaries.NewBuilder(cmd.OutOrStdout())
			if err != nil {
				return err
			}
			names, err := expand(args)
			if err != nil {
				return err
			}
			if err := builder.Ensure(cmd.Context(), names...); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%d programs are current in %s\n", len(names), builder.Bin)
			return nil
		},
	}
	cmd.Flags().StringSliceVar(&only, "only", nil, "programs or sets to build, as one list with commas")
	return cmd
}

// expand replaces the names of sets by those of their members.
func expand(args []string) ([]string, error) {
	if len(args) == 0 {
		args = []string{string(binaries.Cluster)}
	}
	var names []string
	for _, a := range args {
		members, err := binaries.Set(a).Names()
		if err == nil {
			names = append(names, members...)
			continue
		}
		if _, unknown := binaries.Lookup(a); unknown != nil {
			return nil, errors.Join(err, unknown)
		}
		names = append(names, a)
	}
	return names, nil
}

// open returns the named cluster; progress goes to the command's output.
func open(cmd *cobra.Command, name string) (c *cluster.Cluster, found bool, err error) {
	builder, err := binaries.NewBuilder(cmd.OutOrStdout())
	if err != nil {
		return nil, false, err
	}
	return cluster.Open(name, builder, cmd.OutOrStdout())
}

// openExisting is open for commands that need a cluster.
func openExisting(cmd *cobra.Command, name string) (*cluster.Cluster, error) {
	c, found, err := open(cmd, name)
	if err != nil {
		return nil, err
	}
	if !found {
		return nil, fmt.Errorf("cluster %s: %w", name, cluster.ErrNone)
	}
	return c, nil
}

func downCommand(name *string) *cobra.Command {
	return &cobra.Command{
		Use:   "down",
		Short: "Remove the cluster and everything it left on this machine",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, _, err := open(cmd, *name)
			if err != nil {
				return err
			}
			return c.Down(cmd.Context())
		},
	}
}

func statusCommand(name *string) *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Show every component; fails if one is not ready",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := openExisting(cmd, *name)
			if err != nil {
				return err
			}
			all, err := c.Status(cmd.Context())
			if err != nil {
				return err
			}
			if err := cluster.WriteStatus(cmd.OutOrStdout(), all); err != nil {
				return err
			}
			if !cluster.AllReady(all) {
				return fmt.Errorf("cluster %s is not ready: run up to repair it", *name)
			}
			return nil
		},
	}
}

func powerOffCommand(name *string) *cobra.Command {
	return &cobra.Command{
		Use:   "power-off NODE",
		Short: "End a node as a power cut does; up switches it on again",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := openExisting(cmd, *name)
			if err != nil {
				return err
			}
			return c.PowerOff(args[0])
		},
	}
}

func kubeconfigCommand(name *string) *cobra.Command {
	return &cobra.Command{
		Use:   "kubeconfig",
		Short: "Print the path of the administrator's kubeconfig",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := openExisting(cmd, *name)
			if err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), c.Paths.Kubeconfig())
			return nil
		},
	}
}

func binDirCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "bin-dir",
		Short: "Print the folder of the programs, kubectl among them",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			builder, err := binaries.NewBuilder(cmd.OutOrStdout())
			if err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), builder.Bin)
			return nil
		},
	}
}
