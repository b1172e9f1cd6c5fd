// SPDX-License-Identifier: Apache-2.0

package resolve

import (
	"fmt"
	"math"
	"strings"

	"github.com/findep/findep-operator/api/v1alpha1"
	"github.com/findep/findep-operator/runtime/plan"
	"github.com/findep/findep-operator/runtime/profile"
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

// tightPermille is the part of a GPU's memory, in thousandths, above which the
// least need leaves next to no room for more than one request, and an error of
// the estimate may be more than what is left.
const tightPermille = 950

// risks names the groups that fit with hardly any room.
func risks(needs []groupNeed) []string {
	var list []string
	for _, g := range needs {
		if g.fits() && g.total() > g.capacity/1000*tightPermille {
			list = append(list, fmt.Sprintf(
				"This is tight: a GPU of the %s group has only %s left for more than one request at a time; use more or larger GPUs, or a smaller model.maxContextTokens.",
				strings.ToLower(string(g.role)), Bytes(g.capacity-g.total())))
		}
	}
	return list
}

// maxLifts bounds how often the memory of a profile is raised: once per group and
// phase, and once more for what the other then needs.
const maxLifts = 8

// override plans as if every GPU had just the memory that is needed, and reports
// whether that gave a plan. The leaders get the same profiles, or they would
// refuse to plan.
func override(r *Result, p *planner, o *outcome) bool {
	for range maxLifts {
		if o.memory == nil {
			break
		}
		p.raise(o.memory)
		lifted, err := p.evaluate(o.split)
		if err != nil {
			return false
		}
		*o = lifted
	}
	if o.memory != nil {
		return false
	}
	for role, raised := range map[v1alpha1.Role]*profile.Profile{
		v1alpha1.RoleAttention: p.prefill.Profiles.Attention, v1alpha1.RoleExpert: p.prefill.Profiles.Expert,
	} {
		known := r.Profiles[role]
		known.Profile = raised
		r.Profiles[role] = known
	}
	r.Feasible.OK, r.Feasible.Reason = true, v1alpha1.ReasonMemoryCheckOverridden
	r.Feasible.Message += fmt.Sprintf(" The annotation %s: %s makes the instances all the same.",
		v1alpha1.AnnotationMemoryCheck, v1alpha1.MemoryCheckOverride)
	return true
}

// raise gives the GPUs of a group the memory that the solver missed.
func (p *planner) raise(missed *solver.Infeasible) {
	profiles := &p.prefill.Profiles
	of := &profiles.Expert
	if missed.Group == plan.Attention {
		of = &profiles.Attention
	}
	raised := **of
	// What the solver had is less than what is usable by the buffers of links.
	usable := raised.UsableBytes() + missed.NeedBytes - missed.HaveBytes
	raised.MemoryBytes, raised.UsableMemoryPermille = max(raised.MemoryBytes, usable+raised.ReservedBytes), 1000
	*of = &raised
	p.decode.Profiles = *profiles
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
