// SPDX-License-Identifier: Apache-2.0

package moedeployment

import (
	"fmt"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/findep/findep-operator/api/v1alpha1"
	"github.com/findep/findep-operator/controllers/resolve"
	"github.com/findep/findep-operator/runtime/plan"
)

// timeResolution is what metav1.Time keeps; finer times would look changed after
// every round trip.
const timeResolution = time.Second

// accuracyLimit is the prediction error, in per cent, above which a profile does
// not describe the GPUs.
const accuracyLimit = 15

// verdict is a condition before it is written.
type verdict struct {
	status  metav1.ConditionStatus
	reason  string
	message string
}

func yes(reason, message string) verdict { return verdict{metav1.ConditionTrue, reason, message} }
func no(reason, message string) verdict  { return verdict{metav1.ConditionFalse, reason, message} }
func unknown(reason, message string) verdict {
	return verdict{metav1.ConditionUnknown, reason, message}
}

// computeConditions sets every condition that this pass has the facts for.
func (s *scope) computeConditions(st *v1alpha1.MoEDeploymentStatus) {
	set := func(kind string, v verdict) { s.setCondition(st, kind, v.status, v.reason, v.message) }
	if !s.deployment.DeletionTimestamp.IsZero() {
		const message = "The object is being deleted; what was made for it goes with it."
		set(v1alpha1.ConditionAvailable, no(v1alpha1.ReasonDeleting, message))
		set(v1alpha1.ConditionProgressing, yes(v1alpha1.ReasonDeleting, message))
		return
	}
	if s.resolved == nil {
		set(v1alpha1.ConditionProgressing, no(v1alpha1.ReasonReconcileFailed, strings.Join(s.failures, "; ")))
		return
	}
	views := s.views()
	set(v1alpha1.ConditionModelResolved, finding(s.resolved.Model))
	set(v1alpha1.ConditionFeasible, s.feasible())
	set(v1alpha1.ConditionScheduled, s.scheduled(views))
	set(v1alpha1.ConditionRendezvousComplete, s.rendezvous(views))
	set(v1alpha1.ConditionAvailable, s.available(views))
	set(v1alpha1.ConditionProgressing, s.progressing(views))
	set(v1alpha1.ConditionPredictionAccurate, s.predictionAccurate())
	set(v1alpha1.ConditionSLOAttained, s.sloAttained())
	if s.nodes != nil {
		set(v1alpha1.ConditionNodesHealthy, s.nodesHealthy())
	}
	set(v1alpha1.ConditionFullyActedOn, s.fullyActedOn())
}

// instanceView is a view with the instance that it is of.
type instanceView struct {
	view
	*instance
}

// views describes the instances that are wanted.
func (s *scope) views() []instanceView {
	var list []instanceView
	for _, i := range s.instances {
		if i.wanted {
			list = append(list, instanceView{s.view(i), i})
		}
	}
	return list
}

func finding(f resolve.Finding) verdict {
	if f.OK {
		return yes(f.Reason, f.Message)
	}
	return no(f.Reason, f.Message)
}

func (s *scope) feasible() verdict {
	if !s.resolved.Model.OK {
		return unknown(v1alpha1.ReasonModelNotResolved, s.resolved.Feasible.Message)
	}
	return finding(s.resolved.Feasible)
}

func (s *scope) scheduled(views []instanceView) verdict {
	if s.resolved.GangMissing {
		return no(v1alpha1.ReasonGangNotServed, s.resolved.GangProblem)
	}
	if len(views) == 0 {
		return unknown(v1alpha1.ReasonNoInstances, "spec.replicas is 0.")
	}
	pods := 0
	for _, v := range views {
		pods += len(v.pods)
		switch {
		case v.reason == v1alpha1.ReasonInfeasible:
			return unknown(v1alpha1.ReasonInfeasible, "No pods are made; see ModelResolved and Feasible.")
		case v.schedulerSays != "":
			return no(v1alpha1.ReasonUnschedulable, fmt.Sprintf("Instance %d: %s", v.index, v.message))
		case v.unscheduled > 0:
			return no(v1alpha1.ReasonWaitingForScheduler, fmt.Sprintf("Instance %d: the scheduler has not placed %d of %d pods yet.", v.index, v.unscheduled, v.size))
		case len(v.pods) < v.size || len(v.pods) == 0:
			return no(v1alpha1.ReasonPodsNotCreated, fmt.Sprintf("Instance %d has %d of %d pods.", v.index, len(v.pods), v.size))
		}
	}
	return yes(v1alpha1.ReasonAllPodsScheduled, fmt.Sprintf("All %d pods have a node, %s.", pods, s.gangRemark()))
}

func (s *scope) gangRemark() string {
	d := &s.resolved.Decision
	switch {
	case d.Gang && d.Backend == v1alpha1.BackendPodGroup:
		return "placed as one gang per instance"
	case d.Gang:
		return fmt.Sprintf("placed as one gang per instance by %s", d.Backend)
	case s.deployment.Spec.Placement.Gang == v1alpha1.GangOff:
		return "placed one by one (placement.gang is Off)"
	case s.facts.GangServed:
		return "placed one by one (the instances were made before this API server served PodGroups)"
	default:
		return "placed one by one (this API server does not serve scheduling.k8s.io/v1beta1 PodGroups, nor another backend)"
	}
}

func (s *scope) rendezvous(views []instanceView) verdict {
	if len(views) == 0 {
		return unknown(v1alpha1.ReasonNoInstances, "spec.replicas is 0.")
	}
	if s.vllm() {
		return s.vllmRendezvous(views)
	}
	for _, v := range views {
		switch o := v.observation; {
		case v.reason == v1alpha1.ReasonInfeasible:
			return unknown(v1alpha1.ReasonInfeasible, "No pods are made; see ModelResolved and Feasible.")
		case o != nil && o.Formed:
		case o != nil:
			return no(v1alpha1.ReasonRanksMissing, fmt.Sprintf("Instance %d %s%s",
				v.index, waitsFor(s.missingRanks(v.instance, v.size)), rankComplaint(o)))
		case v.observeError != "":
			return unknown(v1alpha1.ReasonLeaderUnreachable, fmt.Sprintf("The leader of instance %d (pod of rank 0) runs but cannot be read by the operator.", v.index))
		default:
			return no(v1alpha1.ReasonLeaderNotRunning, fmt.Sprintf("The leader of instance %d (pod of rank 0) does not run yet.", v.index))
		}
	}
	return yes(v1alpha1.ReasonAllRanksJoined, "Every rank of every instance has joined.")
}

// rankComplaint is the first reason that the leader knows for a rank to be
// missing.
func rankComplaint(o *plan.Observation) string {
	for _, r := range o.Ranks {
		if !r.Joined && r.Message != "" {
			return fmt.Sprintf(" Rank %d: %s", r.Rank, tail(r.Message))
		}
	}
	return ""
}

func (s *scope) available(views []instanceView) verdict {
	if len(views) == 0 {
		return yes(v1alpha1.ReasonNoInstances, "spec.replicas is 0; nothing is served.")
	}
	serving := s.surgeServing()
	var first *instanceView
	for i := range views {
		if views[i].phase == v1alpha1.InstanceServing {
			serving++
		} else if first == nil {
			first = &views[i]
		}
	}
	if serving >= max(1, len(views)-s.maxUnavailable()) {
		return yes(v1alpha1.ReasonServing, fmt.Sprintf("%d of %d instances serve at http://%s.%s.svc:%d.",
			serving, len(views), s.owner.Name, s.owner.Namespace, plan.ServingPort))
	}
	if len(first.pods) == 0 {
		if v, stuck := s.nothingMade(); stuck {
			return v
		}
	}
	return no(first.reason, fmt.Sprintf("Instance %d: %s", first.index, first.message))
}

// nothingMade says why no pods are made, if there is a reason.
func (s *scope) nothingMade() (verdict, bool) {
	switch {
	case !s.resolved.Model.OK:
		return no(v1alpha1.ReasonInfeasible, s.resolved.Model.Message), true
	case !s.resolved.Feasible.OK:
		return no(v1alpha1.ReasonInfeasible, s.resolved.Feasible.Message), true
	case s.resolved.GangMissing:
		return no(v1alpha1.ReasonGangNotServed, "The backend that spec.placement asks for cannot be had; see condition Scheduled."), true
	case len(s.failures) > 0:
		return no(v1alpha1.ReasonReconcileFailed, strings.Join(s.failures, "; ")), true
	}
	return verdict{}, false
}

func (s *scope) progressing(views []instanceView) verdict {
	if len(s.failures) > 0 {
		return no(v1alpha1.ReasonReconcileFailed, strings.Join(s.failures, "; "))
	}
	if v, stuck := s.nothingMade(); stuck {
		return no(v1alpha1.ReasonBlocked, v.message)
	}
	if extra := s.removed(); extra > 0 {
		return yes(v1alpha1.ReasonScalingDown, fmt.Sprintf("Being removed: %s.", resolve.Plural(extra, "instance")))
	}
	if v, rolling := s.rolling(views); rolling {
		return v
	}
	for _, v := range views {
		switch {
		case v.phase == v1alpha1.InstanceServing:
		case v.blocked:
			return no(v1alpha1.ReasonBlocked, fmt.Sprintf("Instance %d: %s", v.index, v.message))
		case v.ready > 0 || v.phase == v1alpha1.InstanceTerminating:
			return yes(v1alpha1.ReasonRecovering, fmt.Sprintf("Instance %d: %s", v.index, v.message))
		default:
			return yes(v1alpha1.ReasonCreating, fmt.Sprintf("Instance %d: %s", v.index, v.message))
		}
	}
	if held := s.held(views); held != "" {
		return no(v1alpha1.ReasonComplete, held)
	}
	return no(v1alpha1.ReasonComplete, "Everything is as the spec says.")
}

// removed is the number of instances on their way out.
func (s *scope) removed() int {
	n := 0
	for _, i := range s.instances {
		if !i.live() && s.remains(i) {
			n++
		}
	}
	return n
}

// surgeServing is the number of surge instances that serve.
func (s *scope) surgeServing() int {
	n := 0
	for _, i := range s.instances {
		if i.surge && s.serving(i) {
			n++
		}
	}
	return n
}

// rolling describes a rollout that is under way.
func (s *scope) rolling(views []instanceView) (verdict, bool) {
	old, due, waits := 0, 0, false
	for n, v := range views {
		if s.old(v.instance) {
			old++
			// Ordinals, as in planRollout: after a scale-down indexes have gaps.
			if n >= int(s.deployment.Spec.Rollout.Partition) {
				due++
			}
			waits = waits || v.waits
		}
	}
	if due == 0 {
		return verdict{}, false
	}
	message := fmt.Sprintf("%d of %d instances are at the current revision.", len(views)-old, len(views))
	if s.deployment.Spec.Rollout.Paused == v1alpha1.Enabled {
		return no(v1alpha1.ReasonPaused, message+" The rollout is held by rollout.paused."), true
	}
	if waits {
		message += fmt.Sprintf(" The next one waits for its turn: rollouts, those of other deployments too, have yet to find nodes for %d pods or more.", owedLimit)
	}
	return yes(v1alpha1.ReasonRollingOut, message), true
}

// held describes a rollout that has come as far as rollout.partition lets it.
func (s *scope) held(views []instanceView) string {
	old := 0
	for _, v := range views {
		if s.old(v.instance) {
			old++
		}
	}
	if old == 0 {
		return ""
	}
	return fmt.Sprintf("%d of %d instances are at the current revision; rollout.partition (%d) keeps the others at the one they have.",
		len(views)-old, len(views), s.deployment.Spec.Rollout.Partition)
}

func (s *scope) predictionAccurate() verdict {
	if s.vllm() {
		return s.vllmMeasures("Steps are not predicted")
	}
	if mismatch := s.profileMismatch(); mismatch != "" {
		return no(v1alpha1.ReasonProfileMismatch, mismatch)
	}
	compared := false
	for _, i := range s.instances {
		o := i.observation
		if o == nil || !i.wanted {
			continue
		}
		for _, p := range []struct {
			name string
			*plan.PhaseObservation
		}{{"prefill", o.Prefill}, {"decode", o.Decode}} {
			if p.PhaseObservation == nil || p.MeasuredMilliseconds <= 0 || p.PredictedMilliseconds <= 0 {
				continue
			}
			compared = true
			if predictionError(p.PhaseObservation) > accuracyLimit {
				return no(v1alpha1.ReasonErrorAbove15Percent, fmt.Sprintf(
					"Instance %d: %s steps take longer or shorter than predicted by more than %d %%; status.observed has the figures. The GPU profile does not describe these GPUs: calibrate one.",
					i.index, p.name, accuracyLimit))
			}
		}
	}
	if !compared {
		return unknown(v1alpha1.ReasonNoMeasurement, "No step has been measured yet.")
	}
	return yes(v1alpha1.ReasonWithin15Percent, fmt.Sprintf("Measured steps are within %d %% of the prediction.", accuracyLimit))
}

// profileMismatch is the first rank that computes on another device than the one
// that was planned with, and how many more do; empty if none does.
func (s *scope) profileMismatch() string {
	first, more := "", 0
	for _, i := range s.instances {
		if i.observation == nil || !i.wanted {
			continue
		}
		for _, r := range i.observation.Ranks {
			switch {
			case r.ProfileMismatch == "":
			case first == "":
				first = fmt.Sprintf("Instance %d, rank %d: %s", i.index, r.Rank, tail(r.ProfileMismatch))
			default:
				more++
			}
		}
	}
	if more > 0 {
		first += fmt.Sprintf(" %d more do not match either.", more)
	}
	return first
}

func (s *scope) sloAttained() verdict {
	slo := s.deployment.Spec.SLO
	if slo.TimeToFirstTokenMilliseconds == 0 && slo.TimePerOutputTokenMilliseconds == 0 {
		return unknown(v1alpha1.ReasonNoObjective, "spec.slo sets no objective.")
	}
	if s.vllm() {
		return s.vllmMeasures("Latencies are not read by the operator")
	}
	measured := false
	for _, i := range s.instances {
		if !i.wanted || i.observation == nil || i.observation.Serving == nil {
			continue
		}
		o := i.observation.Serving
		measured = measured || o.TimeToFirstTokenMilliseconds > 0
		if limit := slo.TimeToFirstTokenMilliseconds; limit > 0 && o.TimeToFirstTokenMilliseconds > float64(limit) {
			return no(v1alpha1.ReasonTimeToFirstTokenExceeded, fmt.Sprintf("Instance %d: the first token takes about %d ms; the objective is %d ms.", i.index, rounded(o.TimeToFirstTokenMilliseconds), limit))
		}
		if limit := slo.TimePerOutputTokenMilliseconds; limit > 0 && o.TimePerOutputTokenMilliseconds > float64(limit) {
			return no(v1alpha1.ReasonTimePerOutputTokenExceeded, fmt.Sprintf("Instance %d: an output token takes about %d ms; the objective is %d ms.", i.index, rounded(o.TimePerOutputTokenMilliseconds), limit))
		}
	}
	if !measured {
		return unknown(v1alpha1.ReasonNoMeasurement, "No request has been measured yet.")
	}
	return yes(v1alpha1.ReasonAttained, "Observed latencies are within spec.slo.")
}

func (s *scope) fullyActedOn() verdict {
	if list := s.resolved.NotActedOn; len(list) > 0 {
		return no(v1alpha1.ReasonFieldsNotActedOn, "Accepted, but without effect in this version: "+strings.Join(list, "; ")+".")
	}
	message := "Every field that is set has an effect."
	if w := s.resolved.Warnings; len(w) > 0 {
		message += " Note: " + strings.Join(w, "; ") + "."
	}
	return yes(v1alpha1.ReasonAllFieldsActedOn, message)
}
