// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// GPUProfileSpec is what was measured about one kind of GPU and its
// interconnect: linear models of durations, time = alpha + slope * work
// (arXiv 2512.21487, equations 7 to 9), and memory.
type GPUProfileSpec struct {
	// nodeSelector matches the nodes with this kind of GPU, for example
	// nvidia.com/gpu.product: NVIDIA-H100-80GB-HBM3. A profile without one is
	// only used by groups.*.profileRef.
	// +optional
	// +kubebuilder:validation:MinProperties=1
	// +kubebuilder:validation:MaxProperties=16
	NodeSelector map[string]string `json:"nodeSelector,omitempty"`

	// backend is what computes: CUDA or CPU. It decides which image a group's
	// sidecar has, and a rank that computes with another says so in condition
	// PredictionAccurate. Default: not known; the image then follows the product
	// in nodeSelector or on the nodes.
	// +optional
	Backend ProfileBackend `json:"backend,omitempty"`

	// computeCapability of the GPU, major.minor, for example "9.0"; a rank that
	// finds another says so.
	// +optional
	// +kubebuilder:validation:MinLength=3
	// +kubebuilder:validation:MaxLength=4
	// +kubebuilder:validation:Pattern=`^[0-9]{1,2}\.[0-9]$`
	ComputeCapability string `json:"computeCapability,omitempty"`

	// quality says where the figures come from: Measured (calibrated on such
	// GPUs) or Datasheet. Default Datasheet.
	// +optional
	Quality ProfileQuality `json:"quality,omitempty"`

	// source says in words where the figures come from.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=4096
	Source string `json:"source,omitempty"`

	// memoryBytes is the memory of one GPU, in bytes.
	// +required
	// +kubebuilder:validation:Minimum=1048576
	// +kubebuilder:validation:Maximum=1125899906842624
	MemoryBytes int64 `json:"memoryBytes,omitempty"`

	// usableMemoryPermille is the part of memoryBytes that may be planned with,
	// in thousandths. Default 900.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=1000
	UsableMemoryPermille int32 `json:"usableMemoryPermille,omitempty"`

	// reservedBytes is taken from the usable part for the runtime itself:
	// contexts, workspaces of libraries, communication buffers. Default 0.
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=1125899906842624
	ReservedBytes int64 `json:"reservedBytes,omitempty"`

	// resources are extended resources that a pod needs beside its GPU, for
	// example rdma/hca: 1 where the interconnect is InfiniBand. They are asked for
	// in instances that are made from now on.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=8
	Resources []ExtendedResource `json:"resources,omitempty"`

	// environment of the runtime container, for example NCCL_IB_HCA. It is set in
	// instances that are made from now on.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=32
	Environment []EnvironmentVariable `json:"environment,omitempty"`

	// gemm is the time of one dense matrix product.
	// +required
	GEMM ComputeModel `json:"gemm,omitzero"`

	// groupedGEMM is the time of one grouped matrix product over all experts of
	// a GPU. Default: gemm.
	// +optional
	GroupedGEMM *ComputeModel `json:"groupedGEMM,omitempty"`

	// attention is the time of scores and weighted values of one layer.
	// +required
	Attention ComputeModel `json:"attention,omitzero"`

	// decodeAttention is the same in decode, per multiply-accumulate of the
	// absorbed form where the model has one. Default: attention.
	// +optional
	DecodeAttention *ComputeModel `json:"decodeAttention,omitempty"`

	// memory is the time of reading weights and KV cache. Default: reading takes
	// no time.
	// +optional
	Memory *TransferModel `json:"memory,omitempty"`

	// link is the time of one transfer between the groups, per GPU and
	// direction.
	// +required
	Link TransferModel `json:"link,omitzero"`
}

// ExtendedResource is a resource that a device plugin offers.
type ExtendedResource struct {
	// name of the resource, for example rdma/hca_shared_devices_a.
	// +required
	// +kubebuilder:validation:MinLength=3
	// +kubebuilder:validation:MaxLength=317
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$`
	// +kubebuilder:validation:XValidation:rule="self != 'nvidia.com/gpu'",message="leave nvidia.com/gpu out of resources: every pod has its GPU"
	Name string `json:"name,omitempty"`

	// count is how many a pod asks for.
	// +required
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=1024
	Count int32 `json:"count,omitempty"`
}

// EnvironmentVariable is a name and a value.
type EnvironmentVariable struct {
	// name of the variable.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=128
	// +kubebuilder:validation:Pattern=`^[A-Za-z_][A-Za-z0-9_]*$`
	// +kubebuilder:validation:XValidation:rule="!self.startsWith('POD_') && !self.startsWith('FINDEP_')",message="names that start with POD_ or FINDEP_ are the operator's own"
	Name string `json:"name,omitempty"`

	// value of the variable; it is taken as it is, without expansion.
	// +optional
	// +kubebuilder:validation:MaxLength=1024
	Value string `json:"value,omitempty"`
}

// ProfileBackend is what computes on a device.
// +kubebuilder:validation:Enum=CPU;CUDA
type ProfileBackend string

// The backends of profiles.
const (
	BackendCPU  ProfileBackend = "CPU"
	BackendCUDA ProfileBackend = "CUDA"
)

// ProfileQuality says where the figures of a profile come from.
// +kubebuilder:validation:Enum=Measured;Datasheet
type ProfileQuality string

// The qualities of a profile.
const (
	ProfileMeasured  ProfileQuality = "Measured"
	ProfileDatasheet ProfileQuality = "Datasheet"
)

// ComputeModel is the time of one launch as a function of its work in
// multiply-accumulates (half the FLOPs).
type ComputeModel struct {
	// alphaNanoseconds is paid per launch.
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=3600000000000
	AlphaNanoseconds int64 `json:"alphaNanoseconds,omitempty"`

	// picosecondsPerGigaMAC is the slope, per 10^9 multiply-accumulates.
	// +required
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=3600000000000000
	PicosecondsPerGigaMAC int64 `json:"picosecondsPerGigaMAC,omitempty"`
}

// TransferModel is the time to move bytes.
type TransferModel struct {
	// alphaNanoseconds is paid per transfer.
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=3600000000000
	AlphaNanoseconds int64 `json:"alphaNanoseconds,omitempty"`

	// picosecondsPerMegabyte is the slope, per 10^6 bytes.
	// +required
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=3600000000000000
	PicosecondsPerMegabyte int64 `json:"picosecondsPerMegabyte,omitempty"`
}

// GPUProfile holds what was measured about one kind of GPU and its
// interconnect. The operator and the leaders predict from it.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,categories=findep
// +kubebuilder:printcolumn:name="Memory",type=integer,JSONPath=`.spec.memoryBytes`,description="Bytes of memory of one GPU"
// +kubebuilder:printcolumn:name="Quality",type=string,JSONPath=`.spec.quality`,description="Measured or Datasheet"
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type GPUProfile struct {
	metav1.TypeMeta `json:",inline"`

	// metadata is the standard object metadata.
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// spec is what was measured.
	// +required
	Spec GPUProfileSpec `json:"spec,omitzero"`
}

// GPUProfileList is a list of GPUProfile.
// +kubebuilder:object:root=true
type GPUProfileList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []GPUProfile `json:"items"`
}
