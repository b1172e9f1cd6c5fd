// SPDX-License-Identifier: Apache-2.0

package moedeployment

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/findep/findep-operator/api/v1alpha1"
)

func TestPauseDoublesUpToALimit(t *testing.T) {
	cases := map[string]struct {
		backoff time.Duration
		n       int32
		want    time.Duration
	}{
		"first":                  {5 * time.Second, 1, 5 * time.Second},
		"fourth":                 {5 * time.Second, 4, 40 * time.Second},
		"bounded":                {5 * time.Second, 10_000, 5 * time.Minute},
		"the user asks for more": {time.Hour, 3, time.Hour},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if got := (recoveryPolicy{backoff: tc.backoff}).pause(tc.n); got != tc.want {
				t.Errorf("got %v, want %v", got, tc.want)
			}
		})
	}
}

// patient is an instance of two pods whose history is kept as status keeps it.
type patient struct {
	*instance
	status v1alpha1.InstanceStatus
	policy recoveryPolicy
	now    time.Time
	made   int
}

func newPatient(policy v1alpha1.RecoveryPolicy) *patient {
	p := &patient{
		instance: &instance{pods: map[string]*corev1.Pod{}}, now: start,
		policy: recoveryPolicy{policy: policy, maxRestarts: 3, backoff: 10 * time.Second},
	}
	p.make(0)
	p.make(1)
	p.look()
	return p
}

func (p *patient) make(rank int) {
	p.made++
	name := fmt.Sprintf("lite-0-eg-%d", rank)
	p.pods[name] = &corev1.Pod{ObjectMeta: metav1.ObjectMeta{
		Name: name, UID: types.UID(fmt.Sprintf("uid-%d", p.made)),
		Labels: map[string]string{v1alpha1.LabelRank: fmt.Sprint(rank), v1alpha1.LabelRevision: "r1"},
	}}
}

func (p *patient) end(rank int) {
	p.pods[fmt.Sprintf("lite-0-eg-%d", rank)].Status.Phase = corev1.PodFailed
}

func (p *patient) crash(rank int) {
	pod := p.pods[fmt.Sprintf("lite-0-eg-%d", rank)]
	if len(pod.Status.ContainerStatuses) == 0 {
		pod.Status.ContainerStatuses = []corev1.ContainerStatus{{}}
	}
	pod.Status.ContainerStatuses[0].RestartCount++
}

func (p *patient) serve(yes bool) {
	status := corev1.ConditionFalse
	if yes {
		status = corev1.ConditionTrue
	}
	for _, pod := range p.pods {
		pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: status, LastTransitionTime: metav1.NewTime(p.now)}}
	}
}

// look is one pass: what it decides, and the status that it writes. Every pass
// starts from status alone, as a restarted operator would.
func (p *patient) look() (remedy, time.Duration) {
	serving := len(p.pods) == 2
	for _, pod := range p.pods {
		serving = serving && ready(pod)
	}
	h := recall(&p.status, p.instance, 2, serving, p.now, p.policy)
	r, wait := p.policy.decide(h, p.instance, 2, serving, p.now)
	p.history = h
	p.status = v1alpha1.InstanceStatus{Revision: "r1"}
	h.writeTo(&p.status)
	return r, wait
}

func (p *patient) expect(t *testing.T, want remedy) {
	t.Helper()
	if got, _ := p.look(); got != want {
		t.Errorf("%d failures: got remedy %d, want %d", p.status.Failures, got, want)
	}
}

func TestFailureIsWrittenBeforeItIsMended(t *testing.T) {
	p := newPatient(v1alpha1.RecoveryRecreateInstance)
	p.now = p.now.Add(time.Hour)
	p.end(0)
	p.expect(t, await)
	p.expect(t, startOver) // It lived long, so there is no pause.
	if p.status.Failures != 1 {
		t.Errorf("got %d failures, want 1", p.status.Failures)
	}
}

func TestFailuresTogetherCountOnce(t *testing.T) {
	p := newPatient(v1alpha1.RecoveryInPlace)
	p.crash(0)
	p.look()
	p.now = p.now.Add(9 * time.Second)
	p.crash(1)
	p.look()
	if p.status.Failures != 1 {
		t.Errorf("a rank that took another with it: got %d failures, want 1", p.status.Failures)
	}
	p.now = p.now.Add(time.Minute)
	p.look()
	if p.status.Failures != 1 {
		t.Errorf("nothing new: got %d failures, want 1", p.status.Failures)
	}
	p.crash(1)
	p.look()
	if p.status.Failures != 2 {
		t.Errorf("a later exit: got %d failures, want 2", p.status.Failures)
	}
}

func TestRecreateWaitsLongerEachTime(t *testing.T) {
	p := newPatient(v1alpha1.RecoveryRecreateInstance)
	for n, want := range []time.Duration{10 * time.Second, 20 * time.Second, 40 * time.Second} {
		p.end(0)
		p.expect(t, await)
		r, wait := p.look()
		if r != await || wait != want {
			t.Fatalf("failure %d: got remedy %d after %v, want a pause of %v", n+1, r, wait, want)
		}
		p.now = p.now.Add(wait)
		p.expect(t, startOver)
		clear(p.pods)
		p.expect(t, mend)
		p.make(0)
		p.make(1)
		p.look()
	}
	p.end(1)
	p.expect(t, giveUp)
	p.now = p.now.Add(24 * time.Hour)
	p.expect(t, giveUp)
	clear(p.pods)
	p.expect(t, mend)
	if p.status.Failures != 0 {
		t.Errorf("somebody deleted the pods: got %d failures, want a new start", p.status.Failures)
	}
}

func TestFailuresAreForgottenAfterSteadyService(t *testing.T) {
	p := newPatient(v1alpha1.RecoveryInPlace)
	p.crash(0)
	p.look()
	p.serve(true)
	p.now = p.now.Add(stableAfter - time.Second)
	p.look()
	if p.status.Failures != 1 {
		t.Fatalf("forgotten too early")
	}
	p.now = p.now.Add(time.Second)
	p.look()
	if p.status.Failures != 0 {
		t.Fatalf("not forgotten")
	}
	p.look()
	if p.status.Failures != 0 {
		t.Errorf("counted again: %d", p.status.Failures)
	}
}

func TestAnotherRevisionStartsAnew(t *testing.T) {
	p := newPatient(v1alpha1.RecoveryInPlace)
	p.status.Failures, p.status.Revision = 9, "r0"
	p.look()
	if p.status.Failures != 0 {
		t.Errorf("got %d failures, want 0", p.status.Failures)
	}
}

func TestNoneLeavesTheInstance(t *testing.T) {
	p := newPatient(v1alpha1.RecoveryNone)
	delete(p.pods, "lite-0-eg-1")
	p.expect(t, leave)
	clear(p.pods)
	p.expect(t, mend)
}

func TestAnInstanceInTheMakingIsNotLost(t *testing.T) {
	p := &patient{instance: &instance{pods: map[string]*corev1.Pod{}}, now: start, policy: recoveryOf(v1alpha1.RecoverySpec{Policy: v1alpha1.RecoveryRecreateInstance})}
	p.expect(t, mend)
	p.make(0)
	p.expect(t, mend)
	p.make(1)
	p.expect(t, mend)
	delete(p.pods, "lite-0-eg-0")
	p.expect(t, startOver)
}

// TestRecoveryNeverStorms replays random failures: between two recreations of an
// instance there is always a failure counted and, after the first, the pause;
// the number of recreations without steady service is bounded.
func TestRecoveryNeverStorms(t *testing.T) {
	const seeds = 200
	for seed := range uint64(seeds) {
		random := rand.New(rand.NewPCG(seed, 2))
		p := newPatient(v1alpha1.RecoveryRecreateInstance)
		recreations, counted := int32(0), int32(0)
		for step := range 300 {
			p.now = p.now.Add(time.Duration(random.IntN(20_000)) * time.Millisecond)
			if len(p.pods) == 2 && random.IntN(3) == 0 {
				p.end(random.IntN(2))
			}
			before := p.status.Failures
			r, _ := p.look()
			if p.status.Failures < before {
				t.Fatalf("seed %d, step %d: failures were forgotten without any service", seed, step)
			}
			switch r {
			case startOver:
				if p.status.Failures == counted {
					t.Fatalf("seed %d, step %d: recreated again without a new failure", seed, step)
				}
				counted = p.status.Failures
				recreations++
				clear(p.pods)
				p.look()
			case mend:
				for rank := range 2 {
					if p.pods[fmt.Sprintf("lite-0-eg-%d", rank)] == nil {
						p.make(rank)
					}
				}
			}
		}
		if recreations == 0 || recreations > p.policy.maxRestarts {
			t.Fatalf("seed %d: %d recreations; at most %d are allowed", seed, recreations, p.policy.maxRestarts)
		}
		p.expect(t, giveUp)
	}
}
