// SPDX-License-Identifier: Apache-2.0

package kvcache

import (
	"fmt"

	"github.com/findep/findep-operator/runtime/backend"
	"github.com/findep/findep-operator/runtime/model"
)

// Cache is the device memory of one rank's keys and values with its allocator.
//
// For GQA a layer has keys [slots, n_kv*d] and values [slots, n_kv*d]. For MLA
// it has one latent row per token, [c_kv after its norm ; k_pe after rotation]
// of width kv_lora+d_r (DeepSeek-V2, arXiv 2405.04434 section 2.1): keys is all
// of it, values its first kv_lora columns.
type Cache struct {
	*Allocator
	dtype   backend.DType
	layers  []layer
	buffers []backend.Buffer
}

type layer struct{ keys, values backend.Matrix }

// Supports tells whether the device can keep a cache of elements of the type.
func Supports(dev backend.Device, dtype backend.DType) bool {
	return dev.Supports(backend.OpAttention, dtype) && dev.Supports(backend.OpScatterRows, dtype)
}

// New reserves a cache of the given number of blocks for every layer, of elements
// of the given type, which the device must support.
func New(dev backend.Device, shape *model.Shape, blocks int, dtype backend.DType) (*Cache, error) {
	if !Supports(dev, dtype) {
		return nil, fmt.Errorf("device %s has no KV cache of type %s; use F32", dev.Name(), dtype)
	}
	allocator, err := NewAllocator(blocks, BlockTokens)
	if err != nil {
		return nil, err
	}
	c := &Cache{Allocator: allocator, dtype: dtype, layers: make([]layer, shape.Layers)}
	for i := range c.layers {
		if err := c.reserve(&c.layers[i], dev, shape.Attention); err != nil {
			c.Close()
			return nil, fmt.Errorf("KV cache of %d tokens, layer %d: %w", c.Capacity(), i, err)
		}
	}
	return c, nil
}

func (c *Cache) reserve(l *layer, dev backend.Device, a model.Attention) error {
	width := a.KVHeads * a.HeadDim
	if a.Kind == model.MLA {
		width = a.KVLoRARank + a.QKRopeHeadDim
	}
	alloc := func(m *backend.Matrix) (err error) {
		if *m, err = backend.AllocMatrix(dev, c.dtype, c.Capacity(), width); err == nil {
			c.buffers = append(c.buffers, m.Buffer)
		}
		return err
	}
	if err := alloc(&l.keys); err != nil {
		return err
	}
	if a.Kind == model.MLA {
		l.values = l.keys.ColRange(0, a.KVLoRARank)
		return nil
	}
	return alloc(&l.values)
}

// Keys is the matrix of a layer's keys, one row per slot.
func (c *Cache) Keys(layer int) backend.Matrix { return c.layers[layer].keys }

// Values is the matrix of a layer's values, one row per slot.
func (c *Cache) Values(layer int) backend.Matrix { return c.layers[layer].values }

// Close gives the device memory back.
func (c *Cache) Close() {
	for _, b := range c.buffers {
		b.Free()
	}
	c.buffers, c.layers = nil, nil
}
