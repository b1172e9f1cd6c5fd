// SPDX-License-Identifier: Apache-2.0

package devices

import (
	"fmt"
	"math/bits"
	"strings"
	"time"

	"github.com/findep/findep-operator/runtime/plan"
)

// Reasons in a plan.DeviceHealth; events have "XID" and their number.
const (
	// ReasonLost says that the driver no longer reaches the GPU.
	ReasonLost = "Lost"
	// ReasonRowRemappingFailed says that memory is broken and no spare is left.
	ReasonRowRemappingFailed = "RowRemappingFailed"
	// ReasonRowRemappingPending says that broken memory is replaced at the next
	// reset.
	ReasonRowRemappingPending = "RowRemappingPending"
	// ReasonUncorrectedErrors says that memory had errors that ECC could not
	// correct since the driver was loaded.
	ReasonUncorrectedErrors = "UncorrectedMemoryErrors"
	// ReasonLinkDown says that an NVLink link went down since the rank started.
	ReasonLinkDown = "NVLinkDown"
	// ReasonThrottled says that clocks have been held down for a while.
	ReasonThrottled = "Throttled"
	// ReasonNoAnswer says that the driver has not answered for a while.
	ReasonNoAnswer = "DriverNotResponding"
)

const (
	// throttledReadings in a row make a GPU count as throttled: one hot moment
	// slows nobody down.
	throttledReadings = 3
	// recoverableFor is how long an error that the GPU contained is told of.
	recoverableFor = 15 * time.Minute
)

// xids says what the driver's errors (https://docs.nvidia.com/deploy/xid-errors)
// mean for the device. Errors that a program causes by itself are Healthy here:
// the program notices. Numbers that are not listed count as Degraded.
var xids = map[uint64]struct {
	state plan.DeviceState
	text  string
}{
	13:  {plan.DeviceHealthy, "a kernel's exception"},
	31:  {plan.DeviceHealthy, "a kernel's access to an address that is not mapped"},
	43:  {plan.DeviceHealthy, "a program's channel was stopped"},
	45:  {plan.DeviceHealthy, "channels of an ended program were cleaned up"},
	68:  {plan.DeviceHealthy, "an exception of the video processor"},
	109: {plan.DeviceHealthy, "a switch between programs took too long"},
	48:  {plan.DeviceFailed, "an error of memory that ECC cannot correct"},
	62:  {plan.DeviceFailed, "the GPU's own controller halted"},
	63:  {plan.DeviceDegraded, "a row of memory is replaced at the next reset"},
	64:  {plan.DeviceFailed, "a row of memory could not be replaced"},
	74:  {plan.DeviceFailed, "an NVLink link failed"},
	79:  {plan.DeviceFailed, "the GPU fell off the bus"},
	92:  {plan.DeviceDegraded, "many errors of memory, corrected"},
	94:  {plan.DeviceDegraded, "an error of memory, contained to one program"},
	95:  {plan.DeviceFailed, "an error of memory that may have reached any program"},
	119: {plan.DeviceFailed, "the GPU's system processor does not answer"},
	120: {plan.DeviceFailed, "the GPU's system processor failed"},
	140: {plan.DeviceFailed, "an error of memory that was not recovered"},
	143: {plan.DeviceFailed, "the GPU could not be started"},
	145: {plan.DeviceFailed, "an error of an NVLink link's receiver"},
}

// xidUnknown is the meaning of other numbers.
const xidUnknown = "an error that this version does not know"

// XID is an error event of the driver.
type XID struct {
	Number uint64    `json:"number"`
	At     time.Time `json:"at"`
}

// record is what is remembered of one GPU.
type record struct {
	gpu     GPU
	reading Reading
	// events counts by number; worst is the worst event that still counts.
	events map[uint64]uint64
	worst  *XID
	// throttled counts readings in a row; reasons are those of the last one.
	throttled int
	// linksBefore are the links that were up at the start.
	linksBefore uint64
}

// take takes in a reading.
func (r *record) take(reading Reading) {
	r.reading = reading
	if reading.Throttle.slow() != 0 {
		r.throttled++
	} else {
		r.throttled = 0
	}
}

// event takes in an error of the driver.
func (r *record) event(x XID) {
	r.events[x.Number]++
	if r.worst == nil || severity(stateOf(x.Number)) >= severity(stateOf(r.worst.Number)) {
		r.worst = &x
	}
}

func stateOf(number uint64) plan.DeviceState {
	if known, ok := xids[number]; ok {
		return known.state
	}
	return plan.DeviceDegraded
}

func severity(s plan.DeviceState) int {
	switch s {
	case plan.DeviceFailed:
		return 2
	case plan.DeviceDegraded:
		return 1
	}
	return 0
}

// assess says how the GPU does: the gravest finding, the first of equals. What
// failed stays failed until the process ends, for a device does not heal while
// somebody holds it.
func (r *record) assess(now time.Time) plan.DeviceHealth {
	health := plan.DeviceHealth{State: plan.DeviceHealthy, UUID: r.gpu.UUID, Product: r.gpu.Product}
	find := func(state plan.DeviceState, reason, message string, args ...any) {
		if severity(state) > severity(health.State) {
			health.State, health.Reason, health.Message = state, reason, fmt.Sprintf(message, args...)
		}
	}
	s := &r.reading
	if s.Lost != "" {
		find(plan.DeviceFailed, ReasonLost, "The driver no longer reaches the GPU (%s). Reset it or replace it.", s.Lost)
	}
	if x := r.worst; x != nil && (stateOf(x.Number) == plan.DeviceFailed || now.Sub(x.At) < recoverableFor) {
		text := xidUnknown
		if known, ok := xids[x.Number]; ok {
			text = known.text
		}
		find(stateOf(x.Number), fmt.Sprintf("XID%d", x.Number), "The driver reported XID %d: %s.", x.Number, text)
	}
	if s.RemapFailed {
		find(plan.DeviceFailed, ReasonRowRemappingFailed, "A row of memory is broken and no spare row is left. Replace the GPU.")
	}
	if s.RemapPending {
		find(plan.DeviceDegraded, ReasonRowRemappingPending, "A broken row of memory is replaced when the GPU is next reset.")
	}
	if s.Uncorrected > 0 {
		find(plan.DeviceDegraded, ReasonUncorrectedErrors, "Memory had errors that ECC could not correct since the driver was loaded.")
	}
	if down := r.linksBefore &^ s.LinksUp; down != 0 && s.Lost == "" {
		find(plan.DeviceDegraded, ReasonLinkDown, "%d of %d NVLink links went down since the rank started.",
			bits.OnesCount64(down), bits.OnesCount64(r.linksBefore))
	}
	if r.throttled >= throttledReadings {
		find(plan.DeviceDegraded, ReasonThrottled, "Clocks are held down (%s), so steps take longer than predicted. Look after cooling and power.",
			strings.Join(s.Throttle.slow().Names(), ", "))
	}
	return health
}
