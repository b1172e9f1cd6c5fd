// SPDX-License-Identifier: Apache-2.0

package agent

import "time"

// How long a step may take. A slow link or a busy machine is not a wedged rank,
// so the deadline leaves the prediction a wide margin and has a floor, and each
// one that passes doubles the next: an instance that is merely slow gets on,
// with one epoch lost for each doubling.
const (
	// deadlineFactor is what a prediction may be off by.
	deadlineFactor = 10
	// unmeasuredFactor is the deadline in floors while nothing is measured: the
	// first steps of a process also initialise libraries and grow buffers.
	unmeasuredFactor = 6
	// maxDoublings bounds the growth.
	maxDoublings = 6
)

// deadlines decides how long steps may take.
type deadlines struct {
	floor time.Duration
	// missed counts the deadlines that passed since a step last succeeded.
	missed int
}

// of is the deadline of a step that is predicted to take some milliseconds; 0
// means that there is no prediction.
func (d *deadlines) of(predicted float64) time.Duration {
	limit := unmeasuredFactor * d.floor
	if predicted > 0 {
		limit = d.floor + time.Duration(deadlineFactor*predicted*float64(time.Millisecond))
	}
	return limit << min(d.missed, maxDoublings)
}
