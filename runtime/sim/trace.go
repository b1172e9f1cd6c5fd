// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"

	"github.com/findep/findep-operator/runtime/schedule"
)

// Event is one bar of a timeline.
type Event struct {
	// Name labels the bar.
	Name string
	// Process groups lanes: a rank, or a simulated policy.
	Process string
	// Lane is one row within the process, usually a resource.
	Lane string
	// StartMicroseconds is counted from any common origin.
	StartMicroseconds, DurationMicroseconds float64
	// Args are shown when the bar is selected; values must be JSON encodable.
	Args map[string]any
}

// Events turns a simulation into a timeline with one lane per resource.
func (r *Result) Events(s *schedule.Schedule, process string) []Event {
	events := make([]Event, len(s.Tasks))
	for id := range s.Tasks {
		task := &s.Tasks[id]
		events[id] = TaskEvent(task, process, 1e3*r.Start[id], 1e3*(r.End[id]-r.Start[id]))
	}
	return events
}

// TaskEvent is the bar of one task, whether simulated or measured, so that both
// timelines look alike and can be compared by their arguments.
func TaskEvent(task *schedule.Task, process string, startMicroseconds, durationMicroseconds float64) Event {
	return Event{
		Name: task.Name(), Process: process, Lane: task.Resource.String(),
		StartMicroseconds: startMicroseconds, DurationMicroseconds: durationMicroseconds,
		Args: map[string]any{
			"task": task.ID, "kind": task.Kind.String(), "layer": task.Layer,
			"microBatch": task.MicroBatch, "segment": task.Segment,
		},
	}
}

// traceEvent is the JSON of one entry, see
// https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU
// ("X" complete events, "M" metadata).
type traceEvent struct {
	Name     string         `json:"name"`
	Phase    string         `json:"ph"`
	Process  int            `json:"pid"`
	Thread   int            `json:"tid"`
	Start    float64        `json:"ts"`
	Duration *float64       `json:"dur,omitempty"`
	Args     map[string]any `json:"args,omitempty"`
}

// WriteTrace writes events as Chrome trace JSON, which Perfetto and
// chrome://tracing open. Processes and lanes appear in the order in which they
// first occur.
func WriteTrace(w io.Writer, events []Event) error {
	t := &traceWriter{w: bufio.NewWriter(w), processes: map[string]int{}, lanes: map[[2]string]int{}}
	t.raw(`{"displayTimeUnit":"ms","traceEvents":[`)
	for i := range events {
		e := &events[i]
		pid, tid := t.lane(e)
		t.event(traceEvent{
			Name: e.Name, Phase: "X", Process: pid, Thread: tid,
			Start: e.StartMicroseconds, Duration: &e.DurationMicroseconds, Args: e.Args,
		})
	}
	t.raw("\n]}\n")
	if t.err == nil {
		t.err = t.w.Flush()
	}
	if t.err != nil {
		return fmt.Errorf("write trace: %w", t.err)
	}
	return nil
}

// traceWriter numbers processes and lanes and keeps the first error.
type traceWriter struct {
	w         *bufio.Writer
	processes map[string]int
	lanes     map[[2]string]int
	written   bool
	err       error
}

func (t *traceWriter) raw(s string) {
	if t.err == nil {
		_, t.err = t.w.WriteString(s)
	}
}

func (t *traceWriter) event(e traceEvent) {
	if t.err != nil {
		return
	}
	b, err := json.Marshal(e)
	if err != nil {
		t.err = fmt.Errorf("event %q: %w", e.Name, err)
		return
	}
	separator := "\n"
	if t.written {
		separator = ",\n"
	}
	t.written = true
	t.raw(separator)
	t.raw(string(b))
}

// lane returns the numbers of an event's process and lane and writes their
// names when they are new.
func (t *traceWriter) lane(e *Event) (pid, tid int) {
	pid, ok := t.processes[e.Process]
	if !ok {
		pid = len(t.processes)
		t.processes[e.Process] = pid
		t.name("process_name", pid, 0, e.Process)
	}
	key := [2]string{e.Process, e.Lane}
	tid, ok = t.lanes[key]
	if !ok {
		tid = len(t.lanes)
		t.lanes[key] = tid
		t.name("thread_name", pid, tid, e.Lane)
	}
	return pid, tid
}

func (t *traceWriter) name(what string, pid, tid int, name string) {
	t.event(traceEvent{Name: what, Phase: "M", Process: pid, Thread: tid, Args: map[string]any{"name": name}})
}
