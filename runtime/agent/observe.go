// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"encoding/json"
	"slices"

	"github.com/findep/findep-operator/runtime/agent/agentpb"
	"github.com/findep/findep-operator/runtime/plan"
)

// recentSteps is how many steps a median is taken over.
const recentSteps = 32

// recent holds what the last steps of one phase showed.
type recent struct {
	plan                plan.Plan
	samples             int
	sequenceTokens      float64
	predicted, measured []float64
	tokens              []int
	changes             uint64
}

// add takes in one step. Figures of another plan or batch size are dropped, so
// that a median compares like with like.
func (r *recent) add(shape batchShape, c choice, measured float64) {
	if r.plan != c.plan || r.samples != shape.samples {
		if r.plan != c.plan && r.plan.R1 != 0 {
			r.changes++
		}
		r.predicted, r.measured, r.tokens = nil, nil, nil
	}
	r.plan, r.samples, r.sequenceTokens = c.plan, shape.samples, shape.tokensPerSample()
	if len(r.measured) == recentSteps {
		r.predicted, r.measured, r.tokens = r.predicted[1:], r.measured[1:], r.tokens[1:]
	}
	r.predicted = append(r.predicted, c.predicted)
	r.measured = append(r.measured, measured)
	r.tokens = append(r.tokens, shape.tokens)
}

func (r *recent) observation(solves uint64) *plan.PhaseObservation {
	if len(r.measured) == 0 {
		return nil
	}
	tokens, milliseconds := 0, 0.0
	for i := range r.measured {
		tokens += r.tokens[i]
		milliseconds += r.measured[i]
	}
	return &plan.PhaseObservation{
		Plan: r.plan, Samples: r.samples, SequenceTokens: r.sequenceTokens,
		PredictedMilliseconds: median(r.predicted), MeasuredMilliseconds: median(r.measured),
		TokensPerSecond: 1000 * float64(tokens) / max(milliseconds, 1e-9),
		Solves:          solves, Changes: r.changes,
	}
}

func median(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	s := slices.Clone(v)
	slices.Sort(s)
	return s[len(s)/2]
}

// observed is the leader's memory of its steps.
type observed struct {
	prefill, decode recent
	serving         *plan.ServingObservation
	steps           uint64
}

func (l *leader) record(shape batchShape, c choice, measured float64) {
	ph := string(shape.phase())
	l.metrics.steps.WithLabelValues(ph, "ok").Inc()
	l.metrics.seconds.WithLabelValues(ph, string(c.plan.Policy)).Observe(measured / 1000)
	l.metrics.predicted.WithLabelValues(ph).Set(c.predicted / 1000)
	l.metrics.measured.WithLabelValues(ph).Set(measured / 1000)
	l.metrics.exposed.WithLabelValues(ph).Set(c.exposed / 1000)

	l.mu.Lock()
	defer l.mu.Unlock()
	r := &l.observed.decode
	if shape.phase() == prefill {
		r = &l.observed.prefill
	}
	before := r.changes
	if r.plan != c.plan {
		l.metrics.planInUse(ph, c.plan)
	}
	r.add(shape, c, measured)
	l.metrics.changes.Add(float64(r.changes - before))
	l.observed.steps++
}

// observation is what the operator and /debug/plan see.
func (l *leader) observation() plan.Observation {
	o := l.coordinator.Snapshot()
	o.TopologyHash = l.config.hash
	// The hash of valid configuration cannot fail: it was computed when the
	// file was accepted.
	o.ScheduleHash, _ = l.config.current.Load().ScheduleHash()
	l.mu.Lock()
	defer l.mu.Unlock()
	o.Prefill = l.observed.prefill.observation(l.planner.solvesOf(prefill))
	o.Decode = l.observed.decode.observation(l.planner.solvesOf(decode))
	o.Serving = l.observed.serving
	o.Steps = l.observed.steps
	o.Formed = o.Formed && l.epoch == o.Epoch
	return o
}

func (l *leader) observationJSON(context.Context) ([]byte, error) {
	return json.Marshal(l.observation())
}

// reportServing keeps the server's last report.
func (l *leader) reportServing(r *agentpb.ServingReport) {
	l.coordinator.SetDraining(r.Draining)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.observed.serving = &plan.ServingObservation{
		Running: int(r.Running), Waiting: int(r.Waiting), RequestsTotal: r.RequestsTotal,
		TimeToFirstTokenMilliseconds:   r.TimeToFirstTokenMilliseconds,
		TimePerOutputTokenMilliseconds: r.TimePerOutputTokenMilliseconds,
		TokensPerSecond:                r.TokensPerSecond,
		KVCacheUsedTokens:              int(r.KvCacheUsedTokens), KVCacheTokens: int(r.KvCacheTokens),
	}
}
