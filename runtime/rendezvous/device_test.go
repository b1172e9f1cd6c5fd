// SPDX-License-Identifier: Apache-2.0

package rendezvous_test

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/findep/findep-operator/runtime/identity"
	"github.com/findep/findep-operator/runtime/plan"
	"github.com/findep/findep-operator/runtime/rendezvous"
)

// TestProfileMismatchReachesTheOperator reports from the last rank, and no longer
// once the profile was corrected.
func TestProfileMismatchReachesTheOperator(t *testing.T) {
	c := newCluster(t, 1, 1)
	c.startLeader()
	var mismatch atomic.Value
	mismatch.Store("")
	c.start(c.config(0))
	other := c.config(1)
	other.ProfileMismatch = func() string { return mismatch.Load().(string) }
	c.start(other)
	c.formed()
	operator := c.clientTLS(c.ca, identity.OperatorURI)
	for told, want := range map[string]string{
		"its product is another":   "its product is another",
		strings.Repeat("m", 1<<20): strings.Repeat("m", 1024) + "...",
		"":                         "",
	} {
		mismatch.Store(told)
		c.eventually("the report to say so", func() bool {
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			got, err := rendezvous.Observe(ctx, c.address, operator)
			return err == nil && got.Ranks[1].ProfileMismatch == want && got.Ranks[0].ProfileMismatch == ""
		})
	}
}

// TestDeviceHealthReachesTheOperator reports from the last rank, as it changes.
func TestDeviceHealthReachesTheOperator(t *testing.T) {
	c := newCluster(t, 1, 1)
	c.startLeader()
	var health atomic.Pointer[plan.DeviceHealth]
	c.start(c.config(0))
	sick := c.config(1)
	sick.Device = health.Load
	c.start(sick)
	c.formed()
	operator := c.clientTLS(c.ca, identity.OperatorURI)
	failed := &plan.DeviceHealth{State: plan.DeviceFailed, Reason: "XID79", Message: "fell off the bus", UUID: "GPU-1", Product: "NVIDIA H100"}
	for _, tc := range []struct {
		name       string
		told, want *plan.DeviceHealth
	}{
		{"failed", failed, failed},
		{"state of a later version", &plan.DeviceHealth{State: "Exploded"}, nil},
		{"bounded", &plan.DeviceHealth{State: plan.DeviceDegraded, Reason: strings.Repeat("R", 1000), Message: strings.Repeat("m", 1<<20)},
			&plan.DeviceHealth{State: plan.DeviceDegraded, Reason: strings.Repeat("R", 64), Message: strings.Repeat("m", 1024) + "..."}},
		{"no longer watched", nil, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			health.Store(tc.told)
			var got *plan.Observation
			c.eventually("the report to say so", func() bool {
				ctx, cancel := context.WithTimeout(context.Background(), patience)
				defer cancel()
				var err error
				got, err = rendezvous.Observe(ctx, c.address, operator)
				return err == nil && cmp.Equal(got.Ranks[1].Device, tc.want)
			})
			if got.Ranks[0].Device != nil {
				t.Errorf("rank 0 watches nothing and reports %+v", got.Ranks[0].Device)
			}
		})
	}
}
