// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// MoEDeploymentStatus is what the operator decided and observed. Figures are
// rounded to two significant digits, so that a steady state causes no writes.
type MoEDeploymentStatus struct {
	// observedGeneration is the generation of the spec that this status
	// describes. It only advances after a pass without errors.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`

	// conditions say what is and what is not the case, and why.
	// +optional
	// +listType=map
	// +listMapKey=type
	// +kubebuilder:validation:MaxItems=32
	Conditions []metav1.Condition `json:"conditions,omitempty"`

	// model is the public name of the model, as /v1/models reports it.
	// +optional
	Model string `json:"model,omitempty"`

	// ready is readyReplicas and spec.replicas as text, for example "1/2".
	// +optional
	Ready string `json:"ready,omitempty"`

	// replicas is the number of instances that have pods.
	// +optional
	Replicas *int32 `json:"replicas,omitempty"`

	// readyReplicas is the number of instances that serve.
	// +optional
	ReadyReplicas *int32 `json:"readyReplicas,omitempty"`

	// updatedReplicas is the number of instances made from the current spec.
	// +optional
	UpdatedReplicas *int32 `json:"updatedReplicas,omitempty"`

	// selector matches one pod per instance (the leader), so that an autoscaler
	// counts instances.
	// +optional
	Selector string `json:"selector,omitempty"`

	// split is the division of an instance's GPUs, and why.
	// +optional
	Split *SplitStatus `json:"split,omitempty"`

	// plan is the schedule in use.
	// +optional
	Plan *PlanStatus `json:"plan,omitempty"`

	// predicted is what the plan in use should achieve under spec.workload, per
	// instance.
	// +optional
	Predicted *PredictedStatus `json:"predicted,omitempty"`

	// observed is what the leader of the first serving instance reports.
	// +optional
	Observed *ObservedStatus `json:"observed,omitempty"`

	// memory is the need and the capacity of one GPU of each group.
	// +optional
	// +listType=map
	// +listMapKey=role
	// +kubebuilder:validation:MaxItems=2
	Memory []MemoryStatus `json:"memory,omitempty"`

	// profiles says which GPU profile each group is planned with, and why.
	// +optional
	// +listType=map
	// +listMapKey=role
	// +kubebuilder:validation:MaxItems=2
	Profiles []ProfileStatus `json:"profiles,omitempty"`

	// placement says how instances made from the current spec are placed.
	// +optional
	Placement *PlacementStatus `json:"placement,omitempty"`

	// instances describes each instance.
	// +optional
	// +listType=map
	// +listMapKey=index
	// +kubebuilder:validation:MaxItems=1024
	Instances []InstanceStatus `json:"instances,omitempty"`

	// unhealthyGPUs are those that pods reported as failed. Pods that are made from
	// now on keep off their nodes. An entry goes when its node restarts or is
	// removed, when the pod reports its GPU well again, after a day, and when
	// recovery.unhealthyGPUs is Report.
	// +optional
	// +listType=map
	// +listMapKey=uid
	// +kubebuilder:validation:MaxItems=64
	UnhealthyGPUs []UnhealthyGPU `json:"unhealthyGPUs,omitempty"`
}

// UnhealthyGPU is a GPU that the pod which has or had it reported as failed.
type UnhealthyGPU struct {
	// uid of the pod.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	UID string `json:"uid,omitempty"`

	// node is the node of the pod.
	// +optional
	Node string `json:"node,omitempty"`

	// bootID is what the node called its uptime at the time.
	// +optional
	BootID string `json:"bootID,omitempty"`

	// since is when it was reported first.
	// +optional
	Since *metav1.Time `json:"since,omitempty"`

	// message says what was reported.
	// +optional
	Message string `json:"message,omitempty"`
}

// Role is the group a GPU belongs to.
// +kubebuilder:validation:Enum=Attention;Expert
type Role string

// The two groups.
const (
	RoleAttention Role = "Attention"
	RoleExpert    Role = "Expert"
)

// SplitStatus is the division of an instance's GPUs.
type SplitStatus struct {
	// ratio is attention and expert as text, for example "2:3".
	// +optional
	Ratio string `json:"ratio,omitempty"`

	// attention is the number of attention GPUs.
	// +optional
	Attention int32 `json:"attention,omitempty"`

	// expert is the number of expert GPUs.
	// +optional
	Expert int32 `json:"expert,omitempty"`

	// why says who chose this split and on what grounds.
	// +optional
	Why string `json:"why,omitempty"`

	// alternatives are the other splits of the same number of GPUs, best first.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=8
	Alternatives []SplitAlternative `json:"alternatives,omitempty"`
}

// SplitAlternative is a split that was not chosen.
type SplitAlternative struct {
	// ratio is attention and expert as text, for example "3:2".
	// +optional
	Ratio string `json:"ratio,omitempty"`

	// tokensPerSecond is predicted for this split; 0 if it does not fit.
	// +optional
	TokensPerSecond int64 `json:"tokensPerSecond,omitempty"`

	// why says what speaks against it.
	// +optional
	Why string `json:"why,omitempty"`
}

// PlanStatus is a schedule.
type PlanStatus struct {
	// summary is the schedule in short, for example "m_a=4 r1=2 r2=3 ASAS".
	// +optional
	Summary string `json:"summary,omitempty"`

	// source is Operator while no leader has reported (the plan to start with),
	// then Leader.
	// +optional
	Source PlanSource `json:"source,omitempty"`

	// phase of inference that the plan is for: Prefill or Decode.
	// +optional
	Phase Phase `json:"phase,omitempty"`

	// policy in use.
	// +optional
	Policy SchedulePolicy `json:"policy,omitempty"`

	// microBatchSize is m_a, samples per micro-batch and attention GPU.
	// +optional
	MicroBatchSize int32 `json:"microBatchSize,omitempty"`

	// r1 is the number of micro-batches in flight per attention GPU.
	// +optional
	R1 int32 `json:"r1,omitempty"`

	// r2 is the number of segments each micro-batch is cut into for the experts.
	// +optional
	R2 int32 `json:"r2,omitempty"`

	// order of the attention group's tasks.
	// +optional
	Order ScheduleOrder `json:"order,omitempty"`

	// chunks is the number of causal chunks a prompt is cut into.
	// +optional
	Chunks int32 `json:"chunks,omitempty"`

	// inUse says whether the first leader has taken over spec.schedule and
	// spec.slo as they are now: Current, Stale, or Unknown before it reported.
	// +optional
	InUse PlanInUse `json:"inUse,omitempty"`
}

// PlanSource says who chose a plan.
// +kubebuilder:validation:Enum=Operator;Leader
type PlanSource string

// The sources of a plan.
const (
	PlanFromOperator PlanSource = "Operator"
	PlanFromLeader   PlanSource = "Leader"
)

// Phase is a phase of inference.
// +kubebuilder:validation:Enum=Prefill;Decode
type Phase string

// The phases of inference.
const (
	PhasePrefill Phase = "Prefill"
	PhaseDecode  Phase = "Decode"
)

// PlanInUse says whether the leader uses the current schedule settings.
// +kubebuilder:validation:Enum=Current;Stale;Unknown
type PlanInUse string

// The values of PlanInUse.
const (
	PlanCurrent PlanInUse = "Current"
	PlanStale   PlanInUse = "Stale"
	PlanUnknown PlanInUse = "Unknown"
)

// PredictedStatus is what a simulation of the schedule predicts.
type PredictedStatus struct {
	// tokensPerSecond is the rate of completion tokens of one instance, for
	// requests as in spec.workload, prefill included.
	// +optional
	TokensPerSecond int64 `json:"tokensPerSecond,omitempty"`

	// timeToFirstTokenMilliseconds is the duration of one prefill step.
	// +optional
	TimeToFirstTokenMilliseconds int64 `json:"timeToFirstTokenMilliseconds,omitempty"`

	// timePerOutputTokenMilliseconds is the duration of one decode step.
	// +optional
	TimePerOutputTokenMilliseconds int64 `json:"timePerOutputTokenMilliseconds,omitempty"`
}

// ObservedStatus is what a leader measured.
type ObservedStatus struct {
	// instance is the index of the instance that was read.
	// +optional
	Instance int32 `json:"instance"`

	// prefill compares prediction and measurement of prefill steps.
	// +optional
	Prefill *PhaseStatus `json:"prefill,omitempty"`

	// decode compares prediction and measurement of decode steps.
	// +optional
	Decode *PhaseStatus `json:"decode,omitempty"`

	// tokensPerSecond is the rate of completion tokens over recent requests.
	// +optional
	TokensPerSecond int64 `json:"tokensPerSecond,omitempty"`

	// timeToFirstTokenMilliseconds over recent requests.
	// +optional
	TimeToFirstTokenMilliseconds int64 `json:"timeToFirstTokenMilliseconds,omitempty"`

	// timePerOutputTokenMilliseconds over recent requests.
	// +optional
	TimePerOutputTokenMilliseconds int64 `json:"timePerOutputTokenMilliseconds,omitempty"`

	// runningRequests is the number of requests being computed.
	// +optional
	RunningRequests int32 `json:"runningRequests,omitempty"`

	// waitingRequests is the number of requests that wait for KV cache.
	// +optional
	WaitingRequests int32 `json:"waitingRequests,omitempty"`

	// kvCacheUsedPercent is the share of the KV cache that is in use.
	// +optional
	KVCacheUsedPercent int32 `json:"kvCacheUsedPercent,omitempty"`
}

// PhaseStatus compares prediction and measurement of the steps of one phase.
type PhaseStatus struct {
	// plan is the schedule of these steps in short.
	// +optional
	Plan string `json:"plan,omitempty"`

	// samples is the number of sequences in a step.
	// +optional
	Samples int32 `json:"samples,omitempty"`

	// predictedMicroseconds is the predicted duration of a step.
	// +optional
	PredictedMicroseconds int64 `json:"predictedMicroseconds,omitempty"`

	// measuredMicroseconds is the median measured duration of a step.
	// +optional
	MeasuredMicroseconds int64 `json:"measuredMicroseconds,omitempty"`

	// errorPercent is |measured - predicted| / measured.
	// +optional
	ErrorPercent int32 `json:"errorPercent,omitempty"`
}

// MemoryStatus is the need and the capacity of one GPU of a group.
type MemoryStatus struct {
	// role is the group.
	// +required
	Role Role `json:"role,omitempty"`

	// needBytes is what the fullest GPU of the group needs at least: weights,
	// and caches and buffers for one prompt of the expected length with
	// maxContextTokens of KV cache.
	// +optional
	NeedBytes int64 `json:"needBytes,omitempty"`

	// availableBytes is what its profile says a GPU offers.
	// +optional
	AvailableBytes int64 `json:"availableBytes,omitempty"`

	// weightBytes is the part of needBytes that is weights.
	// +optional
	WeightBytes int64 `json:"weightBytes,omitempty"`
}

// ProfileStatus says which GPU profile a group is planned with.
type ProfileStatus struct {
	// role is the group.
	// +required
	Role Role `json:"role,omitempty"`

	// name of the profile.
	// +optional
	Name string `json:"name,omitempty"`

	// why this profile.
	// +optional
	Why string `json:"why,omitempty"`
}
