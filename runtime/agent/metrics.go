// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/findep/findep-operator/runtime/agent/agentpb"
	"github.com/findep/findep-operator/runtime/plan"
	"github.com/findep/findep-operator/runtime/transport"
)

// metrics are the sidecar's Prometheus series. Those of the plan are set on
// the leader only.
type metrics struct {
	registry  *prometheus.Registry
	steps     *prometheus.CounterVec
	seconds   *prometheus.HistogramVec
	stage     *prometheus.CounterVec
	predicted *prometheus.GaugeVec
	measured  *prometheus.GaugeVec
	degree    *prometheus.GaugeVec
	solves    prometheus.Counter
	changes   prometheus.Counter
	refits    prometheus.Counter
	rows      *prometheus.CounterVec
	busy      *prometheus.CounterVec
	bubble    *prometheus.CounterVec
	exposed   *prometheus.GaugeVec
	imbalance *prometheus.GaugeVec
	gpus      *prometheus.GaugeVec
	links     *prometheus.GaugeVec
	loads     prometheus.Counter
	failures  prometheus.Counter
	recovery  prometheus.Histogram
}

func newMetrics(rank int, state func() rankStatus) *metrics {
	label := prometheus.Labels{"rank": strconv.Itoa(rank)}
	opts := func(name, help string) prometheus.Opts {
		return prometheus.Opts{Namespace: "findep", Name: name, Help: help, ConstLabels: label}
	}
	m := &metrics{registry: prometheus.NewRegistry()}
	m.steps = prometheus.NewCounterVec(prometheus.CounterOpts(opts("steps_total", "Steps executed by this rank, by phase and outcome.")), []string{"phase", "outcome"})
	o := opts("step_seconds", "Makespan of a step as the leader sees it, by phase and policy.")
	m.seconds = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Namespace: o.Namespace, Name: o.Name, Help: o.Help, ConstLabels: label,
		Buckets: prometheus.ExponentialBuckets(0.0005, 2, 16),
	}, []string{"phase", "policy"})
	m.stage = prometheus.NewCounterVec(prometheus.CounterOpts(opts("stage_seconds_total", "Time this rank spent in tasks of each kind.")), []string{"kind"})
	m.predicted = prometheus.NewGaugeVec(prometheus.GaugeOpts(opts("predicted_step_seconds", "Predicted makespan of the last step, by phase.")), []string{"phase"})
	m.measured = prometheus.NewGaugeVec(prometheus.GaugeOpts(opts("measured_step_seconds", "Measured makespan of the last step, by phase.")), []string{"phase"})
	m.degree = prometheus.NewGaugeVec(prometheus.GaugeOpts(opts("plan", "The plan in use: one series per parameter (micro_batch_size, r1, r2) with policy and order as labels.")), []string{"phase", "policy", "order", "parameter"})
	m.solves = prometheus.NewCounter(prometheus.CounterOpts(opts("solver_solves_total", "Runs of the solver.")))
	m.changes = prometheus.NewCounter(prometheus.CounterOpts(opts("plan_changes_total", "Steps that ran with another plan than the step before in the same phase.")))
	m.refits = prometheus.NewCounter(prometheus.CounterOpts(opts("stage_refits_total", "Times the stage model was fitted again because predictions were off by more than 15 % for long.")))
	m.rows = prometheus.NewCounterVec(prometheus.CounterOpts(opts("expert_rows_total", "Token rows computed by each expert of this rank, by local expert number.")), []string{"expert"})
	m.busy = prometheus.NewCounterVec(prometheus.CounterOpts(opts("resource_busy_seconds_total", "Time in steps during which a resource of this rank worked.")), []string{"resource"})
	m.bubble = prometheus.NewCounterVec(prometheus.CounterOpts(opts("resource_bubble_seconds_total", "Time in steps during which a resource of this rank waited.")), []string{"resource"})
	m.exposed = prometheus.NewGaugeVec(prometheus.GaugeOpts(opts("exposed_communication_seconds", "What the last step would have saved if transfers took no time, as the stage model has it, by phase.")), []string{"phase"})
	m.imbalance = prometheus.NewGaugeVec(prometheus.GaugeOpts(opts("expert_load_imbalance", "Rows of the busiest over the mean in the last step, among expert ranks and among experts; 1 is even.")), []string{"among"})
	m.gpus = prometheus.NewGaugeVec(prometheus.GaugeOpts(opts("gpu_memory_bytes", "Total memory of each GPU that this rank can see; no series where there is no driver.")), []string{"index", "uuid", "product"})
	m.links = prometheus.NewGaugeVec(prometheus.GaugeOpts(opts("data_links", "Links to ranks of the other group in the current epoch, by what carries the rows (tcp, tls, shm) and direction; where GPUs exchange rows by themselves the links are idle.")), []string{"transport", "direction"})
	m.loads = prometheus.NewCounter(prometheus.CounterOpts(opts("weight_loads_total", "Times this process loaded its weights; 1 for all its life, whatever happens to other ranks.")))
	m.failures = prometheus.NewCounter(prometheus.CounterOpts(opts("epoch_failures_total", "Epochs that ended because a rank was lost or failed, as the leader saw them.")))
	o = opts("recovery_seconds", "Time from the end of an epoch until the next one took requests, replacements' start included, as the leader saw it.")
	m.recovery = prometheus.NewHistogram(prometheus.HistogramOpts{
		Namespace: o.Namespace, Name: o.Name, Help: o.Help, ConstLabels: label,
		Buckets: prometheus.ExponentialBuckets(0.1, 2, 12),
	})
	epoch := prometheus.NewGaugeFunc(prometheus.GaugeOpts(opts("epoch", "Membership epoch of the last formation.")),
		func() float64 { return float64(state().Epoch) })
	formed := prometheus.NewGaugeFunc(prometheus.GaugeOpts(opts("formed", "1 while every rank of the instance heartbeats.")),
		func() float64 {
			if state().Ready {
				return 1
			}
			return 0
		})
	m.registry.MustRegister(m.steps, m.seconds, m.stage, m.predicted, m.measured, m.degree, m.solves, m.changes, m.refits, m.rows, m.gpus, m.links,
		m.loads, m.failures, m.recovery, m.busy, m.bubble, m.exposed, m.imbalance,
		epoch, formed, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// skew publishes how unevenly the rows of a step fell on ranks and experts. Hot
// experts are what a plan's prediction does not know of.
func (m *metrics) skew(outcomes []*agentpb.RankOutcome) {
	var ranks, experts []uint64
	for _, o := range outcomes {
		if len(o.ExpertLoad) == 0 {
			continue
		}
		total := uint64(0)
		for _, rows := range o.ExpertLoad {
			total += rows
		}
		ranks, experts = append(ranks, total), append(experts, o.ExpertLoad...)
	}
	for among, loads := range map[string][]uint64{"ranks": ranks, "experts": experts} {
		if v, ok := imbalance(loads); ok {
			m.imbalance.WithLabelValues(among).Set(v)
		}
	}
}

// imbalance is the largest load over the mean; false where there is no load.
func imbalance(loads []uint64) (float64, bool) {
	total, most := uint64(0), uint64(0)
	for _, n := range loads {
		total, most = total+n, max(most, n)
	}
	if total == 0 {
		return 0, false
	}
	return float64(most) * float64(len(loads)) / float64(total), true
}

// planInUse publishes the plan of the last step of a phase.
func (m *metrics) planInUse(phase string, p plan.Plan) {
	m.degree.DeletePartialMatch(prometheus.Labels{"phase": phase})
	for name, value := range map[string]int{"micro_batch_size": p.MicroBatchSize, "r1": p.R1, "r2": p.R2} {
		m.degree.WithLabelValues(phase, string(p.Policy), string(p.Order), name).Set(float64(value))
	}
}

// rankStatus is what the probes and /debug/plan answer with.
type rankStatus struct {
	Rank    int       `json:"rank"`
	Role    plan.Role `json:"role"`
	Phase   string    `json:"phase"`
	Epoch   uint64    `json:"epoch"`
	Ready   bool      `json:"ready"`
	Message string    `json:"message,omitempty"`
	// Links are what carries the rows to and from each rank of the other group.
	Links []transport.LinkKinds `json:"links,omitempty"`
	// Draining is true while the leader's server ends its accepted requests.
	Draining bool `json:"draining,omitempty"`
}

// newHTTPHandler serves probes, metrics and the debug page. Readiness follows
// the collective heartbeat, so a wedged rank is never Ready; liveness says that
// the process answers and that its own work is not wedged, because restarting a
// rank that waits for others would help nobody.
func newHTTPHandler(m *metrics, status func() rankStatus, observe func() (plan.Observation, bool), alive func() error, trace http.HandlerFunc) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		if err := alive(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		_, _ = w.Write([]byte("ok\n"))
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		s := status()
		if !s.Ready {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		writeJSON(w, s)
	})
	mux.HandleFunc("GET /debug/plan", func(w http.ResponseWriter, _ *http.Request) {
		if o, ok := observe(); ok {
			writeJSON(w, struct {
				plan.Observation
				Links []transport.LinkKinds `json:"links,omitempty"`
			}{o, status().Links})
			return
		}
		writeJSON(w, status())
	})
	mux.HandleFunc("GET /debug/trace", trace)
	return mux
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	_ = enc.Encode(v) //nolint:errchkjson // A client that has gone is nobody's problem.
}

// serveHTTP serves until ctx ends.
func serveHTTP(ctx context.Context, listener net.Listener, handler http.Handler) error {
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, MaxHeaderBytes: 16 << 10}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
