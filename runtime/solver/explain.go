// SPDX-License-Identifier: Apache-2.0

package solver

import (
	"context"
	"fmt"
	"math"

	"github.com/findep/findep-operator/runtime/plan"
)

// Explanation says why a plan is what it is, for people and for tools. It
// depends on nothing but the problem.
type Explanation struct {
	// Regime is what sets the layer period, Limit what keeps the batch from
	// growing.
	Regime Regime `json:"regime,omitempty"`
	Limit  Limit  `json:"limit,omitempty"`
	// Busy and Idle are the shares of each resource in the pipeline's time.
	Busy Shares `json:"busy"`
	Idle Shares `json:"idle"`
	// ExposedCommunicationMilliseconds is what the links cost, ExposedShare
	// the part of the makespan that is.
	ExposedCommunicationMilliseconds float64 `json:"exposedCommunicationMilliseconds"`
	ExposedShare                     float64 `json:"exposedShare"`
	// Baselines are the best plans of the other policies within the same
	// limits, with chunks where those are allowed, and of the same policy
	// without chunks if the plan has some.
	Baselines []Baseline `json:"baselines,omitempty"`
	// Signatures name the known reasons for which a plan disappoints.
	Signatures []Signature `json:"signatures,omitempty"`
	// Changes says what one GPU more or fewer would do; model form only.
	Changes []Change `json:"changes,omitempty"`
	// Sentences is all of it in words.
	Sentences []string `json:"sentences"`
}

// Baseline is a plan to compare with.
type Baseline struct {
	// Name is the policy, or "FinDEP without chunks".
	Name string `json:"name"`
	// Split is set where the baseline has a split of its own.
	Split                Split     `json:"split,omitzero"`
	Plan                 plan.Plan `json:"plan"`
	MakespanMilliseconds float64   `json:"makespanMilliseconds"`
	TokensPerSecond      float64   `json:"tokensPerSecond"`
	// Gain is how many times the explained plan's throughput is this one's; 0
	// if the baseline has no plan within the limits.
	Gain float64 `json:"gain"`
	// Result is all that is predicted of the baseline.
	Result Result `json:"-"`
}

// SignatureKind names a failure signature.
type SignatureKind string

// The signatures.
const (
	// LaunchOverhead: most of the time of what bounds the plan is paid per
	// launch or transfer, whatever its size.
	LaunchOverhead SignatureKind = "LaunchOverhead"
	// NoMicroBatchFits: the largest possible r1 is 0.
	NoMicroBatchFits SignatureKind = "NoMicroBatchFits"
	// ComputeBound: a compute resource is busy all the time, so overlapping
	// better cannot help and PPPipe does as well.
	ComputeBound SignatureKind = "ComputeBound"
)

// Signature is one reason for which a plan disappoints.
type Signature struct {
	Kind SignatureKind `json:"kind"`
	// MissingBytes is what lacks on a GPU when no micro-batch fits.
	MissingBytes int64  `json:"missingBytes,omitempty"`
	Text         string `json:"text"`
}

// Change is the effect of another number of GPUs.
type Change struct {
	Split Split `json:"split"`
	// TokensPerSecond is 0 if the split has no plan; Factor is relative to the
	// explained plan.
	TokensPerSecond float64     `json:"tokensPerSecond,omitempty"`
	Factor          float64     `json:"factor,omitempty"`
	Infeasible      *Infeasible `json:"infeasible,omitempty"`
}

const (
	// launchesDominate is the share of fixed costs that counts as most.
	launchesDominate = 0.5
	// parity is the gain below which two plans are called equal.
	parity = 1.02
)

// Explain explains the result of a problem. It solves the problem for the
// baselines, so it takes a few times as long as Solve. The error is that of
// Solve.
func (w *Solver) Explain(ctx context.Context, p *Problem, r *Result) (Explanation, error) {
	e := Explanation{Regime: r.Regime, Limit: r.Limit}
	if r.R1 == 0 {
		e.noPlan(r)
		return e, nil
	}
	e.Busy = r.Shares
	e.Idle = Shares{1 - r.Shares.Attention, 1 - r.Shares.A2E, 1 - r.Shares.Expert, 1 - r.Shares.E2A}
	e.ExposedCommunicationMilliseconds = r.ExposedCommunicationMilliseconds
	e.ExposedShare = r.ExposedCommunicationMilliseconds / r.MakespanMilliseconds
	for _, policy := range []plan.Policy{plan.PPPipe, plan.Sequential} {
		if policy != r.Policy {
			if err := e.compare(ctx, w, p, r, policy, string(policy)); err != nil {
				return e, err
			}
		}
	}
	if r.Chunks > 1 {
		whole := *p
		whole.Limits.MaxChunks = 1
		if err := e.compare(ctx, w, &whole, r, r.Policy, string(r.Policy)+" without chunks"); err != nil {
			return e, err
		}
	}
	e.sign(p, r)
	e.say(r)
	return e, nil
}

// compare adds a baseline.
func (e *Explanation) compare(ctx context.Context, w *Solver, p *Problem, r *Result, policy plan.Policy, name string) error {
	other, err := w.within(ctx, baselineSteps, p, policy)
	if err != nil {
		return err
	}
	e.Baselines = append(e.Baselines, newBaseline(name, &other, r))
	return nil
}

func newBaseline(name string, other, r *Result) Baseline {
	b := Baseline{Name: name, Plan: other.Plan, MakespanMilliseconds: other.MakespanMilliseconds, TokensPerSecond: other.TokensPerSecond, Result: *other}
	if other.Infeasible == nil && other.TokensPerSecond > 0 {
		b.Gain = r.TokensPerSecond / other.TokensPerSecond
	}
	return b
}

// noPlan explains a problem without any plan.
func (e *Explanation) noPlan(r *Result) {
	i := r.Infeasible
	if i == nil {
		return
	}
	if r.SearchCut {
		e.Sentences = append(e.Sentences, "The search was cut short, because the problem is too large for a second; there may be a plan that it did not see.")
	}
	if missing := i.NeedBytes - i.HaveBytes; missing > 0 {
		e.Signatures = append(e.Signatures, Signature{
			Kind: NoMicroBatchFits, MissingBytes: missing,
			Text: fmt.Sprintf("r1 = 0: a GPU of the %s group lacks %d bytes", i.Group, missing),
		})
	}
	e.Sentences = append(e.Sentences, i.String()+".")
}

// sign adds the failure signatures.
func (e *Explanation) sign(p *Problem, r *Result) {
	if share := fixedShare(p, r); share > launchesDominate {
		e.Signatures = append(e.Signatures, Signature{Kind: LaunchOverhead, Text: fmt.Sprintf(
			"launch overhead dominates: %.0f %% of the time that bounds the plan does not depend on the amount of work", 100*share)})
	}
	computing := r.Regime == AttentionBound || r.Regime == ExpertBound
	for _, b := range e.Baselines {
		if b.Name == string(plan.PPPipe) && computing && b.Gain > 0 && b.Gain < parity {
			e.Signatures = append(e.Signatures, Signature{Kind: ComputeBound, Text: fmt.Sprintf(
				"bound by computation (%s): no gain over PPPipe is to be expected", r.Regime)})
		}
	}
}

// fixedShare is the part of the bounding time that is paid per launch: of the
// bounding resource's tasks, or of a micro-batch's way through the machine.
func fixedShare(p *Problem, r *Result) float64 {
	s := p.Stages
	if n := len(p.PerLayer); n > 0 {
		s = Stages{}
		for i := range p.PerLayer {
			s.add(&p.PerLayer[i])
		}
		s = s.scaled(1 / float64(n))
	}
	fixed := Times{s.Attention.Alpha, s.Shared.Alpha, s.A2E.Alpha, s.Expert.Alpha, s.E2A.Alpha}
	part := func(fixed, all float64) float64 {
		if all == 0 {
			return 0
		}
		return fixed / all
	}
	switch t := r.Times; r.Regime {
	case AttentionBound:
		return part(fixed.Attention+fixed.Shared, t.Attention+t.Shared)
	case ExpertBound:
		return part(fixed.Expert, t.Expert)
	case LinkBound:
		if t.E2A > t.A2E {
			return part(fixed.E2A, t.E2A)
		}
		return part(fixed.A2E, t.A2E)
	default:
		return part(fixed.loop(1), t.loop(1))
	}
}

// say puts the explanation in words.
func (e *Explanation) say(r *Result) {
	add := func(format string, args ...any) { e.Sentences = append(e.Sentences, fmt.Sprintf(format, args...)) }
	if r.Infeasible != nil {
		add("%s.", r.Infeasible)
	}
	add("%s", map[Regime]string{
		LatencyBound:   "Latency-bound: a micro-batch's way through the machine sets the pace, and every resource waits part of the time.",
		AttentionBound: "Attention-bound: the attention GPUs are busy all the time.",
		LinkBound:      "Link-bound: the transfers between the groups are busy all the time.",
		ExpertBound:    "Expert-bound: the expert GPUs are busy all the time.",
	}[r.Regime])
	add("Busy: attention %.0f %%, A2E link %.0f %%, experts %.0f %%, E2A link %.0f %%.",
		100*e.Busy.Attention, 100*e.Busy.A2E, 100*e.Busy.Expert, 100*e.Busy.E2A)
	if e.ExposedCommunicationMilliseconds > 0 {
		add("Communication that is not hidden takes %.3g ms, %.0f %% of the forward pass.", e.ExposedCommunicationMilliseconds, 100*e.ExposedShare)
	} else {
		add("All communication is hidden.")
	}
	if text := limitText[e.Limit]; text != "" {
		add("%s", text)
	}
	for _, b := range e.Baselines {
		if b.Gain == 0 {
			add("%s has no plan within the limits.", b.Name)
			continue
		}
		add("%.2f times the throughput of the best plan of %s (%s).", b.Gain, b.Name, b.Plan)
	}
	for _, s := range e.Signatures {
		add("Note: %s.", s.Text)
	}
	if r.SearchCut {
		add("The search was cut short, because the problem is too large for a second; a better plan could be at most %.2g %% faster.", 100*r.Gap)
	}
}

// limitText says what keeps the batch from growing.
var limitText = map[Limit]string{
	LimitBatch:           "The batch is given.",
	LimitAttentionMemory: "The memory of the attention GPUs bounds the samples in flight.",
	LimitExpertMemory:    "The memory of the expert GPUs bounds the micro-batch.",
	LimitSamplesInFlight: "The cap on samples in flight is what binds.",
	LimitMicroBatch:      "The cap on the micro-batch is what binds.",
	LimitPipelineDegree:  "The cap on r1 is what binds.",
	LimitMakespan:        "The latency objective is what binds.",
}

// ExplainSplit is Explain for the model form: it also says what one GPU more or
// fewer in each group would change.
func (w *Solver) ExplainSplit(ctx context.Context, m *Model, work *Workload, c *Choice) (Explanation, error) {
	e, err := w.Explain(ctx, &c.Problem, &c.Result)
	if err != nil {
		return e, err
	}
	policy := c.Result.Policy
	if policy == "" {
		policy = plan.FinDEP
	}
	for _, step := range []Split{{1, 0}, {-1, 0}, {0, 1}, {0, -1}} {
		split := Split{c.Split.Attention + step.Attention, c.Split.Expert + step.Expert}
		if checkSplit(m.shape, split) != nil {
			continue
		}
		other, err := w.solveSplit(ctx, changeSteps, m, work, split, policy)
		if err != nil {
			return e, err
		}
		e.change(&c.Result, step, split, &other.Result)
	}
	return e, nil
}

// ExplainTotal is ExplainSplit where the split was free: it also compares with
// the best plan of the other policies at their own best split, where that is
// another one. A policy that overlaps less may want more expert GPUs.
func (w *Solver) ExplainTotal(ctx context.Context, m *Model, work *Workload, c *Choice) (Explanation, error) {
	e, err := w.ExplainSplit(ctx, m, work, c)
	if err != nil || c.Result.Infeasible != nil {
		return e, err
	}
	for _, policy := range []plan.Policy{plan.PPPipe, plan.Sequential} {
		if policy == c.Result.Policy {
			continue
		}
		own, err := w.solveTotal(ctx, baselineTotalSteps, m, work, c.Split.Total(), policy)
		if err != nil {
			return e, err
		}
		if own.Best.Split == c.Split || own.Best.Result.Infeasible != nil {
			continue
		}
		b := newBaseline(string(policy), &own.Best.Result, &c.Result)
		b.Split = own.Best.Split
		e.Baselines = append(e.Baselines, b)
		e.Sentences = append(e.Sentences, fmt.Sprintf("%.2f times the throughput of the best plan of %s (%s) at its own best split, %s.", b.Gain, b.Name, b.Plan, b.Split))
	}
	return e, nil
}

// change adds the effect of another split.
func (e *Explanation) change(r *Result, step, split Split, other *Result) {
	what := map[Split]string{{1, 0}: "One more attention GPU", {-1, 0}: "One fewer attention GPU", {0, 1}: "One more expert GPU", {0, -1}: "One fewer expert GPU"}[step]
	change := Change{Split: split, Infeasible: other.Infeasible}
	switch {
	case other.Infeasible != nil:
		e.Sentences = append(e.Sentences, fmt.Sprintf("%s (%s): %s.", what, split, other.Infeasible))
	case r.Infeasible != nil || r.TokensPerSecond == 0:
		change.TokensPerSecond = other.TokensPerSecond
		e.Sentences = append(e.Sentences, fmt.Sprintf("%s (%s) would make a plan possible, with %.0f tokens per second.", what, split, other.TokensPerSecond))
	default:
		change.TokensPerSecond, change.Factor = other.TokensPerSecond, other.TokensPerSecond/r.TokensPerSecond
		e.Sentences = append(e.Sentences, fmt.Sprintf("%s (%s) would %s.", what, split, effect(100*(change.Factor-1))))
	}
	e.Changes = append(e.Changes, change)
}

// effect says what a change by so many percent is.
func effect(percent float64) string {
	const shown = 0.05
	if math.Abs(percent) < shown {
		return "not change the throughput"
	}
	return fmt.Sprintf("change the throughput by %+.1f %%", percent)
}
