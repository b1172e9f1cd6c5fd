// SPDX-License-Identifier: Apache-2.0

package resolve

import (
	"fmt"
	"slices"
	"strings"

	"github.com/findep/findep-operator/api/v1alpha1"
	"github.com/findep/findep-operator/runtime/solver"
)

// maxAlternatives bounds the list in status.
const maxAlternatives = 4

// Ratio writes a split as people say it.
func Ratio(attention, expert int) string { return fmt.Sprintf("%d:%d", attention, expert) }

// resolveSplit decides attention and expert, checks memory and plans the start.
func resolveSplit(r *Result, spec *v1alpha1.MoEDeploymentSpec, existing *Decision) {
	if r.MaxContextTokens > r.Shape.MaxPositionEmbeddings {
		r.Feasible = Finding{Reason: v1alpha1.ReasonContextTooLong, Message: fmt.Sprintf(
			"model.maxContextTokens is %d, but the model was made for at most %d tokens.",
			r.MaxContextTokens, r.Shape.MaxPositionEmbeddings)}
		return
	}
	p := newPlanner(r, spec)
	if total := int(spec.GPUs.Total); total > 0 {
		choose(r, p, total, existing)
		return
	}
	r.Decision.Attention, r.Decision.Expert = int(spec.GPUs.Attention), int(spec.GPUs.Expert)
	r.Decision.Why = "Given by spec.gpus."
	if experts := r.Shape.MoE.Experts; r.Decision.Expert > experts {
		r.Feasible = Finding{Reason: v1alpha1.ReasonTooManyExpertGPUs, Message: fmt.Sprintf(
			"gpus.expert is %d, but the model has %d routed experts per layer, so %s would hold none; use at most %d.",
			r.Decision.Expert, experts, Plural(r.Decision.Expert-experts, "GPU"), experts)}
		return
	}
	o, err := p.evaluate(solver.Split{Attention: r.Decision.Attention, Expert: r.Decision.Expert})
	if err != nil {
		r.Feasible = refused(err)
		return
	}
	adopt(r, p, o)
}

// refused reports input that the solver cannot plan with. It was validated
// before, so this is either an extreme figure in a profile or our mistake;
// both are for the user to see.
func refused(err error) Finding {
	return Finding{Reason: v1alpha1.ReasonProfileInvalid, Message: fmt.Sprintf("No schedule can be planned: %v.", err)}
}

// choose takes the split of gpus.total that the solver likes best, or keeps the
// one that instances already run with.
func choose(r *Result, p *planner, total int, existing *Decision) {
	outcomes, err := p.evaluateAll(total, r.Shape.MoE.Experts)
	if err != nil {
		r.Feasible = refused(err)
		return
	}
	chosen, fitting := 0, 0
	for i, o := range outcomes {
		if o.memory == nil {
			fitting++
		}
		if existing != nil && o.split.Attention == existing.Attention && o.split.Expert == existing.Expert {
			chosen = i
		}
	}
	best := outcomes[chosen]
	r.Decision.Attention, r.Decision.Expert = best.split.Attention, best.split.Expert
	r.Decision.Why = best.why(total, fitting, len(outcomes)) + p.restriction()
	if existing != nil && existing.Why != "" {
		r.Decision.Why = existing.Why
	}
	for i, o := range outcomes {
		if i != chosen && len(r.Alternatives) < maxAlternatives {
			r.Alternatives = append(r.Alternatives, v1alpha1.SplitAlternative{
				Ratio: Ratio(o.split.Attention, o.split.Expert), TokensPerSecond: int64(Round(o.tokensPerSecond)), Why: o.against(best),
			})
		}
	}
	adopt(r, p, best)
	if best.memory != nil {
		explainNearest(r, best.split, existing, len(outcomes))
	}
}

// why says how the best of a number of splits was chosen.
func (o outcome) why(total, fitting, splits int) string {
	switch {
	case o.problem != "":
		return fmt.Sprintf("Chosen by the solver as the best of %s of %d GPUs, although no split meets spec.slo.", Plural(splits, "split"), total)
	case fitting == 1:
		return fmt.Sprintf("Chosen by the solver: the only split of %d GPUs that fits, of %d.", total, splits)
	default:
		return fmt.Sprintf("Chosen by the solver: the highest predicted throughput of the %d splits of %d GPUs that fit, of %d.", fitting, total, splits)
	}
}

// explainNearest says that the split that was taken does not fit either. One that
// instances run with, since the user overrides the check, keeps its reason.
func explainNearest(r *Result, split solver.Split, existing *Decision, splits int) {
	if existing != nil && r.Feasible.OK {
		return
	}
	total := split.Total()
	r.Decision.Why = fmt.Sprintf("The one of %s of %d GPUs that misses the least memory; none fits.", Plural(splits, "split"), total)
	r.Feasible.Message = fmt.Sprintf("No split of %d GPUs fits. The nearest is %s: %s", total, split, r.Feasible.Message)
}

// evaluateAll plans every split that leaves no expert GPU without an expert and
// that the engine can wire, best first.
func (p *planner) evaluateAll(total, experts int) ([]outcome, error) {
	var outcomes []outcome
	for attention := max(1, total-experts); attention < total; attention++ {
		if CheckRatio(p.rule, attention, total-attention) != "" {
			continue
		}
		o, err := p.evaluate(solver.Split{Attention: attention, Expert: total - attention})
		if err != nil {
			return nil, err
		}
		outcomes = append(outcomes, o)
	}
	slices.SortStableFunc(outcomes, outcome.compare)
	return outcomes, nil
}

// adopt takes over what was found out about the split.
func adopt(r *Result, p *planner, o outcome) {
	needs := p.needs(o)
	r.Memory = memoryStatus(needs)
	r.Feasible = Finding{OK: true, Reason: v1alpha1.ReasonFits, Message: summary(needs)}
	if o.memory != nil {
		r.Feasible = Finding{Reason: v1alpha1.ReasonMemoryExceeded, Message: p.explain(o)}
		if !r.MemoryOverridden || !override(r, p, &o) {
			return
		}
	}
	r.Start, r.Predicted = o.prefill.Result.Plan, o.predicted()
	if r.Risks = risks(needs); len(r.Risks) > 0 {
		r.Feasible.Message += " " + strings.Join(r.Risks, " ")
	}
	if o.problem != "" {
		r.Feasible.Reason = v1alpha1.ReasonObjectiveUnreachable
		r.Feasible.Message += " " + o.problem
	}
}
