// SPDX-License-Identifier: Apache-2.0

package evaluation

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"

	"github.com/findep/findep-operator/runtime/plan"
	"github.com/findep/findep-operator/runtime/solver"
)

// randomProblem draws the five stages of a problem without limits: launch costs
// and slopes of each from 0.01 to 2.01 ms, zero more often than not, shared
// experts in two of three, 1 to 10 layers. Quadratic is the causal part of
// attention, so that chunks may be cut.
func randomProblem(r *rand.Rand) *solver.Problem {
	stage := func() solver.Affine {
		return solver.Affine{Alpha: 0.01 + r.Float64()*float64(r.IntN(3)), Beta: 0.01 + r.Float64()*float64(r.IntN(3))}
	}
	a := stage()
	p := &solver.Problem{
		Stages: solver.Stages{
			Attention: solver.AttentionTime{Alpha: a.Alpha, Beta: a.Beta, Quadratic: r.Float64()},
			Shared:    stage(), Expert: stage(), A2E: stage(), E2A: stage(),
		},
		Layers: 1 + r.IntN(10), AttentionGPUs: 1 + r.IntN(4), SequenceTokens: 4096,
		TokensPerExpertPerSample: 0.1 + 4*r.Float64(),
	}
	if r.IntN(3) == 0 {
		p.Stages.Shared = solver.Affine{}
	}
	return p
}

// Gains is the distribution of FinDEP's gain over PPPipe on random problems.
type Gains struct {
	// Least and Most bound the cap on samples in flight, drawn for each
	// problem; Chunks bounds the causal chunks of both policies.
	Least, Most, Chunks int
	// Sorted are the gains in increasing order.
	Sorted []float64
}

// Quantile is a gain that a part of the problems does not exceed.
func (g *Gains) Quantile(part float64) float64 { return quantile(g.Sorted, part) }

// Below is the part of the problems with a gain below a value.
func (g *Gains) Below(gain float64) float64 {
	n, _ := slices.BinarySearch(g.Sorted, gain)
	return float64(n) / float64(len(g.Sorted))
}

// rounding is how much, relatively, two ways to sum the same times may differ.
const rounding = 1e-12

// RandomGains solves random problems whose samples in flight are capped to a
// number between least and most. It fails if FinDEP is ever worse than PPPipe.
func RandomGains(problems int, seed uint64, least, most, chunks int) (*Gains, error) {
	g := &Gains{Least: least, Most: most, Chunks: chunks}
	var w solver.Solver
	for i := range uint64(problems) {
		r := rand.New(rand.NewPCG(seed, i))
		p := randomProblem(r)
		p.Limits = solver.Limits{SamplesInFlight: least + r.IntN(most-least+1), MaxChunks: chunks, MaxSegments: 16}
		pppipe, err := w.Solve(context.Background(), p, plan.PPPipe)
		if err != nil {
			return nil, err
		}
		findep, err := w.Solve(context.Background(), p, plan.FinDEP)
		if err != nil {
			return nil, err
		}
		gain := findep.TokensPerSecond / pppipe.TokensPerSecond
		if gain < 1-rounding {
			return nil, fmt.Errorf("random problem %d of seed %d with at most %d samples in flight: FinDEP's %v serves %v tokens/s, PPPipe's %v serves %v",
				i, seed, p.Limits.SamplesInFlight, findep.Plan, findep.TokensPerSecond, pppipe.Plan, pppipe.TokensPerSecond)
		}
		g.Sorted = append(g.Sorted, gain)
	}
	slices.Sort(g.Sorted)
	return g, nil
}
