// SPDX-License-Identifier: Apache-2.0

package render

import (
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	metav1ac "k8s.io/client-go/applyconfigurations/meta/v1"
	networkingac "k8s.io/client-go/applyconfigurations/networking/v1"
	policyac "k8s.io/client-go/applyconfigurations/policy/v1"

	"github.com/findep/findep-operator/api/v1alpha1"
	"github.com/findep/findep-operator/runtime/plan"
)

// DisruptionBudget lets evictions take down as many instances as may be down at
// once, and no more. size is the number of pods of an instance.
//
// Kubernetes counts pods, an eviction breaks an instance. Two facts make one fit
// the other: readiness follows the collective heartbeat, so that all pods of a
// broken instance are unready within seconds, and unhealthy pods may always be
// evicted. The first pod of an instance therefore takes the budget, and the rest
// of the same instance goes freely. The budget is one pod for the last instance,
// not a whole one, because other instances' pods would fill it up.
//
// Where all instances may be down at once there is nothing to hold back, and no
// budget (nil): the first eviction would be allowed, and the rest follow freely.
func DisruptionBudget(owner Owner, instances, size, unavailable int) *policyac.PodDisruptionBudgetApplyConfiguration {
	if instances <= max(1, unavailable) {
		return nil
	}
	evictable := 1 + (max(1, unavailable)-1)*size
	// A minimum, since Kubernetes would take the scale of the MoEDeployment, which
	// counts instances, for the number of pods that a maximum refers to.
	least := max(0, instances*size-evictable)
	return policyac.PodDisruptionBudget(owner.Name, owner.Namespace).
		WithLabels(DeploymentLabels(owner.Name)).
		WithOwnerReferences(owner.reference()).
		WithSpec(policyac.PodDisruptionBudgetSpec().
			WithMinAvailable(intstr.FromInt(least)).
			WithUnhealthyPodEvictionPolicy(policyv1.AlwaysAllow).
			WithSelector(metav1ac.LabelSelector().WithMatchLabels(DeploymentLabels(owner.Name))))
}

// NetworkPolicy lets anyone ask the models of a namespace and read metrics, ranks
// reach each other, and the manager read leaders; nothing else may connect. What
// pods connect to is not restricted. It is one for all deployments of the
// namespace: what keeps their ranks apart is that each deployment trusts its own
// certificate authority only.
func NetworkPolicy(namespace string) *networkingac.NetworkPolicyApplyConfiguration {
	ranks := metav1ac.LabelSelector().WithMatchLabels(SharedLabels())
	peers := networkingac.NetworkPolicyPeer().WithPodSelector(ranks)
	manager := networkingac.NetworkPolicyPeer().
		WithNamespaceSelector(metav1ac.LabelSelector()).
		WithPodSelector(metav1ac.LabelSelector().WithMatchLabels(map[string]string{v1alpha1.LabelComponent: v1alpha1.ComponentManager}))
	return networkingac.NetworkPolicy(RanksName, namespace).
		WithLabels(SharedLabels()).
		WithSpec(networkingac.NetworkPolicySpec().
			WithPolicyTypes(networkingv1.PolicyTypeIngress).
			WithPodSelector(ranks).
			WithIngress(
				ingress(plan.ServingPort, plan.MetricsPort),
				ingress(plan.ControlPort, plan.DataPort).WithFrom(peers),
				ingress(plan.ControlPort).WithFrom(manager)))
}

func ingress(ports ...int32) *networkingac.NetworkPolicyIngressRuleApplyConfiguration {
	rule := networkingac.NetworkPolicyIngressRule()
	for _, p := range ports {
		rule.WithPorts(networkingac.NetworkPolicyPort().WithProtocol(corev1.ProtocolTCP).WithPort(intstr.FromInt32(p)))
	}
	return rule
}
