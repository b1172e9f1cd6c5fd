// SPDX-License-Identifier: Apache-2.0

package sim_test

import (
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/findep/findep-operator/runtime/plan"
	"github.com/findep/findep-operator/runtime/schedule"
	"github.com/findep/findep-operator/runtime/sim"
)

// Worked out by hand: two micro-batches, one layer. The second segment is ready
// at 2, when the link is busy until 4; the first result is ready at 5, while
// the second segment, which came first, holds the link until 7.
func TestHalfDuplexServesWhatWasReadyFirst(t *testing.T) {
	s := build(t, plan.FinDEP, plan.ASAS, 2, 1, 1, false)
	u := &sim.Uniform{schedule.Attention: 1, schedule.A2E: 3, schedule.Expert: 1, schedule.E2A: 2}
	r, err := sim.RunHalfDuplex(s, u.Duration)
	if err != nil {
		t.Fatal(err)
	}
	for kind, want := range map[schedule.Kind][]float64{
		schedule.Attention: {0, 1}, schedule.A2E: {1, 4}, schedule.Expert: {4, 7}, schedule.E2A: {7, 9},
	} {
		if diff := cmp.Diff(want, starts(s, r, kind, 0)); diff != "" {
			t.Errorf("%s starts (-want +got):\n%s", kind, diff)
		}
	}
	if r.Makespan != 11 {
		t.Errorf("makespan %v, want 11", r.Makespan)
	}
}

// Sharing the link only delays: no task starts before its time with two links,
// transfers never overlap, and the link carries all of them.
func TestHalfDuplexOnlyDelays(t *testing.T) {
	for seed := range uint64(500) {
		r := rand.New(rand.NewPCG(seed, 8))
		policy, r2 := plan.FinDEP, 1+r.IntN(4)
		if r.IntN(3) == 0 {
			policy, r2 = plan.PPPipe, 1
		}
		order := []plan.Order{plan.ASAS, plan.AASS}[r.IntN(2)]
		if policy == plan.PPPipe {
			order = plan.ASAS
		}
		s := build(t, policy, order, 1+r.IntN(4), r2, 1+r.IntN(6), r.IntN(2) == 0)
		table := make(sim.Table, len(s.Tasks))
		for i := range table {
			table[i] = float64(r.IntN(10))
		}
		full := run(t, s, table.Duration)
		half, err := sim.RunHalfDuplex(s, table.Duration)
		if err != nil {
			t.Fatal(err)
		}
		var transfers [][2]float64
		for id := range s.Tasks {
			if half.Start[id] < full.Start[id] {
				t.Fatalf("seed %d: %s starts at %v, before %v with two links", seed, s.Tasks[id].Name(), half.Start[id], full.Start[id])
			}
			if k := s.Tasks[id].Kind; (k == schedule.A2E || k == schedule.E2A) && table[id] > 0 {
				transfers = append(transfers, [2]float64{half.Start[id], half.End[id]})
			}
		}
		for i, a := range transfers {
			for _, b := range transfers[:i] {
				if a[0] < b[1] && b[0] < a[1] {
					t.Fatalf("seed %d: transfers %v and %v overlap", seed, a, b)
				}
			}
		}
		if diff := cmp.Diff(full.Busy, half.Busy); diff != "" {
			t.Fatalf("seed %d: busy times (-two links +one):\n%s", seed, diff)
		}
	}
}

func TestHalfDuplexRefusesDurations(t *testing.T) {
	s := build(t, plan.FinDEP, plan.ASAS, 1, 1, 1, false)
	if _, err := sim.RunHalfDuplex(s, sim.Table{}.Duration); err == nil {
		t.Error("a task without a duration was run")
	}
}
