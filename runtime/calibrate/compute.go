// SPDX-License-Identifier: Apache-2.0

package calibrate

import (
	"errors"
	"fmt"
	"time"

	"github.com/findep/findep-operator/runtime/backend"
	"github.com/findep/findep-operator/runtime/kvcache"
	"github.com/findep/findep-operator/runtime/model"
)

// ComputeOptions say what a Bench measures.
type ComputeOptions struct {
	// DType is the type of the weights, F32 or BF16.
	DType backend.DType
	// Threads bounds the host threads of a CPU backend.
	Threads int
	// MaxTokens bounds the rows of one launch.
	MaxTokens int
	// PointTime is how long the largest size of a series may take.
	PointTime time.Duration
	// Now is the clock.
	Now func() time.Time
}

// memoryShare is the part of the device's memory that a Bench may take, as a
// divisor, and maxArenaBytes what it never exceeds. Weights larger than that
// are measured with fewer experts.
const (
	memoryShare   = 4
	maxArenaBytes = int64(4) << 30
)

// Bench runs the kernels of one model's layer on a device. It allocates as its
// methods are called; Close frees everything.
type Bench struct {
	dev     backend.Device
	stream  backend.Stream
	shape   *model.Shape
	options ComputeOptions
	budget  int64
	buffers []backend.Buffer
}

// NewBench opens a stream on the device.
func NewBench(dev backend.Device, shape *model.Shape, o ComputeOptions) (*Bench, error) {
	switch {
	case o.DType != backend.F32 && o.DType != backend.BF16:
		return nil, fmt.Errorf("weights of type %s cannot be calibrated; use F32 or BF16", o.DType)
	case !dev.Supports(backend.OpMatMul, o.DType) || !dev.Supports(backend.OpExpertMLP, o.DType):
		return nil, fmt.Errorf("device %s has no matrix products with %s weights", dev.Name(), o.DType)
	case o.MaxTokens < minTokens || o.MaxTokens > maxTokens:
		return nil, fmt.Errorf("max-tokens is %d; need %d to %d", o.MaxTokens, minTokens, maxTokens)
	case o.PointTime <= 0:
		return nil, fmt.Errorf("the time of a point is %v; it must be positive", o.PointTime)
	}
	stream, err := dev.NewStream(o.Threads)
	if err != nil {
		return nil, err
	}
	return &Bench{dev: dev, stream: stream, shape: shape, options: o, budget: min(dev.MemoryBytes()/memoryShare, maxArenaBytes)}, nil
}

// Bounds of the rows of a launch. The least leaves room for sizes that differ.
const (
	minTokens = 16
	maxTokens = 1 << 17
)

// Close frees the memory and the stream.
func (b *Bench) Close() error {
	b.release()
	return b.stream.Close()
}

// release frees the memory of the series before.
func (b *Bench) release() {
	for _, buf := range b.buffers {
		buf.Free()
	}
	b.buffers = nil
}

// matrix allocates rows x cols elements that look like activations or weights:
// of both signs and of many magnitudes, since a GPU that multiplies zeros draws
// less power and runs faster than it ever will again.
func (b *Bench) matrix(dtype backend.DType, rows, cols int) (backend.Matrix, error) {
	m, err := backend.AllocMatrix(b.dev, dtype, rows, cols)
	if err != nil {
		return m, fmt.Errorf("%d x %d %s: %w", rows, cols, dtype, err)
	}
	b.buffers = append(b.buffers, m.Buffer)
	pattern := noise(dtype)
	for at := int64(0); at < m.Buffer.Size(); at += int64(len(pattern)) {
		n := min(int64(len(pattern)), m.Buffer.Size()-at)
		if err := b.stream.CopyIn(m.Buffer, at, pattern[:n]); err != nil {
			return m, err
		}
	}
	return m, b.stream.Synchronize()
}

// ints allocates a column of integers.
func (b *Bench) ints(values []int32) (backend.Matrix, error) {
	return b.intTable(values, 1)
}

// intTable allocates rows of cols integers.
func (b *Bench) intTable(values []int32, cols int) (backend.Matrix, error) {
	m, err := backend.AllocMatrix(b.dev, backend.I32, len(values)/cols, cols)
	if err != nil {
		return m, err
	}
	b.buffers = append(b.buffers, m.Buffer)
	return m, backend.WriteInt32s(b.stream, m, values)
}

// run issues an operation and waits for it.
func (b *Bench) run(issue func() error) func() error {
	return func() error {
		if err := issue(); err != nil {
			return err
		}
		return b.stream.Synchronize()
	}
}

// GEMM are the projections of an attention layer one after the other, at
// several numbers of tokens. Their launches share one line in the planner, and
// narrow matrices are less efficient than wide ones, so it is their mean that
// is right for a layer.
func (b *Bench) GEMM() ([]Work, error) {
	b.release()
	matrices := b.shape.AttentionMatrices()
	in, out, macs := 0, 0, int64(0)
	for _, m := range matrices {
		in, out, macs = max(in, m.In), max(out, m.Out), macs+m.MACs()
	}
	if bytes := macs * int64(b.options.DType.Size()); bytes > b.budget/2 {
		return nil, fmt.Errorf("the projections of a layer have %d bytes of weights, more than an eighth of the device's %d", bytes, b.dev.MemoryBytes())
	}
	tokens := min(b.options.MaxTokens, int(b.budget/8/int64(in+out)))
	x, err := b.matrix(backend.F32, tokens, in)
	if err != nil {
		return nil, err
	}
	y, err := b.matrix(backend.F32, tokens, out)
	if err != nil {
		return nil, err
	}
	weights := make([]backend.Matrix, len(matrices))
	for i, m := range matrices {
		if weights[i], err = b.matrix(b.options.DType, m.Out, m.In); err != nil {
			return nil, err
		}
	}
	return b.series(tokens, func(n int) (Work, error) {
		return Work{
			What:     fmt.Sprintf("%d tokens through the projections of a layer", n),
			Amount:   float64(n) * float64(macs) / float64(len(matrices)) / 1e9,
			Launches: len(matrices),
			Run: b.run(func() error {
				for i, m := range matrices {
					if err := b.stream.MatMul(view(y, n, m.Out), view(x, n, m.In), weights[i], false); err != nil {
						return err
					}
				}
				return nil
			}),
		}, nil
	})
}

// groupedExperts is the number of experts of the grouped products: few enough
// that a batch of bearable size is bound by computing and not by reading their
// weights, which the planner counts apart.
const groupedExperts = 8

// Grouped is one launch of the routed experts' MLP, three products, at several
// numbers of tokens per expert.
func (b *Bench) Grouped() ([]Work, error) {
	b.release()
	m, h := b.shape.HiddenSize, b.shape.MoE.IntermediateSize
	expertBytes := 3 * int64(m) * int64(h) * int64(b.options.DType.Size())
	experts := int(min(groupedExperts, int64(b.shape.MoE.Experts), b.budget/2/expertBytes))
	if experts == 0 {
		return nil, fmt.Errorf("one expert has %d bytes of weights, the device %d in all", expertBytes, b.dev.MemoryBytes())
	}
	rowBytes := 4 * int64(experts) * int64(4*m+3*h)
	tokens := int(min(int64(b.options.MaxTokens), b.budget/4/rowBytes))
	if tokens < minTokens {
		return nil, fmt.Errorf("a batch of %d tokens for each of %d experts exceeds a quarter of the device's %d bytes", minTokens, experts, b.dev.MemoryBytes())
	}
	rows := tokens * experts
	var x, y, scratch, up, down backend.Matrix
	var err error
	for _, a := range []struct {
		to         *backend.Matrix
		dtype      backend.DType
		rows, cols int
	}{
		{&x, backend.F32, rows, m},
		{&y, backend.F32, rows, m},
		{&scratch, backend.F32, rows, 3*h + 2*m},
		{&up, b.options.DType, experts * 2 * h, m},
		{&down, b.options.DType, experts * m, h},
	} {
		if *a.to, err = b.matrix(a.dtype, a.rows, a.cols); err != nil {
			return nil, err
		}
	}
	size := func(n int) (Work, error) {
		groups, err := b.groups(n, experts)
		if err != nil {
			return Work{}, err
		}
		groups.Experts, groups.Hidden, groups.GateUp, groups.Down = experts, h, up, down
		groups.Workspace = view(scratch, n*experts, scratch.Cols)
		in, out := view(x, n*experts, m), view(y, n*experts, m)
		return Work{
			What:   fmt.Sprintf("%d tokens for each of %d experts, 3 x %d x %d", n, experts, m, h),
			Amount: float64(n*experts) * float64(m) * float64(h) / 1e9, Launches: 3,
			Run: b.run(func() error { return b.stream.ExpertMLP(out, in, groups) }),
		}, nil
	}
	return b.series(tokens, size)
}

// groups gives n rows of their own to each expert.
func (b *Bench) groups(n, experts int) (backend.ExpertMLPArgs, error) {
	starts, rows, gates := make([]int32, experts+1), make([]int32, n*experts), make([]float32, n*experts)
	for e := range experts + 1 {
		starts[e] = int32(e * n)
	}
	for i := range rows {
		rows[i], gates[i] = int32(i), 1
	}
	var a backend.ExpertMLPArgs
	var err error
	if a.GroupStart, err = b.ints(starts); err != nil {
		return a, err
	}
	if a.GroupRow, err = b.ints(rows); err != nil {
		return a, err
	}
	if a.GroupWeight, err = b.matrix(backend.F32, n*experts, 1); err != nil {
		return a, err
	}
	return a, backend.WriteFloat32s(b.stream, a.GroupWeight, gates)
}

// Prefill is the attention core over a prompt without a cached prefix. Work is
// counted as the planner counts it, n_h*(d_k+d_v) for each pair of a query and
// a key before it, whatever form the kernel uses.
func (b *Bench) Prefill() ([]Work, error) {
	core, err := b.newCore(1)
	if err != nil {
		return nil, err
	}
	return b.series(core.tokens, func(n int) (Work, error) {
		run, err := core.piece(1, n, n)
		pairs := float64(n) * float64(n+1) / 2
		return Work{
			What:   fmt.Sprintf("a prompt of %d tokens", n),
			Amount: pairs * float64(b.shape.AttentionMACsPerPair()) / 1e9, Run: run,
		}, err
	})
}

// decodePieces is the number of sequences of a decode step.
const decodePieces = 8

// Decode is the attention core of one new token of several sequences. Work is
// counted in the absorbed form where the model has one.
func (b *Bench) Decode() ([]Work, error) {
	core, err := b.newCore(decodePieces)
	if err != nil {
		return nil, err
	}
	return b.series(core.tokens, func(n int) (Work, error) {
		run, err := core.piece(decodePieces, 1, n)
		return Work{
			What:   fmt.Sprintf("%d sequences with %d tokens cached", decodePieces, n),
			Amount: decodePieces * float64(n) * float64(b.shape.AbsorbedMACsPerPair()) / 1e9, Run: run,
		}, err
	})
}

// core is a cache with queries on it.
type core struct {
	bench           *Bench
	args            backend.AttentionArgs
	q, out          backend.Matrix
	keys, values    backend.Matrix
	tokens          int
	blocksPerPieces int
}

// newCore makes a cache for sequences of equal length, the longest that fits.
func (b *Bench) newCore(sequences int) (*core, error) {
	b.release()
	a := b.shape.Attention
	c := &core{bench: b, args: backend.AttentionArgs{
		Heads: a.Heads, KVHeads: a.KVHeads, KeyDim: a.KeyDim(), ValueDim: a.ValueDim(),
		Scale: float32(b.shape.SoftmaxScale()), BlockSize: kvcache.BlockTokens,
	}}
	if a.Kind == model.MLA {
		c.args.KVHeads, c.args.KeyDim, c.args.ValueDim = 1, a.KVLoRARank+a.QKRopeHeadDim, a.KVLoRARank
	}
	width := c.args.KVHeads * (c.args.KeyDim + c.args.ValueDim)
	if sequences == 1 {
		width += c.args.Heads * (c.args.KeyDim + c.args.ValueDim)
	}
	c.tokens = int(min(int64(b.options.MaxTokens), b.budget/4/int64(width*sequences))) / kvcache.BlockTokens * kvcache.BlockTokens
	if c.tokens < minTokens {
		return nil, fmt.Errorf("%d tokens of %d sequences exceed a quarter of the device's %d bytes", minTokens, sequences, b.dev.MemoryBytes())
	}
	c.blocksPerPieces = c.tokens / kvcache.BlockTokens
	queries, slots := c.tokens, c.tokens*sequences
	if sequences > 1 {
		queries = sequences
	}
	var err error
	if c.q, err = b.matrix(backend.F32, queries, c.args.Heads*c.args.KeyDim); err != nil {
		return nil, err
	}
	if c.out, err = b.matrix(backend.F32, queries, c.args.Heads*c.args.ValueDim); err != nil {
		return nil, err
	}
	if c.keys, err = b.matrix(backend.F32, slots, c.args.KVHeads*c.args.KeyDim); err != nil {
		return nil, err
	}
	if a.Kind == model.MLA {
		c.values = c.keys.ColRange(0, c.args.ValueDim)
		return c, nil
	}
	c.values, err = b.matrix(backend.F32, slots, c.args.KVHeads*c.args.ValueDim)
	return c, err
}

// piece attends with `fresh` queries of each of n sequences of `context` tokens.
func (c *core) piece(n, fresh, context int) (func() error, error) {
	b, args := c.bench, c.args
	starts, lengths := make([]int32, n+1), make([]int32, n)
	table := make([]int32, n*c.blocksPerPieces)
	for i := range n {
		starts[i+1], lengths[i] = int32((i+1)*fresh), int32(context)
	}
	for i := range table {
		table[i] = int32(i)
	}
	var err error
	if args.QueryStart, err = b.ints(starts); err != nil {
		return nil, err
	}
	if args.ContextLength, err = b.ints(lengths); err != nil {
		return nil, err
	}
	if args.BlockTable, err = b.intTable(table, c.blocksPerPieces); err != nil {
		return nil, err
	}
	q, out := c.q.RowRange(0, n*fresh), c.out.RowRange(0, n*fresh)
	return b.run(func() error { return b.stream.Attention(out, q, c.keys, c.values, args) }), nil
}

// arenaBytes is the weight memory that is read in turn, well beyond the last
// level of caches.
const arenaBytes = int64(256) << 20

// ReadMemory is one token's product with weights that no cache holds: what a
// decode step pays for reading them.
func (b *Bench) ReadMemory() ([]Work, error) {
	b.release()
	in, elements := b.shape.HiddenSize, min(arenaBytes, b.budget/2)/int64(b.options.DType.Size())
	rows := int(elements / int64(in))
	if rows < minTokens {
		return nil, errors.New("the device has too little memory to measure reading it")
	}
	x, err := b.matrix(backend.F32, 1, in)
	if err != nil {
		return nil, err
	}
	weights, err := b.matrix(b.options.DType, rows, in)
	if err != nil {
		return nil, err
	}
	y, err := b.matrix(backend.F32, 1, rows)
	if err != nil {
		return nil, err
	}
	next := 0
	size := func(n int) (Work, error) {
		return Work{
			What:   fmt.Sprintf("one token by %d x %d", in, n),
			Amount: float64(n) * float64(in) * float64(b.options.DType.Size()) / 1e6,
			Run: b.run(func() error {
				if next+n > rows {
					next = 0
				}
				from := next
				next += n
				return b.stream.MatMul(y.ColRange(0, n), x, weights.RowRange(from, from+n), false)
			}),
		}, nil
	}
	// An eighth of the arena, so that a window is used again only after seven
	// others went through the caches.
	return b.series(rows/8, size)
}

// view is the first rows x cols elements of a matrix' memory.
func view(m backend.Matrix, rows, cols int) backend.Matrix {
	return backend.FullMatrix(m.Buffer, m.DType, rows, cols)
}
