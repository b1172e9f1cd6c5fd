// SPDX-License-Identifier: Apache-2.0

package moedeployment

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/events"

	"github.com/findep/findep-operator/api/v1alpha1"
)

// note is an event about what was done.
type note struct{ kind, reason, action, text string }

// told are the conditions whose changes are worth an event.
var told = []string{
	v1alpha1.ConditionModelResolved, v1alpha1.ConditionFeasible, v1alpha1.ConditionScheduled,
	v1alpha1.ConditionAvailable, v1alpha1.ConditionPredictionAccurate, v1alpha1.ConditionSLOAttained,
	v1alpha1.ConditionFullyActedOn,
}

// maxEventNote is the limit of the API on the text of an event.
const maxEventNote = 1000

// recordEvents tells what was done and which conditions changed in this pass, as
// far as that is a change to what ran, or somebody may have to act on it. A
// deployment that comes up as it should has no events: each is a write.
func (s *scope) recordEvents(recorder events.EventRecorder) {
	if n, ok := s.rolledOut(); ok {
		s.notes = append(s.notes, n)
	}
	for _, n := range s.notes {
		recorder.Eventf(s.deployment, nil, n.kind, n.reason, n.action, "%s", clip(n.text))
	}
	for _, kind := range s.news() {
		after := meta.FindStatusCondition(s.deployment.Status.Conditions, kind)
		kindOfEvent := corev1.EventTypeNormal
		if after.Status == metav1.ConditionFalse {
			kindOfEvent = corev1.EventTypeWarning
		}
		recorder.Eventf(s.deployment, nil, kindOfEvent, after.Reason, kind, "%s", clip(after.Message))
	}
}

// news are the conditions that changed in a way that is worth an event.
func (s *scope) news() []string {
	var kinds []string
	for _, kind := range told {
		before := meta.FindStatusCondition(s.original.Status.Conditions, kind)
		after := meta.FindStatusCondition(s.deployment.Status.Conditions, kind)
		if after == nil || before != nil && before.Status == after.Status && before.Reason == after.Reason {
			continue
		}
		if !quiet(kind, after) && !s.expected(kind, before, after) {
			kinds = append(kinds, kind)
		}
	}
	return kinds
}

// quiet tells which changes say nothing that another event does not, or that
// are stages on the way to serving: the status has those.
func quiet(kind string, c *metav1.Condition) bool {
	if c.Status == metav1.ConditionUnknown || onTheWay(c.Reason) {
		return true
	}
	switch c.Reason {
	case v1alpha1.ReasonPodsNotCreated, v1alpha1.ReasonWaitingForScheduler, v1alpha1.ReasonAllFieldsActedOn:
		return true
	case v1alpha1.ReasonPending, v1alpha1.ReasonInfeasible, v1alpha1.ReasonGangNotServed:
		// Scheduled, Feasible or ModelResolved tell why.
		return kind == v1alpha1.ConditionAvailable
	}
	return false
}

// expected says that a condition is True as it should be, and no event has said
// otherwise before. That the model is served again after a failure is news.
func (s *scope) expected(kind string, before, after *metav1.Condition) bool {
	if after.Status != metav1.ConditionTrue || kind == v1alpha1.ConditionAvailable && s.hasFailed() {
		return false
	}
	return before == nil || before.Status != metav1.ConditionFalse || quiet(kind, before)
}

// hasFailed says that status tells of a failure of an instance.
func (s *scope) hasFailed() bool {
	return slices.ContainsFunc(s.original.Status.Instances, func(i v1alpha1.InstanceStatus) bool {
		return i.Failures > 0 || i.LastFailure != ""
	})
}

// rolledOut tells of the end of a rollout, when the last pods of an older
// revision are gone.
func (s *scope) rolledOut() (note, bool) {
	before := meta.FindStatusCondition(s.original.Status.Conditions, v1alpha1.ConditionProgressing)
	after := meta.FindStatusCondition(s.deployment.Status.Conditions, v1alpha1.ConditionProgressing)
	if before == nil || after == nil || before.Reason != v1alpha1.ReasonRollingOut ||
		after.Reason == v1alpha1.ReasonRollingOut || after.Reason == v1alpha1.ReasonPaused || len(s.failures) > 0 || !s.resolved.OK() {
		return note{}, false
	}
	return note{corev1.EventTypeNormal, v1alpha1.ReasonRollingOut, "RollOut", fmt.Sprintf(
		"All instances that are to be at revision %s are.", s.resolved.Revision)}, true
}

// onTheWay tells the normal stages on the way to serving from what needs
// attention.
func onTheWay(reason string) bool {
	return reason == v1alpha1.ReasonStarting || reason == v1alpha1.ReasonForming || reason == v1alpha1.ReasonDeleting
}

func clip(text string) string {
	if len(text) <= maxEventNote {
		return text
	}
	return text[:maxEventNote-3] + "..."
}
