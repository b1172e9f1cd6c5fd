// SPDX-License-Identifier: Apache-2.0

package resolve_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/findep/findep-operator/api/v1alpha1"
	"github.com/findep/findep-operator/controllers/resolve"
	"github.com/findep/findep-operator/test/wrappers"
)

// TestRuntimeImageFollowsTheProfile gives each group the sidecar of its devices.
func TestRuntimeImageFollowsTheProfile(t *testing.T) {
	const cpu, cuda = "findep/runtime:1", "findep/runtime-cuda:1"
	own := resolve.Images{Runtime: cpu, RuntimeCUDA: cuda}
	nodes := func(products ...string) []map[string]string {
		var list []map[string]string
		for _, p := range products {
			list = append(list, map[string]string{resolve.ProductLabel: p, "pool": p})
		}
		return list
	}
	profile := func(key, value string) []v1alpha1.GPUProfile {
		p := wrappers.GPUProfile("mine")
		if key != "" {
			p.Selector(key, value)
		}
		return []v1alpha1.GPUProfile{*p.Obj()}
	}
	backend := func(key, value string, b v1alpha1.ProfileBackend) []v1alpha1.GPUProfile {
		list := profile(key, value)
		list[0].Spec.Backend = b
		return list
	}
	for name, tc := range map[string]struct {
		facts              resolve.Facts
		change             func(*v1alpha1.MoEDeploymentSpec)
		attention, experts string
	}{
		"preset of the nodes":      {facts: resolve.Facts{NodeLabels: nodes("NVIDIA-H100-80GB-HBM3")}, attention: cuda, experts: cuda},
		"stand-in for the CPU":     {facts: resolve.Facts{NodeLabels: nodes("Simulated-CPU")}},
		"nothing known":            {},
		"unknown product, guessed": {facts: resolve.Facts{NodeLabels: nodes("NVIDIA-Z9")}},
		"preset by name": {change: func(s *v1alpha1.MoEDeploymentSpec) {
			s.Groups.Attention.ProfileRef, s.Groups.Expert.ProfileRef = "cpu", "h100"
		},
			experts: cuda},
		"different nodes": {facts: resolve.Facts{NodeLabels: nodes("NVIDIA-H100-80GB-HBM3", "Simulated-CPU")},
			change: func(s *v1alpha1.MoEDeploymentSpec) {
				s.Groups.Attention.NodeSelector = map[string]string{"pool": "NVIDIA-H100-80GB-HBM3"}
				s.Groups.Expert.NodeSelector = map[string]string{"pool": "Simulated-CPU"}
			}, attention: cuda},
		"GPUProfile of a product": {facts: resolve.Facts{Profiles: profile(resolve.ProductLabel, "NVIDIA-Z9"), NodeLabels: nodes("NVIDIA-Z9")},
			attention: cuda, experts: cuda},
		"GPUProfile of a stand-in":    {facts: resolve.Facts{Profiles: profile(resolve.ProductLabel, "Simulated-CPU"), NodeLabels: nodes("Simulated-CPU")}},
		"GPUProfile of another label": {facts: resolve.Facts{Profiles: profile("pool", "NVIDIA-Z9"), NodeLabels: nodes("NVIDIA-Z9")}, attention: cuda, experts: cuda},
		"GPUProfile that names CUDA":  {facts: resolve.Facts{Profiles: backend("pool", "x", v1alpha1.BackendCUDA), NodeLabels: nodes("x")}, attention: cuda, experts: cuda},
		"GPUProfile that names the CPU": {facts: resolve.Facts{
			Profiles: backend(resolve.ProductLabel, "NVIDIA-Z9", v1alpha1.BackendCPU), NodeLabels: nodes("NVIDIA-Z9"),
		}},
		"GPUProfile by name, no GPU": {facts: resolve.Facts{Profiles: profile("", "")},
			change: func(s *v1alpha1.MoEDeploymentSpec) {
				s.Groups.Attention.ProfileRef, s.Groups.Expert.ProfileRef = "mine", "mine"
			}},
		"the user's image": {facts: resolve.Facts{NodeLabels: nodes("NVIDIA-H100-80GB-HBM3")},
			change: func(s *v1alpha1.MoEDeploymentSpec) { s.Images.Runtime = "my/runtime:2" }},
	} {
		t.Run(name, func(t *testing.T) {
			d := wrappers.MoEDeployment("a").Profile("")
			if tc.change != nil {
				d.With(tc.change)
			}
			tc.facts.Images = own
			got := map[v1alpha1.Role]string{}
			for role, h := range resolve.Resolve(d.Obj(), tc.facts).Decision.Hardware {
				if h.RuntimeImage != "" {
					got[role] = h.RuntimeImage
				}
			}
			want := map[v1alpha1.Role]string{}
			for role, image := range map[v1alpha1.Role]string{v1alpha1.RoleAttention: tc.attention, v1alpha1.RoleExpert: tc.experts} {
				if image != "" {
					want[role] = image
				}
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("images (-want +got):\n%s", diff)
			}
			tc.facts.Images.RuntimeCUDA = ""
			for role, h := range resolve.Resolve(d.Obj(), tc.facts).Decision.Hardware {
				if h.RuntimeImage != "" {
					t.Errorf("the operator has no image for CUDA, and %s gets %s", role, h.RuntimeImage)
				}
			}
		})
	}
}
