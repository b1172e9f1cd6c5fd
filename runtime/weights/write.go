// SPDX-License-Identifier: Apache-2.0

package weights

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"

	"github.com/findep/findep-operator/runtime/model"
)

// Spec names a tensor of a checkpoint and its shape.
type Spec struct {
	Name  string
	Shape []int
}

func (s Spec) elements() int64 {
	n := int64(1)
	for _, d := range s.Shape {
		n *= int64(d)
	}
	return n
}

// Specs lists every tensor that a checkpoint of the shape must have.
func Specs(s *model.Shape) []Spec {
	specs := []Spec{{"model.embed_tokens.weight", []int{s.VocabSize, s.HiddenSize}}, {"model.norm.weight", []int{s.HiddenSize}}}
	if !s.TieWordEmbeddings {
		specs = append(specs, Spec{"lm_head.weight", []int{s.VocabSize, s.HiddenSize}})
	}
	for i := range s.Layers {
		prefix := fmt.Sprintf("model.layers.%d.", i)
		specs = append(specs,
			Spec{prefix + "input_layernorm.weight", []int{s.HiddenSize}},
			Spec{prefix + "post_attention_layernorm.weight", []int{s.HiddenSize}})
		specs = append(specs, attentionSpecs(s, prefix+"self_attn.")...)
		specs = append(specs, mlpSpecs(s, i, prefix+"mlp.")...)
	}
	return specs
}

func attentionSpecs(s *model.Shape, prefix string) []Spec {
	var specs []Spec
	for _, m := range s.AttentionMatrices() {
		specs = append(specs, Spec{prefix + m.Name + ".weight", []int{m.Out, m.In}})
	}
	a := s.Attention
	if a.Kind == model.GQA {
		return append(specs, Spec{prefix + "q_norm.weight", []int{a.HeadDim}}, Spec{prefix + "k_norm.weight", []int{a.HeadDim}})
	}
	if a.QLoRARank > 0 {
		specs = append(specs, Spec{prefix + "q_a_layernorm.weight", []int{a.QLoRARank}})
	}
	return append(specs, Spec{prefix + "kv_a_layernorm.weight", []int{a.KVLoRARank}})
}

func mlpSpecs(s *model.Shape, layer int, prefix string) []Spec {
	gated := func(prefix string, width int) []Spec {
		return []Spec{
			{prefix + "gate_proj.weight", []int{width, s.HiddenSize}},
			{prefix + "up_proj.weight", []int{width, s.HiddenSize}},
			{prefix + "down_proj.weight", []int{s.HiddenSize, width}},
		}
	}
	if layer < s.DenseLayers {
		return gated(prefix, s.DenseIntermediateSize)
	}
	specs := []Spec{{prefix + "gate.weight", []int{s.MoE.Experts, s.HiddenSize}}}
	if s.Routing.CorrectionBias {
		specs = append(specs, Spec{prefix + "gate.e_score_correction_bias", []int{s.MoE.Experts}})
	}
	if s.MoE.SharedExperts > 0 {
		specs = append(specs, gated(prefix+"shared_experts.", s.MoE.SharedExperts*s.MoE.IntermediateSize)...)
	}
	for k := range s.MoE.Experts {
		specs = append(specs, gated(fmt.Sprintf("%sexperts.%d.", prefix, k), s.MoE.IntermediateSize)...)
	}
	return specs
}

// WriteRandom writes a single-file F32 checkpoint of the shape with weights
// drawn from the seed: matrices uniform with variance 1/columns, so that
// activations neither vanish nor explode, norms near one. It serves tests and
// benchmarks, where sizes matter and the text does not.
func WriteRandom(path string, s *model.Shape, seed uint64) (err error) {
	file, err := os.Create(path)
	if err != nil {
		return fmt.Errorf("writing a random checkpoint: %w", err)
	}
	defer func() {
		if cerr := file.Close(); err == nil {
			err = cerr
		}
	}()
	w := bufio.NewWriterSize(file, 1<<20)
	specs := Specs(s)
	if err := writeHeader(w, "F32", 4, specs); err != nil {
		return err
	}
	random := rand.New(rand.NewPCG(seed, 0))
	for _, spec := range specs {
		if err := writeRandomTensor(w, spec, random); err != nil {
			return fmt.Errorf("writing tensor %q: %w", spec.Name, err)
		}
	}
	return w.Flush()
}

func writeRandomTensor(w io.Writer, spec Spec, random *rand.Rand) error {
	center, scale := 0.0, math.Sqrt(3/float64(spec.Shape[len(spec.Shape)-1]))
	if len(spec.Shape) == 1 {
		center, scale = 1, 0.1
	}
	var raw [4]byte
	for range spec.elements() {
		v := center + scale*(2*random.Float64()-1)
		binary.LittleEndian.PutUint32(raw[:], math.Float32bits(float32(v)))
		if _, err := w.Write(raw[:]); err != nil {
			return err
		}
	}
	return nil
}

// writeHeader writes the header of a file whose tensors follow in the order of
// specs, padded so that the data are aligned to 8 bytes.
func writeHeader(w io.Writer, dtype string, size int64, specs []Spec) error {
	type item struct {
		DType   string   `json:"dtype"`
		Shape   []int    `json:"shape"`
		Offsets [2]int64 `json:"data_offsets"`
	}
	header := make(map[string]item, len(specs))
	at := int64(0)
	for _, s := range specs {
		end := at + s.elements()*size
		header[s.Name] = item{dtype, s.Shape, [2]int64{at, end}}
		at = end
	}
	raw, err := json.Marshal(header)
	if err != nil {
		return fmt.Errorf("encoding the header: %w", err)
	}
	for len(raw)%8 != 0 {
		raw = append(raw, ' ')
	}
	if err := binary.Write(w, binary.LittleEndian, uint64(len(raw))); err != nil {
		return err
	}
	_, err = w.Write(raw)
	return err
}
