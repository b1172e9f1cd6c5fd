// SPDX-License-Identifier: Apache-2.0

package executor

import (
	"fmt"

	"github.com/findep/findep-operator/runtime/backend"
	"github.com/findep/findep-operator/runtime/kvcache"
	"github.com/findep/findep-operator/runtime/model"
	"github.com/findep/findep-operator/runtime/schedule"
	"github.com/findep/findep-operator/runtime/weights"
)

// attentionMemory is all device memory of an attention rank but weights and KV
// cache. N is the tokens of the step, in the order of micro-batches; copies is
// min(top_k, eg), the most rows one token can have.
type attentionMemory struct {
	// rope is the table [context, d_rope], expertStart the boundaries of the
	// expert ranks [eg+1, 1], iota the numbers 0, 1, 2, ...
	rope, expertStart backend.Matrix
	iota              *array

	// hidden is the residual stream and normed the input of router and
	// experts, both [N, M].
	hidden, normed *array
	// routeWeights and routeExperts are [N, top_k].
	routeWeights, routeExperts *array
	// Packing per segment, see backend.DispatchArgs: rowStart has eg+1 elements
	// per segment, rowToken copies*tokens, pairStart one more than that,
	// pairExpert and pairWeight top_k*tokens.
	rowStart, rowToken, pairStart, pairExpert, pairWeight *array
	// packed holds the rows of one segment while they are sent, received the
	// rows that came back, [N*copies, M].
	packed, received *array
	// meta holds the I32 arguments of all micro-batches.
	meta *array

	// Scratch of the compute worker, as many rows as the largest micro-batch.
	scratch [5]*array
	// headRows [headBlock, M] and logits [headBlock, V] are scratch of the head.
	headRows, logits *array

	arrays  []*array
	buffers []backend.Buffer
	host    []int32 // the content of meta
}

// headBlock is the number of rows whose logits are computed at a time; it
// bounds the memory that a long prompt with all logits needs.
const headBlock = 64

func (m *attentionMemory) init(c *AttentionConfig, stream backend.Stream) error {
	s := c.Shape
	add := func(dtype backend.DType, cols int) *array {
		a := newArray(c.Device, dtype, cols)
		m.arrays = append(m.arrays, a)
		return a
	}
	m.hidden, m.normed = add(backend.F32, s.HiddenSize), add(backend.F32, s.HiddenSize)
	m.routeWeights, m.routeExperts = add(backend.F32, s.MoE.ExpertsPerToken), add(backend.I32, s.MoE.ExpertsPerToken)
	for _, a := range []**array{&m.iota, &m.rowStart, &m.rowToken, &m.pairStart, &m.pairExpert, &m.meta} {
		*a = add(backend.I32, 1)
	}
	m.pairWeight = add(backend.F32, 1)
	m.packed, m.received = add(backend.F32, s.HiddenSize), add(backend.F32, s.HiddenSize)
	for i := range m.scratch {
		m.scratch[i] = add(backend.F32, 1)
	}
	m.headRows, m.logits = add(backend.F32, s.HiddenSize), add(backend.F32, s.VocabSize)
	return m.constants(c, stream)
}

func (m *attentionMemory) constants(c *AttentionConfig, stream backend.Stream) error {
	dim := c.Shape.Attention.RopeDim()
	rope, err := m.alloc(c.Device, backend.F32, c.MaxContextTokens, dim)
	if err != nil {
		return fmt.Errorf("rope table of %d positions: %w", c.MaxContextTokens, err)
	}
	m.rope = rope
	if err := backend.WriteFloat32s(stream, rope, ropeTable(c.Shape.Rope, dim, c.MaxContextTokens)); err != nil {
		return err
	}
	starts := []int32{0}
	for e := range c.ExpertRanks {
		_, last := weights.ExpertRange(c.Shape.MoE.Experts, c.ExpertRanks, e)
		starts = append(starts, int32(last))
	}
	if m.expertStart, err = m.alloc(c.Device, backend.I32, len(starts), 1); err != nil {
		return err
	}
	return backend.WriteInt32s(stream, m.expertStart, starts)
}

func (m *attentionMemory) alloc(dev backend.Device, dtype backend.DType, rows, cols int) (backend.Matrix, error) {
	matrix, err := backend.AllocMatrix(dev, dtype, rows, cols)
	if err == nil {
		m.buffers = append(m.buffers, matrix.Buffer)
	}
	return matrix, err
}

func (m *attentionMemory) free() {
	for _, a := range m.arrays {
		a.free()
	}
	for _, b := range m.buffers {
		b.Free()
	}
	m.arrays, m.buffers = nil, nil
}

// take returns scratch number i as [rows, cols].
func (m *attentionMemory) take(i, rows, cols int) (backend.Matrix, error) {
	v, err := m.scratch[i].rows(rows * cols)
	return reshape(v, cols), err
}

// batch is one micro-batch of the current step.
type batch struct {
	slices MicroBatch
	// from and to are its tokens among the rank's N.
	from, to int
	segments []segment
	// Arguments of kernels, views of meta.
	ids, positions, slots           backend.Matrix
	queryStart, context, blockTable backend.Matrix
	// headRows are the rows, counted within the micro-batch, whose logits are
	// wanted, and headTargets where they go.
	headRows    backend.Matrix
	headTargets []headTarget
}

func (b *batch) tokens() int { return b.to - b.from }

// headTarget is where the logits of one row go.
type headTarget struct {
	output int
	// keep is the row of the output's Logits, or -1.
	keep int
	// sample tells that the token after this row is to be sampled.
	sample bool
}

// segment is a token range of a micro-batch with the places of its packing.
type segment struct {
	// from and to are tokens within the micro-batch.
	from, to int
	// rowStart, row, pairStart and pair are first places in the arrays of the
	// same names; row also counts in received.
	rowStart, row, pairStart, pair int
	// starts is the host's view of rowStart: rows [starts[e], starts[e+1]) go
	// to expert rank e.
	starts []int32
}

// layOut cuts the step into micro-batches and segments, reserves memory, and
// copies the kernels' arguments to the device.
func (a *AttentionRank) layOut(step *Step) error {
	a.outputs = make([]Output, len(a.pieces))
	for i := range a.outputs {
		a.outputs[i].Sequence = a.pieces[i].Sequence
	}
	parts := Partition(a.pieces, step.Plan)
	if cap(a.batches) < len(parts) {
		a.batches = append(a.batches[:cap(a.batches)], make([]batch, len(parts)-cap(a.batches))...)
	}
	a.batches = a.batches[:len(parts)]
	at, largest := 0, 0
	for i := range a.batches {
		b := &a.batches[i]
		b.slices, b.from = parts[i], at
		at += parts[i].Tokens()
		b.to = at
		largest = max(largest, b.tokens())
	}
	if err := a.reserveStep(at, largest, len(parts)*a.schedule.Segments); err != nil {
		return err
	}
	for i := range a.batches {
		a.segments(i)
	}
	return a.arguments()
}

func (a *AttentionRank) copies() int { return min(a.shape.MoE.ExpertsPerToken, a.config.ExpertRanks) }

// reserveStep reserves the arrays for n tokens in all, largest in one
// micro-batch, and the given number of segments.
func (a *AttentionRank) reserveStep(n, largest, segments int) error {
	m, topK, copies := &a.memory, a.shape.MoE.ExpertsPerToken, a.copies()
	for _, r := range []struct {
		array *array
		rows  int
	}{
		{m.hidden, n}, {m.normed, n}, {m.routeWeights, n}, {m.routeExperts, n},
		{m.rowStart, segments * (a.config.ExpertRanks + 1)}, {m.rowToken, n * copies},
		{m.pairStart, n*copies + segments}, {m.pairExpert, n * topK}, {m.pairWeight, n * topK},
		{m.received, n * copies},
	} {
		if _, err := r.array.rows(r.rows); err != nil {
			return err
		}
	}
	// Scratch is reserved here and not where it is used, because growing frees
	// memory that operations in flight may still need.
	for i, width := range a.scratchWidths() {
		if _, err := m.take(i, largest, width); err != nil {
			return err
		}
	}
	return a.reserveIota(largest * a.shape.Attention.Heads)
}

// scratchWidths is the most columns each scratch matrix is used with.
func (a *AttentionRank) scratchWidths() [5]int {
	at, s := a.shape.Attention, a.shape
	mlp := s.MoE.SharedExperts * s.MoE.IntermediateSize
	if s.DenseLayers > 0 {
		mlp = max(mlp, s.DenseIntermediateSize)
	}
	latent := at.KVLoRARank + at.QKRopeHeadDim // 0 for GQA
	kv := at.KVHeads * at.HeadDim              // 0 for MLA
	return [5]int{
		at.Heads * max(at.KeyDim(), at.ValueDim()),
		max(at.QLoRARank, at.Heads*latent, kv),
		max(at.Heads*at.KVLoRARank, kv),
		max(latent, at.Heads*at.HeadDim, 2*mlp, s.MoE.Experts),
		max(mlp, 1),
	}
}

// reserveIota fills iota when it grows.
func (a *AttentionRank) reserveIota(n int) error {
	before := a.memory.iota.all.Rows
	if _, err := a.memory.iota.rows(n); err != nil || a.memory.iota.all.Rows == before {
		return err
	}
	numbers := make([]int32, a.memory.iota.all.Rows)
	for i := range numbers {
		numbers[i] = int32(i)
	}
	return backend.WriteInt32s(a.computeStream(), a.memory.iota.all, numbers)
}

// segments fills the segments of micro-batch i.
func (a *AttentionRank) segments(i int) {
	b, r2, eg := &a.batches[i], a.schedule.Segments, a.config.ExpertRanks
	b.segments = b.segments[:0]
	for j := range r2 {
		from, to := schedule.SegmentRange(b.tokens(), r2, j)
		number, first := i*r2+j, b.from+from
		s := segment{
			from: from, to: to,
			rowStart: number * (eg + 1), row: first * a.copies(),
			pairStart: first*a.copies() + number, pair: first * a.shape.MoE.ExpertsPerToken,
		}
		s.starts = ints(a.memory.rowStart.host(s.rowStart, s.rowStart+eg+1))
		b.segments = append(b.segments, s)
	}
}

// arguments fills meta for all micro-batches. Positions in it are noted first
// and become views when its size is known.
func (a *AttentionRank) arguments() error {
	m := &a.memory
	m.host = m.host[:0]
	places := make([][7]int, len(a.batches))
	for i := range a.batches {
		if err := a.batchArguments(&a.batches[i], &places[i]); err != nil {
			return err
		}
	}
	if len(m.host) == 0 {
		return nil
	}
	all, err := m.meta.rows(len(m.host))
	if err != nil {
		return err
	}
	if err := a.computeStream().CopyIn(all.Buffer, 0, bytesOfInts(m.host)); err != nil {
		return err
	}
	for i := range a.batches {
		a.batches[i].views(m.meta, places[i])
	}
	return nil
}

func (a *AttentionRank) batchArguments(b *batch, at *[7]int) error {
	m := &a.memory
	place := func(i int) { at[i] = len(m.host) }
	place(0)
	for _, s := range b.slices {
		m.host = append(m.host, a.pieces[s.Piece].Tokens[s.From:s.To]...)
	}
	place(1)
	for _, s := range b.slices {
		for t := s.From; t < s.To; t++ {
			m.host = append(m.host, int32(a.pieces[s.Piece].Start+t))
		}
	}
	place(2)
	for _, s := range b.slices {
		for t := s.From; t < s.To; t++ {
			slot, err := a.cache.Slot(a.pieces[s.Piece].Sequence, a.pieces[s.Piece].Start+t)
			if err != nil {
				return err
			}
			m.host = append(m.host, slot)
		}
	}
	place(3)
	row := 0
	for _, s := range b.slices {
		m.host = append(m.host, int32(row))
		row += s.To - s.From
	}
	m.host = append(m.host, int32(row))
	place(4)
	widest := 1
	for _, s := range b.slices {
		m.host = append(m.host, int32(a.pieces[s.Piece].Start+s.To))
		widest = max(widest, len(a.cache.Blocks(a.pieces[s.Piece].Sequence)))
	}
	if _, ok := a.mesh.(Pipelined); ok {
		// So that the list, and its graph, stay the same while contexts grow.
		widest = powerOfTwo(widest)
	}
	place(5)
	for _, s := range b.slices {
		blocks := a.cache.Blocks(a.pieces[s.Piece].Sequence)
		m.host = append(m.host, blocks...)
		for range widest - len(blocks) {
			m.host = append(m.host, 0)
		}
	}
	place(6)
	a.headArguments(b)
	return nil
}

// headArguments lists the rows whose logits are wanted.
func (a *AttentionRank) headArguments(b *batch) {
	b.headTargets = b.headTargets[:0]
	row := 0
	for _, s := range b.slices {
		p := &a.pieces[s.Piece]
		for t := s.From; t < s.To; t++ {
			last := t == len(p.Tokens)-1
			if p.Logits == LogitsAll || p.Logits == LogitsLast && last {
				target := headTarget{output: s.Piece, keep: -1, sample: last}
				if p.Logits == LogitsAll {
					target.keep = t
				} else if p.ReturnLogits {
					target.keep = 0
				}
				b.headTargets = append(b.headTargets, target)
				a.memory.host = append(a.memory.host, int32(row))
			}
			row++
		}
	}
}

func (b *batch) views(meta *array, at [7]int) {
	n, pieces := b.tokens(), len(b.slices)
	view := func(i, rows int) backend.Matrix { return meta.view(at[i], at[i]+rows) }
	b.ids, b.positions, b.slots = view(0, n), view(1, n), view(2, n)
	b.queryStart, b.context = view(3, pieces+1), view(4, pieces)
	if pieces > 0 {
		cells := at[6] - at[5]
		b.blockTable = reshape(view(5, cells), cells/pieces)
	}
	b.headRows = view(6, len(b.headTargets))
}

// attentionArgs is the part of the kernel's arguments that micro-batch and
// model give.
func (a *AttentionRank) attentionArgs(b *batch, kvHeads, keyDim, valueDim int) backend.AttentionArgs {
	return backend.AttentionArgs{
		Heads: a.shape.Attention.Heads, KVHeads: kvHeads, KeyDim: keyDim, ValueDim: valueDim,
		Scale: float32(a.shape.SoftmaxScale()), BlockSize: kvcache.BlockTokens,
		QueryStart: b.queryStart, ContextLength: b.context, BlockTable: b.blockTable,
	}
}

// routerArgs translates the model's routing.
func routerArgs(s *model.Shape) backend.RouterArgs {
	r := backend.RouterArgs{
		Experts: s.MoE.Experts, TopK: s.MoE.ExpertsPerToken,
		Groups: s.Routing.Groups, TopKGroups: s.Routing.TopKGroups,
		GroupTop2: s.Routing.Method == model.NoAuxTC,
		Normalize: s.Routing.NormalizeTopK, Scale: float32(s.Routing.ScalingFactor),
	}
	if s.Routing.Scoring == model.Sigmoid {
		r.Scoring = backend.Sigmoid
	}
	return r
}
