// SPDX-License-Identifier: Apache-2.0

package model

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
)

// Bounds on what a config.json may ask for. They are far above every published
// model, and low enough that all counts of this package fit in an int64.
const (
	maxConfigBytes  = 1 << 20
	maxHidden       = 1 << 16
	maxLayers       = 1 << 10
	maxIntermediate = 1 << 18
	maxVocab        = 1 << 22
	maxExperts      = 1 << 14
	maxShared       = 1 << 6
	maxHeads        = 1 << 12
	maxHeadDim      = 1 << 12
	maxLoRA         = 1 << 16
	maxPositions    = 1 << 28
)

// FieldError says which field of a config.json cannot be used.
type FieldError struct {
	// Field is the JSON name, Value what was found ("" if it was missing).
	Field, Value string
	// Problem says what is wrong and what to do.
	Problem string
}

// Error implements error.
func (e *FieldError) Error() string {
	if e.Value == "" {
		return fmt.Sprintf("config.json: %s: %s", e.Field, e.Problem)
	}
	return fmt.Sprintf("config.json: %s is %s: %s", e.Field, e.Value, e.Problem)
}

// Parse reads a Hugging Face config.json of a supported architecture. Unknown
// fields are ignored, needed ones must be present and in bounds, and fields
// that would change the mathematics in a way this project does not implement
// are refused. The error joins one FieldError per unusable field.
func Parse(config []byte) (*Shape, error) {
	if len(config) > maxConfigBytes {
		return nil, fmt.Errorf("config.json: %d bytes; at most %d are read, is this the right file?", len(config), maxConfigBytes)
	}
	var raw rawConfig
	if err := decode(config, &raw); err != nil {
		return nil, err
	}
	r := &reader{raw: &raw}
	s := &Shape{Architecture: Architecture(raw.ModelType)}
	switch s.Architecture {
	case DeepSeekV2, DeepSeekV3:
		r.deepSeek(s)
	case Qwen3MoE:
		r.qwen3(s)
	case "":
		return nil, &FieldError{Field: "model_type", Problem: "missing; supported are " + supported()}
	default:
		return nil, &FieldError{"model_type", quote(raw.ModelType), "unsupported architecture; supported are " + supported()}
	}
	if err := errors.Join(r.errs...); err != nil {
		return nil, err
	}
	return s, nil
}

func supported() string {
	return strings.Join([]string{string(DeepSeekV2), string(DeepSeekV3), string(Qwen3MoE)}, ", ")
}

// decode reads one JSON object and nothing after it, and turns the decoder's
// errors into ones that name the field.
func decode(config []byte, raw *rawConfig) error {
	d := json.NewDecoder(bytes.NewReader(config))
	err := d.Decode(raw)
	var mismatch *json.UnmarshalTypeError
	var field *FieldError
	switch {
	case errors.As(err, &field):
		return field
	case errors.As(err, &mismatch):
		return &FieldError{mismatch.Field, "a JSON " + mismatch.Value, "wrong type, need " + mismatch.Type.String()}
	case errors.Is(err, io.EOF):
		return errors.New("config.json: empty; give the config.json published with the checkpoint")
	case err != nil:
		return fmt.Errorf("config.json: not valid JSON: %w; give the config.json published with the checkpoint", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("config.json: data after the closing brace; the file must hold one JSON object")
	}
	return nil
}

// rawConfig holds the fields as they are written. Pointers tell missing (or
// null) from zero.
type rawConfig struct {
	ModelType             string   `json:"model_type"`
	HiddenSize            *int     `json:"hidden_size"`
	Layers                *int     `json:"num_hidden_layers"`
	IntermediateSize      *int     `json:"intermediate_size"`
	VocabSize             *int     `json:"vocab_size"`
	MaxPositionEmbeddings *int     `json:"max_position_embeddings"`
	RMSNormEpsilon        *float64 `json:"rms_norm_eps"`
	TieWordEmbeddings     *bool    `json:"tie_word_embeddings"`
	TorchDType            string   `json:"torch_dtype"`
	DType                 string   `json:"dtype"`
	HiddenAct             *string  `json:"hidden_act"`
	BOS                   *int     `json:"bos_token_id"`
	EOS                   intList  `json:"eos_token_id"`

	Heads         *int  `json:"num_attention_heads"`
	KVHeads       *int  `json:"num_key_value_heads"`
	HeadDim       *int  `json:"head_dim"`
	QLoRARank     *int  `json:"q_lora_rank"`
	KVLoRARank    *int  `json:"kv_lora_rank"`
	QKNope        *int  `json:"qk_nope_head_dim"`
	QKRope        *int  `json:"qk_rope_head_dim"`
	VHeadDim      *int  `json:"v_head_dim"`
	AttentionBias *bool `json:"attention_bias"`
	MLPBias       *bool `json:"mlp_bias"`
	SlidingWindow *bool `json:"use_sliding_window"`

	RopeTheta      *float64 `json:"rope_theta"`
	RopeScaling    *rawRope `json:"rope_scaling"`
	RopeParameters *rawRope `json:"rope_parameters"`
	RopeInterleave *bool    `json:"rope_interleave"`

	FirstKDense       *int     `json:"first_k_dense_replace"`
	MoELayerFreq      *int     `json:"moe_layer_freq"`
	RoutedExperts     *int     `json:"n_routed_experts"`
	NumExperts        *int     `json:"num_experts"`
	ExpertsPerToken   *int     `json:"num_experts_per_tok"`
	SharedExperts     *int     `json:"n_shared_experts"`
	MoEIntermediate   *int     `json:"moe_intermediate_size"`
	ScoringFunc       *string  `json:"scoring_func"`
	TopKMethod        *string  `json:"topk_method"`
	Groups            *int     `json:"n_group"`
	TopKGroups        *int     `json:"topk_group"`
	NormTopK          *bool    `json:"norm_topk_prob"`
	RoutedScaling     *float64 `json:"routed_scaling_factor"`
	DecoderSparseStep *int     `json:"decoder_sparse_step"`
	MLPOnlyLayers     []int    `json:"mlp_only_layers"`

	Quantization *struct {
		Method string `json:"quant_method"`
		Format string `json:"fmt"`
		Block  []int  `json:"weight_block_size"`
	} `json:"quantization_config"`
}

// rawRope covers rope_scaling (type or rope_type) and its successor
// rope_parameters, which also carries theta.
type rawRope struct {
	Type            string   `json:"type"`
	RopeType        string   `json:"rope_type"`
	Theta           *float64 `json:"rope_theta"`
	Factor          *float64 `json:"factor"`
	Original        *int     `json:"original_max_position_embeddings"`
	BetaFast        *float64 `json:"beta_fast"`
	BetaSlow        *float64 `json:"beta_slow"`
	MScale          *float64 `json:"mscale"`
	MScaleAllDim    *float64 `json:"mscale_all_dim"`
	AttentionFactor *float64 `json:"attention_factor"`
	Truncate        *bool    `json:"truncate"`
}

// kind returns the scaling type under either of its names.
func (r *rawRope) kind() string {
	if r == nil {
		return ""
	}
	if r.RopeType != "" {
		return r.RopeType
	}
	return r.Type
}

// intList accepts 5, [5, 7] or null.
type intList []int

// UnmarshalJSON implements json.Unmarshaler.
func (l *intList) UnmarshalJSON(b []byte) error {
	if json.Unmarshal(b, (*[]int)(l)) == nil {
		return nil
	}
	var one int
	if err := json.Unmarshal(b, &one); err != nil {
		return &FieldError{"eos_token_id", quote(string(b)), "need an integer or a list of integers"}
	}
	*l = intList{one}
	return nil
}

func quote(s string) string {
	const longest = 64
	if len(s) > longest {
		s = s[:longest] + "..."
	}
	return fmt.Sprintf("%q", s)
}
