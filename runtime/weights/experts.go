// SPDX-License-Identifier: Apache-2.0

package weights

import (
	"fmt"

	"github.com/findep/findep-operator/runtime/backend"
	"github.com/findep/findep-operator/runtime/model"
)

// Experts holds the routed experts [First, Last) of every MoE layer.
type Experts struct {
	First, Last int
	// Layers are the MoE layers in order; dense layers are not counted.
	Layers  []ExpertLayer
	buffers []backend.Buffer
}

// ExpertLayer is packed as backend.ExpertMLPArgs asks: GateUp [n*2H, M] with H
// rows of gate, then H of up per expert; Down [n*M, H].
type ExpertLayer struct {
	GateUp, Down backend.Matrix
}

// Free gives the device memory back.
func (e *Experts) Free() {
	freeAll(e.buffers)
	*e = Experts{}
}

// ExpertRange is the block of experts [first, last) that expert rank number e
// of eg holds. Blocks are contiguous and in rank order; when eg does not
// divide the experts, the first experts%eg ranks hold one more.
func ExpertRange(experts, eg, e int) (first, last int) {
	if eg < 1 || e < 0 || e >= eg || experts < 0 {
		return 0, 0
	}
	size, more := experts/eg, experts%eg
	first = e*size + min(e, more)
	last = first + size
	if e < more {
		last++
	}
	return first, last
}

// LoadExperts reads an expert rank's share of the checkpoint.
func LoadExperts(dev backend.Device, ckpt *Checkpoint, shape *model.Shape, first, last int, o Options) (*Experts, error) {
	if first < 0 || first > last || last > shape.MoE.Experts {
		return nil, fmt.Errorf("experts [%d, %d) are not among the model's %d", first, last, shape.MoE.Experts)
	}
	l, err := newLoader(dev, ckpt, shape, o)
	if err != nil {
		return nil, err
	}
	e := &Experts{First: first, Last: last, Layers: make([]ExpertLayer, shape.MoELayers())}
	if err := l.finish(l.experts(e, shape)); err != nil {
		return nil, fmt.Errorf("loading experts [%d, %d): %w", first, last, err)
	}
	e.buffers = l.buffers
	return e, nil
}

func (l *loader) experts(e *Experts, s *model.Shape) error {
	width := s.MoE.IntermediateSize
	for i := range e.Layers {
		var gateUp, down []part
		for k := e.First; k < e.Last; k++ {
			prefix := fmt.Sprintf("model.layers.%d.mlp.experts.%d.", s.DenseLayers+i, k)
			gateUp = append(gateUp, part{prefix + "gate_proj.weight", width}, part{prefix + "up_proj.weight", width})
			down = append(down, part{prefix + "down_proj.weight", s.HiddenSize})
		}
		if err := l.stack(&e.Layers[i].GateUp, l.dtype, gateUp, s.HiddenSize); err != nil {
			return err
		}
		if err := l.stack(&e.Layers[i].Down, l.dtype, down, width); err != nil {
			return err
		}
	}
	return nil
}
