// SPDX-License-Identifier: Apache-2.0

// Package sampling chooses the next token from logits. It is pure: randomness
// comes from a counter (seed, position), not from a state, so a sequence that
// is recomputed or resumed elsewhere gets the same token at each position.
package sampling

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
)

// Limits on parameters. MaxTopLogProbs is above OpenAI's 20.
const (
	MaxTemperature = 100
	MaxTopLogProbs = 128
)

// Params choose how a token is sampled. The zero value is greedy.
type Params struct {
	// Temperature divides the logits; 0 means greedy: the largest logit, and
	// of equal ones the smallest token.
	Temperature float32 `json:"temperature,omitempty"`
	// TopK keeps the k largest logits; 0 keeps all.
	TopK int `json:"topK,omitempty"`
	// TopP keeps the smallest set of most probable tokens whose probabilities
	// reach it, after TopK; 0 and 1 keep all.
	TopP float32 `json:"topP,omitempty"`
	// Seed selects the random sequence.
	Seed uint64 `json:"seed,omitempty"`
	// TopLogProbs asks for that many most probable tokens beside the chosen.
	TopLogProbs int `json:"topLogProbs,omitempty"`
}

// Validate reports the first parameter out of range.
func (p Params) Validate() error {
	switch {
	case !(p.Temperature >= 0 && p.Temperature <= MaxTemperature):
		return fmt.Errorf("temperature is %v; it must lie between 0 and %d", p.Temperature, MaxTemperature)
	case p.TopK < 0:
		return fmt.Errorf("top_k is %d; it must not be negative", p.TopK)
	case !(p.TopP >= 0 && p.TopP <= 1):
		return fmt.Errorf("top_p is %v; it must lie between 0 and 1", p.TopP)
	case p.TopLogProbs < 0 || p.TopLogProbs > MaxTopLogProbs:
		return fmt.Errorf("logprobs is %d; it must lie between 0 and %d", p.TopLogProbs, MaxTopLogProbs)
	}
	return nil
}

// TokenLogProb is a token with the natural logarithm of its probability.
type TokenLogProb struct {
	Token   int32
	LogProb float32
}

// Choice is a sampled token. Log probabilities are of the model's own
// distribution, before temperature, TopK and TopP.
type Choice struct {
	TokenLogProb
	// Top are the TopLogProbs most probable tokens, most probable first.
	Top []TokenLogProb
}

// ErrLogits is returned for logits that no distribution comes from.
var ErrLogits = errors.New("logits are empty, not a number or infinite")

// Sampler holds scratch memory that calls reuse; the zero value is ready. It is
// used by one goroutine at a time.
type Sampler struct {
	candidates []candidate
}

type candidate struct {
	token  int32
	logit  float32
	weight float64
}

// Sample chooses the token that follows position (the number of tokens before
// it in its sequence). Logits are not changed.
func (s *Sampler) Sample(logits []float32, p Params, position int) (Choice, error) {
	if err := p.Validate(); err != nil {
		return Choice{}, err
	}
	best, err := argmax(logits)
	if err != nil {
		return Choice{}, err
	}
	token := best
	if p.Temperature > 0 {
		token = s.draw(logits, logits[best], p, uniform(p.Seed, uint64(position)))
	}
	norm := logSumExp(logits, logits[best])
	c := Choice{TokenLogProb: TokenLogProb{token, logProb(logits[token], norm)}}
	for _, t := range s.largest(logits, p.TopLogProbs) {
		c.Top = append(c.Top, TokenLogProb{t.token, logProb(t.logit, norm)})
	}
	return c, nil
}

func argmax(logits []float32) (int32, error) {
	best := -1
	for i, v := range logits {
		// Minus infinity is a token that was masked out.
		if v != v || math.IsInf(float64(v), 1) {
			return 0, fmt.Errorf("%w: logit %d is %v", ErrLogits, i, v)
		}
		if best < 0 || v > logits[best] {
			best = i
		}
	}
	if best < 0 || math.IsInf(float64(logits[best]), -1) {
		return 0, fmt.Errorf("%w: none of %d is finite", ErrLogits, len(logits))
	}
	return int32(best), nil
}

func logSumExp(logits []float32, largest float32) float64 {
	sum := 0.0
	for _, v := range logits {
		sum += math.Exp(float64(v) - float64(largest))
	}
	return float64(largest) + math.Log(sum)
}

func logProb(logit float32, norm float64) float32 { return float32(float64(logit) - norm) }

// draw walks the kept tokens, most probable first, until the cumulative
// probability exceeds u.
func (s *Sampler) draw(logits []float32, largest float32, p Params, u float64) int32 {
	k := p.TopK
	if k == 0 {
		k = len(logits)
	}
	kept := s.largest(logits, k)
	total := 0.0
	for i := range kept {
		kept[i].weight = math.Exp((float64(kept[i].logit) - float64(largest)) / float64(p.Temperature))
		total += kept[i].weight
	}
	if p.TopP > 0 && p.TopP < 1 {
		kept, total = nucleus(kept, total*float64(p.TopP))
	}
	target, sum := u*total, 0.0
	for _, c := range kept {
		if sum += c.weight; sum > target {
			return c.token
		}
	}
	// Rounding can leave the target at the total itself.
	return kept[0].token
}

// nucleus is the shortest prefix whose weights reach the threshold.
func nucleus(kept []candidate, threshold float64) ([]candidate, float64) {
	sum := 0.0
	for i, c := range kept {
		if sum += c.weight; sum >= threshold {
			return kept[:i+1], sum
		}
	}
	return kept, sum
}

// largest returns the n largest logits, largest first, ties by token.
func (s *Sampler) largest(logits []float32, n int) []candidate {
	if n <= 0 {
		return nil
	}
	s.candidates = s.candidates[:0]
	for i, v := range logits {
		s.candidates = append(s.candidates, candidate{token: int32(i), logit: v})
	}
	slices.SortFunc(s.candidates, func(a, b candidate) int {
		return cmp.Or(cmp.Compare(b.logit, a.logit), cmp.Compare(a.token, b.token))
	})
	return s.candidates[:min(n, len(s.candidates))]
}

// uniform is a number in [0, 1) that depends on both arguments alone: two
// rounds of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014), so that neighbouring
// seeds and positions are unrelated.
func uniform(seed, position uint64) float64 {
	return float64(mix(mix(seed)^position)>>11) / (1 << 53)
}

func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}
