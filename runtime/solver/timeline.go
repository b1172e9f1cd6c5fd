// SPDX-License-Identifier: Apache-2.0

package solver

import (
	"math"

	"github.com/findep/findep-operator/runtime/plan"
)

// candidate is one plan under evaluation.
type candidate struct {
	// m is m_a; last is the number of samples of the last micro-batch, equal
	// to m unless the remainder of a batch is costed exactly.
	m, last  int
	r1, r2   int
	order    plan.Order
	chunks   int
	boundary *[plan.MaxChunks + 1]float64 // of unequal chunks, as fractions
}

// chunk returns where chunk j begins and ends, as fractions of a sample.
func (c *candidate) chunk(j int) (u, v float64) {
	if c.boundary != nil {
		return c.boundary[j], c.boundary[j+1]
	}
	q := float64(c.chunks)
	return float64(j) / q, float64(j+1) / q
}

// cell is what one piece, a chunk of one micro-batch, takes in one layer.
type cell struct {
	Times
	// toExperts, experts and back are the times of all its segments on one
	// machine after the other; pair, pairBack and all are the times of all
	// segments through a2e and experts, experts and e2a, and all three.
	toExperts, experts, back float64
	pair, pairBack, all      float64
}

func newCell(t Times, r2 int) cell {
	n := float64(r2)
	return cell{
		Times: t, toExperts: n * t.A2E, experts: n * t.Expert, back: n * t.E2A,
		pair:     t.A2E + t.Expert + (n-1)*max(t.A2E, t.Expert),
		pairBack: t.Expert + t.E2A + (n-1)*max(t.Expert, t.E2A),
		all:      t.A2E + t.Expert + t.E2A + (n-1)*t.slowest(),
	}
}

// machine holds when each resource is free.
type machine struct{ attention, a2e, expert, e2a float64 }

// segments sends all segments of a piece, released at the same time, through
// the three machines and returns when the last is back. It is the tandem line
// of equal jobs: the critical path enters at the release or where a machine
// was busy, goes through one job on each further machine, and spends the other
// jobs on the slowest of them.
func (m *machine) segments(c *cell, released float64) float64 {
	start := max(released, m.a2e)
	m.e2a = max(m.e2a+c.back, m.expert+c.pairBack, start+c.all)
	m.expert = max(m.expert+c.experts, start+c.pair)
	m.a2e = start + c.toExperts
	return m.e2a
}

// timeline computes exact makespans where micro-batches, layers or both differ,
// in constant time per piece and layer, whatever the number of segments. Its
// buffers are reused.
type timeline struct {
	policy plan.Policy
	order  plan.Order
	layers int
	// groups is r1, chunks q; cells has a row per layer, or one for all of
	// them, and each row the q pieces of a full micro-batch and, if uneven,
	// those of the last.
	groups, chunks, r2 int
	rows, columns      int
	uneven             bool
	cells              []cell
	dense, head        []float64 // per column
	halfDuplex         bool
	// back is when each piece's last segment of the layer before is back.
	back  []float64
	state machine
	duplex
	// fractions is room for the boundaries of a candidate.
	fractions [plan.MaxChunks + 1]float64
	// steps counts the pieces of all layers computed by the last search, spent
	// those of the searches before it.
	steps, spent int
}

// load prepares the pieces of a candidate.
func (l *timeline) load(p *Problem, policy plan.Policy, c *candidate) {
	l.policy, l.order, l.layers = policy, c.order, p.Layers
	l.groups, l.chunks, l.r2, l.uneven = c.r1, c.chunks, c.r2, c.last != c.m
	l.halfDuplex = p.HalfDuplex
	l.rows, l.columns = max(1, len(p.PerLayer)), c.chunks
	if l.uneven {
		l.columns *= 2
	}
	l.cells, l.dense, l.head = l.cells[:0], l.dense[:0], l.head[:0]
	for row := range l.rows {
		stages := &p.Stages
		if len(p.PerLayer) > 0 {
			stages = &p.PerLayer[row]
		}
		for column := range l.columns {
			m, u, v := c.part(column)
			l.cells = append(l.cells, newCell(p.piece(stages, m, u, v, c.r2), c.r2))
		}
	}
	for column := range l.columns {
		m, u, v := c.part(column)
		dense, head := 0.0, 0.0
		if p.Dense != (AttentionTime{}) {
			dense = p.Dense.of(m, u, v)
		}
		if p.Head != (Affine{}) && v == 1 {
			head = p.Head.At(m)
		}
		l.dense, l.head = append(l.dense, dense), append(l.head, head)
	}
	if n := c.r1 * c.chunks; n <= cap(l.back) {
		l.back = l.back[:n]
	} else {
		l.back = make([]float64, n)
	}
}

// makespan returns the exact time of everything. It may return +Inf if that is
// certain to exceed the bound.
func (l *timeline) makespan(bound float64) float64 {
	l.steps += loadSteps * len(l.cells)
	if !l.halfDuplex {
		return l.pipeline(bound)
	}
	if attention, link, expert := l.loads(); max(attention, link, expert) > bound {
		return math.Inf(1)
	}
	return l.sharedLink(bound)
}

// loads are the busy times of an attention GPU, of both link directions
// together, and of an expert GPU, without dense layers and heads.
func (l *timeline) loads() (attention, link, expert float64) {
	repeat := float64(l.layers / l.rows)
	for row := range l.rows {
		for column := range l.columns {
			c, n := &l.cells[row*l.columns+column], repeat*l.count(column)
			attention += n * (c.Attention + c.Shared)
			link += n * (c.toExperts + c.back)
			expert += n * c.experts
		}
	}
	return attention, link, expert
}

// count is the number of micro-batches that a column stands for.
func (l *timeline) count(column int) float64 {
	switch {
	case !l.uneven:
		return float64(l.groups)
	case column < l.chunks:
		return float64(l.groups - 1)
	default:
		return 1
	}
}

// part is the number of samples and the range of tokens of a column.
func (c *candidate) part(column int) (m, u, v float64) {
	samples := c.m
	if column >= c.chunks {
		samples, column = c.last, column-c.chunks
	}
	u, v = c.chunk(column)
	return float64(samples), u, v
}

// column is the column of a group's first chunk.
func (l *timeline) column(group int) int {
	if l.uneven && group == l.groups-1 {
		return l.chunks
	}
	return 0
}

// row are the cells of a layer.
func (l *timeline) row(layer int) []cell {
	if l.rows == 1 {
		return l.cells
	}
	return l.cells[layer*l.columns : (layer+1)*l.columns]
}

// steady is how much, relatively, the progress of two layers may differ by
// rounding.
const steady = 1e-13

// pipeline returns the makespan of the MoE layers, with dense layers, and that
// of the output heads after it. It may return +Inf instead if the makespan is
// certain to exceed the bound.
//
// One layer maps the state, the times at which machines are free and pieces are
// back, to that of the next, and adding a constant to all of them adds it to
// the result (the map is max-plus linear). So once a layer has moved every
// component by the same time, each further one does the same, and need not be
// computed.
func (l *timeline) pipeline(bound float64) float64 {
	l.state = machine{}
	clear(l.back)
	load := 0.0
	if l.rows == 1 {
		for column := range l.cells {
			load += l.count(column) * (l.cells[column].Attention + l.cells[column].Shared)
		}
	}
	for t := range l.layers {
		before := l.state
		low, high := l.layer(t)
		l.steps += len(l.back)
		left := float64(l.layers - 1 - t)
		if l.state.attention+left*load > bound {
			return math.Inf(1)
		}
		if t == 0 || l.rows > 1 || left == 0 {
			continue
		}
		now := &l.state
		for _, d := range [...]float64{now.attention - before.attention, now.a2e - before.a2e, now.expert - before.expert, now.e2a - before.e2a} {
			low, high = min(low, d), max(high, d)
		}
		if high-low <= steady*now.e2a {
			l.advance(left * high)
			break
		}
	}
	return l.heads()
}

// advance moves everything by the same time.
func (l *timeline) advance(by float64) {
	s := &l.state
	s.attention, s.a2e, s.expert, s.e2a = s.attention+by, s.a2e+by, s.expert+by, s.e2a+by
	for i := range l.back {
		l.back[i] += by
	}
}

// heads appends the output heads and returns the end of everything.
func (l *timeline) heads() float64 {
	end := max(l.state.attention, l.state.e2a)
	at := l.state.attention
	for g := range l.groups {
		if h := l.head[l.column(g)+l.chunks-1]; h > 0 {
			at = max(at, l.back[(g+1)*l.chunks-1]) + h
			end = max(end, at)
		}
	}
	return end
}

// layer runs one layer and returns the least and the most that a piece came
// back later than in the layer before.
func (l *timeline) layer(t int) (low, high float64) {
	cells, s := l.row(t), &l.state
	pending := l.policy == plan.FinDEP && l.order == plan.AASS
	early := l.policy == plan.FinDEP
	low, high = math.Inf(1), math.Inf(-1)
	shared := 0.0
	for g := range l.groups {
		first := l.column(g)
		for j := range l.chunks {
			c, back := &cells[first+j], &l.back[g*l.chunks+j]
			if t == 0 {
				s.attention += l.dense[first+j]
			}
			s.attention = max(s.attention, *back) + c.Attention
			released := s.attention
			switch {
			case pending:
				shared += c.Shared
			case early:
				s.attention += c.Shared
			default:
				s.attention += c.Shared
				released = s.attention
			}
			before := *back
			*back = s.segments(c, released)
			low, high = min(low, *back-before), max(high, *back-before)
		}
	}
	s.attention += shared
	return low, high
}
