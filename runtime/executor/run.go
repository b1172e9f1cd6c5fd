// SPDX-License-Identifier: Apache-2.0

package executor

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/findep/findep-operator/runtime/backend"
	"github.com/findep/findep-operator/runtime/plan"
	"github.com/findep/findep-operator/runtime/schedule"
	"github.com/findep/findep-operator/runtime/transport"
)

// Errors that callers tell apart.
var (
	// ErrBusy is returned by Run while another step of the rank runs.
	ErrBusy = errors.New("a step of this rank is running")
	// ErrClosed is returned by Run after Close.
	ErrClosed = errors.New("the rank is closed")
	// ErrStep is wrapped by errors that lie in the step itself, which would
	// fail again.
	ErrStep = errors.New("invalid step")
	// ErrProtocol is wrapped when a peer's message is not what the schedule
	// has next.
	ErrProtocol = errors.New("unexpected message")
)

// Clock returns nanoseconds of a monotonic clock.
type Clock func() int64

// Monotonic is the default Clock: the time since it was made.
func Monotonic() Clock {
	start := time.Now()
	return func() int64 { return int64(time.Since(start)) }
}

// Lanes is the number of workers of a rank: compute, A2E and E2A.
const Lanes = 3

// lane is one worker: a goroutine with its own stream that lives as long as the
// rank, and the times of what it ran in the current step.
type lane struct {
	stream   backend.Stream
	resource schedule.Resource
	// task runs one task of the lane's stream.
	task func(*schedule.Task) error
	// after runs once the lane's tasks are done; nil for none.
	after func() error
	jobs  chan struct{}

	now       Clock
	origin    int64
	start     int64
	tracing   bool
	durations [NumKinds]Duration
	trace     []TaskTime
}

// began sets the start of the current task to now.
func (l *lane) began() { l.start = l.now() }

// record ends what began at l.start; the next thing begins where it ended.
func (l *lane) record(kind Kind, layer, microBatch, segment int) {
	end := l.now()
	d := &l.durations[kind]
	d.Tasks++
	d.Nanoseconds += end - l.start
	if l.tracing {
		l.trace = append(l.trace, TaskTime{kind, layer, microBatch, segment, l.start - l.origin, end - l.origin})
	}
	l.start = end
}

// engine is what attention and expert ranks have in common: three lanes that
// walk a schedule.
type engine struct {
	rank    int
	layers  int
	options schedule.Options
	now     Clock
	lanes   [Lanes]*lane
	// local marks the resources whose tasks run on this rank.
	local [schedule.NumResources]bool
	// extra returns one more task of this rank that a task waits for, beyond
	// its dependencies; ok is false for none.
	extra func(*schedule.Task) (id schedule.TaskID, ok bool)

	running sync.Mutex
	closed  bool
	done    sync.WaitGroup
	tracker *tracker

	// Of the current step.
	number   uint64
	schedule *schedule.Schedule
	mesh     transport.Mesh
	// schedules are memoised by plan.
	schedules map[plan.Plan]*schedule.Schedule
}

// maxSchedules bounds the memoised schedules; a leader uses a few plans.
const maxSchedules = 32

func (e *engine) init(dev backend.Device, threads int, compute schedule.Resource) error {
	if e.now == nil {
		e.now = Monotonic()
	}
	e.tracker = newTracker()
	e.schedules = map[plan.Plan]*schedule.Schedule{}
	for i, r := range []schedule.Resource{compute, schedule.A2ELink, schedule.E2ALink} {
		n := 1
		if r == compute {
			n = threads
		}
		stream, err := dev.NewStream(n)
		if err != nil {
			return fmt.Errorf("stream of %s: %w", r, err)
		}
		e.lanes[i] = &lane{stream: stream, resource: r, now: e.now, jobs: make(chan struct{})}
		e.local[r] = true
	}
	return nil
}

// start starts the lanes' goroutines, after their functions are set.
func (e *engine) start() {
	for _, l := range e.lanes {
		go func() {
			for range l.jobs {
				if err := e.walk(l); err != nil {
					e.fail(err)
					// Operations that were issued before the failure still use
					// memory that the next step may move.
					_ = l.stream.Synchronize()
				}
				e.done.Done()
			}
		}()
	}
}

// fail records the first failure and wakes this rank's lanes and, through the
// mesh, its peers.
func (e *engine) fail(err error) {
	if e.tracker.fail(err) {
		e.mesh.Abort(err)
	}
}

func (e *engine) walk(l *lane) error {
	for _, id := range e.schedule.Stream(l.resource) {
		task := &e.schedule.Tasks[id]
		if err := e.await(task); err != nil {
			return err
		}
		l.began()
		if err := l.task(task); err != nil {
			return fmt.Errorf("%s: %w", task.Name(), err)
		}
		l.record(Kind(task.Kind), int(task.Layer), int(task.MicroBatch), int(task.Segment))
		e.tracker.finish(id)
	}
	if l.after != nil {
		return l.after()
	}
	return nil
}

func (e *engine) await(task *schedule.Task) error {
	for _, dep := range task.Deps {
		if e.local[e.schedule.Tasks[dep].Resource] {
			if err := e.tracker.wait(dep); err != nil {
				return err
			}
		}
	}
	if id, ok := e.extra(task); ok {
		return e.tracker.wait(id)
	}
	return e.tracker.failure()
}

// build returns the schedule of a plan, memoised.
func (e *engine) build(p plan.Plan) (*schedule.Schedule, error) {
	if s := e.schedules[p]; s != nil {
		return s, nil
	}
	s, err := schedule.Build(p, e.layers, e.options)
	if err != nil {
		return nil, err
	}
	if len(e.schedules) >= maxSchedules {
		clear(e.schedules)
	}
	e.schedules[p] = s
	return s, nil
}

// begin locks the rank and prepares the schedule of a step.
func (e *engine) begin(step *Step, mesh transport.Mesh) error {
	if !e.running.TryLock() {
		return ErrBusy
	}
	if e.closed {
		e.running.Unlock()
		return ErrClosed
	}
	e.mesh, e.number = mesh, step.Number
	s, err := e.build(step.Plan)
	if err != nil {
		e.running.Unlock()
		return fmt.Errorf("%w: %w", ErrStep, err)
	}
	e.schedule = s
	e.tracker.reset(len(s.Tasks))
	return nil
}

// run lets the lanes walk the schedule and returns when all have stopped.
func (e *engine) run(ctx context.Context, step *Step) (Result, error) {
	origin := e.now()
	for _, l := range e.lanes {
		l.origin, l.start, l.tracing = origin, origin, step.Trace
		l.durations = [NumKinds]Duration{}
		l.trace = l.trace[:0]
	}
	fired := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(fired)
		e.fail(context.Cause(ctx))
	})
	e.done.Add(len(e.lanes))
	for _, l := range e.lanes {
		l.jobs <- struct{}{}
	}
	e.done.Wait()
	if !stop() {
		// Wait for the function, so that it cannot fail a later step.
		<-fired
	}
	r := Result{Started: origin, Nanoseconds: e.now() - origin}
	for _, l := range e.lanes {
		for k, d := range l.durations {
			r.Durations[k].Tasks += d.Tasks
			r.Durations[k].Nanoseconds += d.Nanoseconds
		}
		r.Trace = append(r.Trace, l.trace...)
	}
	return r, e.tracker.failure()
}

// wrap names the rank and the step in an error.
func (e *engine) wrap(step *Step, err error) error {
	return fmt.Errorf("rank %d, step %d: %w", e.rank, step.Number, err)
}

// close stops the lanes. It waits for a running step.
func (e *engine) close() {
	e.running.Lock()
	defer e.running.Unlock()
	if e.closed {
		return
	}
	e.closed = true
	e.stop()
}

// stop ends the lanes that init has made.
func (e *engine) stop() {
	for _, l := range e.lanes {
		if l != nil {
			close(l.jobs)
			_ = l.stream.Close() // Nothing is left to run on it.
		}
	}
}

// expect checks a received header against the task that is next.
func (e *engine) expect(h transport.Header, task *schedule.Task, peer int) error {
	want := e.header(task)
	got := h
	got.Rows, got.Pairs, got.Bytes = 0, 0, 0
	if got != want {
		return fmt.Errorf("%w: rank %d sent step %d layer %d micro-batch %d segment %d, the schedule has step %d layer %d micro-batch %d segment %d",
			ErrProtocol, peer, h.Step, h.Layer, h.MicroBatch, h.Segment, want.Step, want.Layer, want.MicroBatch, want.Segment)
	}
	return nil
}

// header is the header of a task's messages without their sizes.
func (e *engine) header(task *schedule.Task) transport.Header {
	return transport.Header{
		Step: e.number, Layer: uint32(task.Layer), MicroBatch: uint32(task.MicroBatch), Segment: uint32(task.Segment),
	}
}
