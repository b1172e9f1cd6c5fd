// SPDX-License-Identifier: Apache-2.0

package solver

import (
	"fmt"
	"math"

	"github.com/findep/findep-operator/runtime/model"
	"github.com/findep/findep-operator/runtime/plan"
	"github.com/findep/findep-operator/runtime/profile"
)

// Phase is what a forward pass does.
type Phase string

// The phases. A step that mixes both is planned as the one it mostly is.
const (
	// Prefill processes SequenceTokens prompt tokens of every sample.
	Prefill Phase = "Prefill"
	// Decode processes one token of every sample against its KV cache.
	Decode Phase = "Decode"
)

// Split is the number of GPUs (ranks) in each group.
type Split struct {
	Attention int `json:"attention"`
	Expert    int `json:"expert"`
}

// Total is ag + eg.
func (s Split) Total() int { return s.Attention + s.Expert }

// String is "attention:expert".
func (s Split) String() string { return fmt.Sprintf("%d:%d", s.Attention, s.Expert) }

// Profiles describe the GPUs of the two groups; they may be the same. The
// slower link of the two counts.
type Profiles struct {
	Attention, Expert *profile.Profile
}

// Workload is one forward pass.
type Workload struct {
	Phase Phase `json:"phase"`
	// SequenceTokens is the number of new tokens per sample in prefill; it is
	// 1 in decode whatever it says.
	SequenceTokens int `json:"sequenceTokens,omitempty"`
	// PrefixTokens are already in the KV cache when a prefill starts.
	PrefixTokens int `json:"prefixTokens,omitempty"`
	// ContextTokens is the context a sample may reach: KV memory is kept for
	// it, and decode attends to that many tokens. 0 means prefix + sequence.
	ContextTokens int `json:"contextTokens,omitempty"`
	// Batch is the number of samples of the whole instance; 0 lets the solver
	// choose the largest that serves best.
	Batch int `json:"batch,omitempty"`
}

// Options are facts about the implementation, with defaults for this project's
// own runtime.
type Options struct {
	// DType is the element type of weights, activations and KV cache; empty
	// means the checkpoint's. With Float8 only weights are 8 bits wide.
	DType model.DType `json:"dtype,omitempty"`
	// ReplicatedTransfers sends a token once per expert, as the paper does,
	// instead of once per expert GPU.
	ReplicatedTransfers bool `json:"replicatedTransfers,omitempty"`
	// SegmentBuffers is the depth of the ring of segments on an expert GPU;
	// default 2.
	SegmentBuffers int `json:"segmentBuffers,omitempty"`
	// Order restricts the order; Auto or empty tries both.
	Order plan.Order `json:"order,omitempty"`
	// Limits bound the plan.
	Limits Limits `json:"limits,omitzero"`
}

// Instance is the model form of a problem, all but the split.
type Instance struct {
	Shape    *model.Shape
	Profiles Profiles
	Workload Workload
	Options  Options
}

// validate checks what FromModel relies on.
func (in *Instance) validate() error {
	if in.Shape == nil || in.Profiles.Attention == nil || in.Profiles.Expert == nil {
		return &FieldError{"model", "incomplete", "need a model and a profile for each group"}
	}
	for _, p := range []*profile.Profile{in.Profiles.Attention, in.Profiles.Expert} {
		if err := p.Validate(); err != nil {
			return err
		}
	}
	w := &in.Workload
	if w.Phase != Prefill && w.Phase != Decode {
		return &FieldError{"workload.phase", fmt.Sprintf("%q", string(w.Phase)), "use Prefill or Decode"}
	}
	sequence := w.SequenceTokens
	if w.Phase == Decode {
		sequence = 1
	}
	for _, f := range []struct {
		name            string
		value, low, top int
	}{
		{"workload.sequenceTokens", sequence, 1, maxTokens},
		{"workload.prefixTokens", w.PrefixTokens, 0, maxTokens},
		{"workload.contextTokens", w.ContextTokens, 0, maxTokens},
		{"workload.batch", w.Batch, 0, maxBatch},
		{"options.segmentBuffers", in.Options.SegmentBuffers, 0, 1024},
	} {
		if f.value < f.low || f.value > f.top {
			return &FieldError{f.name, fmt.Sprint(f.value), fmt.Sprintf("must be between %d and %d", f.low, f.top)}
		}
	}
	switch in.Options.DType {
	case "", model.Float32, model.Float16, model.BFloat16, model.Float8:
		return nil
	}
	return &FieldError{"options.dtype", fmt.Sprintf("%q", string(in.Options.DType)), "use float32, float16, bfloat16 or float8_e4m3fn"}
}

// FromModel makes the stage form of an instance with a given split. The error is
// a FieldError; for a split that contradicts the model its field is "split".
func FromModel(in *Instance, split Split) (Problem, error) {
	if err := in.validate(); err != nil {
		return Problem{}, err
	}
	if err := checkSplit(in.Shape, split); err != nil {
		return Problem{}, err
	}
	d := newDerivation(in, split)
	memory := d.memory()
	p := Problem{
		Stages:                   d.stages(),
		Layers:                   in.Shape.MoELayers(),
		TokensPerExpertPerSample: d.kappa,
		AttentionGPUs:            split.Attention,
		SequenceTokens:           d.sequence,
		Order:                    in.Options.Order,
		ExpertLoadMilliseconds:   d.expertLoad(),
		Outside:                  d.outside(),
		Limits:                   in.Options.Limits,
		Memory:                   &memory,
	}
	if b := in.Workload.Batch; b > 0 {
		p.Batch, p.Samples = ceilDiv(b, split.Attention), b
	}
	return p, p.Validate()
}

func checkSplit(shape *model.Shape, split Split) error {
	switch {
	case split.Attention < 1 || split.Expert < 1 || split.Total() > plan.MaxRanks:
		return &FieldError{"split", split.String(), fmt.Sprintf("need at least 1 GPU in each group and at most %d", plan.MaxRanks)}
	case split.Expert > shape.MoE.Experts:
		return &FieldError{"split", split.String(), fmt.Sprintf("%d expert GPUs for %d routed experts; use at most one per expert", split.Expert, shape.MoE.Experts)}
	}
	return nil
}

// derivation holds the quantities that stages and memory share, by the names
// of the mathematics.
type derivation struct {
	in    *Instance
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

func newDerivation(in *Instance, split Split) *derivation {
	moe, w := in.Shape.MoE, in.Workload
	d := &derivation{in: in, split: split, sequence: w.SequenceTokens}
	if w.Phase == Decode {
		d.sequence = 1
	}
	d.context = w.PrefixTokens + d.sequence
	if w.ContextTokens > 0 {
		d.context = w.ContextTokens
	}
	d.local = float64(ceilDiv(moe.Experts, split.Expert))
	d.kappa = float64(split.Attention) * float64(moe.ExpertsPerToken) * float64(d.sequence) / float64(moe.Experts)
	d.copies = float64(moe.ExpertsPerToken)
	if !in.Options.ReplicatedTransfers {
		d.copies = float64(split.Expert) * hitProbability(moe.Experts, int(d.local), moe.ExpertsPerToken)
	}
	dtype := in.Options.DType
	if dtype == "" {
		dtype = in.Shape.DType
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
	shape, s := d.in.Shape, float64(d.sequence)
	m, h := float64(shape.HiddenSize), float64(shape.MoE.IntermediateSize)
	ag, eg := d.in.Profiles.Attention, d.in.Profiles.Expert
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
// bound by reading the cache or by the absorbed form's work.
func (d *derivation) attention() Affine {
	shape, p, s := d.in.Shape, d.in.Profiles.Attention, float64(d.sequence)
	var a Affine
	var macs float64
	for _, g := range shape.AttentionMatrices() {
		a.Alpha += p.GEMM.AlphaMilliseconds()
		macs += float64(g.MACs())
	}
	a.Alpha += p.Attention.AlphaMilliseconds()
	a.Beta = s * macs * p.GEMM.MillisecondsPerMAC()
	if d.in.Workload.Phase == Decode {
		perToken := max(
			float64(shape.AbsorbedMACsPerPair())*p.Attention.MillisecondsPerMAC(),
			float64(shape.KVElementsPerTokenLayer()*d.bytes)*p.Memory.MillisecondsPerByte())
		a.Alpha += macs * float64(d.weightBytes) * p.Memory.MillisecondsPerByte()
		a.Beta += float64(d.context) * perToken
		return a
	}
	pairs := s * (float64(d.in.Workload.PrefixTokens) + (s+1)/2)
	a.Beta += pairs * float64(shape.AttentionMACsPerPair()) * p.Attention.MillisecondsPerMAC()
	return a
}

// mlp is a gated MLP of the given width on an attention GPU: three products.
func (d *derivation) mlp(width float64) Affine {
	p := d.in.Profiles.Attention
	macs := 3 * float64(d.in.Shape.HiddenSize) * width
	a := Affine{Alpha: 3 * p.GEMM.AlphaMilliseconds(), Beta: float64(d.sequence) * macs * p.GEMM.MillisecondsPerMAC()}
	if d.in.Workload.Phase == Decode {
		a.Alpha += macs * float64(d.weightBytes) * p.Memory.MillisecondsPerByte()
	}
	return a
}

// link is one transfer of a segment, per token and expert. A segment of m_e
// tokens per expert comes from m_e*E/top_k tokens, each sent `copies` times;
// the busier side is the smaller group, which shares the rows among fewer GPUs.
func (d *derivation) link() Affine {
	moe := d.in.Shape.MoE
	l, other := d.in.Profiles.Attention.Link, d.in.Profiles.Expert.Link
	rows := float64(moe.Experts) / float64(moe.ExpertsPerToken) * d.copies / float64(min(d.split.Attention, d.split.Expert))
	rowBytes := float64(d.in.Shape.HiddenSize) * float64(d.bytes)
	return Affine{
		Alpha: max(l.AlphaMilliseconds(), other.AlphaMilliseconds()),
		Beta:  rows * rowBytes * max(l.MillisecondsPerByte(), other.MillisecondsPerByte()),
	}
}

// expertBytes are the weights of the local experts of one layer.
func (d *derivation) expertBytes() float64 {
	return d.local * 3 * float64(d.in.Shape.HiddenSize) * float64(d.in.Shape.MoE.IntermediateSize) * float64(d.weightBytes)
}

// expertLoad is the time to read them.
func (d *derivation) expertLoad() float64 {
	return d.expertBytes() * d.in.Profiles.Expert.Memory.MillisecondsPerByte()
}

// outside is the time of leading dense layers and of the output head, which
// sees the last token of every sample.
func (d *derivation) outside() Affine {
	shape, p := d.in.Shape, d.in.Profiles.Attention
	head := float64(shape.HiddenSize) * float64(shape.VocabSize)
	a := Affine{Alpha: p.GEMM.AlphaMilliseconds(), Beta: head * p.GEMM.MillisecondsPerMAC()}
	if d.in.Workload.Phase == Decode {
		a.Alpha += head * float64(d.weightBytes) * p.Memory.MillisecondsPerByte()
	}
	if n := float64(shape.DenseLayers); n > 0 {
		attention, dense := d.attention(), d.mlp(float64(shape.DenseIntermediateSize))
		a.Alpha += n * (attention.Alpha + dense.Alpha)
		a.Beta += n * (attention.Beta + dense.Beta)
	}
	return a
}

// memory is the model of what fits: weights, KV cache and activations of the
// samples in flight and the workspace of one micro-batch on an attention GPU;
// weights and a ring of segments on an expert GPU.
func (d *derivation) memory() Memory {
	shape, s := d.in.Shape, int64(d.sequence)
	counts, m := shape.Parameters(), int64(shape.HiddenSize)
	rows := int64(math.Ceil(d.copies))
	a := AttentionMemory{
		UsableBytes: d.in.Profiles.Attention.UsableBytes(),
		FixedBytes:  counts.AttentionGroup * d.weightBytes,
		// Residual stream, shared experts' output, rows sent and received.
		PerSampleBytes: d.bytes * m * s * (2 + 2*rows),
		WorkspaceBytes: d.bytes * s * d.widestTemporaries(),
	}
	kvToken := shape.KVElementsPerTokenLayer() * int64(shape.Layers) * d.bytes
	a.PerSampleBytes += kvToken * int64(d.context)
	local := int64(d.local)
	buffers := int64(d.in.Options.SegmentBuffers)
	if buffers == 0 {
		buffers = 2
	}
	return Memory{Attention: a, Expert: ExpertMemory{
		UsableBytes: d.in.Profiles.Expert.UsableBytes(),
		FixedBytes:  int64(shape.MoELayers()) * local * counts.Expert * d.weightBytes,
		// Received rows, results, gate and up activations.
		PerTokenBytes: buffers * d.bytes * local * 2 * (m + int64(shape.MoE.IntermediateSize)),
	}}
}

// widestTemporaries is the number of elements per token that are alive at once
// in the widest part of a layer: queries, keys and values, or gate and up of a
// dense or shared MLP.
func (d *derivation) widestTemporaries() int64 {
	a, moe := d.in.Shape.Attention, d.in.Shape.MoE
	qkv := int64(a.Heads)*int64(a.KeyDim()) + int64(a.KVHeads)*int64(a.KeyDim()+a.ValueDim())
	return max(qkv, 2*int64(d.in.Shape.DenseIntermediateSize), 2*int64(moe.SharedExperts)*int64(moe.IntermediateSize))
}
