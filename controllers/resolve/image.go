// SPDX-License-Identifier: Apache-2.0

package resolve

import (
	"slices"

	"github.com/findep/findep-operator/api/v1alpha1"
)

// runtimeImage is the sidecar's image for a group where it is another than that
// of all groups: the one with the CUDA backend, for a group that is planned for
// NVIDIA's GPUs. Empty if the user names an image, or the operator knows no other.
// The image takes its backend from the device that it finds, so one that lands on
// a node without a GPU says so and computes on the CPU.
func runtimeImage(p Profile, group *v1alpha1.GroupSpec, spec *v1alpha1.MoEDeploymentSpec, facts Facts) string {
	if spec.Images.Runtime != "" || p.Profile == nil || p.Guess || !onNVIDIA(p.Profile.Name, group, facts) {
		return ""
	}
	return facts.Images.RuntimeCUDA
}

// onNVIDIA says whether a profile describes GPUs of NVIDIA. Every built-in preset
// but cpu does. A GPUProfile does if its backend is CUDA or, where it names none, if
// it selects nodes by a product, or the nodes that it selects have one, that is no
// stand-in for the CPU backend.
func onNVIDIA(profile string, group *v1alpha1.GroupSpec, facts Facts) bool {
	at := slices.IndexFunc(facts.Profiles, func(o v1alpha1.GPUProfile) bool { return o.Name == profile })
	if at < 0 {
		return profile != cpuPreset
	}
	if backend := facts.Profiles[at].Spec.Backend; backend != "" {
		return backend == v1alpha1.BackendCUDA
	}
	selector := facts.Profiles[at].Spec.NodeSelector
	if product, named := selector[ProductLabel]; named {
		return presetFor(product) != cpuPreset
	}
	return slices.ContainsFunc(eligible(eligible(facts.NodeLabels, group.NodeSelector), selector), func(labels map[string]string) bool {
		product := labels[ProductLabel]
		return product != "" && presetFor(product) != cpuPreset
	})
}
