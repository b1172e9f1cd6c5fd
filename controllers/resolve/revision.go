// SPDX-License-Identifier: Apache-2.0

package resolve

import (
	"github.com/findep/findep-operator/api/v1alpha1"
	"github.com/findep/findep-operator/runtime/plan"
)

// Intent is what the user asked for as far as pods depend on it. Nothing that
// the operator adds on its own is in it, so that an upgrade of the operator
// restarts no pod. Fields added later must be omitted from the JSON when unset,
// or they would change the revision of every deployment.
type Intent struct {
	Model     v1alpha1.ModelSpec     `json:"model"`
	Config    string                 `json:"config,omitempty"`
	GPUs      v1alpha1.GPUSpec       `json:"gpus"`
	Groups    v1alpha1.GroupsSpec    `json:"groups,omitzero"`
	Images    v1alpha1.ImagesSpec    `json:"images,omitzero"`
	Placement v1alpha1.PlacementSpec `json:"placement,omitzero"`
	VLLM      *v1alpha1.VLLMSpec     `json:"vllm,omitempty"`
}

// IntentOf returns the user's intent. What may change while pods run is not part
// of it: replicas, schedule, slo, workload, rollout, recovery, and the profiles
// that predictions are made from.
func IntentOf(d *v1alpha1.MoEDeployment, config *ConfigFile) Intent {
	in := Intent{
		Model: d.Spec.Model, GPUs: d.Spec.GPUs, Groups: *d.Spec.Groups.DeepCopy(),
		Images: d.Spec.Images, Placement: d.Spec.Placement, VLLM: d.Spec.VLLM.DeepCopy(),
	}
	in.Groups.Attention.ProfileRef, in.Groups.Expert.ProfileRef = "", ""
	if config != nil {
		in.Config = config.Data
	}
	return in
}

// Revision identifies the user's intent.
func Revision(d *v1alpha1.MoEDeployment, config *ConfigFile) string {
	hash, err := plan.Hash(IntentOf(d, config))
	if err != nil {
		// Only values that JSON cannot express fail, and these types came from JSON.
		return "unknown"
	}
	return hash
}

// Restore returns the deployment as it was when the intent was the user's, with
// everything that is not part of an intent as it is now, and the model's
// config.json of then.
func (in Intent) Restore(d *v1alpha1.MoEDeployment) (*v1alpha1.MoEDeployment, *ConfigFile) {
	old := d.DeepCopy()
	attention, expert := d.Spec.Groups.Attention.ProfileRef, d.Spec.Groups.Expert.ProfileRef
	old.Spec.Model, old.Spec.GPUs, old.Spec.Groups = in.Model, in.GPUs, *in.Groups.DeepCopy()
	old.Spec.Images, old.Spec.Placement, old.Spec.VLLM = in.Images, in.Placement, in.VLLM.DeepCopy()
	old.Spec.Groups.Attention.ProfileRef, old.Spec.Groups.Expert.ProfileRef = attention, expert
	if in.Model.ConfigFrom == nil {
		return old, nil
	}
	return old, &ConfigFile{Data: in.Config}
}
