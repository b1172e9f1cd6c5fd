// SPDX-License-Identifier: Apache-2.0

// Package schedule turns a plan into tasks: what runs on which resource, in
// which order, and what each task waits for. The same Schedule is simulated
// (runtime/sim) and executed (runtime/executor), so a prediction is about
// exactly what will run.
//
// The pipeline covers the MoE layers. Embedding, leading dense layers and the
// output head run outside it, on the attention ranks.
//
// Guarantees of every Schedule returned by Build: task IDs are 0..n-1 and are
// a topological order of dependencies and of each resource's queue, so running
// tasks in ID order never blocks; links carry segments in lexicographic order
// of (layer, micro-batch, segment), so all ranks issue transfers alike.
package schedule

import (
	"fmt"

	"github.com/findep/findep-operator/runtime/plan"
)

// Kind is what a task does.
type Kind uint8

// The kinds of task, arXiv 2512.21487 section 3.
const (
	// Attention is attention with norms, projections and router for one
	// micro-batch.
	Attention Kind = iota
	// Shared is the shared experts for one micro-batch.
	Shared
	// A2E sends one segment from the attention to the expert group.
	A2E
	// Expert runs the routed experts on one segment.
	Expert
	// E2A sends one segment's results back.
	E2A
	// NumKinds is the number of kinds.
	NumKinds
)

var kindNames = [NumKinds]string{"Attention", "Shared", "A2E", "Expert", "E2A"}

// String names the kind as traces show it.
func (k Kind) String() string {
	if k < NumKinds {
		return kindNames[k]
	}
	return fmt.Sprintf("Kind(%d)", uint8(k))
}

// Resource returns where tasks of this kind run.
func (k Kind) Resource() Resource {
	switch k {
	case A2E:
		return A2ELink
	case Expert:
		return ExpertCompute
	case E2A:
		return E2ALink
	default:
		return AttentionCompute
	}
}

// Resource runs one task at a time, in the order of its stream.
type Resource uint8

// The four resources of the system model. The two link directions are
// independent (full duplex).
const (
	AttentionCompute Resource = iota
	A2ELink
	ExpertCompute
	E2ALink
	// NumResources is the number of resources.
	NumResources
)

var resourceNames = [NumResources]string{"AttentionCompute", "A2ELink", "ExpertCompute", "E2ALink"}

// String names the resource as traces show it.
func (r Resource) String() string {
	if r < NumResources {
		return resourceNames[r]
	}
	return fmt.Sprintf("Resource(%d)", uint8(r))
}

// TaskID numbers the tasks of one schedule from 0.
type TaskID = int32

// Task is one unit of work.
type Task struct {
	ID       TaskID
	Kind     Kind
	Resource Resource
	// Layer is the MoE layer, 0 for the first one after the dense layers.
	Layer int32
	// MicroBatch is 0..r1*chunks-1, in order of (sample group, chunk).
	MicroBatch int32
	// Segment is 0..r2-1 for A2E, Expert and E2A, and 0 otherwise.
	Segment int32
	// Deps must have finished before the task starts, in addition to the
	// tasks before it in its resource's stream. It must not be modified.
	Deps []TaskID
}

// Name is the task's label in traces, for example "A2E L3 m1 s0".
func (t *Task) Name() string {
	if t.Kind == Attention || t.Kind == Shared {
		return fmt.Sprintf("%s L%d m%d", t.Kind, t.Layer, t.MicroBatch)
	}
	return fmt.Sprintf("%s L%d m%d s%d", t.Kind, t.Layer, t.MicroBatch, t.Segment)
}

// Schedule holds all tasks of one forward pass. It is read-only and may be
// shared between goroutines.
type Schedule struct {
	// Plan is what the schedule was built from.
	Plan plan.Plan
	// Layers is the number of MoE layers, MicroBatches is r1*chunks per
	// attention rank, Segments is r2.
	Layers, MicroBatches, Segments int
	// SharedExperts tells whether there are Shared tasks.
	SharedExperts bool
	// Tasks is indexed by TaskID.
	Tasks []Task

	streams [NumResources][]TaskID
}

// Stream returns the IDs of a resource's tasks in issue order. The slice must
// not be modified.
func (s *Schedule) Stream(r Resource) []TaskID {
	if r >= NumResources {
		return nil
	}
	return s.streams[r]
}

// Find returns the ID of a task; ok is false if the schedule has none such.
// It takes constant time.
func (s *Schedule) Find(kind Kind, layer, microBatch, segment int) (id TaskID, ok bool) {
	if layer < 0 || layer >= s.Layers || microBatch < 0 || microBatch >= s.MicroBatches ||
		segment < 0 || segment >= s.Segments || kind >= NumKinds || (kind == Shared && !s.SharedExperts) {
		return 0, false
	}
	if kind == Attention || kind == Shared {
		segment = 0
	}
	return s.layout().id(kind, layer, microBatch, segment), true
}

// SegmentRange returns the token range [from, to) of a segment when n tokens
// are cut into r2 parts whose sizes differ by at most one. All ranks must cut
// alike, so everyone uses this function. It expects 0 <= segment < r2.
func SegmentRange(n, r2, segment int) (from, to int) {
	return int(int64(segment) * int64(n) / int64(r2)), int(int64(segment+1) * int64(n) / int64(r2))
}
