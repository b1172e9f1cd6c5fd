// SPDX-License-Identifier: Apache-2.0

package resolve

import (
	"fmt"
	"maps"
	"slices"

	"github.com/findep/findep-operator/api/v1alpha1"
)

// Node labels that name topology domains where the user names none.
const (
	rackLabel   = "topology.kubernetes.io/rack"
	zoneLabel   = "topology.kubernetes.io/zone"
	cliqueLabel = "nvidia.com/gpu.clique"
)

// Backends says what the API server serves, beside PodGroups, that places pods.
type Backends struct {
	// Topology is constraints on the place of a PodGroup, and PodGroups within
	// PodGroups (CompositePodGroup). Kubernetes has both or neither.
	Topology bool
	Volcano  bool
	Kueue    bool
}

// The pods that a Pack is about.
const (
	OfInstance  = "Instance"
	OfAttention = "Attention"
	OfExpert    = "Expert"
	OfSpread    = "Spread"
)

// Pack asks pods to share a topology domain or, for OfSpread, instances not to.
type Pack struct {
	Of   string                `json:"of"`
	Mode v1alpha1.TopologyMode `json:"mode"`
	Key  string                `json:"key"`
}

// Hardware is what the pods of a group need of their nodes. It follows from the
// group's profile.
type Hardware struct {
	// NodeSelector is the profile's own.
	NodeSelector map[string]string `json:"nodeSelector,omitempty"`
	// Products are the values of ProductLabel that a built-in preset is for.
	Products    []string                       `json:"products,omitempty"`
	Resources   []v1alpha1.ExtendedResource    `json:"resources,omitempty"`
	Environment []v1alpha1.EnvironmentVariable `json:"environment,omitempty"`
	// RuntimeImage is the sidecar's image, if it is not Decision.Images.Runtime.
	RuntimeImage string `json:"runtimeImage,omitempty"`
}

func (h Hardware) empty() bool {
	return len(h.NodeSelector)+len(h.Products)+len(h.Resources)+len(h.Environment) == 0 && h.RuntimeImage == ""
}

// Placement is what is decided about the places of pods, once per revision.
type Placement struct {
	// Backend schedules the gang, if Decision.Gang is set; empty means PodGroup.
	Backend v1alpha1.GangBackend `json:"backend,omitempty"`
	// BackendWhy says who chose it and why.
	BackendWhy string `json:"backendWhy,omitempty"`
	Topology   []Pack `json:"topology,omitempty"`
	// Native says that required topology is asked of the PodGroup and not of the
	// pods.
	Native   bool                       `json:"nativeTopology,omitempty"`
	Hardware map[v1alpha1.Role]Hardware `json:"hardware,omitempty"`
}

// Pack returns what is asked of some pods; nil if nothing is.
func (p *Placement) Pack(of string) *Pack {
	if at := slices.IndexFunc(p.Topology, func(k Pack) bool { return k.Of == of }); at >= 0 {
		return &p.Topology[at]
	}
	return nil
}

// resolvePlacement keeps what the revision's instances have, else decides.
func resolvePlacement(r *Result, spec *v1alpha1.MoEDeploymentSpec, facts Facts) {
	if facts.Existing != nil {
		r.Decision.Gang, r.Decision.Placement = facts.Existing.Gang, facts.Existing.Placement
		if r.Decision.Gang {
			r.Decision.Backend = or(r.Decision.Backend, v1alpha1.BackendPodGroup)
		}
	} else {
		p := &r.Decision.Placement
		p.Backend, p.BackendWhy, r.GangProblem = chooseBackend(&spec.Placement, facts)
		r.Decision.Gang = p.Backend != ""
		p.Topology = packs(spec, facts)
		p.Native = p.Backend == v1alpha1.BackendPodGroup && facts.Backends.Topology && slices.ContainsFunc(p.Topology, func(k Pack) bool {
			return k.Mode == v1alpha1.TopologyRequired && k.Of != OfSpread
		})
		p.Hardware = hardware(r, spec, facts)
	}
	r.GangMissing = r.GangProblem != ""
	if !r.Decision.Gang && spec.Placement.Gang == v1alpha1.GangRequired {
		r.GangMissing = true
		r.GangProblem = or(r.GangProblem, "placement.gang is Required, but the instances of this revision were made before there was a backend for it. Delete their pods and configurations, or change the spec.")
	}
}

// chooseBackend returns the backend, empty for none, and on what grounds; or what
// keeps the user's wish from being fulfilled.
func chooseBackend(p *v1alpha1.PlacementSpec, facts Facts) (backend v1alpha1.GangBackend, why, problem string) {
	served := map[v1alpha1.GangBackend]bool{
		v1alpha1.BackendPodGroup: facts.GangServed, v1alpha1.BackendVolcano: facts.Backends.Volcano, v1alpha1.BackendKueue: facts.Backends.Kueue,
	}
	const none = "this API server serves neither scheduling.k8s.io/v1beta1 PodGroups nor those of Volcano, and no Kueue with placement.queue"
	switch b := p.Backend; {
	case p.Gang == v1alpha1.GangOff:
		return "", "placement.gang is Off.", ""
	case b != "" && b != v1alpha1.BackendAuto && served[b]:
		return b, "placement.backend names it.", ""
	case b != "" && b != v1alpha1.BackendAuto:
		return "", "", fmt.Sprintf("placement.backend is %s, which this API server does not serve. Install it, or set placement.backend to Auto.", b)
	case served[v1alpha1.BackendKueue] && p.Queue != "":
		return v1alpha1.BackendKueue, "Kueue is served and placement.queue is given.", ""
	case served[v1alpha1.BackendPodGroup]:
		return v1alpha1.BackendPodGroup, "This API server serves scheduling.k8s.io/v1beta1 PodGroups.", ""
	case served[v1alpha1.BackendVolcano]:
		return v1alpha1.BackendVolcano, "This API server serves PodGroups of Volcano and none of its own.", ""
	case p.Gang == v1alpha1.GangRequired:
		return "", "", "placement.gang is Required, but " + none + ". Enable or install one of them, or set placement.gang to Auto."
	default:
		return "", "Pods are scheduled one by one: " + none + ".", ""
	}
}

// packs lists what is asked of the places of pods. What the user leaves open
// prefers the domains that the nodes' labels name: attention GPUs exchange
// nothing among themselves but are nearest to each other in an NVLink domain,
// and every layer crosses from group to group.
func packs(spec *v1alpha1.MoEDeploymentSpec, facts Facts) []Pack {
	t := &spec.Placement.Topology
	var list []Pack
	add := func(of string, mode v1alpha1.TopologyMode, key string) {
		if mode != v1alpha1.TopologyNone {
			list = append(list, Pack{of, mode, key})
		}
	}
	switch {
	case t.Instance != "" || t.Key != "":
		add(OfInstance, or(t.Instance, v1alpha1.TopologyPreferred), or(t.Key, rackLabel))
	case labelled(facts, rackLabel, &spec.Groups.Attention, &spec.Groups.Expert):
		add(OfInstance, v1alpha1.TopologyPreferred, rackLabel)
	}
	switch {
	case t.Attention != nil:
		add(OfAttention, t.Attention.Mode, or(t.Attention.Key, cliqueLabel))
	case labelled(facts, cliqueLabel, &spec.Groups.Attention):
		add(OfAttention, v1alpha1.TopologyPreferred, cliqueLabel)
	}
	if t.Expert != nil {
		add(OfExpert, t.Expert.Mode, or(t.Expert.Key, cliqueLabel))
	}
	if t.Spread != nil {
		add(OfSpread, t.Spread.Mode, or(t.Spread.Key, zoneLabel))
	}
	return list
}

// labelled says whether every group may run on a node with a label.
func labelled(facts Facts, key string, groups ...*v1alpha1.GroupSpec) bool {
	for _, g := range groups {
		if !slices.ContainsFunc(eligible(facts.NodeLabels, g.NodeSelector), func(labels map[string]string) bool { return labels[key] != "" }) {
			return false
		}
	}
	return true
}

// hardware says, for each group, which nodes its profile is of and what the
// profile adds to pods. A group that is planned with a profile must not end up
// on other GPUs.
func hardware(r *Result, spec *v1alpha1.MoEDeploymentSpec, facts Facts) map[v1alpha1.Role]Hardware {
	list := map[v1alpha1.Role]Hardware{}
	for role, group := range map[v1alpha1.Role]*v1alpha1.GroupSpec{
		v1alpha1.RoleAttention: &spec.Groups.Attention, v1alpha1.RoleExpert: &spec.Groups.Expert,
	} {
		h := hardwareOf(r.Profiles[role], group, facts)
		h.RuntimeImage = runtimeImage(r.Profiles[role], group, spec, facts)
		if !h.empty() {
			list[role] = h
		}
	}
	return list
}

func hardwareOf(p Profile, group *v1alpha1.GroupSpec, facts Facts) Hardware {
	if p.Profile == nil || p.Guess {
		return Hardware{}
	}
	at := slices.IndexFunc(facts.Profiles, func(o v1alpha1.GPUProfile) bool { return o.Name == p.Profile.Name })
	if at >= 0 {
		s := &facts.Profiles[at].Spec
		return Hardware{
			NodeSelector: maps.Clone(s.NodeSelector), Resources: slices.Clone(s.Resources), Environment: slices.Clone(s.Environment),
		}
	}
	// A cluster has many nodes and few products.
	products := map[string]bool{}
	for _, node := range eligible(facts.NodeLabels, group.NodeSelector) {
		products[node[ProductLabel]] = true
	}
	var h Hardware
	for _, product := range slices.Sorted(maps.Keys(products)) {
		if presetFor(product) == p.Profile.Name {
			h.Products = append(h.Products, product)
		}
	}
	return h
}
