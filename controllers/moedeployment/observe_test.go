// SPDX-License-Identifier: Apache-2.0

package moedeployment

import (
	"testing"
	"time"
)

func TestPollIntervalBoundsTheWorkAndTheAge(t *testing.T) {
	for leaders, want := range map[int]time.Duration{
		0: 5 * time.Second, 1: 5 * time.Second, 50: 5 * time.Second, 51: 5100 * time.Millisecond,
		500: 50 * time.Second, 600: time.Minute, 100_000: time.Minute,
	} {
		if got := pollOf(leaders); got != want {
			t.Errorf("%d leaders are read every %v, want %v", leaders, got, want)
		}
	}
}
