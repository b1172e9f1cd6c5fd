// SPDX-License-Identifier: Apache-2.0

package executor_test

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/findep/findep-operator/runtime/backend"
	"github.com/findep/findep-operator/runtime/executor/harness"
	"github.com/findep/findep-operator/runtime/plan"
	"github.com/findep/findep-operator/runtime/weights"
)

// tolerance is the largest difference to the logits of transformers that is
// accepted; float32 rounding alone gives about 1e-5.
const tolerance = 2e-3

// Every reference prompt, all at once and so in batches of different lengths,
// gives the tokens of transformers on every split and under every policy.
func TestOutputsEqualTransformers(t *testing.T) {
	prompts := referencePrompts(t)
	shape := tinyShape(t)
	policies := []plan.Plan{sequential(64), pppipe(8, 3), finDEP(6, 3, 2, plan.ASAS), finDEP(12, 2, 3, plan.AASS)}
	for _, split := range [][2]int{{1, 1}, {2, 1}, {1, 2}, {2, 3}} {
		t.Run("split="+splitName(split[0], split[1]), func(t *testing.T) {
			if testing.Short() && split != [2]int{2, 3} {
				t.Skip("short: the largest split only")
			}
			in := instance(t, harness.Config{Shape: shape, Checkpoint: tinyModel, Attention: split[0], Expert: split[1],
				KVTokens: 1 << 14, MaxContextTokens: 1024, MaxStepTokens: 1 << 14, Depth: 1})
			for _, p := range policies {
				t.Run(p.String(), func(t *testing.T) { compareWithReference(t, in, prompts, p) })
			}
		})
	}
}

func compareWithReference(t *testing.T, in *harness.Instance, prompts []referencePrompt, p plan.Plan) {
	var ask []harness.Prompt
	for i, r := range prompts {
		ask = append(ask, harness.Prompt{ID: uint64(i), Tokens: r.PromptTokens, MaxTokens: len(r.GreedyTokens)})
	}
	got, err := in.Generate(t.Context(), ask, harness.Options{Plan: p})
	if err != nil {
		t.Fatal(err)
	}
	worst := 0.0
	for i, r := range prompts {
		if diff := cmp.Diff(r.GreedyTokens, got[i].Tokens); diff != "" {
			t.Errorf("%s: greedy tokens differ (-transformers +ours):\n%s", r.ID, diff)
		}
		vocabulary := in.Config.Shape.VocabSize
		for row, position := range r.LogitPositions {
			d := maxDifference(r.Logits[row*vocabulary:(row+1)*vocabulary], got[i].PromptLogits[position*vocabulary:(position+1)*vocabulary])
			if !(d <= tolerance) {
				t.Errorf("%s: logits at position %d differ by %v", r.ID, position, d)
			}
			worst = max(worst, d)
		}
	}
	t.Logf("%d prompts on %s: largest difference of logits %.2g", len(prompts), backendName(), worst)
}

// A prompt that comes in pieces, each a step of its own, gives the logits of a
// prompt that comes at once; so does one cut into causal chunks.
func TestPrefillInPiecesAndChunksEqualsPrefillAtOnce(t *testing.T) {
	for _, f := range families(t) {
		t.Run(f.name, func(t *testing.T) {
			in := instance(t, harness.Config{Shape: f.shape, Checkpoint: f.dir, Attention: 2, Expert: 2, OpenDevice: openReference})
			prompts := randomPrompts(f.shape.VocabSize, 37, 2, 16, 5, 1)
			want, err := in.Generate(t.Context(), prompts, harness.Options{Plan: sequential(8)})
			if err != nil {
				t.Fatal(err)
			}
			for name, o := range map[string]harness.Options{
				"two pieces":                  {Plan: finDEP(1, 2, 2, plan.ASAS), Pieces: 2},
				"five pieces":                 {Plan: sequential(8), Pieces: 5},
				"three chunks":                {Plan: chunked(finDEP(2, 1, 2, plan.ASAS), 3)},
				"two chunks, AASS":            {Plan: chunked(finDEP(1, 3, 1, plan.AASS), 2)},
				"two pieces in three chunks":  {Plan: chunked(finDEP(3, 1, 3, plan.AASS), 3), Pieces: 2},
				"more chunks than tokens":     {Plan: chunked(finDEP(3, 1, 1, plan.ASAS), 40)},
				"four chunks under PPPipe":    {Plan: chunked(pppipe(2, 2), 4)},
				"more segments than tokens":   {Plan: finDEP(1, 3, 40, plan.ASAS)},
				"more micro-batches than any": {Plan: finDEP(1, 9, 2, plan.AASS)},
			} {
				t.Run(name, func(t *testing.T) {
					got, err := in.Generate(t.Context(), prompts, o)
					if err != nil {
						t.Fatal(err)
					}
					// The reference kernels treat every row alone, so not even
					// rounding may differ.
					if diff := cmp.Diff(want, got); diff != "" {
						t.Errorf("outputs differ:\n%.2000s", diff)
					}
				})
			}
		})
	}
}

// Outputs depend neither on the plan nor on the number of attention ranks, to
// the last bit; another number of expert ranks only groups the sum differently.
func TestOutputsDoNotDependOnPlanOrSplit(t *testing.T) {
	plans := []plan.Plan{
		pppipe(2, 3), finDEP(1, 4, 1, plan.ASAS), finDEP(2, 2, 3, plan.ASAS), finDEP(2, 2, 3, plan.AASS), finDEP(1, 2, 5, plan.AASS),
	}
	for _, f := range families(t) {
		t.Run(f.name, func(t *testing.T) {
			prompts := randomPrompts(f.shape.VocabSize, 9, 33, 1, 17, 4, 12, 2)
			for _, eg := range []int{1, 2, 3, 5} {
				var want []harness.Completion
				for _, ag := range []int{1, 2, 3, 8} {
					in := instance(t, harness.Config{Shape: f.shape, Checkpoint: f.dir, Attention: ag, Expert: eg, OpenDevice: openReference})
					for _, p := range append([]plan.Plan{sequential(16)}, plans...) {
						got, err := in.Generate(t.Context(), prompts, harness.Options{Plan: p})
						if err != nil {
							t.Fatalf("split %s, %s: %v", splitName(ag, eg), p, err)
						}
						if want == nil {
							want = got
							checkClose(t, f, prompts, want)
						}
						if diff := cmp.Diff(want, got); diff != "" {
							t.Errorf("split %s, %s differs from one attention rank run sequentially:\n%.2000s", splitName(ag, eg), p, diff)
						}
					}
				}
			}
		})
	}
}

// checkClose compares with one expert rank.
func checkClose(t *testing.T, f family, prompts []harness.Prompt, got []harness.Completion) {
	t.Helper()
	in := instance(t, harness.Config{Shape: f.shape, Checkpoint: f.dir, Attention: 1, Expert: 1, OpenDevice: openReference})
	want, err := in.Generate(t.Context(), prompts, harness.Options{Plan: sequential(16)})
	if err != nil {
		t.Fatal(err)
	}
	for i := range want {
		if diff := cmp.Diff(want[i].Tokens, got[i].Tokens); diff != "" {
			t.Errorf("prompt %d: tokens differ from one expert rank's: %s", i, diff)
		}
		if d := maxDifference(want[i].PromptLogits, got[i].PromptLogits); !(d <= 1e-5) {
			t.Errorf("prompt %d: logits differ from one expert rank's by %v", i, d)
		}
	}
}

// Weights of a BF16 checkpoint that stay BF16 are widened exactly when they are
// used, so outputs are those of weights kept in F32.
func TestBF16WeightsOfABF16CheckpointLoseNothing(t *testing.T) {
	prompts := randomPrompts(tinyShape(t).VocabSize, 40, 1, 6)
	generate := func(dtype backend.DType) []harness.Completion {
		in := instance(t, harness.Config{Shape: tinyShape(t), Checkpoint: tinyModel, Attention: 1, Expert: 2, Weights: weights.Options{DType: dtype}})
		got, err := in.Generate(t.Context(), prompts, harness.Options{Plan: finDEP(2, 2, 2, plan.ASAS)})
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	want, got := generate(backend.F32), generate(backend.BF16)
	for i := range want {
		if diff := cmp.Diff(want[i].Tokens, got[i].Tokens); diff != "" {
			t.Errorf("prompt %d: tokens differ (-F32 +BF16):\n%s", i, diff)
		}
		if d := maxDifference(want[i].PromptLogits, got[i].PromptLogits); !(d <= 1e-4) {
			t.Errorf("prompt %d: logits differ by %v", i, d)
		}
	}
}

// The harness itself must notice outputs that differ.
func TestOtherWeightsGiveOtherOutputs(t *testing.T) {
	f := families(t)[0]
	in := instance(t, harness.Config{Shape: f.shape, Checkpoint: f.dir, Attention: 1, Expert: 1, OpenDevice: openReference})
	a, err := in.Generate(t.Context(), randomPrompts(f.shape.VocabSize, 5), harness.Options{Plan: sequential(1)})
	if err != nil {
		t.Fatal(err)
	}
	prompts := randomPrompts(f.shape.VocabSize, 5)
	prompts[0].Tokens[0] ^= 1
	b, err := in.Generate(t.Context(), prompts, harness.Options{Plan: sequential(1)})
	if err != nil {
		t.Fatal(err)
	}
	if cmp.Equal(a, b) {
		t.Error(fmt.Sprint("another first token gives the same logits: ", a[0].Tokens))
	}
}
