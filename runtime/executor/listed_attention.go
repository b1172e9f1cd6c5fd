// SPDX-License-Identifier: Apache-2.0

package executor

import (
	"context"
	"fmt"

	"github.com/findep/findep-operator/runtime/backend"
	"github.com/findep/findep-operator/runtime/backend/tasklist"
	"github.com/findep/findep-operator/runtime/schedule"
)

// exchange is the device memory that attention ranks need for lists beyond that
// of other steps. Messages have room for every token of their segment, so with
// n tokens before a segment, eg expert ranks and top_k experts a token, the
// segment's rows, index and received rows begin at n*eg and its pairs at
// eg*(n + number + 2*top_k*n).
type exchange struct {
	rows, received, index, headers, pairs *array
}

func (x *exchange) arrays() []*array {
	return []*array{x.rows, x.received, x.index, x.headers, x.pairs}
}

// listAttention runs the rank's part of a step as one list.
func (a *AttentionRank) listAttention(ctx context.Context, step *Step, p backend.Pipeline) (Result, error) {
	origin := a.now()
	list, buffers, err := a.writeList(step)
	if err != nil {
		a.fail(err)
		return Result{}, err
	}
	if err := a.runList(ctx, p, list, buffers); err != nil {
		return Result{}, err
	}
	ended := a.now()
	heads := make([]int64, 0, len(a.batches))
	for i := range a.batches {
		if err := a.logitsOf(&a.batches[i]); err != nil {
			a.fail(err)
			return Result{}, fmt.Errorf("output head, micro-batch %d: %w", i, err)
		}
		heads = append(heads, a.now())
	}
	r, err := a.result(step, p, a.listed.tasks, origin, ended, schedule.E2A)
	if err != nil {
		a.fail(err)
		return Result{}, err
	}
	if step.timed() {
		r.heads(step, ended-origin, origin, heads)
	}
	return r, nil
}

// heads adds the output heads, which the host issues after the list: each ended at
// one of the times, and the first began at `start`. What the list has of them is
// part of the same tasks.
func (r *Result) heads(step *Step, start, origin int64, ends []int64) {
	r.Durations[Head].Tasks = 0
	for i, end := range ends {
		r.record(step, Head, tasklist.Place{MicroBatch: i}, start, end-origin, true)
		start = end - origin
	}
}

func (a *AttentionRank) reserveExchange() error {
	x, c := &a.exchange, &a.config
	if x.rows == nil {
		*x = exchange{
			rows: newArray(c.Device, backend.F32, a.shape.HiddenSize), received: newArray(c.Device, backend.F32, a.shape.HiddenSize),
			index:   newArray(c.Device, backend.I32, 1),
			headers: newArray(c.Device, backend.I32, tasklist.HeaderWords), pairs: newArray(c.Device, backend.I32, 1),
		}
		a.memory.arrays = append(a.memory.arrays, x.arrays()...)
	}
	n, eg, segments := 0, c.ExpertRanks, len(a.batches)*a.schedule.Segments
	if len(a.batches) > 0 {
		n = a.batches[len(a.batches)-1].to
	}
	for _, r := range []struct {
		array *array
		rows  int
	}{
		{x.rows, n * eg}, {x.received, n * eg}, {x.index, n * eg}, {x.headers, segments * eg},
		{x.pairs, eg * (n + segments + 2*a.shape.MoE.ExpertsPerToken*n)},
	} {
		if _, err := r.array.rows(r.rows); err != nil {
			return err
		}
	}
	return nil
}

// writeList writes the step down. The functions that issue kernels one by one
// issue them to the encoder.
func (a *AttentionRank) writeList(step *Step) ([]byte, []backend.Buffer, error) {
	if err := a.reserveExchange(); err != nil {
		return nil, nil, err
	}
	e := &a.listed.encoder
	e.Reset(a.rank, a.config.AttentionRanks+a.config.ExpertRanks)
	device := a.lanes[0].stream
	a.lanes[0].stream = e
	defer func() { a.lanes[0].stream = device }()
	for _, t := range a.listed.local(a.schedule, true) {
		e.Begin(t.Kind, t.Layer, t.MicroBatch, t.Segment, t.Deps)
		if b := &a.batches[t.MicroBatch]; b.tokens() > 0 {
			if err := a.write(e, b, t); err != nil {
				return nil, nil, fmt.Errorf("layer %d, micro-batch %d: %w", t.Layer, t.MicroBatch, err)
			}
		}
	}
	return e.Finish(identity(step, a.rank))
}

// write adds the operations of one task.
func (a *AttentionRank) write(e *tasklist.Encoder, b *batch, t tasklist.Task) error {
	switch t.Kind {
	case tasklist.Dense:
		return a.dense(b)
	case tasklist.Head:
		return a.writeCombine(e, b)
	case tasklist.Kind(schedule.Shared):
		return a.gated(a.hiddenOf(b), a.normedOf(b), &a.config.Weights.Layers[a.shape.DenseLayers+t.Layer])
	case tasklist.Kind(schedule.A2E):
		return a.writeSend(e, b, t.Place)
	case tasklist.Kind(schedule.E2A):
		return e.Receive(tasklist.E2A, a.parts(b, t.Segment))
	}
	if t.Layer > 0 {
		if err := a.writeCombine(e, b); err != nil {
			return err
		}
	}
	layer := a.shape.DenseLayers + t.Layer
	if err := a.attend(b, layer); err != nil {
		return err
	}
	if err := a.route(b, &a.config.Weights.Layers[layer]); err != nil {
		return err
	}
	for j := range b.segments {
		if err := a.dispatch(b, &b.segments[j]); err != nil {
			return fmt.Errorf("packing segment %d: %w", j, err)
		}
	}
	return nil
}

// place is the part of an array with eg rows per token that a segment has.
func (a *AttentionRank) place(x *array, b *batch, s *segment) backend.Matrix {
	eg := a.config.ExpertRanks
	return x.view((b.from+s.from)*eg, (b.from+s.to)*eg)
}

// writeCombine adds what came back, expert rank by expert rank as combine does;
// places without a token have no index and add nothing.
func (a *AttentionRank) writeCombine(e *tasklist.Encoder, b *batch) error {
	for j := range b.segments {
		s := &b.segments[j]
		n := s.to - s.from
		h := a.memory.hidden.view(b.from+s.from, b.from+s.to)
		received, index := a.place(a.exchange.received, b, s), a.place(a.exchange.index, b, s)
		for k := range a.config.ExpertRanks {
			if err := e.CombineRows(h, received.RowRange(k*n, (k+1)*n), index.RowRange(k*n, (k+1)*n)); err != nil {
				return err
			}
		}
	}
	return nil
}

func (a *AttentionRank) writeSend(e *tasklist.Encoder, b *batch, at tasklist.Place) error {
	s, m, x := &b.segments[at.Segment], &a.memory, &a.exchange
	n, topK, eg := s.to-s.from, a.shape.MoE.ExpertsPerToken, a.config.ExpertRanks
	if n == 0 {
		return nil
	}
	first, number := b.from+s.from, at.MicroBatch*a.schedule.Segments+at.Segment
	rows, words := n*a.copies(), tasklist.PairWords(n, topK*n)
	pairs := eg * (first + number + 2*topK*first)
	pack := tasklist.PackArgs{
		X: m.normed.view(first, b.from+s.to), RowStart: m.rowStart.view(s.rowStart, s.rowStart+eg+1), RowToken: m.rowToken.view(s.row, s.row+rows),
		PairStart:  m.pairStart.view(s.pairStart, s.pairStart+rows+1),
		PairExpert: m.pairExpert.view(s.pair, s.pair+topK*n), PairWeight: m.pairWeight.view(s.pair, s.pair+topK*n),
		Rows: a.place(x.rows, b, s), Headers: x.headers.view(number*eg, (number+1)*eg),
		Pairs: reshape(x.pairs.view(pairs, pairs+eg*words), words), Index: a.place(x.index, b, s),
		Capacity: n, PairCapacity: topK * n, Ranks: eg, Place: at,
	}
	if err := e.Pack(pack); err != nil {
		return err
	}
	parts := a.listed.parts[:0]
	for k := range eg {
		peer := a.config.AttentionRanks + k
		parts = append(parts, tasklist.Part{Peer: peer, Data: pack.Headers.RowRange(k, k+1)},
			tasklist.Part{Peer: peer, Data: pack.Rows.RowRange(k*n, (k+1)*n)}, tasklist.Part{Peer: peer, Data: pack.Pairs.RowRange(k, k+1)})
	}
	a.listed.parts = parts
	return e.Send(tasklist.A2E, parts)
}

// parts are what a segment's receive brings from each expert rank.
func (a *AttentionRank) parts(b *batch, j int) []tasklist.Part {
	s := &b.segments[j]
	n := s.to - s.from
	parts, received := a.listed.parts[:0], a.place(a.exchange.received, b, s)
	for k := range a.config.ExpertRanks {
		parts = append(parts, tasklist.Part{Peer: a.config.AttentionRanks + k, Data: received.RowRange(k*n, (k+1)*n)})
	}
	a.listed.parts = parts
	return parts
}
