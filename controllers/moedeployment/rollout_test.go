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
}

// TestRolloutConverges replays rollouts in random order of events: whatever
// happens, no more than maxUnavailable instances that could serve are down on
// account of the rollout, and everything ends at the new revision.
func TestRolloutConverges(t *testing.T) {
	const seeds = 200
	for seed := range uint64(seeds) {
		random := rand.New(rand.NewPCG(seed, 1))
		n := 1 + random.IntN(8)
		limits := rolloutLimits{maxUnavailable: 1 + random.IntN(3), feasible: true}
		cluster := make([]simulated, n)
		for i := range cluster {
			cluster[i] = simulated{revision: 1, stage: random.IntN(2)}
		}
		step := 0
		for ; step < 40*n && !rolledOut(cluster); step++ {
			before := servingCount(cluster)
			actions := planRollout(factsOfAll(cluster), limits)
			taken := 0
			for i, a := range actions {
				if a == recreate {
					if cluster[i].stage == 0 {
						taken++
					}
					cluster[i].leaving = true
				}
				if a == complete && cluster[i].revision == 0 {
					cluster[i] = simulated{revision: 2, stage: 3}
				}
			}
			if taken > 0 && n-before+taken > limits.maxUnavailable {
				t.Fatalf("seed %d, step %d: %d of %d instances serve and %d more were taken down; maxUnavailable is %d",
					seed, step, before, n, taken, limits.maxUnavailable)
			}
			advance(random, cluster)
		}
		if !rolledOut(cluster) {
			t.Fatalf("seed %d: not at the new revision after %d steps: %+v", seed, step, cluster)
		}
	}
}

func factsOfAll(cluster []simulated) []instanceFacts {
	var facts []instanceFacts
	for _, s := range cluster {
		facts = append(facts, instanceFacts{
			wanted: true, outdated: s.revision == 1, terminating: s.leaving || s.revision != 1,
			serving: s.revision > 0 && s.stage == 0 && !s.leaving,
		})
	}
	return facts
}

func servingCount(cluster []simulated) int {
	n := 0
	for _, f := range factsOfAll(cluster) {
		if f.serving {
			n++
		}
	}
	return n
}

// advance lets random instances make progress.
func advance(random *rand.Rand, cluster []simulated) {
	for i := range cluster {
		s := &cluster[i]
		switch {
		case random.IntN(2) == 0:
		case s.leaving:
			*s = simulated{}
		case s.revision == 2 && s.stage > 0:
			s.stage--
		}
	}
}

func rolledOut(cluster []simulated) bool {
	for _, s := range cluster {
		if s.revision != 2 || s.stage > 0 {
			return false
		}
	}
	return true
}
