// SPDX-License-Identifier: Apache-2.0

package evaluation

import (
	"cmp"
	"math"
	"math/rand/v2"
	"slices"

	"github.com/findep/findep-operator/runtime/plan"
	"github.com/findep/findep-operator/runtime/schedule"
	"github.com/findep/findep-operator/runtime/sim"
	"github.com/findep/findep-operator/runtime/solver"
)

// Is there an order of the attention stream that beats both ASAS and AASS by
// enough to be worth a third one? The search here is a beam search over all
// orders, layer by layer, in which a shared-expert task may even move behind
// attention tasks of the next layer. It is not proved optimal.

// beamWidth is how many partial orders the search keeps.
const beamWidth = 100

// partial is an order under construction: the times of the machine after its
// tasks so far.
type partial struct {
	attention, a2e, expert, e2a float64
	// placed counts attention tasks, owed the shared-expert tasks behind.
	placed, owed int
	back         []float64
	bound        float64
}

// orderSearch has the pieces of one layer, which all layers share.
type orderSearch struct {
	pieces []solver.Times
	layers int
	r2     float64
}

// newOrderSearch takes the pieces from a plan's schedule.
func newOrderSearch(p *solver.Problem, s *schedule.Schedule, d *solver.Durations) *orderSearch {
	o := &orderSearch{layers: p.Layers, r2: float64(s.Segments), pieces: make([]solver.Times, s.MicroBatches)}
	for i := range o.pieces {
		at := func(kind schedule.Kind) float64 {
			if id, ok := s.Find(kind, 0, i, 0); ok {
				return d.Duration(&s.Tasks[id])
			}
			return 0
		}
		o.pieces[i] = solver.Times{Attention: at(schedule.Attention), Shared: at(schedule.Shared), A2E: at(schedule.A2E), Expert: at(schedule.Expert), E2A: at(schedule.E2A)}
	}
	return o
}

// attend appends the next attention task and sends its segments, a tandem line
// of equal jobs.
func (o *orderSearch) attend(x partial) partial {
	i := x.placed % len(o.pieces)
	t := o.pieces[i]
	x.back = slices.Clone(x.back)
	x.attention = max(x.attention, x.back[i]) + t.Attention
	start, n := max(x.attention, x.a2e), o.r2-1
	x.e2a = max(x.e2a+o.r2*t.E2A, x.expert+t.Expert+t.E2A+n*max(t.Expert, t.E2A), start+t.A2E+t.Expert+t.E2A+n*max(t.A2E, t.Expert, t.E2A))
	x.expert = max(x.expert+o.r2*t.Expert, start+t.A2E+t.Expert+n*max(t.A2E, t.Expert))
	x.a2e, x.back[i] = start+o.r2*t.A2E, x.e2a
	x.placed++
	x.owed++
	return o.bounded(x)
}

// share appends the oldest shared-expert task that is owed.
func (o *orderSearch) share(x partial) partial {
	x.attention += o.pieces[(x.placed-x.owed)%len(o.pieces)].Shared
	x.owed--
	return o.bounded(x)
}

// bounded sets a lower bound of the makespan with what is still to come.
func (o *orderSearch) bounded(x partial) partial {
	n, load, experts, last := len(o.pieces), x.attention, x.expert, 0.0
	for at := x.placed - x.owed; at < o.layers*n; at++ {
		t := o.pieces[at%n]
		load += t.Shared
		if at >= x.placed {
			load += t.Attention
			experts += o.r2 * t.Expert
		}
	}
	for i, t := range o.pieces {
		left := o.layers - x.placed/n
		if i < x.placed%n {
			left--
		}
		loop := t.Attention + t.A2E + t.Expert + t.E2A + (o.r2-1)*max(t.A2E, t.Expert, t.E2A)
		last = max(last, x.back[i]+float64(left)*loop)
	}
	x.bound = max(load, experts, last, x.e2a)
	return x
}

// best is the least makespan found.
func (o *orderSearch) best() float64 {
	beam, total := []partial{{back: make([]float64, len(o.pieces))}}, o.layers*len(o.pieces)
	for range 2 * total {
		var next []partial
		for _, x := range beam {
			// A piece's shared experts come before its next attention.
			if x.placed < total && x.owed < len(o.pieces) {
				next = append(next, o.attend(x))
			}
			if x.owed > 0 {
				next = append(next, o.share(x))
			}
		}
		slices.SortStableFunc(next, func(a, b partial) int {
			return cmp.Or(cmp.Compare(a.bound, b.bound), cmp.Compare(a.a2e, b.a2e))
		})
		beam = next[:min(beamWidth, len(next))]
	}
	return beam[0].bound
}

// OrderGain is by how much the best order found for a plan's pieces beats the
// better of ASAS and AASS; 0 if it does not. Dense layers and output head are
// left out.
func OrderGain(p *solver.Problem, c plan.Plan) (float64, error) {
	bare := *p
	bare.Dense, bare.Head, bare.Outside = solver.AttentionTime{}, solver.Affine{}, solver.Affine{}
	d, err := bare.Durations(c)
	if err != nil {
		return 0, err
	}
	two := math.Inf(1)
	var o *orderSearch
	for _, c.Order = range []plan.Order{plan.ASAS, plan.AASS} {
		s, err := schedule.Build(c, p.Layers, schedule.Options{SharedExperts: true})
		if err != nil {
			return 0, err
		}
		r, err := sim.Run(s, d.Duration)
		if err != nil {
			return 0, err
		}
		if two = min(two, r.Makespan); o == nil {
			o = newOrderSearch(&bare, s, d)
		}
	}
	return max(0, two/o.best()-1), nil
}

// RandomOrderGains are the gains, in increasing order, of the best orders found
// on random problems of a given depth with shared experts, 1 or 2 micro-batches
// in 2 chunks, and 1 to 4 segments.
func RandomOrderGains(problems int, seed uint64, layers int) ([]float64, error) {
	var gains []float64
	for i := range uint64(problems) {
		r := rand.New(rand.NewPCG(seed, i))
		p := randomProblem(r)
		p.Layers, p.Limits.SamplesInFlight = layers, 8
		p.Stages.Shared = solver.Affine{Alpha: 0.1, Beta: 2 * r.Float64()}
		c := plan.Plan{Policy: plan.FinDEP, MicroBatchSize: 1, R1: 1 + r.IntN(2), R2: 1 + r.IntN(4), Order: plan.ASAS, Chunks: 2}
		gain, err := OrderGain(p, c)
		if err != nil {
			return nil, err
		}
		gains = append(gains, gain)
	}
	slices.Sort(gains)
	return gains, nil
}
