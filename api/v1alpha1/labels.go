// SPDX-License-Identifier: Apache-2.0

package v1alpha1

// Labels of everything that the operator makes for a MoEDeployment, and of the
// operator itself.
const (
	// LabelManagedBy is on every child; its value is ManagedByValue.
	LabelManagedBy = "app.kubernetes.io/managed-by"
	// ManagedByValue is the value of LabelManagedBy.
	ManagedByValue = "findep-operator"
	// LabelDeployment is the name of the MoEDeployment.
	LabelDeployment = Group + "/deployment"
	// LabelInstance is the index of the instance.
	LabelInstance = Group + "/instance"
	// LabelRole is Attention or Expert; on pods only.
	LabelRole = Group + "/role"
	// LabelRank is the rank within the instance; on pods only.
	LabelRank = Group + "/rank"
	// LabelLeader is "true" on the pod of rank 0 and, with vLLM, on that of the first
	// rank of the expert group: on pods that others dial by name.
	LabelLeader = Group + "/leader"
	// LabelComponent is on the manager's pods, by which the NetworkPolicies of
	// instances know them; its value is ComponentManager.
	LabelComponent = Group + "/component"
	// ComponentManager is the value of LabelComponent.
	ComponentManager = "manager"
	// LabelRevision identifies the user's intent that the child was made from.
	LabelRevision = Group + "/revision"
)

// Annotations of children.
const (
	// AnnotationConfigHash is on pods. The kubelet synchronises a pod's volumes at
	// once when an annotation changes, so changing it makes a new configuration
	// arrive in seconds instead of minutes.
	AnnotationConfigHash = Group + "/config-hash"
	// AnnotationConfigNudge is on a leader's pod whose volume did not follow the
	// Secret: the kubelet may have heard of the pod's change before that of the
	// Secret, and would look again a minute later. Another value makes it look.
	AnnotationConfigNudge = Group + "/config-nudge"
	// AnnotationWorldRank is on pods of the engine VLLMAFD: the rank in the plugin's
	// own order, ffn ranks first, by which NCCL and the plugin call it in their logs.
	AnnotationWorldRank = Group + "/vllm-world-rank"
	// AnnotationDecision is on an instance's Secret: what was decided when the
	// revision's first instance was made. It keeps an upgraded operator, with a
	// better solver or newer images, from restarting pods whose spec is unchanged.
	AnnotationDecision = Group + "/decision"
)

// TaintGPUUnhealthy is the key of a taint by which anybody says that the GPUs of a
// node are to be repaired. With the effect NoSchedule, instances are moved off the
// node as recovery.unhealthyGPUs says.
const TaintGPUUnhealthy = Group + "/gpu-unhealthy"

// Annotations of a MoEDeployment that the user sets.
const (
	// AnnotationMemoryCheck with the value MemoryCheckOverride makes instances
	// although the memory that is counted exceeds what the profile offers, for
	// when the user knows better. Condition Feasible says so.
	AnnotationMemoryCheck = Group + "/memory-check"
	// MemoryCheckOverride is the value of AnnotationMemoryCheck.
	MemoryCheckOverride = "override"
)
