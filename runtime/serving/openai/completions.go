// SPDX-License-Identifier: Apache-2.0

package openai

import (
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/findep/findep-operator/runtime/serving"
	"github.com/findep/findep-operator/runtime/tokenizer"
)

// completion is the response, or with Stream one event of it.
type completion struct {
	head
	Choices []completionChoice `json:"choices"`
	// Usage is "null" in the events of a stream that ends with a usage event.
	Usage json.RawMessage `json:"usage,omitempty"`
}

type completionChoice struct {
	Text         string                `json:"text"`
	Index        int                   `json:"index"`
	Logprobs     *logprobs             `json:"logprobs"`
	FinishReason *serving.FinishReason `json:"finish_reason"`
}

// completionShape writes answers as /v1/completions does.
type completionShape struct{ tok *tokenizer.Tokenizer }

func (completionShape) opening(head, int, json.RawMessage) any { return nil }

func (s completionShape) event(h head, index int, p part, usage json.RawMessage) any {
	return completion{head: h, Choices: []completionChoice{s.choice(index, p)}, Usage: usage}
}

func (s completionShape) whole(h head, parts []part, usage json.RawMessage) any {
	c := completion{head: h, Choices: make([]completionChoice, len(parts)), Usage: usage}
	for i, p := range parts {
		c.Choices[i] = s.choice(i, p)
	}
	return c
}

func (s completionShape) usage(h head, usage json.RawMessage) any { return s.whole(h, nil, usage) }

func (s completionShape) choice(index int, p part) completionChoice {
	return completionChoice{Text: p.text, Index: index, Logprobs: completionLogprobs(s.tok, p.reports), FinishReason: p.reason()}
}

// prepareCompletion reads a completion request.
func (s *Server) prepareCompletion(b []byte) (*job, error) {
	q, err := parseRequest(b)
	if err != nil {
		return nil, err
	}
	if err := s.checkModel(&q.parameters); err != nil {
		return nil, err
	}
	prompts, err := s.prompts(q)
	if err != nil {
		return nil, err
	}
	maxTokens := defaultMaxTokens
	if q.MaxTokens != nil {
		maxTokens = *q.MaxTokens
	}
	return &job{
		parameters: &q.parameters, input: "prompt", prompts: prompts, maxTokens: maxTokens, logprobs: q.Logprobs,
		shape: completionShape{s.Tokenizer}, head: s.head("cmpl-", "text_completion"),
	}, nil
}

// prompts turns the request's prompts into token ids within the vocabulary.
func (s *Server) prompts(q *completionRequest) ([][]int32, error) {
	inputs, err := parsePrompt(q.Prompt)
	if err != nil {
		return nil, err
	}
	limits := s.Loop.Status().Limits
	out := make([][]int32, len(inputs))
	for i, in := range inputs {
		if out[i] = in.tokens; in.isText {
			if out[i], err = s.encode(in.text, "prompt", limits, s.Tokenizer.Encode); err != nil {
				return nil, err
			}
		}
		for _, id := range out[i] {
			if id < 0 || int(id) >= limits.Vocabulary && limits.Vocabulary > 0 {
				return nil, invalid("prompt", "token id %d is outside the model's vocabulary, 0 to %d", id, limits.Vocabulary-1)
			}
		}
	}
	return out, nil
}

// encode refuses texts that cannot fit before spending time on tokenizing them.
// Composing normalization shortens a text to no less than a third; the bound
// allows for a quarter.
func (s *Server) encode(text, param string, limits serving.Limits, tokenize func(string) ([]int32, error)) ([]int32, error) {
	if most := 4 * s.Tokenizer.LongestToken() * limits.ContextTokens; limits.ContextTokens > 0 && len(text) > most {
		return nil, &serving.Refusal{Kind: serving.Invalid, Param: param, Code: "context_length_exceeded", Message: fmt.Sprintf(
			"a prompt of %d bytes cannot fit in this model's maximum context length of %d tokens; shorten it", len(text), limits.ContextTokens)}
	}
	ids, err := tokenize(text)
	if err != nil {
		return nil, invalid(param, "%v", err)
	}
	return ids, nil
}

func (s *Server) completions(w http.ResponseWriter, r *http.Request) {
	s.serve(w, r, s.prepareCompletion)
}
