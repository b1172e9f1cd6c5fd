// SPDX-License-Identifier: Apache-2.0

package moedeployment

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/findep/findep-operator/api/v1alpha1"
	"github.com/findep/findep-operator/controllers/resolve"
)

func TestFirstStatusWaitsForWhatIsOnItsWay(t *testing.T) {
	created := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	cases := map[string]struct {
		now    time.Duration // since the deployment was created
		change func(*scope)
		want   time.Duration
	}{
		"at once":                    {0, nil, 5 * time.Second},
		"a clock a little behind":    {-time.Second, nil, 5 * time.Second},
		"a clock far behind":         {-time.Minute, nil, 0},
		"after a while":              {2 * time.Second, nil, 3 * time.Second},
		"after the delay":            {5 * time.Second, nil, 0},
		"long after":                 {time.Hour, nil, 0},
		"pods were made a while ago": {7 * time.Second, func(s *scope) { s.pod(created.Add(4 * time.Second)) }, 2 * time.Second},
		"pods were made long ago":    {time.Minute, func(s *scope) { s.pod(created.Add(4 * time.Second)) }, 0},
		"a status was written before": {0, func(s *scope) {
			s.original.Status.Conditions = []metav1.Condition{{Type: v1alpha1.ConditionScheduled}}
		}, 0},
		"it serves": {0, func(s *scope) {
			meta.SetStatusCondition(&s.deployment.Status.Conditions, metav1.Condition{Type: v1alpha1.ConditionAvailable, Status: metav1.ConditionTrue})
		}, 0},
		"a phase failed":          {0, func(s *scope) { s.failures = []string{"quota"} }, 0},
		"the model does not fit":  {0, func(s *scope) { s.resolved.Feasible.OK = false }, 0},
		"nothing was resolved":    {0, func(s *scope) { s.resolved = nil }, 0},
		"an instance has failed":  {0, func(s *scope) { s.instances[0].history.failures = 1 }, 0},
		"an image cannot be had":  {0, func(s *scope) { s.pod(created).Status = pulling }, 0},
		"completeness is decided": {0, func(s *scope) { s.deployment.Spec.Recovery.Policy = v1alpha1.RecoveryRecreateInstance }, 0},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			d := &v1alpha1.MoEDeployment{ObjectMeta: metav1.ObjectMeta{CreationTimestamp: metav1.NewTime(created)}}
			s := newScope(d, created.Add(tc.now))
			s.resolved = &resolve.Result{Model: resolve.Finding{OK: true}, Feasible: resolve.Finding{OK: true}}
			s.resolved.Decision.Attention, s.resolved.Decision.Expert = 1, 0
			s.byIndex(0).wanted = true
			if tc.change != nil {
				tc.change(s)
			}
			if got := s.firstStatusWait(); got != tc.want {
				t.Errorf("it waits %v, want %v", got, tc.want)
			}
		})
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
