// SPDX-License-Identifier: Apache-2.0

package render

import (
	"strconv"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/runtime"
	corev1ac "k8s.io/client-go/applyconfigurations/core/v1"
	metav1ac "k8s.io/client-go/applyconfigurations/meta/v1"
	resourceac "k8s.io/client-go/applyconfigurations/resource/v1"
	schedulingalphaac "k8s.io/client-go/applyconfigurations/scheduling/v1alpha3"
	schedulingac "k8s.io/client-go/applyconfigurations/scheduling/v1beta1"

	"github.com/findep/findep-operator/api/v1alpha1"
	"github.com/findep/findep-operator/controllers/resolve"
)

// What ties a pod to its gang.
const (
	volcanoScheduler  = "volcano"
	volcanoGroup      = "scheduling.k8s.io/group-name"
	kueueQueue        = "kueue.x-k8s.io/queue-name"
	kueueGroup        = "kueue.x-k8s.io/pod-group-name"
	kueueTotal        = "kueue.x-k8s.io/pod-group-total-count"
	kueueServing      = "kueue.x-k8s.io/pod-group-serving"
	kueueRole         = "kueue.x-k8s.io/role-hash"
	attentionTemplate = "attention"
	expertTemplate    = "expert"
	instanceTemplate  = "instance"
)

// Child is an apply configuration of any kind of child.
type Child interface {
	runtime.ApplyConfiguration
	GetAPIVersion() *string
	GetKind() *string
	GetName() *string
}

// backend is what schedules the gang; empty if there is none.
func (in *Input) backend() v1alpha1.GangBackend {
	switch {
	case !in.Gang:
		return ""
	case in.Decision.Backend == "":
		return v1alpha1.BackendPodGroup
	default:
		return in.Decision.Backend
	}
}

// required is the key of a domain that pods must share, by the PodGroup's doing;
// nil if it does not have to see to that.
func (in *Input) required(of string) *resolve.Pack {
	if p := in.Decision.Pack(of); in.Decision.Native && p != nil && p.Mode == v1alpha1.TopologyRequired {
		return p
	}
	return nil
}

// composite says that the groups have constraints of their own, so that each
// needs a PodGroup of its own, both within one that is placed all or none.
func (in *Input) composite() bool {
	return in.required(resolve.OfAttention) != nil || in.required(resolve.OfExpert) != nil
}

// GroupName is the PodGroup of a rank.
func GroupName(in *Input, rank int) string {
	name := InstanceName(in.Owner.Name, in.Index)
	switch {
	case !in.composite():
		return name
	case rank < in.Attention:
		return name + "-ag"
	default:
		return name + "-eg"
	}
}

// PodGroups make the scheduler place all pods of an instance or none: one, or one
// for each group of GPUs within the CompositePodGroup of GangObjects. There are
// none with another backend.
func PodGroups(in *Input) []*schedulingac.PodGroupApplyConfiguration {
	switch {
	case in.backend() != v1alpha1.BackendPodGroup:
		return nil
	case !in.composite():
		return []*schedulingac.PodGroupApplyConfiguration{PodGroup(in)}
	}
	part := func(rank, size int, template string, pack *resolve.Pack) *schedulingac.PodGroupApplyConfiguration {
		name := InstanceName(in.Owner.Name, in.Index)
		g := podGroup(in, GroupName(in, rank), size, pack)
		g.Spec.WithParentCompositePodGroupName(name).
			WithWorkloadRef(schedulingac.WorkloadReference().WithWorkloadName(name).WithTemplateName(template))
		return g
	}
	return []*schedulingac.PodGroupApplyConfiguration{
		part(0, in.Attention, attentionTemplate, in.required(resolve.OfAttention)),
		part(in.Attention, in.Expert, expertTemplate, in.required(resolve.OfExpert)),
	}
}

func podGroup(in *Input, name string, size int, pack *resolve.Pack) *schedulingac.PodGroupApplyConfiguration {
	spec := schedulingac.PodGroupSpec().WithSchedulingPolicy(gang(size))
	if pack != nil {
		spec.WithSchedulingConstraints(constraint(pack))
	}
	return schedulingac.PodGroup(name, in.Owner.Namespace).
		WithLabels(instanceLabels(in)).WithOwnerReferences(in.Owner.reference()).WithSpec(spec)
}

func gang(size int) *schedulingac.PodGroupSchedulingPolicyApplyConfiguration {
	return schedulingac.PodGroupSchedulingPolicy().WithGang(schedulingac.GangSchedulingPolicy().WithMinCount(int32(size)))
}

func constraint(p *resolve.Pack) *schedulingac.PodGroupSchedulingConstraintsApplyConfiguration {
	return schedulingac.PodGroupSchedulingConstraints().WithTopology(schedulingac.TopologyConstraint().WithKey(p.Key))
}

// GangObjects are what an instance's gang needs beside PodGroups of Kubernetes,
// and the templates of the claims of its GPUs, in the order to make them in.
func GangObjects(in *Input) []Child {
	var list []Child
	switch {
	case in.backend() == v1alpha1.BackendVolcano:
		list = append(list, volcanoPodGroup(in))
	case in.composite():
		list = append(list, workload(in), compositePodGroup(in))
	}
	for _, rank := range []int{0, in.Attention} {
		if claim := in.group(rank).DeviceClaim; claim != nil {
			list = append(list, claimTemplate(in, rank, claim))
		}
	}
	return list
}

func workload(in *Input) *schedulingac.WorkloadApplyConfiguration {
	part := func(name string, size int, pack *resolve.Pack) *schedulingac.PodGroupTemplateApplyConfiguration {
		t := schedulingac.PodGroupTemplate().WithName(name).WithSchedulingPolicy(gang(size))
		if pack != nil {
			t.WithSchedulingConstraints(constraint(pack))
		}
		return t
	}
	whole := schedulingac.CompositePodGroupTemplate().WithName(instanceTemplate).
		WithSchedulingPolicy(schedulingac.CompositePodGroupSchedulingPolicy().
			WithGang(schedulingac.CompositeGangSchedulingPolicy().WithMinGroupCount(2))).
		WithPodGroupTemplates(
			part(attentionTemplate, in.Attention, in.required(resolve.OfAttention)),
			part(expertTemplate, in.Expert, in.required(resolve.OfExpert)))
	if p := in.required(resolve.OfInstance); p != nil {
		whole.WithSchedulingConstraints(schedulingac.CompositePodGroupSchedulingConstraints().
			WithTopology(schedulingac.TopologyConstraint().WithKey(p.Key)))
	}
	return schedulingac.Workload(InstanceName(in.Owner.Name, in.Index), in.Owner.Namespace).
		WithLabels(instanceLabels(in)).WithOwnerReferences(in.Owner.reference()).
		WithSpec(schedulingac.WorkloadSpec().WithCompositePodGroupTemplates(whole))
}

func compositePodGroup(in *Input) *schedulingalphaac.CompositePodGroupApplyConfiguration {
	name := InstanceName(in.Owner.Name, in.Index)
	spec := schedulingalphaac.CompositePodGroupSpec().
		WithWorkloadRef(schedulingalphaac.WorkloadReference().WithWorkloadName(name).WithTemplateName(instanceTemplate)).
		WithSchedulingPolicy(schedulingalphaac.CompositePodGroupSchedulingPolicy().
			WithGang(schedulingalphaac.CompositeGangSchedulingPolicy().WithMinGroupCount(2)))
	if p := in.required(resolve.OfInstance); p != nil {
		spec.WithSchedulingConstraints(schedulingalphaac.CompositePodGroupSchedulingConstraints().
			WithTopology(schedulingalphaac.TopologyConstraint().WithKey(p.Key)))
	}
	return schedulingalphaac.CompositePodGroup(name, in.Owner.Namespace).
		WithLabels(instanceLabels(in)).WithOwnerReferences(in.Owner.reference()).WithSpec(spec)
}

// VolcanoPodGroup is the part of scheduling.volcano.sh/v1beta1 PodGroup that is
// used here.
type VolcanoPodGroup struct {
	metav1ac.TypeMetaApplyConfiguration    `json:",inline"`
	*metav1ac.ObjectMetaApplyConfiguration `json:"metadata,omitempty"`
	Spec                                   VolcanoPodGroupSpec `json:"spec"`
}

// VolcanoPodGroupSpec is the gang's size and where its quota comes from.
type VolcanoPodGroupSpec struct {
	MinMember         int32  `json:"minMember"`
	Queue             string `json:"queue,omitempty"`
	PriorityClassName string `json:"priorityClassName,omitempty"`
}

// IsApplyConfiguration implements runtime.ApplyConfiguration.
func (VolcanoPodGroup) IsApplyConfiguration() {}

// GetAPIVersion is the API version.
func (v *VolcanoPodGroup) GetAPIVersion() *string { return v.APIVersion }

// GetKind is the kind.
func (v *VolcanoPodGroup) GetKind() *string { return v.Kind }

// GetName is the name.
func (v *VolcanoPodGroup) GetName() *string { return v.Name }

// GetNamespace is the namespace.
func (v *VolcanoPodGroup) GetNamespace() *string { return v.Namespace }

func volcanoPodGroup(in *Input) *VolcanoPodGroup {
	g := &VolcanoPodGroup{
		ObjectMetaApplyConfiguration: metav1ac.ObjectMeta().WithName(InstanceName(in.Owner.Name, in.Index)).WithNamespace(in.Owner.Namespace).
			WithLabels(instanceLabels(in)).WithOwnerReferences(in.Owner.reference()),
		Spec: VolcanoPodGroupSpec{
			MinMember: int32(in.Attention + in.Expert), Queue: in.Queue, PriorityClassName: in.PriorityClassName,
		},
	}
	g.WithAPIVersion("scheduling.volcano.sh/v1beta1").WithKind("PodGroup")
	return g
}

// ClaimTemplateName is the ResourceClaimTemplate of a rank's group. It has the
// revision in it because a template cannot be changed.
func ClaimTemplateName(in *Input, rank int) string {
	const enough = 8
	group := "-ag-"
	if rank >= in.Attention {
		group = "-eg-"
	}
	return InstanceName(in.Owner.Name, in.Index) + group + in.Revision[:min(enough, len(in.Revision))]
}

func claimTemplate(in *Input, rank int, claim *v1alpha1.DeviceClaimSpec) *resourceac.ResourceClaimTemplateApplyConfiguration {
	exactly := resourceac.ExactDeviceRequest().
		WithDeviceClassName(claim.DeviceClassName).
		WithAllocationMode(resourcev1.DeviceAllocationModeExactCount).WithCount(1)
	for _, expression := range claim.Selectors {
		exactly.WithSelectors(resourceac.DeviceSelector().WithCEL(resourceac.CELDeviceSelector().WithExpression(expression)))
	}
	return resourceac.ResourceClaimTemplate(ClaimTemplateName(in, rank), in.Owner.Namespace).
		WithLabels(instanceLabels(in)).WithOwnerReferences(in.Owner.reference()).
		WithSpec(resourceac.ResourceClaimTemplateSpec().WithSpec(resourceac.ResourceClaimSpec().
			WithDevices(resourceac.DeviceClaim().WithRequests(resourceac.DeviceRequest().WithName(resolve.GPUClaim).WithExactly(exactly)))))
}

// join ties a pod to its gang and to its claim.
func join(in *Input, rank int, pod *corev1ac.PodApplyConfiguration) {
	switch in.backend() {
	case v1alpha1.BackendPodGroup:
		pod.Spec.WithSchedulingGroup(corev1ac.PodSchedulingGroup().WithPodGroupName(GroupName(in, rank)))
	case v1alpha1.BackendVolcano:
		pod.Spec.WithSchedulerName(volcanoScheduler)
		pod.WithAnnotations(map[string]string{volcanoGroup: InstanceName(in.Owner.Name, in.Index)})
	case v1alpha1.BackendKueue:
		pod.WithLabels(map[string]string{kueueQueue: in.Queue, kueueGroup: InstanceName(in.Owner.Name, in.Index)})
		pod.WithAnnotations(map[string]string{
			kueueTotal: strconv.Itoa(in.Attention + in.Expert), kueueServing: "true", kueueRole: string(in.Role(rank)),
		})
	}
	if in.group(rank).DeviceClaim != nil {
		pod.Spec.WithResourceClaims(corev1ac.PodResourceClaim().
			WithName(resolve.GPUClaim).WithResourceClaimTemplateName(ClaimTemplateName(in, rank)))
	}
}

// affinity asks for what the PodGroup does not see to: nodes of the right GPUs,
// and places near the other pods of the instance.
func affinity(in *Input, rank int) *corev1ac.AffinityApplyConfiguration {
	ac, used := corev1ac.Affinity(), false
	if nodes := nodeAffinity(in, rank); nodes != nil {
		used = true
		ac.WithNodeAffinity(nodes)
	}
	if pods := podAffinity(in, rank); pods != nil {
		used = true
		ac.WithPodAffinity(pods)
	}
	if !used {
		return nil
	}
	return ac
}

// packOf is a pack that a rank belongs to, with the weight of a preference for it.
type packOf struct {
	*resolve.Pack
	weight int32
}

func packsOf(in *Input, rank int) []packOf {
	mine := resolve.OfExpert
	if rank < in.Attention {
		mine = resolve.OfAttention
	}
	var list []packOf
	for _, k := range []packOf{{in.Decision.Pack(resolve.OfInstance), 50}, {in.Decision.Pack(mine), 100}} {
		if k.Pack != nil {
			list = append(list, k)
		}
	}
	return list
}

// nodeAffinity asks for nodes of the right GPUs and prefers those of the domains
// that were chosen for the instance: with full weight for the first one and a tenth
// less for each that follows.
func nodeAffinity(in *Input, rank int) *corev1ac.NodeAffinityApplyConfiguration {
	ac, used := corev1ac.NodeAffinity(), false
	if products := in.Decision.Hardware[in.Role(rank)].Products; len(products) > 0 {
		used = true
		ac.WithRequiredDuringSchedulingIgnoredDuringExecution(corev1ac.NodeSelector().
			WithNodeSelectorTerms(nodeTerm(resolve.ProductLabel, products...)))
	}
	for _, k := range packsOf(in, rank) {
		for n, domain := range in.Near[k.Of] {
			used = true
			ac.WithPreferredDuringSchedulingIgnoredDuringExecution(corev1ac.PreferredSchedulingTerm().
				WithWeight(k.weight - int32(n)*k.weight/10).WithPreference(nodeTerm(k.Key, domain)))
		}
	}
	if !used {
		return nil
	}
	return ac
}

func nodeTerm(key string, values ...string) *corev1ac.NodeSelectorTermApplyConfiguration {
	return corev1ac.NodeSelectorTerm().WithMatchExpressions(corev1ac.NodeSelectorRequirement().
		WithKey(key).WithOperator(corev1.NodeSelectorOpIn).WithValues(values...))
}

// podAffinity asks for places near the other pods of the instance, as far as the
// PodGroup does not and no domain was chosen.
func podAffinity(in *Input, rank int) *corev1ac.PodAffinityApplyConfiguration {
	ac, used := corev1ac.PodAffinity(), false
	for _, k := range packsOf(in, rank) {
		if in.required(k.Of) != nil || len(in.Near[k.Of]) > 0 {
			continue
		}
		used = true
		term := corev1ac.PodAffinityTerm().WithTopologyKey(k.Key).WithLabelSelector(metav1ac.LabelSelector().WithMatchLabels(together(in, rank, k.Of)))
		if k.Mode == v1alpha1.TopologyRequired {
			ac.WithRequiredDuringSchedulingIgnoredDuringExecution(term)
		} else {
			ac.WithPreferredDuringSchedulingIgnoredDuringExecution(corev1ac.WeightedPodAffinityTerm().WithWeight(k.weight).WithPodAffinityTerm(term))
		}
	}
	if !used {
		return nil
	}
	return ac
}

// together selects the pods that share a domain with a rank.
func together(in *Input, rank int, of string) map[string]string {
	l := map[string]string{v1alpha1.LabelDeployment: in.Owner.Name, v1alpha1.LabelInstance: strconv.Itoa(int(in.Index))}
	if of != resolve.OfInstance {
		l[v1alpha1.LabelRole] = string(in.Role(rank))
	}
	return l
}

// spread keeps leaders, and with them instances, apart.
func spread(in *Input, rank int) *corev1ac.TopologySpreadConstraintApplyConfiguration {
	p := in.Decision.Pack(resolve.OfSpread)
	if p == nil || rank != 0 {
		return nil
	}
	unsatisfiable := corev1.ScheduleAnyway
	if p.Mode == v1alpha1.TopologyRequired {
		unsatisfiable = corev1.DoNotSchedule
	}
	return corev1ac.TopologySpreadConstraint().WithMaxSkew(1).WithTopologyKey(p.Key).WithWhenUnsatisfiable(unsatisfiable).
		WithLabelSelector(metav1ac.LabelSelector().WithMatchLabels(LeaderLabels(in.Owner.Name)))
}
