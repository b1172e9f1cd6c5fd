// SPDX-License-Identifier: Apache-2.0

package serving

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"google.golang.org/grpc/codes"

	"github.com/findep/findep-operator/runtime/agent/agentpb"
)

// Metrics are the server's Prometheus metrics, named as serving engines
// commonly do.
type Metrics struct {
	registry *prometheus.Registry
	labels   prometheus.Labels

	timeToFirstToken, timePerOutputToken, latency, queueTime prometheus.Histogram
	stepDuration, requestPrompt, requestGeneration           prometheus.Histogram
	promptTokens, generationTokens, refused                  prometheus.Counter
	success, stepFailures                                    *prometheus.CounterVec
}

// NewMetrics registers the metrics of one served model in a registry of their
// own, with those of the Go process.
func NewMetrics(model string) *Metrics {
	m := &Metrics{registry: NewProcessRegistry(), labels: prometheus.Labels{"model_name": model}}
	m.timeToFirstToken = m.histogram("findep_request_time_to_first_token_seconds",
		"Time from accepting a prompt to its first token.", prometheus.ExponentialBuckets(0.001, 2, 18))
	m.timePerOutputToken = m.histogram("findep_request_time_per_output_token_seconds",
		"Mean time between the tokens of a completion after its first, one observation per completion.", prometheus.ExponentialBuckets(0.0005, 2, 15))
	m.latency = m.histogram("findep_e2e_request_latency_seconds",
		"Time from accepting a prompt to the end of its completion.", prometheus.ExponentialBuckets(0.005, 2, 18))
	m.queueTime = m.histogram("findep_request_queue_time_seconds",
		"Time from accepting a prompt to its first step.", prometheus.ExponentialBuckets(0.0005, 2, 20))
	m.requestPrompt = m.histogram("findep_request_prompt_tokens",
		"Tokens of the prompt, one observation per completion that ended.", prometheus.ExponentialBuckets(1, 2, 20))
	m.requestGeneration = m.histogram("findep_request_generation_tokens",
		"Tokens generated, one observation per completion that ended.", prometheus.ExponentialBuckets(1, 2, 20))
	m.stepDuration = m.histogram("findep_step_duration_seconds",
		"Time of one step as the server sees it.", prometheus.ExponentialBuckets(0.0005, 2, 18))
	m.promptTokens = m.counter("findep_prompt_tokens_total", "Tokens of prompts that were computed.")
	m.generationTokens = m.counter("findep_generation_tokens_total", "Tokens generated.")
	m.refused = m.counter("findep_requests_refused_total", "Requests refused because the queue was full.")
	m.success = m.vector("findep_request_success_total", "Completions that ended, by reason.", "finish_reason")
	for _, reason := range []FinishReason{FinishStop, FinishLength, FinishAbort} {
		m.success.WithLabelValues(string(reason))
	}
	m.stepFailures = m.vector("findep_step_failures_total", "Steps that failed, by gRPC code.", "code")
	return m
}

// NewProcessRegistry has the metrics of the Go process alone.
func NewProcessRegistry() *prometheus.Registry {
	r := prometheus.NewRegistry()
	r.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return r
}

func (m *Metrics) histogram(name, help string, buckets []float64) prometheus.Histogram {
	h := prometheus.NewHistogram(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets, ConstLabels: m.labels})
	m.registry.MustRegister(h)
	return h
}

func (m *Metrics) counter(name, help string) prometheus.Counter {
	c := prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help, ConstLabels: m.labels})
	m.registry.MustRegister(c)
	return c
}

func (m *Metrics) vector(name, help, label string) *prometheus.CounterVec {
	c := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help, ConstLabels: m.labels}, []string{label})
	m.registry.MustRegister(c)
	return c
}

// Registry is where the metrics are gathered from; more may be registered.
func (m *Metrics) Registry() *prometheus.Registry { return m.registry }

// observe registers gauges that read the loop when they are gathered.
func (m *Metrics) observe(l *Loop) {
	gauge := func(name, help string, value func(Status) float64) {
		m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help, ConstLabels: m.labels},
			func() float64 { return value(l.Status()) }))
	}
	gauge("findep_requests_running", "Sequences whose KV is held.", func(s Status) float64 { return float64(s.Stats.Running) })
	gauge("findep_requests_waiting", "Sequences in the queue.", func(s Status) float64 { return float64(s.Stats.Waiting) })
	gauge("findep_kv_cache_usage_ratio", "Share of the KV blocks in use, 0 to 1.", func(s Status) float64 {
		return float64(s.Stats.KVBlocksUsed) / float64(max(s.Stats.KVBlocks, 1))
	})
	m.registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{
		Name: "findep_preemptions_total", Help: "Sequences that gave their KV back to make room and were computed again.", ConstLabels: m.labels,
	}, func() float64 { return float64(l.Status().Stats.Preemptions) }))
	gauge("findep_engine_ready", "1 while the instance can run steps.", func(s Status) float64 {
		if s.Ready {
			return 1
		}
		return 0
	})
	gauge("findep_engine_epoch", "Membership epoch of the instance.", func(s Status) float64 { return float64(s.Limits.Epoch) })
}

func (m *Metrics) rejected() { m.refused.Inc() }

func (m *Metrics) step(_ *agentpb.StepRequest, d time.Duration) { m.stepDuration.Observe(d.Seconds()) }

func (m *Metrics) admitted(waited time.Duration) { m.queueTime.Observe(waited.Seconds()) }

func (m *Metrics) stepFailed(code codes.Code) { m.stepFailures.WithLabelValues(code.String()).Inc() }

func (m *Metrics) firstToken(prompt int, d time.Duration) {
	m.promptTokens.Add(float64(prompt))
	m.timeToFirstToken.Observe(d.Seconds())
}

func (m *Metrics) token() { m.generationTokens.Inc() }

func (m *Metrics) finished(f *flight, reason FinishReason, now time.Time) {
	m.success.WithLabelValues(string(reason)).Inc()
	if reason == FinishAbort {
		return
	}
	m.latency.Observe(now.Sub(f.submitted).Seconds())
	m.requestPrompt.Observe(float64(f.prompt))
	m.requestGeneration.Observe(float64(f.generated))
	if f.generated > 1 {
		m.timePerOutputToken.Observe(f.latest.Sub(f.first).Seconds() / float64(f.generated-1))
	}
}
