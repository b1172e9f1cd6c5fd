// SPDX-License-Identifier: Apache-2.0

// Package model knows the Mixture-of-Experts architectures that this project
// serves: it reads a Hugging Face config.json into a Shape, and counts
// parameters, KV-cache bytes and multiply-accumulates from it.
//
// A Shape is validated and bounded when Parse returns it, so that every count
// below fits in an int64 and users need not check again. The package is pure:
// no files, no clock.
package model

import "math"

// Architecture is the model_type of a config.json.
type Architecture string

// The supported architectures.
const (
	DeepSeekV2 Architecture = "deepseek_v2"
	DeepSeekV3 Architecture = "deepseek_v3"
	Qwen3MoE   Architecture = "qwen3_moe"
)

// DType is an element type of a checkpoint.
type DType string

// The element types checkpoints of the supported architectures come in.
const (
	Float32  DType = "float32"
	Float16  DType = "float16"
	BFloat16 DType = "bfloat16"
	// Float8 is e4m3 with one fp32 scale per block of a weight matrix.
	Float8 DType = "float8_e4m3fn"
)

// Bytes is the size of one element.
func (d DType) Bytes() int64 {
	switch d {
	case Float32:
		return 4
	case Float8:
		return 1
	default:
		return 2
	}
}

// AttentionKind distinguishes the two attention mechanisms.
type AttentionKind string

// The attention mechanisms of the supported architectures.
const (
	// MLA is multi-head latent attention: keys and values are expanded from
	// one latent vector per token, and only the latent is cached.
	MLA AttentionKind = "MLA"
	// GQA is grouped-query attention with an RMS norm on each query and key head.
	GQA AttentionKind = "GQA"
)

// Shape is everything a config.json says that planning or execution needs.
type Shape struct {
	// Name is the published name for catalogue models, empty after Parse.
	Name         string
	Architecture Architecture

	// HiddenSize is M, the width of the residual stream.
	HiddenSize int
	// Layers is the number of transformer layers, dense and MoE. Extra
	// multi-token-prediction layers of a checkpoint are not counted.
	Layers int
	// DenseLayers is the number of leading layers with a dense MLP of width
	// DenseIntermediateSize; all others are MoE layers.
	DenseLayers           int
	DenseIntermediateSize int
	VocabSize             int
	// MaxPositionEmbeddings is the longest context the model was made for.
	MaxPositionEmbeddings int
	RMSNormEpsilon        float64
	TieWordEmbeddings     bool
	// DType is the element type of the checkpoint's unquantised tensors.
	DType DType
	// Quantization is nil unless linear weights are block-quantised.
	Quantization *Quantization

	Attention Attention
	Rope      Rope
	MoE       MoE
	Routing   Routing

	// BOSTokenID is -1 if the model has none.
	BOSTokenID int
	// EOSTokenIDs holds every id that ends a sequence; it may be empty.
	EOSTokenIDs []int
}

// Quantization describes fp8 block quantisation: W = block * scale, one fp32
// scale per BlockRows x BlockColumns block of a weight stored [out, in].
type Quantization struct {
	DType                   DType
	BlockRows, BlockColumns int
}

// Attention holds the sizes of one attention layer.
type Attention struct {
	Kind AttentionKind
	// Heads is n_h. KVHeads is n_kv; for MLA it equals Heads.
	Heads, KVHeads int
	// HeadDim is the size of a GQA head; 0 for MLA.
	HeadDim int
	// QLoRARank is 0 when queries are projected directly.
	QLoRARank, KVLoRARank int
	// The parts of an MLA head; 0 for GQA.
	QKNopeHeadDim, QKRopeHeadDim, VHeadDim int
}

// KeyDim is d_k, the width of one query or key head.
func (a Attention) KeyDim() int {
	if a.Kind == MLA {
		return a.QKNopeHeadDim + a.QKRopeHeadDim
	}
	return a.HeadDim
}

// ValueDim is d_v, the width of one value head.
func (a Attention) ValueDim() int {
	if a.Kind == MLA {
		return a.VHeadDim
	}
	return a.HeadDim
}

// RopeDim is the number of elements of a head that are rotated.
func (a Attention) RopeDim() int {
	if a.Kind == MLA {
		return a.QKRopeHeadDim
	}
	return a.HeadDim
}

// MoE holds the sizes of one MoE layer.
type MoE struct {
	// Experts is E, ExpertsPerToken is top_k.
	Experts, ExpertsPerToken int
	// SharedExperts is N_shared; all of them run as one MLP of width
	// SharedExperts*IntermediateSize.
	SharedExperts int
	// IntermediateSize is H, the width of one expert.
	IntermediateSize int
}

// Scoring turns router logits into scores.
type Scoring string

// The scoring functions.
const (
	Softmax Scoring = "softmax"
	Sigmoid Scoring = "sigmoid"
)

// TopKMethod selects the experts of a token from its scores.
type TopKMethod string

// The selection methods, by their names in config.json.
const (
	// Greedy takes the top_k best scores.
	Greedy TopKMethod = "greedy"
	// GroupLimitedGreedy keeps the TopKGroups groups with the best single
	// score, then takes the top_k best scores among them.
	GroupLimitedGreedy TopKMethod = "group_limited_greedy"
	// NoAuxTC adds a learned bias for selection only, keeps the groups with
	// the best sum of two biased scores, then takes the top_k best.
	NoAuxTC TopKMethod = "noaux_tc"
)

// Routing describes how a token chooses its experts. Logits are fp32.
type Routing struct {
	Scoring Scoring
	Method  TopKMethod
	// Groups and TopKGroups are 1 for Greedy.
	Groups, TopKGroups int
	// NormalizeTopK divides the chosen weights by their sum.
	NormalizeTopK bool
	// ScalingFactor multiplies the weights at the end.
	ScalingFactor float64
	// CorrectionBias tells that the checkpoint holds an fp32
	// e_score_correction_bias of Experts elements per MoE layer.
	CorrectionBias bool
}

// MoELayers is T, the number of layers in the pipeline.
func (s *Shape) MoELayers() int { return s.Layers - s.DenseLayers }

// SoftmaxScale is the factor on query-key products: d_k^-0.5, and for DeepSeek
// models under YaRN also mscale^2 with mscale from mscale_all_dim.
func (s *Shape) SoftmaxScale() float64 {
	scale := 1 / math.Sqrt(float64(s.Attention.KeyDim()))
	if y := s.Rope.YaRN; y != nil && s.Attention.Kind == MLA && y.MScaleAllDim != 0 {
		m := yarnMScale(y.Factor, y.MScaleAllDim)
		scale *= m * m
	}
	return scale
}
