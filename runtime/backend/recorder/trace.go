// SPDX-License-Identifier: Apache-2.0

package recorder

import (
	"fmt"
	"strings"

	"github.com/findep/findep-operator/runtime/backend/tasklist"
)

// Action is what one entry of a stream does.
type Action byte

// The actions, by the letters of kernels/tests/recorder/recorder.h.
const (
	Record  Action = 'R'
	Wait    Action = 'W'
	Operate Action = 'O'
	Send    Action = 'S'
	Receive Action = 'V'
	Stamp   Action = 'C'
)

// works tells whether the action does anything but mark the order or the time.
func (a Action) works() bool { return a != Record && a != Wait && a != Stamp }

// Access is a range of memory that an entry reads or writes.
type Access struct {
	From, To uint64
	Write    bool
}

// Part is what a group moves to or from one peer.
type Part struct {
	Peer  int
	Bytes uint64
}

// Entry is one thing that was enqueued.
type Entry struct {
	Action Action
	Stream int
	// Task is the list's task that it belongs to, -1 for the step's own, and
	// Place what that is about.
	Task  int
	Place tasklist.Place
	// Event is that of a Record or a Wait, or the number of a Stamp, Channel that of
	// a group.
	Event    int
	Channel  tasklist.Channel
	Accesses []Access
	Parts    []Part
}

// Trace is what one rank enqueued, in that order.
type Trace struct {
	Entries []Entry
	// Captured tells that it was enqueued into a graph, Launched that a graph
	// was launched.
	Captured, Launched bool
	// Freed are the graphs that were given up.
	Freed []int
}

// firstTaskEvent is one above the events of the step itself: fork, two joins, end.
const firstTaskEvent = 4

// Parse reads a record.
func Parse(text string) (*Trace, error) {
	t := &Trace{}
	at := Entry{Task: -1}
	for line := range strings.Lines(text) {
		if err := t.parse(strings.TrimSuffix(line, "\n"), &at); err != nil {
			return nil, fmt.Errorf("line %q: %w", line, err)
		}
	}
	return t, nil
}

// parse reads a line; at holds the task that it belongs to.
func (t *Trace) parse(line string, at *Entry) error {
	var v [5]uint64
	n := numbers(line, &v)
	want, known := map[byte]int{'T': 5, 'C': 2, 'R': 2, 'W': 2, 'O': 2, 'r': 2, 'w': 2, 'S': 1, 'V': 1, 'p': 3, 'B': 1, 'E': 2, 'L': 2, 'F': 1}[line[0]]
	if !known || n != want {
		return fmt.Errorf("%d numbers", n)
	}
	last := func() *Entry { return &t.Entries[len(t.Entries)-1] }
	e := *at
	e.Action, e.Stream = Action(line[0]), int(v[0])
	switch line[0] {
	case 'T':
		*at = Entry{Task: int(v[0]), Place: tasklist.Place{Layer: int(v[2]), MicroBatch: int(v[3]), Segment: int(v[4])}}
	case 'R', 'W':
		e.Event = int(v[1])
		if e.Event < firstTaskEvent {
			e.Task = -1
		}
		t.Entries = append(t.Entries, e)
	case 'C':
		e.Event = int(v[1])
		if e.Event == 0 {
			e.Task = -1
		}
		t.Entries = append(t.Entries, e)
	case 'O':
		t.Entries = append(t.Entries, e)
	case 'S', 'V':
		e.Stream, e.Channel = int(v[0])+tasklist.StreamA2E, tasklist.Channel(v[0])
		t.Entries = append(t.Entries, e)
	case 'r', 'w':
		last().Accesses = append(last().Accesses, Access{v[0], v[0] + v[1], e.Action == 'w'})
	case 'p':
		e := last()
		e.Parts = append(e.Parts, Part{int(v[0]), v[2]})
		e.Accesses = append(e.Accesses, Access{v[1], v[1] + v[2], e.Action == Receive})
	case 'B':
		t.Captured = true
	case 'L':
		t.Launched = true
	case 'F':
		t.Freed = append(t.Freed, int(v[0]))
	}
	return nil
}

// numbers reads the decimal numbers of a line; -1 for what are none. Records
// have millions of lines, which a general scanner would take minutes for.
func numbers(line string, to *[5]uint64) int {
	n := 0
	for i := 1; i < len(line); n++ {
		if line[i] != ' ' || n == len(to) {
			return -1
		}
		from := i + 1
		for i = from; i < len(line) && line[i] >= '0' && line[i] <= '9'; i++ {
			to[n] = to[n]*10 + uint64(line[i]-'0')
		}
		if i == from {
			return -1
		}
	}
	return n
}
