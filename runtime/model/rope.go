// SPDX-License-Identifier: Apache-2.0

package model

import "math"

// Rope describes rotary position embedding.
type Rope struct {
	Theta float64
	// Interleaved rotates pairs (2i, 2i+1) as DeepSeek does; otherwise pairs
	// are (i, i+dim/2) as in Qwen3.
	Interleaved bool
	// YaRN is nil when positions are not scaled.
	YaRN *YaRN
}

// YaRN stretches the context (arXiv 2309.00071), with DeepSeek's mscale fields.
type YaRN struct {
	Factor                        float64
	OriginalMaxPositionEmbeddings int
	BetaFast, BetaSlow            float64
	// MScale and MScaleAllDim are 0 when config.json leaves them out.
	MScale, MScaleAllDim float64
	// ExplicitAttentionFactor replaces the computed factor unless it is 0.
	ExplicitAttentionFactor float64
}

// InverseFrequencies returns the dim/2 angular steps per position of a rotated
// part of dim elements. Under YaRN, dimensions that turn slower than BetaSlow
// times over the original context are interpolated by Factor, those faster
// than BetaFast are kept, and a linear ramp joins them.
func (r Rope) InverseFrequencies(dim int) []float64 {
	f := make([]float64, dim/2)
	for i := range f {
		f[i] = math.Pow(r.Theta, -2*float64(i)/float64(dim))
	}
	if r.YaRN == nil {
		return f
	}
	low, high := r.YaRN.correctionRange(dim, r.Theta)
	for i := range f {
		ramp := min(max((float64(i)-low)/(high-low), 0), 1)
		f[i] = f[i]/r.YaRN.Factor*ramp + f[i]*(1-ramp)
	}
	return f
}

// AttentionFactor multiplies the cosines and sines: 1 without YaRN, and 1 for
// the published DeepSeek models because their two mscales are equal.
func (r Rope) AttentionFactor() float64 {
	switch y := r.YaRN; {
	case y == nil:
		return 1
	case y.ExplicitAttentionFactor != 0:
		return y.ExplicitAttentionFactor
	case y.MScale != 0 && y.MScaleAllDim != 0:
		return yarnMScale(y.Factor, y.MScale) / yarnMScale(y.Factor, y.MScaleAllDim)
	default:
		return yarnMScale(y.Factor, 1)
	}
}

// correctionRange returns the pair indices between which the ramp rises.
func (y *YaRN) correctionRange(dim int, theta float64) (low, high float64) {
	at := func(rotations float64) float64 {
		return float64(dim) * math.Log(float64(y.OriginalMaxPositionEmbeddings)/(rotations*2*math.Pi)) / (2 * math.Log(theta))
	}
	low = max(math.Floor(at(y.BetaFast)), 0)
	high = min(math.Ceil(at(y.BetaSlow)), float64(dim-1))
	if low == high {
		high += 0.001
	}
	return low, high
}

// yarnMScale is DeepSeek's yarn_get_mscale: 0.1*mscale*ln(factor)+1.
func yarnMScale(factor, mscale float64) float64 {
	if factor <= 1 {
		return 1
	}
	return 0.1*mscale*math.Log(factor) + 1
}
