// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/findep/findep-operator/api/v1alpha1"
)

// NewStatus is the command that says how a MoEDeployment is doing. The decision
// is written by show, which the caller passes.
func NewStatus(show func(io.Writer, *v1alpha1.MoEDeployment) error) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "status NAME",
		Short: "Say how a MoEDeployment is doing: what is not as it should be, instances, plan and measurements",
		Args:  oneDeployment,
	}
	a := newAccess(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, err := a.open()
		if err != nil {
			return err
		}
		d, err := a.get(cmd.Context(), c, args[0])
		if err != nil {
			return err
		}
		out := cmd.OutOrStdout()
		writeHealth(out, d)
		if d.Status.Split == nil {
			return nil
		}
		return show(out, d)
	}
	return cmd
}

// good is the value of each condition in an instance that is well.
func good(kind string) metav1.ConditionStatus {
	if kind == v1alpha1.ConditionProgressing {
		return metav1.ConditionFalse
	}
	return metav1.ConditionTrue
}

// writeHealth lists what is not as it should be, and the instances.
func writeHealth(out io.Writer, d *v1alpha1.MoEDeployment) {
	fmt.Fprintf(out, "moedeployment %s/%s: %s ready\n", d.Namespace, d.Name, orUnknown(d.Status.Ready))
	well := true
	said := map[string]string{}
	for _, c := range d.Status.Conditions {
		if c.Status == good(c.Type) {
			continue
		}
		well = false
		fmt.Fprintf(out, "  %s is %s (%s): %s\n", c.Type, c.Status, c.Reason, sayOnce(said, c, d.Status.Instances))
	}
	if well && len(d.Status.Conditions) > 0 {
		fmt.Fprintln(out, "  Every condition is as it should be.")
	}
	if d.Status.ObservedGeneration != d.Generation {
		fmt.Fprintf(out, "  The operator has not yet dealt with the last change (generation %d, seen %d).\n", d.Generation, d.Status.ObservedGeneration)
	}
	if len(d.Status.Instances) == 0 {
		return
	}
	fmt.Fprintln(out)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "  INSTANCE\tPHASE\tPODS\tEPOCH\tFAILURES\tREVISION\tMESSAGE")
	for _, i := range d.Status.Instances {
		message := i.Message
		if where := said[message]; where != "" {
			message = "see " + where
		}
		fmt.Fprintf(w, "  %d\t%s\t%d/%d\t%d\t%d\t%s\t%s\n", i.Index, i.Phase, i.ReadyPods, i.Pods, i.Epoch, i.Failures, i.Revision, message)
	}
	_ = w.Flush()
	fmt.Fprintln(out)
}

// sayOnce is a condition's message without what an instance waits for, if a
// condition before it has said that, since the scheduler's words are long. What
// is said by which condition is kept in said.
func sayOnce(said map[string]string, c metav1.Condition, instances []v1alpha1.InstanceStatus) string {
	for _, i := range instances {
		switch {
		case i.Message == "" || !strings.Contains(c.Message, i.Message):
		case said[i.Message] != "":
			return strings.Replace(c.Message, i.Message, "see "+said[i.Message], 1)
		default:
			said[i.Message] = c.Type
		}
	}
	return c.Message
}

func orUnknown(s string) string {
	if s == "" {
		return "unknown"
	}
	return s
}
