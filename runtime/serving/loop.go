// SPDX-License-Identifier: Apache-2.0

package serving

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/findep/findep-operator/runtime/agent/agentpb"
)

// Token is one generated token.
type Token struct {
	*agentpb.PieceResult
	// Stop says that the token is one of the request's stop tokens, so it is
	// no part of the text.
	Stop bool
}

// Sink receives what is generated for one request. Its methods are called in
// order from one goroutine, which also drives every other request: they must
// return at once, however slow the client is.
type Sink interface {
	// Token takes the next token; true ends the sequence with FinishStop.
	Token(Token) (stop bool)
	// End is called once, last. err is set when the reason is FinishAbort.
	End(reason FinishReason, err error)
}

// Request is a sequence with the one who waits for it.
type Request struct {
	Sequence
	Sink Sink
}

// Config adjusts a Loop. The zero value of a field means its default.
type Config struct {
	// MaxQueue bounds the waiting sequences; 1024 by default.
	MaxQueue int
	// PollInterval is how often Describe is asked while all is well; 1 s by
	// default. RetryInterval is the same after a failure; 100 ms by default.
	PollInterval, RetryInterval time.Duration
	// EpochGrace is how long a new epoch is waited for after KV was lost
	// before the old one, if still ready, is tried again (its leader may have
	// restarted and count from the start); 2 s by default.
	EpochGrace time.Duration
	// StepTimeout bounds one step, against a sidecar that hangs; 10 minutes by
	// default. The sidecar has nearer deadlines of its own.
	StepTimeout time.Duration
	// Session tells the engine this process from the one before it, whose
	// sequences it then releases; random.
	Session uint64
	// Metrics is where latencies and counts go; may be nil.
	Metrics *Metrics
	// Log is the logger; slog.Default by default.
	Log *slog.Logger
}

func (c Config) withDefaults() Config {
	set := func(d *time.Duration, to time.Duration) {
		if *d <= 0 {
			*d = to
		}
	}
	if c.MaxQueue <= 0 {
		c.MaxQueue = 1024
	}
	set(&c.PollInterval, time.Second)
	set(&c.RetryInterval, 100*time.Millisecond)
	set(&c.EpochGrace, 2*time.Second)
	set(&c.StepTimeout, 10*time.Minute)
	if c.Log == nil {
		c.Log = slog.Default()
	}
	if c.Metrics == nil {
		c.Metrics = NewMetrics("")
	}
	return c
}

// Loop drives an Engine on behalf of the requests submitted to it.
type Loop struct {
	engine Engine
	config Config
	log    *slog.Logger
	// wake says that there may be something new to do.
	wake chan struct{}
	// recovery is used by the goroutine of Run alone.
	recovery recovery
	// drained asks for a report out of turn.
	drained chan struct{}

	mu        sync.Mutex
	scheduler *Scheduler
	live      map[ID]*flight
	// described is the engine's last answer; nil before the first one.
	// unready says what is missing while steps cannot run.
	described *agentpb.DescribeResponse
	unready   string
	draining  bool
	// inStep is true while the engine runs a step.
	inStep bool
	recent recent
}

// flight is a request on its way and its times.
type flight struct {
	sink                     Sink
	prompt, generated        int
	submitted, first, latest time.Time
	// admitted says that it has left the queue for the first time.
	admitted bool
}

// NewLoop returns a Loop; Run starts it.
func NewLoop(engine Engine, config Config) *Loop {
	config = config.withDefaults()
	l := &Loop{
		engine:    engine,
		config:    config,
		log:       config.Log,
		wake:      make(chan struct{}, 1),
		drained:   make(chan struct{}, 1),
		scheduler: NewScheduler(),
		live:      map[ID]*flight{},
		unready:   "the sidecar has not answered yet",
	}
	config.Metrics.observe(l)
	return l
}

// Submit queues requests, all or none, and returns their ids in order. The
// error is a *Refusal. Requests are accepted while the instance re-forms after
// a fault, but not before it has formed once.
func (l *Loop) Submit(requests []Request) ([]ID, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	limits := l.scheduler.Limits()
	switch {
	case l.draining:
		return nil, &Refusal{Kind: Unavailable, Message: "the server is shutting down; send the request again", RetryAfter: time.Second}
	case limits.AttentionRanks == 0:
		return nil, &Refusal{Kind: Unavailable, Message: "the model is not ready: " + l.unready, RetryAfter: 5 * time.Second}
	}
	if waiting := l.scheduler.Stats().Waiting; waiting+len(requests) > l.config.MaxQueue {
		l.config.Metrics.rejected()
		return nil, &Refusal{Kind: Busy, RetryAfter: l.recent.retryAfter(), Message: fmt.Sprintf(
			"%d prompts are waiting and %d more would exceed the limit of %d; try again later", waiting, len(requests), l.config.MaxQueue)}
	}
	for _, r := range requests {
		if err := limits.Check(len(r.Prompt), r.MaxTokens); err != nil {
			return nil, err
		}
	}
	now := time.Now()
	ids := make([]ID, len(requests))
	for i, r := range requests {
		ids[i] = l.scheduler.Add(r.Sequence)
		l.live[ids[i]] = &flight{sink: r.Sink, prompt: len(r.Prompt), submitted: now}
	}
	l.recent.requests += uint64(len(requests))
	l.poke()
	return ids, nil
}

// Cancel gives up sequences, as when their client has gone. Their KV is
// released and their sinks hear FinishAbort; those that have ended are ignored.
func (l *Loop) Cancel(ids []ID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, id := range ids {
		l.scheduler.Finish(id)
		l.end(id, FinishAbort, context.Canceled)
	}
}

func (l *Loop) poke() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// Status is the engine as the server sees it.
type Status struct {
	// Ready is true while steps can run; otherwise Message says what is
	// missing.
	Ready    bool
	Message  string
	Draining bool
	Limits   Limits
	// Described is the sidecar's last answer; nil before the first one.
	Described *agentpb.DescribeResponse
	Stats     Stats
}

// Status returns the present state.
func (l *Loop) Status() Status {
	l.mu.Lock()
	defer l.mu.Unlock()
	return Status{
		Ready: l.unready == "" && !l.draining, Message: l.unready, Draining: l.draining,
		Limits: l.scheduler.Limits(), Described: l.described, Stats: l.scheduler.Stats(),
	}
}

// Drain refuses new requests from now on; those accepted go on. The engine is
// told, so that other ranks that are told to stop wait for them.
func (l *Loop) Drain() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.draining = true
	select {
	case l.drained <- struct{}{}:
	default:
	}
}

// Idle is true while no accepted request waits for an answer.
func (l *Loop) Idle() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.live) == 0
}

// Run drives steps until ctx ends, and then ends every request with an error.
func (l *Loop) Run(ctx context.Context) {
	var wait sync.WaitGroup
	wait.Go(func() { l.report(ctx) })
	wait.Go(func() { l.watch(ctx) })
	for ctx.Err() == nil {
		if !l.ensureReady(ctx) {
			break
		}
		l.mu.Lock()
		req := l.scheduler.Next()
		l.admitted(time.Now())
		l.mu.Unlock()
		if req == nil {
			l.idle(ctx)
			continue
		}
		l.step(ctx, req)
	}
	wait.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.draining, l.unready = true, "the server is shutting down"
	for _, id := range l.scheduler.Clear() {
		l.end(id, FinishAbort, &Refusal{Kind: Unavailable, Message: "the server shut down before the completion was done; send the request again"})
	}
}

// admitted measures how long the sequences of the new step waited in the
// queue; only the first time, because later waits are no queueing. The lock is
// held.
func (l *Loop) admitted(now time.Time) {
	for _, id := range l.scheduler.Admitted() {
		if f := l.live[id]; f != nil && !f.admitted {
			f.admitted = true
			l.config.Metrics.admitted(now.Sub(f.submitted))
		}
	}
}

// idle waits until there is work or it is time to look at the engine again.
func (l *Loop) idle(ctx context.Context) {
	timer := time.NewTimer(l.config.PollInterval)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-l.wake:
	case <-timer.C:
		l.recovery.due = true
	}
}

func (l *Loop) step(ctx context.Context, req *agentpb.StepRequest) {
	stepCtx, cancel := context.WithTimeout(ctx, l.config.StepTimeout)
	started := time.Now()
	req.Session = l.config.Session
	l.stepping(true)
	resp, err := l.engine.Step(stepCtx, req)
	l.stepping(false)
	cancel()
	l.mu.Lock()
	defer l.mu.Unlock()
	var events []Event
	if err == nil {
		events, err = l.scheduler.Complete(resp)
	}
	if err != nil {
		l.deliver(l.failed(ctx, err))
		return
	}
	l.recovery.failures = 0
	l.config.Metrics.step(req, time.Since(started))
	l.deliver(events)
}

// deliver hands events to the sinks. The lock is held.
func (l *Loop) deliver(events []Event) {
	now := time.Now()
	for _, e := range events {
		f := l.live[e.ID]
		if f == nil {
			continue
		}
		reason := e.Finish
		if e.Result != nil {
			l.timed(f, now)
			if f.sink.Token(Token{PieceResult: e.Result, Stop: reason == FinishStop}) {
				// Also where the token was the last one allowed: what the
				// client sees was ended by its stop string.
				l.scheduler.Finish(e.ID)
				reason = FinishStop
			}
		}
		if reason != "" {
			l.end(e.ID, reason, e.Err)
		}
	}
}

// timed counts a token and its latency. The lock is held.
func (l *Loop) timed(f *flight, now time.Time) {
	f.generated++
	if f.generated == 1 {
		f.first = now
		l.recent.firstToken(now.Sub(f.submitted))
		l.config.Metrics.firstToken(f.prompt, now.Sub(f.submitted))
	} else {
		l.recent.nextToken(now.Sub(f.latest))
	}
	f.latest = now
	l.recent.token(now)
	l.config.Metrics.token()
}

// end tells the sink, once. The lock is held.
func (l *Loop) end(id ID, reason FinishReason, err error) {
	f := l.live[id]
	if f == nil {
		return
	}
	delete(l.live, id)
	now := time.Now()
	if reason != FinishAbort {
		l.recent.finished(now.Sub(f.submitted))
	}
	l.config.Metrics.finished(f, reason, now)
	f.sink.End(reason, err)
}
