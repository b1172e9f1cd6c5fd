// SPDX-License-Identifier: Apache-2.0

// Package solver finds the plan (micro-batch size, pipeline degrees, order,
// causal chunks) that serves the most tokens per second within memory and
// latency limits.
//
// It has two layers. The stage form (Problem, Solve) knows only times per stage
// and is exact: its answer equals exhaustive search. Where closed forms of the
// makespan apply it takes microseconds; elsewhere the makespan comes from an
// exact recurrence, or for links that both directions share from a simulation,
// and bounds keep the search short. The model form (NewModel, SolveModel,
// SolveTotal) makes a Problem from a model shape, profiles and a workload, and
// chooses the split of GPUs into attention and expert group.
//
// Everything is pure and deterministic: equal problems give equal results. A
// problem without a solution is a Result with Infeasible set; errors are for
// invalid input and cancellation only.
package solver

import "github.com/findep/findep-operator/runtime/plan"

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
	// PerLayer, if set, holds the stages of each layer in place of Stages, for
	// layers that differ (hot experts, mixed attention).
	PerLayer []Stages `json:"perLayer,omitempty"`
	// ExpertLoadMilliseconds is the time to read all local experts of a layer
	// from memory: an expert task takes at least that, or the part of it for
	// the experts it touches.
	ExpertLoadMilliseconds float64 `json:"expertLoadMilliseconds,omitempty"`
	// ExpertActivation is top_k/E, the probability that a token uses a given
	// expert; with it the touched part is the expected one. 0 takes the upper
	// bound min(1, m_e) instead.
	ExpertActivation float64 `json:"expertActivation,omitempty"`
	// ExpertImbalance is the load of the fullest expert GPU relative to the
	// mean (hot experts); 0 means 1, perfect balance.
	ExpertImbalance float64 `json:"expertImbalance,omitempty"`
	// ExpertTileTokens is the number of rows that the experts' GEMM works on
	// at a time: m_e is rounded up to whole tiles. 0 means no rounding.
	ExpertTileTokens int `json:"expertTileTokens,omitempty"`
	// HalfDuplex tells that both directions share one link, which serves the
	// transfer that became ready first.
	HalfDuplex bool `json:"halfDuplex,omitempty"`
	// ExactRemainder costs the last micro-batch of a given batch with the
	// samples that are left for it, instead of as a full one.
	ExactRemainder bool `json:"exactRemainder,omitempty"`
	// Dense is the time of embedding and leading dense layers, which run right
	// before a micro-batch's first attention; Head that of the output head,
	// which runs after the pipeline as soon as a micro-batch is back. Both are
	// on the attention GPUs, in samples per micro-batch.
	Dense AttentionTime `json:"dense,omitzero"`
	Head  Affine        `json:"head,omitzero"`
	// Outside is more time per micro-batch that overlaps with nothing.
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
	// MaxChunks bounds the causal chunks of a sample; default 1, whole samples.
	MaxChunks int `json:"maxChunks,omitempty"`
	// UnequalChunks allows chunks of different lengths.
	UnequalChunks bool `json:"unequalChunks,omitempty"`
	// MakespanMilliseconds bounds the forward pass: the time to first token in
	// prefill, the time per output token in decode.
	MakespanMilliseconds float64 `json:"makespanMilliseconds,omitempty"`
}

// DefaultMaxSegments bounds r2 unless Limits say otherwise. Beyond it each
// segment costs a launch and saves next to nothing.
const DefaultMaxSegments = 64

// DefaultMaxChunks is how many causal chunks the model form, the leader and the
// operator try in prefill unless they are told otherwise. More rarely win, and
// each costs time.
const DefaultMaxChunks = 8

// WithChunks are the limits with causal chunks, equal and unequal, allowed.
func (l Limits) WithChunks() Limits {
	l.MaxChunks, l.UnequalChunks = DefaultMaxChunks, true
	return l
}

// Memory says what fits, in bytes of one GPU of each group.
type Memory struct {
	Attention AttentionMemory `json:"attention"`
	Expert    ExpertMemory    `json:"expert"`
}

// AttentionMemory bounds the samples in flight:
// fixed + workspace*m_a + perSample*r1*m_a <= usable.
type AttentionMemory struct {
	// UsableBytes are what one GPU offers, less what the runtime and the buffers
	// of its links take.
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
	// UsableBytes are what one GPU offers, less what the runtime and the buffers
	// of its links take.
	UsableBytes int64 `json:"usableBytes"`
	// FixedBytes are the weights of the local experts of all layers.
	FixedBytes int64 `json:"fixedBytes"`
	// PerTokenBytes are the buffers of all segments in the ring, per token and
	// expert of a segment.
	PerTokenBytes int64 `json:"perTokenBytes"`
}
