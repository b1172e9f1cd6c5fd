// SPDX-License-Identifier: Apache-2.0

package render

import (
	"encoding/json"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	corev1ac "k8s.io/client-go/applyconfigurations/core/v1"
)

// PatchedPod is the pod of a rank with the user's patch of its group applied,
// which resolve.CheckPodTemplate has accepted.
func PatchedPod(in *Input, rank int) (*corev1ac.PodApplyConfiguration, error) {
	pod, patch := Pod(in, rank), in.group(rank).PodTemplate
	if patch == nil {
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
	return out, nil
}
