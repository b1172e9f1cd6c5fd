// SPDX-License-Identifier: Apache-2.0

package openai_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/findep/findep-operator/runtime/serving"
	"github.com/findep/findep-operator/runtime/serving/openai"
	"github.com/findep/findep-operator/runtime/serving/servingtest"
)

func TestErrors(t *testing.T) {
	s := start(t, servingtest.New(), func(_ *serving.Config, c *openai.Config) { c.MaxBodyBytes = 100_000 }).ready()
	with := func(f fields) string {
		b, err := json.Marshal(request(f))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	tests := map[string]struct {
		method, path, body string
		status             int
		want, param        string
	}{
		"not JSON":             {body: "{", status: 400, want: "not valid JSON"},
		"empty":                {body: "", status: 400, want: "empty"},
		"not an object":        {body: "[1]", status: 400, want: "must be an object"},
		"data after it":        {body: with(nil) + "x", status: 400, want: "not valid JSON"},
		"no model":             {body: with(fields{"model": nil}), status: 400, want: `serves "acme/tiny-moe"`, param: "model"},
		"other model":          {body: with(fields{"model": "gpt-4"}), status: 404, want: `"gpt-4" does not exist here; this server serves "acme/tiny-moe"`, param: "model"},
		"no prompt":            {body: with(fields{"prompt": nil}), status: 400, want: "prompt is missing", param: "prompt"},
		"empty prompt":         {body: with(fields{"prompt": ""}), status: 400, want: "no tokens", param: "prompt"},
		"no prompts":           {body: with(fields{"prompt": []string{}}), status: 400, want: "at least one entry", param: "prompt"},
		"prompt is an object":  {body: with(fields{"prompt": fields{}}), status: 400, want: "prompt must be a string or an array", param: "prompt"},
		"mixed prompt":         {body: with(fields{"prompt": []any{"a", 3}}), status: 400, want: "prompt[1]", param: "prompt"},
		"fractional token":     {body: with(fields{"prompt": []any{1, 2.5}}), status: 400, want: "token ids", param: "prompt"},
		"huge token":           {body: with(fields{"prompt": []any{1 << 40}}), status: 400, want: "token ids", param: "prompt"},
		"unknown token":        {body: with(fields{"prompt": []any{1, 5000}}), status: 400, want: "token id 5000 is outside", param: "prompt"},
		"negative token":       {body: with(fields{"prompt": []any{-1}}), status: 400, want: "token id -1 is outside", param: "prompt"},
		"too many prompts":     {body: with(fields{"prompt": slices.Repeat([]string{"a"}, 129)}), status: 400, want: "129 entries", param: "prompt"},
		"beyond the context":   {body: with(fields{"max_tokens": 1000}), status: 400, want: "maximum context length is 256 tokens, but", param: "prompt"},
		"long prompt":          {body: with(fields{"prompt": strings.Repeat("word ", 500)}), status: 400, want: "maximum context length is 256", param: "prompt"},
		"far too long prompt":  {body: with(fields{"prompt": strings.Repeat("word ", 15_000)}), status: 400, want: "cannot fit", param: "prompt"},
		"body too large":       {body: with(fields{"prompt": strings.Repeat("word ", 50_000)}), status: 413, want: "exceeds 100000 bytes"},
		"max_tokens 0":         {body: with(fields{"max_tokens": 0}), status: 400, want: "at least 1", param: "max_tokens"},
		"max_tokens of text":   {body: with(fields{"max_tokens": "5"}), status: 400, want: "max_tokens is a JSON string; it must be of type integer", param: "max_tokens"},
		"temperature":          {body: with(fields{"temperature": 2.5}), status: 400, want: "between 0 and 2", param: "temperature"},
		"top_p":                {body: with(fields{"top_p": 0}), status: 400, want: "above 0", param: "top_p"},
		"top_k":                {body: with(fields{"top_k": -5}), status: 400, want: "top_k", param: "top_k"},
		"logprobs":             {body: with(fields{"logprobs": 21}), status: 400, want: "between 0 and 20", param: "logprobs"},
		"five stops":           {body: with(fields{"stop": []string{"a", "b", "c", "d", "e"}}), status: 400, want: "at most 4", param: "stop"},
		"empty stop":           {body: with(fields{"stop": ""}), status: 400, want: "1 to 256", param: "stop"},
		"stop is a number":     {body: with(fields{"stop": 3}), status: 400, want: "stop must be", param: "stop"},
		"stream options alone": {body: with(fields{"stream_options": fields{"include_usage": true}}), status: 400, want: "only allowed when stream", param: "stream_options"},
		"n":                    {body: with(fields{"n": 2}), status: 400, want: "n is not supported", param: "n"},
		"best_of":              {body: with(fields{"best_of": 3}), status: 400, want: "best_of is not supported", param: "best_of"},
		"echo":                 {body: with(fields{"echo": true}), status: 400, want: "echo is not supported", param: "echo"},
		"suffix":               {body: with(fields{"suffix": "."}), status: 400, want: "suffix is not supported", param: "suffix"},
		"logit_bias":           {body: with(fields{"logit_bias": fields{"5": 1}}), status: 400, want: "logit_bias is not supported", param: "logit_bias"},
		"presence_penalty":     {body: with(fields{"presence_penalty": 0.5}), status: 400, want: "presence_penalty is not supported", param: "presence_penalty"},
		"response_format":      {body: with(fields{"response_format": fields{"type": "json_object"}}), status: 400, want: "response_format", param: "response_format"},
		"GET":                  {method: http.MethodGet, status: 405, want: "use POST"},
		"POST to models":       {method: http.MethodPost, path: "/v1/models", status: 405, want: "use GET"},
		"no such model":        {method: http.MethodGet, path: "/v1/models/other/one", status: 404, want: `"other/one" does not exist`, param: "model"},
		"no such path":         {method: http.MethodGet, path: "/v2", status: 404, want: "there is no /v2"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if tt.method == "" {
				tt.method = http.MethodPost
			}
			if tt.path == "" {
				tt.path = "/v1/completions"
			}
			q, err := http.NewRequest(tt.method, s.url+tt.path, strings.NewReader(tt.body))
			if err != nil {
				t.Fatal(err)
			}
			r, err := http.DefaultClient.Do(q)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = r.Body.Close() }()
			var c completion
			if err := json.NewDecoder(r.Body).Decode(&c); err != nil || c.Error == nil {
				t.Fatalf("no error object: %v", err)
			}
			if r.StatusCode != tt.status || !strings.Contains(c.Error.Message, tt.want) || c.Error.Param != tt.param || c.Error.Type == "" {
				t.Errorf("status %d, error %+v; want %d, %q, param %q", r.StatusCode, *c.Error, tt.status, tt.want, tt.param)
			}
		})
	}
	if st := s.loop.Status().Stats; st.Waiting+st.Running != 0 {
		t.Errorf("refused requests are still held: %+v", st)
	}
}

func TestHarmlessFieldsAreTolerated(t *testing.T) {
	s := start(t, servingtest.New(), nil).ready()
	c := s.complete(fields{"n": 1, "best_of": 1, "echo": false, "suffix": "", "logit_bias": fields{}, "presence_penalty": 0, "frequency_penalty": 0.0,
		"user": "me", "metadata": fields{"a": 1}, "top_p": 1, "response_format": fields{"type": "text"}, "made_up": []int{1}})
	if c.Choices[0].Text != s.expect("The quick brown fox", 16) {
		t.Errorf("text %q", c.Choices[0].Text)
	}
}

func TestModels(t *testing.T) {
	s := start(t, servingtest.New(), nil).ready()
	for path, want := range map[string]string{
		"/v1/models":                 `"data":[{"id":"acme/tiny-moe","object":"model"`,
		"/v1/models/acme/tiny-moe":   `{"id":"acme/tiny-moe","object":"model"`,
		"/v1/models/acme%2Ftiny-moe": `"max_model_len":256`,
		"/healthz":                   "ok",
		"/readyz":                    "ok",
	} {
		r, err := http.Get(s.url + path)
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(r.Body)
		_ = r.Body.Close()
		if r.StatusCode != http.StatusOK || !strings.Contains(string(b), want) {
			t.Errorf("%s: status %d, %s; want %s", path, r.StatusCode, b, want)
		}
	}
}

func TestNotReady(t *testing.T) {
	e := servingtest.New()
	e.NotReady = 1 << 30
	s := start(t, e, nil)
	s.until("described", func() bool { return s.loop.Status().Described != nil })
	r := s.post(request(nil))
	b, _ := io.ReadAll(r.Body)
	if r.StatusCode != http.StatusServiceUnavailable || !strings.Contains(string(b), "rank 2 has not joined") || r.Header.Get("Retry-After") == "" {
		t.Errorf("status %d, Retry-After %q: %s", r.StatusCode, r.Header.Get("Retry-After"), b)
	}
	ready, err := http.Get(s.url + "/readyz")
	if err != nil {
		t.Fatal(err)
	}
	_ = ready.Body.Close()
	if ready.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("readyz has status %d", ready.StatusCode)
	}
}

// gate holds back steps while it is locked.
type gate struct{ sync.Mutex }

func (g *gate) pass(*servingtest.StepRequest) { g.Lock(); g.Unlock() } //nolint:staticcheck // Only to wait.

func TestQueueLimit(t *testing.T) {
	e := servingtest.New()
	var g gate
	e.OnStep = g.pass
	s := start(t, e, func(c *serving.Config, _ *openai.Config) { c.MaxQueue = 2 }).ready()
	g.Lock()
	texts := make(chan string, 3)
	send := func() { texts <- s.complete(nil).Choices[0].Text }
	go send()
	s.until("running", func() bool { return s.loop.Status().Stats.Running == 1 })
	go send()
	go send()
	s.until("full", func() bool { return s.loop.Status().Stats.Waiting == 2 })
	r := s.post(request(nil))
	b, _ := io.ReadAll(r.Body)
	if r.StatusCode != http.StatusTooManyRequests || r.Header.Get("Retry-After") == "" || !strings.Contains(string(b), "the limit of 2") {
		t.Errorf("status %d, Retry-After %q: %s", r.StatusCode, r.Header.Get("Retry-After"), b)
	}
	g.Unlock()
	for range 3 {
		if got, want := <-texts, s.expect("The quick brown fox", 16); got != want {
			t.Errorf("an accepted request got %q, want %q", got, want)
		}
	}
}

// TestDisconnectReleasesKV: a client that goes away, with or without a stream,
// gives its place back.
func TestDisconnectReleasesKV(t *testing.T) {
	for _, stream := range []bool{false, true} {
		t.Run(fmt.Sprint("stream=", stream), func(t *testing.T) {
			e := servingtest.New()
			slow := make(chan struct{})
			e.OnStep = func(*servingtest.StepRequest) {
				select {
				case <-slow:
				case <-time.After(2 * time.Millisecond):
				}
			}
			e.Context, e.KVBlocks = 1<<20, 1<<16
			s := start(t, e, nil).ready()
			ctx, cancel := context.WithCancel(context.Background())
			b, _ := json.Marshal(request(fields{"max_tokens": 100_000, "stream": stream}))
			q, _ := http.NewRequestWithContext(ctx, http.MethodPost, s.url+"/v1/completions", strings.NewReader(string(b)))
			gone := make(chan struct{})
			go func() {
				defer close(gone)
				if r, err := http.DefaultClient.Do(q); err == nil {
					_, _ = io.Copy(io.Discard, r.Body)
					_ = r.Body.Close()
				}
			}()
			s.until("running", func() bool { return s.loop.Status().Stats.KVTokens > 10 })
			cancel()
			<-gone
			s.until("released", func() bool { st := s.loop.Status().Stats; return st.Running == 0 && st.KVBlocksUsed == 0 })
			close(slow)
			s.complete(nil)
			if e.Held() != 1 {
				t.Errorf("the engine holds %d sequences, want the last one alone", e.Held())
			}
		})
	}
}

// TestConcurrentUnderFaults: 32 clients at a time, streams and not, while
// ranks die: every answer is the model's.
func TestConcurrentUnderFaults(t *testing.T) {
	for seed := range uint64(3) {
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
			e := servingtest.New()
			rng := rand.New(rand.NewPCG(seed, 1))
			e.KVBlocks, e.NotReady = 30, 2
			e.Fault = func(int) servingtest.Fault {
				if rng.IntN(25) > 0 {
					return servingtest.None
				}
				return []servingtest.Fault{servingtest.LostBefore, servingtest.LostAfter, servingtest.Reformed, servingtest.Internal}[rng.IntN(4)]
			}
			s := start(t, e, nil).ready()
			var wait sync.WaitGroup
			for client := range 32 {
				wait.Go(func() {
					for turn := range 3 {
						prompt := strings.Repeat(fmt.Sprintf("client %d turn %d ", client, turn), 1+client%4)
						want, q := s.expect(prompt, 10+client), fields{"prompt": prompt, "max_tokens": 10 + client}
						var got string
						if client%2 == 0 {
							got = s.complete(q).Choices[0].Text
						} else {
							texts, _ := gather(s.stream(q))
							got = texts[0]
						}
						if got != want {
							t.Errorf("%q continued with %q, want %q", prompt, got, want)
						}
					}
				})
			}
			wait.Wait()
			steps, mixed, widest := e.Steps()
			t.Logf("%d steps, %d of them with prompts and generation, up to %d sequences", steps, mixed, widest)
			if widest < 8 {
				t.Errorf("at most %d sequences in a step: requests are not batched", widest)
			}
			if st := s.loop.Status().Stats; st.KVBlocksUsed != 0 || st.Running+st.Waiting != 0 {
				t.Errorf("something is still held: %+v", st)
			}
		})
	}
}

// TestEngineErrors: what the engine will never do ends with an error, also in
// the middle of a stream, and the next request is served.
func TestEngineErrors(t *testing.T) {
	tests := map[string]struct {
		fault servingtest.Fault
		want  string
	}{
		"malformed":          {servingtest.Malformed, "piece 0 is malformed"},
		"fails all the time": {servingtest.Internal, "failed 3 times in a row: kernel failed"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			e := servingtest.New()
			var from atomic.Int64
			from.Store(1 << 30)
			// The fault in the middle of a stream waits until the stream has begun.
			begun := make(chan struct{})
			e.Fault = func(step int) servingtest.Fault {
				n := from.Load()
				if int64(step) < n || int64(step) >= n+3 {
					return servingtest.None
				}
				if n > 0 {
					<-begun
				}
				return tt.fault
			}
			s := start(t, e, nil).ready()
			from.Store(0)
			r := s.post(request(nil))
			b, _ := io.ReadAll(r.Body)
			if r.StatusCode != http.StatusInternalServerError || !strings.Contains(string(b), tt.want) {
				t.Errorf("status %d: %s", r.StatusCode, b)
			}
			for range 2 {
				_ = s.post(request(nil)) // Uses up the faults that are left.
			}
			s.until("idle", func() bool { return s.loop.Status().Ready && s.loop.Status().Stats.Running == 0 })
			steps, _, _ := e.Steps()
			from.Store(int64(steps) + 8)
			r = s.post(request(fields{"stream": true}))
			stream := bufio.NewReader(r.Body)
			first, _ := stream.ReadString('\n')
			close(begun)
			b, _ = io.ReadAll(stream)
			if !strings.Contains(string(b), tt.want) || strings.Contains(string(b), "[DONE]") || !strings.HasPrefix(first, "data: {\"id\"") {
				t.Errorf("the stream has %s%s", first, b)
			}
			from.Store(1 << 30)
			if c := s.complete(nil); c.Choices[0].Text != s.expect("The quick brown fox", 16) {
				t.Errorf("afterwards: %+v", c)
			}
		})
	}
}

// TestBodyDeadlineEndsWithTheBody: it must not cancel a completion that takes
// longer than a body may.
func TestBodyDeadlineEndsWithTheBody(t *testing.T) {
	e := servingtest.New()
	e.OnStep = func(*servingtest.StepRequest) { time.Sleep(80 * time.Millisecond) } // 16 of them.
	s := start(t, e, func(_ *serving.Config, c *openai.Config) {
		c.BodyTimeout, c.WriteTimeout = time.Second, time.Second
	}).ready()
	if c := s.complete(nil); c.Choices[0].Text != s.expect("The quick brown fox", 16) {
		t.Errorf("%+v", c)
	}
	texts, _ := gather(s.stream(nil))
	if texts[0] != s.expect("The quick brown fox", 16) {
		t.Errorf("%q", texts[0])
	}
}

func TestBodyThatNeverEnds(t *testing.T) {
	s := start(t, servingtest.New(), func(_ *serving.Config, c *openai.Config) { c.BodyTimeout = 50 * time.Millisecond }).ready()
	conn, err := net.Dial("tcp", strings.TrimPrefix(s.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if _, err := io.WriteString(conn, "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{\"model\""); err != nil {
		t.Fatal(err)
	}
	r, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	b, _ := io.ReadAll(r.Body)
	if r.StatusCode != http.StatusRequestTimeout || !strings.Contains(string(b), "did not arrive in time") {
		t.Errorf("status %d: %s", r.StatusCode, b)
	}
}

func TestDrain(t *testing.T) {
	e := servingtest.New()
	var g gate
	e.OnStep = g.pass
	s := start(t, e, nil).ready()
	g.Lock()
	text := make(chan string)
	go func() { text <- s.complete(nil).Choices[0].Text }()
	s.until("running", func() bool { return s.loop.Status().Stats.Running == 1 })
	s.loop.Drain()
	if r := s.post(request(nil)); r.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("a new request has status %d", r.StatusCode)
	}
	r, err := http.Get(s.url + "/readyz")
	if err != nil {
		t.Fatal(err)
	}
	_ = r.Body.Close()
	if r.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("readyz has status %d", r.StatusCode)
	}
	g.Unlock()
	if got := <-text; got != s.expect("The quick brown fox", 16) {
		t.Errorf("the accepted request got %q", got)
	}
}

func TestMetricsAndReport(t *testing.T) {
	e := servingtest.New()
	s := start(t, e, nil).ready()
	s.complete(fields{"max_tokens": 9})
	s.until("reported", func() bool { return e.Report().GetRequestsTotal() == 1 })
	r, err := http.Get(s.url + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	b, _ := io.ReadAll(r.Body)
	_ = r.Body.Close()
	const label = `{model_name="acme/tiny-moe"}`
	for _, want := range []string{
		"findep_request_time_to_first_token_seconds_count" + label + " 1",
		"findep_request_time_per_output_token_seconds_count" + label + " 1",
		"findep_e2e_request_latency_seconds_count" + label + " 1",
		"findep_request_queue_time_seconds_count" + label + " 1",
		"findep_request_prompt_tokens_count" + label + " 1",
		"findep_request_generation_tokens_sum" + label + " 9",
		"findep_preemptions_total" + label + " 0",
		"findep_requests_running" + label + " 0",
		"findep_requests_waiting" + label + " 0",
		"findep_kv_cache_usage_ratio" + label + " 0",
		"findep_generation_tokens_total" + label + " 9",
		fmt.Sprint("findep_prompt_tokens_total", label, " ", len(mustEncode(s, "The quick brown fox"))),
		`findep_request_success_total{finish_reason="length",model_name="acme/tiny-moe"} 1`,
		"findep_engine_ready" + label + " 1",
		"go_goroutines",
	} {
		if !strings.Contains(string(b), want) {
			t.Errorf("/metrics lacks %s", want)
		}
	}
	if p := e.Report(); p.GetKvCacheTokens() != 2*64*16 || p.GetTimeToFirstTokenMilliseconds() <= 0 || p.GetTimePerOutputTokenMilliseconds() <= 0 {
		t.Errorf("report %v", p)
	}
}

// TestBackPressureUnderLoad: more clients than fit are told when to come back,
// and all of them are served in the end.
func TestBackPressureUnderLoad(t *testing.T) {
	e := servingtest.New()
	e.KVBlocks, e.Ranks = 8, 1
	// No step ends before the queue has run over once.
	var g gate
	e.OnStep = g.pass
	s := startChat(t, e, func(c *serving.Config, _ *openai.Config) { c.MaxQueue = 3 })
	g.Lock()
	var overflow sync.Once
	var wait sync.WaitGroup
	for client := range 48 {
		wait.Go(func() {
			text := fmt.Sprint("client ", client)
			want, _ := s.expectSegment(begin+"<user>"+text+"<assistant>", 12)
			for {
				r := s.postChat(chatRequest(fields{"messages": []fields{say("user", text)}}))
				var c chatResponse
				if err := json.NewDecoder(r.Body).Decode(&c); err != nil {
					t.Error(err)
					return
				}
				if r.StatusCode == http.StatusTooManyRequests {
					overflow.Do(g.Unlock)
					if after, err := strconv.Atoi(r.Header.Get("Retry-After")); err != nil || after < 1 || after > 30 || c.Error.Code != "queue_full" {
						t.Errorf("Retry-After %q, error %+v", r.Header.Get("Retry-After"), c.Error)
						return
					}
					time.Sleep(time.Millisecond)
					continue
				}
				if r.StatusCode != http.StatusOK || c.Choices[0].Message.Content != want {
					t.Errorf("status %d, %+v; want %q", r.StatusCode, c, want)
				}
				return
			}
		})
	}
	wait.Wait()
	if st := s.loop.Status().Stats; st.KVBlocksUsed != 0 || st.Running+st.Waiting != 0 {
		t.Errorf("something is still held: %+v", st)
	}
}
