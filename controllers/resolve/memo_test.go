// SPDX-License-Identifier: Apache-2.0

package resolve

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/findep/findep-operator/runtime/model"
	"github.com/findep/findep-operator/runtime/plan"
	"github.com/findep/findep-operator/runtime/profile"
	"github.com/findep/findep-operator/runtime/solver"
)

func TestMemoAnswersAsTheSolver(t *testing.T) {
	shape, err := model.ByName("deepseek-ai/DeepSeek-V2-Lite")
	if err != nil {
		t.Fatal(err)
	}
	gpu, err := profile.Preset("h100-sxm")
	if err != nil {
		t.Fatal(err)
	}
	base := solver.Instance{
		Shape: shape, Profiles: solver.Profiles{Attention: gpu, Expert: gpu},
		Workload: solver.Workload{Phase: solver.Prefill, SequenceTokens: 512, ContextTokens: 4096},
	}
	slower := *gpu
	slower.MemoryBytes /= 2
	variants := map[string]func(*solver.Instance){
		"as it is":        func(*solver.Instance) {},
		"another phase":   func(in *solver.Instance) { in.Workload.Phase = solver.Decode },
		"more tokens":     func(in *solver.Instance) { in.Workload.SequenceTokens = 1024 },
		"another profile": func(in *solver.Instance) { in.Profiles.Expert = &slower },
		"a limit":         func(in *solver.Instance) { in.Options.Limits.SamplesInFlight = 2 },
	}
	var m memo
	for range 2 {
		for name, change := range variants {
			for _, split := range []solver.Split{{Attention: 2, Expert: 2}, {Attention: 1, Expert: 3}} {
				for _, policy := range []plan.Policy{plan.FinDEP, plan.Sequential} {
					in := base
					change(&in)
					want, err := solver.SolveModel(&in, split, policy)
					if err != nil {
						t.Fatal(err)
					}
					got, err := m.solve(&in, split, policy)
					if err != nil {
						t.Fatal(err)
					}
					if diff := cmp.Diff(want, got); diff != "" {
						t.Errorf("%s, %v, %v: %s", name, split, policy, diff)
					}
				}
			}
		}
	}
	if want := len(variants) * 4; len(m.answers) != want {
		t.Errorf("%d answers are kept, want %d: each question is another one", len(m.answers), want)
	}
}

func TestMemoIsBounded(t *testing.T) {
	var m memo
	m.answers = map[[32]byte]solver.Choice{}
	for n := range memoLimit {
		m.answers[[32]byte{byte(n), byte(n >> 8)}] = solver.Choice{}
	}
	shape, err := model.ByName("deepseek-ai/DeepSeek-V2-Lite")
	if err != nil {
		t.Fatal(err)
	}
	gpu, err := profile.Preset("h100-sxm")
	if err != nil {
		t.Fatal(err)
	}
	in := &solver.Instance{Shape: shape, Profiles: solver.Profiles{Attention: gpu, Expert: gpu}, Workload: solver.Workload{Phase: solver.Decode, ContextTokens: 64}}
	if _, err := m.solve(in, solver.Split{Attention: 1, Expert: 1}, plan.FinDEP); err != nil {
		t.Fatal(err)
	}
	if len(m.answers) > memoLimit {
		t.Errorf("%d answers are kept, at most %d should be", len(m.answers), memoLimit)
	}
}
