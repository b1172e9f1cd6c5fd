// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// MaxNameLength is the longest name of a MoEDeployment. Its pods are called
// <name>-<instance>-ag-<rank>, and the longest such name must fit in a DNS
// label of 63 characters.
const MaxNameLength = 45

// MoEDeploymentSpec is what the user wants.
// +kubebuilder:validation:XValidation:rule="(has(self.engine) ? self.engine : 'FinDEP') == (has(oldSelf.engine) ? oldSelf.engine : 'FinDEP')",message="spec.engine cannot be changed: what clients, metrics and status mean depends on it; make a second MoEDeployment and move the traffic"
// +kubebuilder:validation:XValidation:rule="has(self.vllm) == (has(self.engine) && self.engine == 'VLLMAFD')",message="spec.vllm belongs to spec.engine VLLMAFD: give both or neither"
// +kubebuilder:validation:XValidation:rule="!has(self.vllm) || !has(self.recovery) || !has(self.recovery.policy) || self.recovery.policy != 'InPlace'",message="recovery.policy InPlace needs FinDEP's own runtime: the ranks of vLLM cannot form again without a restart; use RecreateInstance (the default of this engine) or None"
// +kubebuilder:validation:XValidation:rule="!has(self.vllm) || !has(self.gpus.attention) || !has(self.gpus.expert) || (has(self.vllm.ratioRule) && self.vllm.ratioRule == 'Any') || self.gpus.attention >= self.gpus.expert",message="the plugin of spec.vllm.pluginVersion needs at least as many attention as expert GPUs: raise gpus.attention, lower gpus.expert, or give gpus.total and let the operator choose"
// +kubebuilder:validation:XValidation:rule="!has(self.vllm) || !has(self.gpus.attention) || !has(self.gpus.expert) || self.gpus.expert == 1 || (has(self.vllm.ratioRule) ? self.vllm.ratioRule != 'Divisible' : int(self.vllm.pluginVersion.split('.')[0]) > 0 || int(self.vllm.pluginVersion.split('.')[1].find('^[0-9]+')) >= 30)",message="plugins before 0.30 make every ffn rank listen at the address of the first, which ranks in pods of their own cannot: set gpus.expert to 1, or use an image with plugin 0.30 or later and say so in spec.vllm.pluginVersion"
type MoEDeploymentSpec struct {
	// engine is what runs in the pods: FinDEP (default), this project's own
	// runtime and server, or VLLMAFD, vLLM with its plugin for attention-FFN
	// disaggregation. It cannot be changed.
	// +optional
	Engine Engine `json:"engine,omitempty"`

	// vllm is the configuration of the engine VLLMAFD.
	// +optional
	VLLM *VLLMSpec `json:"vllm,omitempty"`

	// model is the Mixture-of-Experts model to serve. Changing it recreates
	// the instances one after the other.
	// +required
	Model ModelSpec `json:"model,omitzero"`

	// replicas is the number of instances. Each is one attention group plus one
	// expert group and serves on its own. Default 1. Leave it out of the
	// manifest when an autoscaler owns it.
	// +optional
	// +kubebuilder:default=1
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=1000
	Replicas *int32 `json:"replicas,omitempty"`

	// gpus is the number of GPUs of one instance: either total, and the solver
	// divides them, or attention and expert. Changing it recreates the
	// instances one after the other.
	// +required
	GPUs GPUSpec `json:"gpus,omitzero"`

	// groups overrides, per group, how its pods are made.
	// +optional
	Groups GroupsSpec `json:"groups,omitzero"`

	// images overrides the images that the operator was installed with.
	// +optional
	Images ImagesSpec `json:"images,omitzero"`

	// slo holds the latency objectives. The solver only takes schedules that are
	// predicted to meet them. It takes effect without restarting a pod.
	// +optional
	SLO SLOSpec `json:"slo,omitzero"`

	// workload is what to expect until the running instances have seen real
	// requests. It influences the first schedule and, with gpus.total, the split.
	// +optional
	Workload WorkloadSpec `json:"workload,omitzero"`

	// schedule says how the fine-grained schedule is chosen. It takes effect at
	// the next step, without restarting a pod.
	// +optional
	Schedule ScheduleSpec `json:"schedule,omitzero"`

	// placement says where and how the pods of an instance are scheduled.
	// +optional
	Placement PlacementSpec `json:"placement,omitzero"`

	// rollout says how changes that need new pods are carried out.
	// +optional
	Rollout RolloutSpec `json:"rollout,omitzero"`

	// recovery says what happens when a pod of an instance fails.
	// +optional
	Recovery RecoverySpec `json:"recovery,omitzero"`
}

// ModelSpec names the model, its shape and where its weights are.
// +kubebuilder:validation:XValidation:rule="has(self.name) || has(self.configFrom)",message="give model.name (a model of the built-in catalogue) or model.configFrom (a ConfigMap that holds the model's config.json)"
type ModelSpec struct {
	// name is a model of the built-in catalogue, for example
	// deepseek-ai/DeepSeek-V2, and the public name that /v1/models reports. With
	// configFrom it is only the public name and may be any text; it then
	// defaults to the name of this object.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=128
	// +kubebuilder:validation:Pattern=`^[A-Za-z0-9][A-Za-z0-9._/-]*$`
	Name string `json:"name,omitempty"`

	// configFrom reads the shape of the model from a ConfigMap, for models that
	// the catalogue does not know.
	// +optional
	ConfigFrom *ModelConfigSource `json:"configFrom,omitempty"`

	// source is where the pods find config.json, the safetensors files and
	// tokenizer.json.
	// +required
	Source ModelSource `json:"source,omitzero"`

	// dtype is the number format in which weights and KV cache are counted when
	// memory is checked. Default: the model's own.
	// +optional
	DType DType `json:"dtype,omitempty"`

	// maxContextTokens bounds prompt plus completion of one request, in tokens.
	// Default: the model's own context length. A smaller value needs less
	// KV cache.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=16777216
	MaxContextTokens int32 `json:"maxContextTokens,omitempty"`
}

// ModelConfigSource is a key of a ConfigMap in the same namespace.
type ModelConfigSource struct {
	// name is the name of the ConfigMap.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name,omitempty"`

	// key is the key that holds config.json. Default config.json.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Key string `json:"key,omitempty"`
}

// ModelSource is where the model's files come from.
// +kubebuilder:validation:XValidation:rule="self.uri.startsWith('pvc://') || self.uri.startsWith('oci://') || self.uri.startsWith('hostpath:///') || self.uri.startsWith('hf://')",message="model.source.uri must be pvc://CLAIM/PATH, oci://IMAGE, hostpath:///PATH or hf://ORGANISATION/MODEL"
// +kubebuilder:validation:XValidation:rule="!self.uri.contains('..')",message="model.source.uri must not contain '..'"
type ModelSource struct {
	// uri is one of: pvc://CLAIM/PATH (a PersistentVolumeClaim in this
	// namespace), oci://IMAGE (an image mounted as a volume), hostpath:///PATH (a
	// directory that every node has; not allowed by the restricted Pod Security
	// Standard), hf://ORGANISATION/MODEL.
	// +required
	// +kubebuilder:validation:MinLength=6
	// +kubebuilder:validation:MaxLength=1024
	URI string `json:"uri,omitempty"`

	// path is the directory below the root of an oci:// image that holds the
	// model. Default: the root of the image.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=512
	// +kubebuilder:validation:Pattern=`^[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*$`
	// +kubebuilder:validation:XValidation:rule="!self.contains('..')",message="model.source.path must not contain '..'"
	Path string `json:"path,omitempty"`
}

// DType is a number format.
// +kubebuilder:validation:Enum=BF16;FP16;FP32;FP8
type DType string

// The number formats.
const (
	BF16 DType = "BF16"
	FP16 DType = "FP16"
	FP32 DType = "FP32"
	FP8  DType = "FP8"
)

// GPUSpec is the number of GPUs of one instance.
// +kubebuilder:validation:XValidation:rule="has(self.total) != (has(self.attention) || has(self.expert))",message="give either gpus.total (the solver divides them) or both gpus.attention and gpus.expert"
// +kubebuilder:validation:XValidation:rule="has(self.attention) == has(self.expert)",message="gpus.attention and gpus.expert must be given together"
type GPUSpec struct {
	// total is the number of GPUs of one instance; the solver divides them into
	// attention and expert group and says in status.split why. There is no
	// default.
	// +optional
	// +kubebuilder:validation:Minimum=2
	// +kubebuilder:validation:Maximum=2048
	Total int32 `json:"total,omitempty"`

	// attention is the number of GPUs of the attention group, which holds
	// attention, shared experts, router and KV cache. There is no default.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=1024
	Attention int32 `json:"attention,omitempty"`

	// expert is the number of GPUs of the expert group, which holds the routed
	// experts. It may not exceed the model's number of routed experts. There is
	// no default.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=1024
	Expert int32 `json:"expert,omitempty"`
}

// GroupsSpec holds the overrides of both groups.
type GroupsSpec struct {
	// attention is for the pods of the attention group.
	// +optional
	Attention GroupSpec `json:"attention,omitzero"`

	// expert is for the pods of the expert group.
	// +optional
	Expert GroupSpec `json:"expert,omitzero"`
}

// GroupSpec overrides how the pods of one group are made.
type GroupSpec struct {
	// gpusPerPod is the number of GPUs of one pod. Default 1. Every rank of
	// FinDEP's own runtime is a process with one GPU in a pod of its own, so that
	// other values have no effect: to keep the ranks of a group on one node, set
	// placement.topology.attention or expert with the key kubernetes.io/hostname.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=16
	GPUsPerPod int32 `json:"gpusPerPod,omitempty"`

	// profileRef is the name of a GPUProfile object or of a built-in preset.
	// Default: the GPUProfile whose nodeSelector matches the nodes, else the
	// preset for their nvidia.com/gpu.product label, else cpu.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	ProfileRef string `json:"profileRef,omitempty"`

	// nodeSelector restricts the pods to nodes with these labels.
	// +optional
	// +kubebuilder:validation:MinProperties=1
	// +kubebuilder:validation:MaxProperties=32
	NodeSelector map[string]string `json:"nodeSelector,omitempty"`

	// tolerations of the pods, beside the one for nvidia.com/gpu that they
	// always have.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=32
	Tolerations []corev1.Toleration `json:"tolerations,omitempty"`

	// resources of the runtime container, which holds weights, KV cache and
	// does the arithmetic. Default: 50m CPU and 128Mi memory requested, no
	// limit. nvidia.com/gpu is set from gpusPerPod and must not be given here.
	// +optional
	// +kubebuilder:validation:XValidation:rule="!has(self.limits) || !('nvidia.com/gpu' in self.limits)",message="leave nvidia.com/gpu out of resources: it is set from gpusPerPod"
	// +kubebuilder:validation:XValidation:rule="!has(self.requests) || !('nvidia.com/gpu' in self.requests)",message="leave nvidia.com/gpu out of resources: it is set from gpusPerPod"
	Resources *corev1.ResourceRequirements `json:"resources,omitempty"`

	// serverResources are the resources of the server container, which the pod of
	// rank 0 has, in groups.attention. Default: 10m CPU and 64Mi memory requested,
	// no limit.
	// +optional
	ServerResources *corev1.ResourceRequirements `json:"serverResources,omitempty"`

	// deviceClaim makes the pods claim their GPU through Dynamic Resource
	// Allocation (resource.k8s.io/v1) instead of asking for nvidia.com/gpu.
	// +optional
	DeviceClaim *DeviceClaimSpec `json:"deviceClaim,omitempty"`

	// podTemplate is a strategic merge patch of a pod template (metadata and
	// spec) that is applied last. What ties a pod to its rank cannot be changed:
	// its name, host name, restart policy, scheduling group and service account
	// token, labels and annotations of the operator, the GPU, and image, command,
	// arguments, ports and mounts of the operator's containers and volumes. It is
	// written for the pod of rank 0, which has the server (spec.containers) and the
	// runtime as its sidecar (spec.initContainers). The other pods have the runtime
	// only: what the patch says of it holds for them too.
	// +optional
	// +kubebuilder:pruning:PreserveUnknownFields
	// +kubebuilder:validation:Type=object
	PodTemplate *runtime.RawExtension `json:"podTemplate,omitempty"`
}

// ImagesSpec overrides images.
type ImagesSpec struct {
	// runtime is the image of the sidecar that solves and executes. Default: the
	// operator's --runtime-image, or for a group on NVIDIA's GPUs its
	// --runtime-cuda-image, at the time the instances were made.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=512
	Runtime string `json:"runtime,omitempty"`

	// server is the image of the model server. Default: the operator's
	// --server-image at the time the instances were made.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=512
	Server string `json:"server,omitempty"`

	// pullPolicy of both. Default: the operator's --image-pull-policy.
	// +optional
	PullPolicy ImagePullPolicy `json:"pullPolicy,omitempty"`

	// pullSecrets are Secrets in this namespace with registry credentials.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=8
	PullSecrets []PullSecret `json:"pullSecrets,omitempty"`
}

// ImagePullPolicy says when an image is pulled.
// +kubebuilder:validation:Enum=Always;IfNotPresent;Never
type ImagePullPolicy string

// PullSecret names a Secret in the same namespace.
type PullSecret struct {
	// name of the Secret.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name,omitempty"`
}

// SLOSpec holds latency objectives; one that is left out does not restrict.
type SLOSpec struct {
	// timeToFirstTokenMilliseconds bounds the time from a request to its first
	// token. Default: no objective.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=3600000
	TimeToFirstTokenMilliseconds int32 `json:"timeToFirstTokenMilliseconds,omitempty"`

	// timePerOutputTokenMilliseconds bounds the mean time between two tokens of
	// one request. Default: no objective.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=3600000
	TimePerOutputTokenMilliseconds int32 `json:"timePerOutputTokenMilliseconds,omitempty"`
}

// WorkloadSpec is the expected traffic of one instance.
type WorkloadSpec struct {
	// promptTokens is the mean length of a prompt. Default 1024, or half of the
	// context if that is less.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=16777216
	PromptTokens int32 `json:"promptTokens,omitempty"`

	// outputTokens is the mean length of a completion. Default 128, or a quarter
	// of the context if that is less.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=16777216
	OutputTokens int32 `json:"outputTokens,omitempty"`

	// concurrency is the number of requests in flight. Default 8 per GPU of the
	// instance.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=1048576
	Concurrency int32 `json:"concurrency,omitempty"`
}

// ScheduleSpec says how the fine-grained schedule is chosen.
type ScheduleSpec struct {
	// policy is the way a layer is cut into tasks. FinDEP (default) overlaps
	// shared experts and transfers and cuts micro-batches into segments; PPPipe
	// and Sequential are simpler baselines on the same executor.
	// +optional
	Policy SchedulePolicy `json:"policy,omitempty"`

	// order of attention and shared-expert tasks on the attention group: ASAS
	// alternates, AASS runs all attention first, Auto (default) lets the solver
	// choose.
	// +optional
	Order ScheduleOrder `json:"order,omitempty"`

	// chunks says whether long prompts may be cut into causal chunks. Auto
	// (default) lets the solver decide, Off keeps prompts whole.
	// +optional
	Chunks ScheduleChunks `json:"chunks,omitempty"`

	// resolve says when the schedule is solved: Online (default) again whenever
	// the workload changes, AtStart once.
	// +optional
	Resolve ScheduleResolve `json:"resolve,omitempty"`

	// maxSegments bounds r2, the segments per micro-batch. Default: the
	// solver's own bound.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=256
	MaxSegments int32 `json:"maxSegments,omitempty"`
}

// SchedulePolicy names a way to cut a layer into tasks.
// +kubebuilder:validation:Enum=FinDEP;PPPipe;Sequential
type SchedulePolicy string

// ScheduleOrder is an order of tasks on the attention group.
// +kubebuilder:validation:Enum=Auto;ASAS;AASS
type ScheduleOrder string

// ScheduleChunks says whether prompts may be cut into causal chunks.
// +kubebuilder:validation:Enum=Auto;Off
type ScheduleChunks string

// ScheduleResolve says when the schedule is solved.
// +kubebuilder:validation:Enum=Online;AtStart
type ScheduleResolve string

// The values of the schedule's enumerations.
const (
	PolicyFinDEP     SchedulePolicy = "FinDEP"
	PolicyPPPipe     SchedulePolicy = "PPPipe"
	PolicySequential SchedulePolicy = "Sequential"

	OrderAuto ScheduleOrder = "Auto"
	OrderASAS ScheduleOrder = "ASAS"
	OrderAASS ScheduleOrder = "AASS"

	ChunksAuto ScheduleChunks = "Auto"
	ChunksOff  ScheduleChunks = "Off"

	ResolveOnline  ScheduleResolve = "Online"
	ResolveAtStart ScheduleResolve = "AtStart"
)

// MoEDeployment serves one Mixture-of-Experts model with disaggregated expert
// parallelism: each replica is an attention group and an expert group of GPUs
// that exchange tokens in every layer, under a schedule that is solved for.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:shortName=moed,categories=all
// +kubebuilder:subresource:status
// +kubebuilder:subresource:scale:specpath=.spec.replicas,statuspath=.status.replicas,selectorpath=.status.selector
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.ready`,description="Instances that serve, of those wanted"
// +kubebuilder:printcolumn:name="Status",type=string,JSONPath=`.status.conditions[?(@.type=="Available")].reason`,description="What the deployment is doing, or what holds it up"
// +kubebuilder:printcolumn:name="Split",type=string,JSONPath=`.status.split.ratio`,description="Attention GPUs : expert GPUs of one instance"
// +kubebuilder:printcolumn:name="Policy",type=string,JSONPath=`.status.plan.policy`,description="Scheduling policy in use"
// +kubebuilder:printcolumn:name="Plan",type=string,JSONPath=`.status.plan.summary`,description="Schedule in use"
// +kubebuilder:printcolumn:name="Epoch",type=integer,JSONPath=`.status.instances[0].epoch`,description="Membership epoch of the first instance; it grows by one with every recovery"
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:printcolumn:name="Model",type=string,JSONPath=`.status.model`,priority=1,description="Public name of the model"
// +kubebuilder:printcolumn:name="Predicted",type=integer,JSONPath=`.status.predicted.tokensPerSecond`,priority=1,description="Predicted tokens per second of one instance"
// +kubebuilder:printcolumn:name="Observed",type=integer,JSONPath=`.status.observed.tokensPerSecond`,priority=1,description="Observed tokens per second of the first instance"
// +kubebuilder:printcolumn:name="Message",type=string,JSONPath=`.status.conditions[?(@.type=="Available")].message`,priority=1,description="The status in a sentence"
// +kubebuilder:validation:XValidation:rule="size(self.metadata.name) <= 45",message="metadata.name must have at most 45 characters: pods are called <name>-<instance>-ag-<rank>, which must fit in a DNS label of 63"
// +kubebuilder:validation:XValidation:rule="self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",message="metadata.name must start with a letter and hold only lower-case letters, digits and '-', since a Service of the same name is made"
// +kubebuilder:validation:XValidation:rule="self.metadata.name != 'findep-ranks'",message="metadata.name must not be findep-ranks, which is the Service by which the ranks of all MoEDeployments of a namespace find each other"
type MoEDeployment struct {
	metav1.TypeMeta `json:",inline"`

	// metadata is the standard object metadata.
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// spec is what the user wants.
	// +required
	Spec MoEDeploymentSpec `json:"spec,omitzero"`

	// status is what the operator decided and observed.
	// +optional
	Status MoEDeploymentStatus `json:"status,omitzero"`
}

// MoEDeploymentList is a list of MoEDeployment.
// +kubebuilder:object:root=true
type MoEDeploymentList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []MoEDeployment `json:"items"`
}
