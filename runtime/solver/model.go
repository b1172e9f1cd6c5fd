// SPDX-License-Identifier: Apache-2.0

package solver

import (
	"fmt"

	"github.com/findep/findep-operator/runtime/model"
	"github.com/findep/findep-operator/runtime/plan"
	"github.com/findep/findep-operator/runtime/profile"
)

// Phase is what a forward pass does.
type Phase string

// The phases. A step that mixes both is planned as the one it mostly is.
const (
	// Prefill processes SequenceTokens prompt tokens of every sample.
	Prefill Phase = "Prefill"
	// Decode processes one token of every sample against its KV cache.
	Decode Phase = "Decode"
)

// Split is the number of GPUs (ranks) in each group.
type Split struct {
	Attention int `json:"attention"`
	Expert    int `json:"expert"`
}

// Total is ag + eg.
func (s Split) Total() int { return s.Attention + s.Expert }

// String is "attention:expert".
func (s Split) String() string { return fmt.Sprintf("%d:%d", s.Attention, s.Expert) }

// Profiles describe the GPUs of the two groups; they may be the same. The
// slower link of the two counts.
type Profiles struct {
	Attention, Expert *profile.Profile
}

// Workload is one forward pass.
type Workload struct {
	Phase Phase `json:"phase"`
	// SequenceTokens is the number of new tokens per sample in prefill; it is
	// 1 in decode whatever it says.
	SequenceTokens int `json:"sequenceTokens,omitempty"`
	// PrefixTokens are already in the KV cache when a prefill starts.
	PrefixTokens int `json:"prefixTokens,omitempty"`
	// ContextTokens is the context a sample may reach: KV memory is kept for
	// it, and decode attends to that many tokens. 0 means prefix + sequence.
	ContextTokens int `json:"contextTokens,omitempty"`
	// Batch is the number of samples of the whole instance; 0 lets the solver
	// choose the largest that serves best.
	Batch int `json:"batch,omitempty"`
}

// Options are facts about the implementation, with defaults for this project's
// own runtime.
type Options struct {
	// DType is the element type of weights, activations and KV cache; empty
	// means the checkpoint's. With Float8 only weights are 8 bits wide.
	DType model.DType `json:"dtype,omitempty"`
	// ReplicatedTransfers sends a token once per expert, as the paper does,
	// instead of once per expert GPU.
	ReplicatedTransfers bool `json:"replicatedTransfers,omitempty"`
	// SegmentBuffers is the depth of the ring of segments on an expert GPU;
	// default 2.
	SegmentBuffers int `json:"segmentBuffers,omitempty"`
	// Order restricts the order; Auto or empty tries both.
	Order plan.Order `json:"order,omitempty"`
	// ExpertImbalance is the load of the fullest expert GPU relative to the
	// mean; 0 means 1.
	ExpertImbalance float64 `json:"expertImbalance,omitempty"`
	// ExpertTileTokens is the number of rows of one tile of the experts' GEMM;
	// 0 does not round.
	ExpertTileTokens int `json:"expertTileTokens,omitempty"`
	// HalfDuplex tells that both directions share one link.
	HalfDuplex bool `json:"halfDuplex,omitempty"`
	// ExactRemainder costs the last micro-batch of a batch as what is left.
	ExactRemainder bool `json:"exactRemainder,omitempty"`
	// Limits bound the plan.
	Limits Limits `json:"limits,omitzero"`
}

// Instance is the model form of a problem, all but the split.
type Instance struct {
	Shape    *model.Shape
	Profiles Profiles
	Workload Workload
	Options  Options
}

// Model is an Instance without its workload, checked and counted once, from
// which problems follow by arithmetic alone. It is read-only and may be shared
// between goroutines as long as nobody changes shape or profiles.
type Model struct {
	shape    *model.Shape
	profiles Profiles
	options  Options
	counts   model.Parameters
	// launches and macs are the number of attention's projections and their
	// work per token.
	launches, macs float64
}

// NewModel checks shape, profiles and options. The error is a FieldError or
// names the field of a profile.
func NewModel(shape *model.Shape, profiles Profiles, options Options) (*Model, error) {
	if shape == nil || profiles.Attention == nil || profiles.Expert == nil {
		return nil, &FieldError{"model", "incomplete", "need a model and a profile for each group"}
	}
	for _, p := range []*profile.Profile{profiles.Attention, profiles.Expert} {
		if err := p.Validate(); err != nil {
			return nil, err
		}
	}
	if b := options.SegmentBuffers; b < 0 || b > 1024 {
		return nil, &FieldError{"options.segmentBuffers", fmt.Sprint(b), "must be between 0 and 1024"}
	}
	switch options.DType {
	case "", model.Float32, model.Float16, model.BFloat16, model.Float8:
	default:
		return nil, &FieldError{"options.dtype", fmt.Sprintf("%q", string(options.DType)), "use float32, float16, bfloat16 or float8_e4m3fn"}
	}
	m := &Model{shape: shape, profiles: profiles, options: options, counts: shape.Parameters()}
	for _, g := range shape.AttentionMatrices() {
		m.launches++
		m.macs += float64(g.MACs())
	}
	return m, nil
}

// validate checks a workload.
func (w *Workload) validate() error {
	if w.Phase != Prefill && w.Phase != Decode {
		return &FieldError{"workload.phase", fmt.Sprintf("%q", string(w.Phase)), "use Prefill or Decode"}
	}
	for _, f := range [...]struct {
		name            string
		value, low, top int
	}{
		{"workload.sequenceTokens", w.tokens(), 1, maxTokens},
		{"workload.prefixTokens", w.PrefixTokens, 0, maxTokens},
		{"workload.contextTokens", w.ContextTokens, 0, maxTokens},
		{"workload.batch", w.Batch, 0, maxBatch},
	} {
		if f.value < f.low || f.value > f.top {
			return &FieldError{f.name, fmt.Sprint(f.value), fmt.Sprintf("must be between %d and %d", f.low, f.top)}
		}
	}
	return nil
}

// tokens is S, the new tokens per sample.
func (w *Workload) tokens() int {
	if w.Phase == Decode {
		return 1
	}
	return w.SequenceTokens
}

// Problem makes the stage form of a workload with a given split. It overwrites
// p but reuses p.Memory, so that it does not allocate when called again. The
// error is a FieldError; for a split that contradicts the model its field is
// "split".
func (m *Model) Problem(w *Workload, split Split, p *Problem) error {
	if err := w.validate(); err != nil {
		return err
	}
	if err := checkSplit(m.shape, split); err != nil {
		return err
	}
	d := newDerivation(m, w, split)
	memory := p.Memory
	if memory == nil {
		memory = new(Memory)
	}
	*memory = d.memory()
	o := &m.options
	*p = Problem{
		Stages:                   d.stages(),
		Layers:                   m.shape.MoELayers(),
		TokensPerExpertPerSample: d.kappa,
		AttentionGPUs:            split.Attention,
		SequenceTokens:           d.sequence,
		Order:                    o.Order,
		ExpertLoadMilliseconds:   d.expertLoad(),
		ExpertActivation:         float64(m.shape.MoE.ExpertsPerToken) / float64(m.shape.MoE.Experts),
		ExpertImbalance:          o.ExpertImbalance,
		ExpertTileTokens:         o.ExpertTileTokens,
		HalfDuplex:               o.HalfDuplex,
		ExactRemainder:           o.ExactRemainder,
		Dense:                    d.dense(),
		Head:                     d.head(),
		Limits:                   o.Limits,
		Memory:                   memory,
	}
	if w.Batch > 0 {
		p.Batch, p.Samples = ceilDiv(w.Batch, split.Attention), w.Batch
	}
	return p.Validate()
}

// prepare is NewModel of an instance.
func (in *Instance) prepare() (*Model, error) { return NewModel(in.Shape, in.Profiles, in.Options) }

// FromModel makes the stage form of an instance with a given split; see
// Model.Problem.
func FromModel(in *Instance, split Split) (Problem, error) {
	m, err := in.prepare()
	if err != nil {
		return Problem{}, err
	}
	var p Problem
	err = m.Problem(&in.Workload, split, &p)
	return p, err
}

func checkSplit(shape *model.Shape, split Split) error {
	switch {
	case split.Attention < 1 || split.Expert < 1 || split.Total() > plan.MaxRanks:
		return &FieldError{"split", split.String(), fmt.Sprintf("need at least 1 GPU in each group and at most %d", plan.MaxRanks)}
	case split.Expert > shape.MoE.Experts:
		return &FieldError{"split", split.String(), fmt.Sprintf("%d expert GPUs for %d routed experts; use at most one per expert", split.Expert, shape.MoE.Experts)}
	}
	return nil
}
