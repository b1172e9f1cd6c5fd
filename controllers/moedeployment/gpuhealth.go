// SPDX-License-Identifier: Apache-2.0

package moedeployment

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/klog/v2"

	"github.com/findep/findep-operator/api/v1alpha1"
	"github.com/findep/findep-operator/controllers/resolve"
)

// This file reads what nodes say about their GPUs. What monitors say differs in
// weight: a GPU that fell off the bus serves nobody, one that is hot only slows
// its rank down, and of a condition with an unknown name only its author knows.
// Only the first kind is a reason to move an instance; all are told.

// sickConditions are set to True, by the monitors named, only when a GPU or what
// ties GPUs together has to be repaired, reset or replaced. A monitor's conditions
// about heat and power are not among them, nor are those about any XID, which a
// program may cause by itself.
var sickConditions = []corev1.NodeConditionType{
	// NVIDIA's NVSentinel, which sets a condition for fatal errors only:
	// https://docs.nvidia.com/nvsentinel/getting-started/integrations
	"GpuMemWatch", "GpuPcieWatch", "GpuInforomWatch", "GpuSmWatch", "GpuNvlinkWatch", "GpuMcuWatch", "GpuPmuWatch", "GpuDriverWatch",
	"SysLogsXIDError", "SysLogsSXIDError", "SysLogsGPUFallenOff", "NVSwitchFatalError", "NVSwitchDown",
	// AKS: https://learn.microsoft.com/azure/aks/node-problem-detector
	"GPUMissing",
}

// acceleratedHardware is False when a node of EKS is to be repaired:
// https://docs.aws.amazon.com/eks/latest/userguide/node-health.html
const acceleratedHardware corev1.NodeConditionType = "AcceleratedHardwareReady"

// gpuWords begin the names of conditions that are about GPUs, in lower case.
var gpuWords = []string{"gpu", "nvidia", "nvlink", "nvswitch", "xid"}

// goodWords end the names of conditions that are True when all is well.
var goodWords = []string{"ready", "healthy", "ok"}

// gpuSignal is what a node says against its GPUs to pods with the given
// tolerations: the text is empty if that is nothing, and sick says that it is a
// reason to move.
func gpuSignal(node *corev1.Node, tolerations []corev1.Toleration) (text string, sick bool) {
	if text := gpuCondition(node, true); text != "" {
		return text, true
	}
	if text := gpuTaint(node, corev1.TaintEffectNoSchedule, tolerations); text != "" {
		return text, true
	}
	if text := gpuCondition(node, false); text != "" {
		return text, false
	}
	// From a NoExecute taint Kubernetes evicts by itself.
	for _, effect := range []corev1.TaintEffect{corev1.TaintEffectNoExecute, corev1.TaintEffectPreferNoSchedule} {
		if text := gpuTaint(node, effect, tolerations); text != "" {
			return text, false
		}
	}
	has, offers := node.Status.Capacity[resolve.GPUResource], node.Status.Allocatable[resolve.GPUResource]
	if offers.Cmp(has) < 0 {
		return fmt.Sprintf("its device plugin offers %s of %s", offers.String(), has.String()), false
	}
	return "", false
}

// gpuCondition is the first condition that is a reason to move, or one that is
// not.
func gpuCondition(node *corev1.Node, sick bool) string {
	for _, c := range node.Status.Conditions {
		grave := c.Type == acceleratedHardware && c.Status == corev1.ConditionFalse ||
			slices.Contains(sickConditions, c.Type) && c.Status == corev1.ConditionTrue
		if grave == sick && (grave || suspicious(c)) {
			return strings.TrimSuffix(fmt.Sprintf("%s is %s (%s) %s", c.Type, c.Status, c.Reason, tail(c.Message)), ".")
		}
	}
	return ""
}

// suspicious says that a condition is about GPUs and not what its name hopes for.
func suspicious(c corev1.NodeCondition) bool {
	name := strings.ToLower(string(c.Type))
	bad := corev1.ConditionTrue
	if slices.ContainsFunc(goodWords, func(word string) bool { return strings.HasSuffix(name, word) }) {
		bad = corev1.ConditionFalse
	}
	return c.Status == bad && slices.ContainsFunc(gpuWords, func(word string) bool { return strings.HasPrefix(name, word) })
}

// gpuTaint is the first taint with an effect that is about the health of GPUs and
// is not tolerated.
func gpuTaint(node *corev1.Node, effect corev1.TaintEffect, tolerations []corev1.Toleration) string {
	for i := range node.Spec.Taints {
		taint := &node.Spec.Taints[i]
		tolerated := slices.ContainsFunc(tolerations, func(t corev1.Toleration) bool {
			return t.ToleratesTaint(klog.Background(), taint, false)
		})
		if taint.Effect == effect && aboutHealth(taint.Key) && !tolerated {
			return "it has the taint " + taint.ToString()
		}
	}
	return ""
}

// aboutHealth says that the key of a taint tells of a GPU's health: our own, or
// one after the patterns of NVSentinel, where the administrator chooses keys. The
// taint nvidia.com/gpu only reserves a node.
func aboutHealth(key string) bool {
	domain, name, _ := strings.Cut(key, "/")
	switch domain {
	case "nvidia.com":
		return strings.HasSuffix(name, "-error")
	case "gpu.health", "nvlink.health", "nvswitch.health":
		return true
	}
	return key == v1alpha1.TaintGPUUnhealthy
}

// gpusOffered is the number of GPUs that a node has for new pods: none if it takes
// no pods or its GPUs are sick.
func gpusOffered(node *corev1.Node) int64 {
	if node == nil || node.Spec.Unschedulable || !nodeReady(node) {
		return 0
	}
	if _, sick := gpuSignal(node, nil); sick {
		return 0
	}
	n := node.Status.Allocatable[resolve.GPUResource]
	return n.Value()
}
