// SPDX-License-Identifier: Apache-2.0

package devices

import (
	"errors"
	"math/bits"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
)

// Throttle is a set of reasons for which a GPU's clocks are held down, by the
// bits of NVML.
type Throttle uint64

// The reasons, by the names that metrics use. Idle clocks and limits that
// somebody set are not among them.
var throttles = []struct {
	bit  Throttle
	name string
	// slow says that the GPU is slower than its profile because of it. Reaching
	// the power limit under load is what every measurement has seen as well.
	slow bool
}{
	{nvml.ClocksEventReasonSwPowerCap, "power_cap", false},
	{nvml.ClocksEventReasonSwThermalSlowdown, "thermal", true},
	{nvml.ClocksThrottleReasonHwThermalSlowdown, "hardware_thermal", true},
	{nvml.ClocksThrottleReasonHwPowerBrakeSlowdown, "power_brake", true},
	{nvml.ClocksThrottleReasonHwSlowdown, "hardware_slowdown", true},
}

// Names lists the reasons that are set.
func (t Throttle) Names() []string {
	var names []string
	for _, r := range throttles {
		if t&r.bit != 0 {
			names = append(names, r.name)
		}
	}
	return names
}

// slow keeps the reasons that make a GPU slower than its profile.
func (t Throttle) slow() Throttle {
	var kept Throttle
	for _, r := range throttles {
		if r.slow {
			kept |= t & r.bit
		}
	}
	return kept
}

// Reading is what the driver said of a GPU at one moment. What it did not answer
// is zero, and its flag is not set.
type Reading struct {
	// Lost is NVML's name of the error, if the driver no longer reaches the GPU.
	Lost string `json:"lost,omitempty"`
	// TemperatureCelsius and PowerWatts; Known says that each was read.
	TemperatureCelsius float64 `json:"temperatureCelsius"`
	PowerWatts         float64 `json:"powerWatts"`
	TemperatureKnown   bool    `json:"-"`
	PowerKnown         bool    `json:"-"`
	// Throttle are the reasons of this moment.
	Throttle Throttle `json:"throttle"`
	// Corrected and Uncorrected count ECC errors since the driver was loaded.
	Corrected   uint64 `json:"correctedErrors"`
	Uncorrected uint64 `json:"uncorrectedErrors"`
	ECCKnown    bool   `json:"-"`
	// RemapPending and RemapFailed are about rows of memory that are replaced by
	// spare ones: after a reset, or not at all since none are left.
	RemapPending bool `json:"remapPending,omitempty"`
	RemapFailed  bool `json:"remapFailed,omitempty"`
	// LinksUp has a bit for each NVLink link that is up.
	LinksUp uint64 `json:"linksUp"`
}

// links counts the NVLink links that are up.
func (r *Reading) links() int { return bits.OnesCount64(r.LinksUp) }

// read asks how a GPU does. A GPU that is lost answers nothing more.
func read(lib nvml.Interface, d nvml.Device, linkNumbers []int) Reading {
	var r Reading
	lost := func(ret nvml.Return) bool {
		if errors.Is(ret, nvml.ERROR_GPU_IS_LOST) || errors.Is(ret, nvml.ERROR_RESET_REQUIRED) {
			r.Lost = ret.Error()
		}
		return r.Lost != ""
	}
	t, ret := d.GetTemperature(nvml.TEMPERATURE_GPU)
	if lost(ret) {
		return r
	}
	r.TemperatureCelsius, r.TemperatureKnown = float64(t), errors.Is(ret, nvml.SUCCESS)
	milliwatts, ret := d.GetPowerUsage()
	if lost(ret) {
		return r
	}
	r.PowerWatts, r.PowerKnown = float64(milliwatts)/1000, errors.Is(ret, nvml.SUCCESS)
	if has(lib, "nvmlDeviceGetCurrentClocksEventReasons") {
		reasons, ret := d.GetCurrentClocksEventReasons()
		if lost(ret) {
			return r
		}
		r.Throttle = Throttle(reasons)
	}
	readMemory(lib, d, &r)
	for _, n := range linkNumbers {
		if state, ret := d.GetNvLinkState(n); errors.Is(ret, nvml.SUCCESS) && state == nvml.FEATURE_ENABLED {
			r.LinksUp |= 1 << n
		}
	}
	return r
}

// readMemory asks for errors of memory. GPUs without ECC know none.
func readMemory(lib nvml.Interface, d nvml.Device, r *Reading) {
	corrected, ret := d.GetTotalEccErrors(nvml.MEMORY_ERROR_TYPE_CORRECTED, nvml.VOLATILE_ECC)
	uncorrected, also := d.GetTotalEccErrors(nvml.MEMORY_ERROR_TYPE_UNCORRECTED, nvml.VOLATILE_ECC)
	if errors.Is(ret, nvml.SUCCESS) && errors.Is(also, nvml.SUCCESS) {
		r.Corrected, r.Uncorrected, r.ECCKnown = corrected, uncorrected, true
	}
	if !has(lib, "nvmlDeviceGetRemappedRows") {
		return
	}
	if _, _, pending, failure, ret := d.GetRemappedRows(); errors.Is(ret, nvml.SUCCESS) {
		r.RemapPending, r.RemapFailed = pending, failure
	}
}
