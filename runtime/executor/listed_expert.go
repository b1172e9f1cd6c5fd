// SPDX-License-Identifier: Apache-2.0

package executor

import (
	"context"
	"fmt"

	"github.com/findep/findep-operator/runtime/backend"
	"github.com/findep/findep-operator/runtime/backend/tasklist"
	"github.com/findep/findep-operator/runtime/schedule"
)

// intake is the device memory that expert ranks need for lists. Its slots are
// those of segments: with n rows in the slots before a segment, its rows begin
// at n and its pairs at n + ag*number + 2*top_k*n.
type intake struct {
	x, out, headers, pairs, first *array
	// pairStart, pairExpert, pairWeight are scratch of the compute stream.
	pairStart, pairExpert, pairWeight *array
	// groupStart has a place for each task, from which the loads are read.
	groupStart, status *array
	// capacities [slot][attention rank] is the room of each message in rows,
	// rows [slot] the rows before a slot, and after the last.
	capacities [][]int
	rows       []int
	host       []int32
}

func (in *intake) arrays() []*array {
	return []*array{in.x, in.out, in.headers, in.pairs, in.first, in.pairStart, in.pairExpert, in.pairWeight, in.groupStart, in.status}
}

func newIntake(dev backend.Device, hidden int) *intake {
	ints := func() *array { return newArray(dev, backend.I32, 1) }
	return &intake{
		x: newArray(dev, backend.F32, hidden), out: newArray(dev, backend.F32, hidden),
		headers: newArray(dev, backend.I32, tasklist.HeaderWords), pairs: ints(), first: ints(),
		pairStart: ints(), pairExpert: ints(), pairWeight: newArray(dev, backend.F32, 1), groupStart: ints(), status: ints(),
	}
}

// listExperts runs the rank's part of a step as one list.
func (e *ExpertRank) listExperts(ctx context.Context, step *Step, p backend.Pipeline) (Result, error) {
	origin := e.now()
	list, buffers, err := e.writeList(step)
	if err != nil {
		e.fail(err)
		return Result{}, err
	}
	if err := e.runList(ctx, p, list, buffers); err != nil {
		return Result{}, err
	}
	ended := e.now()
	err = e.readList()
	var r Result
	if err == nil {
		r, err = e.result(step, p, e.listed.tasks, origin, ended, schedule.A2E)
	}
	if err != nil {
		e.fail(err)
		return Result{}, err
	}
	return r, nil
}

// layOutIntake computes the room of all messages: every token of a segment, cut
// as the attention ranks cut it.
func (e *ExpertRank) layOutIntake(step *Step) error {
	if e.intake == nil {
		e.intake = newIntake(e.config.Device, e.shape.HiddenSize)
	}
	in, r2, ag := e.intake, e.schedule.Segments, e.config.AttentionRanks
	slots := e.schedule.MicroBatches * r2
	in.capacities = make([][]int, slots)
	for i := range in.capacities {
		in.capacities[i] = make([]int, ag)
	}
	for a := range ag {
		total := 0
		for i, b := range Partition(step.pieces(a), step.Plan) {
			for j := range r2 {
				from, to := schedule.SegmentRange(b.Tokens(), r2, j)
				in.capacities[i*r2+j][a] = to - from
			}
			total += b.Tokens()
		}
		if total > e.config.MaxStepTokens {
			return fmt.Errorf("%w: it has %d tokens for rank %d, which takes %d", ErrStep, total, a, e.config.MaxStepTokens)
		}
	}
	in.rows, in.host = append(in.rows[:0], 0), in.host[:0]
	largest := 0
	for slot, capacities := range in.capacities {
		rows := 0
		in.host = append(in.host, 0)
		for _, c := range capacities {
			rows += c
			in.host = append(in.host, int32(rows))
		}
		largest = max(largest, rows)
		in.rows = append(in.rows, in.rows[slot]+rows)
	}
	return e.reserveIntake(slots, largest)
}

// reserveIntake reserves memory for slots, the largest of which has the given
// number of rows.
func (e *ExpertRank) reserveIntake(slots, largest int) error {
	in, ag, topK, n := e.intake, e.config.AttentionRanks, e.shape.MoE.ExpertsPerToken, e.intake.rows[slots]
	for _, r := range []struct {
		array *array
		rows  int
	}{
		{in.x, n}, {in.out, n}, {in.headers, slots * ag}, {in.pairs, n + slots*ag + 2*topK*n}, {in.first, slots * (ag + 1)},
		{in.pairStart, largest + 1}, {in.pairExpert, largest * topK}, {in.pairWeight, largest * topK},
		{in.groupStart, e.layers * slots * (e.local + 1)}, {in.status, 1},
		{e.groupRow, largest * topK}, {e.groupWeight, largest * topK}, {e.workspace, largest * topK},
	} {
		if _, err := r.array.rows(r.rows); err != nil {
			return err
		}
	}
	stream := e.lanes[0].stream
	if err := stream.CopyIn(in.first.all.Buffer, 0, bytesOfInts(in.host)); err != nil {
		return err
	}
	// Tasks without rows leave their places as they are.
	zeros := make([]int32, max(in.groupStart.all.Rows, 1))
	if err := stream.CopyIn(in.groupStart.all.Buffer, 0, bytesOfInts(zeros[:in.groupStart.all.Rows])); err != nil {
		return err
	}
	return stream.CopyIn(in.status.all.Buffer, 0, bytesOfInts(zeros[:1]))
}

func (e *ExpertRank) writeList(step *Step) ([]byte, []backend.Buffer, error) {
	if err := e.layOutIntake(step); err != nil {
		return nil, nil, err
	}
	enc := &e.listed.encoder
	enc.Reset(e.rank, e.config.AttentionRanks+e.config.ExpertRanks)
	for _, t := range e.listed.local(e.schedule, false) {
		enc.Begin(t.Kind, t.Layer, t.MicroBatch, t.Segment, t.Deps)
		slot := t.MicroBatch*e.schedule.Segments + t.Segment
		if e.intake.rows[slot] == e.intake.rows[slot+1] {
			continue
		}
		var err error
		switch t.Kind {
		case tasklist.Kind(schedule.A2E):
			err = enc.Receive(tasklist.A2E, e.parts(slot, true))
		case tasklist.Kind(schedule.E2A):
			err = enc.Send(tasklist.E2A, e.parts(slot, false))
		default:
			err = e.write(enc, slot, t.Place)
		}
		if err != nil {
			return nil, nil, fmt.Errorf("layer %d, micro-batch %d: %w", t.Layer, t.MicroBatch, err)
		}
	}
	return enc.Finish(identity(step, e.rank))
}

// pairsAt is where the pairs of a slot's message from attention rank a begin.
func (in *intake) pairsAt(slot, a, ag, topK int) int {
	n := in.rows[slot]
	at := n + slot*ag + 2*topK*n
	for _, c := range in.capacities[slot][:a] {
		at += tasklist.PairWords(c, topK*c)
	}
	return at
}

// parts are what a slot's group moves from, or to, each attention rank: what is
// received has a header and pairs besides the rows.
func (e *ExpertRank) parts(slot int, received bool) []tasklist.Part {
	in, ag, topK := e.intake, e.config.AttentionRanks, e.shape.MoE.ExpertsPerToken
	parts, row := e.listed.parts[:0], in.rows[slot]
	for a, c := range in.capacities[slot] {
		if c == 0 {
			continue
		}
		if !received {
			parts = append(parts, tasklist.Part{Peer: a, Data: in.out.view(row, row+c)})
		} else {
			pairs := in.pairsAt(slot, a, ag, topK)
			parts = append(parts, tasklist.Part{Peer: a, Data: in.headers.view(slot*ag+a, slot*ag+a+1)},
				tasklist.Part{Peer: a, Data: in.x.view(row, row+c)},
				tasklist.Part{Peer: a, Data: in.pairs.view(pairs, pairs+tasklist.PairWords(c, topK*c))})
		}
		row += c
	}
	e.listed.parts = parts
	return parts
}

// write adds the experts on the rows of a slot.
func (e *ExpertRank) write(enc *tasklist.Encoder, slot int, at tasklist.Place) error {
	in, ag, topK := e.intake, e.config.AttentionRanks, e.shape.MoE.ExpertsPerToken
	from, to := in.rows[slot], in.rows[slot+1]
	rows, slots := to-from, len(in.capacities)
	start, experts, gains := in.pairStart.view(0, rows+1), in.pairExpert.view(0, rows*topK), in.pairWeight.view(0, rows*topK)
	err := enc.Unpack(tasklist.UnpackArgs{
		Headers: in.headers.view(slot*ag, (slot+1)*ag), Pairs: in.pairs.view(in.pairsAt(slot, 0, ag, topK), in.pairsAt(slot, ag, ag, topK)),
		First: in.first.view(slot*(ag+1), (slot+1)*(ag+1)), PairStart: start, PairExpert: experts, PairWeight: gains,
		Status: in.status.view(0, 1), Ranks: ag, TopK: topK, Place: at,
	})
	if err != nil {
		return err
	}
	place := (at.Layer*slots + slot) * (e.local + 1)
	groups, groupRow, groupGain := in.groupStart.view(place, place+e.local+1), e.groupRow.view(0, rows*topK), e.groupWeight.view(0, rows*topK)
	err = enc.GroupExperts(backend.GroupExpertsArgs{
		Rows: rows, Experts: e.local, PairStart: start, PairExpert: experts, PairWeight: gains,
		GroupStart: groups, GroupRow: groupRow, GroupWeight: groupGain,
	})
	if err != nil {
		return err
	}
	w := &e.config.Weights.Layers[at.Layer]
	return enc.ExpertMLP(in.out.view(from, to), in.x.view(from, to), backend.ExpertMLPArgs{
		Experts: e.local, Hidden: e.shape.MoE.IntermediateSize, GateUp: w.GateUp, Down: w.Down,
		GroupStart: groups, GroupRow: groupRow, GroupWeight: groupGain, Workspace: e.workspace.view(0, rows*topK),
	})
}

// readList reads what a list has left: whether all messages were what the
// schedule has next, and the experts' loads.
func (e *ExpertRank) readList() error {
	in, stream := e.intake, e.lanes[0].stream
	if err := in.status.pull(stream, 0, 1); err != nil {
		return err
	}
	if status := ints(in.status.host(0, 1))[0]; status != 0 {
		return fmt.Errorf("%w: rank %d sent rows that are not what the schedule has next, or more than announced", ErrProtocol, status-1)
	}
	tasks := e.layers * len(in.capacities)
	if err := in.groupStart.pull(stream, 0, tasks*(e.local+1)); err != nil {
		return err
	}
	starts := ints(in.groupStart.host(0, tasks*(e.local+1)))
	for t := range tasks {
		for i := range e.load {
			e.load[i] += uint64(starts[t*(e.local+1)+i+1] - starts[t*(e.local+1)+i])
		}
	}
	return nil
}
