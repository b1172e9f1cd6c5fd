// SPDX-License-Identifier: Apache-2.0

package profile

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// The backends that figures can be of.
const (
	BackendCPU  = "cpu"
	BackendCUDA = "cuda"
)

// Device says which device figures are of, or which one a rank found. What is
// empty is not known.
type Device struct {
	// Backend is BackendCPU or BackendCUDA.
	Backend string `json:"backend,omitempty"`
	// Product is the GPU's name as the node label nvidia.com/gpu.product has it,
	// or those words of it that all such GPUs share, as H100.
	Product string `json:"product,omitempty"`
	// ComputeCapability is major.minor, for example 9.0.
	ComputeCapability string `json:"computeCapability,omitempty"`
}

// memoryTolerance is how much the memory of a device may differ from its
// profile's, in percent: drivers and ECC keep some for themselves, while GPUs that
// are sold with different memories differ by more.
const memoryTolerance = 10

var capability = regexp.MustCompile(`^[0-9]{1,2}\.[0-9]$`)

func (d *Device) validate(fail func(field string, value any, problem string)) {
	if d.Backend != "" && d.Backend != BackendCPU && d.Backend != BackendCUDA {
		fail("device.backend", d.Backend, "must be cpu or cuda")
	}
	if len(d.Product) > maxNameBytes {
		fail("device.product", fmt.Sprintf("%d bytes", len(d.Product)), fmt.Sprintf("at most %d", maxNameBytes))
	}
	if d.ComputeCapability != "" && !capability.MatchString(d.ComputeCapability) {
		fail("device.computeCapability", d.ComputeCapability, "must be like 9.0")
	}
}

// Mismatch says in a sentence how a device that was found, with its memory, is
// another than the profile's, and what to do; empty if it is not, as far as both
// are known. The memory of CPUs is not compared: ranks share it.
func (p *Profile) Mismatch(found Device, memoryBytes int64) string {
	var differs []string
	is := func(what, is, planned string) {
		differs = append(differs, fmt.Sprintf("its %s is %s, not %s", what, is, planned))
	}
	planned := &p.Device
	if planned.Backend != "" && found.Backend != "" && planned.Backend != found.Backend {
		is("backend", found.Backend, planned.Backend)
	} else if found.Backend == BackendCUDA {
		if planned.Product != "" && found.Product != "" && !sameProduct(planned.Product, found.Product) {
			is("product", found.Product, planned.Product)
		}
		if planned.ComputeCapability != "" && found.ComputeCapability != "" && planned.ComputeCapability != found.ComputeCapability {
			is("compute capability", found.ComputeCapability, planned.ComputeCapability)
		}
		if difference := memoryBytes - p.MemoryBytes; max(difference, -difference) > p.MemoryBytes/100*memoryTolerance {
			is("memory", fmt.Sprintf("%d bytes", memoryBytes), fmt.Sprint(p.MemoryBytes))
		}
	}
	if len(differs) == 0 {
		return ""
	}
	return fmt.Sprintf("the device is not that of profile %s: %s. Calibrate this device, or let the group's profileRef or nodeSelector agree with its nodes.",
		p.Name, strings.Join(differs, ", "))
}

// sameProduct tells whether a product has every word of the planned one. Time
// slicing adds the word SHARED to the label of a node, and nothing to the GPU.
func sameProduct(planned, found string) bool {
	words := productWords(found)
	for _, word := range productWords(planned) {
		if word != "SHARED" && !slices.Contains(words, word) {
			return false
		}
	}
	return true
}

func productWords(product string) []string {
	return strings.FieldsFunc(strings.ToUpper(product), func(r rune) bool { return r == '-' || r == '_' || r == ' ' })
}
