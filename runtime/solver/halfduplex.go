// SPDX-License-Identifier: Apache-2.0

package solver

import (
	"math"

	"github.com/findep/findep-operator/runtime/plan"
)

// duplex is the state of a simulation in which both directions share one link.
type duplex struct {
	// computed is when each segment's experts have ended, by piece and
	// segment. A segment's results return before the next layer sends it, so
	// layers can share the slots.
	computed []float64
	// link is when the link is free.
	link float64
}

// walker walks the transfers of one direction in their order.
type walker struct {
	layer, piece, segment int
}

// next moves to the next transfer.
func (w *walker) next(l *timeline) {
	if w.segment++; w.segment < l.r2 {
		return
	}
	w.segment = 0
	if w.piece++; w.piece < len(l.back) {
		return
	}
	w.piece = 0
	w.layer++
}

// before tells whether w is behind o on the same way.
func (w *walker) before(o *walker) bool {
	switch {
	case w.layer != o.layer:
		return w.layer < o.layer
	case w.piece != o.piece:
		return w.piece < o.piece
	}
	return w.segment < o.segment
}

// sharedLink returns the makespan, with dense layers and heads, when both
// directions share one link. The link serves the transfer that became ready
// first, and of two at once the result. It may return +Inf if the makespan is
// certain to exceed the bound.
//
// The link decides everything: between two of its decisions attention and
// expert tasks follow from what has arrived. If a transfer's time of readiness
// is not known yet, it depends on the other direction's next transfer, and so
// cannot be ready before that is.
func (l *timeline) sharedLink(bound float64) float64 {
	l.state, l.link = machine{}, 0
	clear(l.back)
	if n := len(l.back) * l.r2; n <= cap(l.computed) {
		l.computed = l.computed[:n]
	} else {
		l.computed = make([]float64, n)
	}
	l.steps += 2 * l.layers * len(l.computed)
	const unknown = -1.0
	var out, in walker
	released := unknown
	for in.layer < l.layers {
		// The attention of a piece needs its results of the layer before.
		if released == unknown && out.layer < l.layers && (out.layer == in.layer || out.piece < in.piece) {
			released = l.attend(&out)
		}
		sent := in.before(&out)
		result := l.computed[in.piece*l.r2+in.segment]
		if sent && (released == unknown || result <= released) {
			l.link = max(l.link, result) + l.cell(&in).E2A
			l.back[in.piece] = l.link
			in.next(l)
		} else {
			l.send(&out, released)
			if out.segment == 0 {
				released = unknown
			}
		}
		if l.link > bound {
			return math.Inf(1)
		}
	}
	if l.sharedLast() {
		l.state.attention += l.sharedBlock(l.row(l.layers - 1))
	}
	l.state.e2a = l.link
	return l.heads()
}

// sharedLast tells whether shared experts run after all attention of a layer.
func (l *timeline) sharedLast() bool { return l.policy == plan.FinDEP && l.order == plan.AASS }

// attend runs the attention task that releases a piece's segments, and the
// shared experts that come before or right after it, and returns the release.
func (l *timeline) attend(w *walker) float64 {
	c, s := l.cell(w), &l.state
	if l.sharedLast() && w.piece == 0 && w.layer > 0 {
		s.attention += l.sharedBlock(l.row(w.layer - 1))
	}
	if w.layer == 0 {
		s.attention += l.dense[l.column(w.piece/l.chunks)+w.piece%l.chunks]
	}
	s.attention = max(s.attention, l.back[w.piece]) + c.Attention
	released := s.attention
	if !l.sharedLast() {
		s.attention += c.Shared
	}
	if l.policy != plan.FinDEP {
		return s.attention
	}
	return released
}

// sharedBlock is the time of a layer's shared experts.
func (l *timeline) sharedBlock(cells []cell) float64 {
	sum := 0.0
	for g := range l.groups {
		for j := range l.chunks {
			sum += cells[l.column(g)+j].Shared
		}
	}
	return sum
}

// send serves a segment and runs its experts.
func (l *timeline) send(w *walker, released float64) {
	c := l.cell(w)
	l.link = max(l.link, released) + c.A2E
	l.state.expert = max(l.state.expert, l.link) + c.Expert
	l.computed[w.piece*l.r2+w.segment] = l.state.expert
	w.next(l)
}

// cell is the piece that a transfer belongs to.
func (l *timeline) cell(w *walker) *cell {
	return &l.row(w.layer)[l.column(w.piece/l.chunks)+w.piece%l.chunks]
}
