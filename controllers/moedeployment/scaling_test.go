// SPDX-License-Identifier: Apache-2.0

package moedeployment

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/findep/findep-operator/api/v1alpha1"
	"github.com/findep/findep-operator/controllers/render"
	"github.com/findep/findep-operator/controllers/resolve"
	"github.com/findep/findep-operator/runtime/plan"
	"github.com/findep/findep-operator/test/wrappers"
)

func TestChooseMembers(t *testing.T) {
	cases := map[string]struct {
		facts    []memberFacts
		replicas int
		want     []int32
	}{
		"the first ones get the lowest indexes": {replicas: 2, want: []int32{0, 1}},
		"a gap stays":                           {facts: []memberFacts{{index: 0, known: true}, {index: 3, known: true}}, replicas: 2, want: []int32{0, 3}},
		"a gap is filled by the next one":       {facts: []memberFacts{{index: 0, known: true}, {index: 3, known: true}}, replicas: 3, want: []int32{0, 1, 3}},
		"too many are kept until one is chosen": {facts: []memberFacts{{index: 0, known: true}, {index: 1, known: true}}, replicas: 1, want: []int32{0, 1}},
		"the chosen one is out":                 {facts: []memberFacts{{index: 0, known: true, draining: true}, {index: 1, known: true}}, replicas: 1, want: []int32{1}},
		"a choice is taken back while it serves": {
			facts: []memberFacts{{index: 0, known: true, draining: true, serving: true}, {index: 1, known: true}}, replicas: 2, want: []int32{0, 1},
		},
		"one that leaves is not taken back, nor its index": {
			facts: []memberFacts{{index: 0, known: true, draining: true, leaving: true}, {index: 1, known: true}}, replicas: 2, want: []int32{1, 2},
		},
		"leftovers of a removed one make none": {facts: []memberFacts{{index: 0}, {index: 1, known: true}}, replicas: 1, want: []int32{1}},
		"zero replicas":                        {facts: []memberFacts{{index: 0, known: true, draining: true}}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, chooseMembers(tc.facts, tc.replicas)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// TestNewInstanceInALaggingCache: the Secret of an instance may be all that the cache
// shows of it while its pods are being made.
func TestNewInstanceInALaggingCache(t *testing.T) {
	s := newStage(t, wrappers.MoEDeployment("lite"))
	content := render.SecretContent{Instance: []byte("{}"), Revision: "1"}
	var secret corev1.Secret
	if err := convert(render.Secret(s.owner, 0, content), &secret); err != nil {
		t.Fatal(err)
	}
	for name, wants := range map[string]struct {
		change func()
		index  int32
	}{
		"it is the instance":        {func() {}, 0},
		"not when it is going away": {func() { secret.DeletionTimestamp = ptr.To(metav1.NewTime(start)) }, 1},
	} {
		t.Run(name, func(t *testing.T) {
			s.instances, s.secrets = nil, map[string]*corev1.Secret{secret.Name: &secret}
			wants.change()
			s.noticeInstance(&secret)
			s.considerMembers()
			for _, i := range s.instances {
				if i.wanted != (i.index == wants.index) {
					t.Errorf("instance %d is wanted: %v", i.index, i.wanted)
				}
			}
		})
		secret.DeletionTimestamp = nil
	}
}

func TestChooseVictims(t *testing.T) {
	cases := map[string]struct {
		members []memberFacts
		n       int
		want    []int32
	}{
		"the emptiest":                {members: []memberFacts{{index: 0, serving: true, load: 3}, {index: 1, serving: true, load: 1}, {index: 2, serving: true, load: 2}}, n: 1, want: []int32{1}},
		"one that does not serve":     {members: []memberFacts{{index: 0, load: 9}, {index: 1, serving: true}}, n: 1, want: []int32{0}},
		"of equal ones the last":      {members: []memberFacts{{index: 0, serving: true}, {index: 4, serving: true}}, n: 1, want: []int32{4}},
		"the silent one is not empty": {members: []memberFacts{{index: 0, serving: true, load: 7}, {index: 1, serving: true, load: busiest}}, n: 1, want: []int32{0}},
		"several":                     {members: []memberFacts{{index: 0, serving: true, load: 3}, {index: 1, serving: true, load: 1}, {index: 2}}, n: 2, want: []int32{2, 1}},
		"more than there are":         {members: []memberFacts{{index: 0}}, n: 3, want: []int32{0}},
		"none":                        {members: []memberFacts{{index: 0}}, n: -1},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, chooseVictims(tc.members, tc.n)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// podsPerInstance is the size of a simulated instance.
const podsPerInstance = 2

// simulation is a deployment whose life is replayed in random order of events:
// rollouts, changes of replicas, mishaps, and passes whose status is never
// written, as those of an operator that dies. It runs the real decisions on made
// up pods, and knows only what the API server would.
type simulation struct {
	t      *testing.T
	seed   uint64
	random *rand.Rand
	step   int

	deployment *v1alpha1.MoEDeployment
	old, new   *resolve.Result
	pods       map[int32][]*corev1.Pod
	// stage counts down to serving; those at the old revision may never get there.
	stage map[int32]int
	loads map[int32]int
	limit rolloutLimits
}

func newSimulation(t *testing.T, seed uint64, was, is *resolve.Result) *simulation {
	random := rand.New(rand.NewPCG(seed, 1))
	d := wrappers.MoEDeployment("lite").UID("uid-1").GPUs(1, 1).Replicas(int32(1 + random.IntN(8))).Obj()
	rollout := &d.Spec.Rollout
	rollout.MaxUnavailable, rollout.MaxSurge = int32(random.IntN(4)), int32(random.IntN(4))
	rollout.Partition = max(0, int32(random.IntN(16))-8)
	s := &simulation{
		t: t, seed: seed, random: random, deployment: d, old: was, new: is,
		pods: map[int32][]*corev1.Pod{}, stage: map[int32]int{}, loads: map[int32]int{},
	}
	for index := range s.replicas() {
		s.create(index, was.Revision)
		s.stage[index] = random.IntN(2)
		s.deployment.Status.Instances = append(s.deployment.Status.Instances, v1alpha1.InstanceStatus{Index: index})
	}
	return s
}

func (s *simulation) replicas() int32 { return *s.deployment.Spec.Replicas }

func (s *simulation) create(index int32, revision string) {
	for rank := range podsPerInstance {
		s.pods[index] = append(s.pods[index], &corev1.Pod{ObjectMeta: metav1.ObjectMeta{
			Name:   fmt.Sprintf("lite-%d-%d", index, rank),
			Labels: map[string]string{v1alpha1.LabelRank: fmt.Sprint(rank), v1alpha1.LabelRevision: revision},
		}})
	}
}

func (s *simulation) leave(index int32) {
	for _, pod := range s.pods[index] {
		pod.DeletionTimestamp = ptr.To(metav1.Now())
	}
}

// scope is what a pass sees.
func (s *simulation) scope() *scope {
	c := newScope(s.deployment.DeepCopy(), start.Add(time.Duration(s.step)*time.Second))
	c.gathered = true
	for index, pods := range s.pods {
		i := c.byIndex(index)
		for _, pod := range pods {
			status := corev1.ConditionFalse
			if s.stage[index] == 0 {
				status = corev1.ConditionTrue
			}
			pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: status}}
			i.pods[pod.Name] = pod
		}
	}
	c.considerMembers()
	c.resolved = s.new
	c.considerRollout()
	for _, i := range c.instances {
		if c.serving(i) {
			i.observation = &plan.Observation{Serving: &plan.ServingObservation{Running: s.loads[i.index]}}
		}
	}
	s.limit = c.rolloutLimits()
	return c
}

func (s *simulation) fatalf(format string, args ...any) {
	s.t.Helper()
	s.t.Fatalf("seed %d, step %d: %s; %d replicas, %+v, %+v", s.seed, s.step, fmt.Sprintf(format, args...), s.replicas(), s.limit, s.deployment.Status.Instances)
}

// pass does what the reconciler does, and checks what it does.
func (s *simulation) pass() {
	marked := map[int32]bool{}
	for _, i := range s.deployment.Status.Instances {
		marked[i.Index] = i.DrainingSince != nil
	}
	c := s.scope()
	before := s.count(c, 0)
	if c.surplus() > 0 {
		c.considerScaleDown()
		s.checkVictims(c, marked, before)
	} else {
		s.carryOut(c, marked)
	}
	c.computeInstances(&c.deployment.Status)
	if s.random.IntN(10) > 0 {
		s.deployment.Status = c.deployment.Status
	}
}

// count counts the serving instances that are to stay, from an ordinal on.
func (s *simulation) count(c *scope, from int32) (n int) {
	for k, f := range c.rolloutFacts() {
		if c.instances[k].live() && f.serving && (f.surge || f.ordinal >= from) {
			n++
		}
	}
	return n
}

// checkVictims checks that a choice takes the emptiest, no more than are too
// many, and that none that serves goes while replicas are not served.
func (s *simulation) checkVictims(c *scope, marked map[int32]bool, before int) {
	s.t.Helper()
	heaviest, lightest, live := -2, busiest, 0
	for _, i := range c.instances {
		switch f := c.memberFacts(i); {
		case i.live():
			lightest = min(lightest, weight(f))
			live++
		case f.draining && !marked[i.index]:
			heaviest = max(heaviest, weight(f))
		}
	}
	if heaviest > lightest {
		s.fatalf("an instance with %d requests goes, one with %d stays", heaviest, lightest)
	}
	if live < int(s.replicas()) {
		s.fatalf("%d instances stay", live)
	}
	if after := s.count(c, 0); after < min(before, int(s.replicas())) {
		s.fatalf("%d of the %d instances that served stay", after, before)
	}
}

// carryOut plays what the reconciler would do, and checks that nothing is removed
// that was not chosen before, that a rollout leaves enough serving, and that
// there are never more instances than allowed.
func (s *simulation) carryOut(c *scope, marked map[int32]bool) {
	s.t.Helper()
	before, taken, live := s.count(c, s.limit.partition), 0, 0
	facts := c.rolloutFacts()
	for k, action := range planRollout(facts, s.limit) {
		i := c.instances[k]
		if i.live() {
			live++
		}
		switch {
		case action == remove:
			if len(i.pods) > 0 && !marked[i.index] && !leaving(i) {
				s.fatalf("instance %d is removed and was not chosen", i.index)
			}
			s.leave(i.index)
		case action == recreate:
			if facts[k].serving {
				taken++
			}
			if facts[k].ordinal < s.limit.partition {
				s.fatalf("instance %d is below the partition and is recreated", i.index)
			}
			s.leave(i.index)
		case action == complete && len(i.pods) == 0:
			s.create(i.index, s.new.Revision)
			s.stage[i.index] = 3
		}
	}
	if least := int(s.replicas()-s.limit.partition) - s.limit.maxUnavailable; taken > 0 && before-taken < least {
		s.fatalf("%d instances served and %d were taken down; at least %d must serve", before, taken, least)
	}
	if live > int(s.replicas())+s.limit.maxSurge {
		s.fatalf("%d instances are made", live)
	}
}

// advance lets random instances make progress, and loads change.
func (s *simulation) advance(mishaps bool) {
	for _, index := range slices.Sorted(maps.Keys(s.pods)) {
		pods := s.pods[index]
		s.loads[index] = s.random.IntN(20)
		switch {
		case s.random.IntN(2) == 0:
		case terminating(pods[0]):
			if s.pods[index] = pods[1:]; len(pods) == 1 {
				delete(s.pods, index)
			}
		case revisionOf(pods[0]) == s.new.Revision && s.stage[index] > 0:
			s.stage[index]--
		case mishaps && revisionOf(pods[0]) == s.new.Revision && s.random.IntN(20) == 0:
			s.stage[index] = 2
		}
	}
	if mishaps && s.random.IntN(20) == 0 {
		s.deployment.Spec.Replicas = ptr.To(int32(s.random.IntN(9)))
	}
}

// done says that there are as many instances as asked for, and those from the
// partition on serve at the new revision.
func (s *simulation) done() bool {
	if len(s.pods) != int(s.replicas()) || len(s.deployment.Status.Instances) != len(s.pods) {
		return false
	}
	for ordinal, index := range slices.Sorted(maps.Keys(s.pods)) {
		pods := s.pods[index]
		if len(pods) < podsPerInstance || terminating(pods[0]) || s.deployment.Status.Instances[ordinal].DrainingSince != nil {
			return false
		}
		if int32(ordinal) >= s.deployment.Spec.Rollout.Partition && (revisionOf(pods[0]) != s.new.Revision || s.stage[index] > 0) {
			return false
		}
	}
	return true
}

// TestRolloutConverges replays rollouts and scaling, see simulation: whatever
// happens, all instances end at the new revision and there is none too many.
func TestRolloutConverges(t *testing.T) {
	resolved := func(image string) *resolve.Result {
		d := wrappers.MoEDeployment("lite").UID("uid-1").GPUs(1, 1).RuntimeImage(image).Obj()
		return resolve.Resolve(d, resolve.Facts{})
	}
	was, is := resolved("findep/runtime:1"), resolved("findep/runtime:2")
	if was.Revision == is.Revision || !is.OK() {
		t.Fatalf("revisions %s and %s, feasible: %v", was.Revision, is.Revision, is.Feasible)
	}
	const seeds, steps = 400, 1500
	for seed := range uint64(seeds) {
		s := newSimulation(t, seed, was, is)
		for ; s.step < steps && (s.step < steps/10 || !s.done()); s.step++ {
			s.pass()
			s.advance(s.step < steps/10)
		}
		if !s.done() {
			s.fatalf("not done")
		}
	}
}
