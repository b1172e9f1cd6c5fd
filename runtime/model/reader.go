// SPDX-License-Identifier: Apache-2.0

package model

import (
	"fmt"
	"math"
)

const published = "; use the config.json published with the checkpoint"

// reader moves fields from a rawConfig to a Shape and collects what is wrong.
type reader struct {
	raw  *rawConfig
	errs []error
}

func (r *reader) fail(field, value, problem string) {
	r.errs = append(r.errs, &FieldError{field, value, problem})
}

// size returns a needed integer within [low, high], or low after recording
// why it cannot.
func (r *reader) size(field string, v *int, low, high int) int {
	if v == nil {
		r.fail(field, "", "missing"+published)
		return low
	}
	return r.sizeOr(field, v, low, low, high)
}

// sizeOr is size with a default for a missing field.
func (r *reader) sizeOr(field string, v *int, missing, low, high int) int {
	switch {
	case v == nil:
		return missing
	case *v < low || *v > high:
		r.fail(field, fmt.Sprint(*v), fmt.Sprintf("must be between %d and %d%s", low, high, published))
		return low
	}
	return *v
}

// number returns a finite float in (low, high], or the default if missing.
func (r *reader) number(field string, v *float64, missing, low, high float64) float64 {
	if v == nil {
		return missing
	}
	if !(*v > low && *v <= high) {
		r.fail(field, fmt.Sprint(*v), fmt.Sprintf("must be above %g and at most %g", low, high))
		return missing
	}
	return *v
}

// must records an error unless a field that changes the mathematics is unset
// or has the one value that is implemented.
func must[T comparable](r *reader, field string, v *T, want T) {
	if v != nil && *v != want {
		value := fmt.Sprint(*v)
		if len(value) > 64 {
			value = value[:64] + "..."
		}
		r.fail(field, value, fmt.Sprintf("only %v is supported", want))
	}
}

func or[T any](v *T, missing T) T {
	if v == nil {
		return missing
	}
	return *v
}

// common reads what all architectures share.
func (r *reader) common(s *Shape) {
	c := r.raw
	s.HiddenSize = r.size("hidden_size", c.HiddenSize, 1, maxHidden)
	s.Layers = r.size("num_hidden_layers", c.Layers, 1, maxLayers)
	s.VocabSize = r.size("vocab_size", c.VocabSize, 1, maxVocab)
	s.MaxPositionEmbeddings = r.size("max_position_embeddings", c.MaxPositionEmbeddings, 1, maxPositions)
	if c.RMSNormEpsilon == nil {
		r.fail("rms_norm_eps", "", "missing"+published)
	}
	s.RMSNormEpsilon = r.number("rms_norm_eps", c.RMSNormEpsilon, 1e-6, 0, 1)
	s.TieWordEmbeddings = or(c.TieWordEmbeddings, false)
	must(r, "hidden_act", c.HiddenAct, "silu")
	must(r, "attention_bias", c.AttentionBias, false)
	must(r, "mlp_bias", c.MLPBias, false)
	must(r, "use_sliding_window", c.SlidingWindow, false)
	r.dtype(s)
	r.tokens(s)
	s.MoE.IntermediateSize = r.size("moe_intermediate_size", c.MoEIntermediate, 1, maxIntermediate)
}

func (r *reader) dtype(s *Shape) {
	field, value := "torch_dtype", r.raw.TorchDType
	if value == "" && r.raw.DType != "" {
		field, value = "dtype", r.raw.DType
	}
	switch d := DType(value); d {
	case "":
		s.DType = BFloat16
	case Float32, Float16, BFloat16:
		s.DType = d
	default:
		r.fail(field, quote(value), "supported are float32, float16, bfloat16")
	}
	q := r.raw.Quantization
	if q == nil {
		return
	}
	if q.Method != "fp8" || (q.Format != "" && q.Format != "e4m3") || len(q.Block) != 2 {
		r.fail("quantization_config", quote(q.Method), "only fp8 e4m3 with a two-dimensional weight_block_size is supported; use an unquantised checkpoint")
		return
	}
	s.Quantization = &Quantization{
		DType:        Float8,
		BlockRows:    r.size("weight_block_size", &q.Block[0], 1, maxHidden),
		BlockColumns: r.size("weight_block_size", &q.Block[1], 1, maxHidden),
	}
}

func (r *reader) tokens(s *Shape) {
	s.BOSTokenID = r.sizeOr("bos_token_id", r.raw.BOS, -1, 0, s.VocabSize-1)
	const most = 64
	if len(r.raw.EOS) > most {
		r.fail("eos_token_id", fmt.Sprintf("a list of %d", len(r.raw.EOS)), fmt.Sprintf("at most %d ids are supported", most))
		return
	}
	for _, id := range r.raw.EOS {
		s.EOSTokenIDs = append(s.EOSTokenIDs, r.size("eos_token_id", &id, 0, s.VocabSize-1))
	}
}

// rope reads theta and scaling from rope_parameters or from the older pair
// rope_theta, rope_scaling.
func (r *reader) rope(s *Shape, interleaved bool) {
	field, scaling, theta := "rope_scaling", r.raw.RopeScaling, r.raw.RopeTheta
	if p := r.raw.RopeParameters; p != nil {
		field, scaling = "rope_parameters", p
		if p.Theta != nil {
			theta = p.Theta
		}
	}
	if theta == nil {
		r.fail("rope_theta", "", "missing"+published)
	}
	s.Rope = Rope{
		Theta:       r.number("rope_theta", theta, 10000, 1, 1e12),
		Interleaved: or(r.raw.RopeInterleave, interleaved),
	}
	switch scaling.kind() {
	case "", "default":
	case "yarn":
		s.Rope.YaRN = r.yarn(field, scaling, s.MaxPositionEmbeddings)
	default:
		r.fail(field+".type", quote(scaling.kind()), "supported are default and yarn")
	}
}

func (r *reader) yarn(field string, raw *rawRope, positions int) *YaRN {
	if raw.Factor == nil {
		r.fail(field+".factor", "", "missing"+published)
	}
	must(r, field+".truncate", raw.Truncate, true)
	return &YaRN{
		Factor:                        r.number(field+".factor", raw.Factor, 1, 0, 1e6),
		OriginalMaxPositionEmbeddings: r.sizeOr(field+".original_max_position_embeddings", raw.Original, positions, 1, maxPositions),
		BetaFast:                      r.number(field+".beta_fast", raw.BetaFast, 32, 0, 1e6),
		BetaSlow:                      r.number(field+".beta_slow", raw.BetaSlow, 1, 0, 1e6),
		MScale:                        r.mscale(field+".mscale", raw.MScale),
		MScaleAllDim:                  r.mscale(field+".mscale_all_dim", raw.MScaleAllDim),
		ExplicitAttentionFactor:       r.number(field+".attention_factor", raw.AttentionFactor, 0, 0, 1e6),
	}
}

// mscale may be 0, which means that it is not used.
func (r *reader) mscale(field string, v *float64) float64 {
	return r.number(field, v, 0, math.Nextafter(0, -1), 1e6)
}

// experts reads the number of routed experts under the name this architecture
// uses, or under the other one.
func (r *reader) experts(s *Shape, field string, first, second *int) {
	if first == nil {
		first = second
	}
	s.MoE.Experts = r.size(field, first, 1, maxExperts)
	s.MoE.ExpertsPerToken = r.size("num_experts_per_tok", r.raw.ExpertsPerToken, 1, s.MoE.Experts)
}

func (r *reader) qwen3(s *Shape) {
	c := r.raw
	r.common(s)
	r.rope(s, false)
	r.experts(s, "num_experts", c.NumExperts, c.RoutedExperts)
	must(r, "decoder_sparse_step", c.DecoderSparseStep, 1)
	if len(c.MLPOnlyLayers) > 0 {
		r.fail("mlp_only_layers", fmt.Sprintf("a list of %d", len(c.MLPOnlyLayers)), "only an empty list is supported: every layer must be an MoE layer")
	}
	s.Attention = Attention{
		Kind:    GQA,
		Heads:   r.size("num_attention_heads", c.Heads, 1, maxHeads),
		KVHeads: r.size("num_key_value_heads", c.KVHeads, 1, maxHeads),
	}
	s.Attention.HeadDim = r.sizeOr("head_dim", c.HeadDim, max(s.HiddenSize/s.Attention.Heads, 2), 2, maxHeadDim)
	if s.Attention.Heads%s.Attention.KVHeads != 0 {
		r.fail("num_key_value_heads", fmt.Sprint(s.Attention.KVHeads), fmt.Sprintf("must divide num_attention_heads, %d", s.Attention.Heads))
	}
	r.even("head_dim", s.Attention.HeadDim)
	s.Routing = Routing{
		Scoring: Softmax, Method: Greedy, Groups: 1, TopKGroups: 1,
		NormalizeTopK: or(c.NormTopK, false), ScalingFactor: 1,
	}
}

func (r *reader) deepSeek(s *Shape) {
	c := r.raw
	r.common(s)
	r.rope(s, true)
	r.experts(s, "n_routed_experts", c.RoutedExperts, c.NumExperts)
	s.MoE.SharedExperts = r.sizeOr("n_shared_experts", c.SharedExperts, 0, 0, maxShared)
	s.DenseLayers = r.sizeOr("first_k_dense_replace", c.FirstKDense, 0, 0, s.Layers-1)
	if s.DenseLayers > 0 {
		s.DenseIntermediateSize = r.size("intermediate_size", c.IntermediateSize, 1, maxIntermediate)
	}
	must(r, "moe_layer_freq", c.MoELayerFreq, 1)
	heads := r.size("num_attention_heads", c.Heads, 1, maxHeads)
	s.Attention = Attention{
		Kind: MLA, Heads: heads, KVHeads: heads,
		QLoRARank:     r.sizeOr("q_lora_rank", c.QLoRARank, 0, 0, maxLoRA),
		KVLoRARank:    r.size("kv_lora_rank", c.KVLoRARank, 1, maxLoRA),
		QKNopeHeadDim: r.size("qk_nope_head_dim", c.QKNope, 1, maxHeadDim),
		QKRopeHeadDim: r.size("qk_rope_head_dim", c.QKRope, 2, maxHeadDim),
		VHeadDim:      r.size("v_head_dim", c.VHeadDim, 1, maxHeadDim),
	}
	must(r, "num_key_value_heads", c.KVHeads, heads)
	r.even("qk_rope_head_dim", s.Attention.QKRopeHeadDim)
	r.deepSeekRouting(s)
}

// deepSeekRouting applies the defaults of each generation: V2 uses softmax and
// greedy selection, V3 sigmoid and noaux_tc, unless the file says otherwise.
func (r *reader) deepSeekRouting(s *Shape) {
	c := r.raw
	scoring, method, normalize := Softmax, Greedy, false
	if s.Architecture == DeepSeekV3 {
		scoring, method, normalize = Sigmoid, NoAuxTC, true
	}
	s.Routing = Routing{
		Scoring:       Scoring(or(c.ScoringFunc, string(scoring))),
		Method:        TopKMethod(or(c.TopKMethod, string(method))),
		Groups:        1,
		TopKGroups:    1,
		NormalizeTopK: or(c.NormTopK, normalize),
		ScalingFactor: r.number("routed_scaling_factor", c.RoutedScaling, 1, 0, 1e6),
	}
	if sc := s.Routing.Scoring; sc != Softmax && sc != Sigmoid {
		r.fail("scoring_func", quote(string(sc)), "supported are softmax and sigmoid")
	}
	switch s.Routing.Method {
	case Greedy:
		return
	case NoAuxTC:
		s.Routing.CorrectionBias = true
	case GroupLimitedGreedy:
	default:
		r.fail("topk_method", quote(string(s.Routing.Method)), "supported are greedy, group_limited_greedy and noaux_tc")
		return
	}
	r.groups(s)
}

// groups reads the sizes of group-limited routing: the groups have equal size
// and the kept ones must hold enough experts for a token.
func (r *reader) groups(s *Shape) {
	e := s.MoE.Experts
	s.Routing.Groups = r.size("n_group", r.raw.Groups, 1, e)
	s.Routing.TopKGroups = r.size("topk_group", r.raw.TopKGroups, 1, s.Routing.Groups)
	if e%s.Routing.Groups != 0 {
		r.fail("n_group", fmt.Sprint(s.Routing.Groups), fmt.Sprintf("must divide n_routed_experts, %d", e))
		return
	}
	size := e / s.Routing.Groups
	if s.MoE.ExpertsPerToken > size*s.Routing.TopKGroups {
		r.fail("topk_group", fmt.Sprint(s.Routing.TopKGroups), fmt.Sprintf(
			"%d experts in the kept groups, fewer than num_experts_per_tok, %d", size*s.Routing.TopKGroups, s.MoE.ExpertsPerToken))
	}
	if s.Routing.Method == NoAuxTC && size < 2 {
		r.fail("n_group", fmt.Sprint(s.Routing.Groups), "groups of fewer than 2 experts: a group's score is the sum of its two best")
	}
}

func (r *reader) even(field string, v int) {
	if v%2 != 0 {
		r.fail(field, fmt.Sprint(v), "must be even: rotary embedding turns pairs")
	}
}
