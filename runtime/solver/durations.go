// SPDX-License-Identifier: Apache-2.0

package solver

import (
	"github.com/findep/findep-operator/runtime/plan"
	"github.com/findep/findep-operator/runtime/schedule"
)

// Durations holds how long the tasks of one plan's schedule take.
type Durations struct {
	line timeline
}

// Durations returns the task durations of a plan, for simulating its schedule
// (schedule.Build, sim.Run). The embedding and dense layers of a micro-batch
// are part of its attention in layer 0, as in the executor. Output heads are no
// tasks of a schedule and left out. The error names the invalid field of
// problem or plan.
func (p *Problem) Durations(chosen plan.Plan) (*Durations, error) {
	if err := p.Validate(); err != nil {
		return nil, err
	}
	if err := chosen.Validate(); err != nil {
		return nil, err
	}
	d := &Durations{}
	f := forecast{p: p, line: &d.line}
	c := f.candidate(chosen)
	d.line.load(p, chosen.Policy, &c)
	return d, nil
}

// Duration is the time of a task in milliseconds; it is a sim.DurationFunc. A
// task that the plan does not have takes none.
func (d *Durations) Duration(task *schedule.Task) float64 {
	l := &d.line
	group, chunk := int(task.MicroBatch)/l.chunks, int(task.MicroBatch)%l.chunks
	if group >= l.groups || int(task.Layer) >= l.layers {
		return 0
	}
	column := l.column(group) + chunk
	t := l.row(int(task.Layer))[column].Duration(task)
	if task.Kind == schedule.Attention && task.Layer == 0 {
		t += l.dense[column]
	}
	return t
}
