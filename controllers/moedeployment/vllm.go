// SPDX-License-Identifier: Apache-2.0

package moedeployment

import (
	"context"
	"fmt"

	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/findep/findep-operator/api/v1alpha1"
	"github.com/findep/findep-operator/controllers/render"
	"github.com/findep/findep-operator/runtime/plan"
)

// This file is what is different about deployments whose pods run vLLM: it
// forms, schedules and measures itself, and has nothing that the operator could
// read beyond the health of its pods.

// vllm says that the pods run vLLM. The engine of a deployment never changes.
func (s *scope) vllm() bool { return s.deployment.Spec.Engine == v1alpha1.EngineVLLMAFD }

// reconcileEngine lets the ranks of vLLM reach each other. The policy is one of
// its own, beside that of every deployment, and is read by name: only these
// deployments have it.
func (r *Reconciler) reconcileEngine(ctx context.Context, s *scope) error {
	if !s.vllm() {
		return nil
	}
	wanted := render.VLLMNetworkPolicy(s.owner)
	var existing client.Object
	var policy networkingv1.NetworkPolicy
	err := r.Client.Get(ctx, types.NamespacedName{Namespace: s.owner.Namespace, Name: *wanted.Name}, &policy)
	switch {
	case err == nil:
		existing = &policy
	case client.IgnoreNotFound(err) != nil:
		return err
	}
	return r.protect(ctx, s, r.NetworkPolicies, wanted, existing)
}

// vllmRecovery is the policy for vLLM: its ranks cannot form again without a
// restart, so that a lost one costs the instance.
func vllmRecovery(p v1alpha1.RecoveryPolicy) v1alpha1.RecoveryPolicy {
	if p == v1alpha1.RecoveryNone {
		return p
	}
	return v1alpha1.RecoveryRecreateInstance
}

// vllmRendezvous answers for the ranks as far as pods tell: the first rank of a
// role is ready only when the instance has formed.
func (s *scope) vllmRendezvous(views []instanceView) verdict {
	for _, v := range views {
		if v.phase != v1alpha1.InstanceServing {
			return unknown(v1alpha1.ReasonEngineFormsItself, fmt.Sprintf(
				"The ranks of vLLM find each other by themselves, and the operator cannot look inside. Instance %d does not answer /health yet; the log of its pod eg-0 says which rank is missing.", v.index))
		}
	}
	return yes(v1alpha1.ReasonEngineFormsItself, "vLLM answers /health in every instance, which it does once all ranks have found each other.")
}

// vllmMeasures is the answer to questions about durations.
func (s *scope) vllmMeasures(what string) verdict {
	return unknown(v1alpha1.ReasonEngineFormsItself, fmt.Sprintf(
		"%s: vLLM measures itself, at /metrics of the pod of rank 0 (port %d); plans, traces and debug endpoints of FinDEP do not exist with this engine.", what, plan.ServingPort))
}
