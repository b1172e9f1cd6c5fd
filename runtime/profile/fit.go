// SPDX-License-Identifier: Apache-2.0

package profile

import (
	"fmt"
	"math"
)

// Thresholds below which a fitted model should not be used for planning.
const (
	// MinRSquared is the least acceptable quality of a fit.
	MinRSquared = 0.99
	// MaxRelativeError is the largest acceptable deviation of one point.
	MaxRelativeError = 0.15
)

// Fit is a least-squares line through measured points.
type Fit struct {
	// Alpha and Beta are intercept and slope, both at least 0.
	Alpha, Beta float64
	// RSquared is 1 - SSE/SST, and 1 if all y are equal and met exactly.
	RSquared float64
	// MaxRelativeError is the largest |fit(x)-y|/y over the points.
	MaxRelativeError float64
}

// At returns the line's value.
func (f Fit) At(x float64) float64 { return f.Alpha + f.Beta*x }

// Acceptable returns nil if the fit may be used, or an error that says which
// threshold it misses.
func (f Fit) Acceptable() error {
	if f.RSquared < MinRSquared {
		return fmt.Errorf("R2 is %.4f, below %.2f: time is not linear in size here; measure again on an idle machine or over a narrower range", f.RSquared, MinRSquared)
	}
	if f.MaxRelativeError > MaxRelativeError {
		return fmt.Errorf("largest error is %.0f %%, above %.0f %%: measure again on an idle machine or over a narrower range",
			100*f.MaxRelativeError, 100*MaxRelativeError)
	}
	return nil
}

// FitLine fits y = alpha + beta*x by ordinary least squares. A negative
// intercept is refitted through the origin and a negative slope becomes a
// constant, since neither time nor its growth can be negative. It needs at
// least two different x, all values finite, and positive y.
func FitLine(x, y []float64) (Fit, error) {
	if len(x) != len(y) || len(x) < 2 {
		return Fit{}, fmt.Errorf("fit: %d sizes and %d times; need the same number and at least 2", len(x), len(y))
	}
	var xm, ym float64
	for i := range x {
		if !finite(x[i]) || !finite(y[i]) || x[i] < 0 || y[i] <= 0 {
			return Fit{}, fmt.Errorf("fit: point %d is (%v, %v); need a size of at least 0 and a positive time", i, x[i], y[i])
		}
		xm += x[i] / float64(len(x))
		ym += y[i] / float64(len(y))
	}
	var sxx, sxy, sx2, sxyOrigin float64
	for i := range x {
		sxx += (x[i] - xm) * (x[i] - xm)
		sxy += (x[i] - xm) * (y[i] - ym)
		sx2 += x[i] * x[i]
		sxyOrigin += x[i] * y[i]
	}
	if sxx == 0 || !finite(sxx) || !finite(sx2) {
		return Fit{}, fmt.Errorf("fit: all sizes are %v or too large; need at least 2 different ones", x[0])
	}
	f := Fit{Beta: sxy / sxx}
	f.Alpha = ym - f.Beta*xm
	switch {
	case f.Beta < 0:
		f.Alpha, f.Beta = ym, 0
	case f.Alpha < 0:
		f.Alpha, f.Beta = 0, sxyOrigin/sx2
	}
	f.judge(x, y, ym)
	return f, nil
}

// judge fills in the quality of the fit.
func (f *Fit) judge(x, y []float64, ym float64) {
	var sse, sst float64
	for i := range x {
		d := y[i] - f.At(x[i])
		sse += d * d
		sst += (y[i] - ym) * (y[i] - ym)
		f.MaxRelativeError = max(f.MaxRelativeError, math.Abs(d)/y[i])
	}
	switch {
	case sst > 0:
		f.RSquared = max(0, 1-sse/sst)
	case sse == 0:
		f.RSquared = 1
	}
}
