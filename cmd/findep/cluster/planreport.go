// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"k8s.io/utils/ptr"
	"sigs.k8s.io/yaml"

	"github.com/findep/findep-operator/api/v1alpha1"
	"github.com/findep/findep-operator/controllers/resolve"
)

// planReport is the answer of the plan command.
type planReport struct {
	Name      string `json:"name"`
	Namespace string `json:"namespace"`
	// OK says that instances would be made; Reason and Message say why (not).
	OK      bool   `json:"ok"`
	Reason  string `json:"reason"`
	Message string `json:"message"`
	Model   string `json:"model,omitempty"`
	// Revision identifies the intent; instances with another one would be
	// recreated.
	Revision  string                   `json:"revision"`
	Replicas  int32                    `json:"replicas"`
	GPUs      int                      `json:"gpus,omitempty"`
	Split     *v1alpha1.SplitStatus    `json:"split,omitempty"`
	Schedule  string                   `json:"schedule,omitempty"`
	Predicted *predicted               `json:"predicted,omitempty"`
	Memory    []v1alpha1.MemoryStatus  `json:"memory,omitempty"`
	Profiles  []v1alpha1.ProfileStatus `json:"profiles,omitempty"`
	Notes     []string                 `json:"notes,omitempty"`
	Objects   []any                    `json:"objects,omitempty"`
}

// predicted is per instance, except the last, and for spec.workload.
type predicted struct {
	v1alpha1.PredictedStatus
	// TokensPerSecondPerGPU divides by the GPUs of an instance.
	TokensPerSecondPerGPU float64 `json:"tokensPerSecondPerGPU"`
}

func newPlanReport(d *v1alpha1.MoEDeployment, r *resolve.Result, notes []string) *planReport {
	p := &planReport{
		Name: d.Name, Namespace: d.Namespace, OK: r.OK(), Reason: r.Feasible.Reason, Message: r.Feasible.Message,
		Model: r.ModelName, Revision: r.Revision, Replicas: ptr.Deref(d.Spec.Replicas, 1), Memory: r.Memory,
		Notes: append(append(notes, r.Warnings...), r.NotActedOn...),
	}
	switch {
	case !r.Model.OK:
		p.Reason, p.Message = r.Model.Reason, r.Model.Message
	case r.GangMissing:
		p.Reason, p.Message = v1alpha1.ReasonGangNotServed, r.GangProblem
	}
	for _, role := range []v1alpha1.Role{v1alpha1.RoleAttention, v1alpha1.RoleExpert} {
		if profile, known := r.Profiles[role]; known {
			p.Profiles = append(p.Profiles, v1alpha1.ProfileStatus{Role: role, Name: profile.Profile.Name, Why: profile.Why})
		}
	}
	if s := r.Decision; s.Attention > 0 && s.Expert > 0 {
		p.GPUs = s.Attention + s.Expert
		p.Split = &v1alpha1.SplitStatus{
			Ratio: resolve.Ratio(s.Attention, s.Expert), Attention: int32(s.Attention), Expert: int32(s.Expert),
			Why: s.Why, Alternatives: r.Alternatives,
		}
	}
	if r.Predicted != nil {
		p.Schedule = r.Start.String()
		p.Predicted = &predicted{*r.Predicted, float64(r.Predicted.TokensPerSecond) / float64(p.GPUs)}
	}
	return p
}

// writerOf is the writer of an output format.
func writerOf(format string) (func(io.Writer, *planReport) error, error) {
	switch format {
	case "table":
		return func(out io.Writer, p *planReport) error { return p.table(out) }, nil
	case "json":
		return func(out io.Writer, p *planReport) error {
			e := json.NewEncoder(out)
			e.SetIndent("", "  ")
			return e.Encode(p)
		}, nil
	case "yaml":
		return func(out io.Writer, p *planReport) error {
			text, err := yaml.Marshal(p)
			if err == nil {
				_, err = fmt.Fprintf(out, "---\n%s", text)
			}
			return err
		}, nil
	}
	return nil, BadInput{fmt.Errorf("-o is %q; use table, json or yaml", format)}
}

func (p *planReport) table(out io.Writer) error {
	verdict := "would be made"
	if !p.OK {
		verdict = "would NOT be made"
	}
	fmt.Fprintf(out, "moedeployment %s/%s: %s %s\n", p.Namespace, p.Name, resolve.Plural(p.Replicas, "instance"), verdict)
	line := func(label, format string, args ...any) {
		fmt.Fprintf(out, "  %-12s "+format+"\n", append([]any{label}, args...)...)
	}
	line("fit", "%s: %s", p.Reason, p.Message)
	if p.Model != "" {
		line("model", "%s, revision %s", p.Model, p.Revision)
	}
	if s := p.Split; s != nil {
		line("split", "%d attention : %d expert GPUs per instance (%s)", s.Attention, s.Expert, s.Why)
		for i, a := range s.Alternatives {
			line(once(i, "instead of"), "%s, %d tokens/s predicted. %s", a.Ratio, a.TokensPerSecond, a.Why)
		}
	}
	for i, f := range p.Profiles {
		line(once(i, "profiles"), "%-9s %s (%s)", f.Role, f.Name, f.Why)
	}
	for i, m := range p.Memory {
		line(once(i, "memory"), "%-9s %s of %s needed, %s of it weights", m.Role,
			resolve.Bytes(m.NeedBytes), resolve.Bytes(m.AvailableBytes), resolve.Bytes(m.WeightBytes))
	}
	if e := p.Predicted; e != nil {
		line("expected", "%d tokens/s per instance, %.3g per GPU; time to first token %d ms, time per output token %d ms",
			e.TokensPerSecond, e.TokensPerSecondPerGPU, e.TimeToFirstTokenMilliseconds, e.TimePerOutputTokenMilliseconds)
		line("schedule", "%s to begin with", p.Schedule)
	}
	for i, n := range p.Notes {
		line(once(i, "notes"), "%s", n)
	}
	return printObjects(out, p.Objects)
}

// once shows a label in the first of several lines.
func once(i int, label string) string {
	if i > 0 {
		return ""
	}
	return label
}

// toYAML leaves out what is empty, as the apply configurations do.
func toYAML(o any) (string, error) {
	text, err := yaml.Marshal(o)
	return strings.TrimLeft(string(text), "\n"), err
}
