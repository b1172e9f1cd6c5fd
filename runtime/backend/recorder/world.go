// SPDX-License-Identifier: Apache-2.0

package recorder

import (
	"fmt"
	"slices"
	"strings"

	"github.com/findep/findep-operator/runtime/backend/tasklist"
)

// World runs the records of all ranks against each other.
type World struct {
	Traces []*Trace
	// queues are the entries of each rank's streams, rank after rank.
	queues [][]*node
	heads  []int
	// ended is the order in which entries have ended, one of those possible.
	ended []*node
	// sends and receives are the halves of the transfers of each link, in order.
	sends, receives map[link][]half
}

type link struct {
	channel  tasklist.Channel
	from, to int
}

// half is one end of a transfer.
type half struct {
	node  *node
	bytes uint64
}

// node is one entry on its way through the world.
type node struct {
	*Entry
	rank, queue, number int // number counts from 1 within the queue
	record              *node
	peers               []*node
	started, done       bool
	start, end          knowledge
}

// knowledge is what is known to have happened: for each queue, how many of its
// entries have ended, and which is its last group of sends whose data have been
// read. That is known when the receiver has them, and not, as the sender may
// have been given a buffer, the other way round.
type knowledge struct{ ended, read []int }

func (k *knowledge) merge(other knowledge) {
	for i, v := range other.ended {
		k.ended[i] = max(k.ended[i], v)
	}
	for i, v := range other.read {
		k.read[i] = max(k.read[i], v)
	}
}

func (k knowledge) clone() knowledge {
	return knowledge{slices.Clone(k.ended), slices.Clone(k.read)}
}

// NewWorld lines the records of ranks 0, 1, ... up.
func NewWorld(traces []*Trace) (*World, error) {
	w := &World{Traces: traces, sends: map[link][]half{}, receives: map[link][]half{}}
	w.queues = make([][]*node, len(traces)*tasklist.NumStreams)
	w.heads = make([]int, len(w.queues))
	for rank, t := range traces {
		records := map[int]*node{}
		for i := range t.Entries {
			if err := w.enqueue(rank, &t.Entries[i], records); err != nil {
				return nil, fmt.Errorf("rank %d, entry %d: %w", rank, i, err)
			}
		}
	}
	return w, w.pair()
}

func (w *World) enqueue(rank int, e *Entry, records map[int]*node) error {
	q := rank*tasklist.NumStreams + e.Stream
	n := &node{Entry: e, rank: rank, queue: q, number: len(w.queues[q]) + 1}
	w.queues[q] = append(w.queues[q], n)
	switch e.Action {
	case Record:
		records[e.Event] = n
	case Wait:
		if n.record = records[e.Event]; n.record == nil {
			return fmt.Errorf("a wait for event %d, which was not recorded before", e.Event)
		}
	case Send:
		for _, p := range e.Parts {
			l := link{e.Channel, rank, p.Peer}
			w.sends[l] = append(w.sends[l], half{n, p.Bytes})
		}
	case Receive:
		for _, p := range e.Parts {
			l := link{e.Channel, p.Peer, rank}
			w.receives[l] = append(w.receives[l], half{n, p.Bytes})
		}
	}
	return nil
}

// pair joins the halves of each transfer: the k-th send from one rank to
// another on a channel is the k-th receive there.
func (w *World) pair() error {
	for l, receives := range w.receives {
		if len(w.sends[l]) != len(receives) {
			return fmt.Errorf("rank %d expects %d transfers from rank %d on channel %d, which sends %d", l.to, len(receives), l.from, l.channel, len(w.sends[l]))
		}
	}
	for l, sends := range w.sends {
		receives := w.receives[l]
		if len(sends) != len(receives) {
			return fmt.Errorf("rank %d sends %d transfers to rank %d on channel %d, which expects %d", l.from, len(sends), l.to, l.channel, len(receives))
		}
		for k, s := range sends {
			r := receives[k]
			if s.bytes != r.bytes {
				return fmt.Errorf("transfer %d from rank %d to rank %d on channel %d has %d bytes, %d are expected", k, l.from, l.to, l.channel, s.bytes, r.bytes)
			}
			if s.node.Place != r.node.Place {
				return fmt.Errorf("swapped order: transfer %d from rank %d to rank %d on channel %d is of %+v, but %+v is expected", k, l.from, l.to, l.channel, s.node.Place, r.node.Place)
			}
			s.node.peers = append(s.node.peers, r.node)
			r.node.peers = append(r.node.peers, s.node)
		}
	}
	return nil
}

// Run lets all streams run to their end, or tells who waits for whom.
func (w *World) Run() error {
	for progress := true; progress; {
		progress = false
		for q := range w.queues {
			for w.heads[q] < len(w.queues[q]) && w.step(w.queues[q][w.heads[q]]) {
				w.heads[q]++
				progress = true
			}
		}
	}
	var stuck []string
	for q, at := range w.heads {
		if at < len(w.queues[q]) {
			stuck = append(stuck, w.stuck(w.queues[q][at]))
		}
	}
	if len(stuck) > 0 {
		return fmt.Errorf("deadlock: %s", strings.Join(stuck, "; "))
	}
	return nil
}

// step starts the head of a queue and tells whether it has ended.
func (w *World) step(n *node) bool {
	if !n.started {
		n.started = true
		n.start = knowledge{make([]int, len(w.queues)), make([]int, len(w.queues))}
		if n.number > 1 {
			n.start.merge(w.queues[n.queue][n.number-2].end)
		}
	}
	if n.record != nil && !n.record.done {
		return false
	}
	for _, p := range n.peers {
		if !p.started {
			return false
		}
	}
	n.finish()
	w.ended = append(w.ended, n)
	return true
}

func (n *node) finish() {
	n.done = true
	n.end = n.start.clone()
	if n.record != nil {
		n.end.merge(n.record.end)
	}
	if n.Action == Receive {
		for _, p := range n.peers {
			n.end.merge(p.start)
			n.end.read[p.queue] = max(n.end.read[p.queue], p.number)
		}
	}
	n.end.ended[n.queue] = n.number
}

func (w *World) stuck(n *node) string {
	at := fmt.Sprintf("rank %d stream %d at task %d (%c)", n.rank, n.Stream, n.Task, n.Action)
	if n.record != nil {
		return at + fmt.Sprintf(" waits for event %d", n.Event)
	}
	for _, p := range n.peers {
		if !p.started {
			return at + fmt.Sprintf(" waits for rank %d stream %d task %d", p.rank, p.Stream, p.Task)
		}
	}
	return at
}

// before tells whether u has ended, as far as its accesses go, when v starts.
func before(u, v *node) bool {
	return v.start.ended[u.queue] >= u.number || u.Action == Send && v.start.read[u.queue] >= u.number
}

// CheckMemory finds accesses of one rank to the same memory, one of them a
// write, that nothing orders, and data that were received and overwritten
// before anything has read them. It needs Run.
func (w *World) CheckMemory() error {
	memories := make([]memory, len(w.Traces))
	for i := range memories {
		memories[i] = memory{}
	}
	for _, n := range w.ended {
		for _, a := range n.Accesses {
			if err := memories[n.rank].access(n, a); err != nil {
				return fmt.Errorf("rank %d: %w", n.rank, err)
			}
		}
	}
	return nil
}

func describe(n *node) string {
	return fmt.Sprintf("stream %d task %d (%c)", n.Stream, n.Task, n.Action)
}

// memory holds, for each buffer, the accesses that a later one may conflict
// with. A buffer is a range of 2^40 addresses.
type memory map[uint64][]past

type past struct {
	Access
	node *node
	// seen tells that something has read what was written.
	seen bool
}

// access adds an access and tells what it conflicts with.
func (m memory) access(n *node, a Access) error {
	buffer := a.From >> 40
	kept := m[buffer][:0]
	var err error
	for _, p := range m[buffer] {
		if p.From < a.To && a.From < p.To && p.node != n {
			if conflict := p.conflict(n, a); conflict != nil {
				err = conflict
			}
			p.seen = p.seen || !a.Write
		}
		// An ordered write that covers it stands for it from now on.
		if !a.Write || p.From < a.From || a.To < p.To {
			kept = append(kept, p)
		}
	}
	m[buffer] = append(kept, past{a, n, false})
	return err
}

// conflict tells what is wrong with an access to the same memory.
func (p *past) conflict(n *node, a Access) error {
	switch {
	case (p.Write || a.Write) && !before(p.node, n):
		return fmt.Errorf("race: %s and %s access the bytes from %#x on, and nothing orders them", describe(p.node), describe(n), a.From)
	case p.Write && a.Write && p.node.Action == Receive && !p.seen:
		return fmt.Errorf("early reuse: %s overwrites the bytes from %#x on, which %s received and nothing has read", describe(n), a.From, describe(p.node))
	}
	return nil
}

// Ordered tells whether everything of one rank's task has ended, as far as its
// accesses go, when another rank's task starts. It needs Run. Tasks without
// entries count as ordered.
func (w *World) Ordered(rank, task, laterRank, laterTask int) bool {
	var last, first *node
	for q := rank * tasklist.NumStreams; q < (rank+1)*tasklist.NumStreams; q++ {
		for _, n := range w.queues[q] {
			if n.Task == task && n.Action.works() {
				last = n
			}
		}
	}
	for q := laterRank * tasklist.NumStreams; q < (laterRank+1)*tasklist.NumStreams; q++ {
		for _, n := range w.queues[q] {
			if n.Task == laterTask && n.Action.works() && first == nil {
				first = n
			}
		}
	}
	return last == nil || first == nil || before(last, first)
}
