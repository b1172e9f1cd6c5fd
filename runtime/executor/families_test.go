// SPDX-License-Identifier: Apache-2.0

package executor_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/findep/findep-operator/runtime/backend/reference"
	"github.com/findep/findep-operator/runtime/executor/harness"
	"github.com/findep/findep-operator/runtime/model"
	"github.com/findep/findep-operator/runtime/plan"
)

// familiesTolerance is far below what is asked of the logits (see tolerance),
// because a wrong epsilon or a coefficient in too few bits hides below that;
// FP32 rounding alone gives about 1e-5.
const familiesTolerance = 1e-4

// familiesDir holds what hack/fixtures wrote: random small checkpoints of all
// architectures with what transformers computes from them. Another folder, made
// from another seed, can be tested instead.
func familiesDir() string {
	if dir := os.Getenv("FINDEP_FAMILIES_DIR"); dir != "" {
		return dir
	}
	return "../../test/testdata/families"
}

// familyPrompt is one entry of reference.json. Logits are those of
// LogitPositions; positions count through the prompt into the greedy tokens.
type familyPrompt struct {
	PromptTokens   []int32 `json:"promptTokens"`
	GreedyTokens   []int32 `json:"greedyTokens"`
	LogitPositions []int   `json:"logitPositions"`
	Logits         []float32
}

// checkpointFamily is one configuration.
type checkpointFamily struct {
	name, dir string
	shape     *model.Shape
	prompts   []familyPrompt
}

func loadFamily(t *testing.T, dir string) checkpointFamily {
	t.Helper()
	f := checkpointFamily{name: filepath.Base(dir), dir: dir}
	config, err := os.ReadFile(filepath.Join(dir, "config.json"))
	if err != nil {
		t.Fatal(err)
	}
	if f.shape, err = model.Parse(config); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(filepath.Join(dir, "reference.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(raw, &f.prompts); err != nil {
		t.Fatal(err)
	}
	logits := readNPY(t, filepath.Join(dir, "logits.npy"))
	for i := range f.prompts {
		n := len(f.prompts[i].LogitPositions) * f.shape.VocabSize
		if n == 0 || n > len(logits) {
			t.Fatalf("%s: prompt %d has %d logits of %d left", f.name, i, n, len(logits))
		}
		f.prompts[i].Logits, logits = logits[:n], logits[n:]
	}
	if len(logits) != 0 || len(f.prompts) == 0 {
		t.Fatalf("%s: %d logits belong to no prompt of %d", f.name, len(logits), len(f.prompts))
	}
	return f
}

// wayToRun is one policy with one way of prefilling.
type wayToRun struct {
	name    string
	options harness.Options
}

// waysToRun crosses every policy with prefill in one piece, in pieces of one
// step each, in causal chunks, and in both.
func waysToRun() []wayToRun {
	var ways []wayToRun
	for _, p := range []plan.Plan{sequential(4), pppipe(1, 2), finDEP(1, 3, 2, plan.ASAS), finDEP(2, 2, 3, plan.AASS)} {
		ways = append(ways,
			wayToRun{"whole", harness.Options{Plan: p}},
			wayToRun{"three pieces", harness.Options{Plan: p, Pieces: 3}})
		if p.Policy == plan.Sequential {
			continue // It has one micro-batch, hence one chunk.
		}
		ways = append(ways,
			wayToRun{"three chunks", harness.Options{Plan: chunked(p, 3)}},
			wayToRun{"two pieces in two chunks", harness.Options{Plan: chunked(p, 2), Pieces: 2}})
	}
	return ways
}

// splitsOf lists the splits up to (3,3) that configuration number i runs on: all
// nine on the native kernels. The reference kernels are slower and get the
// largest and two others, so that any four configurations in a row, hence every
// family, cover all of them. Short tests have the largest only.
func splitsOf(i int) [][2]int {
	others := [][2]int{{1, 1}, {1, 2}, {1, 3}, {2, 1}, {2, 2}, {2, 3}, {3, 1}, {3, 2}}
	largest := [2]int{3, 3}
	switch {
	case testing.Short():
		return [][2]int{largest}
	case backendName() == reference.Name:
		return [][2]int{largest, others[2*i%len(others)], others[(2*i+1)%len(others)]}
	default:
		return append(others, largest)
	}
}

// Every configuration of every family gives the logits and the greedy tokens of
// transformers, under every policy, for each way of prefilling, and in decode.
func TestFamiliesEqualTransformers(t *testing.T) {
	dirs, err := filepath.Glob(filepath.Join(familiesDir(), "*", "config.json"))
	if err != nil {
		t.Fatal(err)
	}
	if len(dirs) < 24 {
		t.Fatalf("%d configurations in %s, at least 24 are needed", len(dirs), familiesDir())
	}
	for i, config := range dirs {
		f := loadFamily(t, filepath.Dir(config))
		t.Run(f.name, func(t *testing.T) {
			worst := 0.0
			for _, split := range splitsOf(i) {
				in := instance(t, harness.Config{Shape: f.shape, Checkpoint: f.dir, Attention: split[0], Expert: split[1], KVTokens: 512, MaxStepTokens: 256})
				for _, way := range waysToRun() {
					worst = max(worst, f.compare(t, in, fmt.Sprintf("split %s, %s, %s", splitName(split[0], split[1]), way.options.Plan, way.name), way.options))
				}
				in.Close()
			}
			t.Logf("on %s: largest difference of logits %.2g", backendName(), worst)
		})
	}
}

// compare runs all prompts together and returns the largest difference.
func (f checkpointFamily) compare(t *testing.T, in *harness.Instance, what string, o harness.Options) float64 {
	t.Helper()
	var ask []harness.Prompt
	for i, p := range f.prompts {
		ask = append(ask, harness.Prompt{ID: uint64(i), Tokens: p.PromptTokens, MaxTokens: len(p.GreedyTokens)})
	}
	got, err := in.Generate(t.Context(), ask, o)
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	worst, vocabulary := 0.0, f.shape.VocabSize
	for i, p := range f.prompts {
		if diff := cmp.Diff(p.GreedyTokens, got[i].Tokens); diff != "" {
			t.Errorf("%s: prompt %d: greedy tokens differ (-transformers +ours):\n%s", what, i, diff)
			continue
		}
		logits := append(got[i].PromptLogits, got[i].Logits...)
		for row, position := range p.LogitPositions {
			d := maxDifference(p.Logits[row*vocabulary:(row+1)*vocabulary], logits[position*vocabulary:(position+1)*vocabulary])
			if !(d <= familiesTolerance) {
				t.Errorf("%s: prompt %d: logits at position %d differ by %v", what, i, position, d)
			}
			worst = max(worst, d)
		}
	}
	return worst
}
