// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	appsv1 "k8s.io/api/apps/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/findep/findep-operator/api/v1alpha1"
	"github.com/findep/findep-operator/controllers/render"
	"github.com/findep/findep-operator/controllers/resolve"
)

// pollInterval is how often a rollout that is waited for is looked at.
const pollInterval = time.Second

// NewRollout is the command that shows and steers rollouts.
func NewRollout() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "rollout",
		Short: "Watch, list, undo, pause or resume the rollouts of a MoEDeployment",
	}
	a := newAccess(cmd)
	cmd.AddCommand(newRolloutStatus(a), newRolloutHistory(a), newRolloutUndo(a),
		newRolloutSwitch(a, "pause", "Hold a rollout between two instances", v1alpha1.Enabled),
		newRolloutSwitch(a, "resume", "Let a paused rollout go on", v1alpha1.Disabled))
	return cmd
}

func newRolloutStatus(a *access) *cobra.Command {
	var wait bool
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "status NAME",
		Short: "Wait until every instance is at the current revision and serves",
		Args:  oneDeployment,
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, cancel := cmd.Context(), func() {}
			if timeout > 0 {
				ctx, cancel = context.WithTimeout(ctx, timeout)
			}
			defer cancel()
			return waitForRollout(ctx, a, args[0], wait, cmd.OutOrStdout())
		},
	}
	cmd.Flags().BoolVar(&wait, "watch", true, "wait for the end; otherwise say how things are and return")
	cmd.Flags().DurationVar(&timeout, "timeout", 0, "give up after this time (0: never)")
	return cmd
}

func waitForRollout(ctx context.Context, a *access, name string, wait bool, out io.Writer) error {
	c, err := a.open()
	if err != nil {
		return err
	}
	last := ""
	for {
		d, err := a.get(ctx, c, name)
		if err != nil {
			return err
		}
		text, done, err := progressOf(d)
		if err != nil {
			return err
		}
		if text != last {
			fmt.Fprintln(out, text)
			last = text
		}
		if done || !wait {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("MoEDeployment %s: the rollout is not complete: %s (%w)", name, text, ctx.Err())
		case <-time.After(pollInterval):
		}
	}
}

// revisions are the ControllerRevisions of a deployment, oldest first, or what it
// asks for now as long as nothing else was ever asked for.
func (a *access) revisions(ctx context.Context, c client.Client, d *v1alpha1.MoEDeployment) ([]revision, error) {
	var list appsv1.ControllerRevisionList
	if err := c.List(ctx, &list, client.InNamespace(d.Namespace), client.MatchingLabels(render.DeploymentLabels(d.Name))); err != nil {
		return nil, fmt.Errorf("list ControllerRevisions: %w", err)
	}
	out := make([]revision, 0, len(list.Items))
	for i := range list.Items {
		r := revision{ControllerRevision: &list.Items[i]}
		if err := json.Unmarshal(r.Data.Raw, &r.intent); err != nil {
			return nil, fmt.Errorf("ControllerRevision %s: %w", r.Name, err)
		}
		out = append(out, r)
	}
	slices.SortFunc(out, func(x, y revision) int { return cmp.Compare(x.Revision, y.Revision) })
	if len(out) > 0 {
		return out, nil
	}
	return onlyRevision(ctx, c, d)
}

func newRolloutHistory(a *access) *cobra.Command {
	var number int64
	cmd := &cobra.Command{
		Use:   "history NAME",
		Short: "List the revisions of what was asked for, and what changed in each",
		Args:  oneDeployment,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.open()
			if err != nil {
				return err
			}
			d, err := a.get(cmd.Context(), c, args[0])
			if err != nil {
				return err
			}
			list, err := a.revisions(cmd.Context(), c, d)
			if err != nil {
				return err
			}
			if number == 0 {
				return writeHistory(cmd.OutOrStdout(), d, list)
			}
			r, err := find(list, number)
			if err != nil {
				return err
			}
			text, err := toYAML(r.intent)
			fmt.Fprint(cmd.OutOrStdout(), text)
			return err
		},
	}
	cmd.Flags().Int64Var(&number, "revision", 0, "show one revision in full")
	return cmd
}

func writeHistory(out io.Writer, d *v1alpha1.MoEDeployment, list []revision) error {
	instances := map[string]int{}
	for _, i := range d.Status.Instances {
		instances[i.Revision]++
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "REVISION\tID\tINSTANCES\tCREATED\tCHANGES")
	for i, r := range list {
		changes := "first that is kept"
		if i > 0 {
			changes = changesBetween(list[i-1].intent, r.intent)
		}
		fmt.Fprintf(w, "%d\t%s\t%d\t%s\t%s\n", r.Revision, r.id(), instances[r.id()],
			r.CreationTimestamp.UTC().Format(time.RFC3339), changes)
	}
	return w.Flush()
}

func newRolloutUndo(a *access) *cobra.Command {
	var number int64
	var dry bool
	cmd := &cobra.Command{
		Use:   "undo NAME",
		Short: "Go back to an earlier revision of what was asked for",
		Long: `Writes the intent of an earlier revision (model, GPUs, groups, images, placement) into the spec;
replicas, schedule, objectives and rollout settings stay as they are. The default is the revision
before the current one. Where the object is kept by GitOps, revert it there instead: what is
changed here would be changed back.`,
		Args: oneDeployment,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.open()
			if err != nil {
				return err
			}
			return undo(cmd.Context(), a, c, args[0], number, dry, cmd.OutOrStdout())
		},
	}
	cmd.Flags().Int64Var(&number, "to-revision", 0, "number of the revision, as history lists it (0: the one before)")
	cmd.Flags().BoolVar(&dry, "dry-run", false, "have the API server check the change without making it")
	return cmd
}

func undo(ctx context.Context, a *access, c client.Client, name string, number int64, dry bool, out io.Writer) error {
	d, err := a.get(ctx, c, name)
	if err != nil {
		return err
	}
	list, err := a.revisions(ctx, c, d)
	if err != nil {
		return err
	}
	r, err := chooseRevision(list, number)
	if err != nil {
		return err
	}
	if err := configUnchanged(ctx, c, d, r); err != nil {
		return err
	}
	restored, _ := r.intent.Restore(d)
	// The resource version makes the write fail if someone else has changed the
	// object since it was read.
	options := []client.UpdateOption{fieldOwner}
	if dry {
		options = append(options, client.DryRunAll)
	}
	if err := c.Update(ctx, restored, options...); err != nil {
		return fmt.Errorf("change MoEDeployment %s: %w", name, err)
	}
	suffix := ""
	if dry {
		suffix = " (dry run, nothing was changed)"
	}
	fmt.Fprintf(out, "moedeployment %s goes back to revision %d (%s): %s%s\n", name, r.Revision, r.id(),
		changesBetween(resolve.IntentOf(d, configOf(r)), r.intent), suffix)
	return nil
}

func newRolloutSwitch(a *access, verb, short string, value v1alpha1.Switch) *cobra.Command {
	return &cobra.Command{
		Use:   verb + " NAME",
		Short: short,
		Args:  oneDeployment,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.open()
			if err != nil {
				return err
			}
			d, err := a.get(cmd.Context(), c, args[0])
			if err != nil {
				return err
			}
			base := client.MergeFrom(d.DeepCopy())
			d.Spec.Rollout.Paused = value
			if err := c.Patch(cmd.Context(), d, base, fieldOwner); err != nil {
				return fmt.Errorf("change MoEDeployment %s: %w", args[0], err)
			}
			fmt.Fprintf(cmd.OutOrStdout(), "moedeployment %s: spec.rollout.paused is %s\n", args[0], value)
			return nil
		},
	}
}

var errNoHistory = errors.New("there is no earlier revision to go back to; rollout history lists those that are kept")
