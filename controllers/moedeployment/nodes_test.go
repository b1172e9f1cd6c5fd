// SPDX-License-Identifier: Apache-2.0

package moedeployment

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/findep/findep-operator/api/v1alpha1"
	"github.com/findep/findep-operator/runtime/plan"
	"github.com/findep/findep-operator/test/wrappers"
)

func nodeCondition(kind corev1.NodeConditionType, status corev1.ConditionStatus) corev1.NodeCondition {
	return corev1.NodeCondition{Type: kind, Status: status, Reason: "Because", Message: "XID 79."}
}

func TestNodeSignals(t *testing.T) {
	outOfService := []corev1.Taint{{Key: corev1.TaintNodeOutOfService, Effect: corev1.TaintEffectNoExecute}}
	down := corev1.NodeStatus{Conditions: []corev1.NodeCondition{nodeCondition(corev1.NodeReady, corev1.ConditionUnknown)}}
	up := corev1.NodeStatus{Conditions: []corev1.NodeCondition{nodeCondition(corev1.NodeReady, corev1.ConditionTrue)}}
	conditions := func(c ...corev1.NodeCondition) *corev1.Node {
		return &corev1.Node{Status: corev1.NodeStatus{Conditions: c}}
	}
	tainted := func(key string, effect corev1.TaintEffect) *corev1.Node {
		return &corev1.Node{Spec: corev1.NodeSpec{Taints: []corev1.Taint{{Key: key, Effect: effect}}}}
	}
	cases := map[string]struct {
		node       *corev1.Node
		want, says string
		sick       bool
	}{
		"well":                                {node: &corev1.Node{Status: up}},
		"gone":                                {want: v1alpha1.ReasonNodeGone, says: "made again on other nodes"},
		"not ready":                           {node: &corev1.Node{Status: down}, want: v1alpha1.ReasonNodeNotReady, says: "nodeshutdown:NoExecute"},
		"out of service":                      {node: &corev1.Node{Status: down, Spec: corev1.NodeSpec{Taints: outOfService}}, want: v1alpha1.ReasonNodeOutOfService, says: "removed"},
		"the taint while the kubelet answers": {node: &corev1.Node{Status: up, Spec: corev1.NodeSpec{Taints: outOfService}}},
		"cordoned":                            {node: &corev1.Node{Status: up, Spec: corev1.NodeSpec{Unschedulable: true}}, want: v1alpha1.ReasonNodeCordoned, says: "goes on serving"},
		"a GPU condition that is fine":        {node: conditions(nodeCondition("GpuMemWatch", corev1.ConditionFalse))},
		"hardware that is not ready":          {node: conditions(nodeCondition("AcceleratedHardwareReady", corev1.ConditionFalse)), want: v1alpha1.ReasonGPUUnhealthy, says: "XID 79", sick: true},
		"hardware that is ready":              {node: conditions(nodeCondition("AcceleratedHardwareReady", corev1.ConditionTrue))},
		"broken memory":                       {node: conditions(nodeCondition("GpuMemWatch", corev1.ConditionTrue)), want: v1alpha1.ReasonGPUUnhealthy, says: "GpuMemWatch is True (Because) XID 79", sick: true},
		"an XID in the system's log":          {node: conditions(nodeCondition("SysLogsXIDError", corev1.ConditionTrue)), want: v1alpha1.ReasonGPUUnhealthy, sick: true},
		"heat":                                {node: conditions(nodeCondition("GpuThermalWatch", corev1.ConditionTrue)), want: v1alpha1.ReasonGPUUnhealthy, says: "moves nothing"},
		"heat and broken memory":              {node: conditions(nodeCondition("GpuThermalWatch", corev1.ConditionTrue), nodeCondition("GpuMemWatch", corev1.ConditionTrue)), want: v1alpha1.ReasonGPUUnhealthy, says: "GpuMemWatch", sick: true},
		"a condition that nobody knows":       {node: conditions(nodeCondition("GpuXidError", corev1.ConditionTrue)), want: v1alpha1.ReasonGPUUnhealthy, says: "GpuXidError is True (Because) XID 79"},
		"a hopeful name, True":                {node: conditions(nodeCondition("GPUReady", corev1.ConditionTrue))},
		"a hopeful name, False":               {node: conditions(nodeCondition("GPUReady", corev1.ConditionFalse)), want: v1alpha1.ReasonGPUUnhealthy},
		"our taint":                           {node: tainted(v1alpha1.TaintGPUUnhealthy, corev1.TaintEffectNoSchedule), want: v1alpha1.ReasonGPUUnhealthy, says: "taint findep.dev/gpu-unhealthy", sick: true},
		"NVSentinel's taint":                  {node: tainted("nvidia.com/gpu-xid-error", corev1.TaintEffectNoSchedule), want: v1alpha1.ReasonGPUUnhealthy, sick: true},
		"a taint by its domain":               {node: tainted("gpu.health/memory-error", corev1.TaintEffectNoSchedule), want: v1alpha1.ReasonGPUUnhealthy, sick: true},
		"a taint that only prefers":           {node: tainted("nvidia.com/gpu-error", corev1.TaintEffectPreferNoSchedule), want: v1alpha1.ReasonGPUUnhealthy},
		"a taint that evicts by itself":       {node: tainted("nvidia.com/gpu-error", corev1.TaintEffectNoExecute), want: v1alpha1.ReasonGPUUnhealthy},
		"a taint that is tolerated":           {node: tainted("nvidia.com/tolerated-error", corev1.TaintEffectNoSchedule)},
		"a node that is reserved for GPUs":    {node: tainted("nvidia.com/gpu", corev1.TaintEffectNoSchedule)},
		"fewer GPUs offered than there are": {node: gpuNode("n", 8, func(n *corev1.Node) { n.Status.Allocatable = gpuNode("n", 7).Status.Allocatable }),
			want: v1alpha1.ReasonGPUUnhealthy, says: "offers 7 of 8"},
	}
	tolerations := []corev1.Toleration{{Key: "nvidia.com/tolerated-error", Operator: corev1.TolerationOpExists}}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			got := signalOf("n", tc.node, tolerations)
			if got.reason != tc.want || !strings.Contains(got.text, tc.says) || got.sick != tc.sick {
				t.Errorf("got %+v, want reason %q and %q, sick: %v", got, tc.want, tc.says, tc.sick)
			}
		})
	}
}

// TestNodesHealthy: the worst signal is the reason, each is told once, and
// devices count as well as nodes.
func TestNodesHealthy(t *testing.T) {
	s := newStage(t, wrappers.MoEDeployment("lite").GPUs(1, 2)).pods(readyPod).observed(func(*plan.Observation) {})
	condition := func() (reason, message string) {
		s.nodes = map[string]*corev1.Node{"node1": {ObjectMeta: metav1.ObjectMeta{Name: "node1"}, Spec: corev1.NodeSpec{Unschedulable: true}}}
		v := s.nodesHealthy()
		return v.reason, v.message
	}
	if reason, message := condition(); reason != v1alpha1.ReasonNodeCordoned || strings.Count(message, "cordoned") != 1 {
		t.Errorf("%s: %s", reason, message)
	}
	s.instances[0].observation.Ranks[2].Device = &plan.DeviceHealth{State: plan.DeviceFailed, Reason: "XID", Message: "79: fell off the bus."}
	reason, message := condition()
	if reason != v1alpha1.ReasonGPUUnhealthy || !strings.Contains(message, "pod lite-0-eg-1 on node node1: XID 79: fell off the bus.") || !strings.Contains(message, "cordoned:") {
		t.Errorf("%s: %s", reason, message)
	}
	s.instances[0].observation.Ranks[2].Device.State = plan.DeviceDegraded
	pod := s.instances[0].pods["lite-0-ag-0"]
	pod.Status.InitContainerStatuses[0].AllocatedResourcesStatus = []corev1.ResourceStatus{{
		Name: "nvidia.com/gpu", Resources: []corev1.ResourceHealth{{ResourceID: "GPU-7", Health: corev1.ResourceHealthStatusUnhealthy}},
	}}
	if reason, message := condition(); reason != v1alpha1.ReasonGPUUnhealthy || !strings.Contains(message, "GPU-7") || strings.Contains(message, "lite-0-eg-1") {
		t.Errorf("%s: %s", reason, message)
	}
}
