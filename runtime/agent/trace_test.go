// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"encoding/json"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/findep/findep-operator/runtime/agent/agentpb"
	"github.com/findep/findep-operator/runtime/plan"
)

// random steps of two ranks; the clock of rank 1 is ahead by offset.
func randomSteps(r *rand.Rand, n int, offset int64) []tracedStep {
	steps := make([]tracedStep, n)
	now := int64(1e6)
	for i := range steps {
		s := &steps[i]
		s.number, s.sent, s.arrived = uint64(i+1), now, make([]int64, 2)
		for rank := range 2 {
			ahead := int64(rank) * offset
			received := now + 1 + r.Int64N(5e5)
			answered := received + 1e6
			s.arrived[rank] = answered + 1 + r.Int64N(5e5)
			s.outcomes = append(s.outcomes, &agentpb.RankOutcome{
				ReceivedNanoseconds: received + ahead, StartedNanoseconds: received + ahead, AnsweredNanoseconds: answered + ahead,
				Trace: []*agentpb.TaskTrace{{Kind: "Attention", StartNanoseconds: 0, EndNanoseconds: 1000}},
			})
		}
		now = max(s.arrived[0], s.arrived[1]) + r.Int64N(1e6)
	}
	return steps
}

func TestClockOffsetHoldsTheTruth(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 1000 {
		want := r.Int64N(2e9) - 1e9
		steps := randomSteps(r, 1+r.IntN(20), want)
		got, uncertainty := clockOffset(steps, 1)
		if d := got - want; d > uncertainty || -d > uncertainty {
			t.Fatalf("offset %d ± %d, the truth is %d", got, uncertainty, want)
		}
		if _, one := clockOffset(steps[:1], 1); uncertainty > one {
			t.Fatalf("%d steps leave ±%d, the first alone ±%d", len(steps), uncertainty, one)
		}
	}
}

func TestTraceEventsShareOneClock(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	steps := randomSteps(r, 8, 7e8)
	in := &plan.Instance{AttentionRanks: 1, ExpertRanks: 1}
	events := traceEvents(steps, in.RoleOf)
	if want := 8 + 2*8; len(events) != want {
		t.Fatalf("%d events, want %d", len(events), want)
	}
	for _, e := range events {
		if e.Process == "leader" {
			continue
		}
		step := e.Args["step"].(uint64)
		s := &steps[step-1]
		start := 1e3*e.StartMicroseconds + float64(steps[0].sent)
		if start < float64(s.sent) || start > float64(max(s.arrived[0], s.arrived[1])) {
			t.Errorf("%s: task of step %d begins at %.0f, the step lasts from %d to %v", e.Process, step, start, s.sent, s.arrived)
		}
	}
}

func TestTracerIsBounded(t *testing.T) {
	var tr tracer
	for _, n := range []int{0, -1, maxTraceSteps + 1} {
		if _, err := tr.begin(n); err == nil || !strings.Contains(err.Error(), "1 to 256") {
			t.Errorf("%d steps: error = %v", n, err)
		}
	}
	done, err := tr.begin(3)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tr.begin(1); err == nil {
		t.Error("two recordings at once are let in")
	}
	// One step with very many tasks ends the recording early.
	tr.add(tracedStep{outcomes: []*agentpb.RankOutcome{{Trace: make([]*agentpb.TaskTrace, maxTraceTasks)}}})
	<-done
	if tr.wanted() {
		t.Error("the recording goes on")
	}
	tr.add(tracedStep{})
	if got := len(tr.end()); got != 1 {
		t.Errorf("%d steps are kept, want 1", got)
	}
	if _, err := tr.begin(1); err != nil {
		t.Errorf("after the end: %v", err)
	}
}

func TestServeTraceRefuses(t *testing.T) {
	for _, tc := range []struct {
		query string
		code  int
		says  string
	}{
		{"steps=x", http.StatusBadRequest, "must be a number"},
		{"steps=1000", http.StatusBadRequest, "1 to 256"},
		{"timeout=1h", http.StatusBadRequest, "up to 5m0s"},
		{"timeout=-1s", http.StatusBadRequest, "up to 5m0s"},
		{"timeout=1ms", http.StatusGatewayTimeout, "no step ran within 1ms"},
	} {
		w := httptest.NewRecorder()
		serveTrace(w, httptest.NewRequest(http.MethodGet, "/debug/trace?"+tc.query, nil), &leader{}, nil)
		if w.Code != tc.code || !strings.Contains(w.Body.String(), tc.says) {
			t.Errorf("%s: %d %s", tc.query, w.Code, w.Body)
		}
	}
	l := &leader{}
	if _, err := l.tracer.begin(1); err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	serveTrace(w, httptest.NewRequest(http.MethodGet, "/debug/trace", nil), l, nil)
	if w.Code != http.StatusConflict {
		t.Errorf("a second recording: %d %s", w.Code, w.Body)
	}
}

func TestServeTraceWritesChromeTrace(t *testing.T) {
	l := &leader{}
	r := rand.New(rand.NewPCG(5, 6))
	go func() {
		for !l.tracer.wanted() {
			time.Sleep(time.Millisecond)
		}
		for _, s := range randomSteps(r, 2, 5) {
			l.tracer.add(s)
		}
	}()
	w := httptest.NewRecorder()
	in := &plan.Instance{AttentionRanks: 1, ExpertRanks: 1}
	serveTrace(w, httptest.NewRequest(http.MethodGet, "/debug/trace?steps=2", nil), l, in.RoleOf)
	var trace struct{ TraceEvents []map[string]any }
	if err := json.Unmarshal(w.Body.Bytes(), &trace); err != nil || len(trace.TraceEvents) < 6 {
		t.Errorf("%v; %d events in %s", err, len(trace.TraceEvents), w.Body)
	}
}

func TestImbalance(t *testing.T) {
	for _, tc := range []struct {
		loads []uint64
		want  float64
		ok    bool
	}{{nil, 0, false}, {[]uint64{0, 0}, 0, false}, {[]uint64{4, 4}, 1, true}, {[]uint64{6, 2}, 1.5, true}, {[]uint64{8, 0, 0, 0}, 4, true}} {
		if got, ok := imbalance(tc.loads); got != tc.want || ok != tc.ok {
			t.Errorf("%v: %v, %v", tc.loads, got, ok)
		}
	}
}
