// SPDX-License-Identifier: Apache-2.0

package recorder

import (
	"fmt"

	"github.com/findep/findep-operator/runtime/backend/tasklist"
)

// Check records the lists of all ranks of one step and examines them as the
// package comment says. It returns the records' world.
func (p *Program) Check(lists [][]byte) (*World, error) {
	traces := make([]*Trace, len(lists))
	for rank, list := range lists {
		text, err := p.Record(list)
		if err != nil {
			return nil, fmt.Errorf("rank %d: %w", rank, err)
		}
		if traces[rank], err = Parse(text); err != nil {
			return nil, fmt.Errorf("rank %d: %w", rank, err)
		}
		decoded, err := tasklist.Decode(list)
		if err != nil {
			return nil, fmt.Errorf("rank %d: %w", rank, err)
		}
		if err := CheckWaits(TasksOf(decoded), traces[rank]); err != nil {
			return nil, fmt.Errorf("rank %d: %w", rank, err)
		}
		if err := CheckStamps(decoded, traces[rank]); err != nil {
			return nil, fmt.Errorf("rank %d: %w", rank, err)
		}
	}
	return CheckWorld(traces)
}

// CheckStamps tells whether the time is noted first of all, between each task's waits
// and its operations, and behind these before others may learn of its end; and not at
// all where the list does not ask for it.
func CheckStamps(l *tasklist.List, t *Trace) error {
	want := 0
	if l.Timed {
		want = 1 + 2*len(l.Tasks)
	}
	stamps := 0
	for i := range t.Entries {
		e := &t.Entries[i]
		if e.Action == Stamp {
			if err := checkStamp(l, e, stamps); err != nil {
				return err
			}
			stamps++
		} else if l.Timed && e.Task >= 0 {
			if within := stamps - 2*e.Task; within != stampsBefore(e.Action) {
				return fmt.Errorf("entry %d: a %c of task %d stands on the wrong side of its times", i, e.Action, e.Task)
			}
		}
	}
	if stamps != want {
		return fmt.Errorf("%d times are noted, %d are asked for", stamps, want)
	}
	return nil
}

// stampsBefore is how many stamps an action has before it, beyond those of earlier
// tasks: the list's, and those of its own task's start and end.
func stampsBefore(a Action) int {
	switch a {
	case Wait:
		return 1
	case Record:
		return 3
	default:
		return 2
	}
}

// checkStamp looks at the stamp that comes after `before` others.
func checkStamp(l *tasklist.List, e *Entry, before int) error {
	if e.Event != before {
		return fmt.Errorf("stamp %d is number %d", e.Event, before)
	}
	if e.Event > 0 && (e.Task != (e.Event-1)/2 || e.Stream != int(l.Tasks[e.Task].Kind.Stream())) {
		return fmt.Errorf("stamp %d is noted for task %d on stream %d", e.Event, e.Task, e.Stream)
	}
	return nil
}

// TasksOf is the tasks of a list without their operations.
func TasksOf(l *tasklist.List) []tasklist.Task {
	tasks := make([]tasklist.Task, len(l.Tasks))
	for i := range l.Tasks {
		tasks[i] = l.Tasks[i].Task
	}
	return tasks
}

// CheckWorld examines the records of all ranks together: transfers that fit
// each other, no deadlock, no race.
func CheckWorld(traces []*Trace) (*World, error) {
	w, err := NewWorld(traces)
	if err != nil {
		return nil, err
	}
	if err := w.Run(); err != nil {
		return nil, err
	}
	if err := checkHosts(traces); err != nil {
		return nil, err
	}
	return w, w.CheckMemory()
}

// checkHosts tells whether the ranks would still get to their end if each had to
// enqueue its groups one after the other, and each call returned only when all
// peers had made theirs. A library may do so when it connects two ranks for the
// first time.
func checkHosts(traces []*Trace) error {
	hosts := make([]*Trace, len(traces))
	for rank, t := range traces {
		hosts[rank] = &Trace{}
		for _, e := range t.Entries {
			if e.Action == Send || e.Action == Receive {
				e.Stream = 0
				hosts[rank].Entries = append(hosts[rank].Entries, e)
			}
		}
	}
	w, err := NewWorld(hosts)
	if err != nil {
		return err
	}
	if err := w.Run(); err != nil {
		return fmt.Errorf("hosts that wait for each other: %w", err)
	}
	return nil
}
