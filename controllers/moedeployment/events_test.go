// SPDX-License-Identifier: Apache-2.0

package moedeployment

import (
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/events"

	"github.com/findep/findep-operator/api/v1alpha1"
	"github.com/findep/findep-operator/controllers/resolve"
)

// TestEventsTellWhatMatters: an event is a write, so a deployment that comes up
// as it should tells of little, and one that does not tells of all of it.
func TestEventsTellWhatMatters(t *testing.T) {
	state := func(kind string, status metav1.ConditionStatus, reason string) []metav1.Condition {
		return []metav1.Condition{{Type: kind, Status: status, Reason: reason, Message: "m"}}
	}
	const (
		yes = metav1.ConditionTrue
		no  = metav1.ConditionFalse
	)
	cases := map[string]struct {
		before, after []metav1.Condition
		want          string
	}{
		"the model is found":     {nil, state(v1alpha1.ConditionModelResolved, yes, v1alpha1.ReasonResolved), ""},
		"the model is not found": {nil, state(v1alpha1.ConditionModelResolved, no, v1alpha1.ReasonUnknownModel), "Warning UnknownModel"},
		"the model is found after all": {
			state(v1alpha1.ConditionModelResolved, no, v1alpha1.ReasonUnknownModel),
			state(v1alpha1.ConditionModelResolved, yes, v1alpha1.ReasonResolved), "Normal Resolved"},
		"all pods are placed": {
			state(v1alpha1.ConditionScheduled, no, v1alpha1.ReasonWaitingForScheduler),
			state(v1alpha1.ConditionScheduled, yes, v1alpha1.ReasonAllPodsScheduled), ""},
		"pods find no place": {
			state(v1alpha1.ConditionScheduled, no, v1alpha1.ReasonWaitingForScheduler),
			state(v1alpha1.ConditionScheduled, no, v1alpha1.ReasonUnschedulable), "Warning Unschedulable"},
		"pods find a place after all": {
			state(v1alpha1.ConditionScheduled, no, v1alpha1.ReasonUnschedulable),
			state(v1alpha1.ConditionScheduled, yes, v1alpha1.ReasonAllPodsScheduled), "Normal AllPodsScheduled"},
		"containers start": {nil, state(v1alpha1.ConditionAvailable, no, v1alpha1.ReasonStarting), ""},
		"it serves": {
			state(v1alpha1.ConditionAvailable, no, v1alpha1.ReasonForming),
			state(v1alpha1.ConditionAvailable, yes, v1alpha1.ReasonServing), ""},
		"it serves at once": {nil, state(v1alpha1.ConditionAvailable, yes, v1alpha1.ReasonServing), ""},
		"it serves after what was a warning": {
			state(v1alpha1.ConditionAvailable, no, v1alpha1.ReasonContainerFailing),
			state(v1alpha1.ConditionAvailable, yes, v1alpha1.ReasonServing), "Normal Serving"},
		"a rollout ends": {
			state(v1alpha1.ConditionProgressing, yes, v1alpha1.ReasonRollingOut),
			state(v1alpha1.ConditionProgressing, yes, v1alpha1.ReasonCreating), "Normal RollingOut"},
		"a rollout is held": {
			state(v1alpha1.ConditionProgressing, yes, v1alpha1.ReasonRollingOut),
			state(v1alpha1.ConditionProgressing, no, v1alpha1.ReasonPaused), ""},
		"it fails": {
			state(v1alpha1.ConditionAvailable, yes, v1alpha1.ReasonServing),
			state(v1alpha1.ConditionAvailable, no, v1alpha1.ReasonContainerFailing), "Warning ContainerFailing"},
		"only the message changes": {
			state(v1alpha1.ConditionAvailable, no, v1alpha1.ReasonContainerFailing),
			state(v1alpha1.ConditionAvailable, no, v1alpha1.ReasonContainerFailing), ""},
		"objectives are met": {nil, state(v1alpha1.ConditionSLOAttained, yes, v1alpha1.ReasonAttained), ""},
		"objectives are missed": {
			state(v1alpha1.ConditionSLOAttained, yes, v1alpha1.ReasonAttained),
			state(v1alpha1.ConditionSLOAttained, no, v1alpha1.ReasonTimeToFirstTokenExceeded), "Warning TimeToFirstTokenExceeded"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			s := &scope{original: &v1alpha1.MoEDeployment{}, deployment: &v1alpha1.MoEDeployment{}}
			s.resolved = &resolve.Result{Model: resolve.Finding{OK: true}, Feasible: resolve.Finding{OK: true}}
			s.original.Status.Conditions, s.deployment.Status.Conditions = tc.before, tc.after
			recorder := events.NewFakeRecorder(10)
			s.recordEvents(recorder)
			got := ""
			if len(recorder.Events) > 0 {
				got = <-recorder.Events
			}
			if !strings.HasPrefix(got, tc.want) || tc.want == "" && got != "" {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}

// TestServingAgainIsNews: the stages in between are no news, the end is.
func TestServingAgainIsNews(t *testing.T) {
	at := func(status metav1.ConditionStatus, reason string) v1alpha1.MoEDeploymentStatus {
		return v1alpha1.MoEDeploymentStatus{Conditions: []metav1.Condition{{Type: v1alpha1.ConditionAvailable, Status: status, Reason: reason}}}
	}
	s := &scope{
		original:   &v1alpha1.MoEDeployment{Status: at(metav1.ConditionFalse, v1alpha1.ReasonStarting)},
		deployment: &v1alpha1.MoEDeployment{Status: at(metav1.ConditionTrue, v1alpha1.ReasonServing)},
	}
	s.original.Status.Instances = []v1alpha1.InstanceStatus{{Failures: 1}}
	recorder := events.NewFakeRecorder(10)
	s.recordEvents(recorder)
	if len(recorder.Events) != 1 {
		t.Fatalf("got %d events, want 1", len(recorder.Events))
	}
	if got := <-recorder.Events; !strings.HasPrefix(got, "Normal Serving") {
		t.Errorf("got %q", got)
	}
}
