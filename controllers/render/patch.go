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
	merged, err := strategicpatch.StrategicMergePatch(base, patch.Raw, corev1.Pod{})
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
