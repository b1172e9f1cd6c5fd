// SPDX-License-Identifier: Apache-2.0

package calibrate

import (
	"fmt"
	"math"

	"github.com/findep/findep-operator/runtime/profile"
)

// Line is a series with the line through its points.
type Line struct {
	Series
	// Fit has alpha in microseconds and beta in microseconds per unit of work.
	profile.Fit
}

// Compute is the line as a field of a profile.
func (l *Line) Compute() profile.Compute {
	return profile.Compute{AlphaMicroseconds: l.Alpha, MicrosecondsPerGigaMAC: l.Beta, RSquared: l.RSquared}
}

// Transfer is the line as a field of a profile.
func (l *Line) Transfer(name string) profile.Transfer {
	return profile.Transfer{Name: name, AlphaMicroseconds: l.Alpha, MicrosecondsPerMegabyte: l.Beta, RSquared: l.RSquared}
}

// FitLine fits a series by least squares. The error is a *PoorFitError if R2 is
// below profile.MinRSquared; the line is returned with it.
func FitLine(s Series) (Line, error) {
	x, y := make([]float64, len(s.Points)), make([]float64, len(s.Points))
	for i, p := range s.Points {
		x[i], y[i] = p.Amount, p.Microseconds
	}
	fit, err := profile.FitLine(x, y)
	if err != nil {
		return Line{Series: s}, fmt.Errorf("%s: %w", s.Kind, err)
	}
	line := Line{s, fit}
	if fit.RSquared < profile.MinRSquared || fit.Beta == 0 {
		return line, newPoorFit(&line)
	}
	return line, nil
}

// PoorFitError says why a series makes no model.
type PoorFitError struct {
	Kind     Kind
	RSquared float64
	// Worst is the point with the largest share in the error, Predicted what
	// the line says there, in microseconds.
	Worst     Point
	Predicted float64
	// Flat tells that the line does not rise at all.
	Flat bool
	// Cause is the likely one, Remedy what to do.
	Cause, Remedy string
}

// Error implements error.
func (e *PoorFitError) Error() string {
	if e.Flat {
		return fmt.Sprintf("%s: time does not grow with the work; it is about %.4g us for every size. Likely cause: %s. Remedy: %s", e.Kind, e.Predicted, e.Cause, e.Remedy)
	}
	than, by := "more", e.Worst.Microseconds/e.Predicted-1
	if by < 0 {
		than, by = "less", -by
	}
	return fmt.Sprintf("%s: R2 is %.4f, below %.2f: %s took %.4g us, %.0f %% %s than the %.4g us of the line through all sizes. Likely cause: %s. Remedy: %s",
		e.Kind, e.RSquared, profile.MinRSquared, e.Worst.What, e.Worst.Microseconds, 100*by, than, e.Predicted, e.Cause, e.Remedy)
}

// unsteady is the scatter from which on trials of one size disagree too much
// for the size to be at fault.
const unsteady = 0.2

// newPoorFit finds the point to blame. Where its trials disagree, so does the
// machine with itself; where they agree, time is not linear in size.
func newPoorFit(l *Line) *PoorFitError {
	e := &PoorFitError{Kind: l.Kind, RSquared: l.RSquared, Flat: l.Beta == 0}
	worst, largest := -1.0, 0.0
	for _, p := range l.Points {
		largest = max(largest, p.Amount)
		if d := math.Abs(p.Microseconds - l.At(p.Amount)); d > worst {
			worst, e.Worst, e.Predicted = d, p, l.At(p.Amount)
		}
	}
	switch scatter := e.Worst.Scatter(); {
	case scatter > unsteady:
		e.Cause = fmt.Sprintf("other load on the machine (half of its trials lie %.0f %% apart)", 100*scatter)
		e.Remedy = "stop what else runs there, fix the clock frequency, or raise --trials, and calibrate again"
	case e.Flat:
		e.Cause = "the sizes are too small to matter beside the launch"
		e.Remedy = "use a larger model, or raise --point-milliseconds and --max-tokens"
	case e.Worst.Amount == largest && e.Worst.Microseconds > e.Predicted:
		e.Cause = "large sizes are slower per unit (caches overflow, the clock falls under load)"
		e.Remedy = "lower --point-milliseconds to the sizes that you serve, and calibrate again"
	default:
		e.Cause = "its trials agree, so time is not linear in size here (tiles, caches, another kernel for some sizes)"
		e.Remedy = "change the range with --max-tokens or --point-milliseconds, and calibrate again"
	}
	return e
}
