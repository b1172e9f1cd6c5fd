// SPDX-License-Identifier: Apache-2.0

package serving

import (
	"context"
	"slices"
	"time"

	"github.com/findep/findep-operator/runtime/agent/agentpb"
)

const (
	// reportInterval is how often the sidecar hears the server's view.
	reportInterval = time.Second
	// window is over how many seconds tokens per second are taken.
	window = 10
	// samples is over how many latencies the medians are taken.
	samples = 256
)

// recent keeps the latest latencies and token counts.
type recent struct {
	requests            uint64
	first, next, whole  ring
	perSecond           [window + 1]int
	second, startSecond int64
}

// ring holds the last samples durations.
type ring struct {
	values []time.Duration
	at     int
}

func (r *ring) add(d time.Duration) {
	if len(r.values) < samples {
		r.values = append(r.values, d)
		return
	}
	r.values[r.at] = d
	r.at = (r.at + 1) % samples
}

// median is 0 for an empty ring.
func (r *ring) median() time.Duration {
	if len(r.values) == 0 {
		return 0
	}
	return slices.Sorted(slices.Values(r.values))[len(r.values)/2]
}

func (r *recent) firstToken(d time.Duration) { r.first.add(d) }
func (r *recent) nextToken(d time.Duration)  { r.next.add(d) }
func (r *recent) finished(d time.Duration)   { r.whole.add(d) }

// advance moves to the second of now, emptying the slots passed over.
func (r *recent) advance(now time.Time) {
	second := now.Unix()
	if r.startSecond == 0 {
		r.second, r.startSecond = second, second
	}
	for passed := 0; r.second < second && passed <= window; passed++ {
		r.second++
		r.perSecond[r.second%(window+1)] = 0
	}
	if r.second < second {
		r.perSecond, r.second = [window + 1]int{}, second
	}
}

func (r *recent) token(now time.Time) {
	r.advance(now)
	r.perSecond[r.second%(window+1)]++
}

// tokensPerSecond is over the whole seconds of the window, the running one
// excluded.
func (r *recent) tokensPerSecond(now time.Time) float64 {
	r.advance(now)
	total, seconds := 0, min(window, r.second-r.startSecond)
	for s := r.second - seconds; s < r.second; s++ {
		total += r.perSecond[s%(window+1)]
	}
	if seconds == 0 {
		return 0
	}
	return float64(total) / float64(seconds)
}

// retryAfter guesses when a place in the queue is free: after about one
// request, between 1 and 30 s.
func (r *recent) retryAfter() time.Duration {
	return min(max(r.whole.median().Round(time.Second), time.Second), 30*time.Second)
}

// report tells the sidecar the server's view until ctx ends. A report that
// fails is replaced by the next.
func (l *Loop) report(ctx context.Context) {
	ticker := time.NewTicker(reportInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		case <-l.drained:
		}
		callCtx, cancel := context.WithTimeout(ctx, reportInterval)
		if err := l.engine.ReportServing(callCtx, l.servingReport()); err != nil {
			l.log.Debug("the sidecar took no report", "error", err)
		}
		cancel()
	}
}

func (l *Loop) servingReport() *agentpb.ServingReport {
	l.mu.Lock()
	defer l.mu.Unlock()
	milliseconds := func(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
	st := l.scheduler.Stats()
	return &agentpb.ServingReport{
		Running: uint32(st.Running), Waiting: uint32(st.Waiting), RequestsTotal: l.recent.requests,
		TimeToFirstTokenMilliseconds:   milliseconds(l.recent.first.median()),
		TimePerOutputTokenMilliseconds: milliseconds(l.recent.next.median()),
		TokensPerSecond:                l.recent.tokensPerSecond(time.Now()),
		KvCacheUsedTokens:              uint32(st.KVTokens), KvCacheTokens: uint32(st.KVCapacity),
		Draining: l.draining,
	}
}
