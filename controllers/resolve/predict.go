// SPDX-License-Identifier: Apache-2.0

package resolve

import (
	"cmp"
	"fmt"
	"math"

	"github.com/findep/findep-operator/api/v1alpha1"
	"github.com/findep/findep-operator/runtime/plan"
	"github.com/findep/findep-operator/runtime/solver"
)

// Expectations of a workload that the user does not describe.
const (
	defaultPromptTokens      = 1024
	defaultOutputTokens      = 128
	defaultConcurrencyPerGPU = 8
)

// planner plans splits of one deployment. It asks the solver twice per split,
// for a prefill and for a decode step of the expected workload.
type planner struct {
	prefill, decode solver.Instance
	policy          plan.Policy
	// output is the mean length of a completion, concurrency the number of
	// requests in flight per instance; 0 means the default for the split.
	prompt, output, concurrency int
	slo                         plan.SLO
	// rule says which splits another engine can wire; RatioAny for our own.
	rule v1alpha1.RatioRule
}

func newPlanner(r *Result, spec *v1alpha1.MoEDeploymentSpec) *planner {
	context := r.MaxContextTokens
	prompt := or(int(spec.Workload.PromptTokens), max(1, min(defaultPromptTokens, context/2)))
	base := solver.Instance{
		Shape: r.Shape,
		Profiles: solver.Profiles{
			Attention: r.Profiles[v1alpha1.RoleAttention].Profile,
			Expert:    r.Profiles[v1alpha1.RoleExpert].Profile,
		},
		Options: solver.Options{
			DType: elementType(spec.Model, r.Shape), Order: r.Schedule.Order,
			Limits: solver.Limits{MaxSegments: r.Schedule.MaxSegments},
		},
	}
	p := &planner{
		prefill: base, decode: base, policy: r.Schedule.Policy, slo: r.SLO, prompt: min(prompt, context),
		rule:        v1alpha1.RatioAny,
		output:      or(int(spec.Workload.OutputTokens), max(1, min(defaultOutputTokens, context/4))),
		concurrency: int(spec.Workload.Concurrency),
	}
	p.prefill.Workload = solver.Workload{Phase: solver.Prefill, SequenceTokens: p.prompt, ContextTokens: context}
	if r.Schedule.Chunks == string(v1alpha1.ChunksAuto) {
		// As the leader does.
		p.prefill.Options.Limits = p.prefill.Options.Limits.WithChunks()
	}
	p.prefill.Options.Limits.MakespanMilliseconds = float64(r.SLO.TimeToFirstTokenMilliseconds)
	p.decode.Workload = solver.Workload{Phase: solver.Decode, ContextTokens: context}
	p.decode.Options.Limits.MakespanMilliseconds = float64(r.SLO.TimePerOutputTokenMilliseconds)
	if r.VLLM != nil {
		p.forVLLM(r.VLLM)
	}
	return p
}

// outcome is what is predicted for one split.
type outcome struct {
	split   solver.Split
	prefill solver.Choice
	decode  solver.Choice
	// memory is why the split does not fit; nil if it does.
	memory *solver.Infeasible
	// problem says why the objectives cannot be met; empty if they can.
	problem string
	// tokensPerSecond counts completion tokens of requests of the expected
	// lengths, prefill included.
	tokensPerSecond float64
}

// evaluate plans one split. The error is for input that the solver refuses.
func (p *planner) evaluate(split solver.Split) (outcome, error) {
	o := outcome{split: split}
	inFlight := (or(p.concurrency, defaultConcurrencyPerGPU*split.Total()) + split.Attention - 1) / split.Attention
	prefill, decode := p.prefill, p.decode
	prefill.Options.Limits.SamplesInFlight = inFlight
	decode.Options.Limits.SamplesInFlight = inFlight
	var err error
	if o.prefill, err = solved.solve(&prefill, split, p.policy); err != nil {
		return o, err
	}
	if o.decode, err = solved.solve(&decode, split, p.policy); err != nil {
		return o, err
	}
	for _, c := range []struct {
		*solver.Infeasible
		objective string
		limit     int
	}{
		{o.prefill.Result.Infeasible, "slo.timeToFirstTokenMilliseconds", p.slo.TimeToFirstTokenMilliseconds},
		{o.decode.Result.Infeasible, "slo.timePerOutputTokenMilliseconds", p.slo.TimePerOutputTokenMilliseconds},
	} {
		switch {
		case c.Infeasible == nil:
		case c.Reason == solver.LatencyExceeded:
			o.problem = fmt.Sprintf("%s is %d, but the fastest step that is predicted takes %.3g ms.", c.objective, c.limit, c.Nearest.MakespanMilliseconds)
		case o.memory == nil:
			o.memory = c.Infeasible
		}
	}
	if a, b := o.prefill.Result.TokensPerSecond, o.decode.Result.TokensPerSecond; o.memory == nil && a > 0 && b > 0 {
		o.tokensPerSecond = float64(p.output) / (float64(p.prompt)/a + float64(p.output)/b)
	}
	return o, nil
}

// compare puts the better outcome first: one that fits, one that meets the
// objectives, the one with the higher throughput, fewer attention GPUs. Among
// those that do not fit, the one that misses the least.
func (o outcome) compare(other outcome) int {
	excess := func(o outcome) int64 {
		if o.memory == nil {
			return 0
		}
		return max(1, o.memory.NeedBytes-o.memory.HaveBytes)
	}
	unmet := func(o outcome) int { return min(1, len(o.problem)) }
	return cmp.Or(
		cmp.Compare(excess(o), excess(other)),
		cmp.Compare(unmet(o), unmet(other)),
		cmp.Compare(other.tokensPerSecond, o.tokensPerSecond),
		cmp.Compare(o.split.Attention, other.split.Attention))
}

// against says why the better outcome was preferred.
func (o outcome) against(best outcome) string {
	switch {
	case o.memory != nil:
		return "Does not fit: " + o.memory.String() + "."
	case o.problem != "" && best.problem == "":
		return o.problem
	case best.tokensPerSecond <= 0:
		return ""
	}
	return fmt.Sprintf("%.0f %% fewer tokens per second are predicted.", 100*(1-o.tokensPerSecond/best.tokensPerSecond))
}

func (o outcome) predicted() *v1alpha1.PredictedStatus {
	return &v1alpha1.PredictedStatus{
		TokensPerSecond:                int64(Round(o.tokensPerSecond)),
		TimeToFirstTokenMilliseconds:   int64(Round(math.Ceil(o.prefill.Result.MakespanMilliseconds))),
		TimePerOutputTokenMilliseconds: int64(Round(math.Ceil(o.decode.Result.MakespanMilliseconds))),
	}
}

// Round keeps two significant digits, and no fraction, so that figures which
// hardly change do not cause a write.
func Round(v float64) float64 {
	if v == 0 || math.IsNaN(v) || math.IsInf(v, 0) {
		return 0
	}
	scale := max(1, math.Pow(10, math.Floor(math.Log10(math.Abs(v)))-1))
	return math.Round(v/scale) * scale
}
