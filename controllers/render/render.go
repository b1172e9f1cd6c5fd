// SPDX-License-Identifier: Apache-2.0

// Package render turns decisions into the Kubernetes objects of a
// MoEDeployment, as apply configurations that hold the operator's full intent
// and nothing else. It is pure: equal input gives equal output.
package render

import (
	"encoding/json"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	appsv1ac "k8s.io/client-go/applyconfigurations/apps/v1"
	corev1ac "k8s.io/client-go/applyconfigurations/core/v1"
	metav1ac "k8s.io/client-go/applyconfigurations/meta/v1"
	schedulingac "k8s.io/client-go/applyconfigurations/scheduling/v1beta1"

	"github.com/findep/findep-operator/api/v1alpha1"
	"github.com/findep/findep-operator/controllers/resolve"
	"github.com/findep/findep-operator/runtime/plan"
)

// Owner is the MoEDeployment that the children belong to.
type Owner struct {
	Namespace, Name string
	UID             types.UID
}

// Input is everything that the children of one instance are made from.
type Input struct {
	Owner    Owner
	Index    int32
	Revision string
	// Attention and Expert are the group sizes.
	Attention, Expert int
	Images            resolve.Images
	Source            resolve.Source
	// ModelName is the public name, and VLLM what vLLM is run with in place of our
	// own containers; nil for our own.
	ModelName         string
	VLLM              *resolve.VLLM
	Groups            v1alpha1.GroupsSpec
	PriorityClassName string
	// Queue is where quota comes from, for backends that know queues.
	Queue string
	// Gang puts the pods into a PodGroup.
	Gang bool
	// ConfigHash identifies the configuration in the Secret.
	ConfigHash string
	// Avoid are nodes that pods must keep off. It is of the moment, and changes no
	// pod that exists.
	Avoid []string
	// Near are the domains, best first, that the pods of a preferred pack should go
	// to; without them they only prefer to be near each other.
	Near map[string][]string
	// Decision holds what was decided when the revision's first instance was made.
	Decision resolve.Decision
}

// Role is the group that a rank belongs to.
func (in *Input) Role(rank int) v1alpha1.Role {
	if rank < in.Attention {
		return v1alpha1.RoleAttention
	}
	return v1alpha1.RoleExpert
}

func (in *Input) group(rank int) *v1alpha1.GroupSpec {
	if rank < in.Attention {
		return &in.Groups.Attention
	}
	return &in.Groups.Expert
}

func (o Owner) reference() *metav1ac.OwnerReferenceApplyConfiguration {
	return metav1ac.OwnerReference().
		WithAPIVersion(v1alpha1.GroupVersion.String()).WithKind("MoEDeployment").
		WithName(o.Name).WithUID(o.UID).WithController(true).WithBlockOwnerDeletion(true)
}

// Hosts lists the DNS names of an instance's ranks, in rank order.
func Hosts(owner Owner, index int32, attention, expert int) []string {
	hosts := make([]string, attention+expert)
	for rank := range hosts {
		hosts[rank] = Host(owner.Namespace, owner.Name, index, attention, rank)
	}
	return hosts
}

// RanksService gives those pods in a namespace that others dial by name a DNS
// name, as soon as they have an address: ranks must find their leader before any
// of them is ready. All others are found through the leader, by address, and stay
// out of the Service: with them a namespace would have endpoints by the thousand,
// and the scheduler would by default spread the pods of a Service over hosts and
// zones, which is the opposite of what an instance needs. It is one for all
// deployments, whose pods have different names, and so belongs to none of them.
func RanksService(namespace string) *corev1ac.ServiceApplyConfiguration {
	selector := SharedLabels()
	selector[v1alpha1.LabelLeader] = "true"
	return corev1ac.Service(RanksName, namespace).
		WithLabels(SharedLabels()).
		WithSpec(corev1ac.ServiceSpec().
			WithClusterIP(corev1.ClusterIPNone).
			WithPublishNotReadyAddresses(true).
			WithSelector(selector).
			WithPorts(servicePort("control", plan.ControlPort), servicePort("data", plan.DataPort),
				servicePort("metrics", plan.MetricsPort)))
}

// LeaderService sends requests to the ready leaders of all instances.
func LeaderService(owner Owner) *corev1ac.ServiceApplyConfiguration {
	return corev1ac.Service(LeaderServiceName(owner.Name), owner.Namespace).
		WithLabels(DeploymentLabels(owner.Name)).
		WithOwnerReferences(owner.reference()).
		WithSpec(corev1ac.ServiceSpec().
			WithSelector(LeaderLabels(owner.Name)).
			WithPorts(servicePort("http", plan.ServingPort)))
}

func servicePort(name string, port int32) *corev1ac.ServicePortApplyConfiguration {
	return corev1ac.ServicePort().WithName(name).WithProtocol(corev1.ProtocolTCP).
		WithPort(port).WithTargetPort(intstr.FromInt32(port))
}

// PodGroup makes the scheduler place all pods of an instance or none.
func PodGroup(in *Input) *schedulingac.PodGroupApplyConfiguration {
	return podGroup(in, InstanceName(in.Owner.Name, in.Index), in.Attention+in.Expert, in.required(resolve.OfInstance))
}

// ControllerRevision keeps the user's intent of one revision, for the history of
// rollouts and for repairs of instances that stay at it.
func ControllerRevision(owner Owner, revision string, number int64, intent resolve.Intent) (*appsv1ac.ControllerRevisionApplyConfiguration, error) {
	data, err := json.Marshal(intent)
	if err != nil {
		return nil, fmt.Errorf("revision %s: %w", revision, err)
	}
	labels := DeploymentLabels(owner.Name)
	labels[v1alpha1.LabelRevision] = revision
	return appsv1ac.ControllerRevision(RevisionName(owner.Name, revision), owner.Namespace).
		WithLabels(labels).
		WithOwnerReferences(owner.reference()).
		WithRevision(number).
		WithData(runtime.RawExtension{Raw: data}), nil
}
