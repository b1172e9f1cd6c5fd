// SPDX-License-Identifier: Apache-2.0

package moedeployment

import (
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
		"as many at once as may be down": {
			instances: []instanceFacts{{wanted: true, outdated: true, serving: true}, {wanted: true, outdated: true, serving: true}, {wanted: true, outdated: true, serving: true}},
			limits:    rolloutLimits{maxUnavailable: 2, feasible: true},
			want:      []action{keep, recreate, recreate},
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
				{ordinal: 0, wanted: true, outdated: true}, {ordinal: 1, wanted: true, outdated: true, serving: true}, {ordinal: 2, wanted: true, outdated: true, serving: true},
			},
			limits: rolloutLimits{maxUnavailable: 3, partition: 2, feasible: true},
			want:   []action{keep, keep, recreate},
		},
		"with a surge nothing goes down before the stand-in serves": {
			instances: []instanceFacts{{wanted: true, outdated: true, serving: true}, {ordinal: 1, surge: true}},
			limits:    rolloutLimits{maxSurge: 1, feasible: true},
			want:      []action{keep, complete},
		},
		"with a stand-in that serves one goes down": {
			instances: []instanceFacts{{wanted: true, outdated: true, serving: true}, {ordinal: 1, surge: true, serving: true}},
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
