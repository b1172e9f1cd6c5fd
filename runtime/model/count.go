// SPDX-License-Identifier: Apache-2.0

package model

// Parameters counts the elements of a checkpoint by the role that holds them.
// All fields are numbers of elements. Linear layers have no bias.
type Parameters struct {
	// AttentionPerLayer are the projections of one layer, AttentionNorms the
	// RMS norms inside attention (latent norms of MLA, head norms of GQA).
	AttentionPerLayer, AttentionNorms int64
	// Expert is one routed expert, 3*M*H.
	Expert int64
	// SharedPerLayer are all shared experts of one MoE layer.
	SharedPerLayer int64
	// RouterPerLayer is the router's matrix, RouterBiasPerLayer its
	// correction bias.
	RouterPerLayer, RouterBiasPerLayer int64
	// DensePerLayer is the MLP of one leading dense layer, 0 if there is none.
	DensePerLayer int64
	// Vocabulary are embedding and output head together.
	Vocabulary int64
	// RoutedTotal are all routed experts of all layers: the expert group.
	RoutedTotal int64
	// AttentionGroup is everything else: every attention rank holds all of it.
	AttentionGroup int64
	// Total is RoutedTotal + AttentionGroup.
	Total int64
	// Activated is what one token uses, counting embedding and head in full.
	Activated int64
}

// Parameters counts the model's parameters.
func (s *Shape) Parameters() Parameters {
	m, h, e := int64(s.HiddenSize), int64(s.MoE.IntermediateSize), int64(s.MoE.Experts)
	layers, moe := int64(s.Layers), int64(s.MoELayers())
	p := Parameters{
		AttentionNorms: s.attentionNorms(),
		Expert:         3 * m * h,
		SharedPerLayer: 3 * m * h * int64(s.MoE.SharedExperts),
		RouterPerLayer: m * e,
		Vocabulary:     2 * m * int64(s.VocabSize),
	}
	for _, g := range s.AttentionMatrices() {
		p.AttentionPerLayer += g.MACs()
	}
	if s.Routing.CorrectionBias {
		p.RouterBiasPerLayer = e
	}
	if s.DenseLayers > 0 {
		p.DensePerLayer = 3 * m * int64(s.DenseIntermediateSize)
	}
	if s.TieWordEmbeddings {
		p.Vocabulary /= 2
	}
	p.RoutedTotal = moe * e * p.Expert
	perLayer := p.AttentionPerLayer + p.AttentionNorms + 2*m
	p.AttentionGroup = p.Vocabulary + m + layers*perLayer +
		moe*(p.RouterPerLayer+p.RouterBiasPerLayer+p.SharedPerLayer) +
		int64(s.DenseLayers)*p.DensePerLayer
	p.Total = p.RoutedTotal + p.AttentionGroup
	p.Activated = p.AttentionGroup + moe*int64(s.MoE.ExpertsPerToken)*p.Expert
	return p
}

func (s *Shape) attentionNorms() int64 {
	if s.Attention.Kind == MLA {
		return int64(s.Attention.QLoRARank + s.Attention.KVLoRARank)
	}
	return 2 * int64(s.Attention.HeadDim)
}

// Matrix is one linear layer: rows [tokens, In] times [In, Out].
type Matrix struct {
	Name    string
	In, Out int
}

// MACs is the number of multiply-accumulates per token, which is also the
// number of parameters.
func (g Matrix) MACs() int64 { return int64(g.In) * int64(g.Out) }

// AttentionMatrices lists the projections of one attention layer in execution
// order, by their names in the checkpoint. Each is one kernel launch.
func (s *Shape) AttentionMatrices() []Matrix {
	a, m := s.Attention, s.HiddenSize
	if a.Kind == GQA {
		return []Matrix{
			{"q_proj", m, a.Heads * a.HeadDim},
			{"k_proj", m, a.KVHeads * a.HeadDim},
			{"v_proj", m, a.KVHeads * a.HeadDim},
			{"o_proj", a.Heads * a.HeadDim, m},
		}
	}
	q := []Matrix{{"q_proj", m, a.Heads * a.KeyDim()}}
	if a.QLoRARank > 0 {
		q = []Matrix{{"q_a_proj", m, a.QLoRARank}, {"q_b_proj", a.QLoRARank, a.Heads * a.KeyDim()}}
	}
	return append(q,
		Matrix{"kv_a_proj_with_mqa", m, a.KVLoRARank + a.QKRopeHeadDim},
		Matrix{"kv_b_proj", a.KVLoRARank, a.Heads * (a.QKNopeHeadDim + a.VHeadDim)},
		Matrix{"o_proj", a.Heads * a.VHeadDim, m},
	)
}

// AttentionMACsPerPair is the attention core's work per (query, key) pair and
// layer in the expanded form, n_h*(d_k+d_v).
func (s *Shape) AttentionMACsPerPair() int64 {
	return int64(s.Attention.Heads) * int64(s.Attention.KeyDim()+s.Attention.ValueDim())
}

// AbsorbedMACsPerPair is the same in the absorbed form of MLA, where queries
// meet the cached latents: n_h*(2*kv_lora+d_rope). For GQA there is no such
// form and the result equals AttentionMACsPerPair.
func (s *Shape) AbsorbedMACsPerPair() int64 {
	if s.Attention.Kind != MLA {
		return s.AttentionMACsPerPair()
	}
	return int64(s.Attention.Heads) * int64(2*s.Attention.KVLoRARank+s.Attention.QKRopeHeadDim)
}

// RoutedMACsPerToken is the work of a token's routed experts in one layer.
func (s *Shape) RoutedMACsPerToken() int64 {
	return 3 * int64(s.MoE.ExpertsPerToken) * int64(s.HiddenSize) * int64(s.MoE.IntermediateSize)
}

// KVElementsPerTokenLayer is the number of cached elements per token and
// layer: the latent and the rotated key part for MLA, keys and values for GQA.
func (s *Shape) KVElementsPerTokenLayer() int64 {
	if s.Attention.Kind == MLA {
		return int64(s.Attention.KVLoRARank + s.Attention.QKRopeHeadDim)
	}
	return 2 * int64(s.Attention.KVHeads) * int64(s.Attention.HeadDim)
}

// KVBytesPerToken is the cache one token needs over all layers when stored as
// elements of type d.
func (s *Shape) KVBytesPerToken(d DType) int64 {
	return int64(s.Layers) * s.KVElementsPerTokenLayer() * d.Bytes()
}

// WeightDType is the element type most weights are stored in.
func (s *Shape) WeightDType() DType {
	if s.Quantization != nil {
		return s.Quantization.DType
	}
	return s.DType
}
