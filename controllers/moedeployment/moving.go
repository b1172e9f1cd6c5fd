// SPDX-License-Identifier: Apache-2.0

package moedeployment

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/findep/findep-operator/api/v1alpha1"
	"github.com/findep/findep-operator/controllers/resolve"
)

// This file gathers the facts of moves and carries moves out.

const (
	// maxUnhealthy bounds the list in status, and with it the nodes that new pods
	// are kept off.
	maxUnhealthy = 64
	// unhealthyFor is how long a report counts whose pod is gone: by then somebody
	// has looked, and if not, the pod that is put there says so again.
	unhealthyFor = 24 * time.Hour
)

// deviceReport is what is said, now, about the GPU of a pod.
type deviceReport struct {
	uid, node string
	// known says that anything is said; failed is what, if the GPU failed.
	known  bool
	failed string
}

// recordDevices brings the list in status up to date. Reports of pods are kept,
// since what a pod says is gone with it, and the GPU is not: its successor would be
// put right there again. boot is the boot ID of a node, if it exists.
func recordDevices(before []v1alpha1.UnhealthyGPU, reports []deviceReport, boot func(node string) (id string, exists bool), now time.Time) []v1alpha1.UnhealthyGPU {
	byUID := map[string]v1alpha1.UnhealthyGPU{}
	for _, e := range before {
		if id, exists := boot(e.Node); exists && id == e.BootID && e.Since != nil && now.Sub(e.Since.Time) < unhealthyFor {
			byUID[e.UID] = e
		}
	}
	for _, r := range reports {
		id, exists := boot(r.node)
		_, listed := byUID[r.uid]
		switch {
		case r.failed != "" && exists && !listed:
			byUID[r.uid] = v1alpha1.UnhealthyGPU{
				UID: r.uid, Node: r.node, BootID: id, Message: r.failed, Since: ptr.To(metav1.NewTime(now.Truncate(timeResolution))),
			}
		case r.failed == "" && r.known:
			delete(byUID, r.uid)
		}
	}
	list := slices.SortedFunc(maps.Values(byUID), func(a, b v1alpha1.UnhealthyGPU) int {
		return cmp.Or(b.Since.Compare(a.Since.Time), cmp.Compare(a.UID, b.UID))
	})
	list = list[:min(maxUnhealthy, len(list))]
	slices.SortFunc(list, func(a, b v1alpha1.UnhealthyGPU) int {
		return cmp.Or(cmp.Compare(a.Node, b.Node), cmp.Compare(a.UID, b.UID))
	})
	return list
}

// unhealthyGPUs is recovery.unhealthyGPUs with the default filled in.
func (s *scope) unhealthyGPUs() v1alpha1.UnhealthyGPUPolicy {
	return cmp.Or(s.deployment.Spec.Recovery.UnhealthyGPUs, v1alpha1.UnhealthyGPUMoveWhenDown)
}

// considerDevices finds the pods whose GPUs are to be repaired.
func (s *scope) considerDevices() {
	boot := func(name string) (string, bool) {
		node, exists := s.nodes[name]
		if !exists {
			return "", false
		}
		return node.Status.NodeInfo.BootID, true
	}
	var reports []deviceReport
	for _, i := range s.instances {
		for _, pod := range i.pods {
			reports = append(reports, deviceReport{
				uid: string(pod.UID), node: pod.Spec.NodeName, known: deviceKnown(pod, i.observation), failed: deviceSignal(pod, i.observation).text,
			})
		}
	}
	s.unhealthy = nil
	if s.unhealthyGPUs() != v1alpha1.UnhealthyGPUReport {
		s.unhealthy = recordDevices(s.original.Status.UnhealthyGPUs, reports, boot, s.now)
	}
	for _, i := range s.instances {
		i.sick = map[string]signal{}
		for _, pod := range i.pods {
			if one := s.sickness(i, pod); one.sick && !terminating(pod) && !ended(pod) {
				i.sick[pod.Name] = one
			}
		}
	}
}

// sickness is the reason to move a pod, if there is one: its node's, its own, or
// what it said before.
func (s *scope) sickness(i *instance, pod *corev1.Pod) signal {
	for _, one := range []signal{s.nodeSignal(i, pod), deviceSignal(pod, i.observation)} {
		if one.sick {
			return one
		}
	}
	for _, e := range s.unhealthy {
		if e.UID == string(pod.UID) {
			return signal{node: e.Node, reason: v1alpha1.ReasonGPUUnhealthy, text: e.Message, sick: true}
		}
	}
	return signal{}
}

// considerMoves decides which instance leaves nodes. It comes after the leaders
// have been read, who tell of the ranks' GPUs.
func (s *scope) considerMoves() {
	if s.nodes == nil || s.resolved == nil {
		return
	}
	s.considerDevices()
	s.movesConsidered = true
	p := s.recoveryPolicy()
	facts := make([]moveFacts, len(s.instances))
	for n, i := range s.instances {
		facts[n] = s.moveFacts(i, p)
	}
	for n, m := range planMoves(facts, s.moveLimits(), s.now) {
		i := s.instances[n]
		i.move, i.leaves = m, facts[n].nodes
		s.requeue(m.wait)
		switch m.step {
		case announce:
			i.moving = &v1alpha1.MoveStatus{
				Since: ptr.To(metav1.NewTime(s.now.Truncate(timeResolution))), Nodes: i.leaves[:min(maxUnhealthy, len(i.leaves))], Message: i.sickTexts(),
			}
			i.history.count(s.now, p)
			s.requeue(conflictRetry)
		case depart:
			i.action = relocate
		}
		if !m.marked {
			i.moving = nil
		}
	}
}

func (s *scope) moveFacts(i *instance, p recoveryPolicy) moveFacts {
	f := moveFacts{index: i.index, serving: s.serving(i), pause: p.wait(i.history, s.now)}
	for _, one := range i.sick {
		f.nodes = append(f.nodes, one.node)
	}
	slices.Sort(f.nodes)
	f.nodes = slices.Compact(f.nodes)
	if i.moving != nil && i.wanted {
		f.moving = i.moving.Nodes
		if i.moving.Since != nil {
			f.since = i.moving.Since.Time
		}
	}
	outdated, _ := s.age(i)
	f.eligible = i.wanted && !outdated && s.surplus() == 0 && s.resolved.OK() && p.policy != v1alpha1.RecoveryNone
	f.exhausted = i.remedy == giveUp || !f.announced() && i.history.failures >= p.maxRestarts
	f.room = len(f.nodes) > 0 && s.room(i)
	return f
}

func (s *scope) moveLimits() moveLimits {
	limits := moveLimits{policy: s.unhealthyGPUs(), maxUnavailable: s.maxUnavailable(), down: -s.surgeServing()}
	for _, i := range s.instances {
		if i.wanted && (!s.serving(i) || i.action == recreate || i.action == restart) {
			limits.down++
		}
	}
	return limits
}

// room says whether other nodes could hold the pods that are to move. Pods of others
// than this deployment are not known, so a yes may be wrong; a no is not.
func (s *scope) room(i *instance) bool {
	needs := map[v1alpha1.Role]int64{}
	for name := range i.sick {
		needs[roleOf(i.pods[name])]++
	}
	taken, avoided := s.taken(), s.avoid()
	for role, need := range needs {
		for name, node := range s.nodes {
			if !slices.Contains(avoided, name) && s.mayRun(i, role, node) {
				need -= max(0, s.offered(i, role, node)-taken[name])
			}
		}
		if need > 0 {
			return false
		}
	}
	return true
}

// taken is the number of GPUs of each node that pods of this deployment keep.
func (s *scope) taken() map[string]int64 {
	taken := map[string]int64{}
	for _, i := range s.instances {
		for _, pod := range i.pods {
			if !terminating(pod) && !ended(pod) && s.group(i, roleOf(pod)).DeviceClaim == nil {
				taken[pod.Spec.NodeName]++
			}
		}
	}
	return taken
}

// offered is the number of GPUs that a node has for pods of a role. How many
// devices its drivers offer to claims is not read.
func (s *scope) offered(i *instance, role v1alpha1.Role, node *corev1.Node) int64 {
	if s.group(i, role).DeviceClaim != nil && nodeReady(node) && !node.Spec.Unschedulable {
		return math.MaxInt32
	}
	return gpusOffered(node)
}

func roleOf(pod *corev1.Pod) v1alpha1.Role { return v1alpha1.Role(pod.Labels[v1alpha1.LabelRole]) }

// group is the user's wishes for one role of an instance.
func (s *scope) group(i *instance, role v1alpha1.Role) *v1alpha1.GroupSpec {
	groups := &s.deployment.Spec.Groups
	if t := s.target(i); t != nil {
		groups = &t.Groups
	}
	if role == v1alpha1.RoleExpert {
		return &groups.Expert
	}
	return &groups.Attention
}

// mayRun says whether pods of a role are admitted by a node's labels.
func (s *scope) mayRun(i *instance, role v1alpha1.Role, node *corev1.Node) bool {
	hardware := s.target(i).Decision.Hardware[role]
	return resolve.Matches(s.group(i, role).NodeSelector, node.Labels) && resolve.Matches(hardware.NodeSelector, node.Labels) &&
		(len(hardware.Products) == 0 || slices.Contains(hardware.Products, node.Labels[resolve.ProductLabel]))
}

// avoid are the nodes that new pods keep off: those where a pod reported its GPU as
// failed, and those with a condition that says so. Others the scheduler keeps pods
// off by itself.
func (s *scope) avoid() []string {
	if s.nodes == nil || s.unhealthyGPUs() == v1alpha1.UnhealthyGPUReport {
		return nil
	}
	var reported, told []string
	for _, e := range s.unhealthy {
		reported = append(reported, e.Node)
	}
	for name, node := range s.nodes {
		if !node.Spec.Unschedulable && gpuCondition(node, true) != "" && !slices.Contains(reported, name) {
			told = append(told, name)
		}
	}
	slices.Sort(told)
	list := slices.Concat(slices.Compact(reported), told)
	list = list[:min(maxUnhealthy, len(list))]
	slices.Sort(list)
	return list
}

// sickTexts says what is wrong with the GPUs of an instance.
func (i *instance) sickTexts() string {
	var texts []string
	for _, name := range slices.Sorted(maps.Keys(i.sick)) {
		if text := i.sick[name].text; !slices.Contains(texts, text) {
			texts = append(texts, text)
		}
	}
	return strings.Join(texts[:min(maxSignals, len(texts))], " ")
}

// moveInstance deletes the pods on sick nodes, or all if the instance is recreated
// as a whole. Their successors are made when the names are free.
func (r *Reconciler) moveInstance(ctx context.Context, s *scope, i *instance) error {
	s.note(v1alpha1.ReasonRecovering, "Move", "Moving instance %d off %s. %s", i.index, nodeList(i.leaves), i.sickTexts())
	if s.recoveryPolicy().policy == v1alpha1.RecoveryRecreateInstance {
		return r.deletePods(ctx, i)
	}
	var errs []error
	for _, pod := range sorted(i.pods) {
		if _, sick := i.sick[pod.Name]; sick {
			errs = append(errs, r.delete(ctx, pod))
		}
	}
	return errors.Join(errs...)
}

// count counts a failure, unless it belongs to the last one.
func (h *history) count(now time.Time, p recoveryPolicy) {
	if h.failures == 0 || now.Sub(h.last) >= p.backoff {
		h.failures++
		h.last = now.Truncate(timeResolution)
	}
}

// nodeList names nodes in a sentence.
func nodeList(nodes []string) string {
	if len(nodes) == 1 {
		return "node " + nodes[0]
	}
	return fmt.Sprintf("nodes %s", shortList(nodes))
}
