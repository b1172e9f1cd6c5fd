// SPDX-License-Identifier: Apache-2.0

package moedeployment

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	schedulingv1beta1 "k8s.io/api/scheduling/v1beta1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/findep/findep-operator/api/v1alpha1"
	"github.com/findep/findep-operator/controllers/render"
	"github.com/findep/findep-operator/controllers/resolve"
	"github.com/findep/findep-operator/runtime/plan"
	"github.com/findep/findep-operator/test/wrappers"
)

var start = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

// stage builds a scope as the phases would leave it.
type stage struct {
	*scope
	t *testing.T
}

func newStage(t *testing.T, w *wrappers.MoEDeploymentWrapper) *stage {
	t.Helper()
	d := w.UID("uid-1").Obj()
	d.Generation = 1
	s := newScope(d, start)
	s.facts = resolve.Facts{
		Images:     resolve.Images{Runtime: "findep/runtime:1", Server: "findep/server:1", PullPolicy: corev1.PullIfNotPresent},
		GangServed: true,
	}
	s.resolved = resolve.Resolve(d, s.facts)
	s.gathered = true
	s.considerMembers()
	return &stage{s, t}
}

// pods makes all pods of all instances and lets change make each what it is.
func (s *stage) pods(change func(pod *corev1.Pod)) *stage {
	for _, i := range s.instances {
		in := s.input(i)
		for rank := range in.Attention + in.Expert {
			ac := render.Pod(in, rank)
			pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: *ac.Name, Namespace: *ac.Namespace, Labels: ac.Labels}}
			pod.Spec.Containers = []corev1.Container{{Name: render.RuntimeContainer, Image: in.Images.Runtime}}
			if rank == 0 {
				pod.Spec.InitContainers = pod.Spec.Containers
				pod.Spec.Containers = []corev1.Container{{Name: render.ServerContainer, Image: in.Images.Server}}
			}
			change(pod)
			i.pods[pod.Name] = pod
		}
	}
	return s
}

func unschedulable(message string) func(*corev1.Pod) {
	return func(pod *corev1.Pod) {
		pod.Status.Conditions = []corev1.PodCondition{{
			Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: corev1.PodReasonUnschedulable, Message: message,
		}}
	}
}

// containers puts the pod on a node with both containers in a state.
func containers(state corev1.ContainerState) func(*corev1.Pod) {
	return func(pod *corev1.Pod) {
		pod.Spec.NodeName, pod.Status.PodIP = "node1", "10.0.0.1"
		pod.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: render.RuntimeContainer, State: state}}
		if rankOf(pod) == 0 {
			pod.Status.InitContainerStatuses = pod.Status.ContainerStatuses
			pod.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: render.ServerContainer, State: state}}
		}
	}
}

var running = corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}

func waiting(reason, message string) corev1.ContainerState {
	return corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: message}}
}

func readyPod(pod *corev1.Pod) {
	containers(running)(pod)
	pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
}

// observed gives every leader the same observation.
func (s *stage) observed(change func(*plan.Observation)) *stage {
	for _, i := range s.instances {
		o := &plan.Observation{Epoch: 1, Formed: true}
		in := s.config(i)
		for rank := range in.WorldSize() {
			o.Ranks = append(o.Ranks, plan.RankState{Rank: rank, Role: in.RoleOf(rank), Joined: true})
		}
		hash, err := in.ScheduleHash()
		if err != nil {
			s.t.Fatal(err)
		}
		o.ScheduleHash, i.scheduleHash = hash, hash
		change(o)
		i.observation = o
	}
	return s
}

// text is the status as a person reads it.
func (s *stage) text() string {
	s.considerRecovery()
	s.computeStatus()
	st := &s.deployment.Status
	var b strings.Builder
	split, summary, policy := "", "", v1alpha1.SchedulePolicy("")
	if st.Split != nil {
		split = st.Split.Ratio
	}
	if st.Plan != nil {
		summary, policy = st.Plan.Summary, st.Plan.Policy
	}
	reason := ""
	for _, c := range st.Conditions {
		if c.Type == v1alpha1.ConditionAvailable {
			reason = c.Reason
		}
	}
	fmt.Fprintf(&b, "NAME  READY  STATUS  SPLIT  POLICY  PLAN\n%s  %s  %s  %s  %s  %s\n\n",
		s.deployment.Name, st.Ready, reason, split, policy, summary)
	for _, c := range st.Conditions {
		fmt.Fprintf(&b, "%s=%s %s: %s\n", c.Type, c.Status, c.Reason, c.Message)
	}
	if p := st.Placement; p != nil {
		fmt.Fprintf(&b, "\nplaced by %s: %s %s\n", p.Backend, p.Why, p.Topology)
	}
	for _, i := range st.Instances {
		fmt.Fprintf(&b, "\ninstance %d: %s, epoch %d, pods %d/%d, missing ranks %v\n", i.Index, i.Phase, i.Epoch, i.ReadyPods, i.Pods, i.MissingRanks)
		if i.Failures > 0 {
			fmt.Fprintf(&b, "  failures since it last served steadily: %d\n", i.Failures)
		}
		if i.Message != "" {
			fmt.Fprintf(&b, "  %s\n", i.Message)
		}
		if p := i.Placement; p != nil {
			for _, n := range p.Nodes {
				fmt.Fprintf(&b, "  ranks %s on %s\n", n.Ranks, n.Node)
			}
			for _, d := range p.Domains {
				fmt.Fprintf(&b, "  %s within one %s: %s %v\n", d.Of, d.Key, d.Reached, d.Values)
			}
		}
		if i.LastFailure != "" {
			fmt.Fprintf(&b, "  last failure: %s\n", i.LastFailure)
		}
		if i.LastExitCode != nil {
			fmt.Fprintf(&b, "  last exit code: %d\n", *i.LastExitCode)
		}
	}
	return b.String()
}

// crashed is an instance of which one pod has ended after some failures.
func crashed(s *stage, policy v1alpha1.RecoveryPolicy, failures int32) *stage {
	s.deployment.Spec.Recovery.Policy = policy
	s.pods(func(pod *corev1.Pod) {
		readyPod(pod)
		if rankOf(pod) == 4 {
			pod.UID = "uid-of-4"
			containers(corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{
				ExitCode: 139, Message: "fatal error: unexpected signal during runtime execution\n[signal SIGSEGV: segmentation violation]",
			}})(pod)
			pod.Status.Phase, pod.Status.Conditions = corev1.PodFailed, nil
		}
	})
	noticed := metav1.NewTime(start.Add(-time.Second))
	s.original.Status.Instances = []v1alpha1.InstanceStatus{{
		Revision: s.resolved.Revision, Failures: failures, LastFailureTime: &noticed, CompleteSince: &noticed,
		Counted: []v1alpha1.CountedFailures{{UID: "uid-of-4", Failures: 1}},
	}}
	return s
}

// TestStatusTellsEachStage keeps the text of the status at every stage, to be
// read as somebody would who sees the project for the first time.
func TestStatusTellsEachStage(t *testing.T) {
	lite := func() *wrappers.MoEDeploymentWrapper { return wrappers.MoEDeployment("lite") }
	healthy := func(o *plan.Observation) {
		p := plan.Plan{Policy: plan.FinDEP, MicroBatchSize: 4, R1: 2, R2: 3, Order: plan.ASAS, Chunks: 1}
		o.Prefill = &plan.PhaseObservation{Plan: p, Samples: 16, PredictedMilliseconds: 40, MeasuredMilliseconds: 42}
		o.Serving = &plan.ServingObservation{Running: 3, TimeToFirstTokenMilliseconds: 63.7, TimePerOutputTokenMilliseconds: 12.2, TokensPerSecond: 817}
	}
	cases := map[string]func(t *testing.T) *stage{
		"01-applied": func(t *testing.T) *stage { return newStage(t, lite()) },
		"02-waiting-for-scheduler": func(t *testing.T) *stage {
			return newStage(t, lite()).pods(func(*corev1.Pod) {})
		},
		"03-not-enough-gpus": func(t *testing.T) *stage {
			return newStage(t, lite()).pods(unschedulable("0/2 nodes are available: 2 Insufficient nvidia.com/gpu. no new claims to deallocate, preemption: 0/2 nodes are available: 2 No preemption victims found for incoming pod."))
		},
		"04-not-enough-gpus-as-the-gang-says": func(t *testing.T) *stage {
			s := newStage(t, lite()).pods(func(*corev1.Pod) {})
			s.instances[0].groups["lite-0"] = &schedulingv1beta1.PodGroup{Status: schedulingv1beta1.PodGroupStatus{Conditions: []metav1.Condition{{
				Type: schedulingv1beta1.PodGroupInitiallyScheduled, Status: metav1.ConditionFalse,
				Reason: schedulingv1beta1.PodGroupReasonUnschedulable, Message: "minCount (5) cannot be satisfied: 0 scheduled, 3 remaining",
			}}}}
			return s
		},
		"05-starting": func(t *testing.T) *stage {
			return newStage(t, lite()).pods(containers(waiting("ContainerCreating", "")))
		},
		"06-bad-image": func(t *testing.T) *stage {
			return newStage(t, lite().RuntimeImage("findep/absent:1")).pods(containers(waiting("ImagePullBackOff", `Back-off pulling image "findep/absent:1"`)))
		},
		"06b-bad-model-image": func(t *testing.T) *stage {
			return newStage(t, lite()).pods(func(pod *corev1.Pod) {
				containers(waiting("ErrImageNeverPull", `Container image "findep/model:1" is not present with pull policy of Never`))(pod)
				pod.Spec.Volumes = []corev1.Volume{{Name: "model", VolumeSource: corev1.VolumeSource{
					Image: &corev1.ImageVolumeSource{Reference: "findep/model:1"},
				}}}
			})
		},
		"07-crashing": func(t *testing.T) *stage {
			return newStage(t, lite()).pods(func(pod *corev1.Pod) {
				readyPod(pod)
				if rankOf(pod) == 3 {
					containers(waiting("CrashLoopBackOff", "back-off 5m0s restarting failed container"))(pod)
					pod.Status.Conditions = nil
					pod.Status.ContainerStatuses[0].LastTerminationState.Terminated = &corev1.ContainerStateTerminated{
						ExitCode: 1, Reason: "Error",
						Message: "error: checkpoint: tensor model.layers.3.mlp.experts.7.up_proj.weight is missing from model.safetensors\n",
					}
				}
			})
		},
		"08-forming": func(t *testing.T) *stage {
			return newStage(t, lite()).pods(containers(running)).observed(func(o *plan.Observation) {
				o.Epoch, o.Formed = 0, false
				o.Ranks[3].Joined, o.Ranks[4].Joined = false, false
				o.Ranks[3].Message = "no connection yet"
			})
		},
		"09-leader-does-not-answer": func(t *testing.T) *stage {
			s := newStage(t, lite()).pods(containers(running))
			s.instances[0].observeError = "connection refused"
			return s
		},
		"10-serving": func(t *testing.T) *stage {
			return newStage(t, lite()).pods(readyPod).observed(healthy)
		},
		"11-serving-but-mispredicted-and-too-slow": func(t *testing.T) *stage {
			w := lite().With(func(s *v1alpha1.MoEDeploymentSpec) { s.SLO.TimeToFirstTokenMilliseconds = 50 })
			return newStage(t, w).pods(readyPod).observed(func(o *plan.Observation) {
				healthy(o)
				o.Prefill.MeasuredMilliseconds = 60
			})
		},
		"29-on-other-gpus-than-planned": func(t *testing.T) *stage {
			return newStage(t, lite()).pods(readyPod).observed(func(o *plan.Observation) {
				healthy(o)
				for _, rank := range []int{1, 3} {
					o.Ranks[rank].ProfileMismatch = "the device is not that of profile h100-sxm: its product is NVIDIA A100-SXM4-80GB, not H100. Calibrate this device, or let the group's profileRef or nodeSelector agree with its nodes."
				}
			})
		},
		"12-recovering": func(t *testing.T) *stage {
			s := newStage(t, lite()).pods(readyPod).observed(func(o *plan.Observation) {
				o.Epoch, o.Formed = 2, false
				o.Ranks[4].Joined = false
				o.LastFailure = "rank 4 (lite-0-eg-2): its connection broke"
			})
			delete(s.instances[0].pods, "lite-0-eg-2")
			return s
		},
		"13-rolling": func(t *testing.T) *stage {
			return newStage(t, lite().Replicas(2)).pods(func(pod *corev1.Pod) {
				readyPod(pod)
				if strings.HasPrefix(pod.Name, "lite-0") {
					pod.Labels[v1alpha1.LabelRevision] = "older"
				}
			}).observed(healthy)
		},
		"30-waits-for-its-turn": func(t *testing.T) *stage {
			s := newStage(t, lite()).pods(func(pod *corev1.Pod) {
				readyPod(pod)
				pod.Labels[v1alpha1.LabelRevision] = "older"
			}).observed(healthy)
			s.planInstances()
			(&Reconciler{turns: fullTurns(t, start)}).considerTurns(s.scope)
			return s
		},
		"20-backing-off":    func(t *testing.T) *stage { return crashed(newStage(t, lite()), v1alpha1.RecoveryInPlace, 2) },
		"21-given-up":       func(t *testing.T) *stage { return crashed(newStage(t, lite()), v1alpha1.RecoveryInPlace, 11) },
		"22-recovery-none":  func(t *testing.T) *stage { return crashed(newStage(t, lite()), v1alpha1.RecoveryNone, 1) },
		"14-unknown-model":  func(t *testing.T) *stage { return newStage(t, lite().Model("acme/moe")) },
		"15-does-not-fit":   func(t *testing.T) *stage { return newStage(t, lite().Model("deepseek-ai/DeepSeek-V3").GPUs(2, 6)) },
		"16-scaled-to-zero": func(t *testing.T) *stage { return newStage(t, lite().Replicas(0)) },
		"17-fields-without-effect": func(t *testing.T) *stage {
			return newStage(t, lite().With(func(s *v1alpha1.MoEDeploymentSpec) { s.Groups.Expert.GPUsPerPod = 2 })).pods(readyPod).observed(healthy)
		},
		"24-gated-by-kueue": func(t *testing.T) *stage {
			s := newStage(t, lite().With(func(s *v1alpha1.MoEDeploymentSpec) { s.Placement.Queue = "serving" }))
			s.facts.Backends.Kueue = true
			s.resolved = resolve.Resolve(s.deployment, s.facts)
			return s.pods(func(pod *corev1.Pod) {
				pod.Spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: "kueue.x-k8s.io/admission"}}
			})
		},
		"25-volcano-is-not-there": func(t *testing.T) *stage {
			return newStage(t, lite().With(func(s *v1alpha1.MoEDeploymentSpec) { s.Placement.Backend = v1alpha1.BackendVolcano }))
		},
		"26-in-one-rack-and-not": func(t *testing.T) *stage {
			s := newStage(t, lite().With(func(s *v1alpha1.MoEDeploymentSpec) {
				s.Placement.Topology = v1alpha1.TopologySpec{
					Instance: v1alpha1.TopologyPreferred, Key: "rack", Attention: &v1alpha1.TopologyRule{Mode: v1alpha1.TopologyRequired, Key: "clique"},
					Expert: &v1alpha1.TopologyRule{Mode: v1alpha1.TopologyPreferred, Key: "clique"}, Spread: &v1alpha1.TopologyRule{Mode: v1alpha1.TopologyPreferred, Key: "rack"},
				}
			}))
			s.facts.Nodes = map[string]map[string]string{"node1": {"rack": "r1", "clique": "c1"}, "node2": {"rack": "r2"}}
			return s.pods(func(pod *corev1.Pod) {
				readyPod(pod)
				if strings.Contains(pod.Name, "-eg-") {
					pod.Spec.NodeName = "node2"
				}
			}).observed(healthy)
		},
		"27-patch-of-pods-refused": func(t *testing.T) *stage {
			return newStage(t, lite().With(func(s *v1alpha1.MoEDeploymentSpec) {
				s.Groups.Expert.PodTemplate = &runtime.RawExtension{Raw: []byte(`{"spec":{"hostNetwork":true}}`)}
			}))
		},
		"28-memory-check-overridden": func(t *testing.T) *stage {
			s := newStage(t, wrappers.MoEDeployment("large").Model("deepseek-ai/DeepSeek-V3"))
			s.deployment.Annotations = map[string]string{v1alpha1.AnnotationMemoryCheck: v1alpha1.MemoryCheckOverride}
			s.resolved = resolve.Resolve(s.deployment, s.facts)
			return s
		},
		"23-held-by-partition": func(t *testing.T) *stage {
			w := lite().Replicas(2).With(func(s *v1alpha1.MoEDeploymentSpec) { s.Rollout.Partition = 1 })
			return newStage(t, w).pods(func(pod *corev1.Pod) {
				readyPod(pod)
				if strings.HasPrefix(pod.Name, "lite-0") {
					pod.Labels[v1alpha1.LabelRevision] = "older"
				}
			}).observed(healthy)
		},
		"31-held-by-partition-with-a-gap": func(t *testing.T) *stage {
			w := lite().Replicas(2).With(func(s *v1alpha1.MoEDeploymentSpec) { s.Rollout.Partition = 1 })
			s := newStage(t, w)
			s.instances[0].index, s.instances[1].index = 1, 3
			return s.pods(func(pod *corev1.Pod) {
				readyPod(pod)
				if strings.HasPrefix(pod.Name, "lite-1") {
					pod.Labels[v1alpha1.LabelRevision] = "older"
				}
			}).observed(healthy)
		},
		"18-quota-exceeded": func(t *testing.T) *stage {
			s := newStage(t, lite())
			s.failures = []string{`instances: instance 0: pod lite-0-ag-0: pods "lite-0-ag-0" is forbidden: exceeded quota: gpus, requested: requests.nvidia.com/gpu=1, used: requests.nvidia.com/gpu=0, limited: requests.nvidia.com/gpu=0`}
			return s
		},
		"19-deleting": func(t *testing.T) *stage {
			s := newStage(t, lite()).pods(readyPod)
			s.resolved = nil
			now := metav1.NewTime(start)
			s.deployment.DeletionTimestamp = &now
			return s
		},
	}
	for name, build := range cases {
		t.Run(name, func(t *testing.T) {
			s := build(t)
			wrappers.Golden(t, "status/"+name+".golden", s.text())
			for _, c := range s.deployment.Status.Conditions {
				if c.Reason == "" || c.Message == "" {
					t.Errorf("condition %s has no reason or no message", c.Type)
				}
			}
		})
	}
}

// TestSteadyStateIsNotWritten shows that figures which jitter do not cause a
// write.
func TestSteadyStateIsNotWritten(t *testing.T) {
	at := func(milliseconds float64) *stage {
		s := newStage(t, wrappers.MoEDeployment("lite")).pods(readyPod).observed(func(o *plan.Observation) {
			o.Decode = &plan.PhaseObservation{
				Plan:                  plan.Plan{Policy: plan.FinDEP, MicroBatchSize: 1, R1: 1, R2: 1, Order: plan.ASAS, Chunks: 1},
				PredictedMilliseconds: 50, MeasuredMilliseconds: milliseconds,
			}
			o.Steps = uint64(milliseconds * 1000)
		})
		s.computeStatus()
		return s
	}
	first, second := at(50.1), at(50.2)
	second.original.Status = first.deployment.Status
	if second.statusChanged() {
		t.Error("a change of 0.2 % would be written")
	}
	third := at(60)
	third.original.Status = first.deployment.Status
	if !third.statusChanged() {
		t.Error("a change of 20 % would not be written")
	}
}
