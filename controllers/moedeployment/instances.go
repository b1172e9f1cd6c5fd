// SPDX-License-Identifier: Apache-2.0

package moedeployment

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	corev1ac "k8s.io/client-go/applyconfigurations/core/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/findep/findep-operator/api/v1alpha1"
	"github.com/findep/findep-operator/controllers/render"
	"github.com/findep/findep-operator/runtime/plan"
)

// defaultBackoff applies when recovery.backoffSeconds is not given.
const defaultBackoff = 5 * time.Second

// nudgeInterval is the time a changed configuration is given to arrive.
const nudgeInterval = 10 * time.Second

// planInstances decides what each instance needs. While it is open which of them
// is to go, none of them changes.
func (s *scope) planInstances() {
	if s.surplus() > 0 {
		return
	}
	for i, action := range planRollout(s.rolloutFacts(), s.rolloutLimits()) {
		s.instances[i].action = action
	}
}

// reconcileInstances carries out what each instance needs. One that fails does
// not keep the others from their turn.
func (r *Reconciler) reconcileInstances(ctx context.Context, s *scope) error {
	s.considerScaleDown()
	s.considerMoves()
	var errs []error
	for _, in := range s.instances {
		if err := r.carryOut(ctx, s, in); err != nil {
			errs = append(errs, fmt.Errorf("instance %d: %w", in.index, err))
		}
	}
	return errors.Join(errs...)
}

// leaving says that every pod of an instance is on its way out.
func leaving(i *instance) bool {
	for _, pod := range i.pods {
		if !terminating(pod) {
			return false
		}
	}
	return true
}

func (r *Reconciler) carryOut(ctx context.Context, s *scope, i *instance) error {
	switch i.action {
	case remove:
		return r.removeInstance(ctx, s, i)
	case recreate:
		s.note(v1alpha1.ReasonRollingOut, "Recreate", "Recreating instance %d for revision %s", i.index, s.resolved.Revision)
		return r.deletePods(ctx, i)
	case restart:
		if !leaving(i) {
			s.note(v1alpha1.ReasonRecovering, "Recreate", "Recreating instance %d, which has failed", i.index)
		}
		return r.deletePods(ctx, i)
	case relocate:
		return r.moveInstance(ctx, s, i)
	case complete:
		return r.completeInstance(ctx, s, i)
	default:
		return nil
	}
}

// completeInstance makes the pods that an instance lacks.
func (r *Reconciler) completeInstance(ctx context.Context, s *scope, i *instance) error {
	if !i.configured {
		// Pods without configuration and certificate could not start; the failure is
		// reported.
		return nil
	}
	in := s.input(i)
	in.ConfigHash = i.configHash
	missing, wait := r.missing(s, i, in)
	if wait > 0 {
		s.madePods = true
		s.requeue(wait)
		return nil
	}
	if ready, err := r.reconcileGang(ctx, s, i, in); err != nil || !ready {
		return err
	}
	var errs []error
	for rank := range in.Attention + in.Expert {
		if !slices.Contains(missing, rank) {
			errs = append(errs, r.keepPod(ctx, s, i, in, rank))
		}
	}
	if len(i.pods) == 0 {
		r.backlog.wait(ctx, r.Clock.Now)
	}
	if len(missing) > 0 {
		in.Avoid = s.avoid()
		in.Near = r.places.choose(in, s.nodes, i.pods, missing, s.now)
	}
	made, err := r.createPods(ctx, s, in, missing)
	s.madePods = s.madePods || made > 0
	// That a new instance gets its pods goes without saying, and a rollout has said
	// so already.
	if before := s.statusOf(i.index); made > 0 && before != nil && before.Revision == in.Revision {
		s.note(v1alpha1.ReasonCreating, "Create", "Created %d of the %d pods of instance %d", made, in.Attention+in.Expert, i.index)
	}
	return errors.Join(append(errs, err)...)
}

// missing returns the ranks that have no pod, and for how long to wait first since
// one of them was made and the cache does not know it yet.
func (r *Reconciler) missing(s *scope, i *instance, in *render.Input) (ranks []int, wait time.Duration) {
	for rank := range in.Attention + in.Expert {
		name := render.PodName(s.owner.Name, i.index, in.Attention, rank)
		if i.pods[name] == nil {
			ranks = append(ranks, rank)
			wait = max(wait, r.expected.wait(types.NamespacedName{Namespace: s.owner.Namespace, Name: name}, s.now))
		}
	}
	return ranks, wait
}

func (s *scope) input(i *instance) *render.Input {
	return render.NewInput(s.owner, i.index, s.target(i))
}

// config is what the ranks of an instance are told.
func (s *scope) config(i *instance) *plan.Instance {
	return render.Config(s.owner, i.index, s.target(i))
}

// createPods makes the pods of the given ranks and returns how many it made.
//
// They are created and not applied: a pod's spec never changes, so there is
// nothing to own, an apply could not tell a pod that just came into being from
// one that it makes, and creating costs the API server a fraction. They are
// created one after the other: a burst of them overruns the API server's watches,
// the scheduler's among others, which then begin again after a pause. Throughput
// comes from deployments side by side.
func (r *Reconciler) createPods(ctx context.Context, s *scope, in *render.Input, ranks []int) (made int, err error) {
	var errs []error
	for _, rank := range ranks {
		wanted, err := render.PatchedPod(in, rank)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		created, err := r.createPod(ctx, s, wanted)
		if err != nil {
			errs = append(errs, err)
		}
		if created {
			made++
		}
	}
	return made, errors.Join(errs...)
}

func (r *Reconciler) createPod(ctx context.Context, s *scope, wanted *corev1ac.PodApplyConfiguration) (created bool, err error) {
	var pod corev1.Pod
	if err := convert(wanted, &pod); err != nil {
		return false, fmt.Errorf("pod %s: %w", *wanted.Name, err)
	}
	key := client.ObjectKeyFromObject(&pod)
	r.expected.add(key, r.Clock.Now())
	err = r.Client.Create(ctx, &pod, FieldOwner)
	if err != nil {
		r.expected.remove(key)
	}
	if apierrors.IsAlreadyExists(err) {
		// It is either ours, and the cache lags, or somebody else's.
		err = r.ensureFree(ctx, s, wanted)
		return false, err
	}
	if err != nil {
		return false, fmt.Errorf("pod %s: %w", pod.Name, err)
	}
	r.backlog.add(pod.UID, r.Clock.Now())
	return true, nil
}

// keepPod replaces a pod that has ended, and tells one that runs of a new
// configuration.
func (r *Reconciler) keepPod(ctx context.Context, s *scope, i *instance, in *render.Input, rank int) error {
	pod := i.pods[render.PodName(s.owner.Name, i.index, in.Attention, rank)]
	switch {
	case terminating(pod):
		return nil
	case ended(pod):
		return r.replace(ctx, s, i, pod)
	case pod.Annotations[v1alpha1.AnnotationConfigHash] != in.ConfigHash:
		return r.announceConfig(ctx, pod, in.ConfigHash, "")
	}
	return nil
}

// announceConfig makes the kubelet look at a pod's volumes.
func (r *Reconciler) announceConfig(ctx context.Context, pod *corev1.Pod, hash, nudge string) error {
	ac := render.PodConfigHash(pod.Namespace, pod.Name, hash, nudge)
	// The uid makes the apply fail, instead of making a pod without a spec, if
	// the pod was deleted a moment ago.
	ac.WithUID(pod.UID)
	if err := r.Client.Apply(ctx, ac, configOwner, client.ForceOwnership); err != nil {
		return fmt.Errorf("pod %s: %w", pod.Name, err)
	}
	return nil
}

// nudge announces the configuration again, at most every nudgeInterval, to
// leaders that still report another schedule than the one applied.
func (r *Reconciler) nudge(ctx context.Context, s *scope) error {
	var errs []error
	for _, i := range s.instances {
		if i.observation == nil || i.scheduleHash == "" || i.observation.ScheduleHash == i.scheduleHash {
			continue
		}
		pod := leaderOf(i)
		if pod == nil {
			continue
		}
		value := strconv.FormatInt(s.now.Unix()/int64(nudgeInterval.Seconds()), 10)
		// The pass that changed the hash has just announced it.
		if pod.Annotations[v1alpha1.AnnotationConfigHash] != i.configHash || pod.Annotations[v1alpha1.AnnotationConfigNudge] == value {
			continue
		}
		errs = append(errs, r.announceConfig(ctx, pod, i.configHash, value))
	}
	return errors.Join(errs...)
}

// replace deletes a pod that has ended, once the pause after it is over. Its
// successor is made when the name is free.
func (r *Reconciler) replace(ctx context.Context, s *scope, i *instance, pod *corev1.Pod) error {
	if wait := recoveryOf(s.deployment.Spec.Recovery).wait(i.history, s.now); wait > 0 {
		s.requeue(wait)
		return nil
	}
	s.note(v1alpha1.ReasonRecovering, "Replace", "Replacing pod %s, which has ended", pod.Name)
	return r.delete(ctx, pod)
}

// deletePods deletes the pods of an instance.
func (r *Reconciler) deletePods(ctx context.Context, i *instance) error {
	var errs []error
	for _, pod := range sorted(i.pods) {
		if !terminating(pod) {
			errs = append(errs, r.delete(ctx, pod))
		}
	}
	return errors.Join(errs...)
}

// removeInstance deletes everything that belongs to an instance that is one too
// many: first the pods, and what they use once they are gone. Deleting the pods
// drains the instance: its leader gets no new requests, and ends only when those
// that it has are done or the pods' grace period is over.
func (r *Reconciler) removeInstance(ctx context.Context, s *scope, i *instance) error {
	if len(i.pods) > 0 {
		return r.deletePods(ctx, i)
	}
	// The configuration goes last: as long as it is there, the instance is known.
	if err := r.deleteGang(ctx, s, i); err != nil {
		return err
	}
	return r.removeSecret(ctx, s, i)
}

// delete deletes exactly the object that was read: not a namesake that has taken
// its place since.
func (r *Reconciler) delete(ctx context.Context, o client.Object) error {
	err := r.Client.Delete(ctx, o, client.Preconditions{UID: ptr.To(o.GetUID())})
	return client.IgnoreNotFound(err)
}
