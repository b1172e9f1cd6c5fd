// SPDX-License-Identifier: Apache-2.0

package evaluation

import (
	"fmt"
	"math"

	"github.com/findep/findep-operator/runtime/plan"
)

// Observation is all that a fit may look at: what PPPipe achieved. FinDEP's
// numbers are not part of it, so that predictions of its gain are blind.
type Observation struct {
	Model  string
	Tokens int
	// TokensPerSecond is the throughput of the best PPPipe configuration.
	TokensPerSecond float64
}

// Observations takes PPPipe's half of a testbed's cells in Table 5. The
// misprint there is in a printed speed-up, so all cells count.
func Observations(cells []Cell) []Observation {
	var all []Observation
	for _, c := range cells {
		all = append(all, Observation{c.Model, c.Tokens, c.PPPipe * 1e3})
	}
	return all
}

// Freedom is what a fit may change.
type Freedom int

// The variants, each with the freedom of the one before.
const (
	// Nothing: datasheet presets and the memory model.
	Nothing Freedom = iota
	// Speeds: the four factors of Machine.
	Speeds
	// SpeedsAndSamples: also how many tokens of each model an attention GPU
	// holds in flight.
	SpeedsAndSamples
)

// String names the variant in reports.
func (f Freedom) String() string {
	return [...]string{"datasheets only", "speeds fitted", "speeds and tokens in flight fitted"}[f]
}

const (
	// residualScale is the deviation of a throughput that counts as much as a
	// factor of two on one of the machine's speeds.
	residualScale = 0.02
	// maxDoublings bounds each factor to [1/16, 16].
	maxDoublings = 4
)

// tokensInFlight are the caps that a fit tries; 0 is the memory model's.
var tokensInFlight = []int{0, 4096, 8192, 12288, 16384, 20480, 24576, 32768, 49152, 65536, 98304, 131072}

// Fit is a machine that explains PPPipe's throughput.
type Fit struct {
	Testbed *Testbed
	Freedom Freedom
	Machine Machine
	// Residuals are ln(predicted/observed), one per observation.
	Observations []Observation
	Residuals    []float64
	// Objective is what was minimised, see FitTestbed.
	Objective float64
}

// RMS is the root mean square of the residuals, in parts of the throughput.
func (f *Fit) RMS() float64 {
	sum := 0.0
	for _, r := range f.Residuals {
		sum += r * r
	}
	return math.Sqrt(sum / float64(len(f.Residuals)))
}

// FitTestbed finds the machine that minimises
//
//	sum (ln(predicted/observed)/0.02)^2 + sum (log2 factor)^2
//
// over the observations and the machine's factors: with up to six parameters
// for seven observations, the second sum keeps a factor at its datasheet value
// unless the observations need it elsewhere. A prediction is the best PPPipe
// plan over all splits of the testbed. The cap on tokens in flight is free of
// charge and taken from a list.
func FitTestbed(t *Testbed, observed []Observation, freedom Freedom) (*Fit, error) {
	f := &fitter{testbed: t, freedom: freedom, observed: observed}
	for _, o := range observed {
		if !(o.TokensPerSecond > 0) {
			return nil, fmt.Errorf("testbed %s: observed throughput of %s at %d tokens is %v; need a positive number", t.Name, o.Model, o.Tokens, o.TokensPerSecond)
		}
		if len(f.models) == 0 || f.models[len(f.models)-1] != o.Model {
			f.models = append(f.models, o.Model)
		}
	}
	at := make([]float64, 4)
	if freedom > Nothing {
		best := vertex{value: math.Inf(1)}
		for _, start := range [][]float64{{0, 0, 0, 0}, {0, 0, 2, 0}, {1, 1, 1, 2}} {
			v := minimise(f.value, start, 0.7, 60)
			if v = minimise(f.value, v.at, 0.2, 60); v.value < best.value {
				best = v
			}
		}
		at = best.at
	}
	m, residuals, objective := f.evaluate(at)
	if f.err != nil {
		return nil, fmt.Errorf("testbed %s: %w", t.Name, f.err)
	}
	return &Fit{Testbed: t, Freedom: freedom, Machine: m, Observations: observed, Residuals: residuals, Objective: objective}, nil
}

type fitter struct {
	testbed  *Testbed
	freedom  Freedom
	observed []Observation
	models   []string
	err      error
}

func (f *fitter) value(at []float64) float64 {
	_, _, objective := f.evaluate(at)
	return objective
}

// evaluate is the objective at some factors, given as doublings, with the best
// caps for them: the models share the factors but not the cap, so each model's
// cap is chosen alone.
func (f *fitter) evaluate(doublings []float64) (m Machine, residuals []float64, objective float64) {
	factor := func(i int) float64 {
		objective += doublings[i] * doublings[i]
		return math.Exp2(min(maxDoublings, max(-maxDoublings, doublings[i])))
	}
	m = Machine{factor(0), factor(1), factor(2), factor(3), map[string]int{}}
	caps := []int{0}
	if f.freedom == SpeedsAndSamples {
		caps = tokensInFlight
	}
	for _, name := range f.models {
		b, err := newBench(f.testbed, name, &m)
		if err != nil {
			f.err = err
			return m, nil, math.Inf(1)
		}
		least, chosen, of := math.Inf(1), 0, []float64(nil)
		for _, most := range caps {
			m.TokensInFlight[name] = most
			if all, sum := f.residuals(b); sum < least {
				least, chosen, of = sum, most, all
			}
		}
		m.TokensInFlight[name] = chosen
		residuals = append(residuals, of...)
		objective += least
	}
	return m, residuals, objective
}

// residuals are those of one model, and the sum of their scaled squares.
func (f *fitter) residuals(b *bench) (all []float64, sum float64) {
	for _, o := range f.observed {
		if o.Model != b.name {
			continue
		}
		c, err := b.best(o.Tokens, splits(f.testbed.GPUs, maxExpertGPUs), plan.PPPipe)
		if err != nil {
			f.err = err
			return nil, math.Inf(1)
		}
		r := math.Log(c.Result.TokensPerSecond / o.TokensPerSecond)
		all = append(all, r)
		sum += r / residualScale * r / residualScale
	}
	return all, sum
}

// maxExpertGPUs is above the size of every testbed.
const maxExpertGPUs = 128
