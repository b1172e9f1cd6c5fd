// SPDX-License-Identifier: Apache-2.0

package moedeployment

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/findep/findep-operator/api/v1alpha1"
	"github.com/findep/findep-operator/controllers/resolve"
)

func TestStatusOfMereProgressWaits(t *testing.T) {
	created := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	at := func(age time.Duration) time.Time { return created.Add(age) }
	podAt := func(age time.Duration) func(*scope) { return func(s *scope) { s.pod(at(age)) } }
	// told gives it a pod that was made at once, and a status of the given age that
	// says so.
	told := func(age time.Duration) func(*scope) {
		return func(s *scope) {
			s.pod(created)
			s.original.Status.Conditions = []metav1.Condition{{Type: v1alpha1.ConditionAvailable, Status: metav1.ConditionFalse}}
			s.original.ManagedFields = []metav1.ManagedFieldsEntry{
				{Manager: "somebody", Time: ptr.To(metav1.NewTime(at(time.Hour)))},
				{Manager: "manager", Subresource: "status", Time: ptr.To(metav1.NewTime(at(age)))},
			}
		}
	}
	also := func(changes ...func(*scope)) func(*scope) {
		return func(s *scope) {
			for _, change := range changes {
				change(s)
			}
		}
	}
	condition := func(kind string, status metav1.ConditionStatus, reason string) func(*scope) {
		return func(s *scope) {
			meta.SetStatusCondition(&s.deployment.Status.Conditions, metav1.Condition{Type: kind, Status: status, Reason: reason})
		}
	}
	cases := map[string]struct {
		now      time.Duration // since the deployment was created
		comingUp int
		change   func(*scope)
		want     time.Duration
	}{
		"pods were made":                {0, 1, podAt(0), 5 * time.Second},
		"pods are made in this pass":    {time.Hour, 1, func(s *scope) { s.madePods = true }, 5 * time.Second},
		"pods were made a while ago":    {7 * time.Second, 1, podAt(4 * time.Second), 2 * time.Second},
		"pods were made five s ago":     {5 * time.Second, 1, podAt(0), 0},
		"pods were made long ago":       {time.Hour, 1, podAt(0), 0},
		"a clock a little behind":       {-time.Second, 1, podAt(0), 6 * time.Second},
		"a clock far behind":            {-time.Minute, 1, podAt(0), 0},
		"its turn has not come":         {2 * time.Second, 1, nil, 58 * time.Second},
		"its turn is long in coming":    {time.Minute, 1, nil, 0},
		"many come up":                  {0, 100, podAt(0), 20 * time.Second},
		"very many come up":             {0, 10_000, podAt(0), time.Minute},
		"told after 5 s, 10 more":       {6 * time.Second, 1, told(5 * time.Second), 9 * time.Second},
		"told after 15 s, 20 more":      {16 * time.Second, 1, told(15 * time.Second), 19 * time.Second},
		"told after 35 s, 40 more":      {36 * time.Second, 1, told(35 * time.Second), 39 * time.Second},
		"told after an hour, a minute":  {time.Hour, 1, told(time.Hour), time.Minute},
		"told, and it is time again":    {15 * time.Second, 1, told(5 * time.Second), 0},
		"told in the future":            {time.Minute, 1, told(time.Hour), 0},
		"told of its turn, then begun":  {61 * time.Second, 1, also(told(10*time.Second), podAt(time.Minute)), 4 * time.Second},
		"told of another generation":    {6 * time.Second, 1, also(told(5*time.Second), func(s *scope) { s.deployment.Generation++ }), 0},
		"it serves":                     {0, 1, also(podAt(0), condition(v1alpha1.ConditionAvailable, metav1.ConditionTrue, v1alpha1.ReasonServing)), 0},
		"it served":                     {0, 1, also(told(0), func(s *scope) { s.original.Status.Conditions[0].Status = metav1.ConditionTrue }), 0},
		"no place, when many come up":   {3 * time.Second, 1000, also(podAt(0), condition(v1alpha1.ConditionScheduled, metav1.ConditionFalse, v1alpha1.ReasonUnschedulable)), 2 * time.Second},
		"no place, after it was told":   {6 * time.Second, 1, also(told(5*time.Second), condition(v1alpha1.ConditionScheduled, metav1.ConditionFalse, v1alpha1.ReasonUnschedulable)), 0},
		"waits for the scheduler still": {6 * time.Second, 1, also(told(5*time.Second), condition(v1alpha1.ConditionScheduled, metav1.ConditionFalse, v1alpha1.ReasonWaitingForScheduler)), 9 * time.Second},
		"a node is not well":            {6 * time.Second, 1, also(told(5*time.Second), condition(v1alpha1.ConditionNodesHealthy, metav1.ConditionFalse, v1alpha1.ReasonNodeNotReady)), 0},
		"something was done":            {0, 1, func(s *scope) { s.note("R", "a", "text") }, 0},
		"an instance is to go":          {0, 1, func(s *scope) { s.byIndex(1) }, 0},
		"a phase failed":                {0, 1, func(s *scope) { s.failures = []string{"quota"} }, 0},
		"the model does not fit":        {0, 1, func(s *scope) { s.resolved.Feasible.OK = false }, 0},
		"nothing was resolved":          {0, 1, func(s *scope) { s.resolved = nil }, 0},
		"an instance has failed":        {0, 1, func(s *scope) { s.instances[0].history.failures = 1 }, 0},
		"a GPU is to be repaired":       {0, 1, func(s *scope) { s.instances[0].sick = map[string]signal{"p": {}} }, 0},
		"an instance is being moved":    {0, 1, func(s *scope) { s.instances[0].moving = &v1alpha1.MoveStatus{} }, 0},
		"an image cannot be had":        {0, 1, func(s *scope) { s.pod(created).Status = pulling }, 0},
		"completeness is decided":       {0, 1, func(s *scope) { s.deployment.Spec.Recovery.Policy = v1alpha1.RecoveryRecreateInstance }, 0},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			d := &v1alpha1.MoEDeployment{ObjectMeta: metav1.ObjectMeta{CreationTimestamp: metav1.NewTime(created)}}
			s := newScope(d, at(tc.now))
			s.resolved = &resolve.Result{Model: resolve.Finding{OK: true}, Feasible: resolve.Finding{OK: true}}
			s.resolved.Decision.Attention, s.resolved.Decision.Expert = 1, 0
			s.byIndex(0).wanted = true
			if tc.change != nil {
				tc.change(s)
			}
			if got := s.statusWait(tc.comingUp); got != tc.want {
				t.Errorf("it waits %v, want %v", got, tc.want)
			}
		})
	}
}

// TestProgressOfManyIsToldSeldom: a bring-up of two minutes, however often it is
// looked at, has a few statuses, at growing distances.
func TestProgressOfManyIsToldSeldom(t *testing.T) {
	created := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	d := &v1alpha1.MoEDeployment{ObjectMeta: metav1.ObjectMeta{CreationTimestamp: metav1.NewTime(created)}}
	var told []time.Duration
	for age := time.Duration(0); age < 2*time.Minute; age += 500 * time.Millisecond {
		s := newScope(d, created.Add(age))
		s.resolved = &resolve.Result{Model: resolve.Finding{OK: true}, Feasible: resolve.Finding{OK: true}}
		s.resolved.Decision.Attention = 1
		s.byIndex(0).wanted = true
		s.pod(created)
		if s.statusWait(1) > 0 {
			continue
		}
		told = append(told, age)
		d.Status.Conditions = []metav1.Condition{{Type: v1alpha1.ConditionAvailable, Status: metav1.ConditionFalse}}
		d.ManagedFields = []metav1.ManagedFieldsEntry{{Subresource: "status", Time: ptr.To(metav1.NewTime(s.now))}}
	}
	want := []time.Duration{5 * time.Second, 15 * time.Second, 35 * time.Second, 75 * time.Second}
	if diff := cmp.Diff(want, told); diff != "" {
		t.Error(diff)
	}
}

func TestCacheKeepsWhenTheStatusWasWritten(t *testing.T) {
	when := metav1.NewTime(time.Unix(1_700_000_000, 0))
	d := &v1alpha1.MoEDeployment{ObjectMeta: metav1.ObjectMeta{ManagedFields: []metav1.ManagedFieldsEntry{
		{Manager: "kubectl", FieldsV1: metav1.NewFieldsV1("{}")},
		{Manager: "manager", Subresource: "status", Time: &when, FieldsV1: metav1.NewFieldsV1("{}")},
	}}}
	slim, err := slimDeployment(d)
	if err != nil {
		t.Fatal(err)
	}
	kept := slim.(*v1alpha1.MoEDeployment)
	if got := newScope(kept, when.Time).lastWritten(); !got.Equal(when.Time) {
		t.Errorf("the status was written at %v, want %v", got, when)
	}
	if len(kept.ManagedFields) != 1 || kept.ManagedFields[0].FieldsV1 != nil {
		t.Errorf("it keeps %v", kept.ManagedFields)
	}
}

// pulling is the status of a pod whose image cannot be pulled.
var pulling = corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{{
	Name: "server", State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "ErrImagePull"}},
}}}

// pod gives instance 0 its only pod, which has a node.
func (s *scope) pod(created time.Time) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "p", CreationTimestamp: metav1.NewTime(created)},
		Spec:       corev1.PodSpec{NodeName: "n"},
	}
	s.byIndex(0).pods[p.Name] = p
	return p
}
