// SPDX-License-Identifier: Apache-2.0

package solver

import (
	"context"
	"fmt"
	"sort"

	"github.com/findep/findep-operator/runtime/plan"
)

// Choice is a split with its best plan.
type Choice struct {
	Split Split `json:"split"`
	// Problem is the stage form the result belongs to.
	Problem Problem `json:"problem"`
	Result  Result  `json:"result"`
}

// Alternative is a split that was not chosen, and why.
type Alternative struct {
	Split Split `json:"split"`
	// TokensPerSecond is 0 if the split is infeasible.
	TokensPerSecond float64     `json:"tokensPerSecond,omitempty"`
	Infeasible      *Infeasible `json:"infeasible,omitempty"`
	// Why is one sentence for a person.
	Why string `json:"why"`
}

// TotalResult is the answer to SolveTotal.
type TotalResult struct {
	// Best is the chosen split. If no split is feasible, it is the one that
	// misses the least, with Result.Infeasible set.
	Best Choice `json:"best"`
	// Alternatives are all other splits in order of their attention GPUs.
	Alternatives []Alternative `json:"alternatives"`
	// CutSplits counts the splits whose search was cut short. If there are any,
	// the choice among them is not proved.
	CutSplits int `json:"cutSplits,omitempty"`
}

// SolveModel returns the best plan of a policy for a given split. An infeasible
// result names the nearest split, batch or context that fits.
func SolveModel(in *Instance, split Split, policy plan.Policy) (Choice, error) {
	m, err := in.prepare()
	if err != nil {
		return Choice{}, err
	}
	var w Solver
	return w.solveSplit(context.Background(), maxSteps, m, &in.Workload, split, policy)
}

// solveSplit is SolveModel of a prepared model with a bound on the work.
func (w *Solver) solveSplit(ctx context.Context, steps int, m *Model, work *Workload, split Split, policy plan.Policy) (Choice, error) {
	c := Choice{Split: split}
	err := m.Problem(work, split, &c.Problem)
	if err != nil {
		return Choice{}, err
	}
	if err := c.Problem.Validate(); err != nil {
		return Choice{}, err
	}
	if c.Result, err = w.within(ctx, steps, &c.Problem, policy); err != nil {
		return Choice{}, err
	}
	if c.Result.Infeasible != nil {
		m.nearest(work, &c)
	}
	return c, nil
}

// SolveTotal tries every split of a number of GPUs and returns the one with the
// most tokens per second; among equals the one with fewer attention GPUs. It
// returns the context's error if that ends first.
func SolveTotal(ctx context.Context, in *Instance, total int, policy plan.Policy) (TotalResult, error) {
	if total < 2 || total > plan.MaxRanks {
		return TotalResult{}, &FieldError{"gpus.total", fmt.Sprint(total), fmt.Sprintf("need between 2 (one per group) and %d", plan.MaxRanks)}
	}
	m, err := in.prepare()
	if err != nil {
		return TotalResult{}, err
	}
	var w Solver
	return w.solveTotal(ctx, totalSteps, m, &in.Workload, total, policy)
}

// solveTotal is SolveTotal of a prepared model with a bound on the work.
func (w *Solver) solveTotal(ctx context.Context, steps int, m *Model, work *Workload, total int, policy plan.Policy) (TotalResult, error) {
	choices := make([]Choice, 0, total-1)
	best, left := -1, steps
	for ag := max(1, total-m.shape.MoE.Experts); ag < total; ag++ {
		// What one split does not need is left for the others.
		c, err := w.solveSplit(ctx, left/(total-ag), m, work, Split{ag, total - ag}, policy)
		if err != nil {
			return TotalResult{}, fmt.Errorf("split %d GPUs: %w", total, err)
		}
		left = max(0, left-w.timeline.steps)
		choices = append(choices, c)
		if best < 0 || closer(&c, &choices[best]) {
			best = len(choices) - 1
		}
	}
	r := TotalResult{Best: choices[best]}
	for i := range choices {
		if choices[i].Result.SearchCut {
			r.CutSplits++
		}
		if i != best {
			r.Alternatives = append(r.Alternatives, alternative(&choices[i], &r.Best))
		}
	}
	return r, nil
}

// closer prefers feasible splits, then throughput. Among infeasible ones a
// missed latency or batch comes before missing memory, and then the smaller
// excess.
func closer(a, b *Choice) bool {
	x, y := a.Result.Infeasible, b.Result.Infeasible
	switch {
	case x == nil || y == nil:
		if (x == nil) != (y == nil) {
			return x == nil
		}
		return a.Result.TokensPerSecond > b.Result.TokensPerSecond*(1+1e-12)
	case (x.Reason == MemoryExceeded) != (y.Reason == MemoryExceeded):
		return y.Reason == MemoryExceeded
	case x.NeedBytes-x.HaveBytes != y.NeedBytes-y.HaveBytes:
		return x.NeedBytes-x.HaveBytes < y.NeedBytes-y.HaveBytes
	}
	return x.Nearest.MakespanMilliseconds < y.Nearest.MakespanMilliseconds
}

func alternative(c, best *Choice) Alternative {
	a := Alternative{Split: c.Split, Infeasible: c.Result.Infeasible}
	if a.Infeasible != nil {
		a.Why = a.Infeasible.String()
		return a
	}
	a.TokensPerSecond = c.Result.TokensPerSecond
	a.Why = fmt.Sprintf("%.1f %% fewer tokens per second than %s; %s", 100*(1-a.TokensPerSecond/best.Result.TokensPerSecond), best.Split, c.Result.Regime)
	return a
}

// String is one sentence that says what is missing and what would fit. It
// depends on nothing but the problem, so it may be shown in a condition.
func (i *Infeasible) String() string {
	var what string
	switch i.Reason {
	case LatencyExceeded:
		what = "no plan meets the latency objective"
	case BatchExceeded:
		what = "the batch does not fit"
	default:
		what = "not even one sample fits"
	}
	if i.Group != "" {
		what += fmt.Sprintf(": a GPU of the %s group needs %d bytes and has %d", i.Group, i.NeedBytes, i.HaveBytes)
	}
	n := &i.Nearest
	switch {
	case n.Split != nil:
		what += fmt.Sprintf("; the nearest split that fits is %d attention and %d expert GPUs", n.Split.Attention, n.Split.Expert)
	case n.Batch > 0:
		what += fmt.Sprintf("; the largest batch that fits is %d per attention GPU", n.Batch)
	case n.ContextTokens > 0:
		what += fmt.Sprintf("; the longest context that fits is %d tokens", n.ContextTokens)
	case n.MakespanMilliseconds > 0:
		what += fmt.Sprintf("; the fastest forward pass takes %.3g ms", n.MakespanMilliseconds)
	case i.Group != "":
		what += "; no split of this model fits such GPUs, use ones with more memory"
	}
	return what
}

// nearest fills in what would make an infeasible split feasible.
func (m *Model) nearest(w *Workload, c *Choice) {
	i := c.Result.Infeasible
	switch {
	case i.Group == plan.Expert:
		i.Nearest.Split = m.moreExpertGPUs(w, c)
	case i.Group == plan.Attention && i.Reason == BatchExceeded && i.Nearest.Batch > 0:
		ag := ceilDiv(w.Batch, i.Nearest.Batch)
		s := Split{ag, c.Split.Expert}
		if attention, experts := m.fits(w, s); attention && experts {
			i.Nearest.Split = &s
		}
	case i.Group == plan.Attention:
		// Every attention GPU holds the same weights, so more of them do not
		// help; a shorter context may.
		i.Nearest.ContextTokens = m.longestContext(w, c)
	}
}

// moreExpertGPUs is the split with the fewest expert GPUs that fits: of the
// same total if one does, else with the same attention group. The need of an
// expert GPU falls with the number of them, so each case is a bisection.
func (m *Model) moreExpertGPUs(w *Workload, c *Choice) *Split {
	experts, now := m.shape.MoE.Experts, c.Split
	sameTotal := func(eg int) Split { return Split{now.Total() - eg, eg} }
	sameAttention := func(eg int) Split { return Split{now.Attention, eg} }
	for _, try := range []struct {
		split func(int) Split
		most  int
	}{
		{sameTotal, min(experts, now.Total()-1)},
		{sameAttention, min(experts, plan.MaxRanks-now.Attention)},
	} {
		eg := now.Expert + 1 + sort.Search(max(0, try.most-now.Expert), func(i int) bool {
			_, experts := m.fits(w, try.split(now.Expert+1+i))
			return experts
		})
		if eg > try.most {
			continue
		}
		s := try.split(eg)
		if attention, experts := m.fits(w, s); attention && experts {
			return &s
		}
	}
	return nil
}

// fits tells for each group whether one sample, or the given batch, fits.
func (m *Model) fits(w *Workload, split Split) (attention, experts bool) {
	var p Problem
	if err := m.Problem(w, split, &p); err != nil {
		return false, false
	}
	s, batch := newSearch(context.Background(), &p, plan.FinDEP, &timeline{}), max(p.Batch, 1)
	samples := ceilDiv(batch, s.maxDegree)
	return samples <= s.maxMicroBatch && p.inFlight(samples) >= batch, s.fits(samples)
}

// longestContext is the context for which one sample fits an attention GPU; 0
// if not even its new tokens do.
func (m *Model) longestContext(w *Workload, c *Choice) int {
	d := newDerivation(m, w, c.Split)
	a := &c.Problem.Memory.Attention
	kvToken := m.shape.KVElementsPerTokenLayer() * int64(m.shape.Layers) * d.bytes
	free := a.UsableBytes - a.FixedBytes - a.WorkspaceBytes - (a.PerSampleBytes - kvToken*int64(d.context))
	least := w.PrefixTokens + d.sequence
	if n := int(max(0, free) / kvToken); n >= least {
		return n
	}
	return 0
}
