// SPDX-License-Identifier: Apache-2.0

package moedeployment

import (
	"cmp"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/findep/findep-operator/api/v1alpha1"
)

// This file decides whether and when what failed is replaced. It is pure
// arithmetic over the pods and over the history in status.instances, so nothing
// is forgotten when the operator restarts.
//
// A failure is counted in status before anything is done about it: deleting the
// pod first would lose the count if the operator died in between.

// Bounds on recovery.
const (
	// defaultMaxRestarts applies when recovery.maxRestarts is not given.
	defaultMaxRestarts = 10
	// maxBackoff bounds the doubling of the pause, as the kubelet does.
	maxBackoff = 5 * time.Minute
	// stableAfter is how long an instance must serve for its failures to be
	// forgotten.
	stableAfter = 10 * time.Minute
)

// recoveryPolicy is spec.recovery with the defaults filled in.
type recoveryPolicy struct {
	policy      v1alpha1.RecoveryPolicy
	maxRestarts int32
	backoff     time.Duration
}

func recoveryOf(spec v1alpha1.RecoverySpec) recoveryPolicy {
	p := recoveryPolicy{policy: v1alpha1.RecoveryInPlace, maxRestarts: defaultMaxRestarts, backoff: defaultBackoff}
	if spec.Policy != "" {
		p.policy = spec.Policy
	}
	if spec.MaxRestarts > 0 {
		p.maxRestarts = spec.MaxRestarts
	}
	if spec.BackoffSeconds > 0 {
		p.backoff = time.Duration(spec.BackoffSeconds) * time.Second
	}
	return p
}

// recoveryPolicy is what holds for this deployment.
func (s *scope) recoveryPolicy() recoveryPolicy {
	p := recoveryOf(s.deployment.Spec.Recovery)
	if s.vllm() {
		p.policy = vllmRecovery(p.policy)
	}
	return p
}

// pause is how long to wait after the n-th failure: backoff * 2^(n-1), at most
// maxBackoff unless the user asks for more.
func (p recoveryPolicy) pause(n int32) time.Duration {
	limit, d := max(maxBackoff, p.backoff), p.backoff
	for ; n > 1 && d < limit; n-- {
		d *= 2
	}
	return min(d, limit)
}

// history is what is known of an instance's failures. It is what status holds,
// brought up to date with the pods of this pass.
type history struct {
	failures      int32
	last          time.Time
	completeSince time.Time
	counted       []v1alpha1.CountedFailures
	// fresh says that this pass counted a failure that status does not hold yet,
	// so that nothing may be done about it before it does.
	fresh bool
}

// recall brings the history in status up to date. Failures that become visible
// within the backoff of each other are one: a rank that is lost may take others
// with it.
func recall(before *v1alpha1.InstanceStatus, i *instance, size int, serving bool, now time.Time, p recoveryPolicy) history {
	var h history
	if before != nil && !forgets(before, i, p) {
		h.failures = before.Failures
		if before.LastFailureTime != nil {
			h.last = before.LastFailureTime.Time
		}
		if before.CompleteSince != nil {
			h.completeSince = before.CompleteSince.Time
		}
	}
	var known []v1alpha1.CountedFailures
	if before != nil {
		known = before.Counted
	}
	for _, pod := range sorted(i.pods) {
		n := podFailures(pod)
		if n == 0 {
			continue
		}
		uid := string(pod.UID)
		h.counted = append(h.counted, v1alpha1.CountedFailures{UID: uid, Failures: n})
		h.fresh = h.fresh || n > countOf(known, uid)
	}
	slices.SortFunc(h.counted, func(a, b v1alpha1.CountedFailures) int { return cmp.Compare(a.UID, b.UID) })
	if h.fresh {
		h.count(now, p)
	}
	h.settle(i, size, serving, now)
	return h
}

// settle forgets failures after a stable service, and notices that an instance
// is complete or gone.
func (h *history) settle(i *instance, size int, serving bool, now time.Time) {
	if serving && h.failures > 0 && now.Sub(h.last) >= stableAfter && now.Sub(readySince(i)) >= stableAfter {
		h.failures, h.last = 0, time.Time{}
	}
	switch {
	case len(i.pods) == 0:
		h.completeSince = time.Time{}
	case h.completeSince.IsZero() && size > 0 && len(i.pods) == size:
		h.completeSince = now.Truncate(timeResolution)
	}
}

// forgets says that somebody acted on an instance, so that its history no longer
// counts: its pods are of another revision, or it was given up and all its pods
// were deleted.
func forgets(before *v1alpha1.InstanceStatus, i *instance, p recoveryPolicy) bool {
	if len(i.pods) == 0 {
		return before.Failures > p.maxRestarts
	}
	for _, pod := range i.pods {
		if before.Revision != "" && revisionOf(pod) != before.Revision {
			return true
		}
	}
	return false
}

// podFailures is the number of failures of one pod that are visible.
func podFailures(pod *corev1.Pod) int32 {
	var n int32
	for _, c := range containerStatuses(pod) {
		n += c.RestartCount
	}
	if pod.Status.Phase == corev1.PodFailed {
		n++
	}
	return n
}

func countOf(known []v1alpha1.CountedFailures, uid string) int32 {
	for _, k := range known {
		if k.UID == uid {
			return k.Failures
		}
	}
	return 0
}

// readySince is when the last pod of an instance became ready.
func readySince(i *instance) time.Time {
	var latest time.Time
	for _, pod := range i.pods {
		if c := podCondition(pod, corev1.PodReady); c != nil && c.LastTransitionTime.After(latest) {
			latest = c.LastTransitionTime.Time
		}
	}
	return latest
}

// remedy is what recovery says about an instance at the current revision.
type remedy int

const (
	// mend makes missing pods and replaces ended ones.
	mend remedy = iota
	// await does nothing until the pause is over.
	await
	// startOver deletes all pods of the instance.
	startOver
	// giveUp does nothing any more: the restarts are used up.
	giveUp
	// leave does nothing since the user wants it so.
	leave
)

// decide says what to do with an instance and, for await, how long.
func (p recoveryPolicy) decide(h history, i *instance, size int, serving bool, now time.Time) (remedy, time.Duration) {
	lost := hurt(h, i, size)
	switch {
	case serving || !lost && h.failures == 0:
		return mend, 0
	case h.failures > p.maxRestarts:
		return giveUp, 0
	case p.policy == v1alpha1.RecoveryNone && lost:
		return leave, 0
	case h.fresh:
		// It is done in the pass that the written status brings about.
		return await, conflictRetry
	case p.policy == v1alpha1.RecoveryRecreateInstance && (lost || h.failures > 0 && len(h.counted) > 0):
		if wait := p.wait(h, now); wait > 0 {
			return await, wait
		}
		return startOver, 0
	}
	return mend, 0
}

// wait is what is left of the pause after the last failure. The first failure
// of an instance that lived long is mended at once.
func (p recoveryPolicy) wait(h history, now time.Time) time.Duration {
	if h.failures == 0 || h.failures == 1 && !h.completeSince.IsZero() && h.last.Sub(h.completeSince) >= shortLife {
		return 0
	}
	return max(0, h.last.Add(p.pause(h.failures)).Sub(now))
}

// hurt says that an instance which was complete has lost a pod, or has one that
// will never run again.
func hurt(h history, i *instance, size int) bool {
	if h.completeSince.IsZero() || len(i.pods) == 0 {
		return false
	}
	if len(i.pods) < size {
		return true
	}
	for _, pod := range i.pods {
		if terminating(pod) || ended(pod) {
			return true
		}
	}
	return false
}

// statusOf returns what status held about an instance when this pass began.
func (s *scope) statusOf(index int32) *v1alpha1.InstanceStatus {
	for n := range s.original.Status.Instances {
		if s.original.Status.Instances[n].Index == index {
			return &s.original.Status.Instances[n]
		}
	}
	return nil
}

// considerRecovery sets history and remedy of every instance.
func (s *scope) considerRecovery() {
	p := s.recoveryPolicy()
	for _, i := range s.instances {
		size, serving := s.size(i), s.serving(i)
		i.history = recall(s.statusOf(i.index), i, size, serving, s.now, p)
		var wait time.Duration
		i.remedy, wait = p.decide(i.history, i, size, serving, s.now)
		s.requeue(wait)
	}
}

// writeTo puts the history into status.
func (h history) writeTo(out *v1alpha1.InstanceStatus) {
	out.Failures, out.Counted = h.failures, h.counted
	if !h.last.IsZero() {
		out.LastFailureTime = ptr.To(metav1.NewTime(h.last))
	}
	if !h.completeSince.IsZero() {
		out.CompleteSince = ptr.To(metav1.NewTime(h.completeSince))
	}
}
