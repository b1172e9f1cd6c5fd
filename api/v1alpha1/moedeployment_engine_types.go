// SPDX-License-Identifier: Apache-2.0

package v1alpha1

// Engine names the program that runs in the pods of an instance.
// +kubebuilder:validation:Enum=FinDEP;VLLMAFD
type Engine string

// The engines.
const (
	// EngineFinDEP is this project's own runtime and server.
	EngineFinDEP Engine = "FinDEP"
	// EngineVLLMAFD is vLLM with its attention-FFN disaggregation plugin.
	EngineVLLMAFD Engine = "VLLMAFD"
)

// VLLMSpec says how vLLM and its attention-FFN disaggregation plugin
// (vllm-project/afd-plugin) are run: one process with one GPU per rank, the
// attention group in the role attention, the expert group in the role ffn.
// Changing it recreates the instances one after the other.
type VLLMSpec struct {
	// image has the program vllm on its path, and the plugin installed.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=512
	Image string `json:"image,omitempty"`

	// pluginVersion is the version of the plugin in the image, which is that of
	// the vLLM it is made for, for example 0.30.0. It decides which splits are
	// possible and which ports are used. It is not checked against the image.
	// +required
	// +kubebuilder:validation:MinLength=3
	// +kubebuilder:validation:MaxLength=64
	// +kubebuilder:validation:Pattern=`^(0|[1-9][0-9]{0,3})\.(0|[1-9][0-9]{0,3})([.+-]?[0-9A-Za-z.+-]*)?$`
	PluginVersion string `json:"pluginVersion,omitempty"`

	// ratioRule says which splits the plugin's connector can wire, for builds
	// between two versions. Default: Divisible before 0.30, Uneven from then on.
	// +optional
	RatioRule RatioRule `json:"ratioRule,omitempty"`

	// port is the base port on the first ffn rank: the rendezvous of all ranks
	// and of the control group. With the rule Divisible ffn rank k has port
	// port+1+k besides. Default 1239.
	// +optional
	// +kubebuilder:validation:Minimum=1024
	// +kubebuilder:validation:Maximum=64000
	Port int32 `json:"port,omitempty"`

	// gate says where experts are chosen: Expert (default) on the ffn ranks,
	// Attention on the attention ranks, which then send the router's logits along.
	// +optional
	Gate Role `json:"gate,omitempty"`

	// dualBatchOverlap is vLLM's overlap of two micro-batches.
	// +optional
	DualBatchOverlap DualBatchOverlapSpec `json:"dualBatchOverlap,omitzero"`

	// extraArgs are given to vllm serve of every rank, after the operator's. What
	// the operator sets itself must not be among them.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=4096
	ExtraArgs []string `json:"extraArgs,omitempty"`
}

// RatioRule says which numbers A of attention and F of ffn ranks a connector can
// wire.
// +kubebuilder:validation:Enum=Divisible;Uneven;Any
type RatioRule string

// The rules.
const (
	// RatioDivisible wants A >= F and A divisible by F. The connectors with this
	// rule also make every ffn rank listen at the address of the first, so that
	// ranks in pods of their own allow F = 1 only.
	RatioDivisible RatioRule = "Divisible"
	// RatioUneven wants A >= F. Attention ranks are dealt out in blocks that differ
	// by at most one.
	RatioUneven RatioRule = "Uneven"
	// RatioAny wants nothing. No released plugin has it for NVIDIA GPUs.
	RatioAny RatioRule = "Any"
)

// DualBatchOverlapSpec is vLLM's overlap of two micro-batches: one computes while
// the other one is on the way.
type DualBatchOverlapSpec struct {
	// mode is Enabled (default) or Disabled.
	// +optional
	Mode Switch `json:"mode,omitempty"`

	// decodeTokenThreshold is the number of tokens from which on a batch of decode
	// tokens only is divided. Default 32, as in vLLM.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=1048576
	DecodeTokenThreshold int32 `json:"decodeTokenThreshold,omitempty"`

	// prefillTokenThreshold is the same for batches with prompts. Default 512, as
	// in vLLM.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=1048576
	PrefillTokenThreshold int32 `json:"prefillTokenThreshold,omitempty"`

	// microBatches is the number of micro-batches. Default and only value 2.
	// +optional
	// +kubebuilder:validation:XValidation:rule="self == 2",message="the plugin overlaps exactly two micro-batches; leave spec.vllm.dualBatchOverlap.microBatches out, or set dualBatchOverlap.mode to Disabled for one"
	MicroBatches int32 `json:"microBatches,omitempty"`
}
