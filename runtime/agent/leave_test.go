// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"testing"
	"time"
)

// TestLeave: a rank that was told to stop goes on for as long as the leader's
// accepted requests need it, and no longer.
func TestLeave(t *testing.T) {
	// Each answer is what the instance wants at the beginning and after each tick.
	const n, m, s = notNeeded, maybeNeeded, stillNeeded
	patience := int(leavePatience/leavePoll) + 1
	tests := map[string]struct {
		answers []need // the last one is repeated
		ticks   int    // after which it leaves
		waited  bool
	}{
		"never joined":                     {[]need{n}, 0, false},
		"the leader stays":                 {[]need{m}, patience, false},
		"the leader goes later":            {[]need{m, m, m, s, s, s, m}, 6, true},
		"the leader drains at once":        {[]need{s, s, m}, 2, true},
		"the leader goes at last":          {[]need{m, s, n}, 2, true},
		"the instance breaks up":           {[]need{m, m, n}, 2, false},
		"it drains for longer than notice": {append(repeat(s, 3*patience), n), 3 * patience, true},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			tick := make(chan time.Time)
			asked, waited := 0, 0
			done := make(chan struct{})
			go func() {
				defer close(done)
				leave(context.Background(), func() need {
					asked++
					return tt.answers[min(asked, len(tt.answers))-1]
				}, tick, func() { waited++ })
			}()
			ticks := 0
			for now := time.Unix(1, 0); ; now = now.Add(leavePoll) {
				select {
				case tick <- now:
					ticks++
					continue
				case <-done:
				}
				break
			}
			if ticks != tt.ticks || waited > 1 || waited == 1 != tt.waited {
				t.Errorf("it left after %d ticks having waited %d times; want %d ticks, waited %v", ticks, waited, tt.ticks, tt.waited)
			}
		})
	}
}

func repeat(n need, times int) []need {
	list := make([]need, times)
	for i := range list {
		list[i] = n
	}
	return list
}

// TestLeaveEndsWithItsContext: the drain timeout is the end, whatever is needed.
func TestLeaveEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	leave(ctx, func() need { return stillNeeded }, nil, func() {})
}
