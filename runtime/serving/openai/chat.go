// SPDX-License-Identifier: Apache-2.0

package openai

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/findep/findep-operator/runtime/chattemplate"
	"github.com/findep/findep-operator/runtime/serving"
	"github.com/findep/findep-operator/runtime/tokenizer"
)

const (
	// maxMessages bounds the messages of a chat, maxContentParts the parts of
	// one message.
	maxMessages     = 4096
	maxContentParts = 1024
	// maxTemplateOptions bounds chat_template_kwargs.
	maxTemplateOptions = 64
)

// chatRequest is the body of POST /v1/chat/completions.
type chatRequest struct {
	parameters
	Messages            []json.RawMessage `json:"messages"`
	MaxCompletionTokens *int              `json:"max_completion_tokens"`
	Logprobs            bool              `json:"logprobs"`
	TopLogprobs         *int              `json:"top_logprobs"`
	// ChatTemplateKwargs are variables of the model's template, an extension
	// of other servers.
	ChatTemplateKwargs json.RawMessage `json:"chat_template_kwargs"`

	messages []*chattemplate.Map
	options  *chattemplate.Map
}

var unsupportedInChats = unsupported{
	"tools":                  {[]any{}},
	"tool_choice":            {"none", "auto"},
	"functions":              {[]any{}},
	"function_call":          {"none", "auto"},
	"modalities":             {[]any{"text"}},
	"audio":                  {},
	"prediction":             {},
	"web_search_options":     {},
	"reasoning_effort":       {},
	"verbosity":              {},
	"chat_template":          {},
	"documents":              {[]any{}},
	"add_generation_prompt":  {true},
	"continue_final_message": {false},
	"add_special_tokens":     {false},
}

func parseChat(b []byte) (*chatRequest, error) {
	var q chatRequest
	if err := decode(b, &q, "messages", unsupportedInChats); err != nil {
		return nil, err
	}
	if err := errors.Join(q.checkMaxTokens(), q.checkLogprobs()); err != nil {
		return nil, err
	}
	if err := q.check(); err != nil {
		return nil, err
	}
	if len(q.Messages) == 0 || len(q.Messages) > maxMessages {
		return nil, invalid("messages", "messages has %d entries; it must have 1 to %d", len(q.Messages), maxMessages)
	}
	for i, raw := range q.Messages {
		m, err := parseMessage(i, raw)
		if err != nil {
			return nil, err
		}
		q.messages = append(q.messages, m)
	}
	var err error
	q.options, err = parseOptions(q.ChatTemplateKwargs)
	return &q, err
}

func (q *chatRequest) checkMaxTokens() error {
	n := q.MaxCompletionTokens
	switch {
	case n == nil:
	case *n < 1:
		return invalid("max_completion_tokens", "max_completion_tokens is %d; it must be at least 1", *n)
	case q.MaxTokens != nil && *q.MaxTokens != *n:
		return invalid("max_completion_tokens", "max_completion_tokens is %d and max_tokens is %d; send one of them", *n, *q.MaxTokens)
	default:
		q.MaxTokens = n
	}
	return nil
}

func (q *chatRequest) checkLogprobs() error {
	switch n := q.TopLogprobs; {
	case n == nil:
	case !q.Logprobs && *n != 0:
		return invalid("top_logprobs", "top_logprobs is only allowed when logprobs is true")
	case *n < 0 || *n > maxLogprobs:
		return invalid("top_logprobs", "top_logprobs is %d; it must lie between 0 and %d", *n, maxLogprobs)
	}
	return nil
}

// likely is how many most likely tokens to report; nil for none at all.
func (q *chatRequest) likely() *int {
	if q.Logprobs && q.TopLogprobs == nil {
		return new(int)
	}
	if !q.Logprobs {
		return nil
	}
	return q.TopLogprobs
}

// message is one entry of messages.
type message struct {
	Role      string          `json:"role"`
	Content   json.RawMessage `json:"content"`
	Name      *string         `json:"name"`
	Reasoning *string         `json:"reasoning_content"`
	ToolCalls json.RawMessage `json:"tool_calls"`
	Function  json.RawMessage `json:"function_call"`
	Audio     json.RawMessage `json:"audio"`
}

// parseMessage returns a message as templates know it. developer is the newer
// name of system, which is the one that templates know.
func parseMessage(i int, raw json.RawMessage) (*chattemplate.Map, error) {
	var m message
	if err := json.Unmarshal(raw, &m); err != nil || isNull(raw) {
		return nil, invalid("messages", "messages[%d] must be an object with role and content of the types that the API has", i)
	}
	for name, field := range map[string]json.RawMessage{"tool_calls": m.ToolCalls, "function_call": m.Function, "audio": m.Audio} {
		if !isNull(field) && string(field) != "[]" {
			return nil, invalid("messages", "messages[%d].%s is not supported; leave it out", i, name)
		}
	}
	switch m.Role {
	case "developer":
		m.Role = "system"
	case "system", "user", "assistant":
	case "":
		return nil, invalid("messages", "messages[%d].role is missing", i)
	default:
		return nil, invalid("messages", "messages[%d].role is %.40q; it must be system, developer, user or assistant", i, m.Role)
	}
	content, err := parseContent(i, m.Content)
	if err != nil {
		return nil, err
	}
	out := chattemplate.MapOf("role", m.Role, "content", content)
	if m.Name != nil {
		out.Set("name", *m.Name)
	}
	if m.Reasoning != nil {
		out.Set("reasoning_content", *m.Reasoning)
	}
	return out, nil
}

// parseContent reads a string or an array of text parts, which are joined by
// line breaks.
func parseContent(i int, raw json.RawMessage) (string, error) {
	if isNull(raw) {
		return "", invalid("messages", "messages[%d].content is missing; send a string or an array of text parts", i)
	}
	var text string
	if json.Unmarshal(raw, &text) == nil {
		return text, nil
	}
	var parts []struct {
		Type string  `json:"type"`
		Text *string `json:"text"`
	}
	if json.Unmarshal(raw, &parts) != nil || len(parts) == 0 || len(parts) > maxContentParts {
		return "", invalid("messages", "messages[%d].content must be a string or an array of 1 to %d text parts", i, maxContentParts)
	}
	texts := make([]string, len(parts))
	for j, p := range parts {
		if p.Type != "text" || p.Text == nil {
			return "", invalid("messages", "messages[%d].content[%d] is of type %.40q; only parts of type text, with a text, are supported", i, j, p.Type)
		}
		texts[j] = *p.Text
	}
	return strings.Join(texts, "\n"), nil
}

func parseOptions(raw json.RawMessage) (*chattemplate.Map, error) {
	if isNull(raw) {
		return nil, nil
	}
	v, err := chattemplate.DecodeJSON(raw)
	options, ok := v.(*chattemplate.Map)
	if err != nil || !ok || len(options.Keys()) > maxTemplateOptions {
		return nil, invalid("chat_template_kwargs", "chat_template_kwargs must be an object of at most %d variables, nested moderately", maxTemplateOptions)
	}
	return options, nil
}

// prepareChat reads a chat request.
func (s *Server) prepareChat(b []byte) (*job, error) {
	q, err := parseChat(b)
	if err != nil {
		return nil, err
	}
	if err := s.checkModel(&q.parameters); err != nil {
		return nil, err
	}
	if s.Chat == nil {
		why := s.NoChat
		if why == "" {
			why = "it has no chat template"
		}
		return nil, &serving.Refusal{Kind: serving.Invalid, Param: "model", Code: "no_chat_template", Message: fmt.Sprintf(
			"the model %q does not serve chats: %s; use /v1/completions", s.Model, why)}
	}
	text, err := s.Chat.Prompt(q.messages, q.options, s.Now())
	if err != nil {
		return nil, invalid("messages", "%v", err)
	}
	limits := s.Loop.Status().Limits
	// The template writes the tokens at the beginning itself.
	prompt, err := s.encode(text, "messages", limits, s.Tokenizer.EncodeSegment)
	if err != nil {
		return nil, err
	}
	j := &job{
		parameters: &q.parameters, input: "messages", prompts: [][]int32{prompt}, maxTokens: limits.Room(len(prompt)), logprobs: q.likely(),
		shape: chatShape{s.Tokenizer}, head: s.head("chatcmpl-", "chat.completion"),
	}
	if q.MaxTokens != nil {
		j.maxTokens = *q.MaxTokens
	}
	if q.Stream {
		j.head.Object = "chat.completion.chunk"
	}
	return j, nil
}

// chat is the response to a chat, or with Stream one event of it.
type chat struct {
	head
	Choices []chatChoice    `json:"choices"`
	Usage   json.RawMessage `json:"usage,omitempty"`
}

type chatChoice struct {
	Index int `json:"index"`
	// Message is of a whole response, Delta of an event.
	Message      *chatMessage          `json:"message,omitempty"`
	Delta        *chatDelta            `json:"delta,omitempty"`
	Logprobs     *chatLogprobs         `json:"logprobs"`
	FinishReason *serving.FinishReason `json:"finish_reason"`
}

type chatMessage struct {
	Role    string  `json:"role"`
	Content string  `json:"content"`
	Refusal *string `json:"refusal"`
}

type chatDelta struct {
	Role    string  `json:"role,omitempty"`
	Content *string `json:"content,omitempty"`
}

// chatShape writes answers as /v1/chat/completions does.
type chatShape struct{ tok *tokenizer.Tokenizer }

func (chatShape) opening(h head, index int, usage json.RawMessage) any {
	return chat{head: h, Choices: []chatChoice{{Index: index, Delta: &chatDelta{Role: "assistant", Content: new(string)}}}, Usage: usage}
}

func (s chatShape) event(h head, index int, p part, usage json.RawMessage) any {
	delta := &chatDelta{}
	if p.text != "" {
		delta.Content = &p.text
	}
	return chat{head: h, Choices: []chatChoice{{Index: index, Delta: delta, Logprobs: newChatLogprobs(s.tok, p.reports), FinishReason: p.reason()}}, Usage: usage}
}

func (s chatShape) whole(h head, parts []part, usage json.RawMessage) any {
	c := chat{head: h, Choices: make([]chatChoice, len(parts)), Usage: usage}
	for i, p := range parts {
		c.Choices[i] = chatChoice{
			Index: i, Message: &chatMessage{Role: "assistant", Content: p.text}, Logprobs: newChatLogprobs(s.tok, p.reports), FinishReason: p.reason(),
		}
	}
	return c
}

func (s chatShape) usage(h head, usage json.RawMessage) any { return s.whole(h, nil, usage) }

func (s *Server) chats(w http.ResponseWriter, r *http.Request) { s.serve(w, r, s.prepareChat) }
