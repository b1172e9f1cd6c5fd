// SPDX-License-Identifier: Apache-2.0

package moedeployment

import (
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

// recordEvents tells what was done and which conditions changed in this pass.
func (s *scope) recordEvents(recorder events.EventRecorder) {
	for _, n := range s.notes {
		recorder.Eventf(s.deployment, nil, n.kind, n.reason, n.action, "%s", clip(n.text))
	}
	for _, kind := range told {
		before := meta.FindStatusCondition(s.original.Status.Conditions, kind)
		after := meta.FindStatusCondition(s.deployment.Status.Conditions, kind)
		if after == nil || before != nil && before.Status == after.Status && before.Reason == after.Reason {
			continue
		}
		kindOfEvent := corev1.EventTypeNormal
		if after.Status == metav1.ConditionFalse && bad(kind, after.Reason) {
			kindOfEvent = corev1.EventTypeWarning
		}
		if after.Status != metav1.ConditionUnknown {
			recorder.Eventf(s.deployment, nil, kindOfEvent, after.Reason, kind, "%s", clip(after.Message))
		}
	}
}

// bad tells what needs attention from the normal stages on the way to serving.
func bad(kind, reason string) bool {
	switch reason {
	case v1alpha1.ReasonStarting, v1alpha1.ReasonForming, v1alpha1.ReasonDeleting,
		v1alpha1.ReasonPodsNotCreated, v1alpha1.ReasonWaitingForScheduler:
		return false
	case v1alpha1.ReasonPending:
		// Scheduled=False/Unschedulable is the warning.
		return kind != v1alpha1.ConditionAvailable
	}
	return true
}

func clip(text string) string {
	if len(text) <= maxEventNote {
		return text
	}
	return text[:maxEventNote-3] + "..."
}
