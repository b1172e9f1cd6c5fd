// SPDX-License-Identifier: Apache-2.0

package schedule

import (
	"fmt"

	"github.com/findep/findep-operator/runtime/plan"
)

const (
	// MaxLayers bounds the pipeline's depth.
	MaxLayers = 1024
	// MaxTasks bounds one schedule, below 100 MB; real ones have a few thousand
	// tasks.
	MaxTasks = 1 << 20
)

// Options are facts about the model that shape the schedule.
type Options struct {
	// SharedExperts tells that MoE layers have shared experts. Without them
	// there are no Shared tasks.
	SharedExperts bool
}

// Build returns the schedule of a plan for a pipeline of MoE layers.
//
// Precedence, for layer t, micro-batch i, segment j (arXiv 2512.21487, Eq. 5
// with rule 8 repaired):
//
//	Shared(t,i)      after Attention(t,i)
//	A2E(t,i,j)       after Attention(t,i); for PPPipe after Shared(t,i)
//	Expert(t,i,j)    after A2E(t,i,j)
//	E2A(t,i,j)       after Expert(t,i,j)
//	Attention(t+1,i) after E2A(t,i,j) for all j, and after Shared(t,i)
//
// PPPipe treats the shared experts as part of attention, so its order is always
// ASAS. Sequential is the same with one micro-batch, where these rules make one
// chain of all tasks. The error names the first field of the plan that cannot
// be built.
func Build(p plan.Plan, layers int, opts Options) (*Schedule, error) {
	if err := p.Validate(); err != nil {
		return nil, err
	}
	if p.Policy != plan.FinDEP && p.Order != plan.ASAS {
		return nil, fmt.Errorf("schedule: order is %s; policy %s runs the shared experts as part of attention, use ASAS", p.Order, p.Policy)
	}
	if p.Policy == plan.Sequential && p.Chunks != 1 {
		return nil, fmt.Errorf("schedule: chunks is %d; policy Sequential has exactly one micro-batch", p.Chunks)
	}
	if layers < 1 || layers > MaxLayers {
		return nil, fmt.Errorf("schedule: %d MoE layers; need between 1 and %d", layers, MaxLayers)
	}
	s := &Schedule{
		Plan:          p,
		Layers:        layers,
		MicroBatches:  p.R1 * p.Chunks,
		Segments:      p.R2,
		SharedExperts: opts.SharedExperts,
	}
	// The factors are bounded by the plan's limits, so this cannot overflow.
	n := int64(layers) * int64(s.layout().perLayer)
	if n > MaxTasks {
		return nil, fmt.Errorf("schedule: %d layers with r1=%d, r2=%d, chunks=%d make %d tasks, more than %d; lower r1 or r2",
			layers, p.R1, p.R2, p.Chunks, n, MaxTasks)
	}
	b := newBuilder(s, int(n))
	for t := range layers {
		b.layer(t)
	}
	return s, nil
}

// layout computes task IDs. Per layer, the attention stream comes first and
// then the segments; that order is topological because a layer's segments
// depend only on its attention tasks, and the next layer's attention on both.
type layout struct {
	microBatches, segments    int
	attention, shared         int // stride of a micro-batch within the attention stream
	sharedStart, segmentStart int
	perLayer                  int
}

func (s *Schedule) layout() layout {
	m := s.MicroBatches
	l := layout{microBatches: m, segments: s.Segments, attention: 1, segmentStart: m}
	if s.SharedExperts {
		l.segmentStart = 2 * m
		if s.Plan.Policy == plan.FinDEP && s.Plan.Order == plan.AASS {
			l.shared, l.sharedStart = 1, m
		} else {
			l.attention, l.shared, l.sharedStart = 2, 2, 1
		}
	}
	l.perLayer = l.segmentStart + 3*m*s.Segments
	return l
}

func (l layout) id(kind Kind, layer, microBatch, segment int) TaskID {
	id := layer * l.perLayer
	switch kind {
	case Attention:
		id += microBatch * l.attention
	case Shared:
		id += l.sharedStart + microBatch*l.shared
	default:
		id += l.segmentStart + 3*(microBatch*l.segments+segment) + int(kind-A2E)
	}
	return TaskID(id)
}

// builder fills the tasks of a schedule. All dependencies live in one backing
// array that is sized exactly, so it never moves.
type builder struct {
	s      *Schedule
	layout layout
	deps   []TaskID
}

func newBuilder(s *Schedule, n int) *builder {
	m, r2 := s.MicroBatches, s.Segments
	s.Tasks = make([]Task, n)
	perMicroBatch := 3*r2 + r2 + 2
	b := &builder{s: s, layout: s.layout(), deps: make([]TaskID, 0, s.Layers*m*perMicroBatch)}
	onAttention := m
	if s.SharedExperts {
		onAttention = 2 * m
	}
	s.streams[AttentionCompute] = make([]TaskID, 0, s.Layers*onAttention)
	for _, r := range []Resource{A2ELink, ExpertCompute, E2ALink} {
		s.streams[r] = make([]TaskID, 0, s.Layers*m*r2)
	}
	return b
}

// layer adds the tasks of one layer in ID order.
func (b *builder) layer(t int) {
	first := t * b.layout.perLayer
	b.attentionStream(t)
	for i := range b.s.MicroBatches {
		for j := range b.s.Segments {
			b.segment(t, i, j)
		}
	}
	for id := first; id < first+b.layout.perLayer; id++ {
		r := b.s.Tasks[id].Resource
		b.s.streams[r] = append(b.s.streams[r], TaskID(id))
	}
}

func (b *builder) attentionStream(t int) {
	for i := range b.s.MicroBatches {
		from := len(b.deps)
		if t > 0 {
			for j := range b.s.Segments {
				b.deps = append(b.deps, b.layout.id(E2A, t-1, i, j))
			}
			if b.s.SharedExperts {
				b.deps = append(b.deps, b.layout.id(Shared, t-1, i, 0))
			}
		}
		b.add(Attention, t, i, 0, from)
		if b.s.SharedExperts {
			b.addAfter(Shared, t, i, 0, b.layout.id(Attention, t, i, 0))
		}
	}
}

// segment adds one segment's way to the experts and back. What the transfer
// waits for is the first difference between the policies: FinDEP sends while
// the shared experts run.
func (b *builder) segment(t, i, j int) {
	released := b.layout.id(Attention, t, i, 0)
	if b.s.SharedExperts && b.s.Plan.Policy != plan.FinDEP {
		released = b.layout.id(Shared, t, i, 0)
	}
	b.addAfter(A2E, t, i, j, released)
	b.addAfter(Expert, t, i, j, b.layout.id(A2E, t, i, j))
	b.addAfter(E2A, t, i, j, b.layout.id(Expert, t, i, j))
}

func (b *builder) addAfter(kind Kind, t, i, j int, dep TaskID) {
	from := len(b.deps)
	b.deps = append(b.deps, dep)
	b.add(kind, t, i, j, from)
}

// add stores a task whose dependencies are b.deps[from:].
func (b *builder) add(kind Kind, t, i, j, from int) {
	id := b.layout.id(kind, t, i, j)
	b.s.Tasks[id] = Task{
		ID: id, Kind: kind, Resource: kind.Resource(),
		Layer: int32(t), MicroBatch: int32(i), Segment: int32(j),
		Deps: b.deps[from:len(b.deps):len(b.deps)],
	}
}
