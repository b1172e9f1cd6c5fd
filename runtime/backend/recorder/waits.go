// SPDX-License-Identifier: Apache-2.0

package recorder

import (
	"fmt"

	"github.com/findep/findep-operator/runtime/backend/tasklist"
)

// clock counts, for each stream of a rank, the tasks that have ended.
type clock [tasklist.NumStreams]int

func (c *clock) merge(d clock) {
	for i, v := range d {
		c[i] = max(c[i], v)
	}
}

// CheckWaits compares what a rank's record orders with the dependencies of its
// tasks, and tells whether every wait is needed.
func CheckWaits(tasks []tasklist.Task, t *Trace) error {
	waits, err := recordedWaits(tasks, t)
	if err != nil {
		return err
	}
	deps := make([][]int, len(tasks))
	for i := range tasks {
		deps[i] = tasks[i].Deps
	}
	want, _ := clocks(tasks, deps)
	got, places := clocks(tasks, waits)
	for i := range tasks {
		for s := range got[i] {
			if got[i][s] < want[i][s] {
				return fmt.Errorf("missing wait: %s may start before task %d of stream %d has ended", name(tasks, i), want[i][s], s)
			}
			if got[i][s] > want[i][s] {
				return fmt.Errorf("superfluous order: %s waits for task %d of stream %d, the schedule only for %d", name(tasks, i), got[i][s], s, want[i][s])
			}
		}
	}
	return checkNeeded(tasks, waits, got, places)
}

func name(tasks []tasklist.Task, i int) string {
	t := &tasks[i]
	return fmt.Sprintf("task %d (kind %d, layer %d, micro-batch %d, segment %d)", i, t.Kind, t.Layer, t.MicroBatch, t.Segment)
}

// recordedWaits returns which tasks each task waits for by events.
func recordedWaits(tasks []tasklist.Task, t *Trace) ([][]int, error) {
	recorded := map[int]int{}
	waits := make([][]int, len(tasks))
	for _, e := range t.Entries {
		if e.Task < 0 {
			continue
		}
		if e.Stream != int(tasks[e.Task].Kind.Stream()) {
			return nil, fmt.Errorf("%s is enqueued on stream %d", name(tasks, e.Task), e.Stream)
		}
		switch e.Action {
		case Record:
			recorded[e.Event] = e.Task
		case Wait:
			dep, ok := recorded[e.Event]
			if !ok {
				return nil, fmt.Errorf("%s waits for event %d, which was not recorded before", name(tasks, e.Task), e.Event)
			}
			waits[e.Task] = append(waits[e.Task], dep)
		}
	}
	return waits, nil
}

// clocks returns what has ended when each task ends, by the edges and by the
// order of streams, and each task's place in its stream, from 1.
func clocks(tasks []tasklist.Task, deps [][]int) (all []clock, places []int) {
	all, places = make([]clock, len(tasks)), make([]int, len(tasks))
	var now [tasklist.NumStreams]clock
	for i := range tasks {
		s := tasks[i].Kind.Stream()
		for _, d := range deps[i] {
			now[s].merge(all[d])
		}
		now[s][s]++
		places[i], all[i] = now[s][s], now[s]
	}
	return all, places
}

// checkNeeded finds waits that the others imply.
func checkNeeded(tasks []tasklist.Task, waits [][]int, all []clock, places []int) error {
	var before [tasklist.NumStreams]clock
	for i := range tasks {
		s := tasks[i].Kind.Stream()
		for k, d := range waits[i] {
			known := before[s]
			for other, o := range waits[i] {
				if other != k {
					known.merge(all[o])
				}
			}
			if stream := tasks[d].Kind.Stream(); known[stream] >= places[d] {
				return fmt.Errorf("superfluous wait: %s waits for %s, which has ended anyhow", name(tasks, i), name(tasks, d))
			}
		}
		before[s] = all[i]
	}
	return nil
}
