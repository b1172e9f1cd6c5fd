// SPDX-License-Identifier: Apache-2.0

package resolve

import (
	"github.com/findep/findep-operator/api/v1alpha1"
	"github.com/findep/findep-operator/runtime/plan"
)

// intent is what the user asked for as far as pods depend on it. Nothing that
// the operator adds on its own is in it, so that an upgrade of the operator
// restarts no pod. Fields added later must be omitted from the JSON when unset,
// or they would change the revision of every deployment.
type intent struct {
	Model     v1alpha1.ModelSpec     `json:"model"`
	Config    string                 `json:"config,omitempty"`
	GPUs      v1alpha1.GPUSpec       `json:"gpus"`
	Groups    v1alpha1.GroupsSpec    `json:"groups,omitzero"`
	Images    v1alpha1.ImagesSpec    `json:"images,omitzero"`
	Placement v1alpha1.PlacementSpec `json:"placement,omitzero"`
}

// Revision identifies the user's intent. What may change while pods run is not
// part of it: replicas, schedule, slo, workload, rollout, recovery, and the
// profiles that predictions are made from.
func Revision(d *v1alpha1.MoEDeployment, config *ConfigFile) string {
	in := intent{
		Model: d.Spec.Model, GPUs: d.Spec.GPUs, Groups: *d.Spec.Groups.DeepCopy(),
		Images: d.Spec.Images, Placement: d.Spec.Placement,
	}
	in.Groups.Attention.ProfileRef, in.Groups.Expert.ProfileRef = "", ""
	if config != nil {
		in.Config = config.Data
	}
	hash, err := plan.Hash(in)
	if err != nil {
		// Only values that JSON cannot express fail, and these types came from JSON.
		return "unknown"
	}
	return hash
}
