// SPDX-License-Identifier: Apache-2.0

package reference

import (
	"math"

	"github.com/findep/findep-operator/runtime/backend"
)

// Router implements backend.Stream.
func (*stream) Router(weightsM, expertsM, logitsM, biasM backend.Matrix, p backend.RouterArgs) error {
	a := args{op: "router"}
	weights, logits := a.f32("weights", weightsM), a.f32("logits", logitsM)
	experts := a.i32("experts", expertsM, 0, 0)
	p.Groups = max(p.Groups, 1)
	if !positive(&a, p.Experts, p.TopK) {
		return a.err
	}
	checkRouter(&a, &p)
	bias := make([]float32, p.Experts)
	if !biasM.Empty() {
		v := a.f32("bias", biasM)
		a.shape("bias", v.rows, v.cols, 1, p.Experts)
		if a.err == nil {
			bias = v.row(0)
		}
	}
	a.shape("logits", logits.rows, logits.cols, logits.rows, p.Experts)
	a.shape("weights", weights.rows, weights.cols, logits.rows, p.TopK)
	a.shape("experts", experts.rows, experts.cols, logits.rows, p.TopK)
	if a.err != nil {
		return a.err
	}
	for r := range logits.rows {
		route(weights.row(r), experts.row(r), logits.row(r), bias, p)
	}
	return nil
}

func checkRouter(a *args, p *backend.RouterArgs) {
	if p.Groups == 1 {
		p.TopKGroups = 1
	}
	a.require(p.Scoring <= backend.Sigmoid, "unknown scoring %d", p.Scoring)
	a.require(p.Scale != 0, "Scale is 0, which would lose every expert's output; use 1 for no scaling")
	a.require(p.Experts%p.Groups == 0, "%d experts do not divide into %d groups", p.Experts, p.Groups)
	a.require(p.TopKGroups >= 1 && p.TopKGroups <= p.Groups, "TopKGroups is %d of %d groups", p.TopKGroups, p.Groups)
	a.require(p.TopK <= p.TopKGroups*(p.Experts/p.Groups), "TopK is %d but only %d experts compete",
		p.TopK, p.TopKGroups*(p.Experts/p.Groups))
}

// route chooses the experts of one token.
func route(weights []float32, experts []int32, logits, bias []float32, p backend.RouterArgs) {
	scores := score(logits, p.Scoring)
	selection := make([]float32, len(scores))
	for e := range scores {
		selection[e] = scores[e] + bias[e]
	}
	allowed := make([]bool, len(scores))
	size := p.Experts / p.Groups
	for _, g := range best(groupScores(selection, size, p.GroupTop2), nil, p.TopKGroups) {
		for e := g * size; e < (g+1)*size; e++ {
			allowed[e] = true
		}
	}
	var sum float64
	for i, e := range best(selection, allowed, p.TopK) {
		experts[i], weights[i] = int32(e), scores[e]
		sum += float64(scores[e])
	}
	scale := float64(p.Scale)
	if p.Normalize {
		// DeepSeek-V3 adds 1e-20, so that scores that are all zero give zero.
		scale /= sum + 1e-20
	}
	for i := range weights {
		weights[i] = float32(float64(weights[i]) * scale)
	}
}

func score(logits []float32, scoring backend.Scoring) []float32 {
	scores := make([]float32, len(logits))
	if scoring == backend.Sigmoid {
		for e, l := range logits {
			scores[e] = float32(1 / (1 + math.Exp(-float64(l))))
		}
		return scores
	}
	highest, sum := math.Inf(-1), 0.0
	for _, l := range logits {
		highest = max(highest, float64(l))
	}
	for _, l := range logits {
		sum += math.Exp(float64(l) - highest)
	}
	for e, l := range logits {
		scores[e] = float32(math.Exp(float64(l)-highest) / sum)
	}
	return scores
}

// groupScores is the maximum of each group, or the sum of its two largest.
func groupScores(selection []float32, size int, top2 bool) []float32 {
	groups := make([]float32, len(selection)/size)
	for g := range groups {
		group := selection[g*size : (g+1)*size]
		k := 1
		if top2 {
			k = min(2, size)
		}
		for _, e := range best(group, nil, k) {
			groups[g] += group[e]
		}
	}
	return groups
}

// best returns the k places with the largest values, the largest first, equal
// values by place; NaN is smaller than every number. Only allowed places
// compete, or all with nil.
func best(values []float32, allowed []bool, k int) []int {
	chosen := make([]int, 0, k)
	taken := make([]bool, len(values))
	for range k {
		top := -1
		for i, v := range values {
			if taken[i] || allowed != nil && !allowed[i] {
				continue
			}
			if top < 0 || v > values[top] || values[top] != values[top] && v == v {
				top = i
			}
		}
		taken[top] = true
		chosen = append(chosen, top)
	}
	return chosen
}
