// SPDX-License-Identifier: Apache-2.0

package moedeployment

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/findep/findep-operator/api/v1alpha1"
	"github.com/findep/findep-operator/runtime/plan"
)

// maxSignals bounds how many signals the condition tells of.
const maxSignals = 3

// signals of nodes, the worst first: the order in which the condition tells them.
var signals = []string{
	v1alpha1.ReasonNodeGone, v1alpha1.ReasonNodeOutOfService, v1alpha1.ReasonNodeNotReady,
	v1alpha1.ReasonGPUUnhealthy, v1alpha1.ReasonNodeCordoned,
}

// signal is something about a node that concerns the pods on it.
type signal struct {
	node, reason, text string
	// sick says that a GPU is to be repaired, so that instances are moved off it.
	sick bool
}

// signalOf is what a node says about itself to pods with the given tolerations;
// nil is a node that does not exist. The reason is empty if it is well.
func signalOf(name string, node *corev1.Node, tolerations []corev1.Toleration) signal {
	says := func(reason, format string, args ...any) signal {
		return signal{node: name, reason: reason, text: fmt.Sprintf("Node %s "+format, append([]any{name}, args...)...)}
	}
	if node != nil && nodeReady(node) {
		switch text, sick := gpuSignal(node, tolerations); {
		case sick:
			s := says(v1alpha1.ReasonGPUUnhealthy, "says of its GPUs: %s.", text)
			s.sick = true
			return s
		case text != "":
			return says(v1alpha1.ReasonGPUUnhealthy, "says of its GPUs: %s. That alone moves nothing; to have instances moved, taint it %s:NoSchedule.", text, v1alpha1.TaintGPUUnhealthy)
		}
	}
	switch {
	case node == nil:
		return says(v1alpha1.ReasonNodeGone, "does not exist any more: its pods are removed, and made again on other nodes.")
	case outOfService(node):
		return says(v1alpha1.ReasonNodeOutOfService, "is out of service: its pods are removed, and made again on other nodes.")
	case !nodeReady(node):
		return says(v1alpha1.ReasonNodeNotReady, "is not ready: Kubernetes evicts its pods when their toleration ends. A pod that nobody can confirm to have ended keeps its name, and its replacement waits for that; if the machine is off for good, delete the Node or taint it %s=nodeshutdown:NoExecute.", corev1.TaintNodeOutOfService)
	case node.Spec.Unschedulable:
		return says(v1alpha1.ReasonNodeCordoned, "is cordoned: what runs there goes on serving, and what is made again goes to other nodes.")
	}
	return signal{}
}

// nodeReady says that no condition says otherwise.
func nodeReady(node *corev1.Node) bool {
	for _, c := range node.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return true
}

// outOfService says that somebody vouches for nothing running on a node, as
// Kubernetes' own garbage collection of pods understands it: the taint alone does
// not count while the kubelet still answers.
func outOfService(node *corev1.Node) bool {
	return !nodeReady(node) && slices.ContainsFunc(node.Spec.Taints, func(t corev1.Taint) bool {
		return t.Key == corev1.TaintNodeOutOfService
	})
}

// deviceSignal is what the device plugin, or the pod's own sidecar through the
// leader, says about the device of a pod.
func deviceSignal(pod *corev1.Pod, o *plan.Observation) signal {
	says := func(what string) signal {
		return signal{node: pod.Spec.NodeName, reason: v1alpha1.ReasonGPUUnhealthy, sick: true, text: fmt.Sprintf(
			"The GPU of pod %s on node %s: %s.", pod.Name, pod.Spec.NodeName, strings.TrimSuffix(tail(what), "."))}
	}
	for _, c := range containerStatuses(pod) {
		for _, r := range c.AllocatedResourcesStatus {
			for _, device := range r.Resources {
				if device.Health == corev1.ResourceHealthStatusUnhealthy {
					return says(fmt.Sprintf("its device plugin reports %s as unhealthy", device.ResourceID))
				}
			}
		}
	}
	if o != nil {
		for _, rank := range o.Ranks {
			if rank.Rank == rankOf(pod) && rank.Device != nil && rank.Device.State == plan.DeviceFailed {
				return says(strings.TrimSpace(rank.Device.Reason + " " + rank.Device.Message))
			}
		}
	}
	return signal{}
}

// nodesHealthy tells of everything about nodes that concerns a pod.
func (s *scope) nodesHealthy() verdict {
	var found []signal
	for _, i := range s.instances {
		for _, pod := range sorted(i.pods) {
			for _, one := range []signal{s.nodeSignal(i, pod), deviceSignal(pod, i.observation), i.sick[pod.Name]} {
				if one.reason != "" && !slices.Contains(found, one) {
					found = append(found, one)
				}
			}
		}
	}
	if len(found) == 0 {
		return yes(v1alpha1.ReasonNodesWell, "Nothing is known against the nodes of the pods.")
	}
	slices.SortStableFunc(found, func(a, b signal) int {
		return cmp.Or(cmp.Compare(slices.Index(signals, a.reason), slices.Index(signals, b.reason)), cmp.Compare(a.text, b.text))
	})
	var texts []string
	for _, one := range found[:min(maxSignals, len(found))] {
		texts = append(texts, one.text)
	}
	if more := len(found) - len(texts); more > 0 {
		texts = append(texts, fmt.Sprintf("And %d more.", more))
	}
	texts = append(texts, s.moveTexts()...)
	return no(found[0].reason, strings.Join(texts, " "))
}

// moveTexts says of instances on sick nodes what is done about it.
func (s *scope) moveTexts() []string {
	var texts []string
	for _, i := range s.instances {
		if len(i.leaves) > 0 && len(texts) < maxSignals {
			texts = append(texts, i.move.says(i.index, i.leaves))
		}
	}
	return texts
}

// nodeSignal is what the node of a pod says to it.
func (s *scope) nodeSignal(i *instance, pod *corev1.Pod) signal {
	if !scheduled(pod) {
		return signal{}
	}
	return signalOf(pod.Spec.NodeName, s.nodes[pod.Spec.NodeName], s.group(i, roleOf(pod)).Tolerations)
}

// deviceKnown says that the device plugin or the sidecar says anything about the
// device of a pod.
func deviceKnown(pod *corev1.Pod, o *plan.Observation) bool {
	if o != nil {
		for _, rank := range o.Ranks {
			if rank.Rank == rankOf(pod) && rank.Device != nil {
				return true
			}
		}
	}
	for _, c := range containerStatuses(pod) {
		for _, r := range c.AllocatedResourcesStatus {
			if len(r.Resources) > 0 {
				return true
			}
		}
	}
	return false
}

// releaseLostPods removes the pods of nodes that do not exist any more or are out
// of service. Their kubelet will never confirm their end, and until they are gone
// their names are taken. Nothing is removed from a node that merely does not
// answer: what runs there may still run.
func (r *Reconciler) releaseLostPods(ctx context.Context, s *scope) error {
	if !r.ClusterReads {
		return nil
	}
	var errs []error
	for _, i := range s.instances {
		for _, pod := range sorted(i.pods) {
			switch s.nodeSignal(i, pod).reason {
			case v1alpha1.ReasonNodeGone:
				// The cache may not know a new node yet.
				err := r.Reader.Get(ctx, types.NamespacedName{Name: pod.Spec.NodeName}, &corev1.Node{})
				if !apierrors.IsNotFound(err) {
					errs = append(errs, err)
					continue
				}
			case v1alpha1.ReasonNodeOutOfService:
			default:
				continue
			}
			s.note(v1alpha1.ReasonRecovering, "Release", "Removing pod %s, whose node %s is gone", pod.Name, pod.Spec.NodeName)
			err := r.Client.Delete(ctx, pod, client.Preconditions{UID: ptr.To(pod.UID)}, client.GracePeriodSeconds(0))
			errs = append(errs, client.IgnoreNotFound(err))
		}
	}
	return errors.Join(errs...)
}
