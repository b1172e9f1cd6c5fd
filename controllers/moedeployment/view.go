// SPDX-License-Identifier: Apache-2.0

package moedeployment

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	schedulingv1beta1 "k8s.io/api/scheduling/v1beta1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/findep/findep-operator/api/v1alpha1"
)

// view is what can be said about one instance in this pass.
type view struct {
	phase v1alpha1.InstancePhase
	// reason is the one of the Available condition, if this instance decides it.
	reason  string
	message string
	// size is the number of pods it needs, ready the number that are ready.
	size, ready int
	// unscheduled is the number of pods without a node, schedulerSays why.
	unscheduled   int
	schedulerSays string
	// blocked says that nothing moves until someone acts.
	blocked bool
}

// size is the number of pods of an instance. An instance at an old revision may
// have had another split; its own pods tell.
func (s *scope) size(i *instance) int {
	outdated, _ := s.age(i)
	if r := s.target(i); r != nil && r.Decision.Attention > 0 && !outdated {
		return r.Decision.Attention + r.Decision.Expert
	}
	size := 0
	for _, pod := range i.pods {
		size = max(size, rankOf(pod)+1)
	}
	return size
}

// serving says that all pods of an instance are ready, so that its leader
// answers requests.
func (s *scope) serving(i *instance) bool {
	n := 0
	for _, pod := range i.pods {
		if ready(pod) {
			n++
		}
	}
	return n > 0 && n == s.size(i)
}

// count counts pods by what they are doing, and returns how many are on their
// way out and the names of those that have ended.
func (v *view) count(pods []*corev1.Pod) (going int, over []string) {
	for _, pod := range pods {
		switch {
		case terminating(pod):
			going++
		case ended(pod):
			over = append(over, pod.Name)
		case ready(pod):
			v.ready++
		case !scheduled(pod):
			v.unscheduled++
		}
	}
	return going, over
}

// view describes how far an instance is. The first thing that holds it up on
// the way from nothing to serving is what is reported.
func (s *scope) view(i *instance) view {
	v := view{size: s.size(i)}
	pods := sorted(i.pods)
	going, over := v.count(pods)
	missing := max(0, v.size-len(pods))
	if v.unscheduled > 0 {
		v.schedulerSays = schedulerMessage(pods, i.groups)
	}
	switch {
	case !i.live():
		s.viewRemoved(&v)
	case s.serving(i):
		v.phase, v.reason = v1alpha1.InstanceServing, v1alpha1.ReasonServing
	case len(pods) == 0 && s.resolved != nil && !s.resolved.OK():
		v.phase, v.reason = v1alpha1.InstancePending, v1alpha1.ReasonInfeasible
		v.message = "No pods are made; the conditions say why."
	case len(pods) == 0:
		v.phase, v.reason = v1alpha1.InstanceStarting, v1alpha1.ReasonStarting
		v.message = fmt.Sprintf("Its %d pods are being made.", v.size)
	case i.remedy == giveUp, i.remedy == leave:
		s.viewFailed(i, pods, &v)
	case going > 0:
		v.phase, v.reason = v1alpha1.InstanceTerminating, v1alpha1.ReasonStarting
		v.message = fmt.Sprintf("Pods on their way out: %d of %d; their successors are made when they are gone.", going, v.size)
	case len(over) > 0:
		v.phase, v.reason = v1alpha1.InstanceTerminating, v1alpha1.ReasonStarting
		v.message = fmt.Sprintf("Pods have ended: %s. They are replaced after a pause that grows with every failure.", shortList(over))
	case missing > 0:
		v.phase, v.reason = v1alpha1.InstanceStarting, v1alpha1.ReasonStarting
		v.message = fmt.Sprintf("Pods missing and being made: %d of %d.", missing, v.size)
	case v.unscheduled > 0:
		s.viewPending(i, pods, &v)
	default:
		s.viewStarting(i, pods, &v)
	}
	return v
}

// viewFailed describes an instance that is not repaired any more.
func (s *scope) viewFailed(i *instance, pods []*corev1.Pod, v *view) {
	v.phase, v.blocked = v1alpha1.InstanceFailed, true
	p := recoveryOf(s.deployment.Spec.Recovery)
	if i.remedy == giveUp {
		v.reason = v1alpha1.ReasonRestartLimitReached
		v.message = fmt.Sprintf("It failed more often than recovery.maxRestarts (%d) allows without serving for %d minutes in between, and is given up. Its pods are kept for their logs. To try again, change the spec, raise recovery.maxRestarts or delete its pods.",
			p.maxRestarts, int(stableAfter.Minutes()))
	} else {
		v.reason = v1alpha1.ReasonRecoveryOff
		v.message = "It has lost pods, and recovery.policy is None. To have it made again, delete its pods."
	}
	why, _ := lastFailure(pods)
	if before := s.statusOf(i.index); why == "" && before != nil {
		why = before.LastFailure
	}
	if why != "" {
		v.message += " Last failure: " + why
	}
}

func (s *scope) viewPending(i *instance, pods []*corev1.Pod, v *view) {
	v.phase, v.reason = v1alpha1.InstancePending, v1alpha1.ReasonPending
	v.message = fmt.Sprintf("It needs %d pods with %s each; %s no node yet.", v.size, s.needs(i), have(v.unscheduled))
	if gates := gatesOf(pods); len(gates) > 0 {
		v.message += fmt.Sprintf(" They wait for somebody to lift the scheduling gate %s", strings.Join(gates, " and "))
		if queue := s.deployment.Spec.Placement.Queue; queue != "" && s.resolved.Decision.Backend == v1alpha1.BackendKueue {
			v.message += fmt.Sprintf(", as Kueue does when queue %s has room", queue)
		}
		v.message += "."
	}
	if v.schedulerSays != "" {
		v.blocked = true
		v.message += " The scheduler says: " + v.schedulerSays
	}
}

// have begins what is said of n pods.
func have(n int) string {
	if n == 1 {
		return "1 has"
	}
	return fmt.Sprintf("%d have", n)
}

// viewStarting describes an instance whose pods all have a node.
func (s *scope) viewStarting(i *instance, pods []*corev1.Pod, v *view) {
	var waiting []string
	for _, pod := range pods {
		if b := blocked(pod); b != nil {
			v.phase, v.reason, v.message, v.blocked = v1alpha1.InstanceFailing, b.reason, b.message, true
			return
		}
		if !started(pod) {
			waiting = append(waiting, pod.Name)
		}
	}
	if len(waiting) > 0 {
		v.phase, v.reason = v1alpha1.InstanceStarting, v1alpha1.ReasonStarting
		v.message = fmt.Sprintf("Containers are being started in %d of %d pods: %s.", len(waiting), v.size, shortList(waiting))
		return
	}
	v.phase, v.reason = v1alpha1.InstanceForming, v1alpha1.ReasonForming
	switch o := i.observation; {
	case o == nil && i.observeError != "":
		v.message = "All containers run; the leader does not answer yet."
	case s.vllm():
		v.message = fmt.Sprintf("All containers run, and vLLM loads the model or its ranks are finding each other; %d of %d pods are ready.", v.ready, v.size)
	case o == nil:
		v.message = "All containers run and are finding each other."
	case !o.Formed:
		v.message = "The leader " + waitsFor(s.missingRanks(i, v.size))
	default:
		v.message = fmt.Sprintf("All ranks have joined; %d of %d pods are ready.", v.ready, v.size)
	}
}

// started says that every container of a pod runs.
func started(pod *corev1.Pod) bool {
	statuses := containerStatuses(pod)
	for _, c := range statuses {
		if c.State.Running == nil {
			return false
		}
	}
	return len(statuses) > 0
}

// schedulerMessage is what the scheduler says about an instance that it cannot
// place: of its PodGroup, else of its first pod that says anything.
func schedulerMessage(pods []*corev1.Pod, groups map[string]*schedulingv1beta1.PodGroup) string {
	var said []string
	for _, name := range slices.Sorted(maps.Keys(groups)) {
		group := groups[name]
		c := meta.FindStatusCondition(group.Status.Conditions, schedulingv1beta1.PodGroupInitiallyScheduled)
		if c == nil || c.Status != metav1.ConditionFalse || c.Message == "" {
			continue
		}
		if text := tail(c.Message); !slices.Contains(said, text) {
			said = append(said, text)
		}
	}
	for _, pod := range pods {
		c := podCondition(pod, corev1.PodScheduled)
		if scheduled(pod) || c == nil || c.Status != corev1.ConditionFalse || c.Message == "" {
			continue
		}
		if text := tail(c.Message); !slices.ContainsFunc(said, func(s string) bool { return strings.Contains(s, text) }) {
			said = append(said, text)
		}
		break
	}
	return strings.Join(said, " ")
}

// shortList joins up to three names.
func shortList(names []string) string {
	const most = 3
	if len(names) <= most {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
}

// waitsFor continues a sentence about a leader whose instance has not formed.
func waitsFor(missing []int32) string {
	if len(missing) == 0 {
		return "has all ranks and measures how fast they are."
	}
	names := make([]string, 0, len(missing))
	for _, r := range missing {
		names = append(names, fmt.Sprint(r))
	}
	return fmt.Sprintf("waits for ranks %s.", strings.Join(names, ", "))
}
