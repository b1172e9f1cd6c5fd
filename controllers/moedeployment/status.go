// SPDX-License-Identifier: Apache-2.0

package moedeployment

import (
	"fmt"
	"math"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/utils/ptr"

	"github.com/findep/findep-operator/api/v1alpha1"
	"github.com/findep/findep-operator/controllers/render"
	"github.com/findep/findep-operator/controllers/resolve"
	"github.com/findep/findep-operator/runtime/plan"
)

// maxMissingRanks bounds the list in status.
const maxMissingRanks = 16

// computeStatus writes the whole status from the facts of this pass. It runs on
// every way out of Reconcile; what could not be read keeps its last value.
func (s *scope) computeStatus() {
	st := &s.deployment.Status
	if s.gathered {
		s.computeInstances(st)
		s.computeCounts(st)
	}
	if s.movesConsidered {
		st.UnhealthyGPUs = s.unhealthy
	}
	if s.resolved != nil {
		s.computeDecision(st)
		s.computeObserved(st)
	}
	s.computeConditions(st)
	if len(s.failures) == 0 {
		st.ObservedGeneration = s.deployment.Generation
	}
}

func (s *scope) computeCounts(st *v1alpha1.MoEDeploymentStatus) {
	var made, serving, updated int32
	for _, i := range s.instances {
		if len(i.pods) > 0 {
			made++
		}
		if i.wanted && s.serving(i) {
			serving++
		}
		if i.wanted && len(i.pods) > 0 && !s.old(i) {
			updated++
		}
	}
	st.Replicas, st.ReadyReplicas, st.UpdatedReplicas = ptr.To(made), ptr.To(serving), ptr.To(updated)
	st.Ready = fmt.Sprintf("%d/%d", serving, s.replicas())
	st.Selector = labels.Set(render.LeaderLabels(s.owner.Name)).String()
}

func (s *scope) computeInstances(st *v1alpha1.MoEDeploymentStatus) {
	list := make([]v1alpha1.InstanceStatus, 0, len(s.instances))
	for _, i := range s.instances {
		// A mark stays as long as there is something that it is about.
		marked := !i.drainingSince.IsZero() && s.remains(i)
		if !i.wanted && len(i.pods) == 0 && !marked {
			continue
		}
		list = append(list, s.instanceStatus(i, st.Instances))
	}
	st.Instances = list
}

func (s *scope) instanceStatus(i *instance, before []v1alpha1.InstanceStatus) v1alpha1.InstanceStatus {
	v := s.view(i)
	out := v1alpha1.InstanceStatus{
		Index: i.index, Phase: v.phase, Message: v.message,
		ReadyPods: int32(v.ready), Pods: int32(v.size),
	}
	i.history.writeTo(&out)
	out.DrainingSince, out.Moving = i.drainingMark(), i.moving
	out.Placement = s.placementOf(i, v.size)
	out.LastFailure, out.LastExitCode = lastFailure(sorted(i.pods))
	for _, pod := range sorted(i.pods) {
		out.Revision = revisionOf(pod)
	}
	// Failure, revision and epoch are last known values: the leader that knew them may just
	// be gone, which is when they are looked up.
	for _, b := range before {
		if b.Index == i.index {
			out.Epoch = b.Epoch
			if out.LastFailure == "" {
				out.LastFailure = b.LastFailure
			}
			if out.LastExitCode == nil {
				out.LastExitCode = b.LastExitCode
			}
			if len(i.pods) == 0 {
				out.Revision = b.Revision
			}
		}
	}
	if o := i.observation; o != nil {
		out.Epoch = int64(min(o.Epoch, math.MaxInt64))
		if o.LastFailure != "" {
			out.LastFailure = tail(o.LastFailure)
		}
	}
	if v.phase != v1alpha1.InstanceServing && len(i.pods) > 0 {
		out.MissingRanks = s.missingRanks(i, v.size)
	}
	return out
}

// missingRanks are the ranks that have not joined, as the leader says, or
// without it those that have no ready pod.
func (s *scope) missingRanks(i *instance, size int) []int32 {
	joined := make([]bool, size)
	if o := i.observation; o != nil {
		for _, r := range o.Ranks {
			if r.Rank >= 0 && r.Rank < size {
				joined[r.Rank] = r.Joined
			}
		}
	} else {
		for _, pod := range i.pods {
			if rank := rankOf(pod); rank >= 0 && rank < size {
				joined[rank] = joined[rank] || ready(pod)
			}
		}
	}
	var missing []int32
	for rank, ok := range joined {
		if !ok && len(missing) < maxMissingRanks {
			missing = append(missing, int32(rank))
		}
	}
	return missing
}

// computeDecision reports what was resolved.
func (s *scope) computeDecision(st *v1alpha1.MoEDeploymentStatus) {
	r := s.resolved
	st.Model, st.Memory, st.Predicted = r.ModelName, r.Memory, r.Predicted
	st.Profiles = nil
	for _, role := range []v1alpha1.Role{v1alpha1.RoleAttention, v1alpha1.RoleExpert} {
		if p, ok := r.Profiles[role]; ok {
			st.Profiles = append(st.Profiles, v1alpha1.ProfileStatus{Role: role, Name: p.Profile.Name, Why: p.Why})
		}
	}
	st.Split, st.Placement = nil, nil
	if r.OK() {
		st.Placement = placementStatus(&r.Decision)
	}
	if d := r.Decision; d.Attention > 0 {
		st.Split = &v1alpha1.SplitStatus{
			Ratio: resolve.Ratio(d.Attention, d.Expert), Attention: int32(d.Attention), Expert: int32(d.Expert),
			Why: d.Why, Alternatives: r.Alternatives,
		}
	}
}

// computeObserved reports what the first leader that answered says.
func (s *scope) computeObserved(st *v1alpha1.MoEDeploymentStatus) {
	st.Observed, st.Plan = nil, nil
	if s.vllm() {
		return
	}
	if s.resolved.OK() {
		st.Plan = planStatus(&s.resolved.Start, v1alpha1.PlanFromOperator, "")
		st.Plan.InUse = v1alpha1.PlanUnknown
	}
	at := slices.IndexFunc(s.instances, func(i *instance) bool { return i.wanted && i.observation != nil })
	if at < 0 {
		return
	}
	i, o := s.instances[at], s.instances[at].observation
	st.Observed = observedStatus(i.index, o)
	if phase, p := s.phaseInUse(o); p != nil {
		st.Plan = planStatus(&p.Plan, v1alpha1.PlanFromLeader, phase)
	}
	if st.Plan != nil && i.scheduleHash != "" {
		st.Plan.InUse = v1alpha1.PlanStale
		if o.ScheduleHash == i.scheduleHash {
			st.Plan.InUse = v1alpha1.PlanCurrent
		}
	}
}

// phaseInUse is the phase whose plan is shown: prefill, where the schedule
// matters most, unless only decode has run under the policy of now.
func (s *scope) phaseInUse(o *plan.Observation) (v1alpha1.Phase, *plan.PhaseObservation) {
	current := func(p *plan.PhaseObservation) bool { return p != nil && p.Plan.Policy == s.resolved.Schedule.Policy }
	if o.Prefill == nil || current(o.Decode) && !current(o.Prefill) {
		return v1alpha1.PhaseDecode, o.Decode
	}
	return v1alpha1.PhasePrefill, o.Prefill
}

func planStatus(p *plan.Plan, source v1alpha1.PlanSource, phase v1alpha1.Phase) *v1alpha1.PlanStatus {
	return &v1alpha1.PlanStatus{
		Summary: fmt.Sprintf("m_a=%d r1=%d r2=%d %s", p.MicroBatchSize, p.R1, p.R2, p.Order),
		Source:  source, Phase: phase, Policy: v1alpha1.SchedulePolicy(p.Policy),
		MicroBatchSize: int32(p.MicroBatchSize), R1: int32(p.R1), R2: int32(p.R2),
		Order: v1alpha1.ScheduleOrder(p.Order), Chunks: int32(p.Chunks),
	}
}

func observedStatus(index int32, o *plan.Observation) *v1alpha1.ObservedStatus {
	out := &v1alpha1.ObservedStatus{Instance: index, Prefill: phaseStatus(o.Prefill), Decode: phaseStatus(o.Decode)}
	if v := o.Serving; v != nil {
		out.TokensPerSecond = rounded(v.TokensPerSecond)
		out.TimeToFirstTokenMilliseconds = rounded(v.TimeToFirstTokenMilliseconds)
		out.TimePerOutputTokenMilliseconds = rounded(v.TimePerOutputTokenMilliseconds)
		out.RunningRequests, out.WaitingRequests = int32(v.Running), int32(v.Waiting)
		if v.KVCacheTokens > 0 {
			out.KVCacheUsedPercent = int32(100 * int64(v.KVCacheUsedTokens) / int64(v.KVCacheTokens))
		}
	}
	return out
}

func phaseStatus(p *plan.PhaseObservation) *v1alpha1.PhaseStatus {
	if p == nil {
		return nil
	}
	return &v1alpha1.PhaseStatus{
		Plan: p.Plan.String(), Samples: int32(p.Samples),
		PredictedMicroseconds: rounded(p.PredictedMilliseconds * 1e3),
		MeasuredMicroseconds:  rounded(p.MeasuredMilliseconds * 1e3),
		ErrorPercent:          predictionError(p),
	}
}

// predictionError is |measured - predicted| / measured in per cent; 0 when there
// is nothing to compare.
func predictionError(p *plan.PhaseObservation) int32 {
	if p == nil || p.MeasuredMilliseconds <= 0 || p.PredictedMilliseconds <= 0 {
		return 0
	}
	e := 100 * math.Abs(p.MeasuredMilliseconds-p.PredictedMilliseconds) / p.MeasuredMilliseconds
	return int32(min(math.Round(e), 1e6))
}

// rounded keeps two significant digits of a figure. Values that a leader should
// never send become 0.
func rounded(v float64) int64 {
	if !(v > 0 && v < 1e15) {
		return 0
	}
	return int64(resolve.Round(v))
}

// setCondition sets one condition. A time of transition is only taken when the
// status changes.
func (s *scope) setCondition(st *v1alpha1.MoEDeploymentStatus, kind string, status metav1.ConditionStatus, reason, message string) {
	c := metav1.Condition{
		Type: kind, Status: status, Reason: reason, Message: message,
		ObservedGeneration: s.deployment.Generation, LastTransitionTime: metav1.NewTime(s.now.Truncate(timeResolution)),
	}
	at := slices.IndexFunc(st.Conditions, func(old metav1.Condition) bool { return old.Type == kind })
	if at < 0 {
		st.Conditions = append(st.Conditions, c)
		return
	}
	if st.Conditions[at].Status == status {
		c.LastTransitionTime = st.Conditions[at].LastTransitionTime
	}
	st.Conditions[at] = c
}
