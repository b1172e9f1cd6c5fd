// SPDX-License-Identifier: Apache-2.0

package executor

import (
	"fmt"

	"github.com/findep/findep-operator/runtime/backend"
	"github.com/findep/findep-operator/runtime/model"
	"github.com/findep/findep-operator/runtime/schedule"
	"github.com/findep/findep-operator/runtime/weights"
)

// compute runs one task of the AttentionCompute stream and returns when the
// device has finished it, so that its measured time is its own and other
// workers may read its results.
func (a *AttentionRank) compute(t *schedule.Task) error {
	b := &a.batches[t.MicroBatch]
	if t.Kind == schedule.Shared {
		if b.tokens() == 0 {
			return nil
		}
		layer := &a.config.Weights.Layers[a.shape.DenseLayers+int(t.Layer)]
		return a.synchronized(a.gated(a.hiddenOf(b), a.normedOf(b), layer))
	}
	if t.Layer == 0 {
		if err := a.synchronized(a.dense(b)); err != nil {
			return fmt.Errorf("embedding and dense layers: %w", err)
		}
		a.lanes[0].record(Dense, 0, int(t.MicroBatch), 0)
	} else if err := a.combine(b); err != nil {
		return fmt.Errorf("combining layer %d: %w", t.Layer-1, err)
	}
	return a.attention(b, a.shape.DenseLayers+int(t.Layer))
}

func (a *AttentionRank) synchronized(err error) error {
	if err != nil {
		return err
	}
	return a.computeStream().Synchronize()
}

func (a *AttentionRank) hiddenOf(b *batch) backend.Matrix { return a.memory.hidden.view(b.from, b.to) }
func (a *AttentionRank) normedOf(b *batch) backend.Matrix { return a.memory.normed.view(b.from, b.to) }

// dense embeds the tokens and runs the layers before the pipeline.
func (a *AttentionRank) dense(b *batch) error {
	if b.tokens() == 0 {
		return nil
	}
	h, x := a.hiddenOf(b), a.normedOf(b)
	if err := a.computeStream().Embed(h, a.config.Weights.Embedding, b.ids); err != nil {
		return err
	}
	for i := range a.shape.DenseLayers {
		if err := a.attend(b, i); err != nil {
			return fmt.Errorf("layer %d: %w", i, err)
		}
		if err := a.gated(h, x, &a.config.Weights.Layers[i]); err != nil {
			return fmt.Errorf("layer %d: MLP: %w", i, err)
		}
	}
	return nil
}

// attention runs attention, router and packing of a MoE layer.
func (a *AttentionRank) attention(b *batch, layer int) error {
	if b.tokens() > 0 {
		if err := a.attend(b, layer); err != nil {
			return err
		}
		if err := a.route(b, &a.config.Weights.Layers[layer]); err != nil {
			return err
		}
	}
	for j := range b.segments {
		if err := a.dispatch(b, &b.segments[j]); err != nil {
			return fmt.Errorf("packing segment %d: %w", j, err)
		}
	}
	if err := a.computeStream().Synchronize(); err != nil {
		return err
	}
	for _, s := range b.segments {
		if s.from == s.to {
			clear(s.starts)
		} else if err := a.memory.rowStart.pull(a.computeStream(), s.rowStart, s.rowStart+len(s.starts)); err != nil {
			return err
		}
	}
	return nil
}

// attend adds attention to the residual stream and leaves the MLP's input in
// normed.
func (a *AttentionRank) attend(b *batch, layer int) error {
	h, x, w := a.hiddenOf(b), a.normedOf(b), &a.config.Weights.Layers[layer]
	stream, eps := a.computeStream(), float32(a.shape.RMSNormEpsilon)
	if err := stream.RMSNorm(x, h, w.InputNorm, eps); err != nil {
		return err
	}
	mechanism := a.gqa
	if a.shape.Attention.Kind == model.MLA {
		mechanism = a.mla
	}
	out, err := mechanism(b, x, layer)
	if err != nil {
		return fmt.Errorf("attention: %w", err)
	}
	if err := stream.MatMul(h, out, w.O, true); err != nil {
		return fmt.Errorf("output projection: %w", err)
	}
	return stream.RMSNorm(x, h, w.PostNorm, eps)
}

// mla is multi-head latent attention in the absorbed form (DeepSeek-V2, arXiv
// 2405.04434, section 2.1.2): queries are taken into the latent space with the
// key half of kv_b, attend to the cached latents as one shared head, and the
// result is taken out with the value half. Returns [n, n_h*d_v].
func (a *AttentionRank) mla(b *batch, x backend.Matrix, layer int) (backend.Matrix, error) {
	w, at, n := &a.config.Weights.Layers[layer], a.shape.Attention, b.tokens()
	latent, rope, nope := at.KVLoRARank, at.QKRopeHeadDim, at.QKNopeHeadDim
	width := latent + rope
	q, err := a.queries(x, w, n)
	if err != nil {
		return q, err
	}
	if err := a.cacheLatents(b, x, layer); err != nil {
		return q, err
	}
	absorbed, err := a.memory.take(1, n, at.Heads*width)
	if err != nil {
		return q, err
	}
	ops := a.computeStream()
	// The rotated parts move to the end of each absorbed head; rows of these
	// views are heads.
	heads := n * at.Heads
	from := reshape(q, nope+rope).ColRange(nope, nope+rope)
	to := reshape(absorbed, width).ColRange(latent, width)
	if err := ops.GatherRows(to, from, a.memory.iota.view(0, heads)); err != nil {
		return q, err
	}
	rotation := backend.RopeArgs{Heads: at.Heads, HeadStride: width, Offset: latent, Dim: rope, Interleaved: a.shape.Rope.Interleaved}
	if err := ops.Rope(absorbed, b.positions, a.memory.rope, rotation); err != nil {
		return q, err
	}
	key := backend.HeadMatMulArgs{Heads: at.Heads, In: nope, Out: latent, XStride: nope + rope, OutStride: width, WStride: nope + at.VHeadDim}
	if err := ops.HeadMatMul(absorbed, q, w.KVB, key); err != nil {
		return q, err
	}
	mixed, err := a.memory.take(2, n, at.Heads*latent)
	if err != nil {
		return q, err
	}
	if err := ops.Attention(mixed, absorbed, a.cache.Keys(layer), a.cache.Values(layer), a.attentionArgs(b, 1, width, latent)); err != nil {
		return q, err
	}
	// The query is not needed any more; its memory takes the result.
	out, err := a.memory.take(0, n, at.Heads*at.VHeadDim)
	if err != nil {
		return out, err
	}
	value := backend.HeadMatMulArgs{Heads: at.Heads, In: latent, Out: at.VHeadDim, XStride: latent, OutStride: at.VHeadDim, WStride: nope + at.VHeadDim, Transposed: true}
	return out, ops.HeadMatMul(out, mixed, w.KVB.RowRange(nope, w.KVB.Rows), value)
}

// latentNormEpsilon is that of the norms of the query and the key-value latent.
// DeepSeek's published code and transformers build these two norms without the
// config's rms_norm_eps, so they keep the default.
const latentNormEpsilon = 1e-6

// queries returns [n, n_h*d_k], through the query latent if there is one.
func (a *AttentionRank) queries(x backend.Matrix, w *weights.AttentionLayer, n int) (backend.Matrix, error) {
	at := a.shape.Attention
	q, err := a.memory.take(0, n, at.Heads*at.KeyDim())
	if err != nil {
		return q, err
	}
	if at.QLoRARank == 0 {
		return q, a.computeStream().MatMul(q, x, w.Q, false)
	}
	latent, err := a.memory.take(1, n, at.QLoRARank)
	if err != nil {
		return q, err
	}
	if err := a.computeStream().MatMul(latent, x, w.QA, false); err != nil {
		return q, err
	}
	if err := a.computeStream().RMSNorm(latent, latent, w.QANorm, latentNormEpsilon); err != nil {
		return q, err
	}
	return q, a.computeStream().MatMul(q, latent, w.QB, false)
}

// cacheLatents writes [c_kv ; k_pe] of the new tokens to the cache.
func (a *AttentionRank) cacheLatents(b *batch, x backend.Matrix, layer int) error {
	w, at := &a.config.Weights.Layers[layer], a.shape.Attention
	kv, err := a.memory.take(3, b.tokens(), at.KVLoRARank+at.QKRopeHeadDim)
	if err != nil {
		return err
	}
	ops := a.computeStream()
	if err := ops.MatMul(kv, x, w.KVA, false); err != nil {
		return err
	}
	latent := kv.ColRange(0, at.KVLoRARank)
	if err := ops.RMSNorm(latent, latent, w.KVANorm, latentNormEpsilon); err != nil {
		return err
	}
	rotation := backend.RopeArgs{Heads: 1, HeadStride: kv.Cols, Offset: at.KVLoRARank, Dim: at.QKRopeHeadDim, Interleaved: a.shape.Rope.Interleaved}
	if err := ops.Rope(kv, b.positions, a.memory.rope, rotation); err != nil {
		return err
	}
	return ops.ScatterRows(a.cache.Keys(layer), kv, b.slots)
}

// gqa is grouped-query attention with a norm on each query and key head
// (Qwen3). Returns [n, n_h*d].
func (a *AttentionRank) gqa(b *batch, x backend.Matrix, layer int) (backend.Matrix, error) {
	w, at, n := &a.config.Weights.Layers[layer], a.shape.Attention, b.tokens()
	q, err := a.rotatedHeads(b, 0, x, w.Q, w.QNorm, at.Heads)
	if err != nil {
		return q, err
	}
	k, err := a.rotatedHeads(b, 1, x, w.K, w.KNorm, at.KVHeads)
	if err != nil {
		return k, err
	}
	v, err := a.memory.take(2, n, at.KVHeads*at.HeadDim)
	if err != nil {
		return v, err
	}
	ops := a.computeStream()
	if err := ops.MatMul(v, x, w.V, false); err != nil {
		return v, err
	}
	if err := ops.ScatterRows(a.cache.Keys(layer), k, b.slots); err != nil {
		return k, err
	}
	if err := ops.ScatterRows(a.cache.Values(layer), v, b.slots); err != nil {
		return v, err
	}
	out, err := a.memory.take(3, n, at.Heads*at.HeadDim)
	if err != nil {
		return out, err
	}
	return out, ops.Attention(out, q, a.cache.Keys(layer), a.cache.Values(layer), a.attentionArgs(b, at.KVHeads, at.HeadDim, at.HeadDim))
}

// rotatedHeads projects x to heads, normalises and rotates each.
func (a *AttentionRank) rotatedHeads(b *batch, scratch int, x, w, norm backend.Matrix, heads int) (backend.Matrix, error) {
	dim, ops := a.shape.Attention.HeadDim, a.computeStream()
	v, err := a.memory.take(scratch, b.tokens(), heads*dim)
	if err != nil {
		return v, err
	}
	if err := ops.MatMul(v, x, w, false); err != nil {
		return v, err
	}
	rows := reshape(v, dim)
	if err := ops.RMSNorm(rows, rows, norm, float32(a.shape.RMSNormEpsilon)); err != nil {
		return v, err
	}
	rotation := backend.RopeArgs{Heads: heads, HeadStride: dim, Dim: dim, Interleaved: a.shape.Rope.Interleaved}
	return v, ops.Rope(v, b.positions, a.memory.rope, rotation)
}

// gated adds the MLP of x to h: a dense layer's or the shared experts'.
func (a *AttentionRank) gated(h, x backend.Matrix, w *weights.AttentionLayer) error {
	width := w.Down.Cols
	both, err := a.memory.take(3, x.Rows, 2*width)
	if err != nil {
		return err
	}
	act, err := a.memory.take(4, x.Rows, width)
	if err != nil {
		return err
	}
	ops := a.computeStream()
	if err := ops.MatMul(both, x, w.GateUp, false); err != nil {
		return err
	}
	if err := ops.SwiGLU(act, both); err != nil {
		return err
	}
	return ops.MatMul(h, act, w.Down, true)
}

// route chooses the experts of every token.
func (a *AttentionRank) route(b *batch, w *weights.AttentionLayer) error {
	logits, err := a.memory.take(3, b.tokens(), a.shape.MoE.Experts)
	if err != nil {
		return err
	}
	if err := a.computeStream().MatMul(logits, a.normedOf(b), w.Router, false); err != nil {
		return fmt.Errorf("router logits: %w", err)
	}
	m := &a.memory
	err = a.computeStream().Router(m.routeWeights.view(b.from, b.to), m.routeExperts.view(b.from, b.to), logits, w.RouterBias, routerArgs(a.shape))
	if err != nil {
		return fmt.Errorf("router: %w", err)
	}
	return nil
}

// dispatch decides which rows of a segment go to which expert rank.
func (a *AttentionRank) dispatch(b *batch, s *segment) error {
	if s.from == s.to {
		return nil
	}
	m, first, last := &a.memory, b.from+s.from, b.from+s.to
	rows, pairs := (s.to-s.from)*a.copies(), (s.to-s.from)*a.shape.MoE.ExpertsPerToken
	return a.computeStream().Dispatch(backend.DispatchArgs{
		Experts: m.routeExperts.view(first, last), Weights: m.routeWeights.view(first, last), ExpertStart: m.expertStart,
		RowStart: m.rowStart.view(s.rowStart, s.rowStart+len(s.starts)), RowToken: m.rowToken.view(s.row, s.row+rows),
		PairStart:  m.pairStart.view(s.pairStart, s.pairStart+rows+1),
		PairExpert: m.pairExpert.view(s.pair, s.pair+pairs), PairWeight: m.pairWeight.view(s.pair, s.pair+pairs),
	})
}

// combine adds the rows that came back for a layer, expert rank by expert rank.
func (a *AttentionRank) combine(b *batch) error {
	for j := range b.segments {
		s := &b.segments[j]
		h := a.memory.hidden.view(b.from+s.from, b.from+s.to)
		for e := range a.links {
			first, last := s.row+int(s.starts[e]), s.row+int(s.starts[e+1])
			if first == last {
				continue
			}
			if err := a.computeStream().CombineRows(h, a.memory.received.view(first, last), a.memory.rowToken.view(first, last)); err != nil {
				return fmt.Errorf("segment %d, rows from rank %d: %w", j, a.links[e].rank, err)
			}
		}
	}
	return nil
}
