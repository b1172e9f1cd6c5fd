// SPDX-License-Identifier: Apache-2.0

package serving_test

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	"github.com/findep/findep-operator/runtime/agent/agentpb"
	"github.com/findep/findep-operator/runtime/serving"
	"github.com/findep/findep-operator/runtime/serving/servingtest"
)

// sink records a completion.
type sink struct {
	mu     sync.Mutex
	tokens []int32
	times  []time.Time
	reason serving.FinishReason
	err    error
	// stopAfter ends the sequence as a stop string does; 0 never.
	stopAfter int
	ended     chan struct{}
}

func newSink() *sink { return &sink{ended: make(chan struct{})} }

func (s *sink) Token(t serving.Token) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tokens = append(s.tokens, t.GetToken())
	s.times = append(s.times, time.Now())
	return len(s.tokens) == s.stopAfter
}

func (s *sink) End(reason serving.FinishReason, err error) {
	s.reason, s.err = reason, err
	close(s.ended)
}

func runLoop(e serving.Engine, c serving.Config) (*serving.Loop, func()) {
	c.Log = slog.New(slog.DiscardHandler)
	l := serving.NewLoop(e, c)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); l.Run(ctx) }()
	return l, func() { cancel(); <-done }
}

func submit(t *testing.T, l *serving.Loop, prompt []int32, maxTokens int) (*sink, serving.ID) {
	t.Helper()
	s := newSink()
	ids, err := l.Submit([]serving.Request{{Sequence: serving.Sequence{Prompt: prompt, MaxTokens: maxTokens}, Sink: s}})
	if err != nil {
		t.Fatal(err)
	}
	return s, ids[0]
}

// sameEpoch is an engine whose leader counts epochs from the start each time.
type sameEpoch struct{ *servingtest.Engine }

func (e sameEpoch) Describe(ctx context.Context) (*agentpb.DescribeResponse, error) {
	d, err := e.Engine.Describe(ctx)
	if err == nil {
		d.Epoch = 1
	}
	return d, err
}

func (e sameEpoch) Step(ctx context.Context, r *agentpb.StepRequest) (*agentpb.StepResponse, error) {
	d, err := e.Engine.Describe(ctx)
	if err != nil {
		return nil, err
	}
	r = proto.CloneOf(r)
	r.Epoch = d.GetEpoch()
	return e.Engine.Step(ctx, r)
}

// TestNewEpochIsWaitedForButNotForEver: after a loss the loop waits for the
// next epoch, and if the engine is ready in the same one, only EpochGrace.
func TestNewEpochIsWaitedForButNotForEver(t *testing.T) {
	fault := func(step int) servingtest.Fault {
		if step == 2 {
			return servingtest.LostAfter
		}
		return servingtest.None
	}
	tests := map[string]struct {
		wrap        func(*servingtest.Engine) serving.Engine
		least, most time.Duration
	}{
		"next epoch": {func(e *servingtest.Engine) serving.Engine { return e }, 0, 300 * time.Millisecond},
		"same epoch": {func(e *servingtest.Engine) serving.Engine { return sameEpoch{e} }, 2 * time.Second, 3 * time.Second},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := servingtest.New()
				e.Fault = fault
				l, stop := runLoop(tt.wrap(e), serving.Config{})
				defer stop()
				synctest.Wait()
				s, _ := submit(t, l, []int32{1, 2, 3}, 5)
				began := time.Now()
				<-s.ended
				if diff := cmp.Diff(e.Generate([]int32{1, 2, 3}, nil, 5, nil), s.tokens); diff != "" {
					t.Errorf("tokens (-want +got):\n%s", diff)
				}
				// The clock is the bubble's: it moves only while all wait.
				if took := time.Since(began); took < tt.least || took > tt.most {
					t.Errorf("took %v, want %v to %v", took, tt.least, tt.most)
				}
				for _, p := range e.Problems() {
					t.Error(p)
				}
			})
		})
	}
}

func TestCancelTellsTheSinkOnceAndFreesTheRank(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := servingtest.New()
		e.OnStep = func(*agentpb.StepRequest) { time.Sleep(time.Second) }
		l, stop := runLoop(e, serving.Config{})
		defer stop()
		synctest.Wait()
		s, id := submit(t, l, []int32{1}, 100)
		time.Sleep(3500 * time.Millisecond) // In the middle of the fourth step.
		l.Cancel([]serving.ID{id, id, 99})
		<-s.ended
		if s.reason != serving.FinishAbort || !errors.Is(s.err, context.Canceled) || len(s.tokens) != 3 {
			t.Errorf("ended with %q, %v after %d tokens", s.reason, s.err, len(s.tokens))
		}
		time.Sleep(2 * time.Second)
		if st := l.Status().Stats; st.Running+st.Waiting+st.KVBlocksUsed != 0 || len(s.tokens) != 3 {
			t.Errorf("%+v, %d tokens", st, len(s.tokens))
		}
	})
}

func TestStopFromTheSink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, maxTokens := range []int{4, 50} {
			e := servingtest.New()
			e.OnStep = func(*agentpb.StepRequest) { time.Sleep(time.Second) }
			l, stop := runLoop(e, serving.Config{})
			synctest.Wait()
			s := newSink()
			s.stopAfter = 4
			if _, err := l.Submit([]serving.Request{{Sequence: serving.Sequence{Prompt: []int32{5}, MaxTokens: maxTokens}, Sink: s}}); err != nil {
				t.Fatal(err)
			}
			<-s.ended
			synctest.Wait()
			if s.reason != serving.FinishStop || len(s.tokens) != 4 || l.Status().Stats.KVBlocksUsed != 0 {
				t.Errorf("max %d: %q after %d tokens, %+v", maxTokens, s.reason, len(s.tokens), l.Status().Stats)
			}
			stop()
		}
	})
}

func TestShutdownEndsWhatIsLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := servingtest.New()
		e.OnStep = func(*agentpb.StepRequest) { time.Sleep(time.Second) }
		l, stop := runLoop(e, serving.Config{})
		synctest.Wait()
		s, _ := submit(t, l, []int32{1}, 100)
		time.Sleep(2500 * time.Millisecond)
		stop()
		<-s.ended
		var refusal *serving.Refusal
		if s.reason != serving.FinishAbort || !errors.As(s.err, &refusal) || refusal.Kind != serving.Unavailable {
			t.Errorf("ended with %q and %v", s.reason, s.err)
		}
		if _, err := l.Submit(nil); err == nil {
			t.Error("a request after the end was accepted")
		}
	})
}

// TestAbortedIsNeverGivenUp: however often the instance re-forms, the request
// goes on, unlike with errors that promise nothing.
func TestAbortedIsNeverGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := servingtest.New()
		e.Fault = func(step int) servingtest.Fault {
			if step >= 2 && step < 12 {
				return []servingtest.Fault{servingtest.Reformed, servingtest.LostBefore}[step%2]
			}
			return servingtest.None
		}
		l, stop := runLoop(e, serving.Config{})
		defer stop()
		synctest.Wait()
		s, _ := submit(t, l, []int32{1, 2, 3}, 5)
		<-s.ended
		if diff := cmp.Diff(e.Generate([]int32{1, 2, 3}, nil, 5, nil), s.tokens); diff != "" || s.reason != serving.FinishLength {
			t.Errorf("ended with %q, %v; tokens (-want +got):\n%s", s.reason, s.err, diff)
		}
	})
}

// TestSmallerInstanceSaysSo: a request that the re-formed instance cannot hold
// ends with an error instead of waiting for ever.
func TestSmallerInstanceSaysSo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := servingtest.New()
		e.OnStep = func(*agentpb.StepRequest) { time.Sleep(time.Second) }
		l, stop := runLoop(e, serving.Config{})
		defer stop()
		synctest.Wait()
		s, _ := submit(t, l, []int32{1, 2, 3}, 100)
		time.Sleep(2500 * time.Millisecond)
		e.Break(func(e *servingtest.Engine) { e.Context = 50 })
		<-s.ended
		var refusal *serving.Refusal
		if s.reason != serving.FinishAbort || !errors.As(s.err, &refusal) || refusal.Code != "context_length_exceeded" {
			t.Errorf("ended with %q and %v", s.reason, s.err)
		}
	})
}

// TestReport: medians and rates are of what happened, by the bubble's clock.
func TestReport(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := servingtest.New()
		e.OnStep = func(*agentpb.StepRequest) { time.Sleep(100 * time.Millisecond) }
		l, stop := runLoop(e, serving.Config{})
		defer stop()
		synctest.Wait()
		s, _ := submit(t, l, slices.Repeat([]int32{1}, 20), 60)
		time.Sleep(5500 * time.Millisecond)
		r := e.Report()
		if r.GetRunning() != 1 || r.GetRequestsTotal() != 1 || r.GetTimeToFirstTokenMilliseconds() != 100 || r.GetTimePerOutputTokenMilliseconds() != 100 {
			t.Errorf("report %v", r)
		}
		if rate := r.GetTokensPerSecond(); rate < 9 || rate > 11 {
			t.Errorf("%v tokens per second, want about 10", rate)
		}
		if used := r.GetKvCacheUsedTokens(); used < 60 || used > 80 || r.GetKvCacheTokens() != 2048 {
			t.Errorf("KV cache %d of %d tokens", used, r.GetKvCacheTokens())
		}
		<-s.ended
		time.Sleep(30 * time.Second)
		if r := e.Report(); r.GetTokensPerSecond() != 0 || r.GetRunning() != 0 {
			t.Errorf("long after: %v", r)
		}
	})
}

// hanging is an engine whose steps wait to be let go, and which is not ready
// meanwhile.
type hanging struct {
	*servingtest.Engine
	began, let chan struct{}
	sessions   []uint64
}

func (e *hanging) Step(ctx context.Context, r *agentpb.StepRequest) (*agentpb.StepResponse, error) {
	e.sessions = append(e.sessions, r.GetSession())
	if len(e.sessions) == 2 {
		close(e.began)
		<-e.let
	}
	return e.Engine.Step(ctx, r)
}

func (e *hanging) Describe(ctx context.Context) (*agentpb.DescribeResponse, error) {
	d, err := e.Engine.Describe(ctx)
	select {
	case <-e.began:
		select {
		case <-e.let:
		default:
			d.Ready, d.Message = false, "rank 3 is silent"
		}
	default:
	}
	return d, err
}

// TestServerIsNotReadyWhileAStepHangs: nobody else would tell, because the loop
// waits for the step.
func TestServerIsNotReadyWhileAStepHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := &hanging{Engine: servingtest.New(), began: make(chan struct{}), let: make(chan struct{})}
		l, stop := runLoop(e, serving.Config{Session: 77})
		defer stop()
		for !l.Status().Ready {
			time.Sleep(time.Millisecond)
		}
		s, _ := submit(t, l, []int32{1, 2, 3}, 5)
		<-e.began
		if !l.Status().Ready || l.Idle() {
			t.Error("a step that has just begun")
		}
		time.Sleep(3 * time.Second)
		if st := l.Status(); st.Ready || st.Message != "the instance is not ready: rank 3 is silent" {
			t.Errorf("status %+v", st)
		}
		close(e.let)
		<-s.ended
		if diff := cmp.Diff(e.Generate([]int32{1, 2, 3}, nil, 5, nil), s.tokens); diff != "" || s.err != nil {
			t.Errorf("error %v, tokens differ: %s", s.err, diff)
		}
		for !l.Status().Ready {
			time.Sleep(time.Millisecond)
		}
		if !l.Idle() || slices.ContainsFunc(e.sessions, func(s uint64) bool { return s != 77 }) {
			t.Errorf("idle %v, sessions %v", l.Idle(), e.sessions)
		}
	})
}
