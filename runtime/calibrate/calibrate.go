// SPDX-License-Identifier: Apache-2.0

// Package calibrate measures how fast a device and a link are, and fits the
// linear models that planning uses: time = alpha + beta*work (arXiv 2512.21487,
// equations 7 to 9).
//
// Every size is run a few times to warm up and then measured; its median
// counts. Sizes take turns, so that a clock that slows down or a neighbour that
// comes and goes touches all of them alike instead of bending the line. A
// series whose points do not lie on a line is refused with the point that
// deviates most and the likely cause: a plan made from it would be wrong in a
// way that nobody sees.
//
// Kernels come from a backend.Device and transfers from two transport.Meshes;
// the clock is the caller's.
package calibrate

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// Kind names what a series measures.
type Kind string

// The series of a profile, by the names of its fields.
const (
	GEMM            Kind = "gemm"
	GroupedGEMM     Kind = "groupedGEMM"
	Attention       Kind = "attention"
	DecodeAttention Kind = "decodeAttention"
	Memory          Kind = "memory"
	Link            Kind = "link"
)

// Work is one size of a series.
type Work struct {
	// What says what runs, for people.
	What string
	// Amount is the work of one launch: 10^9 multiply-accumulates, or 10^6 bytes.
	Amount float64
	// Launches is how many launches Run makes; their time is divided by it.
	Launches int
	// Run does the work and returns when it is done.
	Run func() error
}

// Point is a measured size.
type Point struct {
	What string `json:"what"`
	// Amount is the work of one launch, Microseconds its median time, Low and
	// High the quartiles.
	Amount       float64 `json:"amount"`
	Microseconds float64 `json:"microseconds"`
	Low          float64 `json:"low"`
	High         float64 `json:"high"`
}

// Scatter is how far the middle half of the trials spreads, relative to the
// median.
func (p *Point) Scatter() float64 { return (p.High - p.Low) / p.Microseconds }

// Series are the measured sizes of one kind.
type Series struct {
	Kind   Kind    `json:"kind"`
	Points []Point `json:"points"`
}

// Bounds of Options.
const (
	MaxTrials = 10_000
	minTrials = 3
)

// Options say how a series is measured.
type Options struct {
	// Trials are the measured runs of every size, WarmUp those before them.
	Trials, WarmUp int
	// Now is the clock.
	Now func() time.Time
	// Progress, if set, is told after every round over all sizes.
	Progress func(kind Kind, round, rounds int)
}

// Validate reports what is out of bounds.
func (o *Options) Validate() error {
	switch {
	case o.Trials < minTrials || o.Trials > MaxTrials:
		return fmt.Errorf("trials is %d; need %d to %d", o.Trials, minTrials, MaxTrials)
	case o.WarmUp < 0 || o.WarmUp > MaxTrials:
		return fmt.Errorf("warmup is %d; need 0 to %d", o.WarmUp, MaxTrials)
	}
	return nil
}

// Measure runs every size WarmUp + Trials times. The error is that of a run, or
// the context's.
func Measure(ctx context.Context, kind Kind, works []Work, o Options) (Series, error) {
	s := Series{Kind: kind}
	if err := o.Validate(); err != nil {
		return s, err
	}
	times := make([][]float64, len(works))
	rounds := o.WarmUp + o.Trials
	for round := range rounds {
		for i := range works {
			if err := ctx.Err(); err != nil {
				return s, err
			}
			took, err := works[i].time(o.Now)
			if err != nil {
				return s, fmt.Errorf("%s, %s: %w", kind, works[i].What, err)
			}
			if round >= o.WarmUp {
				times[i] = append(times[i], took)
			}
		}
		if o.Progress != nil {
			o.Progress(kind, round+1, rounds)
		}
	}
	for i, w := range works {
		slices.Sort(times[i])
		s.Points = append(s.Points, Point{
			What: w.What, Amount: w.Amount,
			Microseconds: quantile(times[i], 0.5), Low: quantile(times[i], 0.25), High: quantile(times[i], 0.75),
		})
	}
	return s, nil
}

// time is how many microseconds one launch takes.
func (w *Work) time(now func() time.Time) (float64, error) {
	start := now()
	err := w.Run()
	return float64(now().Sub(start).Nanoseconds()) / 1e3 / float64(max(1, w.Launches)), err
}

// quantile interpolates between the two nearest of sorted values.
func quantile(sorted []float64, q float64) float64 {
	at := q * float64(len(sorted)-1)
	low := int(at)
	high := min(low+1, len(sorted)-1)
	return sorted[low] + (at-float64(low))*(sorted[high]-sorted[low])
}
