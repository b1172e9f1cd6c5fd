// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/findep/findep-operator/runtime/backend"
)

const (
	tinyModel    = "../../test/testdata/tinymodel"
	referenceDir = "../../test/testdata/reference"
	// maxLogitError is the largest difference from transformers in fp32.
	maxLogitError = 2e-3
)

// TestMain lets the test binary act as findep: `findep run` starts its own
// executable once per rank.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "rank" {
		main()
		return
	}
	os.Exit(m.Run())
}

// testBackend is what FINDEP_TEST_BACKEND names, as `make test-cuda` does, else
// the native one where the test was built with it.
func testBackend(t *testing.T) string {
	t.Helper()
	if name := os.Getenv("FINDEP_TEST_BACKEND"); name != "" {
		return name
	}
	dev, err := backend.Open("cpu", backend.Options{})
	if err != nil {
		t.Logf("using the reference backend: %v", err)
		return "reference"
	}
	if err := dev.Close(); err != nil {
		t.Fatal(err)
	}
	return "cpu"
}

type reference struct {
	ID             string  `json:"id"`
	Prompt         string  `json:"prompt"`
	PromptTokens   []int32 `json:"promptTokens"`
	GreedyTokens   []int32 `json:"greedyTokens"`
	GreedyText     string  `json:"greedyText"`
	LogitPositions []int   `json:"logitPositions"`
}

func references(t *testing.T) []reference {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(referenceDir, "prompts.json"))
	if err != nil {
		t.Fatal(err)
	}
	var all []reference
	if err := json.Unmarshal(b, &all); err != nil {
		t.Fatal(err)
	}
	return all
}

func findep(t *testing.T, args ...string) (string, error) {
	t.Helper()
	out, _, err := findepLog(t, args...)
	return out, err
}

// findepLog returns what the command writes to standard output and error.
func findepLog(t *testing.T, args ...string) (out, log string, err error) {
	t.Helper()
	var stdout, progress bytes.Buffer
	root := newRoot()
	root.SetArgs(args)
	root.SetOut(&stdout)
	root.SetErr(&progress)
	err = root.ExecuteContext(t.Context())
	if err != nil && progress.Len() > 0 {
		t.Logf("standard error:\n%s", progress.String())
	}
	return stdout.String(), progress.String(), err
}

// TestRunEqualsTransformers runs real processes in each split and policy.
func TestRunEqualsTransformers(t *testing.T) {
	all := references(t)
	name := testBackend(t)
	n := 0
	for _, split := range [][2]int{{1, 1}, {2, 1}, {1, 2}, {2, 3}} {
		for _, policy := range []string{"FinDEP", "PPPipe", "Sequential"} {
			r := all[n%len(all)]
			n++
			t.Run(fmt.Sprintf("%d+%d/%s/%s", split[0], split[1], policy, r.ID), func(t *testing.T) {
				logits := filepath.Join(t.TempDir(), "logits.npy")
				out, err := findep(t, "run", "--model", tinyModel, "--attention", fmt.Sprint(split[0]), "--expert", fmt.Sprint(split[1]),
					"--policy", policy, "--prompt", r.Prompt, "--max-tokens", fmt.Sprint(len(r.GreedyTokens)),
					"-o", "json", "--logits", logits, "--backend", name)
				if err != nil {
					t.Fatal(err)
				}
				checkRun(t, out, split, r)
				checkLogits(t, logits, r)
			})
		}
	}
}

func checkRun(t *testing.T, out string, split [2]int, r reference) {
	t.Helper()
	var got runResult
	if err := json.Unmarshal([]byte(out), &got); err != nil {
		t.Fatalf("%v in %s", err, out)
	}
	if !slices.Equal(got.Tokens, r.GreedyTokens) {
		t.Errorf("tokens are %v, transformers has %v", got.Tokens, r.GreedyTokens)
	}
	if got.Split.Attention != split[0] || got.Split.Expert != split[1] {
		t.Errorf("split is %+v", got.Split)
	}
	if got.MeasuredTokensPerSecond <= 0 || got.PredictedTokensPerSecond <= 0 || got.Plan.R1 < 1 {
		t.Errorf("figures are missing: %s", out)
	}
}

func checkLogits(t *testing.T, path string, r reference) {
	t.Helper()
	got, columns := readNpy(t, path)
	want, wantColumns := readNpy(t, filepath.Join(referenceDir, "logits_"+r.ID+".npy"))
	if columns != wantColumns || len(got)/columns != len(r.PromptTokens) {
		t.Fatalf("logits are [%d, %d], want [%d, %d]", len(got)/columns, columns, len(r.PromptTokens), wantColumns)
	}
	positions := r.LogitPositions
	if positions == nil {
		for i := range r.PromptTokens {
			positions = append(positions, i)
		}
	}
	worst := 0.0
	for row, position := range positions {
		for c := range columns {
			worst = math.Max(worst, math.Abs(float64(got[position*columns+c]-want[row*columns+c])))
		}
	}
	if !(worst <= maxLogitError) {
		t.Errorf("logits differ from transformers by %g; at most %g is allowed", worst, maxLogitError)
	}
}

// readNpy reads the fp32 matrices that this test meets.
func readNpy(t *testing.T, path string) (data []float32, columns int) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	header := int(binary.LittleEndian.Uint16(b[8:]))
	dict := string(b[10 : 10+header])
	var rows int
	if _, err := fmt.Sscanf(dict[strings.Index(dict, "'shape': ("):], "'shape': (%d, %d)", &rows, &columns); err != nil {
		t.Fatalf("%s: %v in %s", path, err, dict)
	}
	body := b[10+header:]
	if len(body) != 4*rows*columns || (10+header)%64 != 0 {
		t.Fatalf("%s: %d bytes for [%d, %d], data at %d", path, len(body), rows, columns, 10+header)
	}
	for ; len(body) > 0; body = body[4:] {
		data = append(data, math.Float32frombits(binary.LittleEndian.Uint32(body)))
	}
	return data, columns
}

func TestRunNamesWhatIsWrong(t *testing.T) {
	name := testBackend(t)
	dir := t.TempDir()
	for label, tc := range map[string]struct {
		args []string
		want string
		code int
	}{
		"no model":                {[]string{"--prompt", "x"}, "--model is required", exitUsage},
		"no such model":           {[]string{"--model", dir + "/absent", "--prompt", "x"}, "absent: no such file", exitUsage},
		"a file for a model":      {[]string{"--model", tinyModel + "/config.json", "--prompt", "x"}, "name the directory", exitUsage},
		"no model in it":          {[]string{"--model", dir, "--prompt", "x"}, "tokenizer.json", exitUsage},
		"no prompt":               {[]string{"--model", tinyModel}, "--prompt is required", exitUsage},
		"unknown policy":          {[]string{"--model", tinyModel, "--prompt", "x", "--policy", "Fast"}, `"Fast"`, exitUsage},
		"unknown flag":            {[]string{"--fast"}, "unknown flag", exitUsage},
		"no expert rank":          {[]string{"--model", tinyModel, "--prompt", "x", "--expert", "0"}, "expertRanks 0", exitUsage},
		"more ranks than experts": {[]string{"--model", tinyModel, "--prompt", "x", "--expert", "65"}, "only 16 routed experts", exitUsage},
		"prompt beyond context":   {[]string{"--model", tinyModel, "--prompt", "x", "--max-context", "4", "--max-tokens", "9"}, "the context is 4", exitUsage},
	} {
		t.Run(label, func(t *testing.T) {
			_, err := findep(t, append([]string{"run", "--backend", name}, tc.args...)...)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("got %v, want %q", err, tc.want)
			}
			if code := exitCode(err); code != tc.code {
				t.Errorf("exit code %d, want %d", code, tc.code)
			}
		})
	}
}

// TestRunNamesWhatIsWrongWithACheckpoint breaks copies of the model.
func TestRunNamesWhatIsWrongWithACheckpoint(t *testing.T) {
	name := testBackend(t)
	for label, tc := range map[string]struct {
		file string
		edit func([]byte) []byte
		want string
	}{
		"truncated weights":       {"model.safetensors", func(b []byte) []byte { return b[:len(b)/2] }, "model.safetensors"},
		"header cut off":          {"model.safetensors", func(b []byte) []byte { return b[:100] }, "model.safetensors"},
		"tensor missing":          {"model.safetensors", rename("model.layers.2.mlp.experts.3.up_proj.weight"), "model.layers.2.mlp.experts.3.up_proj.weight"},
		"tensor of another shape": {"config.json", replace(`"kv_lora_rank": 64`, `"kv_lora_rank": 32`), "kv_a_proj_with_mqa"},
		"unknown architecture":    {"config.json", replace(`"deepseek_v2"`, `"llama"`), "llama"},
		"config not JSON":         {"config.json", func([]byte) []byte { return []byte("{") }, "config.json"},
	} {
		t.Run(label, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.CopyFS(dir, os.DirFS(tinyModel)); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(dir, tc.file)
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, tc.edit(b), 0o600); err != nil {
				t.Fatal(err)
			}
			_, err = findep(t, "run", "--backend", name, "--model", dir, "--prompt", "And", "--max-tokens", "2")
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
}

func replace(from, to string) func([]byte) []byte {
	return func(b []byte) []byte { return bytes.Replace(b, []byte(from), []byte(to), 1) }
}

// rename keeps the header's length.
func rename(tensor string) func([]byte) []byte {
	return replace(tensor, strings.Repeat("x", len(tensor)))
}

func TestShowCompletion(t *testing.T) {
	var out bytes.Buffer
	answer := `{"choices":[{"text":" there was\na king","finish_reason":"length"}],"usage":{"prompt_tokens":4,"completion_tokens":6}}`
	if err := showCompletion(&out, strings.NewReader(answer), "Once"); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"Once", "there was\n              a king", "4 in, 6 out", "length"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is missing in\n%s", want, out.String())
		}
	}
	for _, bad := range []string{"", "{}", "not json"} {
		if err := showCompletion(&out, strings.NewReader(bad), ""); err == nil || exitCode(err) != exitUsage {
			t.Errorf("%q gave %v", bad, err)
		}
	}
}

func TestShowDeploymentRefusesOtherKinds(t *testing.T) {
	for _, bad := range []string{"", "{}", `{"kind": "List"}`} {
		if err := showDeployment(&bytes.Buffer{}, strings.NewReader(bad)); err == nil || exitCode(err) != exitUsage {
			t.Errorf("%q gave %v", bad, err)
		}
	}
}
