// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestChunkRangesCoverTheSample(t *testing.T) {
	for name, tc := range map[string]struct {
		chunks     int
		boundaries []int
		tokens     int
		want       []int // ends
	}{
		"whole":               {1, nil, 10, []int{10}},
		"equal":               {3, nil, 10, []int{3, 6, 10}},
		"unequal":             {3, []int{450, 750}, 1000, []int{450, 750, 1000}},
		"unequal, rounded":    {3, []int{450, 750}, 9, []int{4, 6, 9}},
		"short, empty chunks": {3, []int{450, 750}, 1, []int{0, 0, 1}},
		"no tokens":           {4, nil, 0, []int{0, 0, 0, 0}},
		"beyond 32 bits":      {2, []int{999}, 1 << 40, []int{999 << 40 / 1000, 1 << 40}},
	} {
		t.Run(name, func(t *testing.T) {
			b, err := NewBoundaries(tc.boundaries)
			if err != nil {
				t.Fatal(err)
			}
			p := validPlan()
			p.Chunks, p.ChunkBoundaries = tc.chunks, b
			if err := p.Validate(); err != nil {
				t.Fatal(err)
			}
			last := 0
			for c, end := range tc.want {
				if from, to := p.ChunkRange(tc.tokens, c); from != last || to != end {
					t.Errorf("chunk %d is [%d, %d), want [%d, %d)", c, from, to, last, end)
				}
				last = end
			}
		})
	}
}

func TestPlanRefusesBoundaries(t *testing.T) {
	for name, tc := range map[string]struct {
		chunks     int
		boundaries Boundaries
		want       string
	}{
		"too few":    {3, "500", "chunkBoundaries has 1 entries"},
		"whole":      {1, "500", "1 chunks have 0 inner"},
		"descending": {3, "500,400", "chunkBoundaries[1] is 400"},
		"equal":      {3, "500,500", "chunkBoundaries[1] is 500"},
		"the end":    {2, "1000", "chunkBoundaries[0] is 1000"},
		"no integer": {2, "a", `chunkBoundaries[0] is "a"`},
		"not short":  {2, "0500", `chunkBoundaries[0] is "0500"`},
		"dangling":   {3, "500,", `chunkBoundaries[1] is ""`},
	} {
		t.Run(name, func(t *testing.T) {
			p := validPlan()
			p.Chunks, p.ChunkBoundaries = tc.chunks, tc.boundaries
			expectError(t, p.Validate(), tc.want)
		})
	}
}

// Plans without boundaries must encode as before, so that hashes stay the same.
func TestBoundariesInJSON(t *testing.T) {
	p := validPlan()
	without, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"policy":"FinDEP","microBatchSize":2,"r1":2,"r2":4,"order":"AASS","chunks":1}`
	if string(without) != want {
		t.Errorf("a plan without boundaries is %s, want %s", without, want)
	}
	p.Chunks, p.ChunkBoundaries = 3, "450,750"
	with, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	const list = `{"policy":"FinDEP","microBatchSize":2,"r1":2,"r2":4,"order":"AASS","chunks":3,"chunkBoundaries":[450,750]}`
	if string(with) != list {
		t.Errorf("a plan with boundaries is %s, want %s", with, list)
	}
	var back Plan
	if err := json.Unmarshal(with, &back); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(p, back); diff != "" {
		t.Errorf("round trip (-want +got):\n%s", diff)
	}
	for _, bad := range []string{`{"chunkBoundaries":[0]}`, `{"chunkBoundaries":"450"}`, `{"chunkBoundaries":[5,5]}`} {
		if err := json.Unmarshal([]byte(bad), &back); err == nil {
			t.Errorf("%s was accepted", bad)
		}
	}
}
