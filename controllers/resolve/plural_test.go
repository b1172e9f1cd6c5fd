// SPDX-License-Identifier: Apache-2.0

package resolve_test

import (
	"testing"

	"github.com/findep/findep-operator/controllers/resolve"
	"github.com/findep/findep-operator/test/wrappers"
)

func TestPlural(t *testing.T) {
	for n, want := range map[int32]string{0: "0 instances", 1: "1 instance", 2: "2 instances"} {
		if got := resolve.Plural(n, "instance"); got != want {
			t.Errorf("%d: got %q, want %q", n, got, want)
		}
	}
}

// TestOneSplitIsNotPlural: two GPUs can be split in one way only.
func TestOneSplitIsNotPlural(t *testing.T) {
	r := resolve.Resolve(wrappers.MoEDeployment("a").TotalGPUs(2).Obj(), resolve.Facts{Images: images})
	if want := "Chosen by the solver: the only split of 2 GPUs that fits, of 1."; r.Decision.Why != want {
		t.Errorf("got %q, want %q", r.Decision.Why, want)
	}
}
