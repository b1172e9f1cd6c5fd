// SPDX-License-Identifier: Apache-2.0

package resolve

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/findep/findep-operator/api/v1alpha1"
	"github.com/findep/findep-operator/runtime/plan"
	"github.com/findep/findep-operator/runtime/solver"
)

// What vLLM and its plugin are told where the user says nothing.
const (
	// defaultAFDPort is the plugin's own default.
	defaultAFDPort = 1239
	// The thresholds are vLLM's own defaults.
	defaultDecodeThreshold  = 32
	defaultPrefillThreshold = 512
	// VLLMDataParallelPort is the port on the first rank of each role by which the
	// role's engines find each other; vLLM's own examples use it.
	VLLMDataParallelPort = 13345
	// VLLMMicroBatches is the one number of micro-batches that the plugin overlaps.
	VLLMMicroBatches = 2
)

// sharedRendezvousMinor is the minor version of 0.x with which the plugin's
// subgroups share one rendezvous, and no longer need A to be divisible by F.
const sharedRendezvousMinor = 30

// VLLM is what the engine VLLMAFD is run with, defaults filled in.
type VLLM struct {
	Image, PluginVersion string
	Rule                 v1alpha1.RatioRule
	// Port is the base port on the first ffn rank.
	Port int32
	// GateOnAttention says that attention ranks choose the experts.
	GateOnAttention bool
	// Overlap says that two micro-batches overlap, from the thresholds on.
	Overlap                                     bool
	DecodeTokenThreshold, PrefillTokenThreshold int32
	// DType is vLLM's name of the number format; empty leaves it to the model.
	DType string
	// MaxContextTokens is 0 where the user leaves it to the model.
	MaxContextTokens int32
	ExtraArgs        []string
}

// Ports are those on the first ffn rank: the base port, and with the rule
// Divisible one per ffn rank.
func (v *VLLM) Ports(ffn int) []int32 {
	ports := []int32{v.Port}
	if v.Rule == v1alpha1.RatioDivisible {
		for k := range int32(ffn) {
			ports = append(ports, v.Port+1+k)
		}
	}
	return ports
}

// vllmOf is the engine's configuration; nil for another engine.
func vllmOf(spec *v1alpha1.MoEDeploymentSpec) *VLLM {
	s := spec.VLLM
	if s == nil || spec.Engine != v1alpha1.EngineVLLMAFD {
		return nil
	}
	dbo := s.DualBatchOverlap
	return &VLLM{
		Image: s.Image, PluginVersion: s.PluginVersion, Rule: RatioRuleOf(s), Port: or(s.Port, defaultAFDPort),
		GateOnAttention:       s.Gate == v1alpha1.RoleAttention,
		Overlap:               dbo.Mode != v1alpha1.Disabled,
		DecodeTokenThreshold:  or(dbo.DecodeTokenThreshold, defaultDecodeThreshold),
		PrefillTokenThreshold: or(dbo.PrefillTokenThreshold, defaultPrefillThreshold),
		// Quantised formats are written in the checkpoint and not asked for.
		DType: map[v1alpha1.DType]string{
			v1alpha1.BF16: "bfloat16", v1alpha1.FP16: "float16", v1alpha1.FP32: "float32",
		}[spec.Model.DType],
		MaxContextTokens: spec.Model.MaxContextTokens,
		ExtraArgs:        s.ExtraArgs,
	}
}

// RatioRuleOf is the rule that the user names, else that of the version.
func RatioRuleOf(s *v1alpha1.VLLMSpec) v1alpha1.RatioRule {
	if s.RatioRule != "" {
		return s.RatioRule
	}
	if major, minor := version(s.PluginVersion); major == 0 && minor < sharedRendezvousMinor {
		return v1alpha1.RatioDivisible
	}
	return v1alpha1.RatioUneven
}

// version reads the first two numbers of a version; what is none counts as 0, the
// version with the narrowest rule.
func version(text string) (major, minor int) {
	first, rest, _ := strings.Cut(text, ".")
	major, _ = strconv.Atoi(first)
	end := strings.IndexFunc(rest, func(r rune) bool { return r < '0' || r > '9' })
	if end < 0 {
		end = len(rest)
	}
	minor, _ = strconv.Atoi(rest[:end])
	return major, minor
}

// CheckRatio says why a connector cannot wire a split and what to do about it;
// empty if it can.
func CheckRatio(rule v1alpha1.RatioRule, attention, expert int) string {
	split := Ratio(attention, expert)
	switch {
	case rule == v1alpha1.RatioAny:
		return ""
	case attention < expert:
		return fmt.Sprintf("the split is %s, but the plugin needs at least as many attention as expert GPUs: raise gpus.attention to %d, or lower gpus.expert to %d.", split, expert, attention)
	case rule == v1alpha1.RatioUneven:
		return ""
	case attention%expert != 0:
		return fmt.Sprintf("the split is %s, but plugins before 0.30 need gpus.attention to be a multiple of gpus.expert: use %s or %s, or an image with plugin 0.30 or later.",
			split, Ratio(attention-attention%expert, expert), Ratio(attention-attention%expert+expert, expert))
	case expert > 1:
		return fmt.Sprintf("the split is %s, but plugins before 0.30 make every ffn rank listen at the address of the first, which ranks in pods of their own cannot: set gpus.expert to 1, or use an image with plugin 0.30 or later and say so in vllm.pluginVersion.", split)
	}
	return ""
}

// ownVLLMArgs are the arguments that the operator sets itself, since ranks that
// disagree about them would wait for each other for ever, or nobody would find
// what it asks for.
var ownVLLMArgs = []string{
	"--additional-config", "--data-parallel-", "--tensor-parallel-size", "--pipeline-parallel-size", "--headless", "--host", "--port", "--uds",
	"--served-model-name", "--model", "--max-model-len", "--dtype", "--enable-dbo", "--dbo-", "--ubatch-size", "--enable-expert-parallel",
	"--worker-cls", "--api-server-count", "--config", "-dp", "-tp", "-pp", "-ep",
}

// CheckVLLM says what is wrong with the settings of the engine, whatever the
// split.
func CheckVLLM(s *v1alpha1.VLLMSpec, ffn int) []string {
	var problems []string
	for _, arg := range s.ExtraArgs {
		// vLLM takes underscores for hyphens.
		name, _, _ := strings.Cut(strings.ReplaceAll(arg, "_", "-"), "=")
		if slices.ContainsFunc(ownVLLMArgs, func(own string) bool {
			return name == own || strings.HasSuffix(own, "-") && strings.HasPrefix(name, own)
		}) {
			problems = append(problems, fmt.Sprintf("extraArgs has %s, which the operator sets itself", name))
		}
	}
	ports := (&VLLM{Rule: RatioRuleOf(s), Port: or(s.Port, defaultAFDPort)}).Ports(ffn)
	first, last := ports[0], ports[len(ports)-1]
	for _, taken := range []struct {
		port int32
		by   string
	}{{plan.ServingPort, "requests"}, {VLLMDataParallelPort, "the engines of a role"}} {
		if taken.port >= first && taken.port <= last {
			problems = append(problems, fmt.Sprintf("port %d makes the ports %d to %d the plugin's, but %d is for %s; take another port", first, first, last, taken.port, taken.by))
		}
	}
	return problems
}

// resolveVLLM refuses what the engine cannot run.
func resolveVLLM(r *Result, spec *v1alpha1.MoEDeploymentSpec) {
	if r.VLLM == nil || !r.Feasible.OK {
		return
	}
	if problem := CheckRatio(r.VLLM.Rule, r.Decision.Attention, r.Decision.Expert); problem != "" {
		r.Feasible = Finding{Reason: v1alpha1.ReasonRatioNotSupported, Message: "spec.vllm: " + problem}
		return
	}
	if problems := CheckVLLM(spec.VLLM, r.Decision.Expert); len(problems) > 0 {
		r.Feasible = Finding{Reason: v1alpha1.ReasonEngineSettingsInvalid, Message: "spec.vllm: " + strings.Join(problems, "; ") + "."}
		return
	}
	// The prediction chose the split; of what vLLM will do it says too little to be
	// compared with a measurement.
	r.Predicted = nil
}

// forVLLM makes the planner predict what vLLM does: two micro-batches in turn, or
// one, whole prompts, and no segments.
func (p *planner) forVLLM(v *VLLM) {
	p.policy = plan.Sequential
	degree := 1
	if v.Overlap {
		p.policy, degree = plan.PPPipe, VLLMMicroBatches
	}
	for _, i := range []*solver.Instance{&p.prefill, &p.decode} {
		i.Options.Limits.MaxPipelineDegree = degree
		i.Options.Limits.MaxChunks = 0
		i.Options.Limits.UnequalChunks = false
	}
	p.rule = v.Rule
}

// restriction says, after a split that was chosen, what kept others out.
func (p *planner) restriction() string {
	if p.rule == v1alpha1.RatioAny {
		return ""
	}
	return fmt.Sprintf(" Only splits that the plugin of vLLM can wire (rule %s) were considered.", p.rule)
}

// idleWithVLLM lists fields that mean something to FinDEP's own runtime only.
func idleWithVLLM(spec *v1alpha1.MoEDeploymentSpec, note func(set bool, field, instead string)) {
	if spec.Engine != v1alpha1.EngineVLLMAFD {
		return
	}
	note(spec.Schedule != (v1alpha1.ScheduleSpec{}), "schedule", "vLLM schedules by itself; vllm.dualBatchOverlap is what can be set")
	note(spec.Images.Runtime != "" || spec.Images.Server != "", "images.runtime and images.server", "pods run vllm.image")
	note(spec.Groups.Attention.ServerResources != nil || spec.Groups.Expert.ServerResources != nil, "groups.*.serverResources", "pods have one container, with groups.*.resources")
}

// warningsOfVLLM says what the operator counts differently from vLLM.
func warningsOfVLLM(spec *v1alpha1.MoEDeploymentSpec) []string {
	if spec.Engine != v1alpha1.EngineVLLMAFD || spec.VLLM == nil {
		return nil
	}
	list := []string{"memory and split are computed as for FinDEP's own runtime, with two micro-batches at most; vLLM's use of memory differs (--gpu-memory-utilization, captured graphs)"}
	if major, minor := version(spec.VLLM.PluginVersion); major == 0 && minor < sharedRendezvousMinor {
		list = append(list, "plugins before 0.30 may load all weights in both roles, of which the check of memory counts only the role's own")
	}
	return list
}
