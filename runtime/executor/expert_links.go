// SPDX-License-Identifier: Apache-2.0

package executor

import (
	"fmt"

	"github.com/findep/findep-operator/runtime/schedule"
	"github.com/findep/findep-operator/runtime/transport"
)

// receive takes one segment's rows from every attention rank. All headers are
// read first: they say how much memory the slot needs.
func (e *ExpertRank) receive(t *schedule.Task) error {
	s := e.slot(t)
	e.headers = e.headers[:0]
	s.first = append(s.first[:0], 0)
	s.rows, s.pairs = 0, 0
	for i := range e.links {
		h, err := e.receiveHeader(t, &e.links[i])
		if err != nil {
			return fmt.Errorf("receiving from rank %d: %w", e.links[i].rank, err)
		}
		if i == 0 {
			e.lanes[1].began()
		}
		e.headers = append(e.headers, h)
		s.rows += int(h.Rows)
		s.pairs += int(h.Pairs)
		s.first = append(s.first, s.rows)
	}
	if s.rows == 0 {
		return nil
	}
	if err := s.reserve(); err != nil {
		return err
	}
	pairs := 0
	for i, h := range e.headers {
		if h.Rows == 0 {
			continue
		}
		if err := e.receiveRows(s, i, h, pairs); err != nil {
			return fmt.Errorf("receiving from rank %d: %w", e.links[i].rank, err)
		}
		pairs += int(h.Pairs)
	}
	return e.pushSlot(s)
}

// receiveHeader checks a header against the schedule and the limits, before
// any memory depends on it.
func (e *ExpertRank) receiveHeader(t *schedule.Task, link *peerLinks) (transport.Header, error) {
	h, err := link.from.ReceiveHeader()
	if err != nil {
		return h, err
	}
	if err := e.expect(h, t, link.rank); err != nil {
		return h, err
	}
	rows, pairs := uint64(h.Rows), uint64(h.Pairs)
	perRow := uint64(min(e.local, e.shape.MoE.ExpertsPerToken))
	if rows > uint64(e.config.MaxStepTokens) || pairs < rows || pairs > rows*perRow {
		return h, fmt.Errorf("%w: rank %d sent %d rows with %d pairs; at most %d rows with 1 to %d pairs each are possible",
			ErrProtocol, link.rank, rows, pairs, e.config.MaxStepTokens, perRow)
	}
	want := uint64(0)
	if rows > 0 {
		want = 4 * (rows*uint64(e.shape.HiddenSize) + rows + 1 + 2*pairs)
	}
	if h.Bytes != want {
		return h, fmt.Errorf("%w: rank %d sent %d bytes; %d rows with %d pairs have %d", ErrProtocol, link.rank, h.Bytes, rows, pairs, want)
	}
	return h, nil
}

func (s *slot) reserve() error {
	for _, r := range []struct {
		array *array
		rows  int
	}{{s.x, s.rows}, {s.out, s.rows}, {s.pairStart, s.rows + 1}, {s.pairExpert, s.pairs}, {s.pairWeight, s.pairs}} {
		if _, err := r.array.rows(r.rows); err != nil {
			return err
		}
	}
	return nil
}

// receiveRows reads the payload of attention rank number i behind those of the
// ranks before it, which have the given number of pairs. Each rank's PairStart
// has one element more than rows; the next rank's overwrites it with the same
// value.
func (e *ExpertRank) receiveRows(s *slot, i int, h transport.Header, pairs int) error {
	first, last := s.first[i], s.first[i+1]
	starts := s.pairStart.host(first, last+1)
	experts := s.pairExpert.host(pairs, pairs+int(h.Pairs))
	e.got = append(e.got[:0], s.x.host(first, last), starts, experts, s.pairWeight.host(pairs, pairs+int(h.Pairs)))
	if err := e.links[i].from.ReceivePayload(e.got...); err != nil {
		return err
	}
	return e.rebase(ints(starts), ints(experts), int32(pairs))
}

// rebase checks pairs that came from a peer and makes their starts count from
// the slot's beginning.
func (e *ExpertRank) rebase(starts, experts []int32, pairs int32) error {
	n := len(starts) - 1
	if starts[0] != 0 || int(starts[n]) != len(experts) {
		return fmt.Errorf("%w: pairs are numbered %d to %d; 0 to %d were announced", ErrProtocol, starts[0], starts[n], len(experts))
	}
	for r := range n {
		if starts[r+1] <= starts[r] {
			return fmt.Errorf("%w: row %d has the pairs %d to %d; every row needs at least one", ErrProtocol, r, starts[r], starts[r+1])
		}
	}
	for i, k := range experts {
		if k < 0 || int(k) >= e.local {
			return fmt.Errorf("%w: pair %d is for expert %d; this rank has %d", ErrProtocol, i, k, e.local)
		}
	}
	for r := range starts {
		starts[r] += pairs
	}
	return nil
}

func (e *ExpertRank) pushSlot(s *slot) error {
	stream := e.lanes[1].stream
	if err := s.x.push(stream, 0, s.rows); err != nil {
		return err
	}
	if err := s.pairStart.push(stream, 0, s.rows+1); err != nil {
		return err
	}
	if err := s.pairExpert.push(stream, 0, s.pairs); err != nil {
		return err
	}
	return s.pairWeight.push(stream, 0, s.pairs)
}

// send returns to each attention rank its rows, in the order they came in.
func (e *ExpertRank) send(t *schedule.Task) error {
	s := e.slot(t)
	if s.rows > 0 {
		if err := s.out.pull(e.lanes[2].stream, 0, s.rows); err != nil {
			return err
		}
	}
	for i := range e.links {
		h := e.header(t)
		h.Rows = uint32(s.first[i+1] - s.first[i])
		e.sent = e.sent[:0]
		if h.Rows > 0 {
			e.sent = append(e.sent, s.out.host(s.first[i], s.first[i+1]))
		}
		if err := e.links[i].to.Send(h, e.sent...); err != nil {
			return fmt.Errorf("sending to rank %d: %w", e.links[i].rank, err)
		}
	}
	return nil
}
