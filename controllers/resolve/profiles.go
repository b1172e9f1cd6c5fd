// SPDX-License-Identifier: Apache-2.0

package resolve

import (
	"cmp"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/findep/findep-operator/api/v1alpha1"
	"github.com/findep/findep-operator/runtime/plan"
	"github.com/findep/findep-operator/runtime/profile"
)

// ProductLabel is the node label that NVIDIA's feature discovery sets.
const ProductLabel = "nvidia.com/gpu.product"

// cpuPreset is the profile of last resort: the CPU backend runs anywhere.
const cpuPreset = "cpu"

// defaultUsablePermille applies to GPUProfiles that do not say.
const defaultUsablePermille = 900

// resolveProfiles finds the profile of each group, and reports whether it could.
func resolveProfiles(r *Result, spec *v1alpha1.MoEDeploymentSpec, facts Facts) bool {
	r.Profiles = map[v1alpha1.Role]Profile{}
	for _, g := range []struct {
		role  v1alpha1.Role
		group *v1alpha1.GroupSpec
	}{
		{v1alpha1.RoleAttention, &spec.Groups.Attention},
		{v1alpha1.RoleExpert, &spec.Groups.Expert},
	} {
		p, finding := profileOf(g.group, facts)
		if p.Profile == nil {
			finding.Message = fmt.Sprintf("groups.%s: %s", strings.ToLower(string(g.role)), finding.Message)
			r.Feasible = finding
			return false
		}
		r.Profiles[g.role] = p
	}
	return true
}

// profileOf looks in this order: the user's reference, a GPUProfile that matches
// a node the group may run on, a preset for such a node's product, cpu.
func profileOf(group *v1alpha1.GroupSpec, facts Facts) (Profile, Finding) {
	if group.ProfileRef != "" {
		return referenced(group.ProfileRef, facts.Profiles)
	}
	nodes := eligible(facts.NodeLabels, group.NodeSelector)
	if p := matching(nodes, facts.Profiles); p != nil {
		return converted(p, fmt.Sprintf("GPUProfile %s matches the labels of nodes that the group may run on.", p.Name))
	}
	for _, node := range nodes {
		name := presetFor(node[ProductLabel])
		if p, err := profile.Preset(name); name != "" && err == nil {
			return Profile{Profile: p, Why: fmt.Sprintf("Built-in preset for nodes labelled %s=%s.", ProductLabel, node[ProductLabel])}, Finding{}
		}
	}
	p, err := profile.Preset(cpuPreset)
	if err != nil {
		return Profile{}, Finding{Reason: v1alpha1.ReasonProfileNotFound, Message: err.Error()}
	}
	return Profile{Profile: p, Guess: true, Why: fmt.Sprintf("No GPUProfile matches and no node has a known %s label, so the figures of the CPU backend are used.", ProductLabel)}, Finding{}
}

// ProfileName is the profile that a group is planned with; empty if there is none.
func ProfileName(group *v1alpha1.GroupSpec, facts Facts) string {
	p, _ := profileOf(group, facts)
	if p.Profile == nil {
		return ""
	}
	return p.Profile.Name
}

// Candidates names the GPUProfiles and presets that describe nodes which a group
// may run on, whatever its profileRef says, in alphabetical order.
func Candidates(group *v1alpha1.GroupSpec, facts Facts) []string {
	var names []string
	nodes := eligible(facts.NodeLabels, group.NodeSelector)
	for i := range facts.Profiles {
		p := &facts.Profiles[i]
		if len(p.Spec.NodeSelector) > 0 && len(eligible(nodes, p.Spec.NodeSelector)) > 0 {
			names = append(names, p.Name)
		}
	}
	for _, node := range nodes {
		if name := presetFor(node[ProductLabel]); name != "" {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

func referenced(name string, profiles []v1alpha1.GPUProfile) (Profile, Finding) {
	for i := range profiles {
		if profiles[i].Name == name {
			return converted(&profiles[i], fmt.Sprintf("GPUProfile %s is named by profileRef.", name))
		}
	}
	if p, err := profile.Preset(name); err == nil {
		return Profile{Profile: p, Why: fmt.Sprintf("Built-in preset %s is named by profileRef.", name)}, Finding{}
	}
	return Profile{}, Finding{
		Reason: v1alpha1.ReasonProfileNotFound,
		Message: fmt.Sprintf("profileRef %q is neither a GPUProfile of this cluster nor a built-in preset (%s).",
			name, strings.Join(profile.Presets(), ", ")),
	}
}

func converted(p *v1alpha1.GPUProfile, why string) (Profile, Finding) {
	c := Convert(p)
	if err := c.Validate(); err != nil {
		return Profile{}, Finding{Reason: v1alpha1.ReasonProfileInvalid, Message: err.Error()}
	}
	return Profile{Profile: c, Why: why}, Finding{}
}

// eligible keeps the nodes that a node selector admits.
func eligible(nodes []map[string]string, selector map[string]string) []map[string]string {
	var kept []map[string]string
	for _, n := range nodes {
		if Matches(selector, n) {
			kept = append(kept, n)
		}
	}
	return kept
}

// Matches says whether labels have every pair of a selector.
func Matches(selector, labels map[string]string) bool {
	for k, v := range selector {
		if got, ok := labels[k]; !ok || got != v {
			return false
		}
	}
	return true
}

// matching returns the profile with the most specific selector that matches a
// node; the name decides between equals, so that the answer does not depend on
// the order in which objects are listed.
func matching(nodes []map[string]string, profiles []v1alpha1.GPUProfile) *v1alpha1.GPUProfile {
	var found []*v1alpha1.GPUProfile
	for i := range profiles {
		p := &profiles[i]
		if len(p.Spec.NodeSelector) > 0 && len(eligible(nodes, p.Spec.NodeSelector)) > 0 {
			found = append(found, p)
		}
	}
	if len(found) == 0 {
		return nil
	}
	return slices.MinFunc(found, func(a, b *v1alpha1.GPUProfile) int {
		return cmp.Or(cmp.Compare(len(b.Spec.NodeSelector), len(a.Spec.NodeSelector)), cmp.Compare(a.Name, b.Name))
	})
}

// presetFor finds the preset whose name's words all occur in a product label,
// the most words first: NVIDIA-H100-80GB-HBM3 contains H100.
func presetFor(product string) string {
	if product == "" {
		return ""
	}
	words := strings.FieldsFunc(strings.ToUpper(product), separator)
	best, bestScore := "", 0
	for _, name := range profile.Presets() {
		parts := strings.FieldsFunc(strings.ToUpper(name), separator)
		if len(parts) == 0 || !slices.Contains(words, parts[0]) {
			continue
		}
		score := 0
		for _, part := range parts {
			if slices.Contains(words, part) {
				score++
			}
		}
		if score > bestScore {
			best, bestScore = name, score
		}
	}
	return best
}

func separator(r rune) bool { return r == '-' || r == '_' || r == ' ' || r == '.' }

// Convert turns the API object, which holds integers, into what is planned with.
func Convert(p *v1alpha1.GPUProfile) *profile.Profile {
	s := &p.Spec
	compute := func(m v1alpha1.ComputeModel) profile.Compute {
		return profile.Compute{
			AlphaMicroseconds:      float64(m.AlphaNanoseconds) / 1e3,
			MicrosecondsPerGigaMAC: float64(m.PicosecondsPerGigaMAC) / 1e6,
		}
	}
	transfer := func(name string, m v1alpha1.TransferModel) profile.Transfer {
		return profile.Transfer{
			Name:                    name,
			AlphaMicroseconds:       float64(m.AlphaNanoseconds) / 1e3,
			MicrosecondsPerMegabyte: float64(m.PicosecondsPerMegabyte) / 1e6,
		}
	}
	out := &profile.Profile{
		Name: p.Name, Calibrated: s.Quality == v1alpha1.ProfileMeasured, Source: s.Source,
		MemoryBytes: s.MemoryBytes, UsableMemoryPermille: or(int(s.UsableMemoryPermille), defaultUsablePermille),
		ReservedBytes: s.ReservedBytes, Device: deviceOf(s),
		GEMM: compute(s.GEMM), GroupedGEMM: compute(s.GEMM), Attention: compute(s.Attention),
		Link: transfer("link", s.Link),
	}
	if s.GroupedGEMM != nil {
		out.GroupedGEMM = compute(*s.GroupedGEMM)
	}
	if s.DecodeAttention != nil {
		out.DecodeAttention = compute(*s.DecodeAttention)
	}
	if s.Memory != nil {
		out.Memory = transfer("memory", *s.Memory)
	}
	return out
}

// deviceOf is the device that a profile describes. The product is that of the nodes
// which the profile selects, unless it stands in for the CPU.
func deviceOf(s *v1alpha1.GPUProfileSpec) profile.Device {
	d := profile.Device{Backend: strings.ToLower(string(s.Backend)), ComputeCapability: s.ComputeCapability}
	if product := s.NodeSelector[ProductLabel]; s.Backend != v1alpha1.BackendCPU && presetFor(product) != cpuPreset {
		d.Product = product
	}
	return d
}

// Unconvert turns a profile into the spec of an API object, rounded to its
// integers. It is the inverse of Convert but for names, products and qualities of
// fits.
func Unconvert(p *profile.Profile) v1alpha1.GPUProfileSpec {
	whole := func(v float64) int64 { return max(0, int64(math.Round(v))) }
	compute := func(c profile.Compute) v1alpha1.ComputeModel {
		return v1alpha1.ComputeModel{
			AlphaNanoseconds:      whole(c.AlphaMicroseconds * 1e3),
			PicosecondsPerGigaMAC: max(1, whole(c.MicrosecondsPerGigaMAC*1e6)),
		}
	}
	transfer := func(t profile.Transfer) v1alpha1.TransferModel {
		return v1alpha1.TransferModel{
			AlphaNanoseconds:       whole(t.AlphaMicroseconds * 1e3),
			PicosecondsPerMegabyte: max(1, whole(t.MicrosecondsPerMegabyte*1e6)),
		}
	}
	s := v1alpha1.GPUProfileSpec{
		Quality: v1alpha1.ProfileDatasheet, Source: p.Source,
		Backend: v1alpha1.ProfileBackend(strings.ToUpper(p.Device.Backend)), ComputeCapability: p.Device.ComputeCapability,
		MemoryBytes: p.MemoryBytes, UsableMemoryPermille: int32(p.UsableMemoryPermille), ReservedBytes: p.ReservedBytes,
		GEMM: compute(p.GEMM), Attention: compute(p.Attention), Link: transfer(p.Link),
	}
	if p.Calibrated {
		s.Quality = v1alpha1.ProfileMeasured
	}
	grouped := compute(p.GroupedGEMM)
	s.GroupedGEMM = &grouped
	if p.DecodeAttention != (profile.Compute{}) {
		decode := compute(p.DecodeAttention)
		s.DecodeAttention = &decode
	}
	if p.Memory != (profile.Transfer{}) {
		memory := transfer(p.Memory)
		s.Memory = &memory
	}
	return s
}

// ProfileJSON encodes the profiles for the instance's configuration.
func (r *Result) ProfileJSON() map[plan.Role]json.RawMessage {
	out := map[plan.Role]json.RawMessage{}
	for role, p := range r.Profiles {
		if b, err := json.Marshal(p.Profile); err == nil {
			out[plan.Role(role)] = b
		}
	}
	return out
}
