// SPDX-License-Identifier: Apache-2.0

package v1alpha1

// Conditions of a MoEDeployment. All have positive polarity: True is good.
// Unknown means that the question cannot be answered yet; the reason says why.

// ModelResolved says whether the model's shape is known.
const (
	ConditionModelResolved = "ModelResolved"

	// ReasonResolved surfaces when the shape was found and is valid.
	ReasonResolved = "Resolved"
	// ReasonUnknownModel surfaces when model.name is not in the catalogue; the
	// message lists the names that are.
	ReasonUnknownModel = "UnknownModel"
	// ReasonConfigNotFound surfaces when the ConfigMap of model.configFrom or its
	// key does not exist.
	ReasonConfigNotFound = "ConfigNotFound"
	// ReasonConfigInvalid surfaces when config.json cannot be read as a supported
	// architecture.
	ReasonConfigInvalid = "ConfigInvalid"
	// ReasonSourceNotSupported surfaces when model.source.uri has a scheme that
	// this version does not fetch from.
	ReasonSourceNotSupported = "SourceNotSupported"
)

// Feasible says whether the model fits on the GPUs and a split was found.
const (
	ConditionFeasible = "Feasible"

	// ReasonFits surfaces when each group's memory need is within its GPUs.
	ReasonFits = "Fits"
	// ReasonMemoryExceeded surfaces when a group needs more memory than its GPUs
	// have; the message names the group, need and capacity in bytes, and the
	// nearest split that fits.
	ReasonMemoryExceeded = "MemoryExceeded"
	// ReasonMemoryCheckOverridden surfaces when a group needs more memory than its
	// GPUs have and the annotation findep.dev/memory-check: override makes the
	// instances all the same; the message says by how much.
	ReasonMemoryCheckOverridden = "MemoryCheckOverridden"
	// ReasonTooManyExpertGPUs surfaces when gpus.expert exceeds the number of
	// routed experts, so that a GPU would hold none.
	ReasonTooManyExpertGPUs = "TooManyExpertGPUs"
	// ReasonRatioNotSupported surfaces when the engine cannot wire so many
	// attention and expert GPUs; the message says the rule and the remedy.
	ReasonRatioNotSupported = "RatioNotSupported"
	// ReasonEngineSettingsInvalid surfaces when spec.vllm holds what the operator
	// sets itself, or ports that collide.
	ReasonEngineSettingsInvalid = "EngineSettingsInvalid"
	// ReasonProfileNotFound surfaces when groups.*.profileRef names neither a
	// GPUProfile nor a preset.
	ReasonProfileNotFound = "ProfileNotFound"
	// ReasonProfileInvalid surfaces when a GPUProfile holds figures that cannot
	// be planned with.
	ReasonProfileInvalid = "ProfileInvalid"
	// ReasonPodTemplateInvalid surfaces when groups.*.podTemplate is no pod
	// template, or changes what it must not; the message names the fields.
	ReasonPodTemplateInvalid = "PodTemplateInvalid"
	// ReasonObjectiveUnreachable surfaces when no schedule is predicted to meet
	// spec.slo. The instance runs with the schedule that comes nearest.
	ReasonObjectiveUnreachable = "ObjectiveUnreachable"
	// ReasonContextTooLong surfaces when model.maxContextTokens exceeds the
	// context the model was made for.
	ReasonContextTooLong = "ContextTooLong"
	// ReasonModelNotResolved surfaces (Unknown) while ModelResolved is not True.
	ReasonModelNotResolved = "ModelNotResolved"
)

// Scheduled says whether every pod has a node.
const (
	ConditionScheduled = "Scheduled"

	// ReasonAllPodsScheduled surfaces when every pod of every instance has a node.
	ReasonAllPodsScheduled = "AllPodsScheduled"
	// ReasonUnschedulable surfaces when the scheduler found no place; the message
	// is the scheduler's own.
	ReasonUnschedulable = "Unschedulable"
	// ReasonWaitingForScheduler surfaces when pods exist and the scheduler has not
	// said anything about them yet.
	ReasonWaitingForScheduler = "WaitingForScheduler"
	// ReasonPodsNotCreated surfaces when pods are still to be made.
	ReasonPodsNotCreated = "PodsNotCreated"
	// ReasonGangNotServed surfaces when placement.gang is Required, or
	// placement.backend names a backend, and the API server does not serve it.
	ReasonGangNotServed = "GangNotServed"
	// ReasonNoInstances surfaces (on several conditions) when replicas is 0.
	ReasonNoInstances = "NoInstances"
)

// RendezvousComplete says whether every rank of every instance has joined.
const (
	ConditionRendezvousComplete = "RendezvousComplete"

	// ReasonAllRanksJoined surfaces when every instance has formed.
	ReasonAllRanksJoined = "AllRanksJoined"
	// ReasonRanksMissing surfaces when a leader waits for ranks; the message names
	// them.
	ReasonRanksMissing = "RanksMissing"
	// ReasonLeaderNotRunning surfaces when the leader's pod does not run yet.
	ReasonLeaderNotRunning = "LeaderNotRunning"
	// ReasonEngineFormsItself surfaces (on several conditions) when the engine is
	// not FinDEP's own, so that the operator cannot look inside; the message says
	// where to look.
	ReasonEngineFormsItself = "EngineFormsItself"
	// ReasonLeaderUnreachable surfaces (Unknown) when the operator cannot read a
	// leader that runs.
	ReasonLeaderUnreachable = "LeaderUnreachable"
)

// Available says whether enough instances serve: at least replicas less
// rollout.maxUnavailable, and at least one. Its reason is the Status column
// of kubectl get.
const (
	ConditionAvailable = "Available"

	// ReasonServing surfaces when enough instances serve.
	ReasonServing = "Serving"
	// ReasonInfeasible surfaces when nothing is made because Feasible or
	// ModelResolved is False.
	ReasonInfeasible = "Infeasible"
	// ReasonPending surfaces when pods have no node; the message is the
	// scheduler's own.
	ReasonPending = "Pending"
	// ReasonStarting surfaces when containers are being started.
	ReasonStarting = "Starting"
	// ReasonForming surfaces when ranks are finding each other.
	ReasonForming = "Forming"
	// ReasonImagePullFailed surfaces when an image cannot be pulled; the message
	// names pod, container and image.
	ReasonImagePullFailed = "ImagePullFailed"
	// ReasonContainerFailing surfaces when a container keeps exiting; the message
	// names pod, container, exit code and the end of its output.
	ReasonContainerFailing = "ContainerFailing"
	// ReasonRestartLimitReached surfaces when an instance failed more often than
	// recovery.maxRestarts allows; its pods are kept for their logs.
	ReasonRestartLimitReached = "RestartLimitReached"
	// ReasonRecoveryOff surfaces when an instance failed and recovery.policy is
	// None.
	ReasonRecoveryOff = "RecoveryOff"
	// ReasonDeleting surfaces while the object is being deleted.
	ReasonDeleting = "Deleting"
	// ReasonReconcileFailed surfaces when the operator could not do its work; the
	// message is the error.
	ReasonReconcileFailed = "ReconcileFailed"
)

// Progressing says whether the operator or the nodes are still working towards
// the spec. False is the normal state of rest.
const (
	ConditionProgressing = "Progressing"

	// ReasonComplete surfaces when every instance serves at the current revision.
	ReasonComplete = "Complete"
	// ReasonBlocked surfaces (False) when nothing moves until someone acts: free
	// GPUs, fix an image, correct the spec. The message says what.
	ReasonBlocked = "Blocked"
	// ReasonCreating surfaces when instances are being made.
	ReasonCreating = "Creating"
	// ReasonRollingOut surfaces when instances are being recreated after a change.
	ReasonRollingOut = "RollingOut"
	// ReasonRecovering surfaces when pods are being replaced.
	ReasonRecovering = "Recovering"
	// ReasonScalingDown surfaces when instances are being removed.
	ReasonScalingDown = "ScalingDown"
	// ReasonPaused surfaces (False) when rollout.paused holds a rollout.
	ReasonPaused = "Paused"
)

// PredictionAccurate says whether measured step times agree with predicted ones.
const (
	ConditionPredictionAccurate = "PredictionAccurate"

	// ReasonWithin15Percent surfaces when the error is at most 15 %.
	ReasonWithin15Percent = "Within15Percent"
	// ReasonErrorAbove15Percent surfaces when it is more; the profile does not
	// describe these GPUs.
	ReasonErrorAbove15Percent = "ErrorAbove15Percent"
	// ReasonProfileMismatch surfaces when a rank computes on another device than the
	// one that its profile describes.
	ReasonProfileMismatch = "ProfileMismatch"
	// ReasonNoMeasurement surfaces (Unknown) before there is anything to compare.
	ReasonNoMeasurement = "NoMeasurement"
)

// SLOAttained says whether observed latencies are within spec.slo.
const (
	ConditionSLOAttained = "SLOAttained"

	// ReasonAttained surfaces when they are.
	ReasonAttained = "Attained"
	// ReasonTimeToFirstTokenExceeded surfaces when the first token comes too late.
	ReasonTimeToFirstTokenExceeded = "TimeToFirstTokenExceeded"
	// ReasonTimePerOutputTokenExceeded surfaces when tokens come too slowly.
	ReasonTimePerOutputTokenExceeded = "TimePerOutputTokenExceeded"
	// ReasonNoObjective surfaces (Unknown) when spec.slo sets none.
	ReasonNoObjective = "NoObjective"
)

// NodesHealthy says whether anything is known against the nodes that pods are on,
// and what the operator does about it. It is absent where nodes may not be read.
const (
	ConditionNodesHealthy = "NodesHealthy"

	// ReasonNodesWell surfaces when nothing is.
	ReasonNodesWell = "NodesWell"
	// ReasonNodeGone surfaces when a node does not exist any more; its pods are
	// removed and made again.
	ReasonNodeGone = "NodeGone"
	// ReasonNodeOutOfService surfaces when a node that is not ready has the taint
	// node.kubernetes.io/out-of-service; its pods are removed and made again.
	ReasonNodeOutOfService = "NodeOutOfService"
	// ReasonNodeNotReady surfaces when a node is not ready; the message says what to
	// do if it will not come back.
	ReasonNodeNotReady = "NodeNotReady"
	// ReasonGPUUnhealthy surfaces when a condition of a node, a device plugin or a
	// pod's own sidecar says that a GPU is not well.
	ReasonGPUUnhealthy = "GPUUnhealthy"
	// ReasonNodeCordoned surfaces when a node takes no new pods.
	ReasonNodeCordoned = "NodeCordoned"
)

// FullyActedOn says whether every field of the spec has an effect in this
// version of the operator.
const (
	ConditionFullyActedOn = "FullyActedOn"

	// ReasonAllFieldsActedOn surfaces when it has.
	ReasonAllFieldsActedOn = "AllFieldsActedOn"
	// ReasonFieldsNotActedOn surfaces when the spec sets fields that are accepted
	// and stored but have no effect yet; the message lists them.
	ReasonFieldsNotActedOn = "FieldsNotActedOn"
)
