// SPDX-License-Identifier: Apache-2.0

package resolve

import (
	"fmt"
	"math"
	"strings"

	"github.com/findep/findep-operator/api/v1alpha1"
	"github.com/findep/findep-operator/runtime/plan"
	"github.com/findep/findep-operator/runtime/solver"
)

// groupNeed is the least memory of the fullest GPU of a group: what the solver
// counts for one prompt of the expected length, with KV cache for the whole
// context, cut as finely as the policy allows.
type groupNeed struct {
	role            v1alpha1.Role
	gpus            int
	weights, others int64
	capacity        int64
	profile         string
}

func (g groupNeed) total() int64 { return g.weights + g.others }

func (g groupNeed) fits() bool { return g.total() <= g.capacity }

// needs reads the solver's memory model of one split.
func (p *planner) needs(o outcome) []groupNeed {
	m := o.prefill.Problem.Memory
	if m == nil {
		return nil
	}
	segments := 1
	if p.policy == plan.FinDEP {
		segments = min(or(p.prefill.Options.Limits.MaxSegments, solver.DefaultMaxSegments), p.prompt)
	}
	perExpert := o.prefill.Problem.TokensPerExpertPerSample / float64(segments)
	return []groupNeed{
		{
			role: v1alpha1.RoleAttention, gpus: o.split.Attention, profile: p.prefill.Profiles.Attention.Name,
			weights: m.Attention.FixedBytes, others: m.Attention.WorkspaceBytes + m.Attention.PerSampleBytes,
			capacity: m.Attention.UsableBytes,
		},
		{
			role: v1alpha1.RoleExpert, gpus: o.split.Expert, profile: p.prefill.Profiles.Expert.Name,
			weights: m.Expert.FixedBytes, others: int64(math.Ceil(perExpert * float64(m.Expert.PerTokenBytes))),
			capacity: m.Expert.UsableBytes,
		},
	}
}

// explain says which groups do not fit and by how much, and what would.
func (p *planner) explain(o outcome) string {
	var parts []string
	for _, g := range p.needs(o) {
		if g.fits() {
			continue
		}
		parts = append(parts, fmt.Sprintf(
			"A GPU of the %s group needs at least %d bytes (%s: weights %s, caches and buffers %s), but one of profile %s offers %d bytes (%s); %s are missing.",
			strings.ToLower(string(g.role)), g.total(), Bytes(g.total()), Bytes(g.weights), Bytes(g.others),
			g.profile, g.capacity, Bytes(g.capacity), Bytes(g.total()-g.capacity)))
	}
	if len(parts) == 0 {
		parts = append(parts, o.memory.String()+".")
	}
	return strings.Join(append(parts, remedy(o)), " ")
}

// remedy names the nearest thing that fits.
func remedy(o outcome) string {
	switch n := o.memory.Nearest; {
	case n.Split != nil:
		return fmt.Sprintf("The nearest split that fits is %d attention and %d expert GPUs (%d in all).",
			n.Split.Attention, n.Split.Expert, n.Split.Total())
	case n.ContextTokens > 0:
		return fmt.Sprintf("The longest model.maxContextTokens that fits is %d.", n.ContextTokens)
	case o.memory.Group == plan.Attention:
		return "No split fits, since every attention GPU holds all weights that are not routed experts; use GPUs with more memory or a smaller model.dtype."
	default:
		return "No split of these GPUs fits; use GPUs with more memory or a smaller model.dtype."
	}
}

func memoryStatus(needs []groupNeed) []v1alpha1.MemoryStatus {
	var list []v1alpha1.MemoryStatus
	for _, g := range needs {
		list = append(list, v1alpha1.MemoryStatus{
			Role: g.role, NeedBytes: g.total(), AvailableBytes: g.capacity, WeightBytes: g.weights,
		})
	}
	return list
}

// summary says how much of each GPU is needed at least.
func summary(needs []groupNeed) string {
	var parts []string
	for _, g := range needs {
		parts = append(parts, fmt.Sprintf("%s GPUs need at least %s of %s", strings.ToLower(string(g.role)), Bytes(g.total()), Bytes(g.capacity)))
	}
	text := strings.Join(parts, ", ") + "."
	return strings.ToUpper(text[:1]) + text[1:]
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
