// SPDX-License-Identifier: Apache-2.0

package webhooks

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"k8s.io/utils/ptr"

	"github.com/findep/findep-operator/api/v1alpha1"
	"github.com/findep/findep-operator/controllers/resolve"
)

// Verdict is what admission says about an object.
type Verdict struct {
	// Errors refuse it.
	Errors field.ErrorList
	// Warnings are shown to the user, who is not kept from anything.
	Warnings []string
}

func (v *Verdict) warn(format string, args ...any) {
	v.Warnings = append(v.Warnings, fmt.Sprintf(format, args...))
}

var spec = field.NewPath("spec")

// Check looks at a deployment that is made or, with old, changed. It is pure:
// the caller has read the facts. What cannot become right by itself is an error;
// what may, because a ConfigMap, a profile or a node is still to come, and what
// is merely unwise, is a warning.
//
// An error that the old object has as well is only a warning, so that an upgrade
// of the operator keeps nobody from changing something else.
func Check(d, old *v1alpha1.MoEDeployment, facts resolve.Facts) Verdict {
	v := check(d, facts)
	if old == nil {
		return v
	}
	known := check(old, facts).Errors
	v.Errors = slices.DeleteFunc(v.Errors, func(e *field.Error) bool {
		same := slices.ContainsFunc(known, func(k *field.Error) bool { return k.Field == e.Field && k.Type == e.Type })
		if same {
			v.warn("%s", e.Error())
		}
		return same
	})
	checkChange(&v, d, old, facts)
	return v
}

func check(d *v1alpha1.MoEDeployment, facts resolve.Facts) Verdict {
	var v Verdict
	r := resolve.Resolve(d, facts)
	checkModel(&v, d, r)
	if r.Model.OK {
		checkFeasible(&v, d, r, facts)
		checkWorkload(&v, d, r)
	}
	for _, text := range slices.Concat(r.Risks, r.Warnings) {
		v.warn("%s", text)
	}
	if len(r.NotActedOn) > 0 {
		v.warn("without effect in this version: %s", strings.Join(r.NotActedOn, "; "))
	}
	if r.GangMissing {
		v.warn("no pods are made as things are: %s", r.GangProblem)
	}
	checkEngine(&v, d)
	checkTemplates(&v, d)
	checkSelectors(&v, d, facts)
	checkIdle(&v, d)
	return v
}

// checkModel warns of a model that is not known yet: its ConfigMap may be applied
// a moment later, and another version of the operator may know the name.
func checkModel(v *Verdict, d *v1alpha1.MoEDeployment, r *resolve.Result) {
	if !r.Model.OK {
		v.warn("spec.model of %q is not resolved, and no pods are made until it is: %s", d.Name, r.Model.Message)
	}
}

// checkFeasible says what stands in the way of instances.
func checkFeasible(v *Verdict, d *v1alpha1.MoEDeployment, r *resolve.Result, facts resolve.Facts) {
	switch f := r.Feasible; f.Reason {
	case v1alpha1.ReasonMemoryExceeded:
		checkMemory(v, d, r, facts)
	case v1alpha1.ReasonTooManyExpertGPUs:
		v.Errors = append(v.Errors, field.Invalid(spec.Child("gpus", "expert"), d.Spec.GPUs.Expert, f.Message))
	case v1alpha1.ReasonContextTooLong:
		v.Errors = append(v.Errors, field.Invalid(spec.Child("model", "maxContextTokens"), d.Spec.Model.MaxContextTokens, f.Message))
	case v1alpha1.ReasonMemoryCheckOverridden:
		v.warn("%s", f.Message)
	case v1alpha1.ReasonFits, v1alpha1.ReasonPodTemplateInvalid, v1alpha1.ReasonRatioNotSupported, v1alpha1.ReasonEngineSettingsInvalid:
		// Templates and engines are checked whether the model fits or not.
	default:
		// A profile that is missing or wrong, or an objective that cannot be met.
		v.warn("%s", f.Message)
	}
}

// checkMemory refuses what fits no GPU that the groups may run on. It only warns
// where other nodes would do, and where nothing is known about the GPUs, since
// they may be added when pods ask for them.
func checkMemory(v *Verdict, d *v1alpha1.MoEDeployment, r *resolve.Result, facts resolve.Facts) {
	if r.Profiles[v1alpha1.RoleAttention].Guess || r.Profiles[v1alpha1.RoleExpert].Guess {
		v.warn("no node with a known GPU product exists, so it is not known whether the model fits; name the GPUs with groups.*.profileRef. With the profile that is assumed until then: %s", r.Feasible.Message)
		return
	}
	if attention, expert, found := elsewhere(d, facts); found {
		v.warn("%s It would fit on attention GPUs of profile %s and expert GPUs of profile %s: choose such nodes with groups.*.nodeSelector or groups.*.profileRef.",
			r.Feasible.Message, attention, expert)
		return
	}
	v.Errors = append(v.Errors, field.Forbidden(spec.Child("gpus"), fmt.Sprintf(
		"%s To make the instances all the same, annotate the object with %s: %s.",
		r.Feasible.Message, v1alpha1.AnnotationMemoryCheck, v1alpha1.MemoryCheckOverride)))
}

// maxCombinations bounds the pairs of profiles that are tried.
const maxCombinations = 16

// elsewhere looks for profiles of other nodes that the groups may run on, with
// which the model fits. A group whose profile the user names has only that.
func elsewhere(d *v1alpha1.MoEDeployment, facts resolve.Facts) (attention, expert string, found bool) {
	choices := func(g *v1alpha1.GroupSpec) []string {
		if g.ProfileRef != "" {
			return []string{g.ProfileRef}
		}
		return resolve.Candidates(g, facts)
	}
	tried := 0
	for _, attention = range choices(&d.Spec.Groups.Attention) {
		for _, expert = range choices(&d.Spec.Groups.Expert) {
			if tried++; tried > maxCombinations {
				return "", "", false
			}
			other := d.DeepCopy()
			other.Spec.Groups.Attention.ProfileRef, other.Spec.Groups.Expert.ProfileRef = attention, expert
			if resolve.Resolve(other, facts).Feasible.OK {
				return attention, expert, true
			}
		}
	}
	return "", "", false
}

// checkWorkload compares what is expected with what the model can take.
func checkWorkload(v *Verdict, d *v1alpha1.MoEDeployment, r *resolve.Result) {
	w := d.Spec.Workload
	if int(w.PromptTokens) > r.MaxContextTokens {
		v.Errors = append(v.Errors, field.Invalid(spec.Child("workload", "promptTokens"), w.PromptTokens,
			fmt.Sprintf("prompts of this length do not fit into the context of %d tokens", r.MaxContextTokens)))
	} else if int(w.PromptTokens)+int(w.OutputTokens) > r.MaxContextTokens {
		v.warn("workload.promptTokens and workload.outputTokens are %d in all, but the context is %d tokens: requests of this length are cut off",
			w.PromptTokens+w.OutputTokens, r.MaxContextTokens)
	}
}

// checkEngine refuses what vLLM's plugin cannot run, whether the model fits or not.
func checkEngine(v *Verdict, d *v1alpha1.MoEDeployment) {
	s := d.Spec.VLLM
	if s == nil || d.Spec.Engine != v1alpha1.EngineVLLMAFD {
		return
	}
	if gpus := d.Spec.GPUs; gpus.Total == 0 && gpus.Expert > 0 {
		if problem := resolve.CheckRatio(resolve.RatioRuleOf(s), int(gpus.Attention), int(gpus.Expert)); problem != "" {
			v.Errors = append(v.Errors, field.Invalid(spec.Child("gpus"), resolve.Ratio(int(gpus.Attention), int(gpus.Expert)), problem))
		}
	}
	for _, problem := range resolve.CheckVLLM(s, int(max(d.Spec.GPUs.Expert, d.Spec.GPUs.Total/2))) {
		v.Errors = append(v.Errors, field.Forbidden(spec.Child("vllm"), problem))
	}
}

// checkTemplates refuses patches of pods that cannot be applied.
func checkTemplates(v *Verdict, d *v1alpha1.MoEDeployment) {
	groups := spec.Child("groups")
	for _, g := range []struct {
		path  *field.Path
		group *v1alpha1.GroupSpec
	}{{groups.Child("attention"), &d.Spec.Groups.Attention}, {groups.Child("expert"), &d.Spec.Groups.Expert}} {
		for _, problem := range resolve.CheckPodTemplate(g.group.PodTemplate) {
			v.Errors = append(v.Errors, field.Forbidden(g.path.Child("podTemplate"), problem))
		}
	}
}

// checkSelectors finds groups that no node can hold because the profile that
// they name is of other nodes.
func checkSelectors(v *Verdict, d *v1alpha1.MoEDeployment, facts resolve.Facts) {
	for _, g := range []struct {
		name  string
		group *v1alpha1.GroupSpec
	}{{"attention", &d.Spec.Groups.Attention}, {"expert", &d.Spec.Groups.Expert}} {
		at := slices.IndexFunc(facts.Profiles, func(p v1alpha1.GPUProfile) bool { return p.Name == g.group.ProfileRef })
		if at < 0 {
			continue
		}
		for _, key := range slices.Sorted(maps.Keys(facts.Profiles[at].Spec.NodeSelector)) {
			want := facts.Profiles[at].Spec.NodeSelector[key]
			if got, set := g.group.NodeSelector[key]; set && got != want {
				v.Errors = append(v.Errors, field.Invalid(spec.Child("groups", g.name, "nodeSelector").Key(key), got,
					fmt.Sprintf("GPUProfile %s, which profileRef names, is of nodes with the value %q", g.group.ProfileRef, want)))
			}
		}
	}
}

// checkIdle warns of settings that another setting keeps from having an effect.
func checkIdle(v *Verdict, d *v1alpha1.MoEDeployment) {
	s := &d.Spec
	if s.Replicas != nil && *s.Replicas > 0 && s.Rollout.Partition >= *s.Replicas {
		v.warn("rollout.partition is %d and spec.replicas is %d: no instance is ever updated", s.Rollout.Partition, *s.Replicas)
	}
	if s.Recovery.Policy == v1alpha1.RecoveryNone && (s.Recovery.MaxRestarts > 0 || s.Recovery.BackoffSeconds > 0) {
		v.warn("recovery.maxRestarts and recovery.backoffSeconds have no effect while recovery.policy is None")
	}
	if s.Schedule.MaxSegments > 0 && s.Schedule.Policy != "" && s.Schedule.Policy != v1alpha1.PolicyFinDEP {
		v.warn("schedule.maxSegments has no effect: only the policy FinDEP cuts micro-batches into segments, and schedule.policy is %s", s.Schedule.Policy)
	}
}

// checkChange says what a change costs that needs new pods.
func checkChange(v *Verdict, d, old *v1alpha1.MoEDeployment, facts resolve.Facts) {
	instances := recreated(d, old)
	if instances == 0 || resolve.Revision(d, facts.Config) == resolve.Revision(old, facts.Config) {
		return
	}
	changed := changedFields(&d.Spec, &old.Spec)
	if len(changed) == 0 {
		return
	}
	v.warn("changing %s recreates the pods of %s, one instance after the other as spec.rollout says; requests that are running are finished by other instances or lost",
		strings.Join(changed, ", "), resolve.Plural(instances, "instance"))
}

// recreated is the number of instances whose pods a new revision replaces: those
// that run, without those on their way out after a scale-down.
func recreated(d, old *v1alpha1.MoEDeployment) int32 {
	return min(ptr.Deref(old.Status.Replicas, 0), ptr.Deref(d.Spec.Replicas, 1))
}

// changedFields names the parts of a spec that pods are made from and that
// differ, see resolve.Intent.
func changedFields(d, old *v1alpha1.MoEDeploymentSpec) []string {
	var list []string
	for _, f := range []struct {
		name     string
		now, was any
	}{
		{"spec.model", d.Model, old.Model},
		{"spec.gpus", d.GPUs, old.GPUs},
		{"spec.groups", d.Groups, old.Groups},
		{"spec.images", d.Images, old.Images},
		{"spec.placement", d.Placement, old.Placement},
		{"spec.vllm", d.VLLM, old.VLLM},
	} {
		if !equality.Semantic.DeepEqual(f.now, f.was) {
			list = append(list, f.name)
		}
	}
	return list
}
