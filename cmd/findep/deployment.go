// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"

	"github.com/findep/findep-operator/api/v1alpha1"
)

// printDeployment shows what was decided and what was measured, as a column of
// labels and values.
func printDeployment(out io.Writer, d *v1alpha1.MoEDeployment) error {
	line := func(label, format string, args ...any) {
		fmt.Fprintf(out, "  %-11s "+format+"\n", append([]any{label}, args...)...)
	}
	s := &d.Status
	if s.Split != nil {
		line("split", "%d attention : %d expert GPUs (%s)", s.Split.Attention, s.Split.Expert, s.Split.Why)
	}
	if s.Plan != nil {
		line("schedule", "%s, from the %s, %s", s.Plan.Summary, s.Plan.Source, s.Plan.Phase)
	}
	if s.Predicted != nil {
		line("predicted", "%d tokens/s from the GPU profile", s.Predicted.TokensPerSecond)
	}
	if o := s.Observed; o != nil {
		line("measured", "%d tokens/s", o.TokensPerSecond)
		for _, p := range []struct {
			name  string
			phase *v1alpha1.PhaseStatus
		}{{"prefill", o.Prefill}, {"decode", o.Decode}} {
			if p.phase != nil {
				line(p.name, "%.1f ms a step predicted by the leader, %.1f ms measured (%s)",
					float64(p.phase.PredictedMicroseconds)/1000, float64(p.phase.MeasuredMicroseconds)/1000, p.phase.Plan)
			}
		}
	}
	if s.Split == nil && s.Plan == nil {
		return fmt.Errorf("the MoEDeployment %s has no status yet; is the operator running?", d.Name)
	}
	return nil
}
