// SPDX-License-Identifier: Apache-2.0

package openai_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/findep/findep-operator/runtime/chattemplate"
	"github.com/findep/findep-operator/runtime/serving"
	"github.com/findep/findep-operator/runtime/serving/openai"
	"github.com/findep/findep-operator/runtime/serving/servingtest"
)

// chatResponse is what tests look at of a chat's response or event.
type chatResponse struct {
	ID, Object, Model string
	Choices           []struct {
		Index   int
		Message *struct{ Role, Content string }
		Delta   *struct {
			Role    string
			Content *string
		}
		FinishReason *string `json:"finish_reason"`
		Logprobs     *struct {
			Content []struct {
				Token       string
				Logprob     float64
				Bytes       []int
				TopLogprobs []struct {
					Token   string
					Logprob float64
				} `json:"top_logprobs"`
			}
		}
	}
	Usage *struct {
		PromptTokens     int `json:"prompt_tokens"`
		CompletionTokens int `json:"completion_tokens"`
	}
	Error *struct{ Message, Type, Param, Code string }
}

// template is a small template with the features that the tests need.
const template = `{{ bos_token }}{% for m in messages %}{% if m.role not in ['system', 'user', 'assistant'] %}{{ raise_exception('unknown role') }}{% endif %}` +
	`{% if m.content == 'refuse' %}{{ raise_exception('Conversation roles must alternate') }}{% endif %}<{{ m.role }}{{ ' ' ~ m.name if m.name }}>{{ m.content }}{% endfor %}` +
	`{% if add_generation_prompt %}<assistant>{% endif %}{% if thinking is defined and not thinking %}<no thoughts>{% endif %}`

// startChat runs a server whose model has the template.
func startChat(t *testing.T, e *servingtest.Engine, adjust func(*serving.Config, *openai.Config)) *stand {
	t.Helper()
	chat, err := chattemplate.New([]byte(`{"bos_token":"<｜begin▁of▁sentence｜>"}`), template)
	if err != nil {
		t.Fatal(err)
	}
	return start(t, e, func(l *serving.Config, c *openai.Config) {
		c.Chat = chat
		if adjust != nil {
			adjust(l, c)
		}
	}).ready()
}

func say(role string, content any) fields { return fields{"role": role, "content": content} }

func chatRequest(f fields) fields {
	q := fields{"model": model, "messages": []fields{say("user", "Hi")}, "temperature": 0, "max_tokens": 12}
	for k, v := range f {
		q[k] = v
		if v == nil {
			delete(q, k)
		}
	}
	return q
}

const begin = "<｜begin▁of▁sentence｜>"

func (s *stand) postChat(f fields) *http.Response {
	s.t.Helper()
	b, err := json.Marshal(f)
	if err != nil {
		s.t.Fatal(err)
	}
	r, err := http.Post(s.url+"/v1/chat/completions", "application/json", bytes.NewReader(b))
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = r.Body.Close() })
	return r
}

// chat sends a chat that must succeed.
func (s *stand) chat(f fields) chatResponse {
	s.t.Helper()
	r := s.postChat(chatRequest(f))
	var c chatResponse
	if err := json.NewDecoder(r.Body).Decode(&c); err != nil || r.StatusCode != http.StatusOK {
		s.t.Fatalf("status %d, error %v: %+v", r.StatusCode, err, c.Error)
	}
	return c
}

// chatStream returns the events of a streamed chat up to [DONE].
func (s *stand) chatStream(f fields) []chatResponse {
	s.t.Helper()
	q := chatRequest(f)
	q["stream"] = true
	r := s.postChat(q)
	var events []chatResponse
	for lines := bufio.NewScanner(r.Body); lines.Scan(); {
		data, ok := strings.CutPrefix(lines.Text(), "data: ")
		if data == "[DONE]" {
			return events
		}
		if !ok {
			continue
		}
		var c chatResponse
		if err := json.Unmarshal([]byte(data), &c); err != nil {
			s.t.Fatal(err)
		}
		events = append(events, c)
	}
	s.t.Fatalf("status %d: the stream ends without [DONE]", r.StatusCode)
	return nil
}

// expectSegment is the text that the fake continues a chat's prompt with.
func (s *stand) expectSegment(prompt string, maxTokens int) (text string, promptTokens int) {
	s.t.Helper()
	ids, err := s.tok.EncodeSegment(prompt)
	if err != nil {
		s.t.Fatal(err)
	}
	return s.tok.Decode(s.engine.Generate(ids, nil, maxTokens, s.engine.EndOfSequence)), len(ids)
}

func TestChat(t *testing.T) {
	s := startChat(t, servingtest.New(), nil)
	tests := map[string]struct {
		f    fields
		want string
	}{
		"one message":   {nil, "<user>Hi<assistant>"},
		"a chat":        {fields{"messages": []fields{say("system", "Be brief."), say("user", "a"), say("assistant", "b"), say("user", "c")}}, "<system>Be brief.<user>a<assistant>b<user>c<assistant>"},
		"parts":         {fields{"messages": []fields{say("user", []fields{{"type": "text", "text": "one"}, {"type": "text", "text": "two"}})}}, "<user>one\ntwo<assistant>"},
		"developer":     {fields{"messages": []fields{say("developer", "d"), say("user", "u")}}, "<system>d<user>u<assistant>"},
		"name":          {fields{"messages": []fields{{"role": "user", "content": "u", "name": "ann"}}}, "<user ann>u<assistant>"},
		"empty content": {fields{"messages": []fields{say("user", "")}}, "<user><assistant>"},
		"option":        {fields{"chat_template_kwargs": fields{"thinking": false}}, "<user>Hi<assistant><no thoughts>"},
		"harmless": {fields{"n": 1, "tools": []any{}, "tool_choice": "none", "response_format": fields{"type": "text"}, "modalities": []string{"text"},
			"user": "me", "store": false, "metadata": fields{}, "top_logprobs": 0, "logit_bias": nil}, "<user>Hi<assistant>"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			c := s.chat(tt.f)
			want, promptTokens := s.expectSegment(begin+tt.want, 12)
			if len(c.Choices) != 1 || c.Choices[0].Message.Content != want || c.Choices[0].Message.Role != "assistant" || *c.Choices[0].FinishReason != "length" {
				t.Fatalf("%+v, want %q", c.Choices, want)
			}
			if c.Usage.PromptTokens != promptTokens || c.Usage.CompletionTokens != 12 {
				t.Errorf("usage %+v for %d and 12 tokens", *c.Usage, promptTokens)
			}
			if !strings.HasPrefix(c.ID, "chatcmpl-") || c.Object != "chat.completion" || c.Model != model {
				t.Errorf("response %+v", c)
			}
		})
	}
}

func TestChatMaxTokens(t *testing.T) {
	s := startChat(t, servingtest.New(), nil)
	_, promptTokens := s.expectSegment(begin+"<user>Hi<assistant>", 1)
	tests := map[string]struct {
		f    fields
		want int
	}{
		"max_tokens":            {fields{"max_tokens": 3}, 3},
		"max_completion_tokens": {fields{"max_tokens": nil, "max_completion_tokens": 4}, 4},
		"both alike":            {fields{"max_tokens": 5, "max_completion_tokens": 5}, 5},
		"all that fits":         {fields{"max_tokens": nil}, 256 - promptTokens},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if c := s.chat(tt.f); c.Usage.CompletionTokens != tt.want {
				t.Errorf("%d tokens, want %d", c.Usage.CompletionTokens, tt.want)
			}
		})
	}
}

// TestChatStream: the first event has the role, the deltas make up the content
// and the last choice has the reason.
func TestChatStream(t *testing.T) {
	s := startChat(t, servingtest.New(), nil)
	want, _ := s.expectSegment(begin+"<user>Hi<assistant>", 12)
	events := s.chatStream(fields{"stream_options": fields{"include_usage": true}})
	text, id := "", events[0].ID
	for i, e := range events[:len(events)-1] {
		if len(e.Choices) != 1 || e.Object != "chat.completion.chunk" || e.ID != id || e.Usage != nil {
			t.Fatalf("event %d: %+v", i, e)
		}
		c := e.Choices[0]
		if (c.Delta.Role == "assistant") != (i == 0) || c.Message != nil || (c.FinishReason != nil) != (i == len(events)-2) {
			t.Errorf("event %d: %+v", i, c)
		}
		if c.Delta.Content != nil {
			text += *c.Delta.Content
		}
	}
	if text != want {
		t.Errorf("%q, want %q", text, want)
	}
	if last := events[len(events)-1]; len(last.Choices) != 0 || last.Usage == nil || last.Usage.CompletionTokens != 12 {
		t.Errorf("last event %+v", last)
	}
	for _, e := range s.chatStream(nil) {
		if e.Usage != nil {
			t.Errorf("usage that was not asked for: %+v", e)
		}
	}
}

func TestChatStopAndEnd(t *testing.T) {
	e := servingtest.New()
	var next servingtest.NextToken
	e.Next = func(h []int32, q *servingtest.Sampling, v int) int32 { return next(h, q, v) }
	s := startChat(t, e, nil)
	_, promptTokens := s.expectPrompt(begin + "<user>Hi<assistant>")
	next = script(s.tok, promptTokens, "one two three")
	for name, f := range map[string]fields{"whole": {"stop": []string{"two"}}, "stream": {"stop": "two"}} {
		text, finish := "", ""
		if name == "whole" {
			c := s.chat(f).Choices[0]
			text, finish = c.Message.Content, *c.FinishReason
		} else {
			for _, e := range s.chatStream(f) {
				if c := e.Choices[0]; c.Delta.Content != nil {
					text += *c.Delta.Content
				}
				if r := e.Choices[0].FinishReason; r != nil {
					finish = *r
				}
			}
		}
		if text != "one " || finish != "stop" {
			t.Errorf("%s: %q (%s)", name, text, finish)
		}
	}
}

// expectPrompt returns the ids of a chat's prompt and how many they are.
func (s *stand) expectPrompt(prompt string) ([]int32, int) {
	s.t.Helper()
	ids, err := s.tok.EncodeSegment(prompt)
	if err != nil {
		s.t.Fatal(err)
	}
	return ids, len(ids)
}

func TestChatLogprobs(t *testing.T) {
	s := startChat(t, servingtest.New(), nil)
	ids, _ := s.expectPrompt(begin + "<user>Hi<assistant>")
	said := s.engine.Generate(ids, nil, 12, nil)
	for _, top := range []int{0, 2} {
		content := s.chat(fields{"logprobs": true, "top_logprobs": top}).Choices[0].Logprobs.Content
		if len(content) != len(said) {
			t.Fatalf("%d tokens, want %d", len(content), len(said))
		}
		for i, l := range content {
			var raw []byte
			for _, b := range l.Bytes {
				raw = append(raw, byte(b))
			}
			if diff := cmp.Diff(string(s.tok.TokenBytes(said[i])), string(raw)); diff != "" || len(l.TopLogprobs) != top || l.Logprob >= 0 {
				t.Errorf("token %d: %+v (-want +got):\n%s", i, l, diff)
			}
		}
	}
	n := 0
	for _, e := range s.chatStream(fields{"logprobs": true}) {
		if l := e.Choices[0].Logprobs; l != nil {
			n += len(l.Content)
		}
	}
	if n != len(said) {
		t.Errorf("the stream reports %d tokens, want %d", n, len(said))
	}
	if s.chat(nil).Choices[0].Logprobs != nil {
		t.Error("log probabilities that were not asked for")
	}
}

func TestChatSeeds(t *testing.T) {
	s := startChat(t, servingtest.New(), nil)
	text := func(f fields) string { return s.chat(f).Choices[0].Message.Content }
	if a, b := text(fields{"temperature": 1, "seed": 7}), text(fields{"temperature": 1, "seed": 7}); a != b {
		t.Errorf("the same seed gave %q and %q", a, b)
	}
	if a, b := text(fields{"temperature": 1, "seed": 7}), text(fields{"temperature": 1, "seed": 8}); a == b {
		t.Error("another seed gave the same text")
	}
}

func TestChatErrors(t *testing.T) {
	s := startChat(t, servingtest.New(), nil)
	tests := map[string]struct {
		f           fields
		want, param string
	}{
		"no messages":       {fields{"messages": nil}, "messages has 0 entries", "messages"},
		"too many messages": {fields{"messages": slices.Repeat([]fields{say("user", "a")}, 4097)}, "it must have 1 to 4096", "messages"},
		"messages of text":  {fields{"messages": "hi"}, "messages is a JSON string; it must be of type array", "messages"},
		"message of text":   {fields{"messages": []any{"hi"}}, "messages[0] must be an object", "messages"},
		"null message":      {fields{"messages": []any{nil}}, "messages[0] must be an object", "messages"},
		"no role":           {fields{"messages": []fields{{"content": "a"}}}, "messages[0].role is missing", "messages"},
		"unknown role":      {fields{"messages": []fields{say("user", "a"), say("tool", "b")}}, `messages[1].role is "tool"`, "messages"},
		"no content":        {fields{"messages": []fields{{"role": "user"}}}, "messages[0].content is missing", "messages"},
		"number as content": {fields{"messages": []fields{say("user", 3)}}, "must be a string or an array", "messages"},
		"no parts":          {fields{"messages": []fields{say("user", []any{})}}, "1 to 1024 text parts", "messages"},
		"an image":          {fields{"messages": []fields{say("user", []fields{{"type": "image_url"}})}}, `messages[0].content[0] is of type "image_url"`, "messages"},
		"tool calls":        {fields{"messages": []fields{{"role": "assistant", "content": "", "tool_calls": []fields{{"id": "a"}}}}}, "messages[0].tool_calls is not supported", "messages"},
		"template refuses":  {fields{"messages": []fields{say("user", "refuse")}}, "Conversation roles must alternate", "messages"},
		"tools":             {fields{"tools": []fields{{"type": "function"}}}, "tools is not supported", "tools"},
		"forced tool":       {fields{"tool_choice": "required"}, "tool_choice is not supported", "tool_choice"},
		"two choices":       {fields{"n": 2}, "n is not supported", "n"},
		"json":              {fields{"response_format": fields{"type": "json_schema"}}, "response_format is not supported", "response_format"},
		"penalty":           {fields{"frequency_penalty": 1}, "frequency_penalty is not supported", "frequency_penalty"},
		"min_tokens":        {fields{"min_tokens": 4}, "min_tokens is not supported", "min_tokens"},
		"effort":            {fields{"reasoning_effort": "low"}, "reasoning_effort is not supported", "reasoning_effort"},
		"a template":        {fields{"chat_template": "{{ 1 }}"}, "chat_template is not supported", "chat_template"},
		"option":            {fields{"chat_template_kwargs": fields{"messages": 1}}, "messages cannot be set from outside", "messages"},
		"options":           {fields{"chat_template_kwargs": []int{1}}, "must be an object", "chat_template_kwargs"},
		"many top":          {fields{"logprobs": true, "top_logprobs": 21}, "between 0 and 20", "top_logprobs"},
		"top alone":         {fields{"top_logprobs": 2}, "only allowed when logprobs is true", "top_logprobs"},
		"logprobs number":   {fields{"logprobs": 2}, "logprobs is a JSON number; it must be of type boolean", "logprobs"},
		"two maxima":        {fields{"max_completion_tokens": 3}, "send one of them", "max_completion_tokens"},
		"no tokens":         {fields{"max_tokens": nil, "max_completion_tokens": 0}, "at least 1", "max_completion_tokens"},
		"too long":          {fields{"messages": []fields{say("user", strings.Repeat("word ", 400))}, "max_tokens": nil}, "maximum context length is 256", "messages"},
		"far too long":      {fields{"messages": []fields{say("user", strings.Repeat("word ", 100_000))}}, "cannot fit", "messages"},
		"temperature":       {fields{"temperature": 3}, "between 0 and 2", "temperature"},
		"no model":          {fields{"model": nil}, `serves "acme/tiny-moe"`, "model"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			r := s.postChat(chatRequest(tt.f))
			var c chatResponse
			if err := json.NewDecoder(r.Body).Decode(&c); err != nil || c.Error == nil {
				t.Fatalf("status %d without an error object: %v", r.StatusCode, err)
			}
			if r.StatusCode != http.StatusBadRequest || !strings.Contains(c.Error.Message, tt.want) || c.Error.Param != tt.param || c.Error.Type != "invalid_request_error" {
				t.Errorf("status %d, error %+v; want %q, param %q", r.StatusCode, *c.Error, tt.want, tt.param)
			}
		})
	}
	if st := s.loop.Status().Stats; st.Waiting+st.Running != 0 {
		t.Errorf("refused requests are still held: %+v", st)
	}
}

func TestChatWithoutTemplate(t *testing.T) {
	for name, why := range map[string]string{"none": "", "broken": "line 3: unexpected end"} {
		t.Run(name, func(t *testing.T) {
			s := start(t, servingtest.New(), func(_ *serving.Config, c *openai.Config) { c.NoChat = why }).ready()
			r := s.postChat(chatRequest(nil))
			b, _ := io.ReadAll(r.Body)
			want := why
			if why == "" {
				want = "it has no chat template"
			}
			if r.StatusCode != http.StatusBadRequest || !strings.Contains(string(b), want) || !strings.Contains(string(b), "no_chat_template") {
				t.Errorf("status %d: %s", r.StatusCode, b)
			}
			s.complete(nil)
		})
	}
}

// TestRealTemplates: the prompts of the templates in use reach the engine as
// the tokens that their special tokens are.
func TestRealTemplates(t *testing.T) {
	b, err := os.ReadFile("../../chattemplate/testdata/deepseek-v3.jinja")
	if err != nil {
		t.Fatal(err)
	}
	chat, err := chattemplate.New([]byte(`{"bos_token":"<｜begin▁of▁sentence｜>"}`), string(b))
	if err != nil {
		t.Fatal(err)
	}
	s := start(t, servingtest.New(), func(_ *serving.Config, c *openai.Config) { c.Chat = chat }).ready()
	want, _ := s.expectSegment(begin+"Be brief.<｜User｜>Hi<｜Assistant｜>", 12)
	c := s.chat(fields{"messages": []fields{say("system", "Be brief."), say("user", "Hi")}})
	if c.Choices[0].Message.Content != want {
		t.Errorf("%q, want %q", c.Choices[0].Message.Content, want)
	}
	ids, _ := s.expectPrompt(begin + "x")
	if id, ok := s.tok.ID(begin); !ok || ids[0] != id {
		t.Errorf("ids %v do not begin with the token %d", ids, id)
	}
}
