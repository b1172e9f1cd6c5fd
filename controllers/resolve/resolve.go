// SPDX-License-Identifier: Apache-2.0

// Package resolve turns what the user wrote into what shall be made: the
// model's shape, the GPU profiles, the split, the schedule to start with, and
// the reasons for each. It is pure: it reads nothing but its input, and equal
// input gives an equal result. What cannot be done is a Finding in the result,
// never an error.
package resolve

import (
	"encoding/json"

	corev1 "k8s.io/api/core/v1"

	"github.com/findep/findep-operator/api/v1alpha1"
	"github.com/findep/findep-operator/runtime/model"
	"github.com/findep/findep-operator/runtime/plan"
	"github.com/findep/findep-operator/runtime/profile"
)

// Facts is everything that is read before Resolve.
type Facts struct {
	// Config is the content of the ConfigMap of model.configFrom; nil if the
	// spec names none.
	Config *ConfigFile
	// Profiles are the GPUProfiles of the cluster.
	Profiles []v1alpha1.GPUProfile
	// NodeLabels are the label sets of the nodes, without duplicates. They decide
	// which profile describes the GPUs.
	NodeLabels []map[string]string
	// Images are the operator's own defaults.
	Images Images
	// Nodes are the labels of the nodes by name, for what is said of where pods are.
	Nodes map[string]map[string]string
	// GangServed says that the API server serves PodGroups, Backends what else it
	// serves that places pods.
	GangServed bool
	Backends   Backends
	// Existing is the decision that running instances of the same revision were
	// made from; nil if there are none.
	Existing *Decision
}

// ConfigFile is a config.json, or why there is none.
type ConfigFile struct {
	Data string
	// Problem says why the file could not be found; empty if it was.
	Problem string
}

// Images are the images of an instance's pods.
type Images struct {
	Runtime string `json:"runtime"`
	// RuntimeCUDA is the operator's default in place of Runtime for groups on
	// GPUs of NVIDIA; empty means that there is none. What was decided for a group
	// is in Hardware.RuntimeImage.
	RuntimeCUDA string            `json:"-"`
	Server      string            `json:"server"`
	PullPolicy  corev1.PullPolicy `json:"pullPolicy,omitempty"`
	PullSecrets []string          `json:"pullSecrets,omitempty"`
}

// Decision is what must not change while a revision's instances run, although
// the operator, its solver and its default images may.
type Decision struct {
	Attention int    `json:"attention"`
	Expert    int    `json:"expert"`
	Why       string `json:"why"`
	Images    Images `json:"images"`
	// Gang says that the pods are in a PodGroup. It is decided once, since a
	// replacement that alone is in a group would wait for the others for ever.
	Gang bool `json:"gang,omitempty"`
	// Placement is the rest of what is asked of the places of pods.
	Placement
}

// StoredDecision reads a decision from the annotations of an instance's
// Secret; nil if there is none that makes sense.
func StoredDecision(annotations map[string]string) *Decision {
	var d Decision
	if json.Unmarshal([]byte(annotations[v1alpha1.AnnotationDecision]), &d) != nil || d.Attention < 1 || d.Expert < 1 {
		return nil
	}
	return &d
}

// Finding is the answer to one question, in the form of a condition.
type Finding struct {
	OK      bool
	Reason  string
	Message string
}

// Profile is the GPU profile of one group, and why it was taken.
type Profile struct {
	Profile *profile.Profile
	Why     string
	// Guess says that nothing is known about the GPUs, so that what follows from
	// the profile may be wrong.
	Guess bool
}

// Result is what shall be made, and why.
type Result struct {
	// Model answers whether the shape is known, Feasible whether it fits. If one
	// is not OK, nothing is to be made and the fields below are only set as far
	// as the work got.
	Model, Feasible Finding
	// Revision identifies the user's intent as far as it is in the pods.
	Revision string
	// ModelName is the public name.
	ModelName string
	Shape     *model.Shape
	Source    Source
	// VLLM is the engine's configuration; nil if the pods run FinDEP's own runtime.
	VLLM *VLLM
	// Groups and Placement are the user's wishes for the pods.
	Groups    v1alpha1.GroupsSpec
	Placement v1alpha1.PlacementSpec
	// MaxContextTokens bounds prompt plus completion.
	MaxContextTokens int
	// KVCacheTokens is the KV capacity of one attention GPU in tokens; 0 lets the
	// rank choose from its free memory.
	KVCacheTokens int
	// Profiles by role.
	Profiles map[v1alpha1.Role]Profile
	// Decision holds split and images.
	Decision Decision
	// GangMissing says that the user requires a gang and there is none to be had,
	// GangProblem why.
	GangMissing bool
	GangProblem string
	// Alternatives are the splits that were not taken, best first.
	Alternatives []v1alpha1.SplitAlternative
	// Start is the schedule to begin with, Predicted what it should achieve.
	Start     plan.Plan
	Predicted *v1alpha1.PredictedStatus
	Memory    []v1alpha1.MemoryStatus
	// Schedule and SLO are the user's wishes with the defaults filled in.
	Schedule plan.Schedule
	SLO      plan.SLO
	// NotActedOn lists the fields that are set and have no effect, each with a
	// remark; Warnings lists what works and yet deserves attention.
	NotActedOn, Warnings []string
	// Risks says what may go wrong although the model fits.
	Risks []string
	// MemoryOverridden says that the user overrides the check of memory.
	MemoryOverridden bool
}

// OK says whether instances can be made.
func (r *Result) OK() bool { return r.Model.OK && r.Feasible.OK && !r.GangMissing }

// Resolve decides. It never fails: what stands in the way is in the result.
func Resolve(d *v1alpha1.MoEDeployment, facts Facts) *Result {
	r := &Result{
		Revision:   Revision(d, facts.Config),
		VLLM:       vllmOf(&d.Spec),
		Groups:     d.Spec.Groups,
		Placement:  d.Spec.Placement,
		Schedule:   scheduleOf(d.Spec.Schedule),
		SLO:        sloOf(d.Spec.SLO),
		NotActedOn: notActedOn(&d.Spec),
		Warnings:   warnings(&d.Spec),

		MemoryOverridden: d.Annotations[v1alpha1.AnnotationMemoryCheck] == v1alpha1.MemoryCheckOverride,
	}
	resolveModel(r, d, facts.Config)
	if !r.Model.OK {
		r.Feasible = Finding{Reason: v1alpha1.ReasonModelNotResolved, Message: "The model is not resolved: " + r.Model.Message}
		return r
	}
	if !resolveProfiles(r, &d.Spec, facts) {
		return r
	}
	resolveImages(r, &d.Spec, facts)
	resolvePlacement(r, &d.Spec, facts)
	resolveSplit(r, &d.Spec, facts.Existing)
	resolveVLLM(r, &d.Spec)
	resolvePodTemplates(r, &d.Spec)
	return r
}

// resolveImages takes the user's images, else those the revision's instances
// already run with, else the operator's.
func resolveImages(r *Result, spec *v1alpha1.MoEDeploymentSpec, facts Facts) {
	images := facts.Images
	if facts.Existing != nil {
		images = facts.Existing.Images
	}
	if spec.Images.Runtime != "" {
		images.Runtime = spec.Images.Runtime
	}
	if spec.Images.Server != "" {
		images.Server = spec.Images.Server
	}
	if spec.Images.PullPolicy != "" {
		images.PullPolicy = corev1.PullPolicy(spec.Images.PullPolicy)
	}
	if len(spec.Images.PullSecrets) > 0 {
		images.PullSecrets = nil
		for _, s := range spec.Images.PullSecrets {
			images.PullSecrets = append(images.PullSecrets, s.Name)
		}
	}
	r.Decision.Images = images
}

func scheduleOf(s v1alpha1.ScheduleSpec) plan.Schedule {
	return plan.Schedule{
		Policy:      plan.Policy(or(string(s.Policy), string(v1alpha1.PolicyFinDEP))),
		Order:       plan.Order(or(string(s.Order), string(v1alpha1.OrderAuto))),
		Chunks:      or(string(s.Chunks), string(v1alpha1.ChunksAuto)),
		Resolve:     or(string(s.Resolve), string(v1alpha1.ResolveOnline)),
		MaxSegments: int(s.MaxSegments),
	}
}

func sloOf(s v1alpha1.SLOSpec) plan.SLO {
	return plan.SLO{
		TimeToFirstTokenMilliseconds:   int(s.TimeToFirstTokenMilliseconds),
		TimePerOutputTokenMilliseconds: int(s.TimePerOutputTokenMilliseconds),
	}
}

func or[T comparable](value, missing T) T {
	var zero T
	if value == zero {
		return missing
	}
	return value
}
