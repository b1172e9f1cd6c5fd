// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"errors"
	"fmt"
	"math"
	"sync"

	"github.com/findep/findep-operator/runtime/agent/agentpb"
	"github.com/findep/findep-operator/runtime/executor"
	"github.com/findep/findep-operator/runtime/plan"
	"github.com/findep/findep-operator/runtime/schedule"
	"github.com/findep/findep-operator/runtime/sim"
)

// Bounds of a recording: the leader keeps it in memory.
const (
	maxTraceSteps = 256
	maxTraceTasks = 1 << 20
)

var errTraceBusy = errors.New("another trace is being recorded; try again when it is done")

// tracedStep is what the leader knows of one recorded step. Times are
// nanoseconds of the leader's clock.
type tracedStep struct {
	number uint64
	phase  phase
	choice choice
	// sent is when the command went out, arrived when each rank's answer came.
	sent     int64
	arrived  []int64
	outcomes []*agentpb.RankOutcome
}

// tracer records steps while somebody waits for them.
type tracer struct {
	mu    sync.Mutex
	left  int // steps still to be recorded; 0 while nobody waits
	tasks int
	steps []tracedStep
	done  chan struct{}
}

// begin asks for a number of steps. The channel is closed when they are there.
func (t *tracer) begin(steps int) (<-chan struct{}, error) {
	if steps < 1 || steps > maxTraceSteps {
		return nil, fmt.Errorf("%d steps are asked for; 1 to %d can be recorded", steps, maxTraceSteps)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.done != nil {
		return nil, errTraceBusy
	}
	t.left, t.tasks, t.steps, t.done = steps, 0, nil, make(chan struct{})
	return t.done, nil
}

// wanted says whether the next step is to be recorded.
func (t *tracer) wanted() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.left > 0
}

func (t *tracer) add(s tracedStep) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.left == 0 {
		return
	}
	t.steps = append(t.steps, s)
	for _, o := range s.outcomes {
		t.tasks += len(o.Trace)
	}
	if t.left--; t.left == 0 || t.tasks >= maxTraceTasks {
		t.left = 0
		close(t.done)
	}
}

// end stops the recording and returns what there is.
func (t *tracer) end() []tracedStep {
	t.mu.Lock()
	defer t.mu.Unlock()
	steps := t.steps
	t.left, t.steps, t.done = 0, nil, nil
	return steps
}

// clockOffset says how far a rank's clock is ahead of the leader's, and how far
// off that may be, both in nanoseconds. A command cannot be received before it
// was sent, nor an answer be there before it was made, so every step bounds the
// offset from both sides; the tightest bounds of all steps count.
func clockOffset(steps []tracedStep, rank int) (offset, uncertainty int64) {
	least, most := int64(math.MinInt64), int64(math.MaxInt64)
	for i := range steps {
		o := steps[i].outcomes[rank]
		most = min(most, o.ReceivedNanoseconds-steps[i].sent)
		least = max(least, o.AnsweredNanoseconds-steps[i].arrived[rank])
	}
	// Where the clocks drift apart during the recording, the bounds may cross.
	half := (most - least) / 2
	return least + half, max(half, -half)
}

// traceEvents puts all ranks' tasks on the leader's clock. The origin is the
// moment the first step was sent.
func traceEvents(steps []tracedStep, role func(rank int) plan.Role) []sim.Event {
	if len(steps) == 0 {
		return nil
	}
	origin := steps[0].sent
	var events []sim.Event
	for i := range steps {
		events = append(events, stepEvent(&steps[i], origin))
	}
	for rank := range steps[0].outcomes {
		offset, uncertainty := clockOffset(steps, rank)
		process := fmt.Sprintf("rank %d (%s), clock ±%.0f us", rank, role(rank), float64(uncertainty)/1e3)
		for i := range steps {
			o := steps[i].outcomes[rank]
			for _, t := range o.Trace {
				start := o.StartedNanoseconds + t.StartNanoseconds - offset - origin
				events = append(events, taskEvent(process, steps[i].number, t, start))
			}
		}
	}
	return events
}

// stepEvent is the bar of a whole step as the leader sees it.
func stepEvent(s *tracedStep, origin int64) sim.Event {
	last := s.sent
	for _, at := range s.arrived {
		last = max(last, at)
	}
	return sim.Event{
		Name: fmt.Sprintf("%s %s", s.phase, s.choice.plan), Process: "leader", Lane: "steps",
		StartMicroseconds: float64(s.sent-origin) / 1e3, DurationMicroseconds: float64(last-s.sent) / 1e3,
		Args: map[string]any{
			"step": s.number, "phase": string(s.phase), "plan": s.choice.plan.String(),
			"predictedMilliseconds": s.choice.predicted, "predictedExposedCommunicationMilliseconds": s.choice.exposed,
			"measuredMilliseconds": float64(last-s.sent) / 1e6,
		},
	}
}

func taskEvent(process string, step uint64, t *agentpb.TaskTrace, start int64) sim.Event {
	return sim.Event{
		Name:    fmt.Sprintf("%s L%d m%d s%d", t.Kind, t.Layer, t.MicroBatch, t.Segment),
		Process: process, Lane: laneOf(t.Kind),
		StartMicroseconds: float64(start) / 1e3, DurationMicroseconds: float64(t.EndNanoseconds-t.StartNanoseconds) / 1e3,
		Args: map[string]any{"step": step, "kind": t.Kind, "layer": t.Layer, "microBatch": t.MicroBatch, "segment": t.Segment},
	}
}

// laneOf is the resource that tasks of a kind run on.
func laneOf(kind string) string {
	for k := range executor.NumKinds {
		if k.String() == kind {
			return resourceOf(k).String()
		}
	}
	return kind
}

// resourceOf is the resource that a kind uses; what lies outside the pipeline is
// computed by the attention group.
func resourceOf(k executor.Kind) schedule.Resource {
	if k == executor.Dense || k == executor.Head {
		return schedule.AttentionCompute
	}
	return schedule.Kind(k).Resource()
}
