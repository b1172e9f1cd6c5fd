// SPDX-License-Identifier: Apache-2.0

package resolve

import (
	"fmt"
	"slices"

	"github.com/findep/findep-operator/api/v1alpha1"
	"github.com/findep/findep-operator/runtime/plan"
)

// maxAlternatives bounds the list in status.
const maxAlternatives = 4

// split is a division of an instance's GPUs with what is known about it.
type split struct {
	attention, expert int
	need              need
	outcome           outcome
}

func (s split) ratio() string { return Ratio(s.attention, s.expert) }

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
	m := newMemory(r, spec)
	fixed := spec.GPUs.Total == 0
	if fixed {
		r.Decision.Attention, r.Decision.Expert = int(spec.GPUs.Attention), int(spec.GPUs.Expert)
		r.Decision.Why = "Given by spec.gpus."
	} else if existing != nil && existing.Attention+existing.Expert == int(spec.GPUs.Total) {
		r.Decision.Attention, r.Decision.Expert, r.Decision.Why = existing.Attention, existing.Expert, existing.Why
		fixed = true
	}
	if fixed {
		checkFixed(r, m, spec)
	} else {
		choose(r, m, spec)
	}
}

// checkFixed checks a split that is given, and plans it.
func checkFixed(r *Result, m *memory, spec *v1alpha1.MoEDeploymentSpec) {
	s := split{attention: r.Decision.Attention, expert: r.Decision.Expert}
	if experts := r.Shape.MoE.Experts; s.expert > experts {
		r.Feasible = Finding{Reason: v1alpha1.ReasonTooManyExpertGPUs, Message: fmt.Sprintf(
			"gpus.expert is %d, but the model has %d routed experts per layer, so %d GPUs would hold none; use at most %d.",
			s.expert, experts, s.expert-experts, experts)}
		return
	}
	s.need = m.of(s.attention, s.expert)
	r.Memory = s.need.status()
	if !s.need.fits() {
		r.Feasible = Finding{Reason: v1alpha1.ReasonMemoryExceeded, Message: s.need.explain() + " " + nearest(m, s)}
		return
	}
	s.outcome = evaluate(r, spec, s.attention, s.expert)
	accept(r, s)
}

// choose takes the split of gpus.total with the highest predicted throughput
// among those that fit.
func choose(r *Result, m *memory, spec *v1alpha1.MoEDeploymentSpec) {
	total := int(spec.GPUs.Total)
	var fitting []split
	var closest split
	for expert := 1; expert < total && expert <= r.Shape.MoE.Experts; expert++ {
		s := split{attention: total - expert, expert: expert, need: m.of(total-expert, expert)}
		if s.need.fits() {
			s.outcome = evaluate(r, spec, s.attention, s.expert)
			fitting = append(fitting, s)
		} else if closest.expert == 0 || s.need.excess() < closest.need.excess() {
			closest = s
		}
	}
	if len(fitting) == 0 {
		r.Memory = closest.need.status()
		r.Feasible = Finding{Reason: v1alpha1.ReasonMemoryExceeded, Message: fmt.Sprintf(
			"No split of %d GPUs fits. The nearest is %s: %s %s", total, closest.ratio(), closest.need.explain(), nearest(m, closest))}
		return
	}
	slices.SortStableFunc(fitting, func(a, b split) int { return a.outcome.compare(b.outcome) })
	best := fitting[0]
	r.Decision.Attention, r.Decision.Expert = best.attention, best.expert
	r.Decision.Why = fmt.Sprintf("Chosen by the solver: the highest predicted throughput of the %d splits of %d GPUs that fit.",
		len(fitting), total)
	for _, s := range fitting[1:min(len(fitting), maxAlternatives+1)] {
		r.Alternatives = append(r.Alternatives, v1alpha1.SplitAlternative{
			Ratio: s.ratio(), TokensPerSecond: int64(Round(s.outcome.tokensPerSecond)), Why: s.outcome.against(best.outcome),
		})
	}
	r.Memory = best.need.status()
	accept(r, best)
}

func accept(r *Result, s split) {
	r.Start, r.Predicted = s.outcome.start, s.outcome.predicted()
	r.Feasible = Finding{OK: true, Reason: v1alpha1.ReasonFits, Message: s.need.summary()}
	if s.outcome.problem != "" {
		r.Feasible.Reason = v1alpha1.ReasonObjectiveUnreachable
		r.Feasible.Message += " " + s.outcome.problem
	}
}

// nearest names the split closest to s that fits, so that the user knows what to
// ask for. Only the number of expert GPUs changes what a GPU must hold, so it is
// the one to search; GPUs are taken from the attention group while it has more
// than one, else added.
func nearest(m *memory, s split) string {
	for expert := s.expert; expert <= m.shape.MoE.Experts; expert++ {
		if attention := max(1, s.attention+s.expert-expert); m.of(attention, expert).fits() {
			return fmt.Sprintf("The nearest split that fits is %s (%d GPUs).", Ratio(attention, expert), attention+expert)
		}
	}
	return "No number of these GPUs fits: " + m.limit()
}

// fallbackPlan is valid everywhere; it is used where nothing could be solved.
func fallbackPlan(s plan.Schedule) plan.Plan {
	p := plan.Plan{Policy: s.Policy, MicroBatchSize: 1, R1: 1, R2: 1, Order: s.Order, Chunks: 1}
	if p.Order == plan.OrderAuto {
		p.Order = plan.ASAS
	}
	return p
}
