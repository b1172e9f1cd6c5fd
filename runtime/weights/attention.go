// SPDX-License-Identifier: Apache-2.0

package weights

import (
	"fmt"

	"github.com/findep/findep-operator/runtime/backend"
	"github.com/findep/findep-operator/runtime/model"
)

// Attention holds what an attention rank needs: everything but the routed
// experts. All matrices are [out, in]; vectors are matrices of one row.
type Attention struct {
	// Embedding is [V, M], FinalNorm [1, M], Head [V, M]; with tied embeddings
	// Head is Embedding.
	Embedding, FinalNorm, Head backend.Matrix
	// Layers are all transformer layers, dense ones first.
	Layers  []AttentionLayer
	buffers []backend.Buffer
}

// AttentionLayer is one transformer layer without its routed experts. What the
// model does not have is an empty Matrix.
type AttentionLayer struct {
	// InputNorm and PostNorm are [1, M], the norms before attention and MLP.
	InputNorm, PostNorm backend.Matrix

	// Q is [n_h*d_k, M]. With a query latent it is empty and QA [q_lora, M],
	// QANorm [1, q_lora], QB [n_h*d_k, q_lora] replace it.
	Q, QA, QANorm, QB backend.Matrix
	// KVA is [kv_lora+d_r, M], KVANorm [1, kv_lora], KVB [n_h*(d_n+d_v),
	// kv_lora]: MLA only.
	KVA, KVANorm, KVB backend.Matrix
	// K and V are [n_kv*d, M], QNorm and KNorm [1, d]: GQA only.
	K, V, QNorm, KNorm backend.Matrix
	// O is [M, n_h*d_v].
	O backend.Matrix

	// GateUp is [2I, M] with I rows of gate, then I of up; Down is [M, I]. It
	// is the MLP of a dense layer or all shared experts of a MoE layer.
	GateUp, Down backend.Matrix
	// Router is F32 [E, M], RouterBias F32 [1, E]: MoE layers only.
	Router, RouterBias backend.Matrix
}

// Free gives the device memory back.
func (a *Attention) Free() {
	freeAll(a.buffers)
	*a = Attention{}
}

// LoadAttention reads an attention rank's share of the checkpoint.
func LoadAttention(dev backend.Device, ckpt *Checkpoint, shape *model.Shape, o Options) (*Attention, error) {
	l, err := newLoader(dev, ckpt, shape, o)
	if err != nil {
		return nil, err
	}
	a := &Attention{Layers: make([]AttentionLayer, shape.Layers)}
	if err := l.finish(l.attention(a, shape)); err != nil {
		return nil, fmt.Errorf("loading attention weights: %w", err)
	}
	a.buffers = l.buffers
	return a, nil
}

func (l *loader) attention(a *Attention, s *model.Shape) error {
	steps := []func() error{
		func() error { return l.linear(&a.Embedding, "model.embed_tokens.weight", s.VocabSize, s.HiddenSize) },
		func() error { return l.vector(&a.FinalNorm, "model.norm.weight", s.HiddenSize) },
		func() error {
			if s.TieWordEmbeddings {
				a.Head = a.Embedding
				return nil
			}
			return l.linear(&a.Head, "lm_head.weight", s.VocabSize, s.HiddenSize)
		},
	}
	for i := range a.Layers {
		steps = append(steps, func() error { return l.layer(&a.Layers[i], s, i) })
	}
	return inOrder(steps)
}

// inOrder runs steps until one fails.
func inOrder(steps []func() error) error {
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

func (l *loader) layer(d *AttentionLayer, s *model.Shape, i int) error {
	prefix := fmt.Sprintf("model.layers.%d.", i)
	steps := []func() error{
		func() error { return l.vector(&d.InputNorm, prefix+"input_layernorm.weight", s.HiddenSize) },
		func() error { return l.vector(&d.PostNorm, prefix+"post_attention_layernorm.weight", s.HiddenSize) },
		func() error { return l.projections(d, s, prefix+"self_attn.") },
		func() error { return l.mlp(d, s, i, prefix+"mlp.") },
	}
	return inOrder(steps)
}

// projections loads the matrices by the list that planning counts with, then
// the norms inside attention.
func (l *loader) projections(d *AttentionLayer, s *model.Shape, prefix string) error {
	slots := map[string]*backend.Matrix{
		"q_proj": &d.Q, "q_a_proj": &d.QA, "q_b_proj": &d.QB, "kv_a_proj_with_mqa": &d.KVA, "kv_b_proj": &d.KVB,
		"k_proj": &d.K, "v_proj": &d.V, "o_proj": &d.O,
	}
	for _, m := range s.AttentionMatrices() {
		dst := slots[m.Name]
		if dst == nil {
			return fmt.Errorf("projection %q is unknown to the loader", m.Name)
		}
		if err := l.linear(dst, prefix+m.Name+".weight", m.Out, m.In); err != nil {
			return err
		}
	}
	a := s.Attention
	if a.Kind == model.GQA {
		if err := l.vector(&d.QNorm, prefix+"q_norm.weight", a.HeadDim); err != nil {
			return err
		}
		return l.vector(&d.KNorm, prefix+"k_norm.weight", a.HeadDim)
	}
	if a.QLoRARank > 0 {
		if err := l.vector(&d.QANorm, prefix+"q_a_layernorm.weight", a.QLoRARank); err != nil {
			return err
		}
	}
	return l.vector(&d.KVANorm, prefix+"kv_a_layernorm.weight", a.KVLoRARank)
}

func (l *loader) mlp(d *AttentionLayer, s *model.Shape, i int, prefix string) error {
	if i < s.DenseLayers {
		return l.gated(d, prefix, s.DenseIntermediateSize, s.HiddenSize)
	}
	if err := l.exact(&d.Router, prefix+"gate.weight", s.MoE.Experts, s.HiddenSize); err != nil {
		return err
	}
	if s.Routing.CorrectionBias {
		if err := l.vector(&d.RouterBias, prefix+"gate.e_score_correction_bias", s.MoE.Experts); err != nil {
			return err
		}
	}
	if s.MoE.SharedExperts == 0 {
		return nil
	}
	return l.gated(d, prefix+"shared_experts.", s.MoE.SharedExperts*s.MoE.IntermediateSize, s.HiddenSize)
}

// gated loads an MLP with gate and up stacked, so that both are one product.
func (l *loader) gated(d *AttentionLayer, prefix string, width, hidden int) error {
	err := l.stack(&d.GateUp, l.dtype, []part{{prefix + "gate_proj.weight", width}, {prefix + "up_proj.weight", width}}, hidden)
	if err != nil {
		return err
	}
	return l.linear(&d.Down, prefix+"down_proj.weight", hidden, width)
}
