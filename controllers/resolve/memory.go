// SPDX-License-Identifier: Apache-2.0

package resolve

import (
	"fmt"
	"strings"

	"github.com/findep/findep-operator/api/v1alpha1"
	"github.com/findep/findep-operator/runtime/model"
)

// memory counts bytes per GPU. It is the least that an instance needs to serve
// one request of full length; the solver decides what to do with the rest.
type memory struct {
	shape    *model.Shape
	weights  model.DType
	kv       model.DType
	context  int64
	capacity map[v1alpha1.Role]int64
	profile  map[v1alpha1.Role]string
}

func newMemory(r *Result, spec *v1alpha1.MoEDeploymentSpec) *memory {
	m := &memory{
		shape: r.Shape, weights: elementType(spec.Model, r.Shape), kv: r.Shape.DType,
		context:  int64(r.MaxContextTokens),
		capacity: map[v1alpha1.Role]int64{}, profile: map[v1alpha1.Role]string{},
	}
	if spec.Model.DType != "" && m.weights != model.Float8 {
		m.kv = m.weights
	}
	for role, p := range r.Profiles {
		m.capacity[role], m.profile[role] = p.Profile.UsableBytes(), p.Profile.Name
	}
	return m
}

// need is the least memory of the fullest GPU of each group.
type need struct {
	attention, expert groupNeed
}

type groupNeed struct {
	role                      v1alpha1.Role
	gpus                      int
	weights, cache, buffers   int64
	cachePerToken, capacity   int64
	profile                   string
	expertsPerGPU, contextLen int64
}

func (g groupNeed) total() int64 { return g.weights + g.cache + g.buffers }

// of counts the memory of one split. Every attention GPU holds all that is not
// a routed expert; experts are dealt out evenly, and the fullest GPU counts.
func (m *memory) of(attention, expert int) need {
	p, b := m.shape.Parameters(), m.weights.Bytes()
	tokens := m.context
	hidden := int64(m.shape.HiddenSize) * m.kv.Bytes()
	local := (int64(m.shape.MoE.Experts) + int64(expert) - 1) / int64(expert)
	perToken := m.shape.KVBytesPerToken(m.kv)
	return need{
		attention: groupNeed{
			role: v1alpha1.RoleAttention, gpus: attention, profile: m.profile[v1alpha1.RoleAttention],
			capacity: m.capacity[v1alpha1.RoleAttention], weights: p.AttentionGroup * b,
			cache: perToken * tokens, cachePerToken: perToken, contextLen: tokens,
			// Residual stream, shared-expert output, one send and one receive copy
			// of each token of the prompt.
			buffers: 4 * hidden * tokens,
		},
		expert: groupNeed{
			role: v1alpha1.RoleExpert, gpus: expert, profile: m.profile[v1alpha1.RoleExpert],
			capacity: m.capacity[v1alpha1.RoleExpert], expertsPerGPU: local,
			weights: int64(m.shape.MoELayers()) * local * p.Expert * b,
			// One received and one returned row per token of the prompt.
			buffers: 2 * hidden * tokens,
		},
	}
}

func (n need) groups() []groupNeed { return []groupNeed{n.attention, n.expert} }

func (n need) fits() bool { return n.excess() == 0 }

// excess is by how many bytes the groups together exceed their GPUs.
func (n need) excess() int64 {
	return max(0, n.attention.total()-n.attention.capacity) + max(0, n.expert.total()-n.expert.capacity)
}

// explain says which group does not fit and by how much.
func (n need) explain() string {
	var parts []string
	for _, g := range n.groups() {
		if g.total() <= g.capacity {
			continue
		}
		parts = append(parts, fmt.Sprintf(
			"The %s group needs %d bytes (%s) on each of its %d GPUs (weights %s, KV cache of one request of %d tokens %s, buffers %s), but a GPU of profile %s offers %d bytes (%s); %s are missing.",
			strings.ToLower(string(g.role)), g.total(), Bytes(g.total()), g.gpus, Bytes(g.weights), n.attention.contextLen,
			Bytes(g.cache), Bytes(g.buffers), g.profile, g.capacity, Bytes(g.capacity), Bytes(g.total()-g.capacity)))
	}
	return strings.Join(parts, " ")
}

// summary says how much of each GPU is needed at least.
func (n need) summary() string {
	a, e := n.attention, n.expert
	return fmt.Sprintf("Attention GPUs need at least %s of %s, expert GPUs %s of %s (%d experts per layer on the fullest).",
		Bytes(a.total()), Bytes(a.capacity), Bytes(e.total()), Bytes(e.capacity), e.expertsPerGPU)
}

func (n need) status() []v1alpha1.MemoryStatus {
	var list []v1alpha1.MemoryStatus
	for _, g := range n.groups() {
		list = append(list, v1alpha1.MemoryStatus{
			Role: g.role, NeedBytes: g.total(), AvailableBytes: g.capacity,
			WeightBytes: g.weights, KVCacheBytesPerToken: g.cachePerToken,
		})
	}
	return list
}

// attentionCanFit says whether an attention GPU fits at all: more of them do not
// help, since each holds the whole group's weights.
func (m *memory) attentionCanFit() bool {
	a := m.of(1, 1).attention
	return a.total() <= a.capacity
}

// limit explains why no split fits.
func (m *memory) limit() string {
	if !m.attentionCanFit() {
		return "every attention GPU holds all weights that are not routed experts; use GPUs with more memory, a smaller model.dtype or a smaller model.maxContextTokens."
	}
	return "one routed expert of each layer and the buffers exceed an expert GPU; use GPUs with more memory, a smaller model.dtype or a smaller model.maxContextTokens."
}

// Bytes writes a number of bytes as people read it.
func Bytes(n int64) string {
	const unit = 1024
	switch {
	case n >= unit*unit*unit:
		return fmt.Sprintf("%.1f GiB", float64(n)/(unit*unit*unit))
	case n >= unit*unit:
		return fmt.Sprintf("%.1f MiB", float64(n)/(unit*unit))
	case n >= unit:
		return fmt.Sprintf("%.1f KiB", float64(n)/unit)
	default:
		return fmt.Sprintf("%d B", n)
	}
}
