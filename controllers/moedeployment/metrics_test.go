// SPDX-License-Identifier: Apache-2.0

package moedeployment

import (
	"errors"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/findep/findep-operator/api/v1alpha1"
)

func TestMetricsShowTheStatusAndForgetWhatIsGone(t *testing.T) {
	d := &v1alpha1.MoEDeployment{}
	d.Namespace, d.Name = "serving", "metered"
	d.Spec.Replicas = ptr.To[int32](3)
	d.Status.ReadyReplicas, d.Status.UpdatedReplicas = ptr.To[int32](2), ptr.To[int32](1)
	d.Status.Split = &v1alpha1.SplitStatus{Attention: 3, Expert: 5}
	d.Status.Plan = &v1alpha1.PlanStatus{MicroBatchSize: 4, R1: 2, R2: 7, Chunks: 1}
	publish(d)
	for _, tc := range []struct {
		vec   *prometheus.GaugeVec
		label string
		want  float64
	}{
		{instanceCount, "wanted", 3}, {instanceCount, "serving", 2}, {instanceCount, "updated", 1},
		{splitGPUs, "Attention", 3}, {splitGPUs, "Expert", 5},
		{planParameter, "micro_batch_size", 4}, {planParameter, "r1", 2}, {planParameter, "r2", 7}, {planParameter, "chunks", 1},
	} {
		if got := testutil.ToFloat64(tc.vec.WithLabelValues("serving", "metered", tc.label)); got != tc.want {
			t.Errorf("%s is %v, want %v", tc.label, got, tc.want)
		}
	}
	withdraw(types.NamespacedName{Namespace: "serving", Name: "metered"})
	if n := testutil.CollectAndCount(instanceCount) + testutil.CollectAndCount(splitGPUs) + testutil.CollectAndCount(planParameter); n != 0 {
		t.Errorf("%d series are left of a deployment that is gone", n)
	}
}

func TestPhasesAreTimedByOutcome(t *testing.T) {
	before := testutil.CollectAndCount(phaseSeconds)
	timePhase("test", time.Second, nil)
	timePhase("test", time.Second, errors.New("no"))
	if n := testutil.CollectAndCount(phaseSeconds) - before; n != 2 {
		t.Errorf("%d series were added, want one for each outcome", n)
	}
}
