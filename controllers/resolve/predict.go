// SPDX-License-Identifier: Apache-2.0

package resolve

import (
	"cmp"
	"fmt"
	"math"

	"github.com/findep/findep-operator/api/v1alpha1"
	"github.com/findep/findep-operator/runtime/plan"
)

// outcome is what is predicted for one split.
type outcome struct {
	start           plan.Plan
	tokensPerSecond float64
	// prefill and decode are the predicted step durations in milliseconds.
	prefill, decode float64
	// problem says why the objectives cannot be met; empty if they can.
	problem string
}

// compare puts the better outcome first: one that meets the objectives, then
// the one with the higher throughput.
func (o outcome) compare(other outcome) int {
	met := func(o outcome) int {
		if o.problem == "" {
			return 0
		}
		return 1
	}
	return cmp.Or(cmp.Compare(met(o), met(other)), cmp.Compare(other.tokensPerSecond, o.tokensPerSecond))
}

// against says why the better outcome was preferred.
func (o outcome) against(best outcome) string {
	if o.problem != "" && best.problem == "" {
		return o.problem
	}
	if best.tokensPerSecond <= 0 {
		return ""
	}
	return fmt.Sprintf("%.0f %% less throughput is predicted.", 100*(1-o.tokensPerSecond/best.tokensPerSecond))
}

func (o outcome) predicted() *v1alpha1.PredictedStatus {
	if o.tokensPerSecond <= 0 {
		return nil
	}
	return &v1alpha1.PredictedStatus{
		TokensPerSecond:                int64(Round(o.tokensPerSecond)),
		TimeToFirstTokenMilliseconds:   int64(Round(math.Ceil(o.prefill))),
		TimePerOutputTokenMilliseconds: int64(Round(math.Ceil(o.decode))),
	}
}

// Round keeps two significant digits, so that figures which hardly change do
// not cause a write.
func Round(v float64) float64 {
	if v == 0 || math.IsNaN(v) || math.IsInf(v, 0) {
		return 0
	}
	scale := math.Pow(10, math.Floor(math.Log10(math.Abs(v)))-1)
	if scale < 1 {
		scale = 1
	}
	return math.Round(v/scale) * scale
}

// evaluate plans one split.
func evaluate(r *Result, _ *v1alpha1.MoEDeploymentSpec, _, _ int) outcome {
	return outcome{start: fallbackPlan(r.Schedule)}
}
