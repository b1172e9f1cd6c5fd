// SPDX-License-Identifier: Apache-2.0

package serving

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// maxFailures is how often in a row steps may fail with an error that promises
// no recovery before their requests are given up.
const maxFailures = 3

// recovery is what Loop's goroutine remembers between steps.
type recovery struct {
	// due asks for a Describe before the next step.
	due bool
	// lostAt is when KV was lost; zero when all is well. lostEpoch is the
	// epoch in which that was.
	lostAt    time.Time
	lostEpoch uint64
	// failures counts failed steps in a row that were not UNAVAILABLE or
	// ABORTED.
	failures int
	// said is the last message logged while waiting, so that each is logged
	// once.
	said string
}

// failed decides what a failed step means and returns the sequences that end
// with it. The lock is held.
//
// UNAVAILABLE, ABORTED and a timeout mean that the KV is gone or no longer
// ours: everything is computed again, as often as it takes.
// INVALID_ARGUMENT would come back for the same step, so its sequences end.
// Anything else gets maxFailures tries.
func (l *Loop) failed(ctx context.Context, err error) []Event {
	if ctx.Err() != nil {
		l.scheduler.Lost()
		return nil
	}
	code := status.Code(err)
	l.config.Metrics.stepFailed(code)
	l.recovery.due = true
	switch code {
	case codes.Unavailable, codes.Aborted, codes.DeadlineExceeded, codes.Canceled:
		l.log.Warn("the step was lost; its sequences will be computed again", "epoch", l.scheduler.Limits().Epoch, "code", code.String(), "error", err)
		l.lost()
		return nil
	case codes.InvalidArgument:
		l.log.Error("the engine refused the step as malformed", "error", err)
		return l.scheduler.Refused(&Refusal{Kind: Failed, Message: "the engine refused the request: " + status.Convert(err).Message()})
	}
	l.recovery.failures++
	l.log.Error("the step failed", "code", code.String(), "attempt", l.recovery.failures, "error", err)
	if l.recovery.failures < maxFailures {
		l.lost()
		return nil
	}
	l.recovery.failures = 0
	events := l.scheduler.Refused(&Refusal{Kind: Failed, Message: fmt.Sprintf("the engine failed %d times in a row: %s", maxFailures, status.Convert(err).Message())})
	l.lost()
	return events
}

func (l *Loop) lost() {
	l.recovery.lostAt, l.recovery.lostEpoch = time.Now(), l.scheduler.Limits().Epoch
	l.unready = "the instance is re-forming after a fault"
	l.scheduler.Lost()
}

// ensureReady returns true once a step can be sent: the engine is ready, and
// the scheduler is in its epoch. It is false when ctx ended.
func (l *Loop) ensureReady(ctx context.Context) bool {
	for ctx.Err() == nil {
		if !l.recovery.due && l.Status().Message == "" {
			return true
		}
		if l.look(ctx) {
			l.recovery.due = false
			return true
		}
		l.pause(ctx)
	}
	return false
}

// look asks the engine once and takes in the answer.
func (l *Loop) look(ctx context.Context) bool {
	callCtx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	d, err := l.engine.Describe(callCtx)
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		return l.notReady("the sidecar does not answer: " + status.Convert(err).Message())
	}
	l.described = d
	if !d.GetReady() {
		return l.notReady(d.GetMessage())
	}
	if !d.GetLeader() {
		return l.notReady(fmt.Sprintf("the sidecar is rank %d, which is not the leader", d.GetRank()))
	}
	limits, err := LimitsOf(d)
	if err != nil {
		return l.notReady(err.Error())
	}
	waited := time.Since(l.recovery.lostAt)
	if limits.Epoch == l.recovery.lostEpoch && !l.recovery.lostAt.IsZero() && waited < l.config.EpochGrace {
		return l.notReady("the instance is re-forming after a fault")
	}
	if old := l.scheduler.Limits(); limits != old {
		l.log.Info("the engine is ready", "epoch", limits.Epoch, "attentionRanks", limits.AttentionRanks,
			"kvTokensPerRank", limits.KVBlocks*limits.BlockTokens, "stepTokensPerRank", limits.StepTokens, "contextTokens", limits.ContextTokens)
		l.deliver(l.scheduler.Reset(limits))
	}
	l.unready, l.recovery.said, l.recovery.lostAt = "", "", time.Time{}
	return true
}

func (l *Loop) stepping(now bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.inStep = now
}

// watch looks at the engine while a step runs, so that a sidecar that hangs in
// one is not called ready. What it finds holds until the step has ended, when
// the engine is asked again.
func (l *Loop) watch(ctx context.Context) {
	ticker := time.NewTicker(l.config.PollInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		l.mu.Lock()
		running := l.inStep
		l.mu.Unlock()
		if running {
			l.watchStep(ctx)
		}
	}
}

// watchTimeout is the answer time of an engine that is not stuck.
const watchTimeout = 2 * time.Second

func (l *Loop) watchStep(ctx context.Context) {
	callCtx, cancel := context.WithTimeout(ctx, watchTimeout)
	defer cancel()
	d, err := l.engine.Describe(callCtx)
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case !l.inStep || ctx.Err() != nil:
	case err != nil:
		l.unready = "the sidecar does not answer: " + status.Convert(err).Message()
	case !d.GetReady():
		l.unready = "the instance is not ready: " + d.GetMessage()
	}
}

// notReady records why, logging it when it changes. The lock is held.
func (l *Loop) notReady(message string) bool {
	if message == "" {
		message = "the instance has not formed"
	}
	l.unready = message
	if message != l.recovery.said {
		l.recovery.said = message
		l.log.Info("waiting for the engine", "reason", message)
	}
	return false
}

// pause waits between two looks at an engine that is not ready.
func (l *Loop) pause(ctx context.Context) {
	timer := time.NewTimer(l.config.RetryInterval)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}
