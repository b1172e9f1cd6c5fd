// SPDX-License-Identifier: Apache-2.0

package executor

import (
	"fmt"

	"github.com/findep/findep-operator/runtime/schedule"
)

// send gathers the rows of a segment and sends each expert rank its own. A rank
// that gets none is sent the header alone, because it waits for every
// attention rank.
//
// The message is the rows F32 [rows, M], PairStart I32 [rows+1] from 0,
// PairExpert I32 [pairs] numbered within the receiving rank, PairWeight F32
// [pairs], all little-endian.
func (a *AttentionRank) send(t *schedule.Task) error {
	b := &a.batches[t.MicroBatch]
	s := &b.segments[t.Segment]
	if err := a.gather(b, s); err != nil {
		return err
	}
	for e := range a.links {
		if err := a.sendRows(t, s, e); err != nil {
			return fmt.Errorf("sending to rank %d: %w", a.links[e].rank, err)
		}
	}
	return nil
}

// gather copies the rows of a segment together and makes them and the pairs
// visible to the host.
func (a *AttentionRank) gather(b *batch, s *segment) error {
	rows := int(s.starts[len(s.starts)-1])
	if rows == 0 {
		return nil
	}
	m, stream := &a.memory, a.lanes[1].stream
	packed, err := m.packed.rows(rows)
	if err != nil {
		return err
	}
	if err := stream.GatherRows(packed, m.normed.view(b.from+s.from, b.from+s.to), m.rowToken.view(s.row, s.row+rows)); err != nil {
		return fmt.Errorf("gathering %d rows: %w", rows, err)
	}
	if err := stream.Synchronize(); err != nil {
		return err
	}
	if err := m.packed.pull(stream, 0, rows); err != nil {
		return err
	}
	if err := m.pairStart.pull(stream, s.pairStart, s.pairStart+rows+1); err != nil {
		return err
	}
	pairs := int(ints(m.pairStart.host(s.pairStart, s.pairStart+rows+1))[rows])
	if err := m.pairExpert.pull(stream, s.pair, s.pair+pairs); err != nil {
		return err
	}
	return m.pairWeight.pull(stream, s.pair, s.pair+pairs)
}

func (a *AttentionRank) sendRows(t *schedule.Task, s *segment, e int) error {
	h := a.header(t)
	first, last := int(s.starts[e]), int(s.starts[e+1])
	if first == last {
		return a.links[e].to.Send(h)
	}
	m := &a.memory
	starts := ints(m.pairStart.host(s.pairStart+first, s.pairStart+last+1))
	from, to := int(starts[0]), int(starts[len(starts)-1])
	a.starts = a.starts[:0]
	for _, v := range starts {
		a.starts = append(a.starts, v-int32(from))
	}
	h.Rows, h.Pairs = uint32(last-first), uint32(to-from)
	a.sent = append(a.sent[:0], m.packed.host(first, last), bytesOfInts(a.starts),
		m.pairExpert.host(s.pair+from, s.pair+to), m.pairWeight.host(s.pair+from, s.pair+to))
	return a.links[e].to.Send(h, a.sent...)
}

// receive takes the rows of a segment back from every expert rank: as many as
// were sent, in the same order.
func (a *AttentionRank) receive(t *schedule.Task) error {
	s := &a.batches[t.MicroBatch].segments[t.Segment]
	for e := range a.links {
		if err := a.receiveRows(t, s, e); err != nil {
			return fmt.Errorf("receiving from rank %d: %w", a.links[e].rank, err)
		}
	}
	return nil
}

func (a *AttentionRank) receiveRows(t *schedule.Task, s *segment, e int) error {
	link := &a.links[e]
	h, err := link.from.ReceiveHeader()
	if err != nil {
		return err
	}
	if e == 0 {
		a.lanes[2].began()
	}
	if err := a.expect(h, t, link.rank); err != nil {
		return err
	}
	first, last := s.row+int(s.starts[e]), s.row+int(s.starts[e+1])
	rows := last - first
	if want := uint64(4 * rows * a.shape.HiddenSize); int64(h.Rows) != int64(rows) || h.Pairs != 0 || h.Bytes != want {
		return fmt.Errorf("%w: rank %d returned %d rows, %d pairs and %d bytes; it was sent %d rows, so %d bytes were expected",
			ErrProtocol, link.rank, h.Rows, h.Pairs, h.Bytes, rows, want)
	}
	if rows == 0 {
		return nil
	}
	a.got = append(a.got[:0], a.memory.received.host(first, last))
	if err := link.from.ReceivePayload(a.got...); err != nil {
		return err
	}
	return a.memory.received.push(a.lanes[2].stream, first, last)
}
