// SPDX-License-Identifier: Apache-2.0

package sampling_test

import (
	"errors"
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/findep/findep-operator/runtime/sampling"
)

var inf = float32(math.Inf(1))

func sample(t *testing.T, logits []float32, p sampling.Params, position int) sampling.Choice {
	t.Helper()
	var s sampling.Sampler
	c, err := s.Sample(logits, p, position)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestGreedyTakesTheLargestAndOfEqualsTheFirst(t *testing.T) {
	tests := map[string]struct {
		logits []float32
		want   int32
	}{
		"largest": {[]float32{0, 3, 2}, 1},
		"tie":     {[]float32{1, 5, 5}, 1},
		"one":     {[]float32{-7}, 0},
		"masked":  {[]float32{-inf, -3, -inf}, 1},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if got := sample(t, tc.logits, sampling.Params{}, 0); got.Token != tc.want {
				t.Errorf("token %d, want %d", got.Token, tc.want)
			}
		})
	}
}

func TestFrequenciesFollowTheTemperedDistribution(t *testing.T) {
	logits := []float32{0, 1, 2, -1}
	const n = 20000
	tests := map[string]struct {
		params sampling.Params
		kept   []int
	}{
		"plain":           {sampling.Params{Temperature: 1}, []int{0, 1, 2, 3}},
		"cold":            {sampling.Params{Temperature: 0.5}, []int{0, 1, 2, 3}},
		"top 2":           {sampling.Params{Temperature: 1, TopK: 2}, []int{1, 2}},
		"top 0.8":         {sampling.Params{Temperature: 1, TopP: 0.8}, []int{1, 2}},
		"top 3 and 0.7":   {sampling.Params{Temperature: 1, TopK: 3, TopP: 0.7}, []int{1, 2}},
		"top k beyond":    {sampling.Params{Temperature: 1, TopK: 99}, []int{0, 1, 2, 3}},
		"tiny top p":      {sampling.Params{Temperature: 1, TopP: 1e-6}, []int{2}},
		"very cold":       {sampling.Params{Temperature: 1e-6}, []int{2}},
		"another seed":    {sampling.Params{Temperature: 1, Seed: 1 << 60}, []int{0, 1, 2, 3}},
		"hot":             {sampling.Params{Temperature: 100}, []int{0, 1, 2, 3}},
		"top p of all":    {sampling.Params{Temperature: 1, TopP: 1}, []int{0, 1, 2, 3}},
		"top p just five": {sampling.Params{Temperature: 1, TopP: 0.5, TopK: 4}, []int{2}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			want, total := map[int]float64{}, 0.0
			for _, k := range tc.kept {
				want[k] = math.Exp(float64(logits[k]) / float64(tc.params.Temperature))
				total += want[k]
			}
			got := map[int]int{}
			for position := range n {
				got[int(sample(t, logits, tc.params, position).Token)]++
			}
			for k := range logits {
				p := want[k] / total
				if diff := math.Abs(float64(got[k])/n - p); diff > 5*math.Sqrt(p*(1-p)/n)+1e-9 {
					t.Errorf("token %d came %d times in %d, its probability is %v", k, got[k], n, p)
				}
			}
		})
	}
}

func TestTokenDependsOnSeedAndPositionAlone(t *testing.T) {
	logits := make([]float32, 1000)
	p := sampling.Params{Temperature: 1, Seed: 7}
	draw := func(p sampling.Params, from int) (tokens []int32) {
		var s sampling.Sampler
		for position := from; position < 40; position++ {
			c, err := s.Sample(logits, p, position)
			if err != nil {
				t.Fatal(err)
			}
			tokens = append(tokens, c.Token)
		}
		return tokens
	}
	all := draw(p, 0)
	if diff := cmp.Diff(all[25:], draw(p, 25)); diff != "" {
		t.Errorf("a sequence resumed at 25 differs: %s", diff)
	}
	p.Seed = 8
	if cmp.Equal(all, draw(p, 0)) {
		t.Error("another seed gives the same tokens")
	}
}

func TestLogProbsAreOfTheModelsDistribution(t *testing.T) {
	logits := []float32{1, 3, 2}
	sum := math.Exp(1) + math.Exp(2) + math.Exp(3)
	want := func(logit float64) float32 { return float32(logit - math.Log(sum)) }
	got := sample(t, logits, sampling.Params{TopLogProbs: 2}, 0)
	if math.Abs(float64(got.LogProb-want(3))) > 1e-6 {
		t.Errorf("log probability %v, want %v", got.LogProb, want(3))
	}
	if len(got.Top) != 2 || got.Top[0].Token != 1 || got.Top[1].Token != 2 || math.Abs(float64(got.Top[1].LogProb-want(2))) > 1e-6 {
		t.Errorf("top tokens %v", got.Top)
	}
	if diff := cmp.Diff([]float32{1, 3, 2}, logits); diff != "" {
		t.Errorf("logits were changed: %s", diff)
	}
}

func TestBadInputIsAnError(t *testing.T) {
	nan := float32(math.NaN())
	for name, logits := range map[string][]float32{"none": {}, "nan": {1, nan}, "infinite": {1, inf}, "all masked": {-inf, -inf}} {
		var s sampling.Sampler
		if _, err := s.Sample(logits, sampling.Params{Temperature: 1}, 0); !errors.Is(err, sampling.ErrLogits) {
			t.Errorf("%s: error %v", name, err)
		}
	}
	for _, p := range []sampling.Params{{Temperature: -1}, {Temperature: nan}, {Temperature: 101}, {TopK: -1}, {TopP: 1.1}, {TopP: nan}, {TopLogProbs: -1}, {TopLogProbs: 1000}} {
		var s sampling.Sampler
		if _, err := s.Sample([]float32{1, 2}, p, 0); err == nil {
			t.Errorf("%+v accepted", p)
		}
	}
}
