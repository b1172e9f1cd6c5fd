// SPDX-License-Identifier: Apache-2.0

package moedeployment

import (
	"context"
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/findep/findep-operator/api/v1alpha1"
	"github.com/findep/findep-operator/controllers/resolve"
)

// This file finds the deployments that a change of a node concerns. With a
// thousand nodes some node changes all the time, and a pass over each of hundreds
// of deployments for each of these changes would be most of the operator's work.

// podNode is the field by which pods are found by their node; the API server knows
// it as well as the cache.
const podNode = "spec.nodeName"

func nodeOf(o client.Object) []string {
	if pod, ok := o.(*corev1.Pod); ok && scheduled(pod) {
		return []string{pod.Spec.NodeName}
	}
	return nil
}

// nodeChange is what a change of a node may mean to deployments.
type nodeChange struct {
	name string
	// touches says that something else than before is to be told of the pods there.
	touches bool
	// offers says that it may take pods which it could not take before.
	offers bool
	// relabels says that GPUProfiles may match others than before.
	relabels bool
}

// changeOf compares a node before and after; nil is a node that does not exist. A
// heartbeat changes nothing.
func changeOf(was, is *corev1.Node) nodeChange {
	switch {
	case was == nil && is == nil:
		return nodeChange{}
	case was == nil:
		return nodeChange{name: is.Name, touches: true, offers: gpusOffered(is) > 0, relabels: true}
	case is == nil:
		return nodeChange{name: was.Name, touches: true, relabels: true}
	}
	relabels := !maps.Equal(was.Labels, is.Labels)
	before, after := gpusOffered(was), gpusOffered(is)
	return nodeChange{
		name: is.Name, relabels: relabels, offers: after > before || after > 0 && relabels,
		touches: relabels || signalOf("", was, nil) != signalOf("", is, nil) || was.Status.NodeInfo.BootID != is.Status.NodeInfo.BootID,
	}
}

func (c nodeChange) matters() bool { return c.touches || c.offers || c.relabels }

// concerns says whether a deployment needs a pass: it has pods there, waits for
// places, or would be planned with other profiles than those in its status. There
// the status is what the last pass saw, so that nodes which change together are
// not missed, whichever of them is told of first.
func (c nodeChange) concerns(d *v1alpha1.MoEDeployment, there bool, profile func(*v1alpha1.GroupSpec) string) bool {
	if c.touches && there || c.offers && waits(d) {
		return true
	}
	if !c.relabels {
		return false
	}
	groups := map[v1alpha1.Role]*v1alpha1.GroupSpec{
		v1alpha1.RoleAttention: &d.Spec.Groups.Attention, v1alpha1.RoleExpert: &d.Spec.Groups.Expert,
	}
	return slices.ContainsFunc(d.Status.Profiles, func(p v1alpha1.ProfileStatus) bool {
		group := groups[p.Role]
		return group != nil && group.ProfileRef == "" && profile(group) != p.Name
	})
}

// waits says that an instance has pods without a node, or may wait for another one
// than it has.
func waits(d *v1alpha1.MoEDeployment) bool {
	if c := meta.FindStatusCondition(d.Status.Conditions, v1alpha1.ConditionNodesHealthy); c != nil && c.Reason == v1alpha1.ReasonGPUUnhealthy {
		return true
	}
	return slices.ContainsFunc(d.Status.Instances, func(i v1alpha1.InstanceStatus) bool {
		return i.Phase == v1alpha1.InstancePending
	})
}

// nodeWatch brings about the passes. Every deployment has one when the manager
// starts, so the nodes that exist then bring about none.
func (r *Reconciler) nodeWatch() handler.EventHandler {
	node := func(o client.Object) *corev1.Node { n, _ := o.(*corev1.Node); return n }
	return handler.Funcs{
		CreateFunc: func(ctx context.Context, e event.CreateEvent, q queue) {
			if !e.IsInInitialList {
				r.wake(ctx, changeOf(nil, node(e.Object)), q)
			}
		},
		UpdateFunc: func(ctx context.Context, e event.UpdateEvent, q queue) {
			r.wake(ctx, changeOf(node(e.ObjectOld), node(e.ObjectNew)), q)
		},
		DeleteFunc: func(ctx context.Context, e event.DeleteEvent, q queue) {
			r.wake(ctx, changeOf(node(e.Object), nil), q)
		},
	}
}

// wake asks for a pass over each deployment that a change concerns. What cannot be
// read counts as concerned: a pass too many does no harm.
func (r *Reconciler) wake(ctx context.Context, c nodeChange, q queue) {
	if !c.matters() {
		return
	}
	there, err := r.deploymentsOn(ctx, c.name)
	var facts resolve.Facts
	if err == nil && c.relabels {
		err = r.factReader().Cluster(ctx, &facts)
	}
	names := map[string]string{}
	profile := func(group *v1alpha1.GroupSpec) string {
		key := fmt.Sprint(group.NodeSelector)
		if _, known := names[key]; !known {
			names[key] = resolve.ProfileName(group, facts)
		}
		return names[key]
	}
	var list v1alpha1.MoEDeploymentList
	if r.Client.List(ctx, &list, client.UnsafeDisableDeepCopy) != nil {
		return
	}
	for i := range list.Items {
		key := client.ObjectKeyFromObject(&list.Items[i])
		if err != nil || c.concerns(&list.Items[i], there[key], profile) {
			ordered{queue: q, priority: ptr.To(priorityOfKnown)}.Add(reconcile.Request{NamespacedName: key})
		}
	}
}

// deploymentsOn are those with pods on a node.
func (r *Reconciler) deploymentsOn(ctx context.Context, node string) (map[types.NamespacedName]bool, error) {
	var pods corev1.PodList
	if err := r.Client.List(ctx, &pods, client.MatchingFields{podNode: node}, client.UnsafeDisableDeepCopy); err != nil {
		return nil, err
	}
	on := map[types.NamespacedName]bool{}
	for i := range pods.Items {
		if name := pods.Items[i].Labels[v1alpha1.LabelDeployment]; name != "" {
			on[types.NamespacedName{Namespace: pods.Items[i].Namespace, Name: name}] = true
		}
	}
	return on, nil
}
