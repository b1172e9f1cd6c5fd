// SPDX-License-Identifier: Apache-2.0

package v1alpha1

// PlacementSpec says where and how the pods of an instance are scheduled.
type PlacementSpec struct {
	// gang says whether the pods of an instance are scheduled all or none. Auto
	// (default) does so where the API server serves
	// scheduling.k8s.io PodGroups; Required makes no pods where it does not; Off
	// schedules pods one by one.
	// +optional
	Gang GangMode `json:"gang,omitempty"`

	// topology keeps the pods of one instance close together.
	// +optional
	Topology TopologySpec `json:"topology,omitzero"`

	// priorityClassName of the pods.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	PriorityClassName string `json:"priorityClassName,omitempty"`
}

// GangMode says whether an instance is scheduled all or none.
// +kubebuilder:validation:Enum=Auto;Required;Off
type GangMode string

// The gang modes.
const (
	GangAuto     GangMode = "Auto"
	GangRequired GangMode = "Required"
	GangOff      GangMode = "Off"
)

// TopologySpec keeps the pods of one instance close together.
type TopologySpec struct {
	// instance says how strictly all pods of one instance share a topology
	// domain. Default None.
	// +optional
	Instance TopologyMode `json:"instance,omitempty"`

	// key is the node label whose value is the domain, for example
	// topology.kubernetes.io/rack.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=317
	Key string `json:"key,omitempty"`
}

// TopologyMode says how strictly a topology domain is shared.
// +kubebuilder:validation:Enum=Preferred;Required;None
type TopologyMode string

// The topology modes.
const (
	TopologyPreferred TopologyMode = "Preferred"
	TopologyRequired  TopologyMode = "Required"
	TopologyNone      TopologyMode = "None"
)

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

	// partition keeps the instances with a lower index at the revision they
	// have. Default 0.
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
}

// RecoveryPolicy says what is replaced when a pod fails.
// +kubebuilder:validation:Enum=InPlace;RecreateInstance;None
type RecoveryPolicy string

// The recovery policies.
const (
	RecoveryInPlace          RecoveryPolicy = "InPlace"
	RecoveryRecreateInstance RecoveryPolicy = "RecreateInstance"
	RecoveryNone             RecoveryPolicy = "None"
)
