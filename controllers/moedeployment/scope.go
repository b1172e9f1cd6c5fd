// SPDX-License-Identifier: Apache-2.0

package moedeployment

import (
	"fmt"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	schedulingv1beta1 "k8s.io/api/scheduling/v1beta1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/utils/ptr"

	"github.com/findep/findep-operator/api/v1alpha1"
	"github.com/findep/findep-operator/controllers/certs"
	"github.com/findep/findep-operator/controllers/render"
	"github.com/findep/findep-operator/controllers/resolve"
	"github.com/findep/findep-operator/runtime/plan"
)

// scope holds everything known about one MoEDeployment during one pass.
type scope struct {
	// deployment is the object with the status in the making, original the
	// object as it was read. Set by newScope.
	deployment, original *v1alpha1.MoEDeployment
	// now is the time of this pass. Set by newScope.
	now time.Time
	// owner is what children refer to. Set by newScope.
	owner render.Owner

	// gathered says that everything below up to facts was read. Set by gather.
	gathered bool
	// services and secrets are the children by name. Set by gather.
	services map[string]*corev1.Service
	secrets  map[string]*corev1.Secret
	// instances are in order of index: those wanted, and those that still have
	// children. Set by gather.
	instances []*instance
	// revisions are the ControllerRevisions by name. Set by gather.
	revisions map[string]*appsv1.ControllerRevision
	// budget is the PodDisruptionBudget; nil if there is none. Set by gather.
	budget *policyv1.PodDisruptionBudget
	// nodes are the nodes by name; nil if they may not be read. Set by gather.
	nodes map[string]*corev1.Node
	// unhealthy is the list that status is to have of GPUs that failed, as soon as
	// movesConsidered. Set by considerMoves.
	unhealthy       []v1alpha1.UnhealthyGPU
	movesConsidered bool
	// facts is what resolve decides from. Set by gather.
	facts resolve.Facts

	// resolved is what shall be made. Set by Reconcile; nil during deletion.
	resolved *resolve.Result
	// first is the first revision, as render.FirstRevision in JSON, as long as there
	// is no other. Set by reconcileRevisions.
	first []byte
	// authority issues certificates. Set by reconcileSecrets; nil if that failed.
	authority *certs.Authority

	// requeueAfter is the earliest time at which there is something to do that no
	// watch tells of; 0 means none. Set through requeue.
	requeueAfter time.Duration
	// failures are the phases that failed. Set through fail.
	failures []string
	// madePods says that this pass made pods. Set by completeInstance.
	madePods bool
	// notes are events about what was done. Set through note.
	notes []note
}

// instance is one attention group and its expert group.
type instance struct {
	index int32
	// wanted is false for instances that are to go, and for surge instances. Set by
	// considerMembers, taken back by considerRollout and considerScaleDown.
	wanted bool
	// listed says that status lists it. Set by considerMembers.
	listed bool
	// drainingSince is when it was chosen to be removed; zero if it was not. Set by
	// considerMembers from status, and by considerScaleDown.
	drainingSince time.Time
	// surge is true for instances beyond spec.replicas that stand in for others
	// during a rollout. Set by considerRollout.
	surge bool
	// target is what it is to be like if that is an older revision, at which the
	// rollout holds it; nil means the current one. Set by considerRollout.
	target *resolve.Result
	// pods are its pods, those being deleted too, by name. Set by gather, and
	// reduced by reconcileInstances when it deletes some.
	pods map[string]*corev1.Pod
	// groups are its PodGroups by name. Set by gather.
	groups map[string]*schedulingv1beta1.PodGroup

	// history is what is known of its failures, remedy what follows from it for an
	// instance at the current revision. Set by considerRecovery.
	history history
	remedy  remedy

	// sick says of its pods on GPUs that are to be repaired, by name, why. Set by
	// considerDevices.
	sick map[string]signal
	// leaves are the nodes of those, move is what is done about it. Set by
	// considerMoves.
	leaves []string
	move   move
	// moving is its mark in status. Set by considerMembers from status, and by
	// considerMoves.
	moving *v1alpha1.MoveStatus

	// action is what this pass does with it. Set by planInstances, taken back by
	// considerTurns and, for moves, set by considerMoves.
	action action
	// waits says that it is to be recreated, but not before others have come up
	// again. Set by considerTurns.
	waits bool
	// scheduleHash identifies the schedule settings that it is to have, configHash
	// the whole configuration. Set by reconcileSecrets.
	scheduleHash, configHash string
	// configured says that its Secret has that configuration. Set by
	// reconcileSecrets.
	configured bool
	// observation is what the leader says, observeError why it says nothing.
	// Set by observe; both are empty if there is no leader to ask.
	observation  *plan.Observation
	observeError string
}

func newScope(d *v1alpha1.MoEDeployment, now time.Time) *scope {
	return &scope{
		deployment: d, original: d.DeepCopy(), now: now,
		owner: render.Owner{Namespace: d.Namespace, Name: d.Name, UID: d.UID},
	}
}

// replicas is the number of instances that are wanted.
func (s *scope) replicas() int32 { return ptr.Deref(s.deployment.Spec.Replicas, 1) }

// live says that an instance is to have pods: it is wanted, or stands in for one.
func (i *instance) live() bool { return i.wanted || i.surge }

// fail remembers that a phase failed and names it in the error.
func (s *scope) fail(phase string, err error) error {
	err = fmt.Errorf("%s: %w", phase, err)
	s.failures = append(s.failures, err.Error())
	return err
}

// requeue asks for another pass after d at the latest.
func (s *scope) requeue(d time.Duration) {
	if d > 0 && (s.requeueAfter == 0 || d < s.requeueAfter) {
		s.requeueAfter = d
	}
}

// note plans an event.
func (s *scope) note(reason, action, format string, args ...any) {
	s.notes = append(s.notes, note{corev1.EventTypeNormal, reason, action, fmt.Sprintf(format, args...)})
}

func (s *scope) statusChanged() bool {
	return !equality.Semantic.DeepEqual(s.original.Status, s.deployment.Status)
}

// find returns the instance with an index; nil if there is none.
func (s *scope) find(index int32) *instance {
	for _, i := range s.instances {
		if i.index == index {
			return i
		}
	}
	return nil
}

// byIndex returns the instance with an index, making it if need be.
func (s *scope) byIndex(index int32) *instance {
	at, found := slices.BinarySearchFunc(s.instances, index, func(i *instance, index int32) int {
		return int(i.index - index)
	})
	if !found {
		s.instances = slices.Insert(s.instances, at, &instance{
			index: index, pods: map[string]*corev1.Pod{},
			groups: map[string]*schedulingv1beta1.PodGroup{},
		})
	}
	return s.instances[at]
}
