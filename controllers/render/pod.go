// SPDX-License-Identifier: Apache-2.0

package render

import (
	"cmp"
	"maps"
	"path"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/intstr"
	corev1ac "k8s.io/client-go/applyconfigurations/core/v1"

	"github.com/findep/findep-operator/api/v1alpha1"
	"github.com/findep/findep-operator/controllers/resolve"
	"github.com/findep/findep-operator/runtime/identity"
	"github.com/findep/findep-operator/runtime/plan"
)

// Names of the containers of a pod.
const (
	// RuntimeContainer solves and executes. In the leader's pod it is a native
	// sidecar of the server, which ends first; in the others it is alone.
	RuntimeContainer = resolve.RuntimeContainer
	// ServerContainer is the model server, in the leader's pod.
	ServerContainer = resolve.ServerContainer
)

// GPUResource is the extended resource that a pod asks for.
const GPUResource = resolve.GPUResource

// Places in the file system of the containers.
const (
	secretDir    = "/etc/findep"
	configFolder = "instance"
	tlsFolder    = "tls"
	configDir    = secretDir + "/" + configFolder
	tlsDir       = secretDir + "/" + tlsFolder
	runDir       = "/run/findep"
	socket       = runDir + "/engine.sock"
	modelRoot    = "/models"
	// ModelDir is where the model's files are.
	ModelDir = modelRoot + "/model"
)

// nonRoot is the user and group of both containers, "nonroot" in distroless
// images. The volumes' files are readable by the group.
const nonRoot = 65532

// Shutting a pod down. A pod that is deleted leaves its Services, but whoever
// sends requests notices a moment later; until then its server works on, and then
// ends what it has accepted. The other ranks outlast it.
const (
	// GracePeriodSeconds is from the deletion of a pod until it is killed.
	GracePeriodSeconds = 35
	// leaveSeconds is from the deletion until the server is told to stop. The rest
	// is for the requests that it has accepted.
	leaveSeconds = 3
	// drainTimeout is how long the other ranks wait for that: until shortly before
	// they are killed.
	drainTimeout = "30s"
)

// Pod renders the pod that holds one rank. It satisfies the restricted Pod
// Security Standard, except that a hostPath volume, if the user asks for one,
// does not.
func Pod(in *Input, rank int) *corev1ac.PodApplyConfiguration {
	group := in.group(rank)
	spec := corev1ac.PodSpec().
		WithAutomountServiceAccountToken(false).
		WithEnableServiceLinks(false).
		WithRestartPolicy(corev1.RestartPolicyAlways).
		WithTerminationGracePeriodSeconds(GracePeriodSeconds).
		WithSecurityContext(podSecurity()).
		WithNodeSelector(in.Decision.Hardware[in.Role(rank)].NodeSelector).
		WithNodeSelector(group.NodeSelector).
		WithTolerations(tolerations(group)...)
	if in.dialed(rank) {
		spec.WithHostname(PodName(in.Owner.Name, in.Index, in.Attention, rank)).WithSubdomain(RanksName)
	}
	annotations := map[string]string{v1alpha1.AnnotationConfigHash: in.ConfigHash}
	if in.VLLM != nil {
		spec.WithContainers(vllmContainer(in, rank, group)).WithVolumes(vllmVolumes(in)...)
		annotations = map[string]string{v1alpha1.AnnotationWorldRank: strconv.Itoa(VLLMWorldRank(in.Attention, in.Expert, rank))}
	} else {
		runtimePod(in, rank, group, spec)
	}
	for _, s := range in.Images.PullSecrets {
		spec.WithImagePullSecrets(corev1ac.LocalObjectReference().WithName(s))
	}
	if in.PriorityClassName != "" {
		spec.WithPriorityClassName(in.PriorityClassName)
	}
	if a := affinity(in, rank); a != nil {
		spec.WithAffinity(a)
	}
	if c := spread(in, rank); c != nil {
		spec.WithTopologySpreadConstraints(c)
	}
	pod := corev1ac.Pod(PodName(in.Owner.Name, in.Index, in.Attention, rank), in.Owner.Namespace).
		WithLabels(podLabels(in, rank)).
		WithAnnotations(annotations).
		WithOwnerReferences(in.Owner.reference()).
		WithSpec(spec)
	join(in, rank, pod)
	return pod
}

// PodConfigHash is the one thing of a pod that changes while it runs. It is
// applied with a field owner of its own, because an apply with the pod's own
// would have to repeat the whole immutable spec. A nudge may be empty.
func PodConfigHash(namespace, name, hash, nudge string) *corev1ac.PodApplyConfiguration {
	annotations := map[string]string{v1alpha1.AnnotationConfigHash: hash}
	if nudge != "" {
		annotations[v1alpha1.AnnotationConfigNudge] = nudge
	}
	return corev1ac.Pod(name, namespace).WithAnnotations(annotations)
}

// runtimePod gives a pod its containers and volumes. Only the leader's has a
// server, beside which nobody sees the ranks' key; the pods of the other ranks are
// as small as they can be, since there are many, and the API server goes through all
// fields of a pod with each of its changes.
func runtimePod(in *Input, rank int, group *v1alpha1.GroupSpec, spec *corev1ac.PodSpecApplyConfiguration) {
	c := runtimeContainer(in, rank, group)
	keys := []string{identity.CAFile, identity.CertFile, identity.KeyFile}
	if rank > 0 {
		all := append(files(tlsFolder, keys...), files(configFolder, plan.InstanceFile)...)
		spec.WithContainers(c.WithVolumeMounts(mount("config", secretDir).WithReadOnly(true), mount("tmp", "/tmp"), modelMount(in))).
			WithVolumes(part(in, "config", all), empty("tmp"), modelVolume(in))
		return
	}
	spec.WithInitContainers(c.WithRestartPolicy(corev1.ContainerRestartPolicyAlways).WithVolumeMounts(
		mount("config", configDir).WithReadOnly(true), mount("tls", tlsDir).WithReadOnly(true),
		mount("run", runDir), mount("tmp", "/tmp"), modelMount(in))).
		WithContainers(serverContainer(in, group)).
		WithVolumes(part(in, "config", files("", plan.InstanceFile)), part(in, "tls", files("", keys...)), empty("run"), empty("tmp"), modelVolume(in))
}

func runtimeContainer(in *Input, rank int, group *v1alpha1.GroupSpec) *corev1ac.ContainerApplyConfiguration {
	c := container(in, RuntimeContainer, cmp.Or(in.Decision.Hardware[in.Role(rank)].RuntimeImage, in.Images.Runtime)).
		WithEnv(fromPod("POD_IP", "status.podIP"), fromPod("POD_UID", "metadata.uid")).
		// Peers dial the address, which cannot be stale as a cached name can; the
		// UID lets a restarted container take its own rank back at once.
		WithArgs("--config-dir", configDir, "--tls-dir", tlsDir, "--rank", strconv.Itoa(rank),
			"--advertise-host", "$(POD_IP)", "--pod-uid", "$(POD_UID)").
		// Only what monitors refer to by name.
		WithPorts(port("metrics", plan.MetricsPort)).
		WithResources(runtimeResources(in, rank, group)).
		WithReadinessProbe(probe("/readyz", plan.MetricsPort).WithPeriodSeconds(2).WithFailureThreshold(2)).
		// Loading weights may take minutes without answering late; a process that
		// does not answer at all for a minute is stuck.
		WithLivenessProbe(probe("/healthz", plan.MetricsPort).WithPeriodSeconds(10).WithFailureThreshold(6))
	if rank == 0 {
		c.WithArgs("--socket", socket)
	} else {
		c.WithArgs("--socket", "", "--drain-timeout", drainTimeout)
	}
	for _, e := range in.Decision.Hardware[in.Role(rank)].Environment {
		c.WithEnv(variable(e.Name, literal(e.Value)))
	}
	return c
}

// serverContainer answers requests, in the leader's pod.
func serverContainer(in *Input, group *v1alpha1.GroupSpec) *corev1ac.ContainerApplyConfiguration {
	return container(in, ServerContainer, in.Images.Server).
		WithArgs("--config-dir", configDir, "--socket", socket).
		WithResources(resources(group.ServerResources, "10m", "64Mi", 0)).
		WithLifecycle(leaving()).
		WithPorts(port("http", plan.ServingPort)).
		WithReadinessProbe(probe("/healthz", plan.ServingPort).WithPeriodSeconds(2).WithFailureThreshold(2)).
		WithVolumeMounts(
			mount("config", configDir).WithReadOnly(true),
			mount("run", runDir),
			mount("tmp", "/tmp"),
			modelMount(in))
}

// leaving lets a container work on for leaveSeconds after its pod's deletion.
func leaving() *corev1ac.LifecycleApplyConfiguration {
	return corev1ac.Lifecycle().WithPreStop(corev1ac.LifecycleHandler().WithSleep(corev1ac.SleepAction().WithSeconds(leaveSeconds)))
}

// container holds what both containers have in common. The end of the log
// becomes the termination message, so that a crash explains itself in status.
func container(in *Input, name, image string) *corev1ac.ContainerApplyConfiguration {
	return corev1ac.Container().WithName(name).WithImage(image).
		WithImagePullPolicy(in.Images.PullPolicy).
		WithTerminationMessagePolicy(corev1.TerminationMessageFallbackToLogsOnError).
		WithSecurityContext(corev1ac.SecurityContext().
			WithAllowPrivilegeEscalation(false).
			WithReadOnlyRootFilesystem(true).
			WithCapabilities(corev1ac.Capabilities().WithDrop("ALL")))
}

func podSecurity() *corev1ac.PodSecurityContextApplyConfiguration {
	return corev1ac.PodSecurityContext().
		WithRunAsNonRoot(true).WithRunAsUser(nonRoot).WithRunAsGroup(nonRoot).WithFSGroup(nonRoot).
		WithSeccompProfile(corev1ac.SeccompProfile().WithType(corev1.SeccompProfileTypeRuntimeDefault))
}

func port(name string, number int32) *corev1ac.ContainerPortApplyConfiguration {
	return corev1ac.ContainerPort().WithName(name).WithContainerPort(number).WithProtocol(corev1.ProtocolTCP)
}

func probe(path string, port int32) *corev1ac.ProbeApplyConfiguration {
	return corev1ac.Probe().WithTimeoutSeconds(5).
		WithHTTPGet(corev1ac.HTTPGetAction().WithPath(path).WithPort(intstr.FromInt32(port)))
}

// fromPod is an environment variable with a field of the pod itself.
func fromPod(name, field string) *corev1ac.EnvVarApplyConfiguration {
	return corev1ac.EnvVar().WithName(name).WithValueFrom(corev1ac.EnvVarSource().
		WithFieldRef(corev1ac.ObjectFieldSelector().WithFieldPath(field)))
}

func mount(volume, path string) *corev1ac.VolumeMountApplyConfiguration {
	return corev1ac.VolumeMount().WithName(volume).WithMountPath(path)
}

func modelMount(in *Input) *corev1ac.VolumeMountApplyConfiguration {
	m := mount("model", ModelDir).WithReadOnly(true)
	if in.Source.SubPath != "" {
		m.WithSubPath(in.Source.SubPath)
	}
	return m
}

func empty(name string) *corev1ac.VolumeApplyConfiguration {
	return corev1ac.Volume().WithName(name).WithEmptyDir(corev1ac.EmptyDirVolumeSource())
}

// files puts keys of a Secret into a folder of a volume.
func files(folder string, keys ...string) []*corev1ac.KeyToPathApplyConfiguration {
	list := make([]*corev1ac.KeyToPathApplyConfiguration, len(keys))
	for i, key := range keys {
		list[i] = corev1ac.KeyToPath().WithKey(key).WithPath(path.Join(folder, key))
	}
	return list
}

// part is a volume with some files of the instance's Secret. The others stay out
// of the pod: the authority's key is the operator's alone, and the server, which
// may be the user's, does not see the ranks' key.
func part(in *Input, name string, files []*corev1ac.KeyToPathApplyConfiguration) *corev1ac.VolumeApplyConfiguration {
	return corev1ac.Volume().WithName(name).WithSecret(corev1ac.SecretVolumeSource().
		WithSecretName(SecretName(in.Owner.Name, in.Index)).WithDefaultMode(0o440).WithItems(files...))
}

func modelVolume(in *Input) *corev1ac.VolumeApplyConfiguration {
	v := corev1ac.Volume().WithName("model")
	switch in.Source.Kind {
	case resolve.SourcePVC:
		v.WithPersistentVolumeClaim(corev1ac.PersistentVolumeClaimVolumeSource().
			WithClaimName(in.Source.Reference).WithReadOnly(true))
	case resolve.SourceImage:
		v.WithImage(corev1ac.ImageVolumeSource().
			WithReference(in.Source.Reference).WithPullPolicy(in.Images.PullPolicy))
	case resolve.SourceHostPath:
		v.WithHostPath(corev1ac.HostPathVolumeSource().
			WithPath(in.Source.Reference).WithType(corev1.HostPathDirectory))
	}
	return v
}

// tolerations lets pods onto nodes that are reserved for GPU work, as managed
// clusters taint them, and adds the user's.
func tolerations(group *v1alpha1.GroupSpec) []*corev1ac.TolerationApplyConfiguration {
	list := []*corev1ac.TolerationApplyConfiguration{
		corev1ac.Toleration().WithKey(string(GPUResource)).WithOperator(corev1.TolerationOpExists).
			WithEffect(corev1.TaintEffectNoSchedule),
	}
	for _, t := range group.Tolerations {
		ac := corev1ac.Toleration()
		if t.Key != "" {
			ac.WithKey(t.Key)
		}
		if t.Operator != "" {
			ac.WithOperator(t.Operator)
		}
		if t.Value != "" {
			ac.WithValue(t.Value)
		}
		if t.Effect != "" {
			ac.WithEffect(t.Effect)
		}
		if t.TolerationSeconds != nil {
			ac.WithTolerationSeconds(*t.TolerationSeconds)
		}
		list = append(list, ac)
	}
	return list
}

// runtimeResources are the user's, those of the profile, and one GPU: asked for,
// or claimed.
func runtimeResources(in *Input, rank int, group *v1alpha1.GroupSpec) *corev1ac.ResourceRequirementsApplyConfiguration {
	user := &corev1.ResourceRequirements{}
	if group.Resources != nil {
		user = group.Resources.DeepCopy()
	}
	for _, extended := range in.Decision.Hardware[in.Role(rank)].Resources {
		if user.Limits == nil {
			user.Limits = corev1.ResourceList{}
		}
		name := corev1.ResourceName(extended.Name)
		if _, set := user.Limits[name]; !set {
			user.Limits[name] = *resource.NewQuantity(int64(extended.Count), resource.DecimalSI)
		}
	}
	if group.DeviceClaim != nil {
		return resources(user, "50m", "128Mi", 0).WithClaims(corev1ac.ResourceClaim().WithName(resolve.GPUClaim))
	}
	return resources(user, "50m", "128Mi", 1)
}

// resources are the user's, with the defaults for requests that the user left
// out. A default never exceeds the user's limit, which the API server would
// refuse: where there is a limit, Kubernetes itself takes it as the request.
func resources(user *corev1.ResourceRequirements, cpu, memory string, gpus int64) *corev1ac.ResourceRequirementsApplyConfiguration {
	requests, limits := corev1.ResourceList{}, corev1.ResourceList{}
	if user != nil {
		maps.Copy(requests, user.Requests)
		maps.Copy(limits, user.Limits)
	}
	for name, value := range map[corev1.ResourceName]string{corev1.ResourceCPU: cpu, corev1.ResourceMemory: memory} {
		_, requested := requests[name]
		if _, limited := limits[name]; !requested && !limited {
			requests[name] = resource.MustParse(value)
		}
	}
	if gpus > 0 {
		limits[GPUResource] = *resource.NewQuantity(gpus, resource.DecimalSI)
		requests[GPUResource] = limits[GPUResource]
	}
	ac := corev1ac.ResourceRequirements()
	if len(requests) > 0 {
		ac.WithRequests(requests)
	}
	if len(limits) > 0 {
		ac.WithLimits(limits)
	}
	return ac
}
