// SPDX-License-Identifier: Apache-2.0

package moedeployment

import (
	"cmp"
	"math"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/findep/findep-operator/api/v1alpha1"
	"github.com/findep/findep-operator/controllers/render"
)

// This file decides which instances there are: which index a new one gets, and
// which one goes when there are too many. Like the rollout it is pure arithmetic
// over facts.
//
// An instance that is to go is marked in status.instances before anything is done
// to it. The mark is the decision: loads change from pass to pass, and an
// operator that chose anew could take down one instance after the other.

// busiest is the load of an instance that serves and does not say how much it
// has to do.
const busiest = math.MaxInt

// memberFacts is what the choice of instances depends on.
type memberFacts struct {
	index int32
	// known says that it is part of the deployment: status lists it, or it has
	// pods that are to stay, or its configuration. The latter is written before its
	// first pod, and may be all that a lagging cache shows of a new instance, which
	// must not lead to another one at the next index.
	known bool
	// draining says that status marks it as one to be removed.
	draining bool
	// leaving says that a pod of it is on its way out.
	leaving bool
	// serving says that all its pods are ready.
	serving bool
	// load is the number of requests that it computes or holds.
	load int
}

// chooseMembers returns the indexes of the instances that are to be, in order:
// those that are known, however many, and if they are fewer than replicas, those
// whose removal can still be taken back, and new ones at the lowest indexes that
// nothing uses.
func chooseMembers(facts []memberFacts, replicas int) []int32 {
	var chosen, spare []int32
	used := map[int32]bool{}
	for _, f := range facts {
		used[f.index] = true
		switch {
		case f.known && !f.draining:
			chosen = append(chosen, f.index)
		case f.draining && !f.leaving && f.serving:
			spare = append(spare, f.index)
		}
	}
	for _, index := range spare {
		if len(chosen) < replicas {
			chosen = append(chosen, index)
		}
	}
	for index := int32(0); len(chosen) < replicas; index++ {
		if !used[index] {
			chosen = append(chosen, index)
		}
	}
	slices.Sort(chosen)
	return chosen
}

// chooseVictims returns the indexes of the n members to remove: first those that
// do not serve, then those with the fewest requests, of equal ones that with the
// highest index.
func chooseVictims(members []memberFacts, n int) []int32 {
	order := slices.Clone(members)
	slices.SortStableFunc(order, func(a, b memberFacts) int {
		return cmp.Or(cmp.Compare(weight(a), weight(b)), cmp.Compare(b.index, a.index))
	})
	var victims []int32
	for _, f := range order[:max(0, min(n, len(order)))] {
		victims = append(victims, f.index)
	}
	return victims
}

// weight is what the removal of an instance costs, in requests; -1 for one that
// answers none.
func weight(f memberFacts) int {
	if !f.serving {
		return -1
	}
	return f.load
}

// considerMembers finds out which instances are wanted, from status and pods. If
// there are more than spec.replicas, all are until considerRollout and
// considerScaleDown have had their say.
func (s *scope) considerMembers() {
	for n := range s.original.Status.Instances {
		before := &s.original.Status.Instances[n]
		i := s.byIndex(before.Index)
		i.listed, i.moving = true, before.Moving
		if before.DrainingSince != nil {
			i.drainingSince = before.DrainingSince.Time
		}
	}
	facts := make([]memberFacts, 0, len(s.instances))
	for _, i := range s.instances {
		facts = append(facts, s.memberFacts(i))
	}
	for _, index := range chooseMembers(facts, int(s.replicas())) {
		i := s.byIndex(index)
		i.wanted, i.drainingSince = true, time.Time{}
	}
}

func (s *scope) memberFacts(i *instance) memberFacts {
	f := memberFacts{
		index: i.index, draining: !i.drainingSince.IsZero(), known: i.listed || s.hasConfiguration(i), serving: s.serving(i), load: busiest,
	}
	for _, pod := range i.pods {
		f.leaving = f.leaving || terminating(pod)
		f.known = f.known || !terminating(pod)
	}
	if o := i.observation; o != nil && o.Serving != nil {
		f.load = o.Serving.Running + o.Serving.Waiting
	}
	return f
}

// surplus is the number of wanted instances beyond spec.replicas.
func (s *scope) surplus() int {
	n := -int(s.replicas())
	for _, i := range s.instances {
		if i.wanted {
			n++
		}
	}
	return max(0, n)
}

// considerScaleDown chooses the instances that are too many, now that leaders
// have said how busy they are. Nothing is done to them before status has their
// mark.
func (s *scope) considerScaleDown() {
	n := s.surplus()
	if n == 0 {
		return
	}
	var facts []memberFacts
	for _, i := range s.instances {
		if i.live() {
			facts = append(facts, s.memberFacts(i))
		}
	}
	for _, index := range chooseVictims(facts, n) {
		i := s.byIndex(index)
		i.wanted, i.surge, i.drainingSince = false, false, s.now
	}
	s.requeue(conflictRetry)
}

// remains says that an instance has pods, or anything else that is still to be
// deleted.
func (s *scope) remains(i *instance) bool {
	for _, g := range i.groups {
		if g.DeletionTimestamp.IsZero() {
			return true
		}
	}
	return len(i.pods) > 0 || s.hasConfiguration(i)
}

// hasConfiguration says that an instance has its Secret, with the configuration.
func (s *scope) hasConfiguration(i *instance) bool {
	secret := s.secrets[render.SecretName(s.owner.Name, i.index)]
	content := render.ReadSecret(secret)
	return content.Configured() && secret.DeletionTimestamp.IsZero()
}

// drainingMark is what status says about an instance that is to go.
func (i *instance) drainingMark() *metav1.Time {
	if i.drainingSince.IsZero() {
		return nil
	}
	return ptr.To(metav1.NewTime(i.drainingSince.Truncate(timeResolution)))
}

// viewRemoved describes an instance that is to go.
func (s *scope) viewRemoved(v *view) {
	v.phase, v.reason = v1alpha1.InstanceTerminating, v1alpha1.ReasonScalingDown
	v.message = "It is one too many and is removed: it gets no new requests, and those that it has finish within its pods' grace period."
}
