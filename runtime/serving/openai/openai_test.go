// SPDX-License-Identifier: Apache-2.0

package openai_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/findep/findep-operator/runtime/serving"
	"github.com/findep/findep-operator/runtime/serving/openai"
	"github.com/findep/findep-operator/runtime/serving/servingtest"
	"github.com/findep/findep-operator/runtime/tokenizer"
)

const model = "acme/tiny-moe"

// stand is a server with a fake engine behind it.
type stand struct {
	t      *testing.T
	engine *servingtest.Engine
	loop   *serving.Loop
	tok    *tokenizer.Tokenizer
	url    string
}

// start runs a server until the test ends; adjust may be nil.
func start(t *testing.T, e *servingtest.Engine, adjust func(*serving.Config, *openai.Config)) *stand {
	t.Helper()
	b, err := os.ReadFile("../../tokenizer/testdata/deepseek-v3.json")
	if err != nil {
		t.Fatal(err)
	}
	tok, err := tokenizer.Parse(b, nil)
	if err != nil {
		t.Fatal(err)
	}
	e.Vocabulary = tok.VocabSize()
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	metrics := serving.NewMetrics(model)
	lc := serving.Config{PollInterval: 5 * time.Millisecond, RetryInterval: time.Millisecond, EpochGrace: 20 * time.Millisecond, Metrics: metrics, Log: log}
	var ids atomic.Uint64
	oc := openai.Config{Model: model, Tokenizer: tok, Metrics: metrics, Now: time.Now, Log: log, Random: func() uint64 { return ids.Add(1) }}
	if adjust != nil {
		adjust(&lc, &oc)
	}
	loop := serving.NewLoop(e, lc)
	oc.Loop = loop
	server := httptest.NewServer(openai.New(oc))
	ctx, cancel := context.WithCancel(context.Background())
	stopped := make(chan struct{})
	go func() { defer close(stopped); loop.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		<-stopped
		server.Close()
		for _, p := range e.Problems() {
			t.Error(p)
		}
	})
	return &stand{t: t, engine: e, loop: loop, tok: tok, url: server.URL}
}

// ready waits until the loop has seen the engine.
func (s *stand) ready() *stand {
	s.t.Helper()
	s.until("ready", func() bool { return s.loop.Status().Ready })
	return s
}

// until polls for a condition that is bound to come about.
func (s *stand) until(what string, condition func() bool) {
	s.t.Helper()
	for deadline := time.Now().Add(time.Minute); !condition(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			s.t.Fatalf("never %s: %+v", what, s.loop.Status())
		}
	}
}

type fields map[string]any

// completion is what tests look at of a response or an event of a stream.
type completion struct {
	ID, Object, Model string
	Choices           []struct {
		Text         string
		Index        int
		FinishReason *string `json:"finish_reason"`
		Logprobs     *struct {
			Tokens        []string
			TokenLogprobs []float64            `json:"token_logprobs"`
			TopLogprobs   []map[string]float64 `json:"top_logprobs"`
			TextOffset    []int                `json:"text_offset"`
		}
	}
	Usage *struct {
		PromptTokens     int `json:"prompt_tokens"`
		CompletionTokens int `json:"completion_tokens"`
		TotalTokens      int `json:"total_tokens"`
	}
	Error *struct{ Message, Type, Param, Code string }
}

func request(f fields) fields {
	q := fields{"model": model, "prompt": "The quick brown fox", "temperature": 0}
	for k, v := range f {
		if v == nil {
			delete(q, k)
			continue
		}
		q[k] = v
	}
	return q
}

func (s *stand) post(f fields) *http.Response {
	s.t.Helper()
	b, err := json.Marshal(f)
	if err != nil {
		s.t.Fatal(err)
	}
	r, err := http.Post(s.url+"/v1/completions", "application/json", bytes.NewReader(b))
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = r.Body.Close() })
	return r
}

// complete sends a request that must succeed.
func (s *stand) complete(f fields) completion {
	s.t.Helper()
	r := s.post(request(f))
	var c completion
	if err := json.NewDecoder(r.Body).Decode(&c); err != nil {
		s.t.Fatal(err)
	}
	if r.StatusCode != http.StatusOK {
		s.t.Fatalf("status %d: %+v", r.StatusCode, c.Error)
	}
	return c
}

// stream sends a request with stream set and returns its events; the last line
// must be [DONE].
func (s *stand) stream(f fields) []completion {
	s.t.Helper()
	q := request(f)
	q["stream"] = true
	r := s.post(q)
	if got := r.Header.Get("Content-Type"); r.StatusCode != http.StatusOK || got != "text/event-stream" {
		b, _ := io.ReadAll(r.Body)
		s.t.Fatalf("status %d, content type %q: %s", r.StatusCode, got, b)
	}
	var events []completion
	done := false
	for lines := bufio.NewScanner(r.Body); lines.Scan(); {
		data, ok := strings.CutPrefix(lines.Text(), "data: ")
		if lines.Text() == "" {
			continue
		}
		if !ok || done {
			s.t.Fatalf("unexpected line %q", lines.Text())
		}
		if done = data == "[DONE]"; done {
			continue
		}
		var c completion
		if err := json.Unmarshal([]byte(data), &c); err != nil {
			s.t.Fatal(err)
		}
		events = append(events, c)
	}
	if !done {
		s.t.Fatal("the stream ends without [DONE]")
	}
	return events
}

// gather joins a stream's events into text and finish reason by choice.
func gather(events []completion) (texts map[int]string, finish map[int]string) {
	texts, finish = map[int]string{}, map[int]string{}
	for _, e := range events {
		for _, c := range e.Choices {
			texts[c.Index] += c.Text
			if c.FinishReason != nil {
				finish[c.Index] = *c.FinishReason
			}
		}
	}
	return texts, finish
}

// expect is the text that the fake model continues a prompt with, greedily.
func (s *stand) expect(prompt string, maxTokens int) string {
	s.t.Helper()
	ids, err := s.tok.Encode(prompt)
	if err != nil {
		s.t.Fatal(err)
	}
	return s.tok.Decode(s.engine.Generate(ids, nil, maxTokens, s.engine.EndOfSequence))
}

// script makes the fake say a text over and over after any prompt; promptLen
// is the prompt's number of tokens.
func script(tok *tokenizer.Tokenizer, promptLen int, text string) servingtest.NextToken {
	ids, err := tok.EncodeSegment(text)
	if err != nil {
		panic(err)
	}
	return servingtest.Scripted(promptLen, ids)
}

func TestCompletion(t *testing.T) {
	s := start(t, servingtest.New(), nil).ready()
	c := s.complete(fields{"max_tokens": 20})
	if want := s.expect("The quick brown fox", 20); len(c.Choices) != 1 || c.Choices[0].Text != want {
		t.Errorf("choices %+v, want the text %q", c.Choices, want)
	}
	ids, _ := s.tok.Encode("The quick brown fox")
	if c.Usage.PromptTokens != len(ids) || c.Usage.CompletionTokens != 20 || c.Usage.TotalTokens != len(ids)+20 {
		t.Errorf("usage %+v for %d and 20 tokens", c.Usage, len(ids))
	}
	if *c.Choices[0].FinishReason != "length" || c.Object != "text_completion" || c.Model != model || !strings.HasPrefix(c.ID, "cmpl-") {
		t.Errorf("response %+v", c)
	}
	if c := s.complete(nil); c.Usage.CompletionTokens != 16 {
		t.Errorf("%d tokens by default, want 16", c.Usage.CompletionTokens)
	}
}

func TestPromptForms(t *testing.T) {
	s := start(t, servingtest.New(), nil).ready()
	tests := map[string]struct {
		prompt any
		want   []string
	}{
		"string":                   {"alpha", []string{"alpha"}},
		"strings":                  {[]string{"alpha", "beta", "gamma"}, []string{"alpha", "beta", "gamma"}},
		"tokens":                   {mustEncode(s, "alpha"), []string{"alpha"}},
		"token arrays":             {[][]int32{mustEncode(s, "alpha"), mustEncode(s, "beta")}, []string{"alpha", "beta"}},
		"strings and token arrays": {[]any{"alpha", mustEncode(s, "beta")}, []string{"alpha", "beta"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			c := s.complete(fields{"prompt": tt.prompt})
			if len(c.Choices) != len(tt.want) {
				t.Fatalf("%d choices, want %d", len(c.Choices), len(tt.want))
			}
			for i, prompt := range tt.want {
				if want := s.expect(prompt, 16); c.Choices[i].Text != want || c.Choices[i].Index != i {
					t.Errorf("choice %d is %+v, want %q", i, c.Choices[i], want)
				}
			}
		})
	}
}

func mustEncode(s *stand, text string) []int32 {
	s.t.Helper()
	ids, err := s.tok.Encode(text)
	if err != nil {
		s.t.Fatal(err)
	}
	return ids
}

// TestStreamEqualsWhole: cut at any stop strings, over several prompts, a
// stream says what the response without a stream says.
func TestStreamEqualsWhole(t *testing.T) {
	s := start(t, servingtest.New(), nil).ready()
	rng := rand.New(rand.NewPCG(3, 3))
	stopped := 0
	for i := range 60 {
		full := []rune(s.expect(fmt.Sprint("prompt ", i), 60))
		stops := []string{"never there"}
		for range rng.IntN(3) {
			at := rng.IntN(len(full) - 3)
			stops = append(stops, string(full[at:at+1+rng.IntN(3)]))
		}
		q := fields{"prompt": []string{fmt.Sprint("prompt ", i), "other"}, "max_tokens": 60, "stop": stops}
		whole := s.complete(q)
		texts, finish := gather(s.stream(q))
		for _, c := range whole.Choices {
			if texts[c.Index] != c.Text || finish[c.Index] != *c.FinishReason {
				t.Fatalf("stop %q: the stream has %q (%s), the response %q (%s)", stops, texts[c.Index], finish[c.Index], c.Text, *c.FinishReason)
			}
			for _, stop := range stops {
				if strings.Contains(c.Text, stop) {
					t.Errorf("the text %q has the stop string %q", c.Text, stop)
				}
			}
		}
		c := whole.Choices[0]
		if !strings.HasPrefix(string(full), c.Text) || len(stops) == 1 && c.Text != string(full) {
			t.Errorf("stop %q: %q is not how %q begins", stops, c.Text, string(full))
		}
		if *c.FinishReason == "stop" {
			stopped++
		}
	}
	if stopped == 0 {
		t.Error("no stop string was ever met")
	}
}

func TestStreamUsage(t *testing.T) {
	s := start(t, servingtest.New(), nil).ready()
	events := s.stream(fields{"max_tokens": 5, "stream_options": fields{"include_usage": true}})
	for i, e := range events {
		if last := i == len(events)-1; last != (e.Usage != nil) || last != (len(e.Choices) == 0) {
			t.Errorf("event %d of %d: %+v", i, len(events), e)
		}
	}
	if u := events[len(events)-1].Usage; u.CompletionTokens != 5 || u.TotalTokens != u.PromptTokens+5 {
		t.Errorf("usage %+v", u)
	}
	for _, e := range s.stream(fields{"max_tokens": 3}) {
		if e.Usage != nil {
			t.Errorf("usage that was not asked for: %+v", e)
		}
	}
}

func TestStopStrings(t *testing.T) {
	const prompt = "The quick brown fox"
	tests := map[string]struct {
		says, want, finish string
		stop               any
		maxTokens          int
	}{
		"none":                      {says: "one two three", stop: nil, want: "one two three", finish: "length"},
		"spans tokens":              {says: "one two three", stop: "o th", want: "one tw", finish: "stop"},
		"first of several":          {says: "one two three", stop: []string{"three", "two"}, want: "one ", finish: "stop"},
		"at the start":              {says: "one two", stop: "on", want: "", finish: "stop"},
		"almost":                    {says: "aab aac", stop: "aaa", want: "aab aac", finish: "length"},
		"begins but does not end":   {says: "one two", stop: "two three", want: "one two", finish: "length"},
		"overlapping beginnings":    {says: "ababac", stop: "abac", want: "ab", finish: "stop"},
		"whole runes":               {says: "é🙂中文", stop: "中", want: "é🙂", finish: "stop"},
		"with the last token":       {says: "one two", stop: "two", want: "one ", finish: "stop"},
		"the one that ends earlier": {says: "one two three", stop: []string{"one two th", "two"}, want: "one ", finish: "stop"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			e := servingtest.New()
			var next servingtest.NextToken
			e.Next = func(h []int32, q *servingtest.Sampling, v int) int32 { return next(h, q, v) }
			s := start(t, e, nil).ready()
			said := mustEncode(s, tt.says)
			next = script(s.tok, len(mustEncode(s, prompt)), tt.says)
			q := fields{"max_tokens": len(said)}
			if tt.stop != nil {
				q["stop"] = tt.stop
			}
			c := s.complete(q).Choices[0]
			if c.Text != tt.want || *c.FinishReason != tt.finish {
				t.Errorf("%q (%s), want %q (%s)", c.Text, *c.FinishReason, tt.want, tt.finish)
			}
		})
	}
}

func TestEndOfSequence(t *testing.T) {
	e := servingtest.New()
	s := start(t, e, nil).ready()
	ids := mustEncode(s, "The quick brown fox")
	said := e.Generate(ids, nil, 30, nil)
	// The token that is fourth for this prompt ends sequences from now on.
	eos := said[3]
	e2 := servingtest.New()
	e2.EndOfSequence = []int32{eos}
	s = start(t, e2, nil).ready()
	tests := map[string]struct {
		add    fields
		tokens int
		finish string
	}{
		"ends":                {nil, 4, "stop"},
		"ignored":             {fields{"ignore_eos": true}, 30, "length"},
		"of the request":      {fields{"ignore_eos": true, "stop_token_ids": []int32{said[1]}}, 2, "stop"},
		"of request or model": {fields{"stop_token_ids": []int32{said[20]}}, 4, "stop"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			q := fields{"max_tokens": 30}
			for k, v := range tt.add {
				q[k] = v
			}
			c := s.complete(q)
			if c.Usage.CompletionTokens != tt.tokens || *c.Choices[0].FinishReason != tt.finish {
				t.Errorf("%d tokens and %q, want %d and %q", c.Usage.CompletionTokens, *c.Choices[0].FinishReason, tt.tokens, tt.finish)
			}
			text := said[:tt.tokens]
			if tt.finish == "stop" {
				text = said[:tt.tokens-1]
			}
			if want := s.tok.Decode(text); c.Choices[0].Text != want {
				t.Errorf("text %q, want %q", c.Choices[0].Text, want)
			}
		})
	}
}

func TestSeeds(t *testing.T) {
	s := start(t, servingtest.New(), nil).ready()
	text := func(f fields) string { return s.complete(f).Choices[0].Text }
	if a, b := text(fields{"temperature": 1, "seed": 7}), text(fields{"temperature": 1, "seed": 7}); a != b {
		t.Errorf("the same seed gave %q and %q", a, b)
	}
	if a, b := text(fields{"temperature": 1, "seed": 7}), text(fields{"temperature": 1, "seed": -8}); a == b {
		t.Error("another seed gave the same text")
	}
	if a, b := text(fields{"temperature": nil}), text(fields{"temperature": nil}); a == b {
		t.Error("without a seed the same text came twice: it must be drawn, and the default temperature is 1")
	}
}

func TestLogprobs(t *testing.T) {
	s := start(t, servingtest.New(), nil).ready()
	q := fields{"max_tokens": 12, "logprobs": 2}
	l := s.complete(q).Choices[0].Logprobs
	ids := s.engine.Generate(mustEncode(s, "The quick brown fox"), nil, 12, nil)
	if len(l.Tokens) != 12 || len(l.TokenLogprobs) != 12 || len(l.TopLogprobs) != 12 || len(l.TextOffset) != 12 {
		t.Fatalf("%+v does not have 12 of each", l)
	}
	for i, id := range ids {
		if b := s.tok.TokenBytes(id); !strings.HasPrefix(l.Tokens[i], "bytes:") && l.Tokens[i] != string(b) {
			t.Errorf("token %d is %q, want %q", i, l.Tokens[i], b)
		}
		if _, ok := l.TopLogprobs[i][l.Tokens[i]]; !ok || l.TokenLogprobs[i] >= 0 {
			t.Errorf("token %d has %v among %v", i, l.TokenLogprobs[i], l.TopLogprobs[i])
		}
		if want := len([]rune(decodeHeld(s.tok, ids[:i]))); l.TextOffset[i] != want {
			t.Errorf("token %d is at %d, want %d", i, l.TextOffset[i], want)
		}
	}
	n := 0
	for _, e := range s.stream(q) {
		if e.Choices[0].Logprobs != nil {
			n += len(e.Choices[0].Logprobs.Tokens)
		}
	}
	if n != 12 {
		t.Errorf("the stream reports %d tokens, want 12", n)
	}
	if c := s.complete(nil); c.Choices[0].Logprobs != nil {
		t.Error("log probabilities that were not asked for")
	}
}

// decodeHeld is the text of ids without what the decoder holds back.
func decodeHeld(tok *tokenizer.Tokenizer, ids []int32) string {
	d, out := tok.NewDecoder(), ""
	for _, id := range ids {
		out += d.Next(id)
	}
	return out
}
