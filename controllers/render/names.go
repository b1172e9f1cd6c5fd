// SPDX-License-Identifier: Apache-2.0

package render

import (
	"fmt"
	"maps"
	"strconv"

	"github.com/findep/findep-operator/api/v1alpha1"
)

// LeaderServiceName is the Service that clients send requests to.
func LeaderServiceName(deployment string) string { return deployment }

// RanksName is the headless Service of a namespace that gives the leaders in it a
// DNS name, and the NetworkPolicy around all pods. No MoEDeployment
// can have this name, which would be that of its own Service.
const RanksName = "findep-ranks"

// InstanceName is the common prefix of an instance's children, and the name of
// its PodGroup.
func InstanceName(deployment string, index int32) string {
	return fmt.Sprintf("%s-%d", deployment, index)
}

// SecretName is the Secret with an instance's configuration and certificate.
func SecretName(deployment string, index int32) string {
	return InstanceName(deployment, index) + "-instance"
}

// RevisionName is the ControllerRevision that keeps a revision.
func RevisionName(deployment, revision string) string { return deployment + "-" + revision }

// PodName is the name, and the host name, of the pod that holds a rank: ranks
// 0 to attention-1 are called ag-0, ag-1, ..., the others eg-0, eg-1, ...
func PodName(deployment string, index int32, attention, rank int) string {
	if rank < attention {
		return fmt.Sprintf("%s-ag-%d", InstanceName(deployment, index), rank)
	}
	return fmt.Sprintf("%s-eg-%d", InstanceName(deployment, index), rank-attention)
}

// Host is the name of the pod that holds a rank in certificates and messages, and
// for leaders also in DNS. It leaves out the cluster's domain, which pods find
// through their search list.
func Host(namespace, deployment string, index int32, attention, rank int) string {
	return fmt.Sprintf("%s.%s.%s.svc", PodName(deployment, index, attention, rank), RanksName, namespace)
}

// SharedLabels are on everything that the operator makes. In a namespace they
// select the pods of all deployments.
func SharedLabels() map[string]string {
	return map[string]string{v1alpha1.LabelManagedBy: v1alpha1.ManagedByValue}
}

// DeploymentLabels are on every child of a deployment and select them all.
func DeploymentLabels(deployment string) map[string]string {
	return map[string]string{
		v1alpha1.LabelManagedBy:  v1alpha1.ManagedByValue,
		v1alpha1.LabelDeployment: deployment,
	}
}

// LeaderLabels select the pods of rank 0 of all instances. Rank 0 is of the
// attention group; the first rank of vLLM's expert group is a leader as well.
func LeaderLabels(deployment string) map[string]string {
	return map[string]string{
		v1alpha1.LabelDeployment: deployment, v1alpha1.LabelLeader: "true", v1alpha1.LabelRole: string(v1alpha1.RoleAttention),
	}
}

// dialed says whether others find a rank by the DNS name of its pod: our own ranks
// their leader, vLLM's the first one of each group.
func (in *Input) dialed(rank int) bool {
	return rank == 0 || in.VLLM != nil && rank == in.Attention
}

func instanceLabels(in *Input) map[string]string {
	l := DeploymentLabels(in.Owner.Name)
	l[v1alpha1.LabelInstance] = strconv.Itoa(int(in.Index))
	l[v1alpha1.LabelRevision] = in.Revision
	return l
}

func podLabels(in *Input, rank int) map[string]string {
	l := maps.Clone(instanceLabels(in))
	l[v1alpha1.LabelRole] = string(in.Role(rank))
	l[v1alpha1.LabelRank] = strconv.Itoa(rank)
	if in.dialed(rank) {
		l[v1alpha1.LabelLeader] = "true"
	}
	return l
}
