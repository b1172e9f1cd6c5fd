// SPDX-License-Identifier: Apache-2.0

package render

import (
	"encoding/json"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	corev1ac "k8s.io/client-go/applyconfigurations/core/v1"
)

// PatchedPod is the pod of a rank with the user's patch of its group applied,
// which resolve.CheckPodTemplate has accepted, kept off the nodes to avoid.
func PatchedPod(in *Input, rank int) (*corev1ac.PodApplyConfiguration, error) {
	pod, patch := Pod(in, rank), in.group(rank).PodTemplate
	if patch == nil {
		avoid(pod, in.Avoid)
		return pod, nil
	}
	base, err := json.Marshal(pod)
	if err != nil {
		return nil, fmt.Errorf("pod of rank %d: %w", rank, err)
	}
	raw := patch.Raw
	if rank > 0 && in.VLLM == nil {
		if raw, err = forFollower(raw); err != nil {
			return nil, fmt.Errorf("pod of rank %d with its podTemplate: %w", rank, err)
		}
	}
	merged, err := strategicpatch.StrategicMergePatch(base, raw, corev1.Pod{})
	if err != nil {
		return nil, fmt.Errorf("pod of rank %d with its podTemplate: %w", rank, err)
	}
	out := &corev1ac.PodApplyConfiguration{}
	if err := json.Unmarshal(merged, out); err != nil {
		return nil, fmt.Errorf("pod of rank %d with its podTemplate: %w", rank, err)
	}
	avoid(out, in.Avoid)
	return out, nil
}

// forFollower turns a patch of the leader's pod into one of the other ranks': what it
// says of the runtime, a native sidecar in the leader's pod, is said of their only
// container, and what it says of the server is left out. Directives of a strategic
// merge patch stay.
func forFollower(raw []byte) ([]byte, error) {
	var patch struct {
		Metadata json.RawMessage            `json:"metadata,omitempty"`
		Spec     map[string]json.RawMessage `json:"spec,omitempty"`
	}
	if err := json.Unmarshal(raw, &patch); err != nil {
		return nil, err
	}
	lists := map[string][]map[string]any{}
	for _, name := range []string{"initContainers", "containers"} {
		var list []map[string]any
		if text, set := patch.Spec[name]; set {
			if err := json.Unmarshal(text, &list); err != nil {
				return nil, fmt.Errorf("spec.%s: %w", name, err)
			}
		}
		for _, c := range list {
			switch c["name"] {
			case RuntimeContainer:
				lists["containers"] = append(lists["containers"], c)
			case ServerContainer:
			default:
				lists[name] = append(lists[name], c)
			}
		}
		delete(patch.Spec, name)
	}
	for name, list := range lists {
		text, err := json.Marshal(list)
		if err != nil {
			return nil, err
		}
		patch.Spec[name] = text
	}
	return json.Marshal(patch)
}

// avoid keeps a pod off nodes, whatever else it asks of nodes. The terms of a node
// selector are alternatives, so each has to say it; a requirement on the name of a
// node takes one name.
func avoid(pod *corev1ac.PodApplyConfiguration, nodes []string) {
	if len(nodes) == 0 {
		return
	}
	if pod.Spec.Affinity == nil {
		pod.Spec.WithAffinity(corev1ac.Affinity())
	}
	if pod.Spec.Affinity.NodeAffinity == nil {
		pod.Spec.Affinity.WithNodeAffinity(corev1ac.NodeAffinity())
	}
	affinity := pod.Spec.Affinity.NodeAffinity
	if affinity.RequiredDuringSchedulingIgnoredDuringExecution == nil {
		affinity.WithRequiredDuringSchedulingIgnoredDuringExecution(corev1ac.NodeSelector().WithNodeSelectorTerms(corev1ac.NodeSelectorTerm()))
	}
	terms := affinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms
	for i := range terms {
		for _, node := range nodes {
			terms[i].WithMatchFields(corev1ac.NodeSelectorRequirement().
				WithKey(metav1.ObjectNameField).WithOperator(corev1.NodeSelectorOpNotIn).WithValues(node))
		}
	}
}
