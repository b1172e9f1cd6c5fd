// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// InstancePhase is where an instance is on its way to serving.
// +kubebuilder:validation:Enum=Pending;Starting;Forming;Serving;Failing;Failed;Terminating
type InstancePhase string

// The phases of an instance.
const (
	// InstancePending means that not all of its pods have a node.
	InstancePending InstancePhase = "Pending"
	// InstanceStarting means that not all of its containers run.
	InstanceStarting InstancePhase = "Starting"
	// InstanceForming means that its ranks are finding each other.
	InstanceForming InstancePhase = "Forming"
	// InstanceServing means that its leader answers requests.
	InstanceServing InstancePhase = "Serving"
	// InstanceFailing means that a container cannot start or keeps failing.
	InstanceFailing InstancePhase = "Failing"
	// InstanceFailed means that the operator no longer repairs it, because
	// recovery.maxRestarts is used up or recovery.policy is None.
	InstanceFailed InstancePhase = "Failed"
	// InstanceTerminating means that its pods are being deleted.
	InstanceTerminating InstancePhase = "Terminating"
)

// InstanceStatus describes one instance.
type InstanceStatus struct {
	// index of the instance. A new instance gets the lowest that is free; after a
	// scale-down there may be gaps.
	// +required
	Index int32 `json:"index"`

	// phase is where the instance is on its way to serving.
	// +optional
	Phase InstancePhase `json:"phase,omitempty"`

	// epoch of its membership: 1 after it first formed, one more with every
	// recovery, 0 before.
	// +optional
	Epoch int64 `json:"epoch,omitempty"`

	// revision of the user's intent that its pods were made from.
	// +optional
	Revision string `json:"revision,omitempty"`

	// readyPods is the number of pods that are ready, of pods.
	// +optional
	ReadyPods int32 `json:"readyPods"`

	// pods is the number of pods that the instance needs.
	// +optional
	Pods int32 `json:"pods,omitempty"`

	// placement is where its pods are.
	// +optional
	Placement *InstancePlacement `json:"placement,omitempty"`

	// missingRanks are the ranks that have not joined, at most 16 of them.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=16
	MissingRanks []int32 `json:"missingRanks,omitempty"`

	// message says what the instance waits for; empty while it serves.
	// +optional
	Message string `json:"message,omitempty"`

	// lastFailure is the most recent failure that is still visible: a
	// container's last exit or the end of the previous epoch.
	// +optional
	LastFailure string `json:"lastFailure,omitempty"`

	// lastExitCode is the exit code of the container that failed last.
	// +optional
	LastExitCode *int32 `json:"lastExitCode,omitempty"`

	// failures is the number of failures since the instance last served for ten
	// minutes on end: containers that exited and pods that ended. Those within
	// recovery.backoffSeconds of each other count once, since one lost rank may
	// take others with it. recovery.maxRestarts bounds it.
	// +optional
	Failures int32 `json:"failures,omitempty"`

	// lastFailureTime is when the operator noticed the last of them.
	// +optional
	LastFailureTime *metav1.Time `json:"lastFailureTime,omitempty"`

	// completeSince is when all of its pods first existed; a pod that is missing
	// afterwards was lost. It is unset while the instance is being made.
	// +optional
	CompleteSince *metav1.Time `json:"completeSince,omitempty"`

	// drainingSince is when the operator chose the instance to be removed, since
	// there are more than spec.replicas asks for. It is the one with the fewest
	// requests then; those that it has finish before its pods go.
	// +optional
	DrainingSince *metav1.Time `json:"drainingSince,omitempty"`

	// moving says off which nodes the instance is moved, since their GPUs are to be
	// repaired, until it serves again. It is written before a pod is deleted.
	// +optional
	Moving *MoveStatus `json:"moving,omitempty"`

	// counted are the pods whose failures are counted, so that none counts twice.
	// +optional
	// +listType=map
	// +listMapKey=uid
	// +kubebuilder:validation:MaxItems=1024
	Counted []CountedFailures `json:"counted,omitempty"`
}

// MoveStatus is the move of an instance off nodes.
type MoveStatus struct {
	// since is when it was decided.
	// +optional
	Since *metav1.Time `json:"since,omitempty"`

	// nodes are the nodes that the instance leaves.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MaxLength=253
	Nodes []string `json:"nodes,omitempty"`

	// message says why.
	// +optional
	Message string `json:"message,omitempty"`
}

// CountedFailures is how many failures of one pod are counted.
type CountedFailures struct {
	// uid of the pod.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	UID string `json:"uid,omitempty"`

	// failures of its containers, one more if the pod itself has ended.
	// +optional
	Failures int32 `json:"failures,omitempty"`
}
