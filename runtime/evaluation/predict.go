// SPDX-License-Identifier: Apache-2.0

package evaluation

import (
	"context"
	"math"
	"slices"

	"github.com/findep/findep-operator/runtime/plan"
	"github.com/findep/findep-operator/runtime/solver"
)

// Prediction is a cell with what a fit says about it.
type Prediction struct {
	Cell Cell
	// PPPipe and FinDEP are the best configurations.
	PPPipe, FinDEP Configuration
}

// Gain is FinDEP's predicted throughput relative to PPPipe's.
func (p *Prediction) Gain() float64 {
	return p.FinDEP.Result.TokensPerSecond / p.PPPipe.Result.TokensPerSecond
}

// PredictOffline predicts the cells of Table 5 on a fitted testbed: the best
// configurations of both schemes over all splits.
func (f *Fit) PredictOffline(cells []Cell) ([]Prediction, error) {
	var all []Prediction
	for _, c := range cells {
		b, err := newBench(f.Testbed, c.Model, &f.Machine)
		if err != nil {
			return nil, err
		}
		p := Prediction{Cell: c}
		among := splits(f.Testbed.GPUs, maxExpertGPUs)
		if p.PPPipe, err = b.best(c.Tokens, among, plan.PPPipe); err != nil {
			return nil, err
		}
		if p.FinDEP, err = b.best(c.Tokens, among, plan.FinDEP); err != nil {
			return nil, err
		}
		all = append(all, p)
	}
	return all, nil
}

// Reading is a way to understand the arriving tokens of Table 6, which the
// paper does not define.
type Reading int

// The readings.
const (
	// Prompts: every prompt has that many tokens.
	Prompts Reading = iota
	// Batches: so many tokens arrive for one forward pass, over all attention
	// GPUs, in short prompts.
	Batches
)

// String names the reading in reports.
func (r Reading) String() string { return [...]string{"prompt length", "tokens per pass"}[r] }

const (
	// tunedTokens is the prompt length that the paper tuned PPPipe for.
	tunedTokens = 2048
	// ShortPromptTokens is the prompt length of the reading Batches; it
	// divides the tokens of every attention GPU in Table 6.
	ShortPromptTokens = 128
)

// PredictOnline predicts the cells of Table 6 in one reading: PPPipe keeps the
// number of micro-batches that is best for prompts of 2048 tokens, and their
// size as far as the tokens allow; FinDEP is solved anew.
func (f *Fit) PredictOnline(cells []Cell, reading Reading) ([]Prediction, error) {
	var all []Prediction
	for _, c := range cells {
		b, err := newBench(f.Testbed, c.Model, &f.Machine)
		if err != nil {
			return nil, err
		}
		split := f.Testbed.Split(c.Model)
		kept, err := b.tuned(split)
		if err != nil {
			return nil, err
		}
		p := Prediction{Cell: c, PPPipe: Configuration{Split: split}, FinDEP: Configuration{Split: split}}
		if reading == Batches {
			if err := b.load(ShortPromptTokens, split); err != nil {
				return nil, err
			}
			b.problem.Batch = c.Tokens / ShortPromptTokens / split.Attention
			kept.R1 = min(kept.R1, b.problem.Batch)
			kept.MicroBatchSize = (b.problem.Batch + kept.R1 - 1) / kept.R1
		} else {
			if err := b.load(c.Tokens, split); err != nil {
				return nil, err
			}
			kept.MicroBatchSize = max(1, min(kept.MicroBatchSize, b.machine.samples(c.Model, c.Tokens)))
			kept.R1 = max(1, min(kept.R1, b.problem.MaxPipelineDegree(kept.MicroBatchSize)))
		}
		if p.PPPipe.Result, err = solver.Predict(&b.problem, kept); err != nil {
			return nil, err
		}
		if p.FinDEP.Result, err = b.solver.Solve(context.Background(), &b.problem, plan.FinDEP); err != nil {
			return nil, err
		}
		all = append(all, p)
	}
	return all, nil
}

// closeEnough is the part of the best throughput for which nobody would add
// another micro-batch.
const closeEnough = 0.99

// tuned is the PPPipe plan for prompts of 2048 tokens: the one with the fewest
// micro-batches that is within a percent of the best.
func (b *bench) tuned(split solver.Split) (plan.Plan, error) {
	best, err := b.best(tunedTokens, []solver.Split{split}, plan.PPPipe)
	if err != nil {
		return plan.Plan{}, err
	}
	for degree := 1; degree < best.Result.R1; degree++ {
		b.problem.Limits.MaxPipelineDegree = degree
		r, err := b.solver.Solve(context.Background(), &b.problem, plan.PPPipe)
		if err != nil {
			return plan.Plan{}, err
		}
		if r.TokensPerSecond >= closeEnough*best.Result.TokensPerSecond {
			return r.Plan, nil
		}
	}
	return best.Result.Plan, nil
}

// Accuracy sums up predictions of gains. Misprinted cells do not count.
type Accuracy struct {
	Cells int
	// Median and Worst are absolute differences of gains: 0.05 is five
	// percent of PPPipe's throughput. WorstCell is where.
	Median, Worst float64
	WorstCell     Cell
	// Bias is the mean of predicted less published gain.
	Bias float64
	// Agreeing counts cells in which both sides, or neither, gain 3 % or
	// more, the margin at which the runtime changes plans.
	Agreeing int
	// Rank is Spearman's correlation of predicted and published gains.
	Rank float64
	// PPPipeRMS and FinDEPRMS are the root mean squares of
	// ln(predicted/published) throughput.
	PPPipeRMS, FinDEPRMS float64
}

// worthwhile is the gain that counts as one.
const worthwhile = 1.03

// Assess compares predicted with published gains.
func Assess(predictions []Prediction) Accuracy {
	return assess(predictions, func(p *Prediction) float64 { return p.Gain() })
}

// AssessConstant does so for somebody who predicts the same gain everywhere.
func AssessConstant(predictions []Prediction, gain float64) Accuracy {
	return assess(predictions, func(*Prediction) float64 { return gain })
}

func assess(predictions []Prediction, gain func(*Prediction) float64) Accuracy {
	var a Accuracy
	var errs, predicted, published []float64
	pppipe, findep := 0.0, 0.0
	for i := range predictions {
		p := &predictions[i]
		if p.Cell.Misprint != "" {
			continue
		}
		got, want := gain(p), p.Cell.Gain()
		predicted, published = append(predicted, got), append(published, want)
		errs = append(errs, math.Abs(got-want))
		a.Bias += got - want
		if math.Abs(got-want) > a.Worst {
			a.Worst, a.WorstCell = math.Abs(got-want), p.Cell
		}
		if (got >= worthwhile) == (want >= worthwhile) {
			a.Agreeing++
		}
		pppipe += square(math.Log(p.PPPipe.Result.TokensPerSecond / p.Cell.PPPipe / 1e3))
		findep += square(math.Log(p.FinDEP.Result.TokensPerSecond / p.Cell.FinDEP / 1e3))
	}
	a.Cells = len(errs)
	if a.Cells == 0 {
		return a
	}
	n := float64(a.Cells)
	a.Bias /= n
	a.PPPipeRMS, a.FinDEPRMS = math.Sqrt(pppipe/n), math.Sqrt(findep/n)
	a.Rank = correlation(ranks(predicted), ranks(published))
	a.Median = quantile(errs, 0.5)
	return a
}

func square(x float64) float64 { return x * x }

// quantile is a value that a part of the list does not exceed, interpolated.
func quantile(list []float64, part float64) float64 {
	sorted := slices.Sorted(slices.Values(list))
	at := part * float64(len(sorted)-1)
	low := int(at)
	high := min(low+1, len(sorted)-1)
	return sorted[low] + (at-float64(low))*(sorted[high]-sorted[low])
}

// ranks are the positions of values in their order; equal ones share the mean.
func ranks(list []float64) []float64 {
	r := make([]float64, len(list))
	for i, x := range list {
		below, equal := 0, 0
		for _, y := range list {
			switch {
			case y < x:
				below++
			case y == x:
				equal++
			}
		}
		r[i] = float64(below) + float64(equal-1)/2
	}
	return r
}

// correlation is Pearson's; 0 if one side does not vary.
func correlation(x, y []float64) float64 {
	n := float64(len(x))
	var mx, my, xx, yy, xy float64
	for i := range x {
		mx += x[i] / n
		my += y[i] / n
	}
	for i := range x {
		xx += (x[i] - mx) * (x[i] - mx)
		yy += (y[i] - my) * (y[i] - my)
		xy += (x[i] - mx) * (y[i] - my)
	}
	if xx == 0 || yy == 0 {
		return 0
	}
	return xy / math.Sqrt(xx*yy)
}
