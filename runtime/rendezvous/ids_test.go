// SPDX-License-Identifier: Apache-2.0

package rendezvous_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/findep/findep-operator/runtime/rendezvous"
)

// Every member of an epoch gets the ids that the leader's device made for it, and
// the next epoch has others.
func TestIDsReachEveryMemberOfAnEpoch(t *testing.T) {
	c := newCluster(t, 2, 1)
	var made atomic.Int64
	c.ids = func() ([]byte, error) { return fmt.Appendf(nil, "ids %d", made.Add(1)), nil }
	c.startLeader()
	type seen struct {
		epoch uint64
		ids   string
	}
	got := make(chan seen, 64)
	for rank := range 3 {
		cfg := c.config(rank)
		cfg.Connect = func(_ context.Context, w rendezvous.World) error {
			got <- seen{w.Epoch, string(w.IDs)}
			return nil
		}
		c.start(cfg)
	}
	first := c.formed()
	if !bytes.Equal(first.IDs, []byte("ids 1")) {
		t.Errorf("the leader's own world has ids %q", first.IDs)
	}
	c.leader.Abort(first.Epoch, "a test")
	c.eventually("the next epoch", func() bool { return c.formed().Epoch > first.Epoch })
	want := map[uint64]string{first.Epoch: "ids 1", first.Epoch + 1: "ids 2"}
	for range 6 {
		if s := receive(t, "worlds", got); want[s.epoch] != s.ids {
			t.Errorf("epoch %d came with %q; want %q", s.epoch, s.ids, want[s.epoch])
		}
	}
}

// While the leader's device makes no ids, or impossible ones, no epoch begins and
// the reason can be read; afterwards one does.
func TestNoEpochBeginsWithoutIDs(t *testing.T) {
	c := newCluster(t, 1, 1)
	var failing atomic.Int64
	failing.Store(2)
	c.ids = func() ([]byte, error) {
		switch failing.Add(-1) {
		case 1:
			return nil, errors.New("communication library missing")
		case 0:
			return make([]byte, rendezvous.MaxIDsBytes+1), nil
		}
		return []byte("ids"), nil
	}
	c.startLeader()
	c.startAll()
	c.eventually("the reason", func() bool {
		return strings.Contains(c.leader.Failure().Reason, "communication library missing")
	})
	c.eventually("the second reason", func() bool { return strings.Contains(c.leader.Failure().Reason, "the limit is 4096") })
	if w := c.formed(); string(w.IDs) != "ids" {
		t.Errorf("formed with ids %q", w.IDs)
	}
}
