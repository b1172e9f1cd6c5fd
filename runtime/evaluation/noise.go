// SPDX-License-Identifier: Apache-2.0

package evaluation

import (
	"context"
	"math/rand/v2"

	"github.com/findep/findep-operator/runtime/plan"
	"github.com/findep/findep-operator/runtime/schedule"
	"github.com/findep/findep-operator/runtime/sim"
	"github.com/findep/findep-operator/runtime/solver"
)

// Jitter is what independent noise on every task does to two plans.
type Jitter struct {
	// Level is the noise: each task takes between 1-Level and 1+Level times
	// its time, uniformly.
	Level float64
	// PPPipe and FinDEP are throughputs relative to those without noise, Gain
	// is FinDEP's over PPPipe's; one of each per draw.
	PPPipe, FinDEP, Gain []float64
}

// TaskJitter simulates the schedules of the best plans of both policies, task
// by task, with noisy times.
func TaskJitter(c *Comparison, level float64, draws int, seed uint64) (*Jitter, error) {
	j := &Jitter{Level: level}
	pppipe, err := newReplay(&c.PPPipe)
	if err != nil {
		return nil, err
	}
	findep, err := newReplay(&c.FinDEP)
	if err != nil {
		return nil, err
	}
	nominal := c.FinDEP.Result.TokensPerSecond / c.PPPipe.Result.TokensPerSecond
	r := rand.New(rand.NewPCG(seed, uint64(level*1e6)))
	for range draws {
		p, err := pppipe.noisy(r, level)
		if err != nil {
			return nil, err
		}
		f, err := findep.noisy(r, level)
		if err != nil {
			return nil, err
		}
		j.PPPipe, j.FinDEP, j.Gain = append(j.PPPipe, p), append(j.FinDEP, f), append(j.Gain, nominal*f/p)
	}
	return j, nil
}

// replay is a plan's schedule with the times of its tasks.
type replay struct {
	schedule *schedule.Schedule
	times    sim.Table
	makespan float64
}

func newReplay(c *solver.Choice) (*replay, error) {
	p := &c.Problem
	s, err := schedule.Build(c.Result.Plan, p.Layers, schedule.Options{SharedExperts: p.Stages.Shared != solver.Affine{}})
	if err != nil {
		return nil, err
	}
	d, err := p.Durations(c.Result.Plan)
	if err != nil {
		return nil, err
	}
	w := &replay{schedule: s, times: make(sim.Table, len(s.Tasks))}
	for i := range s.Tasks {
		w.times[i] = d.Duration(&s.Tasks[i])
	}
	r, err := sim.Run(s, w.times.Duration)
	if err != nil {
		return nil, err
	}
	w.makespan = r.Makespan
	return w, nil
}

// noisy is the throughput of one noisy pass relative to one without noise.
func (w *replay) noisy(r *rand.Rand, level float64) (float64, error) {
	result, err := sim.Run(w.schedule, func(task *schedule.Task) float64 {
		return w.times[task.ID] * factor(r, level)
	})
	if err != nil {
		return 0, err
	}
	return w.makespan / result.Makespan, nil
}

func factor(r *rand.Rand, level float64) float64 { return 1 + level*(2*r.Float64()-1) }

// Drift is what keeping a plan costs when the times of whole stages are not
// those it was made for.
type Drift struct {
	// Level is the noise: every stage takes between 1-Level and 1+Level times
	// its time, uniformly, in all layers alike.
	Level float64
	// Losses are by how much the best plan for the noisy times beats the one
	// kept, one per draw.
	Losses []float64
}

// Within is the part of the draws in which the kept plan loses at most so much.
func (d *Drift) Within(loss float64) float64 {
	n := 0
	for _, x := range d.Losses {
		if x <= loss {
			n++
		}
	}
	return float64(n) / float64(len(d.Losses))
}

// Quantile is a loss that a part of the draws does not exceed.
func (d *Drift) Quantile(part float64) float64 { return quantile(d.Losses, part) }

// Mean is the mean loss.
func (d *Drift) Mean() float64 {
	sum := 0.0
	for _, x := range d.Losses {
		sum += x
	}
	return sum / float64(len(d.Losses))
}

// StageDrift keeps FinDEP's plan while the stages drift, and solves anew for
// each draw to see what is lost. The split stays, since changing it means to
// restart.
func StageDrift(c *Comparison, level float64, draws int, seed uint64) (*Drift, error) {
	d := &Drift{Level: level}
	r := rand.New(rand.NewPCG(seed, uint64(level*1e6)))
	var w solver.Solver
	for range draws {
		p := c.FinDEP.Problem
		scaleStages(&p.Stages, func() float64 { return factor(r, level) })
		kept, err := solver.Predict(&p, c.FinDEP.Result.Plan)
		if err != nil {
			return nil, err
		}
		best, err := w.Solve(context.Background(), &p, plan.FinDEP)
		if err != nil {
			return nil, err
		}
		d.Losses = append(d.Losses, max(0, best.TokensPerSecond/kept.TokensPerSecond-1))
	}
	return d, nil
}

// RandomDrift is StageDrift on random problems with 1 to 4 samples in flight,
// one draw for each.
func RandomDrift(problems int, level float64, seed uint64) (*Drift, error) {
	all := &Drift{Level: level}
	var w solver.Solver
	for i := range uint64(problems) {
		r := rand.New(rand.NewPCG(seed, i))
		p := randomProblem(r)
		p.Limits = solver.Limits{SamplesInFlight: 1 + r.IntN(4), MaxSegments: 16}
		nominal, err := w.Solve(context.Background(), p, plan.FinDEP)
		if err != nil {
			return nil, err
		}
		one, err := StageDrift(&Comparison{FinDEP: solver.Choice{Problem: *p, Result: nominal}}, level, 1, seed+i)
		if err != nil {
			return nil, err
		}
		all.Losses = append(all.Losses, one.Losses...)
	}
	return all, nil
}

func scaleStages(s *solver.Stages, by func() float64) {
	f := by()
	s.Attention = solver.AttentionTime{Alpha: f * s.Attention.Alpha, Beta: f * s.Attention.Beta, Quadratic: f * s.Attention.Quadratic}
	for _, a := range []*solver.Affine{&s.Shared, &s.Expert, &s.A2E, &s.E2A} {
		f := by()
		*a = solver.Affine{Alpha: f * a.Alpha, Beta: f * a.Beta}
	}
}

// Hysteresis is the gain for which the runtime changes its plan.
const Hysteresis = 0.03

// ResolvingPays is the smallest of the levels at which one draw in ten loses
// more than the hysteresis; ok is false if there is none.
func ResolvingPays(drifts []*Drift) (level float64, ok bool) {
	for _, d := range drifts {
		if d.Quantile(0.9) > Hysteresis {
			return d.Level, true
		}
	}
	return 0, false
}
