// SPDX-License-Identifier: Apache-2.0

// Package sim replays a schedule against task durations and reports when each
// task starts and ends, how busy each resource is, and the makespan. It also
// writes timelines, simulated or measured, as Chrome trace JSON.
//
// The simulation is exact for the system model: each resource runs one task at
// a time in stream order without preemption, and a task starts as soon as its
// resource is free and its dependencies have ended.
package sim

import (
	"fmt"
	"math"

	"github.com/findep/findep-operator/runtime/schedule"
)

// DurationFunc returns how long a task takes, in milliseconds. It must return
// a finite value of at least 0.
type DurationFunc func(task *schedule.Task) float64

// Uniform gives all tasks of a kind the same duration.
type Uniform [schedule.NumKinds]float64

// Duration is a DurationFunc.
func (u *Uniform) Duration(task *schedule.Task) float64 { return u[task.Kind] }

// Table gives each task its own duration, indexed by TaskID.
type Table []float64

// Duration is a DurationFunc; tasks beyond the table take NaN, which Run
// refuses.
func (t Table) Duration(task *schedule.Task) float64 {
	if int(task.ID) >= len(t) {
		return math.NaN()
	}
	return t[task.ID]
}

// Result is one simulated forward pass. Times are in milliseconds from the
// start of the first task.
type Result struct {
	// Makespan is the end of the last task.
	Makespan float64
	// Start and End are indexed by TaskID.
	Start, End []float64
	// Busy is the summed duration of each resource's tasks.
	Busy [schedule.NumResources]float64
}

// Run simulates a schedule. The error names the task whose duration is
// negative, NaN or infinite.
func Run(s *schedule.Schedule, duration DurationFunc) (*Result, error) {
	n := len(s.Tasks)
	times := make([]float64, 2*n)
	r := &Result{Start: times[:n:n], End: times[n:]}
	var free [schedule.NumResources]float64
	// IDs are a topological order of dependencies and of every stream, so one
	// pass settles all times.
	for id := range s.Tasks {
		task := &s.Tasks[id]
		d, err := checked(task, duration)
		if err != nil {
			return nil, err
		}
		start := free[task.Resource]
		for _, dep := range task.Deps {
			start = max(start, r.End[dep])
		}
		end := start + d
		r.Start[id], r.End[id] = start, end
		free[task.Resource] = end
		r.Busy[task.Resource] += d
		r.Makespan = max(r.Makespan, end)
	}
	return r, nil
}

// checked is a task's duration, or an error that names the task.
func checked(task *schedule.Task, duration DurationFunc) (float64, error) {
	d := duration(task)
	if !(d >= 0) || math.IsInf(d, 1) {
		return 0, fmt.Errorf("sim: %s takes %v ms; durations must be finite and at least 0", task.Name(), d)
	}
	return d, nil
}

// Idle returns the time that a resource runs nothing.
func (r *Result) Idle(resource schedule.Resource) float64 { return r.Makespan - r.Busy[resource] }

// BusyShare returns the busy part of the makespan, between 0 and 1.
func (r *Result) BusyShare(resource schedule.Resource) float64 {
	if r.Makespan == 0 {
		return 0
	}
	return r.Busy[resource] / r.Makespan
}

// ExposedCommunication is the part of the makespan that communication costs:
// the makespan less the makespan of the same schedule with links that take no
// time.
func ExposedCommunication(s *schedule.Schedule, duration DurationFunc) (float64, error) {
	with, err := Run(s, duration)
	if err != nil {
		return 0, err
	}
	without, err := Run(s, func(task *schedule.Task) float64 {
		if task.Kind == schedule.A2E || task.Kind == schedule.E2A {
			return 0
		}
		return duration(task)
	})
	if err != nil {
		return 0, err
	}
	return with.Makespan - without.Makespan, nil
}
