// SPDX-License-Identifier: Apache-2.0

package render

import (
	"fmt"

	"github.com/findep/findep-operator/controllers/resolve"
	"github.com/findep/findep-operator/runtime/plan"
)

// NewInput is what the children of one instance are made from, given what was
// decided. ConfigHash is left to whoever has the configuration.
func NewInput(owner Owner, index int32, r *resolve.Result) *Input {
	return &Input{
		Owner: owner, Index: index, Revision: r.Revision,
		Attention: r.Decision.Attention, Expert: r.Decision.Expert,
		Images: r.Decision.Images, Source: r.Source, Groups: r.Groups,
		PriorityClassName: r.Placement.PriorityClassName, Queue: r.Placement.Queue,
		Gang: r.Decision.Gang, Decision: r.Decision,
		ModelName: r.ModelName, VLLM: r.VLLM,
	}
}

// Config is what the ranks of an instance are told.
func Config(owner Owner, index int32, r *resolve.Result) *plan.Instance {
	return &plan.Instance{
		Namespace: owner.Namespace, Deployment: owner.Name, Index: int(index), Revision: r.Revision,
		AttentionRanks: r.Decision.Attention, ExpertRanks: r.Decision.Expert,
		Hosts: Hosts(owner, index, r.Decision.Attention, r.Decision.Expert),
		Model: plan.ModelRef{
			Name: r.ModelName, Path: ModelDir,
			MaxContextTokens: r.MaxContextTokens, KVCacheTokens: r.KVCacheTokens,
		},
		Schedule: r.Schedule, SLO: r.SLO, Start: r.Start, Profile: r.ProfileJSON(),
	}
}

// Instance renders every object that an instance of a deployment consists of,
// the certificates in its Secret excepted, in the order in which the operator
// makes them.
func Instance(owner Owner, index int32, r *resolve.Result) ([]any, error) {
	in, config := NewInput(owner, index, r), Config(owner, index, r)
	var err error
	if in.ConfigHash, err = plan.Hash(config); err != nil {
		return nil, fmt.Errorf("instance %d: %w", index, err)
	}
	var content SecretContent
	if err := content.Configure(in, config); err != nil {
		return nil, err
	}
	objects := []any{Secret(owner, index, content)}
	for _, o := range GangObjects(in) {
		objects = append(objects, o)
	}
	for _, g := range PodGroups(in) {
		objects = append(objects, g)
	}
	for rank := range in.Attention + in.Expert {
		pod, err := PatchedPod(in, rank)
		if err != nil {
			return nil, err
		}
		objects = append(objects, pod)
	}
	return objects, nil
}
