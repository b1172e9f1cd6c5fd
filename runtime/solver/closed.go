// SPDX-License-Identifier: Apache-2.0

package solver

import "github.com/findep/findep-operator/runtime/plan"

// as returns the times as the closed forms of a policy see them: PPPipe treats
// the shared experts as part of attention.
func (t Times) as(policy plan.Policy) Times {
	if policy != plan.FinDEP {
		t.Attention += t.Shared
		t.Shared = 0
	}
	return t
}

// Makespan is the exact time of one forward pass over the MoE layers with r1
// micro-batches of r2 segments, without what runs outside the pipeline.
func (t Times) Makespan(policy plan.Policy, order plan.Order, layers, r1, r2 int) float64 {
	t = t.as(policy)
	switch {
	case policy == plan.Sequential:
		return float64(layers) * float64(r1) * (t.Attention + t.A2E + t.Expert + t.E2A + float64(r2-1)*(t.A2E+t.Expert+t.E2A))
	case order == plan.AASS:
		return t.makespanAASS(layers, r1, r2)
	default:
		return t.makespanASAS(layers, r1, r2)
	}
}

// makespanASAS is
//
//	D = (T-1)*max(G, r1*F) + max(X, G) + (r1-1)*F,  X = a+s, F = max(X, r2*Y).
//
// The longest path through the events consists of full loops (G) and of steps
// from one micro-batch to the next (at most F); its length is linear in the
// number of loops, so the maximum is at either extreme. Eq. 13 of the paper
// adds (r2-1)*Y once more, which overestimates.
func (t Times) makespanASAS(layers, r1, r2 int) float64 {
	x, g := t.Attention+t.Shared, t.loop(r2)
	f := max(x, float64(r2)*t.slowest())
	return float64(layers-1)*max(g, float64(r1)*f) + max(x, g) + float64(r1-1)*f
}

// makespanAASS differs in that the next layer also waits for the whole block
// of shared experts: a cycle of two layers can ride the expert line to the last
// micro-batch and then wait for the block, which costs M = G + Z. (A path that
// ends with such a half cycle, M + Phi(T-2), never exceeds the first candidate,
// because Q >= a + r1*s.)
func (t Times) makespanAASS(layers, r1, r2 int) float64 {
	n, y, g := float64(r1), float64(r2)*t.slowest(), t.loop(r2)
	x, fa := t.Attention+t.Shared, max(t.Attention, y)
	z := t.Attention + (n-1)*fa + n*t.Shared
	m, q := g+z, max(g, n*x, n*y)
	phi := func(k int) float64 {
		return max(float64(k)*q, float64(k/2)*m+float64(k%2)*q)
	}
	return phi(layers-1) + max((n-1)*fa+g, n*x)
}

// LayerPeriod is the steady-state time per layer.
func (t Times) LayerPeriod(policy plan.Policy, order plan.Order, r1, r2 int) float64 {
	if policy == plan.Sequential {
		return t.Makespan(policy, order, 1, r1, r2)
	}
	t = t.as(policy)
	n, y, g := float64(r1), float64(r2)*t.slowest(), t.loop(r2)
	period := max(g, n*(t.Attention+t.Shared), n*y)
	if order == plan.AASS {
		z := t.Attention + (n-1)*max(t.Attention, y) + n*t.Shared
		period = max(period, (g+z)/2)
	}
	return period
}

// Regime says what sets the layer period.
type Regime string

// The regimes. Only when latency-bound can FinDEP's period be shorter than
// PPPipe's; otherwise both meet at the resource's bound.
const (
	LatencyBound   Regime = "LatencyBound"
	AttentionBound Regime = "AttentionBound"
	LinkBound      Regime = "LinkBound"
	ExpertBound    Regime = "ExpertBound"
)

// Regime is the argmax of the layer period's terms.
func (t Times) Regime(policy plan.Policy, order plan.Order, r1, r2 int) Regime {
	period := t.LayerPeriod(policy, order, r1, r2)
	n := float64(r1)
	switch r := n * float64(r2); {
	case policy == plan.Sequential:
		return LatencyBound
	case n*(t.Attention+t.Shared) >= period:
		return AttentionBound
	case r*t.Expert >= period:
		return ExpertBound
	case r*max(t.A2E, t.E2A) >= period:
		return LinkBound
	default:
		return LatencyBound
	}
}
