// SPDX-License-Identifier: Apache-2.0

package executor

import (
	"sync"

	"github.com/findep/findep-operator/runtime/schedule"
)

// tracker holds the completion flags of one step's tasks on this rank and the
// first failure. Waiters are at most the rank's three workers, so one condition
// for all flags is cheaper than one per task.
type tracker struct {
	mu      sync.Mutex
	changed sync.Cond
	done    []bool
	err     error
}

func newTracker() *tracker {
	t := &tracker{}
	t.changed.L = &t.mu
	return t
}

func (t *tracker) reset(tasks int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if cap(t.done) < tasks {
		t.done = make([]bool, tasks)
	}
	t.done = t.done[:tasks]
	clear(t.done)
	t.err = nil
}

// wait returns when the task has finished, or with the failure of the step.
func (t *tracker) wait(id schedule.TaskID) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	for !t.done[id] && t.err == nil {
		t.changed.Wait()
	}
	return t.err
}

func (t *tracker) finish(id schedule.TaskID) {
	t.mu.Lock()
	t.done[id] = true
	t.mu.Unlock()
	t.changed.Broadcast()
}

// fail keeps the first failure and wakes every waiter. It returns whether this
// was the first.
func (t *tracker) fail(err error) bool {
	t.mu.Lock()
	first := t.err == nil
	if first {
		t.err = err
	}
	t.mu.Unlock()
	t.changed.Broadcast()
	return first
}

func (t *tracker) failure() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.err
}
