// SPDX-License-Identifier: Apache-2.0

package moedeployment

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	appsv1 "k8s.io/api/apps/v1"

	"github.com/findep/findep-operator/api/v1alpha1"
	"github.com/findep/findep-operator/controllers/render"
	"github.com/findep/findep-operator/controllers/resolve"
)

// historyLimit is the number of revisions that are kept beside those in use.
const historyLimit = 10

// maxFirstRevision is the largest intent, in bytes, that goes into a Secret, which
// may have a mebibyte. A model's config.json, if there is one, is most of it.
const maxFirstRevision = 128 << 10

// rolloutLimits are the user's bounds, with the defaults filled in.
func (s *scope) rolloutLimits() rolloutLimits {
	rollout := s.deployment.Spec.Rollout
	return rolloutLimits{
		maxUnavailable: s.maxUnavailable(), maxSurge: int(rollout.MaxSurge), partition: rollout.Partition,
		paused: rollout.Paused == v1alpha1.Enabled, feasible: s.resolved.OK(),
	}
}

// maxUnavailable is 1 unless the user gives another number or a surge, which
// makes it unnecessary that anything is down.
func (s *scope) maxUnavailable() int {
	rollout := s.deployment.Spec.Rollout
	if rollout.MaxUnavailable == 0 && rollout.MaxSurge == 0 {
		return 1
	}
	return int(rollout.MaxUnavailable)
}

func (s *scope) rolloutFacts() []instanceFacts {
	facts := make([]instanceFacts, len(s.instances))
	ordinal := int32(0)
	for n, i := range s.instances {
		facts[n] = instanceFacts{ordinal: ordinal, wanted: i.wanted, surge: i.surge, serving: s.serving(i), remedy: i.remedy}
		facts[n].outdated, facts[n].terminating = s.age(i)
		if i.wanted {
			ordinal++
		}
	}
	return facts
}

// target is what an instance is to be like; nil during deletion.
func (s *scope) target(i *instance) *resolve.Result {
	if i.target != nil {
		return i.target
	}
	return s.resolved
}

// age says whether an instance has pods of another revision than its target,
// and whether all of those are on their way out.
func (s *scope) age(i *instance) (outdated, leaving bool) {
	target := s.target(i)
	leaving = true
	for _, pod := range i.pods {
		if target != nil && revisionOf(pod) != target.Revision {
			outdated = true
			leaving = leaving && terminating(pod)
		}
	}
	return outdated, leaving
}

// old says whether an instance has pods of another revision than the current
// one, be it on purpose.
func (s *scope) old(i *instance) bool {
	for _, pod := range i.pods {
		if s.resolved != nil && revisionOf(pod) != s.resolved.Revision {
			return true
		}
	}
	return false
}

// considerRollout finds the instances that stay at an older revision, which are
// repaired at that one, and those that stand in for others.
func (s *scope) considerRollout() {
	limits := s.rolloutLimits()
	s.considerSurge(limits)
	targets := map[string]*resolve.Result{}
	for n, f := range s.rolloutFacts() {
		i := s.instances[n]
		revision := s.revisionOfInstance(i)
		if !f.wanted || due(f, limits) || revision == "" || revision == s.resolved.Revision {
			continue
		}
		if _, known := targets[revision]; !known {
			targets[revision] = s.resolveRevision(revision)
		}
		i.target = targets[revision]
	}
}

// considerSurge takes those instances beyond spec.replicas that are at the
// current revision for surge instances, the highest indexes first, as far as the
// rollout needs them, and plans the ones that are missing. What is left of the
// surplus is considerScaleDown's to choose from.
func (s *scope) considerSurge(limits rolloutLimits) {
	surplus := s.surplus()
	for _, i := range slices.Backward(s.instances) {
		if surplus > 0 && i.wanted && !s.old(i) && s.surges() < limits.maxSurge {
			i.wanted, i.surge = false, true
			surplus--
		}
	}
	needed := surgeOf(s.rolloutFacts(), limits)
	for _, i := range s.instances {
		if i.surge && s.surges() > needed {
			i.wanted, i.surge = true, false
		}
	}
	if s.surplus() > 0 {
		return
	}
	for index := int32(0); s.surges() < needed; index++ {
		if i := s.byIndex(index); !i.listed && len(i.pods) == 0 && !i.wanted && i.drainingSince.IsZero() {
			i.surge = true
		}
	}
}

// surges is the number of surge instances.
func (s *scope) surges() int {
	n := 0
	for _, i := range s.instances {
		if i.surge {
			n++
		}
	}
	return n
}

// revisionOfInstance is the revision of an instance's pods or, if they are gone,
// of its configuration.
func (s *scope) revisionOfInstance(i *instance) string {
	for _, pod := range sorted(i.pods) {
		return revisionOf(pod)
	}
	if c := s.secrets[render.SecretName(s.owner.Name, i.index)]; c != nil {
		return c.Labels[v1alpha1.LabelRevision]
	}
	return ""
}

// resolveRevision resolves an older revision again from its ControllerRevision
// and from the decision that its instances were made from; nil if it is not
// known any more.
func (s *scope) resolveRevision(revision string) *resolve.Result {
	intent := s.intentOf(revision)
	if intent == nil {
		return nil
	}
	d, config := intent.Restore(s.deployment)
	facts := s.facts
	facts.Config, facts.Existing = config, s.existingDecision(revision)
	r := resolve.Resolve(d, facts)
	if r.Revision != revision || !r.OK() {
		return nil
	}
	return r
}

// intentOf finds the intent of a revision; nil if it is not kept.
func (s *scope) intentOf(revision string) *resolve.Intent {
	stored := s.revisions[render.RevisionName(s.owner.Name, revision)]
	if stored == nil {
		if first := s.storedFirst(); first != nil && first.Revision == revision {
			return &first.Intent
		}
		return nil
	}
	var intent resolve.Intent
	if err := json.Unmarshal(stored.Data.Raw, &intent); err != nil {
		return nil
	}
	return &intent
}

// storedFirst is the revision that is kept in the Secret of instance 0; nil if
// there is none.
func (s *scope) storedFirst() *render.FirstRevision {
	var first render.FirstRevision
	stored := render.ReadSecret(s.secrets[render.SecretName(s.owner.Name, 0)]).First
	if len(stored) == 0 || json.Unmarshal(stored, &first) != nil {
		return nil
	}
	return &first
}

// reconcileRevisions keeps every intent of the user that was carried out: the
// first in the Secret of instance 0, and as ControllerRevisions as soon as there
// is a second, the newest with the highest number. It forgets the oldest.
func (r *Reconciler) reconcileRevisions(ctx context.Context, s *scope) error {
	if len(s.revisions) == 0 {
		s.first = render.ReadSecret(s.secrets[render.SecretName(s.owner.Name, 0)]).First
	}
	if !s.resolved.OK() {
		return nil
	}
	intent := resolve.IntentOf(s.deployment, s.facts.Config)
	name := render.RevisionName(s.owner.Name, s.resolved.Revision)
	number := nextNumber(s.revisions, name)
	if len(s.revisions) == 0 {
		first := s.storedFirst()
		if first == nil || first.Revision == s.resolved.Revision {
			kept, err := s.keepFirst(intent)
			if err != nil || kept {
				return err
			}
		} else {
			if err := r.record(ctx, s, first.Revision, 1, first.Intent); err != nil {
				return err
			}
			number = 2
		}
	}
	if err := r.record(ctx, s, s.resolved.Revision, number, intent); err != nil {
		return err
	}
	var errs []error
	for _, old := range s.superfluous(name) {
		errs = append(errs, r.delete(ctx, old))
	}
	return errors.Join(errs...)
}

// keepFirst keeps the first revision for the Secret, unless it is too large to
// share it with everything else there.
func (s *scope) keepFirst(intent resolve.Intent) (bool, error) {
	b, err := json.Marshal(render.FirstRevision{Revision: s.resolved.Revision, Intent: intent})
	if err != nil {
		return false, fmt.Errorf("revision %s: %w", s.resolved.Revision, err)
	}
	if len(b) > maxFirstRevision {
		return false, nil
	}
	s.first = b
	return true, nil
}

// record applies a ControllerRevision.
func (r *Reconciler) record(ctx context.Context, s *scope, revision string, number int64, intent resolve.Intent) error {
	wanted, err := render.ControllerRevision(s.owner, revision, number, intent)
	if err != nil {
		return err
	}
	if err := r.apply(ctx, s, wanted, s.revisions[*wanted.Name]); err != nil {
		return fmt.Errorf("ControllerRevision: %w", err)
	}
	return nil
}

// nextNumber is the number of the current revision: the highest of all, its own
// if that is the highest already.
func nextNumber(revisions map[string]*appsv1.ControllerRevision, current string) int64 {
	highest := int64(0)
	for name, c := range revisions {
		if name != current {
			highest = max(highest, c.Revision)
		}
	}
	if c := revisions[current]; c != nil && c.Revision > highest {
		return c.Revision
	}
	return highest + 1
}

// superfluous are the oldest revisions that no instance is made from.
func (s *scope) superfluous(current string) []*appsv1.ControllerRevision {
	used := map[string]bool{current: true}
	for _, i := range s.instances {
		used[render.RevisionName(s.owner.Name, s.revisionOfInstance(i))] = true
	}
	var spare []*appsv1.ControllerRevision
	for c := range maps.Values(s.revisions) {
		if !used[c.Name] {
			spare = append(spare, c)
		}
	}
	slices.SortFunc(spare, func(a, b *appsv1.ControllerRevision) int { return cmp.Compare(b.Revision, a.Revision) })
	return spare[min(historyLimit, len(spare)):]
}
