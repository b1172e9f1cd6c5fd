// SPDX-License-Identifier: Apache-2.0

package tasklist_test

import (
	"math/rand/v2"
	"testing"

	"github.com/findep/findep-operator/runtime/backend"
	"github.com/findep/findep-operator/runtime/backend/tasklist"
	"github.com/findep/findep-operator/runtime/plan"
	"github.com/findep/findep-operator/runtime/schedule"
)

// memory is a buffer that nobody touches.
type memory struct{ size int64 }

func (m *memory) Size() int64  { return m.size }
func (m *memory) Host() []byte { return nil }
func (m *memory) Free()        {}

func floats(rows, cols int) backend.Matrix {
	return backend.FullMatrix(&memory{4 * int64(rows) * int64(cols)}, backend.F32, rows, cols)
}

func ints(rows, cols int) backend.Matrix {
	return backend.FullMatrix(&memory{4 * int64(rows) * int64(cols)}, backend.I32, rows, cols)
}

// world is one step of a small model on all ranks. Its operations have the
// memory accesses of the executor's, with sizes of no meaning.
type world struct {
	ag, eg   int
	schedule *schedule.Schedule
	// tokens of each segment, on every attention rank.
	capacity int
	capture  bool
	timed    bool
	identity uint64
	// sharedSlots makes all segments of a micro-batch use one slot, which is
	// wrong.
	sharedSlots bool
}

const (
	width   = 4 // of the model
	topK    = 2
	perRank = 2 // experts of an expert rank
)

func (w *world) size() int { return w.ag + w.eg }

// randomWorld has plans of all policies with up to 4 x 3 ranks.
func randomWorld(t testing.TB, r *rand.Rand) *world {
	t.Helper()
	p := plan.Plan{
		Policy: plan.FinDEP, Order: plan.ASAS, MicroBatchSize: 1 + r.IntN(4),
		R1: 1 + r.IntN(4), R2: 1 + r.IntN(4), Chunks: 1 + r.IntN(2),
	}
	switch r.IntN(4) {
	case 0:
		p.Policy, p.R2 = plan.PPPipe, 1
	case 1:
		p.Policy, p.R1, p.R2, p.Chunks = plan.Sequential, 1, 1, 1
	case 2:
		p.Order = plan.AASS
	}
	s, err := schedule.Build(p, 1+r.IntN(3), schedule.Options{SharedExperts: r.IntN(3) > 0})
	if err != nil {
		t.Fatal(err)
	}
	return &world{ag: 1 + r.IntN(4), eg: 1 + r.IntN(3), schedule: s, capacity: p.MicroBatchSize, capture: r.IntN(4) == 0, timed: r.IntN(3) == 0, identity: r.Uint64()}
}

// lists are those of all ranks.
func (w *world) lists(t testing.TB) [][]byte {
	t.Helper()
	lists := make([][]byte, w.size())
	for rank := range lists {
		var e tasklist.Encoder
		e.Reset(rank, w.size())
		if rank < w.ag {
			w.attention(&e, rank)
		} else {
			w.expert(&e)
		}
		list, _, err := e.Finish(tasklist.Identity{Plan: w.identity, Bucket: uint32(w.capacity), Capture: w.capture, Timed: w.timed})
		if err != nil {
			t.Fatal(err)
		}
		lists[rank] = list
	}
	return lists
}

// segment is the memory of one (micro-batch, segment) on an attention rank.
type segment struct {
	rowStart, rowToken, pairStart, pairExpert, pairWeight backend.Matrix
	rows, headers, pairs, index, received                 backend.Matrix
}

func (w *world) segment() *segment {
	c, words := w.capacity, tasklist.PairWords(w.capacity, topK*w.capacity)
	return &segment{
		rowStart: ints(w.eg+1, 1), rowToken: ints(c*topK, 1), pairStart: ints(c*topK+1, 1),
		pairExpert: ints(c*topK, 1), pairWeight: floats(c*topK, 1),
		rows: floats(w.eg*c, width), headers: ints(w.eg, tasklist.HeaderWords), pairs: ints(w.eg, words),
		index: ints(w.eg*c, 1), received: floats(w.eg*c, width),
	}
}

type batch struct {
	hidden, normed, weights, experts, scratch backend.Matrix
	segments                                  []*segment
}

func (w *world) attention(e *tasklist.Encoder, rank int) {
	table, weight, starts := floats(9, width), floats(width, width), ints(w.eg+1, 1)
	batches := make([]batch, w.schedule.MicroBatches)
	for i := range batches {
		n := w.capacity * w.schedule.Segments
		b := batch{hidden: floats(n, width), normed: floats(n, width), weights: floats(n, topK), experts: ints(n, topK), scratch: floats(n, width)}
		for range w.schedule.Segments {
			b.segments = append(b.segments, w.segment())
		}
		if w.sharedSlots {
			for _, s := range b.segments {
				s.received = b.segments[0].received
			}
		}
		batches[i] = b
	}
	for _, task := range tasklist.Local(w.schedule, true) {
		e.Begin(task.Kind, task.Layer, task.MicroBatch, task.Segment, task.Deps)
		b := &batches[task.MicroBatch]
		switch task.Kind {
		case tasklist.Dense:
			_ = e.Embed(b.hidden, table, ints(b.hidden.Rows, 1))
		case tasklist.Head:
			w.combine(e, b)
		case tasklist.Kind(schedule.Shared):
			_ = e.MatMul(b.scratch, b.normed, weight, false)
			_ = e.MatMul(b.hidden, b.scratch, weight, true)
		case tasklist.Kind(schedule.Attention):
			if task.Layer > 0 {
				w.combine(e, b)
			}
			_ = e.RMSNorm(b.normed, b.hidden, floats(1, width), 1e-6)
			_ = e.Router(b.weights, b.experts, b.scratch, backend.Matrix{}, backend.RouterArgs{Experts: 4, TopK: topK, Scale: 1})
			for j, s := range b.segments {
				part := func(m backend.Matrix) backend.Matrix { return m.RowRange(j*w.capacity, (j+1)*w.capacity) }
				_ = e.Dispatch(backend.DispatchArgs{
					Experts: part(b.experts), Weights: part(b.weights), ExpertStart: starts,
					RowStart: s.rowStart, RowToken: s.rowToken, PairStart: s.pairStart, PairExpert: s.pairExpert, PairWeight: s.pairWeight,
				})
			}
		case tasklist.Kind(schedule.A2E):
			w.send(e, b, b.segments[task.Segment], task.Place)
		case tasklist.Kind(schedule.E2A):
			var parts []tasklist.Part
			for k := range w.eg {
				parts = append(parts, tasklist.Part{Peer: w.ag + k, Data: b.segments[task.Segment].received.RowRange(k*w.capacity, (k+1)*w.capacity)})
			}
			_ = e.Receive(tasklist.E2A, parts)
		}
	}
}

func (w *world) combine(e *tasklist.Encoder, b *batch) {
	for _, s := range b.segments {
		_ = e.CombineRows(b.hidden, s.received, s.index)
	}
}

func (w *world) send(e *tasklist.Encoder, b *batch, s *segment, at tasklist.Place) {
	c := w.capacity
	_ = e.Pack(tasklist.PackArgs{
		X: b.normed.RowRange(at.Segment*c, (at.Segment+1)*c), RowStart: s.rowStart, RowToken: s.rowToken,
		PairStart: s.pairStart, PairExpert: s.pairExpert, PairWeight: s.pairWeight,
		Rows: s.rows, Headers: s.headers, Pairs: s.pairs, Index: s.index,
		Capacity: c, PairCapacity: topK * c, Ranks: w.eg, Place: at,
	})
	var parts []tasklist.Part
	for k := range w.eg {
		peer := w.ag + k
		parts = append(parts, tasklist.Part{Peer: peer, Data: s.headers.RowRange(k, k+1)},
			tasklist.Part{Peer: peer, Data: s.rows.RowRange(k*c, (k+1)*c)}, tasklist.Part{Peer: peer, Data: s.pairs.RowRange(k, k+1)})
	}
	_ = e.Send(tasklist.A2E, parts)
}

// slot is the memory of one (micro-batch, segment) on an expert rank.
type slot struct{ headers, x, pairs, out backend.Matrix }

func (w *world) expert(e *tasklist.Encoder) {
	c, n, words := w.capacity, w.ag*w.capacity, tasklist.PairWords(w.capacity, topK*w.capacity)
	slots := map[[2]int]*slot{}
	first, status, start := ints(w.ag+1, 1), ints(1, 1), ints(n+1, 1)
	experts, gains, groupRow, groupGain := ints(topK*n, 1), floats(topK*n, 1), ints(topK*n, 1), floats(topK*n, 1)
	groups, workspace := ints(perRank+1, 1), floats(topK*n, 3*width+2*width)
	gateUp, down := floats(perRank*2*width, width), floats(perRank*width, width)
	for _, task := range tasklist.Local(w.schedule, false) {
		e.Begin(task.Kind, task.Layer, task.MicroBatch, task.Segment, task.Deps)
		key := [2]int{task.MicroBatch, task.Segment}
		s := slots[key]
		if s == nil {
			s = &slot{ints(w.ag, tasklist.HeaderWords), floats(n, width), ints(w.ag, words), floats(n, width)}
			slots[key] = s
		}
		var parts []tasklist.Part
		for a := range w.ag {
			rows := tasklist.Part{Peer: a, Data: s.x.RowRange(a*c, (a+1)*c)}
			if task.Kind == tasklist.Kind(schedule.E2A) {
				rows.Data = s.out.RowRange(a*c, (a+1)*c)
				parts = append(parts, rows)
				continue
			}
			parts = append(parts, tasklist.Part{Peer: a, Data: s.headers.RowRange(a, a+1)}, rows, tasklist.Part{Peer: a, Data: s.pairs.RowRange(a, a+1)})
		}
		switch task.Kind {
		case tasklist.Kind(schedule.A2E):
			_ = e.Receive(tasklist.A2E, parts)
		case tasklist.Kind(schedule.E2A):
			_ = e.Send(tasklist.E2A, parts)
		default:
			flat := s.pairs
			flat.Rows, flat.Cols, flat.Stride = flat.Rows*flat.Cols, 1, 1
			_ = e.Unpack(tasklist.UnpackArgs{Headers: s.headers, Pairs: flat, First: first, PairStart: start, PairExpert: experts, PairWeight: gains, Status: status, Ranks: w.ag, TopK: topK, Place: task.Place})
			_ = e.GroupExperts(backend.GroupExpertsArgs{Rows: n, Experts: perRank, PairStart: start, PairExpert: experts, PairWeight: gains, GroupStart: groups, GroupRow: groupRow, GroupWeight: groupGain})
			_ = e.ExpertMLP(s.out, s.x, backend.ExpertMLPArgs{Experts: perRank, Hidden: width, GateUp: gateUp, Down: down, GroupStart: groups, GroupRow: groupRow, GroupWeight: groupGain, Workspace: workspace})
		}
	}
}
