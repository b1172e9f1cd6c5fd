// SPDX-License-Identifier: Apache-2.0

package moedeployment

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/metrics"

	"github.com/findep/findep-operator/api/v1alpha1"
)

// The operator's own metrics, beside those of controller-runtime (reconciles,
// queue, requests to the API server). docs/observability.md lists all of them.
// The gauges repeat what the status of each deployment says, so that it can be
// graphed and alerted on without reading objects.
var (
	phaseSeconds = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "findep_operator_phase_seconds",
		Help: "Duration of a phase of a reconcile, by phase and outcome (success or error).",
		// From a look at the cache to a gang of pods at a busy API server.
		Buckets: prometheus.ExponentialBuckets(0.0005, 4, 9),
	}, []string{"phase", "outcome"})
	splitGPUs = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "findep_operator_split_gpus",
		Help: "GPUs of one instance, by role (Attention or Expert).",
	}, []string{"namespace", "deployment", "role"})
	planParameter = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "findep_operator_plan",
		Help: "The plan in use, by parameter (micro_batch_size, r1, r2 or chunks).",
	}, []string{"namespace", "deployment", "parameter"})
	instanceCount = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "findep_operator_instances",
		Help: "Instances, by state (wanted, serving or updated).",
	}, []string{"namespace", "deployment", "state"})
)

// Collectors are the operator's own metrics, for tests and other registries.
func Collectors() []prometheus.Collector {
	return []prometheus.Collector{phaseSeconds, splitGPUs, planParameter, instanceCount}
}

func init() { metrics.Registry.MustRegister(Collectors()...) }

// timePhase records how a phase went.
func timePhase(phase string, took time.Duration, err error) {
	outcome := "success"
	if err != nil {
		outcome = "error"
	}
	phaseSeconds.WithLabelValues(phase, outcome).Observe(took.Seconds())
}

// publish shows what the status of a deployment says.
func publish(d *v1alpha1.MoEDeployment) {
	st := &d.Status
	set := func(vec *prometheus.GaugeVec, label string, value int32) {
		vec.WithLabelValues(d.Namespace, d.Name, label).Set(float64(value))
	}
	set(instanceCount, "wanted", ptr.Deref(d.Spec.Replicas, 1))
	set(instanceCount, "serving", ptr.Deref(st.ReadyReplicas, 0))
	set(instanceCount, "updated", ptr.Deref(st.UpdatedReplicas, 0))
	if st.Split != nil {
		set(splitGPUs, string(v1alpha1.RoleAttention), st.Split.Attention)
		set(splitGPUs, string(v1alpha1.RoleExpert), st.Split.Expert)
	}
	if st.Plan != nil {
		set(planParameter, "micro_batch_size", st.Plan.MicroBatchSize)
		set(planParameter, "r1", st.Plan.R1)
		set(planParameter, "r2", st.Plan.R2)
		set(planParameter, "chunks", st.Plan.Chunks)
	}
}

// withdraw forgets a deployment that is gone.
func withdraw(name types.NamespacedName) {
	for _, vec := range []*prometheus.GaugeVec{splitGPUs, planParameter, instanceCount} {
		vec.DeletePartialMatch(prometheus.Labels{"namespace": name.Namespace, "deployment": name.Name})
	}
}
