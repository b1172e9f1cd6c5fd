// SPDX-License-Identifier: Apache-2.0

package v1alpha1

// RolloutSpec says how changes that need new pods are carried out. The unit is
// a whole instance: its attention and expert pods are always of one revision.
type RolloutSpec struct {
	// maxUnavailable is the number of instances that may be down during a
	// rollout. Default 1, or 0 if maxSurge is given.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=1000
	MaxUnavailable int32 `json:"maxUnavailable,omitempty"`

	// maxSurge is the number of instances beyond replicas that a rollout may
	// make, so that they serve while others are replaced. Default 0.
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=1000
	MaxSurge int32 `json:"maxSurge,omitempty"`

	// partition keeps that many instances, those with the lowest indexes, at the
	// revision they have. Default 0.
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=1000
	Partition int32 `json:"partition,omitempty"`

	// paused holds a rollout between two instances while Enabled. Default
	// Disabled.
	// +optional
	Paused Switch `json:"paused,omitempty"`
}

// Switch is on or off, in words.
// +kubebuilder:validation:Enum=Enabled;Disabled
type Switch string

// The positions of a Switch.
const (
	Enabled  Switch = "Enabled"
	Disabled Switch = "Disabled"
)

// RecoverySpec says what happens when a pod of an instance fails.
type RecoverySpec struct {
	// policy is InPlace (default): the lost pod is replaced and the instance
	// forms again with the pods that survived; RecreateInstance: all its pods
	// are replaced; None: lost pods are not replaced, and only the kubelet
	// restarts containers.
	// +optional
	Policy RecoveryPolicy `json:"policy,omitempty"`

	// maxRestarts bounds the failures of one instance before it is given up: its
	// phase is then Failed and its pods are kept for their logs. It is taken up
	// again when the spec changes, when this bound is raised or when all its pods
	// are deleted. Failures are forgotten once it has served for ten minutes.
	// Default 10.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=10000
	MaxRestarts int32 `json:"maxRestarts,omitempty"`

	// backoffSeconds is the pause before what failed soon after its start is
	// replaced. It doubles with every further failure, up to five minutes (or
	// backoffSeconds, if that is more). Default 5.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=3600
	BackoffSeconds int32 `json:"backoffSeconds,omitempty"`

	// unhealthyGPUs says what happens to an instance with pods on a node whose GPUs
	// are to be repaired, as the node's conditions or taints, the device plugin or
	// the pod itself say. MoveWhenDown (default): once it does not serve, those pods
	// are made again on other nodes, or all of its pods with policy
	// RecreateInstance; Move: an instance that serves is moved too, as far as
	// rollout.maxUnavailable allows; Report: condition NodesHealthy tells, and
	// nothing else happens. Instances are moved one after the other, a move counts
	// towards maxRestarts, and none begins unless other nodes have GPUs for it. New
	// pods keep off such nodes, unless this is Report. With policy None nothing is
	// moved.
	// +optional
	UnhealthyGPUs UnhealthyGPUPolicy `json:"unhealthyGPUs,omitempty"`
}

// UnhealthyGPUPolicy says what is done about GPUs that are to be repaired.
// +kubebuilder:validation:Enum=MoveWhenDown;Move;Report
type UnhealthyGPUPolicy string

// The policies about GPUs that are to be repaired.
const (
	UnhealthyGPUMoveWhenDown UnhealthyGPUPolicy = "MoveWhenDown"
	UnhealthyGPUMove         UnhealthyGPUPolicy = "Move"
	UnhealthyGPUReport       UnhealthyGPUPolicy = "Report"
)

// RecoveryPolicy says what is replaced when a pod fails.
// +kubebuilder:validation:Enum=InPlace;RecreateInstance;None
type RecoveryPolicy string

// The recovery policies.
const (
	RecoveryInPlace          RecoveryPolicy = "InPlace"
	RecoveryRecreateInstance RecoveryPolicy = "RecreateInstance"
	RecoveryNone             RecoveryPolicy = "None"
)
