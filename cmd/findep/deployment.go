// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"strings"

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
		line("schedule", "%s %s, chosen by the %s", s.Plan.Policy, s.Plan.Summary, chooser(s.Plan))
	}
	if s.Predicted != nil {
		line("expected", "%d tokens/s for spec.workload, from the GPU profile, before anything was measured", s.Predicted.TokensPerSecond)
	}
	if o := s.Observed; o != nil {
		printPhase(line, "prefill", o.Prefill)
		printPhase(line, "decode", o.Decode)
	}
	if s.Split == nil && s.Plan == nil {
		return fmt.Errorf("the MoEDeployment %s has no status yet; is the operator running?", d.Name)
	}
	return nil
}

// chooser says who chose a plan, and for which phase.
func chooser(p *v1alpha1.PlanStatus) string {
	if p.Source == v1alpha1.PlanFromLeader {
		return fmt.Sprintf("leader for %s steps", strings.ToLower(string(p.Phase)))
	}
	return "operator, until the leader has measured"
}

// printPhase shows the leader's prediction, which rests on the stages that it
// measured, beside what the steps took. A sample is one token in decode.
func printPhase(line func(label, format string, args ...any), name string, p *v1alpha1.PhaseStatus) {
	if p == nil || p.PredictedMicroseconds == 0 || p.MeasuredMicroseconds == 0 {
		return
	}
	predicted, measured := float64(p.PredictedMicroseconds)/1e6, float64(p.MeasuredMicroseconds)/1e6
	line(name, "%.1f ms a step predicted, %.1f measured (%s)", 1e3*predicted, 1e3*measured, p.Plan)
	if name == "decode" {
		line("", "%.0f tokens/s predicted, %.0f measured", float64(p.Samples)/predicted, float64(p.Samples)/measured)
	}
}
