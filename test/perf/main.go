// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/go-logr/logr"
	"github.com/spf13/cobra"
	"k8s.io/klog/v2"
	ctrl "sigs.k8s.io/controller-runtime"

	"github.com/findep/findep-operator/hack/localcluster/features"
)

func main() {
	klog.SetLogger(logr.Discard())
	ctrl.SetLogger(logr.Discard())
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := command().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		stop()
		os.Exit(1)
	}
}

func command() *cobra.Command {
	var set settings
	var names []string
	var out string
	var table bool
	c := &cobra.Command{
		Use:          "perf",
		Short:        "Measure the operator, and others, at scale",
		Args:         cobra.NoArgs,
		SilenceUsage: true, SilenceErrors: true,
		RunE: func(c *cobra.Command, _ []string) error { return run(c.Context(), names, set, out, table) },
	}
	f := c.Flags()
	f.StringSliceVar(&names, "subject", []string{"bare", "findep"}, "what to measure, in this order: "+strings.Join(slices.Sorted(maps.Keys(subjects)), ", "))
	f.IntVar(&set.groups, "groups", 500, "number of MoEDeployments, StatefulSets, ...")
	f.IntVar(&set.pods, "pods", 16, "pods of each")
	f.IntVar(&set.nodes, "nodes", 1000, "number of nodes, with 8 GPUs each")
	f.StringVar(&set.gates, "feature-gates", features.Gates, "feature gates of API server and scheduler")
	f.BoolVar(&set.topology, "topology", true, "let the operator prefer one rack for each instance, as it does by default")
	f.DurationVar(&set.rest, "rest", time.Minute, "how long to watch the operator at rest; 0 leaves this out")
	f.BoolVar(&set.restart, "restart", true, "restart the manager")
	f.BoolVar(&set.roll, "roll", true, "roll all pods")
	f.DurationVar(&set.limit, "limit", 15*time.Minute, "give up a phase after this time")
	f.StringSliceVar(&set.managerArgs, "manager-arg", nil, "further flags of the manager")
	f.StringVar(&set.lws.manager, "lws-manager", "", "program of LeaderWorkerSet's manager, for --subject lws")
	f.StringVar(&set.lws.source, "lws-source", "", "folder of LeaderWorkerSet's module, for --subject lws")
	f.StringVar(&set.profile, "profile", "", "folder for CPU profiles of API server, scheduler and operator, and one of its heap, while pods are made")
	f.BoolVar(&set.check, "check", false, "fail if the operator is worse than what ranges.yaml records")
	f.BoolVar(&set.keep, "keep", false, "keep the folder with the logs")
	f.StringVar(&out, "out", "", "file for the results as JSON")
	f.BoolVar(&table, "table", false, "print the results as a table in Markdown")
	return c
}

func run(ctx context.Context, names []string, set settings, out string, table bool) error {
	if !inside() {
		return enter(ctx)
	}
	err := bringUpLoopback(ctx)
	if err != nil {
		return err
	}
	if set.root, err = repository(); err != nil {
		return err
	}
	if set.groups < 1 || set.pods < 3 || set.nodes*gpusPerNode < set.groups*set.pods {
		return fmt.Errorf("%d groups of %d pods do not fit on %d nodes of %d GPUs; a group needs 3 pods at least", set.groups, set.pods, set.nodes, gpusPerNode)
	}
	var results []*result
	for _, name := range names {
		if subjects[name] == nil {
			return fmt.Errorf("--subject %q is unknown; use %s", name, strings.Join(slices.Sorted(maps.Keys(subjects)), ", "))
		}
		r, err := measure(ctx, name, set)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if name == "findep" && set.check {
			if err := checkRanges(r, recordedRanges); err != nil {
				return err
			}
		}
		results = append(results, r)
	}
	return report(results, out, table)
}

// report writes the results to a file or prints them, as JSON or as a table.
func report(results []*result, out string, table bool) error {
	b, err := json.MarshalIndent(results, "", "  ")
	if err != nil {
		return err
	}
	if table {
		if err := markdown(os.Stdout, results); err != nil {
			return err
		}
	}
	if out != "" {
		return os.WriteFile(out, append(b, '\n'), 0o644)
	}
	if !table {
		_, err = fmt.Println(string(b))
	}
	return err
}

// repository finds the folder with go.mod.
func repository() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for ; dir != "/"; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
	}
	return "", errors.New("run this inside the repository: there is no go.mod above the current folder")
}
