// SPDX-License-Identifier: Apache-2.0

package tasklist_test

import (
	"errors"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"

	"github.com/findep/findep-operator/runtime/backend/recorder"
	"github.com/findep/findep-operator/runtime/backend/tasklist"
	"github.com/findep/findep-operator/runtime/schedule"
)

func startRecorder(t testing.TB) *recorder.Program {
	t.Helper()
	p, err := recorder.Start()
	if errors.Is(err, recorder.ErrNotBuilt) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Errorf("the recorder: %v", err)
		}
	})
	return p
}

// plans is how many random plans the properties are tested with.
func plans(t testing.TB) int {
	if n, err := strconv.Atoi(os.Getenv("FINDEP_PLANS")); err == nil {
		return n
	}
	if testing.Short() {
		return 200
	}
	return 2000
}

// What the pipeline enqueues for random plans has exactly the schedule's
// dependencies, as few waits as possible, no deadlock and no race.
func TestRecordedOrderIsTheSchedules(t *testing.T) {
	p := startRecorder(t)
	waits, captured := 0, 0
	for seed := range plans(t) {
		w := randomWorld(t, rand.New(rand.NewPCG(1, uint64(seed))))
		world, err := p.Check(w.lists(t))
		if err != nil {
			t.Fatalf("seed %d: plan %s, %d layers, %d attention and %d expert ranks: %v", seed, w.schedule.Plan, w.schedule.Layers, w.ag, w.eg, err)
		}
		if seed%20 == 0 {
			checkSchedule(t, w, world)
		}
		for _, trace := range world.Traces {
			if trace.Captured {
				captured++
			}
			for _, e := range trace.Entries {
				if e.Action == recorder.Wait && e.Task >= 0 {
					waits++
				}
			}
		}
	}
	t.Logf("%d plans, %d waits between streams, %d graphs", plans(t), waits, captured)
}

// checkSchedule tells whether every dependency of the schedule is kept: on each
// rank that has both tasks, and from a transfer to what it feeds on every rank
// at its other end.
func checkSchedule(t *testing.T, w *world, world *recorder.World) {
	t.Helper()
	at := make([]map[schedule.TaskID]int, w.size())
	for rank := range at {
		at[rank] = map[schedule.TaskID]int{}
		for i, task := range tasklist.Local(w.schedule, rank < w.ag) {
			if id, ok := w.schedule.Find(schedule.Kind(task.Kind), task.Layer, task.MicroBatch, task.Segment); ok {
				at[rank][id] = i
			}
		}
	}
	isTransfer := func(id schedule.TaskID) bool {
		return w.schedule.Tasks[id].Kind == schedule.A2E || w.schedule.Tasks[id].Kind == schedule.E2A
	}
	checked := 0
	for id := range w.schedule.Tasks {
		later := schedule.TaskID(id)
		for _, dep := range w.schedule.Tasks[id].Deps {
			feeds := isTransfer(dep) && !isTransfer(later)
			for a := range at {
				for b := range at {
					first, has := at[a][dep]
					second, also := at[b][later]
					opposite := feeds && (a < w.ag) != (b < w.ag)
					if !has || !also || a != b && !opposite {
						continue
					}
					checked++
					if !world.Ordered(a, first, b, second) {
						t.Fatalf("plan %s: %s of rank %d may start before %s of rank %d has ended", w.schedule.Plan,
							w.schedule.Tasks[id].Name(), b, w.schedule.Tasks[dep].Name(), a)
					}
				}
			}
		}
	}
	if checked < len(w.schedule.Tasks)-1 {
		t.Fatalf("only %d dependencies of %d tasks were found on the ranks", checked, len(w.schedule.Tasks))
	}
}

// What a rank's tasks wait for is ordered by the schedule too: nothing waits for
// more than the schedule says.
func TestLocalDependenciesAreTheSchedules(t *testing.T) {
	for seed := range 300 {
		w := randomWorld(t, rand.New(rand.NewPCG(2, uint64(seed))))
		ended := closure(w.schedule)
		for _, attention := range []bool{true, false} {
			tasks := tasklist.Local(w.schedule, attention)
			for i, task := range tasks {
				id, ok := w.schedule.Find(schedule.Kind(task.Kind), task.Layer, task.MicroBatch, task.Segment)
				for _, d := range task.Deps {
					before := tasks[d]
					dep, also := w.schedule.Find(schedule.Kind(before.Kind), before.Layer, before.MicroBatch, before.Segment)
					if ok && also && !ended[id][dep] {
						t.Fatalf("plan %s: task %d waits for task %d, which the schedule does not ask for", w.schedule.Plan, i, d)
					}
				}
			}
		}
	}
}

// closure is, for every task, the set of those that have ended when it starts.
func closure(s *schedule.Schedule) []map[schedule.TaskID]bool {
	ended := make([]map[schedule.TaskID]bool, len(s.Tasks))
	last := map[schedule.Resource]schedule.TaskID{}
	for id := range s.Tasks {
		task := &s.Tasks[id]
		ended[id] = map[schedule.TaskID]bool{}
		deps := task.Deps
		if before, ok := last[task.Resource]; ok {
			deps = append(deps[:len(deps):len(deps)], before)
		}
		for _, d := range deps {
			ended[id][d] = true
			for e := range ended[d] {
				ended[id][e] = true
			}
		}
		last[task.Resource] = schedule.TaskID(id)
	}
	return ended
}
