// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// GPUProfileSpec is what was measured about one kind of GPU and its
// interconnect: linear models of durations, time = latency + work / rate
// (arXiv 2512.21487, equations 7 to 9), and memory.
type GPUProfileSpec struct {
	// nodeSelector matches the nodes with this kind of GPU, for example
	// nvidia.com/gpu.product: NVIDIA-H100-80GB-HBM3. A profile without one is
	// only used by groups.*.profileRef.
	// +optional
	// +kubebuilder:validation:MinProperties=1
	// +kubebuilder:validation:MaxProperties=16
	NodeSelector map[string]string `json:"nodeSelector,omitempty"`

	// memoryBytes is the memory of one GPU, in bytes.
	// +required
	// +kubebuilder:validation:Minimum=1048576
	// +kubebuilder:validation:Maximum=17592186044416
	MemoryBytes int64 `json:"memoryBytes,omitempty"`

	// reservedBytes is the part of it that is not for the model: driver,
	// communication buffers, fragmentation. Default 0.
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=17592186044416
	ReservedBytes int64 `json:"reservedBytes,omitempty"`

	// gemm is the time of a dense matrix product. Its unit of work is one
	// multiply-accumulate.
	// +required
	GEMM LinearModel `json:"gemm,omitzero"`

	// groupedGEMM is the time of one grouped matrix product over the experts of a
	// GPU. Its unit of work is one multiply-accumulate. Default: gemm.
	// +optional
	GroupedGEMM *LinearModel `json:"groupedGEMM,omitempty"`

	// attention is the time of attention over a prompt. Its unit of work is one
	// multiply-accumulate, n_h S^2 (d_k + d_v) per sample.
	// +required
	Attention LinearModel `json:"attention,omitzero"`

	// memory is the time of reading weights or KV cache. Its unit of work is one
	// byte. Default: it never limits.
	// +optional
	Memory *LinearModel `json:"memory,omitempty"`

	// link is the time of one exchange between the groups, per pair of GPUs. Its
	// unit of work is one byte.
	// +required
	Link LinearModel `json:"link,omitzero"`
}

// LinearModel is time = latencyNanoseconds + work / unitsPerMillisecond.
type LinearModel struct {
	// latencyNanoseconds is the part that does not depend on the amount of work.
	// +required
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=60000000000
	LatencyNanoseconds int64 `json:"latencyNanoseconds"`

	// unitsPerMillisecond is the rate.
	// +required
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=1000000000000000
	UnitsPerMillisecond int64 `json:"unitsPerMillisecond,omitempty"`
}

// GPUProfileStatus says whether the profile can be used.
type GPUProfileStatus struct {
	// observedGeneration is the generation that this status describes.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`

	// conditions of the profile.
	// +optional
	// +listType=map
	// +listMapKey=type
	// +kubebuilder:validation:MaxItems=8
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// GPUProfile holds what was measured about one kind of GPU and its
// interconnect. The operator and the leaders predict from it.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,categories=findep
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Memory",type=integer,JSONPath=`.spec.memoryBytes`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type GPUProfile struct {
	metav1.TypeMeta `json:",inline"`

	// metadata is the standard object metadata.
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// spec is what was measured.
	// +required
	Spec GPUProfileSpec `json:"spec,omitzero"`

	// status says whether the profile can be used.
	// +optional
	Status GPUProfileStatus `json:"status,omitzero"`
}

// GPUProfileList is a list of GPUProfile.
// +kubebuilder:object:root=true
type GPUProfileList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []GPUProfile `json:"items"`
}
