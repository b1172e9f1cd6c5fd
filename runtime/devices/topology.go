// SPDX-License-Identifier: Apache-2.0

package devices

import (
	"errors"
	"fmt"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
)

// Link is one NVLink link that is up.
type Link struct {
	// Number is the link's own.
	Number int `json:"number"`
	// Switch says that the other end is an NVSwitch; else Peer is the PCI address
	// of the GPU there.
	Switch bool   `json:"switch,omitempty"`
	Peer   string `json:"peer,omitempty"`
}

// Domains groups GPUs that reach each other over NVLink, directly, through one
// another or through switches; each group holds indexes into gpus in ascending
// order. A GPU without links is alone.
func Domains(gpus []GPU) [][]int {
	group := make([]int, len(gpus))
	for i := range group {
		group[i] = i
	}
	merge := func(a, b int) {
		for i, from := 0, group[b]; i < len(group); i++ {
			if group[i] == from {
				group[i] = group[a]
			}
		}
	}
	at, switched := map[string]int{}, -1
	for i := range gpus {
		if gpus[i].Bus != "" {
			at[gpus[i].Bus] = i
		}
	}
	for i := range gpus {
		for _, l := range gpus[i].Links {
			if peer, known := at[l.Peer]; known && !l.Switch {
				merge(i, peer)
			}
			if l.Switch && switched >= 0 {
				// The switches of one machine are joined to each other.
				merge(switched, i)
			} else if l.Switch {
				switched = i
			}
		}
	}
	var domains [][]int
	place := map[int]int{}
	for i, g := range group {
		if _, known := place[g]; !known {
			place[g] = len(domains)
			domains = append(domains, nil)
		}
		domains[place[g]] = append(domains[place[g]], i)
	}
	return domains
}

// links lists the links that are up; none where the GPU has none.
func links(lib nvml.Interface, d nvml.Device) []Link {
	if !has(lib, "nvmlDeviceGetNvLinkRemoteDeviceType") {
		return nil
	}
	var up []Link
	for n := range nvml.NVLINK_MAX_LINKS {
		state, ret := d.GetNvLinkState(n)
		if !errors.Is(ret, nvml.SUCCESS) || state != nvml.FEATURE_ENABLED {
			continue
		}
		l := Link{Number: n}
		if kind, ret := d.GetNvLinkRemoteDeviceType(n); errors.Is(ret, nvml.SUCCESS) && kind == nvml.NVLINK_DEVICE_TYPE_SWITCH {
			l.Switch = true
		} else if pci, ret := d.GetNvLinkRemotePciInfo(n); errors.Is(ret, nvml.SUCCESS) {
			l.Peer = busID(pci)
		}
		up = append(up, l)
	}
	return up
}

// fabric names the fabric and the clique that a GPU has joined.
func fabric(lib nvml.Interface, d nvml.Device) string {
	if !has(lib, "nvmlDeviceGetGpuFabricInfo") {
		return ""
	}
	info, ret := d.GetGpuFabricInfo()
	if !errors.Is(ret, nvml.SUCCESS) || info.State != nvml.GPU_FABRIC_STATE_COMPLETED || info.ClusterUuid == [16]uint8{} {
		return ""
	}
	return fmt.Sprintf("%x.%d", info.ClusterUuid, info.CliqueId)
}

// busID reads the address that the driver writes as text.
func busID(pci nvml.PciInfo) string {
	var b []byte
	for _, c := range pci.BusId {
		if c == 0 {
			break
		}
		b = append(b, byte(c))
	}
	return string(b)
}
