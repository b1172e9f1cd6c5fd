// SPDX-License-Identifier: Apache-2.0

package v1alpha1

// PlacementSpec says where and how the pods of an instance are scheduled.
// +kubebuilder:validation:XValidation:rule="!has(self.backend) || self.backend == 'Auto' || !has(self.gang) || self.gang != 'Off'",message="placement.backend names what schedules an instance all or none, which placement.gang Off switches off; leave one of them out"
// +kubebuilder:validation:XValidation:rule="!has(self.backend) || self.backend != 'Kueue' || has(self.queue)",message="placement.backend Kueue needs placement.queue, the name of a LocalQueue in this namespace"
type PlacementSpec struct {
	// gang says whether the pods of an instance are scheduled all or none. Auto
	// (default) does so where a backend is served; Required makes no pods where
	// none is; Off schedules pods one by one.
	// +optional
	Gang GangMode `json:"gang,omitempty"`

	// backend is what schedules an instance all or none. Auto (default) takes
	// Kueue where it is served and queue is given, else PodGroup where the API
	// server serves it, else Volcano. With another value no pods are made where
	// that backend is not served.
	// +optional
	Backend GangBackend `json:"backend,omitempty"`

	// queue is the Kueue LocalQueue, or the Volcano queue, that quota is taken
	// from. The backend PodGroup knows no queues.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`
	Queue string `json:"queue,omitempty"`

	// topology keeps the pods of one instance close together, and instances
	// apart.
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

// GangBackend is what schedules an instance all or none: PodGroup is
// scheduling.k8s.io/v1beta1 of Kubernetes itself, Volcano is a scheduler with
// PodGroups of its own, Kueue admits groups of plain pods by quota.
// +kubebuilder:validation:Enum=Auto;PodGroup;Volcano;Kueue
type GangBackend string

// The gang backends.
const (
	BackendAuto     GangBackend = "Auto"
	BackendPodGroup GangBackend = "PodGroup"
	BackendVolcano  GangBackend = "Volcano"
	BackendKueue    GangBackend = "Kueue"
)

// TopologySpec keeps the pods of one instance close together, and instances
// apart. What is left out is decided by the labels of the nodes: the pods of an
// instance prefer one rack (topology.kubernetes.io/rack), and those of its
// attention group one NVLink domain (nvidia.com/gpu.clique), if nodes that they
// may run on have these labels.
type TopologySpec struct {
	// instance says how strictly all pods of one instance share a topology
	// domain. Preferred if only key is given.
	// +optional
	Instance TopologyMode `json:"instance,omitempty"`

	// key is the node label whose value is the domain, for example
	// topology.kubernetes.io/rack, which is the default.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=317
	Key string `json:"key,omitempty"`

	// attention says how strictly the pods of an instance's attention group share
	// a domain, within that of the instance.
	// +optional
	Attention *TopologyRule `json:"attention,omitempty"`

	// expert says how strictly the pods of an instance's expert group share a
	// domain, within that of the instance.
	// +optional
	Expert *TopologyRule `json:"expert,omitempty"`

	// spread puts different instances into different domains, by the place of
	// their leaders. Default None.
	// +optional
	Spread *TopologyRule `json:"spread,omitempty"`
}

// TopologyRule is a topology domain and how strictly it is meant.
type TopologyRule struct {
	// mode is Preferred, Required or None.
	// +required
	Mode TopologyMode `json:"mode,omitempty"`

	// key is the node label whose value is the domain. Default for groups
	// nvidia.com/gpu.clique, which is an NVLink domain; for spread
	// topology.kubernetes.io/zone.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=317
	Key string `json:"key,omitempty"`
}

// TopologyMode says how strictly a topology domain is meant.
// +kubebuilder:validation:Enum=Preferred;Required;None
type TopologyMode string

// The topology modes.
const (
	TopologyPreferred TopologyMode = "Preferred"
	TopologyRequired  TopologyMode = "Required"
	TopologyNone      TopologyMode = "None"
)

// DeviceClaimSpec claims GPUs through Dynamic Resource Allocation.
type DeviceClaimSpec struct {
	// deviceClassName is the DeviceClass, for example gpu.nvidia.com.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	DeviceClassName string `json:"deviceClassName,omitempty"`

	// selectors are CEL expressions on the device that all must hold, for example
	// device.attributes['gpu.nvidia.com'].productName == 'NVIDIA H100 80GB HBM3'.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=8
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=1024
	Selectors []string `json:"selectors,omitempty"`
}

// PlacementStatus says how instances made from the current spec are placed.
type PlacementStatus struct {
	// backend is what schedules an instance all or none: PodGroup, Volcano or
	// Kueue; None if pods are scheduled one by one.
	// +optional
	Backend string `json:"backend,omitempty"`

	// why says who chose the backend and on what grounds.
	// +optional
	Why string `json:"why,omitempty"`

	// topology says in words what is asked of the places of pods.
	// +optional
	Topology string `json:"topology,omitempty"`
}

// InstancePlacement is where the pods of an instance are.
type InstancePlacement struct {
	// nodes with pods of the instance, at most 64 of them, in the order of the
	// ranks.
	// +optional
	// +listType=map
	// +listMapKey=node
	// +kubebuilder:validation:MaxItems=64
	Nodes []NodeRanks `json:"nodes,omitempty"`

	// domains are the topology domains that were asked for.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=3
	Domains []DomainStatus `json:"domains,omitempty"`
}

// NodeRanks is a node and the ranks on it.
type NodeRanks struct {
	// node is its name.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Node string `json:"node,omitempty"`

	// ranks on the node, for example "0-2,5".
	// +optional
	Ranks string `json:"ranks,omitempty"`
}

// DomainStatus says whether pods that were to share a domain do.
type DomainStatus struct {
	// of is whose pods were to share it: Instance, Attention or Expert.
	// +optional
	Of string `json:"of,omitempty"`

	// key is the node label that names the domain.
	// +optional
	Key string `json:"key,omitempty"`

	// reached says whether they share it: Yes, No, or Unknown while not all have a
	// node, where nodes cannot be read or where they lack the label.
	// +optional
	Reached DomainReached `json:"reached,omitempty"`

	// values are the domains that they are in, at most 4 of them.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=4
	Values []string `json:"values,omitempty"`
}

// DomainReached says whether pods share a domain.
// +kubebuilder:validation:Enum=Yes;No;Unknown
type DomainReached string

// The values of DomainReached.
const (
	DomainYes     DomainReached = "Yes"
	DomainNo      DomainReached = "No"
	DomainUnknown DomainReached = "Unknown"
)
