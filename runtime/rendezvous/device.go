// SPDX-License-Identifier: Apache-2.0

package rendezvous

import (
	"strings"

	"github.com/findep/findep-operator/runtime/plan"
	pb "github.com/findep/findep-operator/runtime/rendezvous/rendezvouspb"
)

// maxDeviceWord bounds the names in a report about a device.
const maxDeviceWord = 64

// device is what the next heartbeat says of this rank's device.
func (m *Member) device() *pb.DeviceHealth {
	if m.cfg.Device == nil {
		return nil
	}
	h := m.cfg.Device()
	if h == nil {
		return nil
	}
	return &pb.DeviceHealth{
		State: string(h.State), Reason: cut(h.Reason, maxDeviceWord), Message: shorten(h.Message),
		Uuid: cut(h.UUID, maxDeviceWord), Product: cut(h.Product, maxDeviceWord),
	}
}

// mismatch is what the next heartbeat says of the profile.
func (m *Member) mismatch() string {
	if m.cfg.ProfileMismatch == nil {
		return ""
	}
	return shorten(m.cfg.ProfileMismatch())
}

// deviceFromProto reads a report; nil if there is none, or if its state is of a
// later version: what this leader does not understand it does not pass on.
func deviceFromProto(h *pb.DeviceHealth) *plan.DeviceHealth {
	state := plan.DeviceState(h.GetState())
	switch state {
	case plan.DeviceHealthy, plan.DeviceDegraded, plan.DeviceFailed:
	default:
		return nil
	}
	return &plan.DeviceHealth{
		State: state, Reason: cut(h.GetReason(), maxDeviceWord), Message: shorten(h.GetMessage()),
		UUID: cut(h.GetUuid(), maxDeviceWord), Product: cut(h.GetProduct(), maxDeviceWord),
	}
}

// cut keeps the first bytes of a name, as whole characters.
func cut(name string, most int) string {
	if len(name) > most {
		name = name[:most]
	}
	return strings.ToValidUTF8(name, "")
}
