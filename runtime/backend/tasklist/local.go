// SPDX-License-Identifier: Apache-2.0

package tasklist

import (
	"slices"

	"github.com/findep/findep-operator/runtime/schedule"
)

// Task is one task of a rank and the tasks of the same rank it waits for, by
// their place in the rank's list, ascending.
type Task struct {
	Kind Kind
	Place
	Deps []int
}

// Local returns the tasks of a schedule that an attention rank (or an expert
// rank) has, in an order in which everything comes after what it waits for and
// each resource keeps the order of its stream.
//
// A task waits for its dependencies on this rank and, where the schedule orders
// two tasks of this rank by way of the other group, for these too:
//
//   - on an attention rank E2A(t,i,j) after A2E(t,i,j): no receive runs, and
//     takes part of the device, before anything can come;
//   - on an expert rank A2E(t+1,i,j) after E2A(t,i,j): the slot of (i,j) is
//     written again only when its last reader has ended.
//
// An attention rank has, besides, one Dense task per micro-batch before its
// first Attention and one Head task after its last E2A.
func Local(s *schedule.Schedule, attention bool) []Task {
	l := localizer{schedule: s, attention: attention, at: make([]int, len(s.Tasks))}
	for id := range s.Tasks {
		l.at[id] = -1
		l.add(schedule.TaskID(id))
	}
	if attention {
		for i := range s.MicroBatches {
			l.head(i)
		}
	}
	return l.tasks
}

type localizer struct {
	schedule  *schedule.Schedule
	attention bool
	tasks     []Task
	at        []int // of each task of the schedule, -1 for none
}

func (l *localizer) add(id schedule.TaskID) {
	t := &l.schedule.Tasks[id]
	if r := t.Resource; l.attention && r == schedule.ExpertCompute || !l.attention && r == schedule.AttentionCompute {
		return
	}
	place := Place{int(t.Layer), int(t.MicroBatch), int(t.Segment)}
	var deps []int
	if t.Kind == schedule.Attention && t.Layer == 0 {
		deps = append(deps, len(l.tasks))
		l.tasks = append(l.tasks, Task{Kind: Dense, Place: place})
	}
	for _, d := range t.Deps {
		deps = l.depend(deps, l.at[d])
	}
	switch {
	case l.attention && t.Kind == schedule.E2A:
		deps = l.depend(deps, l.find(schedule.A2E, place.Layer, place.MicroBatch, place.Segment))
	case !l.attention && t.Kind == schedule.A2E && t.Layer > 0:
		deps = l.depend(deps, l.find(schedule.E2A, place.Layer-1, place.MicroBatch, place.Segment))
	}
	slices.Sort(deps)
	l.at[id] = len(l.tasks)
	l.tasks = append(l.tasks, Task{Kind: Kind(t.Kind), Place: place, Deps: deps})
}

func (l *localizer) depend(deps []int, at int) []int {
	if at < 0 {
		return deps
	}
	return append(deps, at)
}

func (l *localizer) find(kind schedule.Kind, layer, microBatch, segment int) int {
	id, ok := l.schedule.Find(kind, layer, microBatch, segment)
	if !ok {
		return -1
	}
	return l.at[id]
}

// head adds what follows the pipeline for a micro-batch.
func (l *localizer) head(microBatch int) {
	last := l.schedule.Layers - 1
	var deps []int
	for j := range l.schedule.Segments {
		deps = l.depend(deps, l.find(schedule.E2A, last, microBatch, j))
	}
	deps = l.depend(deps, l.find(schedule.Shared, last, microBatch, 0))
	slices.Sort(deps)
	l.tasks = append(l.tasks, Task{Kind: Head, Place: Place{last, microBatch, 0}, Deps: deps})
}
