// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/findep/findep-operator/runtime/plan"
	"github.com/findep/findep-operator/runtime/sim"
)

// Limits of a request for a trace.
const (
	defaultTraceSteps   = 16
	defaultTraceTimeout = 30 * time.Second
	maxTraceTimeout     = 5 * time.Minute
)

// serveTrace answers GET /debug/trace?steps=N&timeout=D on the leader: it waits
// for N steps and returns them as Chrome trace JSON, which Perfetto opens.
func serveTrace(w http.ResponseWriter, q *http.Request, l *leader, role func(int) plan.Role) {
	steps, timeout, err := traceRequest(q)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	done, err := l.tracer.begin(steps)
	if err != nil {
		code := http.StatusBadRequest
		if errors.Is(err, errTraceBusy) {
			code = http.StatusConflict
		}
		http.Error(w, err.Error(), code)
		return
	}
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
	case <-q.Context().Done():
	}
	recorded := l.tracer.end()
	if len(recorded) == 0 {
		http.Error(w, fmt.Sprintf("no step ran within %v; send a request meanwhile", timeout), http.StatusGatewayTimeout)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = sim.WriteTrace(w, traceEvents(recorded, role)) // A client that has gone is nobody's problem.
}

func traceRequest(q *http.Request) (steps int, timeout time.Duration, err error) {
	steps, timeout = defaultTraceSteps, defaultTraceTimeout
	if s := q.URL.Query().Get("steps"); s != "" {
		if steps, err = strconv.Atoi(s); err != nil {
			return 0, 0, fmt.Errorf("steps is %q; it must be a number from 1 to %d", s, maxTraceSteps)
		}
	}
	if s := q.URL.Query().Get("timeout"); s != "" {
		if timeout, err = time.ParseDuration(s); err != nil || timeout <= 0 || timeout > maxTraceTimeout {
			return 0, 0, fmt.Errorf("timeout is %q; it must be a duration up to %v, such as 30s", s, maxTraceTimeout)
		}
	}
	return steps, timeout, nil
}
