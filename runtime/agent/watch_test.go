// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/findep/findep-operator/runtime/agent/agentpb"
	"github.com/findep/findep-operator/runtime/executor"
	"github.com/findep/findep-operator/runtime/plan"
	"github.com/findep/findep-operator/runtime/transport"
)

func TestDeadlinesFollowThePrediction(t *testing.T) {
	const floor = 5 * time.Second
	for name, tc := range map[string]struct {
		predicted float64
		missed    int
		want      time.Duration
	}{
		"nothing measured":          {0, 0, 30 * time.Second},
		"a short step has a floor":  {1, 0, 5010 * time.Millisecond},
		"a long step":               {2000, 0, 25 * time.Second},
		"after one that passed":     {1000, 1, 30 * time.Second},
		"doubling ends":             {1000, 100, 64 * 15 * time.Second},
		"unmeasured after a missed": {0, 1, time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			d := deadlines{floor: floor, missed: tc.missed}
			if got := d.of(tc.predicted); got != tc.want {
				t.Errorf("got %v, want %v", got, tc.want)
			}
		})
	}
}

// testWatchdog has a clock that moves by hand.
func testWatchdog() (w *watchdog, wait func(time.Duration)) {
	now := time.Unix(1_000_000, 0)
	return &watchdog{now: func() time.Time { return now }, patience: 5 * time.Second}, func(d time.Duration) { now = now.Add(d) }
}

func TestWatchdogTellsWaitingFromWedged(t *testing.T) {
	for name, tc := range map[string]struct {
		limit  time.Duration
		act    func(w *watchdog, wait func(time.Duration))
		wedged []string // what the error says; nil for none
	}{
		"a long step of a living epoch": {0, func(w *watchdog, wait func(time.Duration)) {
			w.begin("step 7", 3, 0)
			wait(time.Hour)
		}, nil},
		"a step that lets go": {0, func(w *watchdog, wait func(time.Duration)) {
			w.begin("step 7", 3, 0)
			w.release(3)
			wait(time.Second)
			w.end()
			wait(time.Hour)
		}, nil},
		"a step that does not": {0, func(w *watchdog, wait func(time.Duration)) {
			w.begin("step 7", 3, 0)
			wait(time.Minute)
			w.release(3)
			wait(6 * time.Second)
		}, []string{"wedged", "step 7 of epoch 3", "began 1m6s ago", "6s since the epoch ended"}},
		"one that may take longer": {10 * time.Second, func(w *watchdog, wait func(time.Duration)) {
			w.begin("step 7", 3, 10*time.Second)
			w.release(3)
			wait(6 * time.Second)
		}, nil},
		"the end of an older epoch": {0, func(w *watchdog, wait func(time.Duration)) {
			w.begin("step 7", 3, 0)
			w.release(2)
			wait(time.Hour)
		}, nil},
		"work that begins after its epoch has ended": {0, func(w *watchdog, wait func(time.Duration)) {
			w.release(3)
			wait(time.Hour)
			w.begin("connecting", 3, 0)
			wait(6 * time.Second)
		}, []string{"connecting of epoch 3"}},
		"loading that gets on": {0, func(w *watchdog, wait func(time.Duration)) {
			w.load(time.Minute)
			for range 100 {
				wait(50 * time.Second)
				w.advance("model.norm.weight")
			}
		}, nil},
		"loading that does not": {0, func(w *watchdog, wait func(time.Duration)) {
			w.load(time.Minute)
			w.advance("model.norm.weight")
			wait(61 * time.Second)
		}, []string{"wedged", "model.norm.weight", "1m1s", "volume"}},
		"loaded": {0, func(w *watchdog, wait func(time.Duration)) {
			w.load(time.Minute)
			w.done()
			wait(time.Hour)
		}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			w, wait := testWatchdog()
			tc.act(w, wait)
			err := w.check()
			if (err != nil) != (tc.wedged != nil) || err != nil && !errors.Is(err, ErrWedged) {
				t.Fatalf("error %v", err)
			}
			for _, want := range tc.wedged {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q does not say %q", err, want)
				}
			}
		})
	}
}

// stuck is a runner that hangs whatever happens to its mesh, as a driver does.
type stuck struct{ began, let chan struct{} }

func (s *stuck) Run(context.Context, *executor.Step, transport.Mesh) (executor.Result, error) {
	close(s.began)
	<-s.let
	return executor.Result{}, errors.New("let go at last")
}

func (s *stuck) Close() {}

// abortedMesh only remembers its end.
type abortedMesh struct {
	transport.Mesh
	reason error
}

func (m *abortedMesh) Abort(reason error) { m.reason = reason }

// TestRankThatHangsInAStepIsNotAlive: the epoch ends, the step does not; the
// rank must say so itself, since its heartbeats come from another goroutine.
func TestRankThatHangsInAStepIsNotAlive(t *testing.T) {
	w, wait := testWatchdog()
	runner := &stuck{began: make(chan struct{}), let: make(chan struct{})}
	mesh := &abortedMesh{}
	r := &rank{role: plan.Expert, attentionRanks: 1, runner: runner, watch: w, now: executor.Monotonic(), epoch: 4, mesh: mesh}
	payload, err := proto.Marshal(&agentpb.StepCommand{Number: 9, DeadlineMilliseconds: 8000,
		Plan: &agentpb.PlanInUse{Policy: string(plan.FinDEP), MicroBatchSize: 1, R1: 1, R2: 1, Order: string(plan.ASAS), Chunks: 1}})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error)
	go func() { _, err := r.step(t.Context(), 4, payload); ended <- err }()
	<-runner.began
	r.abort(4, "a peer was lost")
	if mesh.reason == nil {
		t.Error("the mesh was not aborted")
	}
	wait(7 * time.Second)
	if err := w.check(); err != nil {
		t.Errorf("within the step's own deadline: %v", err)
	}
	wait(2 * time.Second)
	if err := w.check(); !errors.Is(err, ErrWedged) || !strings.Contains(err.Error(), "step 9 of epoch 4") {
		t.Errorf("after it: %v", err)
	}
	h := newHTTPHandler(newMetrics(1, func() rankStatus { return rankStatus{} }), nil, nil, w.check, http.NotFound)
	answer := httptest.NewRecorder()
	h.ServeHTTP(answer, httptest.NewRequest(http.MethodGet, "/healthz", nil))
	if answer.Code != http.StatusServiceUnavailable || !strings.Contains(answer.Body.String(), "step 9") {
		t.Errorf("healthz: %d %s", answer.Code, answer.Body)
	}
	close(runner.let)
	if err := <-ended; err == nil {
		t.Error("the step succeeded")
	}
	if err := w.check(); err != nil {
		t.Errorf("after it let go: %v", err)
	}
}

func TestWatchReturnsWhenWedgedOrStopped(t *testing.T) {
	w, wait := testWatchdog()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := w.watch(ctx, time.Millisecond); err != nil {
		t.Errorf("stopped: %v", err)
	}
	w.begin("step 1", 1, 0)
	w.release(1)
	wait(time.Minute)
	if err := w.watch(t.Context(), time.Millisecond); !errors.Is(err, ErrWedged) {
		t.Errorf("wedged: %v", err)
	}
}
