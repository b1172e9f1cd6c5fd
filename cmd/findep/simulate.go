// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/findep/findep-operator/controllers/resolve"
	"github.com/findep/findep-operator/runtime/plan"
	"github.com/findep/findep-operator/runtime/report"
	"github.com/findep/findep-operator/runtime/schedule"
	"github.com/findep/findep-operator/runtime/sim"
	"github.com/findep/findep-operator/runtime/solver"
)

// simulateOptions are the flags of `findep simulate`.
type simulateOptions struct {
	file, output  string
	policy, order string
	fixed         plan.Plan
	layers        int
}

func newSimulate() *cobra.Command {
	var o simulateOptions
	cmd := &cobra.Command{
		Use:   "simulate -f FILE --policy POLICY",
		Short: "Replay a schedule against the stage times and show when each task runs",
		Long: `Builds the schedule of the policy's best plan, or of the plan that the flags fix, and simulates it
task by task. Memory is not checked for a plan given by flags.

-o json prints tasks and busy times, -o trace a Chrome trace for Perfetto, and -o html one
self-contained page with the timeline of the four resources for all three policies: the chosen plan
and the best plans of the others.

` + problemFormat,
		Example: "  findep simulate -f problem.yaml --policy FinDEP --r2 4 -o html > timeline.html",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return o.run(cmd.Context(), cmd.InOrStdin(), cmd.OutOrStdout())
		},
	}
	f := cmd.Flags()
	f.StringVarP(&o.file, "file", "f", "", `problem; "-" is standard input`)
	f.StringVarP(&o.output, "output", "o", "json", "json, trace or html")
	f.StringVar(&o.policy, "policy", string(plan.FinDEP), "FinDEP, PPPipe or Sequential")
	f.IntVar(&o.fixed.MicroBatchSize, "micro-batch-size", 0, "fix m_a instead of solving for it")
	f.IntVar(&o.fixed.R1, "r1", 0, "fix the micro-batches per attention GPU")
	f.IntVar(&o.fixed.R2, "r2", 0, "fix the segments per micro-batch")
	f.IntVar(&o.fixed.Chunks, "chunks", 0, "fix the causal chunks, of equal length")
	f.StringVar(&o.order, "order", string(plan.OrderAuto), "Auto, ASAS or AASS")
	f.IntVar(&o.layers, "layers", 0, "simulate only this many layers (default: all)")
	return cmd
}

func (o *simulateOptions) validate() error {
	switch plan.Policy(o.policy) {
	case plan.FinDEP, plan.PPPipe, plan.Sequential:
	default:
		return fmt.Errorf("--policy is %q; use FinDEP, PPPipe or Sequential", o.policy)
	}
	switch plan.Order(o.order) {
	case plan.OrderAuto, plan.ASAS, plan.AASS:
	default:
		return fmt.Errorf("--order is %q; use Auto, ASAS or AASS", o.order)
	}
	switch o.output {
	case "json", "trace", "html":
	default:
		return fmt.Errorf("--output is %q; use json, trace or html", o.output)
	}
	for _, f := range []struct {
		name       string
		value, max int
	}{
		{"--micro-batch-size", o.fixed.MicroBatchSize, plan.MaxMicroBatch},
		{"--r1", o.fixed.R1, plan.MaxR1}, {"--r2", o.fixed.R2, plan.MaxR2},
		{"--chunks", o.fixed.Chunks, plan.MaxChunks}, {"--layers", o.layers, schedule.MaxLayers},
	} {
		if f.value < 0 || f.value > f.max {
			return fmt.Errorf("%s is %d; it must be between 1 and %d", f.name, f.value, f.max)
		}
	}
	return nil
}

func (o *simulateOptions) run(ctx context.Context, in io.Reader, out io.Writer) error {
	if err := o.validate(); err != nil {
		return usageError{err}
	}
	j, err := loadJob(o.file, in)
	if err != nil {
		return err
	}
	main, err := o.chosen(ctx, j)
	if err != nil {
		return err
	}
	switch o.output {
	case "trace":
		return sim.WriteTrace(out, main.result.Events(main.schedule, main.Plan.String()))
	case "html":
		return o.page(ctx, out, j, main)
	}
	return json.NewEncoder(out).Encode(main.json())
}

// simulation is one simulated plan.
type simulation struct {
	solver.Result
	problem  *solver.Problem
	split    solver.Split
	schedule *schedule.Schedule
	result   *sim.Result
}

// chosen simulates the plan that the flags ask for.
func (o *simulateOptions) chosen(ctx context.Context, j *job) (*simulation, error) {
	policy := plan.Policy(o.policy)
	if policy == plan.FinDEP {
		j.setOrder(plan.Order(o.order))
	} else if o.order == string(plan.AASS) {
		return nil, usageError{fmt.Errorf("--order is AASS; policy %s runs the shared experts as part of attention, use ASAS", policy)}
	}
	s, err := j.solve(ctx, policy, time.Now)
	if err != nil {
		return nil, err
	}
	c := &s.choice
	p, given := o.override(c.Result.Plan, policy)
	if c.Result.Infeasible != nil && given < 3 {
		return nil, infeasibleError{c.Result.Infeasible}
	}
	if given > 0 {
		if err := enough(&c.Problem, p); err != nil {
			return nil, usageError{err}
		}
		if c.Result, err = solver.Predict(&c.Problem, p); err != nil {
			return nil, usageError{err}
		}
	}
	return simulate(c, o.layers)
}

// override replaces the parts of a plan that the flags fix and counts them.
func (o *simulateOptions) override(p plan.Plan, policy plan.Policy) (fixed plan.Plan, given int) {
	for _, f := range []struct {
		flag int
		to   *int
	}{
		{o.fixed.MicroBatchSize, &p.MicroBatchSize}, {o.fixed.R1, &p.R1}, {o.fixed.R2, &p.R2},
	} {
		if f.flag > 0 {
			*f.to = f.flag
			given++
		}
	}
	switch {
	case o.fixed.Chunks > 0:
		p.Chunks, p.ChunkBoundaries = o.fixed.Chunks, ""
		given++
	case p.Chunks == 0 || given == 3:
		p.Chunks, p.ChunkBoundaries = 1, ""
	}
	p.Policy = policy
	if p.Order == "" {
		p.Order = plan.ASAS
	}
	if o.order == string(plan.AASS) {
		p.Order = plan.AASS
	}
	return p, given
}

// enough refuses a plan that does not hold the given batch.
func enough(p *solver.Problem, chosen plan.Plan) error {
	if held := chosen.R1 * chosen.MicroBatchSize; held < p.Batch {
		return fmt.Errorf("r1 * micro-batch size is %d; the batch is %d per attention GPU", held, p.Batch)
	}
	return nil
}

// simulate replays a plan's schedule.
func simulate(c *solver.Choice, layers int) (*simulation, error) {
	p := &c.Problem
	if layers == 0 || layers > p.Layers {
		layers = p.Layers
	}
	shared := p.Stages.Shared != solver.Affine{}
	for i := range p.PerLayer {
		shared = shared || p.PerLayer[i].Shared != solver.Affine{}
	}
	s, err := schedule.Build(c.Result.Plan, layers, schedule.Options{SharedExperts: shared})
	if err != nil {
		return nil, usageError{err}
	}
	d, err := p.Durations(c.Result.Plan)
	if err != nil {
		return nil, usageError{err}
	}
	run := sim.Run
	if p.HalfDuplex {
		run = sim.RunHalfDuplex
	}
	r, err := run(s, d.Duration)
	if err != nil {
		return nil, err
	}
	return &simulation{Result: c.Result, problem: p, split: c.Split, schedule: s, result: r}, nil
}

// page writes the timeline of the chosen plan beside the others' best ones.
func (o *simulateOptions) page(ctx context.Context, out io.Writer, j *job, main *simulation) error {
	t := &report.Timeline{Title: "Timeline of one forward pass", Subtitle: describe(main)}
	t.Panels = append(t.Panels, main.panel())
	j.setOrder(plan.OrderAuto)
	for _, policy := range []plan.Policy{plan.FinDEP, plan.PPPipe, plan.Sequential} {
		if policy == main.Policy {
			continue
		}
		var w solver.Solver
		r, err := w.Solve(ctx, main.problem, policy)
		if err != nil {
			return err
		}
		if r.Infeasible != nil {
			t.Notes = append(t.Notes, fmt.Sprintf("%s: %s.", policy, r.Infeasible))
			continue
		}
		other, err := simulate(&solver.Choice{Problem: *main.problem, Split: main.split, Result: r}, o.layers)
		if err != nil {
			return err
		}
		t.Panels = append(t.Panels, other.panel())
	}
	return report.WriteTimeline(out, t)
}

// describe is the page's second line.
func describe(s *simulation) string {
	text := resolve.Plural(s.problem.Layers, "MoE layer") + ", " + resolve.Plural(s.problem.AttentionGPUs, "attention GPU")
	if s.split.Expert > 0 {
		text += " and " + resolve.Plural(s.split.Expert, "expert GPU")
	}
	text += fmt.Sprintf(", %d new tokens per sample", s.problem.SequenceTokens)
	if s.schedule.Layers < s.problem.Layers {
		text += fmt.Sprintf("; only the first %d layers are shown", s.schedule.Layers)
	}
	return text
}

func (s *simulation) panel() report.Panel {
	text := fmt.Sprintf("%.2f ms, %.0f tokens/s, %s", s.MakespanMilliseconds, s.TokensPerSecond, s.Regime)
	if s.problem.Head != (solver.Affine{}) {
		text += "; the output head is not shown"
	}
	return report.NewPanel(s.Plan.String(), text, s.schedule, s.result)
}

// simulationJSON is the output of -o json. Times are in milliseconds from the
// start of the first task.
type simulationJSON struct {
	Plan plan.Plan `json:"plan"`
	// Simulated is the end of the last task, Makespan the prediction with all
	// layers and what runs outside the pipeline.
	Simulated       float64                 `json:"simulatedMilliseconds"`
	Makespan        float64                 `json:"makespanMilliseconds"`
	TokensPerSecond float64                 `json:"tokensPerSecond"`
	LayerPeriod     float64                 `json:"layerPeriodMilliseconds"`
	Regime          solver.Regime           `json:"regime"`
	Resources       map[string]resourceJSON `json:"resources"`
	Tasks           []taskJSON              `json:"tasks"`
}

type resourceJSON struct {
	Busy      float64 `json:"busyMilliseconds"`
	Idle      float64 `json:"idleMilliseconds"`
	BusyShare float64 `json:"busyShare"`
}

type taskJSON struct {
	Kind       string  `json:"kind"`
	Resource   string  `json:"resource"`
	Layer      int32   `json:"layer"`
	MicroBatch int32   `json:"microBatch"`
	Segment    int32   `json:"segment"`
	Start      float64 `json:"startMilliseconds"`
	End        float64 `json:"endMilliseconds"`
}

func (s *simulation) json() *simulationJSON {
	out := &simulationJSON{
		Plan: s.Plan, Simulated: s.result.Makespan, Makespan: s.MakespanMilliseconds, TokensPerSecond: s.TokensPerSecond,
		LayerPeriod: s.LayerPeriodMilliseconds, Regime: s.Regime, Resources: map[string]resourceJSON{},
		Tasks: make([]taskJSON, len(s.schedule.Tasks)),
	}
	for r := range schedule.NumResources {
		out.Resources[r.String()] = resourceJSON{s.result.Busy[r], s.result.Idle(r), s.result.BusyShare(r)}
	}
	for id := range s.schedule.Tasks {
		t := &s.schedule.Tasks[id]
		out.Tasks[id] = taskJSON{t.Kind.String(), t.Resource.String(), t.Layer, t.MicroBatch, t.Segment, s.result.Start[id], s.result.End[id]}
	}
	return out
}
