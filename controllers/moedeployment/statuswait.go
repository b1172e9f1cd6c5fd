// SPDX-License-Identifier: Apache-2.0

package moedeployment

import (
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/findep/findep-operator/api/v1alpha1"
)

// This file decides when a status is written that tells of nothing but progress.
// The stages of a bring-up are many and soon over; written one by one they would
// be most of what the operator writes. That it serves, and whatever somebody may
// have to act on, is written at once.
//
// All times come from objects, so that a restart of the operator writes nothing
// twice: when pods were made, and when the API server says that the status was
// written last.

const (
	// progressDelay is how long after its last pod was made a deployment that comes
	// up as it should may be without a status that says so. Most serve by then, or
	// have a reason not to that is worth reading.
	progressDelay = 5 * time.Second
	// progressShare is the time that each deployment which does not serve yet adds to
	// that: at most five tell of mere progress in a second.
	progressShare = 200 * time.Millisecond
	// maxProgressDelay bounds how old the progress in a status may be.
	maxProgressDelay = time.Minute
	// turnDelay is the same for one that has no pods yet, because it waits for its
	// turn: nothing is wrong, and there is nothing to be seen.
	turnDelay = time.Minute
	// clockSkew is how far this clock may be behind that of the API server, which
	// gives whole seconds, without anybody noticing.
	clockSkew = time.Second
)

// progressDelayOf is progressDelay for a number of deployments that come up.
func progressDelayOf(comingUp int) time.Duration {
	return min(max(progressDelay, time.Duration(comingUp)*progressShare), maxProgressDelay)
}

// statusWait is how long a status that has changed can still wait: until the first
// delay after the last pod was made is over, and from then on as long again as that
// was ago, so that the distances grow: 5, 10, 20, 40 seconds and so on. It is 0 for
// whatever is more than progress.
func (s *scope) statusWait(comingUp int) time.Duration {
	if !s.onlyProgress() {
		return 0
	}
	begun, made := s.begun()
	delay := progressDelayOf(comingUp)
	written := s.lastWritten()
	due := begun.Add(delay)
	switch {
	case s.needsAttention():
		due = begun.Add(progressDelay)
	case !written.IsZero() && !written.Before(begun):
		due = written.Add(min(written.Sub(begun)+delay, maxProgressDelay))
	case !made:
		due = begun.Add(turnDelay)
	}
	if begun.Sub(s.now) > clockSkew || written.Sub(s.now) > clockSkew {
		// The clocks disagree, and nobody can tell for how long this would be.
		return 0
	}
	return max(0, due.Sub(s.now))
}

// onlyProgress says that a deployment which has not served yet is on its way, and
// nothing was done or has changed that must be on record.
func (s *scope) onlyProgress() bool {
	st := &s.original.Status
	fresh := len(st.Conditions) == 0
	// What became of an instance that was complete must not be forgotten where it
	// decides about its repair.
	return s.recoveryPolicy().policy == v1alpha1.RecoveryInPlace && s.undisturbed() && len(s.notes) == 0 && !s.newlyOverridden() &&
		(fresh || st.ObservedGeneration == s.deployment.Generation) &&
		!meta.IsStatusConditionTrue(st.Conditions, v1alpha1.ConditionAvailable) &&
		!meta.IsStatusConditionTrue(s.deployment.Status.Conditions, v1alpha1.ConditionAvailable)
}

// newlyOverridden says that the user insists on what was found not to fit, and the
// status does not say so yet.
func (s *scope) newlyOverridden() bool {
	before := meta.FindStatusCondition(s.original.Status.Conditions, v1alpha1.ConditionFeasible)
	after := meta.FindStatusCondition(s.deployment.Status.Conditions, v1alpha1.ConditionFeasible)
	return after != nil && after.Reason == v1alpha1.ReasonMemoryCheckOverridden && (before == nil || before.Reason != after.Reason)
}

// needsAttention says that a condition tells of something else than a stage on the
// way to serving, and did not before.
func (s *scope) needsAttention() bool {
	before := meta.FindStatusCondition(s.original.Status.Conditions, v1alpha1.ConditionNodesHealthy)
	after := meta.FindStatusCondition(s.deployment.Status.Conditions, v1alpha1.ConditionNodesHealthy)
	sick := after != nil && after.Status == metav1.ConditionFalse
	return len(s.news()) > 0 || sick && (before == nil || before.Reason != after.Reason)
}

// begun is when the last pod was made, and whether there are any. Without pods it
// is when the deployment was.
func (s *scope) begun() (at time.Time, made bool) {
	if s.madePods {
		return s.now, true
	}
	at = s.deployment.CreationTimestamp.Time
	for _, i := range s.instances {
		for _, pod := range i.pods {
			made = true
			if pod.CreationTimestamp.After(at) {
				at = pod.CreationTimestamp.Time
			}
		}
	}
	return at, made
}

// lastWritten is when the status was written last, as the API server records it
// with the owners of fields; zero if it never was.
func (s *scope) lastWritten() time.Time {
	var last time.Time
	for _, m := range s.original.ManagedFields {
		if m.Subresource == "status" && m.Time != nil && m.Time.After(last) {
			last = m.Time.Time
		}
	}
	return last
}

// slimDeployment keeps of who owns which field when the status was written.
func slimDeployment(o any) (any, error) {
	d, ok := o.(*v1alpha1.MoEDeployment)
	if !ok {
		return o, nil
	}
	var kept []metav1.ManagedFieldsEntry
	for _, m := range d.ManagedFields {
		if m.Subresource == "status" {
			m.FieldsV1 = nil
			kept = append(kept, m)
		}
	}
	d.ManagedFields = kept
	return d, nil
}

// undisturbed says that there are just the instances that are wanted, all of them
// are on their way, and nothing went wrong.
func (s *scope) undisturbed() bool {
	if s.resolved == nil || !s.resolved.OK() || len(s.failures) > 0 {
		return false
	}
	for _, i := range s.instances {
		if !i.wanted || s.old(i) || i.history.failures > 0 || len(i.sick) > 0 || i.moving != nil {
			return false
		}
		switch s.view(i).phase {
		case v1alpha1.InstanceServing, v1alpha1.InstanceStarting, v1alpha1.InstancePending, v1alpha1.InstanceForming:
		default:
			return false
		}
	}
	return true
}
