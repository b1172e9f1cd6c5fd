// SPDX-License-Identifier: Apache-2.0

package render

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	corev1ac "k8s.io/client-go/applyconfigurations/core/v1"
	metav1ac "k8s.io/client-go/applyconfigurations/meta/v1"
	networkingac "k8s.io/client-go/applyconfigurations/networking/v1"

	"github.com/findep/findep-operator/api/v1alpha1"
	"github.com/findep/findep-operator/controllers/resolve"
	"github.com/findep/findep-operator/runtime/plan"
)

// This file renders pods of the engine VLLMAFD: vLLM with the plugin of
// https://github.com/vllm-project/afd-plugin, whose contract docs/vllm.md tells.
// Each role is one data-parallel group of vLLM, with one GPU per rank; its first
// rank has the API server, the others are headless.

// vllmConnector is the plugin's transport between NVIDIA GPUs.
const vllmConnector = "P2pNcclAFDConnector"

// vllmStartSeconds is how long vLLM may load weights and capture graphs before it
// is taken for stuck.
const vllmStartSeconds = 3600

// afdConfig is the object that the plugin reads from --additional-config. It
// refuses fields that it does not know.
type afdConfig struct {
	Role                   string `json:"role"`
	Connector              string `json:"connector"`
	Host                   string `json:"host"`
	Port                   int32  `json:"port"`
	AttentionRanks         int    `json:"num_attention_ranks"`
	FFNRanks               int    `json:"num_ffn_ranks"`
	ComputeGateOnAttention bool   `json:"compute_gate_on_attention"`
}

// VLLMWorldRank is the plugin's rank of one of ours: it counts the ffn ranks
// first, we the attention ranks.
func VLLMWorldRank(attention, expert, rank int) int {
	if rank < attention {
		return expert + rank
	}
	return rank - attention
}

// vllmRole is the plugin's name of a rank's group, the rank in it, the size of the
// group, and the DNS name of the group's first rank.
func vllmRole(in *Input, rank int) (role string, roleRank, size int, first string) {
	if rank < in.Attention {
		return "attention", rank, in.Attention, in.host(0)
	}
	return "ffn", rank - in.Attention, in.Expert, in.host(in.Attention)
}

func (in *Input) host(rank int) string {
	return Host(in.Owner.Namespace, in.Owner.Name, in.Index, in.Attention, rank)
}

// vllmArgs are the arguments of vllm serve. Ranks that disagree about them wait
// for each other for ever, so that all but role and rank are the same in every pod
// of a revision.
func vllmArgs(in *Input, rank int) []string {
	v := in.VLLM
	role, roleRank, size, first := vllmRole(in, rank)
	args := []string{
		ModelDir,
		"--served-model-name=" + in.ModelName,
		"--port=" + strconv.Itoa(plan.ServingPort),
		"--tensor-parallel-size=1",
		"--enable-expert-parallel",
		"--data-parallel-size=" + strconv.Itoa(size),
	}
	if size > 1 {
		args = append(args, "--data-parallel-size-local=1", "--data-parallel-start-rank="+strconv.Itoa(roleRank),
			"--data-parallel-address="+first, "--data-parallel-rpc-port="+strconv.Itoa(resolve.VLLMDataParallelPort))
	}
	if roleRank > 0 {
		args = append(args, "--headless")
	}
	if v.MaxContextTokens > 0 {
		args = append(args, fmt.Sprintf("--max-model-len=%d", v.MaxContextTokens))
	}
	if v.DType != "" {
		args = append(args, "--dtype="+v.DType)
	}
	if v.Overlap {
		args = append(args, "--enable-dbo", fmt.Sprintf("--ubatch-size=%d", resolve.VLLMMicroBatches),
			fmt.Sprintf("--dbo-decode-token-threshold=%d", v.DecodeTokenThreshold),
			fmt.Sprintf("--dbo-prefill-token-threshold=%d", v.PrefillTokenThreshold))
	}
	args = append(args, "--additional-config="+afdJSON(in, role))
	for _, extra := range v.ExtraArgs {
		args = append(args, literal(extra))
	}
	return args
}

// afdJSON is the plugin's configuration of a role.
func afdJSON(in *Input, role string) string {
	b, err := json.Marshal(map[string]afdConfig{"afd": {
		Role: role, Connector: vllmConnector,
		// The plugin wants the first rank of its own order, which has the rendezvous.
		Host: in.host(in.Attention), Port: in.VLLM.Port,
		AttentionRanks: in.Attention, FFNRanks: in.Expert, ComputeGateOnAttention: in.VLLM.GateOnAttention,
	}})
	if err != nil {
		// Strings, numbers and a bool can always be written.
		return ""
	}
	return string(b)
}

// literal keeps Kubernetes from expanding $(NAME).
func literal(text string) string { return strings.ReplaceAll(text, "$(", "$$(") }

func vllmContainer(in *Input, rank int, group *v1alpha1.GroupSpec) *corev1ac.ContainerApplyConfiguration {
	c := container(in, ServerContainer, in.VLLM.Image).
		WithLifecycle(leaving()).
		WithCommand("vllm", "serve").
		WithArgs(vllmArgs(in, rank)...).
		WithEnv(fromPod("VLLM_HOST_IP", "status.podIP"),
			// The root file system is read-only and the user has no entry in passwd:
			// caches go to the temporary directory, and a name is given.
			variable("HOME", "/tmp"), variable("USER", "vllm"),
			// The runner that the plugin supports with every setting.
			variable("VLLM_USE_V2_MODEL_RUNNER", "0")).
		WithPorts(vllmPorts(in, rank)...).
		WithResources(runtimeResources(in, rank, group))
	for _, e := range in.Decision.Hardware[in.Role(rank)].Environment {
		c.WithEnv(variable(e.Name, literal(e.Value)))
	}
	if _, roleRank, _, _ := vllmRole(in, rank); roleRank == 0 {
		// A headless rank answers nothing. The first rank of its role does not either
		// before all ranks of both roles have found each other, so that the instance
		// is not taken for ready too early; it fails when an engine of its role does.
		c.WithStartupProbe(probe("/health", plan.ServingPort).WithPeriodSeconds(2).WithFailureThreshold(vllmStartSeconds / 2)).
			WithReadinessProbe(probe("/health", plan.ServingPort).WithPeriodSeconds(2).WithFailureThreshold(2)).
			WithLivenessProbe(probe("/health", plan.ServingPort).WithPeriodSeconds(10).WithFailureThreshold(6))
	}
	return c.WithVolumeMounts(mount("tmp", "/tmp"), mount("shm", "/dev/shm"), modelMount(in))
}

func variable(name, value string) *corev1ac.EnvVarApplyConfiguration {
	return corev1ac.EnvVar().WithName(name).WithValue(value)
}

// vllmPorts are those that a rank listens on and whose numbers are known: NCCL
// and the engines take others as they are free.
func vllmPorts(in *Input, rank int) []*corev1ac.ContainerPortApplyConfiguration {
	role, roleRank, size, _ := vllmRole(in, rank)
	if roleRank > 0 {
		return nil
	}
	ports := []*corev1ac.ContainerPortApplyConfiguration{port("http", plan.ServingPort)}
	if size > 1 {
		ports = append(ports, port("dp-rpc", resolve.VLLMDataParallelPort))
	}
	if role == "ffn" {
		for i, number := range in.VLLM.Ports(in.Expert) {
			ports = append(ports, port(fmt.Sprintf("afd-%d", i), number))
		}
	}
	return ports
}

func vllmVolumes(in *Input) []*corev1ac.VolumeApplyConfiguration {
	return []*corev1ac.VolumeApplyConfiguration{
		corev1ac.Volume().WithName("tmp").WithEmptyDir(corev1ac.EmptyDirVolumeSource()),
		// The processes of one rank talk through shared memory, more of it than
		// containers have by default.
		corev1ac.Volume().WithName("shm").WithEmptyDir(corev1ac.EmptyDirVolumeSource().WithMedium(corev1.StorageMediumMemory)),
		modelVolume(in),
	}
}

// VLLMNetworkPolicyName is the NetworkPolicy between the ranks of vLLM.
func VLLMNetworkPolicyName(deployment string) string { return deployment + "-vllm" }

// VLLMNetworkPolicy adds to the other NetworkPolicy that ranks of the same
// deployment reach each other on every port: NCCL and the engines of vLLM listen
// on ports that nobody knows beforehand.
func VLLMNetworkPolicy(owner Owner) *networkingac.NetworkPolicyApplyConfiguration {
	pods := metav1ac.LabelSelector().WithMatchLabels(DeploymentLabels(owner.Name))
	return networkingac.NetworkPolicy(VLLMNetworkPolicyName(owner.Name), owner.Namespace).
		WithLabels(DeploymentLabels(owner.Name)).
		WithOwnerReferences(owner.reference()).
		WithSpec(networkingac.NetworkPolicySpec().
			WithPolicyTypes(networkingv1.PolicyTypeIngress).
			WithPodSelector(pods).
			WithIngress(networkingac.NetworkPolicyIngressRule().WithFrom(networkingac.NetworkPolicyPeer().WithPodSelector(pods))))
}
