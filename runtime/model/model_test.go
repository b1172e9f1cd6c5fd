// SPDX-License-Identifier: Apache-2.0

package model_test

import (
	"encoding/json"
	"errors"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/findep/findep-operator/runtime/model"
)

const (
	v2Lite   = "deepseek-ai/DeepSeek-V2-Lite"
	v2       = "deepseek-ai/DeepSeek-V2"
	v3       = "deepseek-ai/DeepSeek-V3"
	qwen30b  = "Qwen/Qwen3-30B-A3B"
	qwen235b = "Qwen/Qwen3-235B-A22B"
)

func byName(t *testing.T, name string) *model.Shape {
	t.Helper()
	s, err := model.ByName(name)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// The counts were derived by hand from the published configurations; model
// totals agree with the published parameter counts.
func TestParametersOfPublishedModels(t *testing.T) {
	tests := map[string]model.Parameters{
		v2Lite: {
			AttentionPerLayer: 13_762_560, AttentionNorms: 512, Expert: 8_650_752, SharedPerLayer: 17_301_504,
			RouterPerLayer: 131_072, DensePerLayer: 3 * 2048 * 10944, Vocabulary: 2 * 102400 * 2048,
			RoutedTotal: 14_394_851_328, AttentionGroup: 1_311_632_896, Total: 15_706_484_224, Activated: 2_661_150_208,
		},
		v2: {
			AttentionPerLayer: 149_225_472, AttentionNorms: 2_048, Expert: 23_592_960, SharedPerLayer: 47_185_920,
			RouterPerLayer: 819_200, DensePerLayer: 3 * 5120 * 12288, Vocabulary: 2 * 102400 * 5120,
			RoutedTotal: 222_717_542_400, AttentionGroup: 13_023_892_480, Total: 235_741_434_880, Activated: 21_375_800_320,
		},
		v3: {
			AttentionPerLayer: 187_105_280, AttentionNorms: 2_048, Expert: 44_040_192, SharedPerLayer: 44_040_192,
			RouterPerLayer: 1_835_008, RouterBiasPerLayer: 256, DensePerLayer: 3 * 7168 * 18432, Vocabulary: 2 * 129280 * 7168,
			RoutedTotal: 653_908_770_816, AttentionGroup: 17_117_648_384, Total: 671_026_419_200, Activated: 37_552_297_472,
		},
		qwen30b: {
			AttentionPerLayer: 18_874_368, AttentionNorms: 256, Expert: 4_718_592,
			RouterPerLayer: 262_144, Vocabulary: 2 * 151936 * 2048,
			RoutedTotal: 28_991_029_248, AttentionGroup: 1_541_093_376, Total: 30_532_122_624, Activated: 3_353_032_704,
		},
		qwen235b: {
			AttentionPerLayer: 71_303_168, AttentionNorms: 256, Expert: 18_874_368,
			RouterPerLayer: 524_288, Vocabulary: 2 * 151936 * 4096,
			RoutedTotal: 227_096_395_776, AttentionGroup: 7_997_238_784, Total: 235_093_634_560, Activated: 22_190_763_520,
		},
	}
	for name, want := range tests {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(want, byName(t, name).Parameters()); diff != "" {
				t.Errorf("parameters (-want +got):\n%s", diff)
			}
		})
	}
}

func TestWorkAndCacheOfPublishedModels(t *testing.T) {
	type counts struct {
		MoELayers                                            int
		RoutedMACs, PairMACs, AbsorbedMACs, KVToken, KVLayer int64
	}
	tests := map[string]counts{
		v2Lite:   {26, 51_904_512, 5_120, 17_408, 31_104, 576},
		v2:       {59, 141_557_760, 40_960, 139_264, 69_120, 576},
		v3:       {58, 352_321_536, 40_960, 139_264, 70_272, 576},
		qwen30b:  {48, 37_748_736, 8_192, 8_192, 98_304, 1_024},
		qwen235b: {94, 150_994_944, 16_384, 16_384, 192_512, 1_024},
	}
	for name, want := range tests {
		t.Run(name, func(t *testing.T) {
			s := byName(t, name)
			got := counts{s.MoELayers(), s.RoutedMACsPerToken(), s.AttentionMACsPerPair(), s.AbsorbedMACsPerPair(),
				s.KVBytesPerToken(model.BFloat16), s.KVElementsPerTokenLayer()}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("counts (-want +got):\n%s", diff)
			}
		})
	}
}

func TestTiedEmbeddingsAreCountedOnce(t *testing.T) {
	s := byName(t, qwen30b)
	untied := s.Parameters().Total
	s.TieWordEmbeddings = true
	if got, want := untied-s.Parameters().Total, int64(151936*2048); got != want {
		t.Errorf("tying saves %d parameters, want %d", got, want)
	}
}

func TestParseReadsEveryFieldTheExecutorNeeds(t *testing.T) {
	yarn := func(mscale float64) *model.YaRN {
		return &model.YaRN{Factor: 40, OriginalMaxPositionEmbeddings: 4096, BetaFast: 32, BetaSlow: 1, MScale: mscale, MScaleAllDim: mscale}
	}
	tests := map[string]model.Shape{
		v2Lite: {
			Name: v2Lite, Architecture: model.DeepSeekV2, HiddenSize: 2048, Layers: 27, DenseLayers: 1, DenseIntermediateSize: 10944,
			VocabSize: 102400, MaxPositionEmbeddings: 163840, RMSNormEpsilon: 1e-6, DType: model.BFloat16,
			Attention:  model.Attention{Kind: model.MLA, Heads: 16, KVHeads: 16, KVLoRARank: 512, QKNopeHeadDim: 128, QKRopeHeadDim: 64, VHeadDim: 128},
			Rope:       model.Rope{Theta: 1e4, Interleaved: true, YaRN: yarn(0.707)},
			MoE:        model.MoE{Experts: 64, ExpertsPerToken: 6, SharedExperts: 2, IntermediateSize: 1408},
			Routing:    model.Routing{Scoring: model.Softmax, Method: model.Greedy, Groups: 1, TopKGroups: 1, ScalingFactor: 1},
			BOSTokenID: 100000, EOSTokenIDs: []int{100001},
		},
		v3: {
			Name: v3, Architecture: model.DeepSeekV3, HiddenSize: 7168, Layers: 61, DenseLayers: 3, DenseIntermediateSize: 18432,
			VocabSize: 129280, MaxPositionEmbeddings: 163840, RMSNormEpsilon: 1e-6, DType: model.BFloat16,
			Quantization: &model.Quantization{DType: model.Float8, BlockRows: 128, BlockColumns: 128},
			Attention:    model.Attention{Kind: model.MLA, Heads: 128, KVHeads: 128, QLoRARank: 1536, KVLoRARank: 512, QKNopeHeadDim: 128, QKRopeHeadDim: 64, VHeadDim: 128},
			Rope:         model.Rope{Theta: 1e4, Interleaved: true, YaRN: yarn(1)},
			MoE:          model.MoE{Experts: 256, ExpertsPerToken: 8, SharedExperts: 1, IntermediateSize: 2048},
			Routing:      model.Routing{Scoring: model.Sigmoid, Method: model.NoAuxTC, Groups: 8, TopKGroups: 4, NormalizeTopK: true, ScalingFactor: 2.5, CorrectionBias: true},
			BOSTokenID:   0, EOSTokenIDs: []int{1},
		},
		qwen30b: {
			Name: qwen30b, Architecture: model.Qwen3MoE, HiddenSize: 2048, Layers: 48,
			VocabSize: 151936, MaxPositionEmbeddings: 40960, RMSNormEpsilon: 1e-6, DType: model.BFloat16,
			Attention:  model.Attention{Kind: model.GQA, Heads: 32, KVHeads: 4, HeadDim: 128},
			Rope:       model.Rope{Theta: 1e6},
			MoE:        model.MoE{Experts: 128, ExpertsPerToken: 8, IntermediateSize: 768},
			Routing:    model.Routing{Scoring: model.Softmax, Method: model.Greedy, Groups: 1, TopKGroups: 1, NormalizeTopK: true, ScalingFactor: 1},
			BOSTokenID: 151643, EOSTokenIDs: []int{151645},
		},
	}
	for name, want := range tests {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(&want, byName(t, name)); diff != "" {
				t.Errorf("shape (-want +got):\n%s", diff)
			}
		})
	}
}

// mscale is 1.260804 for the V2 family and 1.368888 for V3.
func TestSoftmaxScaleIncludesYaRN(t *testing.T) {
	tests := map[string]float64{
		v2Lite:  1.589626 / math.Sqrt(192),
		v3:      1.873854 / math.Sqrt(192),
		qwen30b: 1 / math.Sqrt(128),
	}
	for name, want := range tests {
		if got := byName(t, name).SoftmaxScale(); math.Abs(got/want-1) > 1e-6 {
			t.Errorf("%s: softmax scale %v, want %v", name, got, want)
		}
	}
}

func TestInverseFrequencies(t *testing.T) {
	s := byName(t, v2Lite)
	f := s.Rope.InverseFrequencies(64)
	plain := model.Rope{Theta: 1e4}.InverseFrequencies(64)
	if len(f) != 32 {
		t.Fatalf("%d frequencies, want 32", len(f))
	}
	// Pairs 0..10 turn more than 32 times over 4096 positions and stay, pairs
	// from 23 turn less than once and are slowed down 40 times.
	for i := range f {
		ratio := plain[i] / f[i]
		switch {
		case i <= 10 && math.Abs(ratio-1) > 1e-12, i >= 23 && math.Abs(ratio-40) > 1e-9, ratio < 1-1e-12, ratio > 40+1e-9:
			t.Errorf("pair %d is slowed down %v times", i, ratio)
		}
	}
	// In between the ramp rises by 1/13 per pair.
	ramp := 6.0 / 13
	if got, want := f[16], plain[16]*(ramp/40+1-ramp); math.Abs(got/want-1) > 1e-12 {
		t.Errorf("pair 16 turns by %v, want %v", got, want)
	}
	if got := s.Rope.AttentionFactor(); got != 1 {
		t.Errorf("attention factor %v, want 1: both mscales are equal", got)
	}
	y := model.Rope{Theta: 1e6, YaRN: &model.YaRN{Factor: 4}}
	if got, want := y.AttentionFactor(), 0.1*math.Log(4)+1; got != want {
		t.Errorf("attention factor without mscale %v, want %v", got, want)
	}
}

// edit returns the config of a catalogue model with fields replaced; a nil
// value removes the field.
func edit(t *testing.T, name string, changes map[string]any) []byte {
	t.Helper()
	b, err := model.ConfigByName(name)
	if err != nil {
		t.Fatal(err)
	}
	var fields map[string]any
	if err := json.Unmarshal(b, &fields); err != nil {
		t.Fatal(err)
	}
	for k, v := range changes {
		if v == nil {
			delete(fields, k)
		} else {
			fields[k] = v
		}
	}
	if b, err = json.Marshal(fields); err != nil {
		t.Fatal(err)
	}
	return b
}

func TestParseRefusesWithFieldValueAndRemedy(t *testing.T) {
	type change = map[string]any
	tests := map[string]struct {
		base   string
		change change
		want   []string
	}{
		"unknown architecture":     {v2, change{"model_type": "mixtral"}, []string{`model_type is "mixtral"`, "deepseek_v2, deepseek_v3, qwen3_moe"}},
		"no architecture":          {v2, change{"model_type": nil}, []string{"model_type: missing", "qwen3_moe"}},
		"missing field":            {v2, change{"kv_lora_rank": nil}, []string{"kv_lora_rank: missing", "published with the checkpoint"}},
		"missing epsilon":          {qwen30b, change{"rms_norm_eps": nil}, []string{"rms_norm_eps: missing"}},
		"missing theta":            {qwen30b, change{"rope_theta": nil}, []string{"rope_theta: missing"}},
		"two fields at once":       {v2, change{"kv_lora_rank": nil, "hidden_size": 0}, []string{"kv_lora_rank", "hidden_size is 0"}},
		"wrong type":               {v2, change{"hidden_size": "wide"}, []string{"hidden_size is a JSON string", "int"}},
		"fractional size":          {v2, change{"hidden_size": 1.5}, []string{"hidden_size is a JSON number 1.5"}},
		"negative layers":          {v2, change{"num_hidden_layers": -1}, []string{"num_hidden_layers is -1: must be between 1 and 1024"}},
		"huge hidden size":         {v2, change{"hidden_size": 1 << 40}, []string{"hidden_size is 1099511627776"}},
		"more active than experts": {v2, change{"num_experts_per_tok": 161}, []string{"num_experts_per_tok is 161: must be between 1 and 160"}},
		"all layers dense":         {v2, change{"first_k_dense_replace": 60}, []string{"first_k_dense_replace is 60: must be between 0 and 59"}},
		"every second layer":       {v2, change{"moe_layer_freq": 2}, []string{"moe_layer_freq is 2: only 1"}},
		"qwen with dense layers":   {qwen30b, change{"mlp_only_layers": []int{3}}, []string{"mlp_only_layers is a list of 1"}},
		"other activation":         {v2, change{"hidden_act": "gelu"}, []string{"hidden_act is gelu: only silu"}},
		"attention bias":           {qwen30b, change{"attention_bias": true}, []string{"attention_bias is true: only false"}},
		"uneven groups":            {v2, change{"n_group": 7}, []string{"n_group is 7: must divide n_routed_experts, 160"}},
		"groups too small":         {v2, change{"n_group": 80, "topk_group": 2}, []string{"topk_group is 2: 4 experts in the kept groups"}},
		"unknown selection":        {v2, change{"topk_method": "random"}, []string{`topk_method is "random"`, "noaux_tc"}},
		"unknown scoring":          {v3, change{"scoring_func": "tanh"}, []string{`scoring_func is "tanh"`, "sigmoid"}},
		"unknown rope":             {qwen30b, change{"rope_scaling": change{"type": "longrope", "factor": 2}}, []string{`rope_scaling.type is "longrope"`, "yarn"}},
		"yarn without factor":      {v2, change{"rope_scaling": change{"type": "yarn"}}, []string{"rope_scaling.factor: missing"}},
		"odd rope part":            {v2, change{"qk_rope_head_dim": 63}, []string{"qk_rope_head_dim is 63: must be even"}},
		"heads not divisible":      {qwen30b, change{"num_key_value_heads": 5}, []string{"num_key_value_heads is 5: must divide num_attention_heads, 32"}},
		"grouped MLA":              {v2, change{"num_key_value_heads": 8}, []string{"num_key_value_heads is 8: only 128"}},
		"unknown dtype":            {v2, change{"torch_dtype": "int4"}, []string{`torch_dtype is "int4"`}},
		"unknown quantisation":     {v2, change{"quantization_config": change{"quant_method": "awq"}}, []string{`quantization_config is "awq"`, "unquantised"}},
		"eos outside vocabulary":   {v2, change{"eos_token_id": []int{1, 200000}}, []string{"eos_token_id is 200000"}},
		"eos of wrong type":        {v2, change{"eos_token_id": "end"}, []string{"eos_token_id", "list of integers"}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			s, err := model.Parse(edit(t, tc.base, tc.change))
			if err == nil {
				t.Fatalf("accepted as %+v", s)
			}
			for _, want := range tc.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q does not mention %q", err, want)
				}
			}
			var field *model.FieldError
			if !errors.As(err, &field) {
				t.Errorf("error %q is no FieldError", err)
			}
		})
	}
}

func TestParseRefusesWhatIsNoObject(t *testing.T) {
	tests := map[string]string{
		"": "empty", "{": "not valid JSON", "[]": "wrong type", "<html>": "not valid JSON",
		`{"model_type":"deepseek_v2"} {}`: "after the closing brace",
		strings.Repeat(" ", 2<<20):        "right file",
		strings.Repeat("[", 100_000):      "not valid JSON",
	}
	for in, want := range tests {
		if _, err := model.Parse([]byte(in)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Parse(%.20q) = %v, want an error with %q", in, err, want)
		}
	}
}

func TestParseAcceptsOtherSpellings(t *testing.T) {
	type change = map[string]any
	yarn := change{"rope_type": "yarn", "rope_theta": 10000, "factor": 40, "original_max_position_embeddings": 4096,
		"beta_fast": 32, "beta_slow": 1, "mscale": 0.707, "mscale_all_dim": 0.707}
	tests := map[string]struct {
		base   string
		change change
	}{
		"unknown field":           {v2, change{"auto_map": change{"AutoConfig": "x"}}},
		"rope_parameters":         {v2, change{"rope_scaling": nil, "rope_theta": nil, "rope_parameters": yarn}},
		"dtype":                   {v2, change{"torch_dtype": nil, "dtype": "bfloat16"}},
		"one eos in a list":       {v2, change{"eos_token_id": []int{100001}}},
		"defaults of V2":          {v2Lite, change{"scoring_func": nil, "topk_method": nil, "n_group": nil, "topk_group": nil, "norm_topk_prob": nil, "routed_scaling_factor": nil, "num_key_value_heads": nil}},
		"defaults of V3":          {v3, change{"scoring_func": nil, "topk_method": nil, "norm_topk_prob": nil}},
		"head_dim of its default": {qwen30b, change{"hidden_size": 4096, "head_dim": nil}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := model.Parse(edit(t, tc.base, tc.change))
			if err != nil {
				t.Fatal(err)
			}
			want := byName(t, tc.base)
			if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(model.Shape{}, "Name", "HiddenSize")); diff != "" {
				t.Errorf("shape (-want +got):\n%s", diff)
			}
		})
	}
}

func TestMissingTokensAreOptional(t *testing.T) {
	s, err := model.Parse(edit(t, v2, map[string]any{"bos_token_id": nil, "eos_token_id": nil}))
	if err != nil {
		t.Fatal(err)
	}
	if s.BOSTokenID != -1 || len(s.EOSTokenIDs) != 0 {
		t.Errorf("bos %d, eos %v; want -1 and none", s.BOSTokenID, s.EOSTokenIDs)
	}
}

func TestByNameListsTheCatalogue(t *testing.T) {
	_, err := model.ByName("deepseek-ai/DeepSeek-V9")
	if err == nil {
		t.Fatal("unknown model accepted")
	}
	for _, name := range model.Names() {
		if !strings.Contains(err.Error(), name) {
			t.Errorf("error %q does not list %s", err, name)
		}
	}
}

// Test data for other packages are links to the catalogue.
func TestTestdataMatchesCatalogue(t *testing.T) {
	for _, name := range model.Names() {
		want, err := model.ConfigByName(name)
		if err != nil {
			t.Fatal(err)
		}
		file := strings.ToLower(filepath.Base(name)) + ".json"
		got, err := os.ReadFile(filepath.Join("..", "..", "test", "testdata", "configs", file))
		if err != nil {
			t.Fatal(err)
		}
		if string(got) != string(want) {
			t.Errorf("%s differs from the catalogue's %s", file, name)
		}
	}
}

// Whatever Parse accepts has positive counts that did not overflow.
func FuzzParse(f *testing.F) {
	for _, name := range model.Names() {
		config, err := model.ConfigByName(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(config)
	}
	f.Add([]byte(`{"model_type":"qwen3_moe","hidden_size":65536,"num_hidden_layers":1024,"moe_intermediate_size":262144,"num_experts":16384}`))
	f.Fuzz(func(t *testing.T, config []byte) {
		s, err := model.Parse(config)
		if err != nil {
			return
		}
		p := s.Parameters()
		routed := float64(s.MoELayers()) * float64(s.MoE.Experts) * 3 * float64(s.HiddenSize) * float64(s.MoE.IntermediateSize)
		if p.Total <= 0 || p.Activated <= 0 || p.Activated > p.Total || math.Abs(float64(p.RoutedTotal)/routed-1) > 1e-9 {
			t.Errorf("counts %+v of %+v", p, s)
		}
		if s.KVBytesPerToken(model.Float32) <= 0 || p.Total > math.MaxInt64/4 {
			t.Errorf("byte counts overflow for %+v", s)
		}
		if scale := s.SoftmaxScale(); !(scale > 0) || math.IsInf(scale, 0) {
			t.Errorf("softmax scale %v", scale)
		}
		for _, w := range s.Rope.InverseFrequencies(s.Attention.RopeDim()) {
			if math.IsNaN(w) || math.IsInf(w, 0) {
				t.Errorf("frequency %v for %+v", w, s.Rope)
			}
		}
	})
}
