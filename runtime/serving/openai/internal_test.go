// SPDX-License-Identifier: Apache-2.0

package openai

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/findep/findep-operator/runtime/serving"
)

// naive finds the end that stopMatcher should: the first position at which any
// stop string is complete.
func naive(text string, stops []string) (string, bool) {
	for end := range len(text) + 1 {
		start := -1
		for _, s := range stops {
			if strings.HasSuffix(text[:end], s) && (start < 0 || end-len(s) < start) {
				start = end - len(s)
			}
		}
		if start >= 0 {
			return text[:start], true
		}
	}
	return text, false
}

// FuzzStopMatcher: the result depends on the text alone, however it is cut.
func FuzzStopMatcher(f *testing.F) {
	f.Add("one two three", "two", "o th", uint64(0b1010))
	f.Add("ababac", "abac", "bac", uint64(0b111111))
	f.Add("aaaaab", "aab", "aaaab", uint64(1))
	f.Fuzz(func(t *testing.T, text, a, b string, cuts uint64) {
		var stops []string
		for _, s := range []string{a, b} {
			if s != "" {
				stops = append(stops, s)
			}
		}
		want, wantStopped := naive(text, stops)
		m, got, stopped := stopMatcher{stops: stops}, "", false
		from := 0
		for i := 1; i <= len(text) && !stopped; i++ {
			if i < len(text) && cuts>>(i%64)&1 == 0 {
				continue
			}
			var out string
			out, stopped = m.push(text[from:i])
			got += out
			from = i
			if !strings.HasPrefix(want, got) {
				t.Fatalf("let %q through of %q", got, want)
			}
		}
		if !stopped {
			got += m.flush()
		}
		if got != want || stopped != wantStopped {
			t.Fatalf("%q with stops %q: got %q (%v), want %q (%v)", text, stops, got, stopped, want, wantStopped)
		}
	})
}

// FuzzParseRequest: any body gives a request within bounds or a refusal.
func FuzzParseRequest(f *testing.F) {
	f.Add([]byte(`{"model":"m","prompt":"p","stop":["a"],"seed":-1,"logprobs":3}`))
	f.Add([]byte(`{"prompt":[[1,2],"a",[]],"n":1.0,"stream":true,"stream_options":{}}`))
	f.Add([]byte(`{"max_tokens":1e99,"stop":""}`))
	f.Add([]byte(`[[[[`))
	f.Fuzz(func(t *testing.T, b []byte) {
		q, err := parseRequest(b)
		if err == nil {
			_, err = parsePrompt(q.Prompt)
		}
		if err == nil {
			if q.maxTokens() < 1 || len(q.stops) > maxStops || q.sampling(func() uint64 { return 1 }, q.Logprobs).GetTopLogprobs() > maxLogprobs {
				t.Fatalf("out of bounds: %+v", q)
			}
			return
		}
		var refusal *serving.Refusal
		if !errors.As(err, &refusal) || refusal.Message == "" {
			t.Fatalf("error %v is no refusal", err)
		}
		_, response := errorResponse(err)
		if _, err := json.Marshal(response); err != nil {
			t.Fatal(err)
		}
	})
}

// FuzzParseChat: any body gives a chat within bounds or a refusal.
func FuzzParseChat(f *testing.F) {
	f.Add([]byte(`{"model":"m","messages":[{"role":"user","content":"p"}],"logprobs":true,"top_logprobs":3}`))
	f.Add([]byte(`{"messages":[{"role":"user","content":[{"type":"text","text":"a"}]}],"chat_template_kwargs":{"a":[1]}}`))
	f.Add([]byte(`{"messages":[null,{}],"max_tokens":1,"max_completion_tokens":2}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		q, err := parseChat(b)
		if err == nil {
			n := q.likely()
			if len(q.messages) == 0 || len(q.messages) > maxMessages || n != nil && (*n < 0 || *n > maxLogprobs) || q.MaxTokens != nil && *q.MaxTokens < 1 {
				t.Fatalf("out of bounds: %+v", q)
			}
			return
		}
		var refusal *serving.Refusal
		if !errors.As(err, &refusal) || refusal.Message == "" {
			t.Fatalf("error %v is no refusal", err)
		}
	})
}
