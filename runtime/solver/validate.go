// SPDX-License-Identifier: Apache-2.0

package solver

import (
	"fmt"
	"math"

	"github.com/findep/findep-operator/runtime/plan"
	"github.com/findep/findep-operator/runtime/schedule"
)

// Bounds of a valid problem. They keep every computed time finite and every
// byte count within an int64.
const (
	maxMilliseconds = 1e9
	minMilliseconds = 1e-15
	maxKappa        = 1e12
	minKappa        = 1e-12
	maxTokens       = 1 << 24
	maxBatch        = 1 << 24
	maxBytes        = 1 << 50
	maxUnitBytes    = 1 << 44
	maxImbalance    = 1e6
)

// FieldError says which field of the input cannot be used. Field is the JSON
// path.
type FieldError struct {
	Field, Value, Problem string
}

// Error implements error.
func (e *FieldError) Error() string {
	return fmt.Sprintf("%s is %s: %s", e.Field, e.Value, e.Problem)
}

// Validate returns a FieldError for the first field that is out of bounds.
func (p *Problem) Validate() error {
	if err := p.validateTimes(); err != nil {
		return err
	}
	if err := p.validateCounts(); err != nil {
		return err
	}
	switch p.Order {
	case "", plan.OrderAuto, plan.ASAS, plan.AASS:
	default:
		return &FieldError{"order", fmt.Sprintf("%q", string(p.Order)), "use ASAS, AASS or Auto"}
	}
	if p.Memory == nil {
		if p.Batch == 0 && p.Limits.SamplesInFlight == 0 && p.Limits.MaxMicroBatch == 0 && p.Limits.MakespanMilliseconds == 0 {
			return &FieldError{"limits", "empty", "nothing bounds the batch; give batch, memory, limits.samplesInFlight, limits.maxMicroBatch or limits.makespanMilliseconds"}
		}
		return nil
	}
	return p.Memory.validate()
}

func (p *Problem) validateTimes() error {
	if f := p.Stages.invalid(); f.name != "" {
		return f.refuse("stages.")
	}
	if n := len(p.PerLayer); n > 0 && n != p.Layers {
		return &FieldError{"perLayer", fmt.Sprintf("%d entries", n), fmt.Sprintf("need one for each of %d layers, or none", p.Layers)}
	}
	sum := p.Stages.total()
	for i := range p.PerLayer {
		s := &p.PerLayer[i]
		if f := s.invalid(); f.name != "" {
			return f.refuse(fmt.Sprintf("perLayer[%d].", i))
		}
		sum += s.total()
	}
	if sum == 0 {
		return &FieldError{"stages", "all zero", "give the time of at least one stage"}
	}
	for _, f := range [...]namedTime{
		{"dense.alpha", p.Dense.Alpha}, {"dense.beta", p.Dense.Beta}, {"dense.quadratic", p.Dense.Quadratic},
		{"head.alpha", p.Head.Alpha}, {"head.beta", p.Head.Beta},
		{"outside.alpha", p.Outside.Alpha}, {"outside.beta", p.Outside.Beta},
		{"expertLoadMilliseconds", p.ExpertLoadMilliseconds},
		{"limits.makespanMilliseconds", p.Limits.MakespanMilliseconds},
	} {
		if !f.valid() {
			return f.refuse("")
		}
	}
	return p.validateFactors()
}

func (p *Problem) validateFactors() error {
	if k := p.TokensPerExpertPerSample; !(k >= minKappa && k <= maxKappa) {
		return &FieldError{"tokensPerExpertPerSample", fmt.Sprint(k), fmt.Sprintf("must be between %g and %g", minKappa, maxKappa)}
	}
	if f := p.ExpertImbalance; f != 0 && !(f >= 1 && f <= maxImbalance) {
		return &FieldError{"expertImbalance", fmt.Sprint(f), fmt.Sprintf("must be 0 (none) or between 1 and %g", float64(maxImbalance))}
	}
	if a := p.ExpertActivation; a != 0 && !(a >= minKappa && a <= 1) {
		return &FieldError{"expertActivation", fmt.Sprint(a), "must be 0 (unknown) or a probability, top_k/E"}
	}
	return nil
}

// namedTime is a coefficient and its place in the JSON form.
type namedTime struct {
	name  string
	value float64
}

// valid is written so that NaN fails too.
func (f namedTime) valid() bool {
	return f.value == 0 || f.value >= minMilliseconds && f.value <= maxMilliseconds
}

func (f namedTime) refuse(prefix string) error {
	return &FieldError{prefix + f.name, fmt.Sprint(f.value), fmt.Sprintf("must be 0 or between %g and %g milliseconds", minMilliseconds, float64(maxMilliseconds))}
}

// invalid returns the first coefficient of a layer that is out of bounds, or
// one without a name.
func (s *Stages) invalid() namedTime {
	for _, f := range [...]namedTime{
		{"attention.alpha", s.Attention.Alpha}, {"attention.beta", s.Attention.Beta}, {"attention.quadratic", s.Attention.Quadratic},
		{"shared.alpha", s.Shared.Alpha}, {"shared.beta", s.Shared.Beta},
		{"expert.alpha", s.Expert.Alpha}, {"expert.beta", s.Expert.Beta},
		{"a2e.alpha", s.A2E.Alpha}, {"a2e.beta", s.A2E.Beta},
		{"e2a.alpha", s.E2A.Alpha}, {"e2a.beta", s.E2A.Beta},
	} {
		if !f.valid() {
			return f
		}
	}
	return namedTime{}
}

// total is 0 only if every coefficient is.
func (s *Stages) total() float64 {
	a := s.Attention
	sum := a.Alpha + a.Beta + a.Quadratic
	for _, l := range [...]Affine{s.Shared, s.Expert, s.A2E, s.E2A} {
		sum += l.Alpha + l.Beta
	}
	return sum
}

func (p *Problem) validateCounts() error {
	l := &p.Limits
	for _, f := range [...]struct {
		name            string
		value, low, top int
	}{
		{"layers", p.Layers, 1, schedule.MaxLayers},
		{"attentionGPUs", p.AttentionGPUs, 1, plan.MaxRanks},
		{"sequenceTokens", p.SequenceTokens, 1, maxTokens},
		{"batch", p.Batch, 0, maxBatch},
		{"samples", p.Samples, 0, maxBatch},
		{"limits.samplesInFlight", l.SamplesInFlight, 0, math.MaxInt32},
		{"limits.maxMicroBatch", l.MaxMicroBatch, 0, plan.MaxMicroBatch},
		{"limits.maxPipelineDegree", l.MaxPipelineDegree, 0, plan.MaxR1},
		{"limits.maxSegments", l.MaxSegments, 0, plan.MaxR2},
		{"limits.maxChunks", l.MaxChunks, 0, plan.MaxChunks},
		{"expertTileTokens", p.ExpertTileTokens, 0, maxTokens},
	} {
		if f.value < f.low || f.value > f.top {
			return &FieldError{f.name, fmt.Sprint(f.value), fmt.Sprintf("must be between %d and %d", f.low, f.top)}
		}
	}
	return nil
}

func (m *Memory) validate() error {
	a, e := &m.Attention, &m.Expert
	for _, f := range [...]struct {
		name       string
		value, top int64
	}{
		{"memory.attention.usableBytes", a.UsableBytes, maxBytes},
		{"memory.attention.fixedBytes", a.FixedBytes, math.MaxInt64 / 4},
		{"memory.attention.perSampleBytes", a.PerSampleBytes, maxUnitBytes},
		{"memory.attention.workspaceBytes", a.WorkspaceBytes, maxUnitBytes},
		{"memory.expert.usableBytes", e.UsableBytes, maxBytes},
		{"memory.expert.fixedBytes", e.FixedBytes, math.MaxInt64 / 4},
		{"memory.expert.perTokenBytes", e.PerTokenBytes, maxUnitBytes},
	} {
		if f.value < 0 || f.value > f.top {
			return &FieldError{f.name, fmt.Sprint(f.value), fmt.Sprintf("must be between 0 and %d", f.top)}
		}
	}
	return nil
}
