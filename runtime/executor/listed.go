// SPDX-License-Identifier: Apache-2.0

package executor

import (
	"cmp"
	"context"
	"fmt"
	"hash/fnv"
	"slices"
	"time"

	"github.com/findep/findep-operator/runtime/backend"
	"github.com/findep/findep-operator/runtime/backend/tasklist"
	"github.com/findep/findep-operator/runtime/schedule"
	"github.com/findep/findep-operator/runtime/transport"
)

// Pipelined is a mesh whose device moves the rows itself. A rank that gets one
// does not walk the schedule: it writes it down as a task list, which the device
// runs, transfers included, after a single call. Aborting the mesh must cancel
// the pipeline.
type Pipelined interface {
	transport.Mesh
	Pipeline() backend.Pipeline
}

// NewPipelined makes a mesh of links, which carry no rows any more but tell
// about failures, and a pipeline, which it then owns.
func NewPipelined(links transport.Mesh, p backend.Pipeline) Pipelined { return &pipelined{links, p} }

type pipelined struct {
	transport.Mesh
	pipeline backend.Pipeline
}

func (m *pipelined) Pipeline() backend.Pipeline { return m.pipeline }

func (m *pipelined) Abort(reason error) {
	m.pipeline.Cancel()
	m.Mesh.Abort(reason)
}

func (m *pipelined) Close() error {
	m.pipeline.Close()
	return m.Mesh.Close()
}

// listTimeout bounds one step on a pipeline. It is below the leader's own limit,
// so that the rank that hangs is the one that says so.
const listTimeout = 90 * time.Second

// listed is what a rank keeps for its task lists.
type listed struct {
	encoder tasklist.Encoder
	// tasks are those of the schedule they were made for.
	tasks    []tasklist.Task
	schedule *schedule.Schedule
	parts    []tasklist.Part
}

// local returns the rank's tasks of a schedule, made once while it stays.
func (l *listed) local(s *schedule.Schedule, attention bool) []tasklist.Task {
	if l.schedule != s {
		l.tasks, l.schedule = tasklist.Local(s, attention), s
	}
	return l.tasks
}

// runList enqueues a list and waits for its end. The step's context cancels it.
func (e *engine) runList(ctx context.Context, p backend.Pipeline, list []byte, buffers []backend.Buffer) error {
	stop := context.AfterFunc(ctx, p.Cancel)
	defer stop()
	err := p.Run(list, buffers)
	if err == nil {
		err = p.Wait(listTimeout)
	}
	if err == nil {
		return nil
	}
	if cause := context.Cause(ctx); cause != nil {
		err = fmt.Errorf("%w: %w", cause, err)
	}
	e.fail(err)
	return err
}

// identity names a list: its plan, and the tokens of the batch. Steps of single
// tokens come again and again and are worth a graph; prompts are not.
func identity(step *Step, rank int) tasklist.Identity {
	h := fnv.New64a()
	_, _ = fmt.Fprint(h, rank, step.Plan) // It never fails.
	id := tasklist.Identity{Plan: h.Sum64(), Capture: true, Timed: step.timed()}
	for _, pieces := range step.Pieces {
		for i := range pieces {
			id.Bucket += uint32(len(pieces[i].Tokens))
			id.Capture = id.Capture && len(pieces[i].Tokens) == 1
		}
	}
	id.Capture = id.Capture && id.Bucket > 0
	return id
}

// result is a step's, with the times of the list's tasks where the step asks for
// them. ended is when the host saw the list's end: the device has a clock of its
// own, on which its last task ended then. received are the transfers that this rank
// receives.
func (e *engine) result(step *Step, p backend.Pipeline, tasks []tasklist.Task, origin, ended int64, received schedule.Kind) (Result, error) {
	r := Result{Started: origin}
	if step.timed() && len(tasks) > 0 {
		times := make([]backend.TaskTime, len(tasks))
		if err := p.Times(times); err != nil {
			return r, err
		}
		last := slices.MaxFunc(times, func(a, b backend.TaskTime) int { return cmp.Compare(a.End, b.End) })
		shift := ended - origin - int64(last.End)
		for i := range tasks {
			start, end := int64(times[i].Start)+shift, int64(times[i].End)+shift
			r.record(step, Kind(tasks[i].Kind), tasks[i].Place, start, end, tasks[i].Kind != tasklist.Kind(received))
		}
	}
	r.Nanoseconds = e.now() - origin
	return r, nil
}

// record adds a task, to the durations only where its time is its own.
func (r *Result) record(step *Step, kind Kind, at tasklist.Place, start, end int64, own bool) {
	if own {
		r.Durations[kind].Tasks++
		r.Durations[kind].Nanoseconds += end - start
	}
	if step.Trace {
		r.Trace = append(r.Trace, TaskTime{kind, at.Layer, at.MicroBatch, at.Segment, start, end})
	}
}

// timed tells whether a pipeline is to note when tasks run.
func (s *Step) timed() bool { return s.Trace || s.Times }

// powerOfTwo is the smallest one that is at least n.
func powerOfTwo(n int) int {
	p := 1
	for p < n {
		p *= 2
	}
	return p
}
