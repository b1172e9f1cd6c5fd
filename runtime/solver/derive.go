// SPDX-License-Identifier: Apache-2.0

package solver

import (
	"math"

	"github.com/findep/findep-operator/runtime/model"
	"github.com/findep/findep-operator/runtime/profile"
)

// derivation holds the quantities that stages and memory share, by the names
// of the mathematics.
type derivation struct {
	*Model
	work  *Workload
	split Split
	// sequence is S, context the tokens whose KV is kept per sample.
	sequence, context int
	// local is the number of experts on the fullest expert GPU, ceil(E/eg).
	local float64
	// copies is the number of rows sent per token over all expert GPUs.
	copies float64
	// kappa is ag*top_k*S/E.
	kappa float64
	// weightBytes and bytes are the sizes of a weight and of an activation.
	weightBytes, bytes int64
}

func newDerivation(m *Model, w *Workload, split Split) derivation {
	moe := m.shape.MoE
	d := derivation{Model: m, work: w, split: split, sequence: w.tokens()}
	d.context = w.PrefixTokens + d.sequence
	if w.ContextTokens > 0 {
		d.context = w.ContextTokens
	}
	d.local = float64(ceilDiv(moe.Experts, split.Expert))
	d.kappa = float64(split.Attention) * float64(moe.ExpertsPerToken) * float64(d.sequence) / float64(moe.Experts)
	d.copies = float64(moe.ExpertsPerToken)
	if !m.options.ReplicatedTransfers {
		d.copies = float64(split.Expert) * hitProbability(moe.Experts, int(d.local), moe.ExpertsPerToken)
	}
	dtype := m.options.DType
	if dtype == "" {
		dtype = m.shape.DType
	}
	d.weightBytes, d.bytes = dtype.Bytes(), dtype.Bytes()
	if dtype == model.Float8 {
		d.bytes = model.BFloat16.Bytes()
	}
	return d
}

// hitProbability is the chance that a token with top_k experts out of E, all
// equally likely, uses at least one of `local` given ones:
// 1 - C(E-local, k)/C(E, k).
func hitProbability(experts, local, topK int) float64 {
	miss := 1.0
	for i := range topK {
		miss *= float64(max(0, experts-local-i)) / float64(experts-i)
	}
	return 1 - miss
}

// stages returns the linear models of one MoE layer, in milliseconds.
func (d *derivation) stages() Stages {
	shape, s := d.shape, float64(d.sequence)
	m, h := float64(shape.HiddenSize), float64(shape.MoE.IntermediateSize)
	ag, eg := d.profiles.Attention, d.profiles.Expert
	st := Stages{Attention: d.attention()}
	// Router, top-k and packing precede the transfer.
	st.Attention.Alpha += ag.GEMM.AlphaMilliseconds()
	st.Attention.Beta += s * m * float64(shape.MoE.Experts) * ag.GEMM.MillisecondsPerMAC()
	if n := float64(shape.MoE.SharedExperts); n > 0 {
		st.Shared = d.mlp(n * h)
	}
	st.Expert = Affine{
		Alpha: 3 * eg.GroupedGEMM.AlphaMilliseconds(),
		Beta:  3 * d.local * m * h * eg.GroupedGEMM.MillisecondsPerMAC(),
	}
	st.A2E = d.link()
	st.E2A = st.A2E
	return st
}

// attention is norms, projections and attention core of one layer, without the
// router. In decode the weights are read for every micro-batch, and the core is
// bound by reading the cache or by the absorbed form's work. In prefill every
// token attends to the prefix, itself and the tokens before it: of the tokens
// [u, v), as fractions of S, that is
//
//	(v-u)*S*(prefix + 1/2) + (v^2-u^2)*S^2/2
//
// pairs.
func (d *derivation) attention() AttentionTime {
	p, s := d.profiles.Attention, float64(d.sequence)
	a := AttentionTime{
		Alpha: d.launches*p.GEMM.AlphaMilliseconds() + p.Attention.AlphaMilliseconds(),
		Beta:  s * d.macs * p.GEMM.MillisecondsPerMAC(),
	}
	if d.work.Phase == Decode {
		core := p.Decode()
		a.Alpha += core.AlphaMilliseconds() - p.Attention.AlphaMilliseconds()
		perToken := max(
			float64(d.shape.AbsorbedMACsPerPair())*core.MillisecondsPerMAC(),
			float64(d.shape.KVElementsPerTokenLayer()*d.bytes)*p.Memory.MillisecondsPerByte())
		a.Alpha += d.macs * float64(d.weightBytes) * p.Memory.MillisecondsPerByte()
		a.Beta += float64(d.context) * perToken
		return a
	}
	perPair := float64(d.shape.AttentionMACsPerPair()) * p.Attention.MillisecondsPerMAC()
	a.Beta += s * (float64(d.work.PrefixTokens) + 0.5) * perPair
	a.Quadratic = s * s / 2 * perPair
	return a
}

// mlp is a gated MLP of the given width on an attention GPU: three products.
func (d *derivation) mlp(width float64) Affine {
	p := d.profiles.Attention
	macs := 3 * float64(d.shape.HiddenSize) * width
	a := Affine{Alpha: 3 * p.GEMM.AlphaMilliseconds(), Beta: float64(d.sequence) * macs * p.GEMM.MillisecondsPerMAC()}
	if d.work.Phase == Decode {
		a.Alpha += macs * float64(d.weightBytes) * p.Memory.MillisecondsPerByte()
	}
	return a
}

// link is one transfer of a segment, per token and expert. A segment of m_e
// tokens per expert comes from m_e*E/top_k tokens, each sent `copies` times;
// the busier side is the smaller group, which shares the rows among fewer GPUs.
func (d *derivation) link() Affine {
	moe := d.shape.MoE
	l, other := d.profiles.Attention.Link, d.profiles.Expert.Link
	// A hot expert GPU receives more than its share.
	busiest := max(1/float64(d.split.Attention), max(1, d.options.ExpertImbalance)/float64(d.split.Expert))
	rows := float64(moe.Experts) / float64(moe.ExpertsPerToken) * d.copies * busiest
	rowBytes := float64(d.shape.HiddenSize) * float64(d.bytes)
	return Affine{
		Alpha: max(l.AlphaMilliseconds(), other.AlphaMilliseconds()),
		Beta:  rows * rowBytes * max(l.MillisecondsPerByte(), other.MillisecondsPerByte()),
	}
}

// expertBytes are the weights of the local experts of one layer.
func (d *derivation) expertBytes() float64 {
	return d.local * 3 * float64(d.shape.HiddenSize) * float64(d.shape.MoE.IntermediateSize) * float64(d.weightBytes)
}

// expertLoad is the time to read them.
func (d *derivation) expertLoad() float64 {
	return d.expertBytes() * d.profiles.Expert.Memory.MillisecondsPerByte()
}

// dense is the time of the leading dense layers.
func (d *derivation) dense() AttentionTime {
	n := float64(d.shape.DenseLayers)
	if n == 0 {
		return AttentionTime{}
	}
	a, mlp := d.attention(), d.mlp(float64(d.shape.DenseIntermediateSize))
	return AttentionTime{n * (a.Alpha + mlp.Alpha), n * (a.Beta + mlp.Beta), n * a.Quadratic}
}

// head is the time of the output head, which sees the last token of every
// sample.
func (d *derivation) head() Affine {
	p, macs := d.profiles.Attention, float64(d.shape.HiddenSize)*float64(d.shape.VocabSize)
	a := Affine{Alpha: p.GEMM.AlphaMilliseconds(), Beta: macs * p.GEMM.MillisecondsPerMAC()}
	if d.work.Phase == Decode {
		a.Alpha += macs * float64(d.weightBytes) * p.Memory.MillisecondsPerByte()
	}
	return a
}

// LinkBufferBytes is the memory that a rank of the CPU backend keeps for one
// direction of the link to one peer: a ring of shared memory, or about what the
// kernel lets the buffers of a socket grow to. On GPUs the buffers of NCCL depend
// on its settings more than on the split; profiles count them as reserved.
const LinkBufferBytes = 4 << 20

// usable is what a rank may use beside the buffers of the links to its peers,
// which it has two of to each.
func usable(p *profile.Profile, peers int) int64 {
	if p.Device.Backend != profile.BackendCPU {
		return p.UsableBytes()
	}
	return max(0, p.UsableBytes()-2*LinkBufferBytes*int64(peers))
}

// memory is the model of what fits: weights, KV cache and activations of the
// samples in flight and the workspace of one micro-batch on an attention GPU;
// weights and a ring of segments on an expert GPU.
func (d *derivation) memory() Memory {
	shape, s := d.shape, int64(d.sequence)
	counts, m := &d.counts, int64(shape.HiddenSize)
	rows := int64(math.Ceil(d.copies))
	a := AttentionMemory{
		UsableBytes: usable(d.profiles.Attention, d.split.Expert),
		FixedBytes:  counts.AttentionGroup * d.weightBytes,
		// Residual stream, shared experts' output, rows sent and received.
		PerSampleBytes: d.bytes * m * s * (2 + 2*rows),
		WorkspaceBytes: d.bytes * s * d.widestTemporaries(),
	}
	kvToken := shape.KVElementsPerTokenLayer() * int64(shape.Layers) * d.bytes
	a.PerSampleBytes += kvToken * int64(d.context)
	local := int64(d.local)
	buffers := int64(d.options.SegmentBuffers)
	if buffers == 0 {
		buffers = 2
	}
	return Memory{Attention: a, Expert: ExpertMemory{
		UsableBytes: usable(d.profiles.Expert, d.split.Attention),
		FixedBytes:  int64(shape.MoELayers()) * local * counts.Expert * d.weightBytes,
		// Received rows, results, gate and up activations.
		PerTokenBytes: buffers * d.bytes * local * 2 * (m + int64(shape.MoE.IntermediateSize)),
	}}
}

// widestTemporaries is the number of elements per token that are alive at once
// in the widest part of a layer: queries, keys and values, or gate and up of a
// dense or shared MLP.
func (d *derivation) widestTemporaries() int64 {
	a, moe := d.shape.Attention, d.shape.MoE
	qkv := int64(a.Heads)*int64(a.KeyDim()) + int64(a.KVHeads)*int64(a.KeyDim()+a.ValueDim())
	return max(qkv, 2*int64(d.shape.DenseIntermediateSize), 2*int64(moe.SharedExperts)*int64(moe.IntermediateSize))
}
