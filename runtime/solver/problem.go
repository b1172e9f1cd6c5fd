// SPDX-License-Identifier: Apache-2.0

// Package solver finds the plan (micro-batch size, pipeline degrees, order)
// that serves the most tokens per second within memory and latency limits.
//
// It has two layers. The stage form (Problem, Solve) knows only linear times
// per stage and is exact: its answer equals exhaustive search, in microseconds
// and without allocating. The model form (FromModel, SolveModel, SolveTotal)
// makes a Problem from a model shape, profiles and a workload, and chooses the
// split of GPUs into attention and expert group.
//
// Everything is pure and deterministic: equal problems give equal results. A
// problem without a solution is a Result with Infeasible set; errors are for
// invalid input only.
package solver

import (
	"fmt"
	"math"

	"github.com/findep/findep-operator/runtime/plan"
	"github.com/findep/findep-operator/runtime/schedule"
)

// Affine is the time alpha + beta*x of a stage in milliseconds.
type Affine struct {
	Alpha float64 `json:"alpha"`
	Beta  float64 `json:"beta"`
}

// At evaluates the line.
func (a Affine) At(x float64) float64 { return a.Alpha + a.Beta*x }

// Stages are the linear models of one layer. Attention and Shared are in
// samples per micro-batch (m_a); Expert, A2E and E2A in tokens per expert and
// segment (m_e).
type Stages struct {
	Attention Affine `json:"attention"`
	Shared    Affine `json:"shared"`
	Expert    Affine `json:"expert"`
	A2E       Affine `json:"a2e"`
	E2A       Affine `json:"e2a"`
}

// Problem is the stage form. Limits with value 0 do not apply.
type Problem struct {
	Stages Stages `json:"stages"`
	// Layers is T, the number of MoE layers.
	Layers int `json:"layers"`
	// TokensPerExpertPerSample is kappa = ag*top_k*S/E: m_e = m_a*kappa/r2.
	TokensPerExpertPerSample float64 `json:"tokensPerExpertPerSample"`
	// AttentionGPUs is ag; every one runs r1*m_a samples.
	AttentionGPUs int `json:"attentionGPUs"`
	// SequenceTokens is S, the new tokens per sample: 1 in decode.
	SequenceTokens int `json:"sequenceTokens"`
	// Batch, if set, is the number of samples per attention GPU that one
	// forward pass must process (online serving); the plan minimises its time.
	// Otherwise the plan maximises throughput over all batches.
	Batch int `json:"batch,omitempty"`
	// Samples is the number of samples over all attention GPUs when the batch
	// does not fill them evenly; 0 means Batch*AttentionGPUs.
	Samples int `json:"samples,omitempty"`
	// Order restricts the search to one order; Auto or empty tries both.
	Order plan.Order `json:"order,omitempty"`
	// ExpertLoadMilliseconds is the time to read all local experts of a layer
	// from memory: an expert task takes at least that, or the part of it for
	// the experts it touches, min(1, m_e).
	ExpertLoadMilliseconds float64 `json:"expertLoadMilliseconds,omitempty"`
	// Outside is the time per micro-batch outside the pipeline (embedding,
	// dense layers, output head), in samples per micro-batch.
	Outside Affine `json:"outside,omitzero"`
	// Limits bound the search.
	Limits Limits `json:"limits,omitzero"`
	// Memory bounds it by what fits; nil means that memory is no limit.
	Memory *Memory `json:"memory,omitempty"`
}

// Limits bound a plan; 0 means the default or none.
type Limits struct {
	// SamplesInFlight bounds r1*m_a per attention GPU.
	SamplesInFlight int `json:"samplesInFlight,omitempty"`
	// MaxMicroBatch bounds m_a; default plan.MaxMicroBatch.
	MaxMicroBatch int `json:"maxMicroBatch,omitempty"`
	// MaxPipelineDegree bounds r1; default plan.MaxR1.
	MaxPipelineDegree int `json:"maxPipelineDegree,omitempty"`
	// MaxSegments bounds r2; default DefaultMaxSegments.
	MaxSegments int `json:"maxSegments,omitempty"`
	// MakespanMilliseconds bounds the forward pass: the time to first token in
	// prefill, the time per output token in decode.
	MakespanMilliseconds float64 `json:"makespanMilliseconds,omitempty"`
}

// DefaultMaxSegments bounds r2 unless Limits say otherwise. Beyond it each
// segment costs a launch and saves next to nothing.
const DefaultMaxSegments = 64

// Memory says what fits, in bytes of one GPU of each group.
type Memory struct {
	Attention AttentionMemory `json:"attention"`
	Expert    ExpertMemory    `json:"expert"`
}

// AttentionMemory bounds the samples in flight:
// fixed + workspace*m_a + perSample*r1*m_a <= usable.
type AttentionMemory struct {
	UsableBytes int64 `json:"usableBytes"`
	// FixedBytes are weights.
	FixedBytes int64 `json:"fixedBytes"`
	// PerSampleBytes are KV cache and activations of a sample in flight.
	PerSampleBytes int64 `json:"perSampleBytes"`
	// WorkspaceBytes are temporaries per sample of the running micro-batch.
	WorkspaceBytes int64 `json:"workspaceBytes"`
}

// ExpertMemory bounds the tokens of a segment:
// fixed + perToken*m_e <= usable.
type ExpertMemory struct {
	UsableBytes int64 `json:"usableBytes"`
	// FixedBytes are the weights of the local experts of all layers.
	FixedBytes int64 `json:"fixedBytes"`
	// PerTokenBytes are the buffers of all segments in the ring, per token and
	// expert of a segment.
	PerTokenBytes int64 `json:"perTokenBytes"`
}

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
	s := &p.Stages
	sum := 0.0
	for _, f := range [...]struct {
		name  string
		value float64
	}{
		{"stages.attention.alpha", s.Attention.Alpha}, {"stages.attention.beta", s.Attention.Beta},
		{"stages.shared.alpha", s.Shared.Alpha}, {"stages.shared.beta", s.Shared.Beta},
		{"stages.expert.alpha", s.Expert.Alpha}, {"stages.expert.beta", s.Expert.Beta},
		{"stages.a2e.alpha", s.A2E.Alpha}, {"stages.a2e.beta", s.A2E.Beta},
		{"stages.e2a.alpha", s.E2A.Alpha}, {"stages.e2a.beta", s.E2A.Beta},
		{"expertLoadMilliseconds", p.ExpertLoadMilliseconds},
		{"outside.alpha", p.Outside.Alpha}, {"outside.beta", p.Outside.Beta},
		{"limits.makespanMilliseconds", p.Limits.MakespanMilliseconds},
	} {
		// Written so that NaN fails too.
		if f.value != 0 && !(f.value >= minMilliseconds && f.value <= maxMilliseconds) {
			return &FieldError{f.name, fmt.Sprint(f.value), fmt.Sprintf("must be 0 or between %g and %g milliseconds", minMilliseconds, maxMilliseconds)}
		}
	}
	for _, a := range [...]Affine{s.Attention, s.Shared, s.Expert, s.A2E, s.E2A} {
		sum += a.Alpha + a.Beta
	}
	if sum == 0 {
		return &FieldError{"stages", "all zero", "give the time of at least one stage"}
	}
	if k := p.TokensPerExpertPerSample; !(k >= minKappa && k <= maxKappa) {
		return &FieldError{"tokensPerExpertPerSample", fmt.Sprint(k), fmt.Sprintf("must be between %g and %g", minKappa, maxKappa)}
	}
	return nil
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

// Times are the task durations of a micro-batch of m samples in r2 segments.
func (p *Problem) Times(m, r2 int) Times {
	perExpert := float64(m) * p.TokensPerExpertPerSample / float64(r2)
	s := &p.Stages
	return Times{
		Attention: s.Attention.At(float64(m)),
		Shared:    s.Shared.At(float64(m)),
		A2E:       s.A2E.At(perExpert),
		Expert:    s.Expert.Alpha + max(s.Expert.Beta*perExpert, p.ExpertLoadMilliseconds*min(1, perExpert)),
		E2A:       s.E2A.At(perExpert),
	}
}
