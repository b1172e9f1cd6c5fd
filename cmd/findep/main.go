// SPDX-License-Identifier: Apache-2.0

// Command findep plans and runs disaggregated expert parallelism (also called
// attention-FFN disaggregation) without Kubernetes. Installed as
// kubectl-findep it is the kubectl plugin.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/findep/findep-operator/cmd/findep/cluster"
)

// version is set by the linker.
var version = "dev"

// Exit codes, so that scripts can tell the cases apart.
const (
	exitFailure    = 1
	exitUsage      = 2
	exitInfeasible = 3
	exitPoorFit    = 4
)

// usageError marks bad input of the user.
type usageError struct{ err error }

func (e usageError) Error() string { return e.err.Error() }
func (e usageError) Unwrap() error { return e.err }

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	err := newRoot().ExecuteContext(ctx)
	if err == nil {
		return
	}
	fmt.Fprintln(os.Stderr, "findep:", err)
	stop()
	os.Exit(exitCode(err))
}

func exitCode(err error) int {
	var usage usageError
	var infeasible infeasibleError
	var input cluster.BadInput
	var unfit cluster.Infeasible
	var poor poorFitError
	switch {
	case errors.As(err, &usage), errors.As(err, &input):
		return exitUsage
	case errors.As(err, &infeasible), errors.As(err, &unfit):
		return exitInfeasible
	case errors.As(err, &poor):
		return exitPoorFit
	}
	return exitFailure
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:           "findep",
		Short:         "Plan, run and inspect Mixture-of-Experts models split into attention and expert groups",
		Version:       version,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.AddCommand(newSolve(), newSimulate(), newSweep(), newRun(), newBench(), newRank(), newShow(), newCalibrate(),
		cluster.NewPlan(), cluster.NewStatus(printDeployment), cluster.NewRollout(), cluster.NewTrace())
	return root
}
