// SPDX-License-Identifier: Apache-2.0

package soak

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/findep/findep-operator/runtime/plan"
)

const (
	// requestDeadline is the client's own: a request unanswered by then is lost.
	requestDeadline = 90 * time.Second
	// minGap is the least distance in log probability between the best two
	// tokens at every position of a reference. Nearer ones may change places
	// where a sequence is computed again in other pieces.
	minGap = 1e-2
	// retryWait bounds how long a refused client waits, whatever it is told.
	retryWait = 500 * time.Millisecond
)

// reference is a request with the answer that the instance gave before the
// first fault.
type reference struct {
	name   string
	path   string
	body   map[string]any
	text   string
	finish string
	tokens int
}

// answer is what a request got.
type answer struct {
	text, finish string
	tokens       int
}

// refused is an answer that says that the request was not accepted.
type refused struct {
	status     int
	retryAfter string
	body       string
}

func (r *refused) Error() string {
	return fmt.Sprintf("status %d, Retry-After %q: %s", r.status, r.retryAfter, r.body)
}

// errNotSent is a connection that could not be made: nothing was accepted.
var errNotSent = errors.New("no connection")

var clients = &http.Client{Transport: &http.Transport{
	// Every request has a connection of its own, so that what happens to it is
	// no matter of what its connection was used for before.
	DisableKeepAlives: true,
	DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, network, address)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", errNotSent, err)
		}
		return conn, nil
	},
}}

// ask sends one request and reads the answer to its end.
func ask(ctx context.Context, url string, body map[string]any) (answer, json.RawMessage, error) {
	b, err := json.Marshal(body)
	if err != nil {
		return answer{}, nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(b))
	if err != nil {
		return answer{}, nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	r, err := clients.Do(req)
	if err != nil {
		return answer{}, nil, err
	}
	defer func() { _ = r.Body.Close() }()
	if r.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(r.Body, 1000))
		return answer{}, nil, &refused{r.StatusCode, r.Header.Get("Retry-After"), string(text)}
	}
	if body["stream"] == true {
		a, err := readStream(r.Body)
		return a, nil, err
	}
	raw, err := io.ReadAll(r.Body)
	if err != nil {
		return answer{}, nil, err
	}
	var m message
	if err := json.Unmarshal(raw, &m); err != nil || len(m.Choices) != 1 {
		return answer{}, nil, fmt.Errorf("unexpected answer %.300s: %w", raw, err)
	}
	return m.answer(), m.Choices[0].Logprobs, nil
}

// message holds what completions and chats, whole and streamed, have in common.
type message struct {
	Choices []struct {
		Text    string `json:"text"`
		Message struct {
			Content string `json:"content"`
		} `json:"message"`
		Delta struct {
			Content string `json:"content"`
		} `json:"delta"`
		FinishReason string          `json:"finish_reason"`
		Logprobs     json.RawMessage `json:"logprobs"`
	} `json:"choices"`
	Usage struct {
		CompletionTokens int `json:"completion_tokens"`
	} `json:"usage"`
	Error json.RawMessage `json:"error"`
}

func (m *message) answer() answer {
	a := answer{tokens: m.Usage.CompletionTokens}
	for _, c := range m.Choices {
		a.text += c.Text + c.Message.Content + c.Delta.Content
		a.finish += c.FinishReason
	}
	return a
}

// readStream adds the events up; a stream that ends without [DONE] is an error.
func readStream(body io.Reader) (answer, error) {
	var all answer
	lines := bufio.NewScanner(body)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		data, ok := strings.CutPrefix(lines.Text(), "data: ")
		if !ok {
			continue
		}
		if data == "[DONE]" {
			return all, nil
		}
		var m message
		if err := json.Unmarshal([]byte(data), &m); err != nil {
			return all, fmt.Errorf("event %.300s: %w", data, err)
		}
		if m.Error != nil {
			return all, fmt.Errorf("the stream ended with the error %.300s", m.Error)
		}
		next := m.answer()
		all.text, all.finish, all.tokens = all.text+next.text, all.finish+next.finish, all.tokens+next.tokens
	}
	return all, fmt.Errorf("the stream broke off after %q: %w", all.text, errors.Join(lines.Err(), io.ErrUnexpectedEOF))
}

// modelDirectory is the sample model with a chat template.
func modelDirectory(t *testing.T, dir string) string {
	t.Helper()
	if err := os.CopyFS(dir, os.DirFS(tinyModel)); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "tokenizer_config.json")
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var config map[string]any
	if err := json.Unmarshal(b, &config); err != nil {
		t.Fatal(err)
	}
	config["chat_template"] = "{% for m in messages %}{{ m['content'] }}\n{% endfor %}"
	if b, err = json.Marshal(config); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

// references asks the undisturbed instance. Of the published prompts those are
// used whose greedy path has no near ties, at three lengths.
func references(t *testing.T, base string) []reference {
	t.Helper()
	b, err := os.ReadFile("../testdata/reference/prompts.json")
	if err != nil {
		t.Fatal(err)
	}
	var prompts []struct {
		ID         string `json:"id"`
		Prompt     string `json:"prompt"`
		GreedyText string `json:"greedyText"`
	}
	if err := json.Unmarshal(b, &prompts); err != nil {
		t.Fatal(err)
	}
	var all []reference
	for i, p := range prompts {
		tokens := []int{24, 80, 200}[i%3]
		r := reference{name: p.ID, path: "/v1/completions", body: map[string]any{"prompt": p.Prompt, "logprobs": 2}}
		if i%2 == 1 {
			r.path = "/v1/chat/completions"
			r.body = map[string]any{"messages": []map[string]any{{"role": "user", "content": p.Prompt}}, "logprobs": true, "top_logprobs": 2}
		}
		maps.Copy(r.body, map[string]any{"model": "tiny", "max_tokens": tokens, "temperature": 0, "ignore_eos": true})
		a, logprobs, err := ask(t.Context(), base+r.path, r.body)
		if err != nil {
			t.Fatalf("reference %s: %v", p.ID, err)
		}
		gap, err := leastGap(logprobs)
		if err != nil {
			t.Fatalf("reference %s: %v", p.ID, err)
		}
		if gap < minGap {
			continue
		}
		if i%2 == 0 && !strings.HasPrefix(a.text, p.GreedyText) && !strings.HasPrefix(p.GreedyText, a.text) {
			t.Fatalf("reference %s: got %q, transformers has %q", p.ID, a.text, p.GreedyText)
		}
		delete(r.body, "logprobs")
		delete(r.body, "top_logprobs")
		r.text, r.finish, r.tokens = a.text, a.finish, a.tokens
		all = append(all, r)
	}
	if len(all) < 8 {
		t.Fatalf("only %d of %d prompts have no near ties", len(all), len(prompts))
	}
	return all
}

// leastGap is the smallest distance between the best two tokens of a position,
// from the log probabilities of either endpoint.
func leastGap(raw json.RawMessage) (float64, error) {
	var of struct {
		TopLogprobs []map[string]float64 `json:"top_logprobs"`
		Content     []struct {
			TopLogprobs []struct {
				Logprob float64 `json:"logprob"`
			} `json:"top_logprobs"`
		} `json:"content"`
	}
	if err := json.Unmarshal(raw, &of); err != nil {
		return 0, fmt.Errorf("log probabilities %.200s: %w", raw, err)
	}
	var positions [][]float64
	for _, p := range of.TopLogprobs {
		positions = append(positions, slices.Collect(maps.Values(p)))
	}
	for _, p := range of.Content {
		var values []float64
		for _, top := range p.TopLogprobs {
			values = append(values, top.Logprob)
		}
		positions = append(positions, values)
	}
	least := 1e9
	for _, values := range positions {
		slices.Sort(values)
		// Two tokens with the same text share a key; then nothing is known.
		if len(values) < 2 {
			return 0, nil
		}
		least = min(least, values[len(values)-1]-values[len(values)-2])
	}
	if len(positions) == 0 {
		return 0, fmt.Errorf("no log probabilities in %.200s", raw)
	}
	return least, nil
}

// load is the traffic and what came of it.
type load struct {
	base       string
	references []reference
	// killed counts the deaths of the server that holds the connections.
	killed *atomic.Int64
	// paused holds new requests back.
	paused atomic.Bool
	busy   atomic.Int64

	answered, streamed, retried, refusals atomic.Int64

	mu     sync.Mutex
	failed []string
}

func (l *load) fail(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.failed = append(l.failed, time.Now().Format("15:04:05.000 ")+fmt.Sprintf(format, args...))
}

func (l *load) failures() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.failed)
}

// run sends one request after another until ctx ends; the last one is still
// waited for.
func (l *load) run(ctx context.Context, random *rand.Rand) {
	for ctx.Err() == nil {
		if l.paused.Load() {
			time.Sleep(10 * time.Millisecond)
			continue
		}
		r := l.references[random.IntN(len(l.references))]
		l.busy.Add(1)
		l.one(&r, random.IntN(2) == 0)
		l.busy.Add(-1)
	}
}

// one sees one request through. Refusals and connections that a killed server
// took with it are tried again, as the documentation tells clients to.
func (l *load) one(r *reference, stream bool) {
	body := maps.Clone(r.body)
	if stream {
		body["stream"], body["stream_options"] = true, map[string]any{"include_usage": true}
	}
	ctx, cancel := context.WithTimeout(context.Background(), requestDeadline)
	defer cancel()
	for began := time.Now(); ; {
		deaths := l.killed.Load()
		a, _, err := ask(ctx, l.base+r.path, body)
		if err == nil {
			l.check(r, stream, a)
			return
		}
		if ctx.Err() != nil {
			l.fail("lost: %s (stream %v) was not answered in %v: %v", r.name, stream, time.Since(began), err)
			return
		}
		if !l.mayRetry(err, deaths) {
			l.fail("lost: %s (stream %v) after %v: %v", r.name, stream, time.Since(began), err)
			return
		}
		time.Sleep(retryWait / 2)
	}
}

// mayRetry tells whether an attempt failed in a way that the product permits.
func (l *load) mayRetry(err error, deaths int64) bool {
	var no *refused
	switch {
	case errors.As(err, &no):
		l.refusals.Add(1)
		return (no.status == http.StatusServiceUnavailable || no.status == http.StatusTooManyRequests) && no.retryAfter != ""
	case errors.Is(err, errNotSent):
		return true
	}
	l.retried.Add(1)
	return l.killed.Load() != deaths
}

func (l *load) check(r *reference, stream bool, a answer) {
	if want := (answer{r.text, r.finish, r.tokens}); a != want {
		l.fail("wrong: %s (stream %v): got %+v, want %+v", r.name, stream, a, want)
	}
	l.answered.Add(1)
	if stream {
		l.streamed.Add(1)
	}
}

// pause waits until no request is under way.
func (l *load) pause() {
	l.paused.Store(true)
	for l.busy.Load() > 0 {
		time.Sleep(10 * time.Millisecond)
	}
}

func (l *load) resume() { l.paused.Store(false) }

func servingURL(leader *pod) string { return leader.url(plan.ServingPort, "") }
