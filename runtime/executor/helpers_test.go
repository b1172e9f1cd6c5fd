// SPDX-License-Identifier: Apache-2.0

package executor_test

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"testing"

	"github.com/findep/findep-operator/runtime/backend"
	"github.com/findep/findep-operator/runtime/backend/reference"
	"github.com/findep/findep-operator/runtime/executor/harness"
	"github.com/findep/findep-operator/runtime/model"
	"github.com/findep/findep-operator/runtime/plan"
	"github.com/findep/findep-operator/runtime/weights"
)

const (
	tinyModel    = "../../test/testdata/tinymodel"
	referenceDir = "../../test/testdata/reference"
)

// backendName prefers the native CPU kernels where they are linked in.
func backendName() string {
	if slices.Contains(backend.Names(), "cpu") {
		return "cpu"
	}
	return reference.Name
}

func openDevice(int) (backend.Device, error) { return backend.Open(backendName(), backend.Options{}) }

func openReference(int) (backend.Device, error) {
	return backend.Open(reference.Name, backend.Options{})
}

// instance starts an instance that ends with the test.
func instance(t testing.TB, c harness.Config) *harness.Instance {
	t.Helper()
	if c.OpenDevice == nil {
		c.OpenDevice = openDevice
	}
	in, err := harness.New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(in.Close)
	return in
}

func tinyShape(t testing.TB) *model.Shape {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(tinyModel, "config.json"))
	if err != nil {
		t.Fatal(err)
	}
	s, err := model.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// referencePrompt is one entry of prompts.json.
type referencePrompt struct {
	ID             string  `json:"id"`
	PromptTokens   []int32 `json:"promptTokens"`
	GreedyTokens   []int32 `json:"greedyTokens"`
	LogitPositions []int   `json:"logitPositions"`
	Logits         []float32
}

func referencePrompts(t testing.TB) []referencePrompt {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(referenceDir, "prompts.json"))
	if err != nil {
		t.Fatal(err)
	}
	var prompts []referencePrompt
	if err := json.Unmarshal(raw, &prompts); err != nil {
		t.Fatal(err)
	}
	for i := range prompts {
		prompts[i].Logits = readNPY(t, filepath.Join(referenceDir, "logits_"+prompts[i].ID+".npy"))
	}
	if len(prompts) < 20 {
		t.Fatalf("%d reference prompts, at least 20 are needed", len(prompts))
	}
	return prompts
}

var npyShape = regexp.MustCompile(`'descr': '<f4', 'fortran_order': False, 'shape': \((\d+), (\d+)\)`)

func readNPY(t testing.TB, path string) []float32 {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if len(raw) < 10 || !bytes.HasPrefix(raw, []byte("\x93NUMPY\x01")) {
		t.Fatalf("%s is no .npy file of version 1", path)
	}
	start := 10 + int(binary.LittleEndian.Uint16(raw[8:]))
	m := npyShape.FindSubmatch(raw[:start])
	if m == nil {
		t.Fatalf("%s has header %q", path, raw[10:start])
	}
	rows, _ := strconv.Atoi(string(m[1]))
	cols, _ := strconv.Atoi(string(m[2]))
	if len(raw) != start+4*rows*cols {
		t.Fatalf("%s has %d bytes of data for %d x %d", path, len(raw)-start, rows, cols)
	}
	v := make([]float32, rows*cols)
	for i := range v {
		v[i] = math.Float32frombits(binary.LittleEndian.Uint32(raw[start+4*i:]))
	}
	return v
}

func maxDifference(a, b []float32) float64 {
	if len(a) != len(b) {
		return math.Inf(1)
	}
	worst := 0.0
	for i := range a {
		d := math.Abs(float64(a[i]) - float64(b[i]))
		if !(d <= worst) { // Also true for NaN.
			worst = d
		}
	}
	return worst
}

func finDEP(ma, r1, r2 int, order plan.Order) plan.Plan {
	return plan.Plan{Policy: plan.FinDEP, MicroBatchSize: ma, R1: r1, R2: r2, Order: order, Chunks: 1}
}

func pppipe(ma, r1 int) plan.Plan {
	return plan.Plan{Policy: plan.PPPipe, MicroBatchSize: ma, R1: r1, R2: 1, Order: plan.ASAS, Chunks: 1}
}

func sequential(ma int) plan.Plan {
	return plan.Plan{Policy: plan.Sequential, MicroBatchSize: ma, R1: 1, R2: 1, Order: plan.ASAS, Chunks: 1}
}

func chunked(p plan.Plan, chunks int) plan.Plan {
	p.Chunks = chunks
	return p
}

// family is a small model of one architecture with random weights.
type family struct {
	name  string
	shape *model.Shape
	dir   string
}

// families covers what the architectures differ in: query latent or not, YaRN,
// group-limited routing by maximum and by the two best with a bias, softmax and
// sigmoid, GQA with head norms, with and without shared experts and dense
// layers, experts that do not divide evenly.
func families(t testing.TB) []family {
	t.Helper()
	configs := map[string]string{
		"deepseek-v2": `{"model_type":"deepseek_v2","hidden_size":32,"num_hidden_layers":4,"first_k_dense_replace":1,"intermediate_size":40,
			"vocab_size":64,"max_position_embeddings":2560,"rms_norm_eps":1e-6,"torch_dtype":"float32","num_attention_heads":4,"num_key_value_heads":4,
			"q_lora_rank":16,"kv_lora_rank":12,"qk_nope_head_dim":8,"qk_rope_head_dim":4,"v_head_dim":6,"rope_theta":10000,
			"rope_scaling":{"type":"yarn","factor":40,"original_max_position_embeddings":64,"beta_fast":32,"beta_slow":1,"mscale":0.707,"mscale_all_dim":0.707},
			"n_routed_experts":8,"num_experts_per_tok":3,"n_shared_experts":2,"moe_intermediate_size":24,"scoring_func":"softmax",
			"topk_method":"group_limited_greedy","n_group":4,"topk_group":2,"norm_topk_prob":false,"routed_scaling_factor":4.0}`,
		"deepseek-v3": `{"model_type":"deepseek_v3","hidden_size":32,"num_hidden_layers":4,"first_k_dense_replace":2,"intermediate_size":20,
			"vocab_size":64,"max_position_embeddings":256,"rms_norm_eps":1e-6,"torch_dtype":"float32","num_attention_heads":2,"num_key_value_heads":2,
			"q_lora_rank":null,"kv_lora_rank":12,"qk_nope_head_dim":8,"qk_rope_head_dim":4,"v_head_dim":8,"rope_theta":10000,"rope_scaling":null,
			"n_routed_experts":12,"num_experts_per_tok":4,"n_shared_experts":1,"moe_intermediate_size":16,"scoring_func":"sigmoid",
			"topk_method":"noaux_tc","n_group":3,"topk_group":2,"norm_topk_prob":true,"routed_scaling_factor":2.5}`,
		"qwen3-moe": `{"model_type":"qwen3_moe","hidden_size":32,"num_hidden_layers":3,"intermediate_size":20,"mlp_only_layers":[],"decoder_sparse_step":1,
			"vocab_size":64,"max_position_embeddings":256,"rms_norm_eps":1e-6,"torch_dtype":"float32","num_attention_heads":4,"num_key_value_heads":2,
			"head_dim":8,"rope_theta":1000000,"num_experts":7,"num_experts_per_tok":2,"moe_intermediate_size":16,"norm_topk_prob":true,"tie_word_embeddings":true}`,
	}
	var all []family
	for i, name := range []string{"deepseek-v2", "deepseek-v3", "qwen3-moe"} {
		s, err := model.Parse([]byte(configs[name]))
		if err != nil {
			t.Fatal(err)
		}
		dir := t.TempDir()
		if err := weights.WriteRandom(filepath.Join(dir, weights.SingleFile), s, uint64(i+1)); err != nil {
			t.Fatal(err)
		}
		all = append(all, family{name, s, dir})
	}
	return all
}

// randomPrompts are deterministic prompts of different lengths.
func randomPrompts(vocabulary int, lengths ...int) []harness.Prompt {
	var prompts []harness.Prompt
	state := uint64(88172645463325252)
	for i, n := range lengths {
		p := harness.Prompt{ID: uint64(i + 1), MaxTokens: 4}
		for range n {
			state ^= state << 13
			state ^= state >> 7
			state ^= state << 17
			p.Tokens = append(p.Tokens, int32(state%uint64(vocabulary)))
		}
		prompts = append(prompts, p)
	}
	return prompts
}

func splitName(ag, eg int) string { return fmt.Sprintf("%d,%d", ag, eg) }
