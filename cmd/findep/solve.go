// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"github.com/findep/findep-operator/controllers/resolve"
	"github.com/findep/findep-operator/runtime/plan"
	"github.com/findep/findep-operator/runtime/solver"
)

func newSolve() *cobra.Command {
	var file, output string
	cmd := &cobra.Command{
		Use:   "solve -f FILE",
		Short: "Find the plan with the highest throughput within memory and latency limits, and explain it",
		Long: `Prints the micro-batch size, pipeline degrees, order and causal chunks that serve the most tokens
per second, what they are predicted to do, what bounds them, and the best plans of PPPipe and
Sequential at the same split within the same limits.

Exit code 2 means bad input, 3 that no plan meets the limits; then the output says what is missing.

` + problemFormat,
		Example: "  findep solve -f deepseek-v2.yaml\n  findep solve -f problem.json -o json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			write, err := solutionWriter(output)
			if err != nil {
				return err
			}
			j, err := loadJob(file, cmd.InOrStdin())
			if err != nil {
				return err
			}
			r, err := j.report(cmd.Context(), time.Now)
			if err != nil {
				return err
			}
			if err := write(r, cmd.OutOrStdout()); err != nil {
				return err
			}
			if r.infeasible != nil {
				return infeasibleError{r.infeasible}
			}
			return nil
		},
	}
	cmd.Flags().StringVarP(&file, "file", "f", "", `problem to solve; "-" is standard input`)
	cmd.Flags().StringVarP(&output, "output", "o", "table", "table, json or yaml")
	return cmd
}

// solutionWriter is the writer of an output format.
func solutionWriter(format string) (func(*solveReport, io.Writer) error, error) {
	switch format {
	case "table":
		return (*solveReport).table, nil
	case "json":
		return func(r *solveReport, w io.Writer) error {
			e := json.NewEncoder(w)
			e.SetIndent("", "  ")
			return e.Encode(r.value())
		}, nil
	case "yaml":
		return func(r *solveReport, w io.Writer) error {
			b, err := yaml.Marshal(r.value())
			if err == nil {
				_, err = w.Write(b)
			}
			return err
		}, nil
	}
	return nil, usageError{fmt.Errorf("--output is %q; use table, json or yaml", format)}
}

// solveReport is the answer of `findep solve`.
type solveReport struct {
	planReport
	Candidates        int                    `json:"candidates"`
	SolveMicroseconds float64                `json:"solveMicroseconds"`
	SearchCut         bool                   `json:"searchCut,omitempty"`
	Gap               float64                `json:"gap,omitempty"`
	CutSplits         int                    `json:"cutSplits,omitempty"`
	Split             splitReport            `json:"split"`
	Baselines         map[string]*planReport `json:"baselines"`
	Memory            memoryReport           `json:"memory"`
	Busy              solver.Shares          `json:"busy"`
	Exposed           float64                `json:"exposedCommunicationMilliseconds"`
	Limit             solver.Limit           `json:"limit,omitempty"`
	Alternatives      []solver.Alternative   `json:"alternatives,omitempty"`
	Explanation       []string               `json:"explanation"`

	infeasible *solver.Infeasible
}

// planReport is a plan and its prediction. Gain is the explained plan's
// throughput over this one's.
type planReport struct {
	Policy          plan.Policy     `json:"policy"`
	MicroBatchSize  int             `json:"microBatchSize"`
	R1              int             `json:"r1"`
	R2              int             `json:"r2"`
	Order           plan.Order      `json:"order"`
	Chunks          int             `json:"chunks"`
	ChunkBoundaries plan.Boundaries `json:"chunkBoundaries,omitempty"`
	Makespan        float64         `json:"makespanMilliseconds"`
	TokensPerSecond float64         `json:"tokensPerSecond"`
	LayerPeriod     float64         `json:"layerPeriodMilliseconds"`
	Regime          solver.Regime   `json:"regime"`
	Gain            float64         `json:"gain,omitempty"`
	// OwnSplit is a baseline's best plan at its own best split, where the split
	// is free and that is another one.
	OwnSplit *ownSplitReport `json:"ownSplit,omitempty"`
}

// ownSplitReport is a plan with its split.
type ownSplitReport struct {
	Split splitReport `json:"split"`
	planReport
}

// splitReport is a split; Expert is left out in the raw form, which does not
// know it.
type splitReport struct {
	Attention int `json:"attention"`
	Expert    int `json:"expert,omitempty"`
}

// memoryReport is the memory of one GPU of each group that the plan takes;
// empty if the problem does not limit memory.
type memoryReport struct {
	Attention *groupMemory `json:"attention,omitempty"`
	Expert    *groupMemory `json:"expert,omitempty"`
}

type groupMemory struct {
	NeedBytes   int64 `json:"needBytes"`
	FixedBytes  int64 `json:"fixedBytes"`
	UsableBytes int64 `json:"usableBytes"`
}

// infeasibleReport is what is missing, with every key always present.
type infeasibleReport struct {
	Group     plan.Role      `json:"group"`
	NeedBytes int64          `json:"needBytes"`
	HaveBytes int64          `json:"haveBytes"`
	Reason    solver.Reason  `json:"reason"`
	Nearest   solver.Nearest `json:"nearest"`
	Message   string         `json:"message"`
	// SearchCut tells that the search was cut short, so that a plan may exist.
	SearchCut bool `json:"searchCut,omitempty"`
}

// report solves the job and compares with the baselines.
func (j *job) report(ctx context.Context, now func() time.Time) (*solveReport, error) {
	s, err := j.solve(ctx, plan.FinDEP, now)
	if err != nil {
		return nil, err
	}
	r, p := &s.choice.Result, &s.choice.Problem
	if r.Infeasible != nil {
		return &solveReport{infeasible: r.Infeasible, SearchCut: r.SearchCut}, nil
	}
	out := &solveReport{
		planReport: newPlanReport(r), Candidates: r.Candidates, SearchCut: r.SearchCut, Gap: r.Gap, CutSplits: s.cut,
		SolveMicroseconds: float64(s.took.Nanoseconds()) / 1e3,
		Split:             splitReport{s.choice.Split.Attention, s.choice.Split.Expert},
		Baselines:         map[string]*planReport{}, Memory: memoryOf(p, r),
		Busy: r.Shares, Exposed: r.ExposedCommunicationMilliseconds, Limit: r.Limit, Alternatives: s.alternatives,
	}
	e, err := j.explain(ctx, s)
	if err != nil {
		return nil, err
	}
	out.addBaselines(e.Baselines)
	out.Explanation = e.Sentences
	return out, nil
}

// addBaselines reports those of other policies, at the same split and at their
// own.
func (r *solveReport) addBaselines(list []solver.Baseline) {
	for name, policy := range baselines {
		r.Baselines[name] = nil
		for i := range list {
			b := &list[i]
			if b.Name != string(policy) || b.Gain == 0 {
				continue
			}
			line := newPlanReport(&b.Result)
			line.Gain = b.Gain
			if b.Split == (solver.Split{}) {
				r.Baselines[name] = &line
			} else if same := r.Baselines[name]; same != nil {
				same.OwnSplit = &ownSplitReport{splitReport{b.Split.Attention, b.Split.Expert}, line}
			}
		}
	}
}

// baselines are the policies to compare with, by their keys in the output.
var baselines = map[string]plan.Policy{"pppipe": plan.PPPipe, "sequential": plan.Sequential}

func newPlanReport(r *solver.Result) planReport {
	return planReport{
		Policy: r.Policy, MicroBatchSize: r.MicroBatchSize, R1: r.R1, R2: r.R2, Order: r.Order,
		Chunks: r.Chunks, ChunkBoundaries: r.ChunkBoundaries,
		Makespan: r.MakespanMilliseconds, TokensPerSecond: r.TokensPerSecond,
		LayerPeriod: r.LayerPeriodMilliseconds, Regime: r.Regime,
	}
}

// memoryOf applies the memory model to a plan: see solver.AttentionMemory and
// solver.ExpertMemory.
func memoryOf(p *solver.Problem, r *solver.Result) memoryReport {
	if p.Memory == nil {
		return memoryReport{}
	}
	a, e := &p.Memory.Attention, &p.Memory.Expert
	m, inFlight := int64(r.MicroBatchSize), int64(r.MicroBatchSize)*int64(r.R1)
	segment := r.TokensPerExpert * max(1, p.ExpertImbalance) * float64(e.PerTokenBytes)
	return memoryReport{
		Attention: &groupMemory{a.FixedBytes + a.WorkspaceBytes*m + a.PerSampleBytes*inFlight, a.FixedBytes, a.UsableBytes},
		Expert:    &groupMemory{e.FixedBytes + int64(math.Ceil(segment)), e.FixedBytes, e.UsableBytes},
	}
}

// value is what the machine-readable formats encode.
func (r *solveReport) value() any {
	if i := r.infeasible; i != nil {
		return map[string]infeasibleReport{"infeasible": {i.Group, i.NeedBytes, i.HaveBytes, i.Reason, i.Nearest, i.String(), r.SearchCut}}
	}
	return r
}

// table prints the answer for people.
func (r *solveReport) table(out io.Writer) error {
	if r.infeasible != nil {
		_, err := fmt.Fprintf(out, "infeasible (%s): %s\n", r.infeasible.Reason, r.infeasible)
		return err
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "POLICY\tM_A\tR1\tR2\tORDER\tCHUNKS\tMAKESPAN MS\tLAYER MS\tTOKENS/S\tFINDEP GAIN\tREGIME")
	row := func(p *planReport, name plan.Policy, gain string) {
		if p == nil {
			fmt.Fprintf(w, "%s\tno plan within the limits\n", name)
			return
		}
		fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%s\t%s\t%.2f\t%.3f\t%.0f\t%s\t%s\n", name, p.MicroBatchSize, p.R1, p.R2, p.Order,
			chunkText(p), p.Makespan, p.LayerPeriod, p.TokensPerSecond, gain, p.Regime)
	}
	row(&r.planReport, plan.FinDEP, "")
	for _, name := range []string{"pppipe", "sequential"} {
		b, gain := r.Baselines[name], ""
		if b != nil {
			gain = fmt.Sprintf("%.2fx", b.Gain)
		}
		row(b, baselines[name], gain)
	}
	for _, name := range []string{"pppipe", "sequential"} {
		if b := r.Baselines[name]; b != nil && b.OwnSplit != nil {
			own := b.OwnSplit
			row(&own.planReport, plan.Policy(fmt.Sprintf("%s at %d:%d", baselines[name], own.Split.Attention, own.Split.Expert)), fmt.Sprintf("%.2fx", own.Gain))
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	return r.facts(out)
}

// facts prints what follows the table of plans.
func (r *solveReport) facts(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w)
	if r.Split.Expert > 0 {
		fmt.Fprintf(w, "split\t%d attention : %d expert GPUs\n", r.Split.Attention, r.Split.Expert)
	} else {
		fmt.Fprintf(w, "split\t%s\n", resolve.Plural(r.Split.Attention, "attention GPU"))
	}
	fmt.Fprintf(w, "busy\tattention %.0f %%, A2E %.0f %%, experts %.0f %%, E2A %.0f %%; exposed communication %.2f ms\n",
		100*r.Busy.Attention, 100*r.Busy.A2E, 100*r.Busy.Expert, 100*r.Busy.E2A, r.Exposed)
	if r.Limit != "" {
		fmt.Fprintf(w, "bound by\t%s\n", r.Limit)
	}
	for _, g := range []struct {
		name string
		m    *groupMemory
	}{{"attention", r.Memory.Attention}, {"expert", r.Memory.Expert}} {
		if g.m != nil {
			fmt.Fprintf(w, "memory\t%s GPU: %.1f of %.1f GiB, of which weights %.1f\n", g.name, gib(g.m.NeedBytes), gib(g.m.UsableBytes), gib(g.m.FixedBytes))
		}
	}
	fmt.Fprintf(w, "searched\t%d candidates in %.0f us\n", r.Candidates, r.SolveMicroseconds)
	if r.CutSplits > 0 {
		fmt.Fprintf(w, "cut short\t%d of %d splits\n", r.CutSplits, 1+len(r.Alternatives))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(out, "\nwhy")
	for _, line := range r.Explanation {
		if _, err := fmt.Fprintf(out, "  %s\n", line); err != nil {
			return err
		}
	}
	return nil
}

func gib(bytes int64) float64 { return float64(bytes) / (1 << 30) }

func chunkText(p *planReport) string {
	if p.ChunkBoundaries != "" {
		return fmt.Sprintf("%d unequal", p.Chunks)
	}
	return fmt.Sprint(p.Chunks)
}
