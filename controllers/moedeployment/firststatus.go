// SPDX-License-Identifier: Apache-2.0

package moedeployment

import (
	"time"

	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/findep/findep-operator/api/v1alpha1"
)

// firstStatusDelay is how long after its last pod was made a deployment that
// comes up as it should may be without a status. Most serve by then, or have a
// reason not to that is worth reading: the stages in between are gone before
// anybody has read them, and each would be a write.
const firstStatusDelay = 5 * time.Second

// clockSkew is how far this clock may be behind that of the API server, which
// gives whole seconds, without anybody noticing.
const clockSkew = time.Second

// firstStatusWait is how long the first status can still wait; 0 for whatever
// needs attention, has been written before, or is finished.
func (s *scope) firstStatusWait() time.Duration {
	// What became of an instance that was complete must not be forgotten where it
	// decides about its repair.
	fresh := len(s.original.Status.Conditions) == 0 && s.recoveryPolicy().policy == v1alpha1.RecoveryInPlace
	if !fresh || !s.undisturbed() || meta.IsStatusConditionTrue(s.deployment.Status.Conditions, v1alpha1.ConditionAvailable) {
		return 0
	}
	latest := s.deployment.CreationTimestamp.Time
	for _, i := range s.instances {
		for _, pod := range i.pods {
			if pod.CreationTimestamp.After(latest) {
				latest = pod.CreationTimestamp.Time
			}
		}
	}
	age := s.now.Sub(latest)
	if age < -clockSkew {
		// The clocks disagree, and nobody can tell for how long this would be.
		return 0
	}
	return min(firstStatusDelay, max(0, firstStatusDelay-age))
}

// undisturbed says that every instance is on its way and nothing went wrong.
func (s *scope) undisturbed() bool {
	if s.resolved == nil || !s.resolved.OK() || len(s.failures) > 0 {
		return false
	}
	for _, v := range s.views() {
		if v.history.failures > 0 {
			return false
		}
		switch v.phase {
		case v1alpha1.InstanceServing, v1alpha1.InstanceStarting, v1alpha1.InstancePending, v1alpha1.InstanceForming:
		default:
			return false
		}
	}
	return true
}
