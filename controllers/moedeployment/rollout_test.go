// SPDX-License-Identifier: Apache-2.0

package moedeployment

import (
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestPlanRollout(t *testing.T) {
	cases := map[string]struct {
		instances []instanceFacts
		limits    rolloutLimits
		want      []action
	}{
		"everything is new": {
			instances: []instanceFacts{{wanted: true, serving: true}, {wanted: true}},
			limits:    rolloutLimits{maxUnavailable: 1, feasible: true},
			want:      []action{complete, complete},
		},
		"one at a time, from the highest index": {
			instances: []instanceFacts{{wanted: true, outdated: true, serving: true}, {wanted: true, outdated: true, serving: true}},
			limits:    rolloutLimits{maxUnavailable: 1, feasible: true},
			want:      []action{keep, recreate},
		},
		"the budget is used up by one that starts": {
			instances: []instanceFacts{{wanted: true, outdated: true, serving: true}, {wanted: true}},
			limits:    rolloutLimits{maxUnavailable: 1, feasible: true},
			want:      []action{keep, complete},
		},
		"unhealthy old instances do not wait for budget": {
			instances: []instanceFacts{{wanted: true, outdated: true}, {wanted: true, outdated: true}, {wanted: true, outdated: true, serving: true}},
			limits:    rolloutLimits{maxUnavailable: 1, feasible: true},
			want:      []action{recreate, recreate, keep},
		},
		"paused": {
			instances: []instanceFacts{{wanted: true, outdated: true, serving: true}, {wanted: true, outdated: true}, {wanted: true}},
			limits:    rolloutLimits{maxUnavailable: 3, feasible: true, paused: true},
			want:      []action{keep, keep, complete},
		},
		"infeasible keeps what runs and still scales down": {
			instances: []instanceFacts{{wanted: true, serving: true}, {wanted: true, outdated: true}, {}},
			limits:    rolloutLimits{maxUnavailable: 1},
			want:      []action{keep, keep, remove},
		},
		"below the partition nothing is recreated, healthy or not": {
			instances: []instanceFacts{
				{index: 0, wanted: true, outdated: true}, {index: 1, wanted: true, outdated: true, serving: true}, {index: 2, wanted: true, outdated: true, serving: true},
			},
			limits: rolloutLimits{maxUnavailable: 3, partition: 2, feasible: true},
			want:   []action{keep, keep, recreate},
		},
		"with a surge nothing goes down before the stand-in serves": {
			instances: []instanceFacts{{wanted: true, outdated: true, serving: true}, {index: 1, surge: true}},
			limits:    rolloutLimits{maxSurge: 1, feasible: true},
			want:      []action{keep, complete},
		},
		"with a stand-in that serves one goes down": {
			instances: []instanceFacts{{wanted: true, outdated: true, serving: true}, {index: 1, surge: true, serving: true}},
			limits:    rolloutLimits{maxSurge: 1, feasible: true},
			want:      []action{recreate, complete},
		},
		"what recovery says holds for instances that are new": {
			instances: []instanceFacts{{wanted: true, remedy: startOver}, {wanted: true, remedy: await}, {wanted: true, remedy: giveUp}, {wanted: true, remedy: leave}},
			limits:    rolloutLimits{maxUnavailable: 1, feasible: true},
			want:      []action{restart, keep, keep, keep},
		},
		"pods on their way out are waited for": {
			instances: []instanceFacts{{wanted: true, outdated: true, terminating: true}},
			limits:    rolloutLimits{maxUnavailable: 1, feasible: true},
			want:      []action{keep},
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, planRollout(tc.instances, tc.limits)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// simulated is one instance of a cluster in miniature.
type simulated struct {
	revision int // 0: no pods
	stage    int // counts down to serving; 0 serves
	leaving  bool
	surge    bool
}

func (s simulated) serving() bool { return s.revision > 0 && s.stage == 0 && !s.leaving }

// simulation is a deployment whose rollout is replayed. The instances from
// replicas on are those beyond spec.replicas.
type simulation struct {
	replicas  int
	instances []simulated
	limits    rolloutLimits
}

func newSimulation(random *rand.Rand) *simulation {
	s := &simulation{replicas: 1 + random.IntN(8)}
	s.limits = rolloutLimits{maxUnavailable: random.IntN(4), maxSurge: random.IntN(4), feasible: true}
	if s.limits.maxUnavailable+s.limits.maxSurge == 0 {
		s.limits.maxUnavailable = 1
	}
	s.limits.partition = int32(max(0, random.IntN(2*s.replicas)-s.replicas))
	s.instances = make([]simulated, s.replicas+s.limits.maxSurge)
	for i := range s.replicas {
		// Some old instances never become healthy.
		s.instances[i] = simulated{revision: 1, stage: random.IntN(2)}
	}
	return s
}

func (s *simulation) facts() []instanceFacts {
	var facts []instanceFacts
	for i, in := range s.instances {
		facts = append(facts, instanceFacts{
			index: int32(i), wanted: i < s.replicas, surge: in.surge,
			outdated: in.revision == 1, terminating: in.leaving || in.revision != 1, serving: in.serving(),
		})
	}
	return facts
}

// pass does what considerRollout and carryOut do, and returns how many serving
// instances it took down on account of the rollout.
func (s *simulation) pass() (taken int) {
	for i := s.replicas; i < len(s.instances); i++ {
		in := &s.instances[i]
		in.surge = in.revision == 2 && !in.leaving
	}
	n := surgeOf(s.facts(), s.limits)
	for i := s.replicas; i < len(s.instances); i++ {
		s.instances[i].surge = i < s.replicas+n && !s.instances[i].leaving
	}
	for i, a := range planRollout(s.facts(), s.limits) {
		in := &s.instances[i]
		switch {
		case a == recreate:
			if in.serving() {
				taken++
			}
			in.leaving = true
		case a == remove && in.revision > 0:
			in.leaving = true
		case a == complete && in.revision == 0:
			*in = simulated{revision: 2, stage: 3, surge: in.surge}
		}
	}
	return taken
}

// serving counts the instances that serve, less those below the partition.
func (s *simulation) serving() (n int) {
	for i, in := range s.instances {
		if in.serving() && i >= int(s.limits.partition) {
			n++
		}
	}
	return n
}

// advance lets random instances make progress, and a new one break now and then.
func (s *simulation) advance(random *rand.Rand, mishaps bool) {
	for i := range s.instances {
		in := &s.instances[i]
		switch {
		case random.IntN(2) == 0:
		case in.leaving:
			*in = simulated{}
		case in.revision == 2 && in.stage > 0:
			in.stage--
		case mishaps && in.revision == 2 && random.IntN(20) == 0:
			in.stage = 2
		}
	}
}

func (s *simulation) done() bool {
	for i, in := range s.instances {
		switch {
		case i >= s.replicas && in.revision != 0:
			return false
		case i < s.replicas && i >= int(s.limits.partition) && (in.revision != 2 || in.stage > 0):
			return false
		}
	}
	return true
}

// TestRolloutConverges replays rollouts in random order of events: whatever
// happens, the rollout takes nothing down that leaves fewer than all but
// maxUnavailable serving of those from the partition on, touches nothing below the partition, makes no more than
// maxSurge instances beyond replicas, and ends with everything else at the new
// revision and no instance too many.
func TestRolloutConverges(t *testing.T) {
	const seeds = 400
	for seed := range uint64(seeds) {
		random := rand.New(rand.NewPCG(seed, 1))
		s := newSimulation(random)
		limit, step := 100*len(s.instances), 0
		for ; step < limit && !s.done(); step++ {
			before := s.serving()
			taken := s.pass()
			if least := s.replicas - int(s.limits.partition) - s.limits.maxUnavailable; taken > 0 && before-taken < least {
				t.Fatalf("seed %d, step %d: %d instances served and %d were taken down; at least %d must serve: %+v", seed, step, before, taken, least, s)
			}
			for i := range min(int(s.limits.partition), s.replicas) {
				if s.instances[i].revision != 1 || s.instances[i].leaving {
					t.Fatalf("seed %d, step %d: instance %d is below the partition %d and was touched", seed, step, i, s.limits.partition)
				}
			}
			s.advance(random, step < limit/2)
		}
		if !s.done() {
			t.Fatalf("seed %d: not at the new revision after %d steps: %+v", seed, step, s)
		}
	}
}
