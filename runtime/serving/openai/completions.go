// SPDX-License-Identifier: Apache-2.0

package openai

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/findep/findep-operator/runtime/serving"
)

// completion is the response, or with Stream one event of it.
type completion struct {
	ID      string             `json:"id"`
	Object  string             `json:"object"`
	Created int64              `json:"created"`
	Model   string             `json:"model"`
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

type usage struct {
	PromptTokens     int `json:"prompt_tokens"`
	CompletionTokens int `json:"completion_tokens"`
	TotalTokens      int `json:"total_tokens"`
}

func (u usage) raw() json.RawMessage {
	b, _ := json.Marshal(u) //nolint:errchkjson // Integers always marshal.
	return b
}

// call is one accepted completion request.
type call struct {
	request *completionRequest
	head    completion
	group   *group
	// promptTokens is over all prompts.
	promptTokens int
}

func (s *Server) completions(w http.ResponseWriter, r *http.Request) {
	started := s.Now()
	c, ids, err := s.accept(w, r)
	if err != nil {
		writeError(w, err)
		return
	}
	// Releases the KV of a client that went away; ended sequences are ignored.
	defer s.Loop.Cancel(ids)
	if c.request.Stream {
		err = s.stream(w, r, c)
	} else {
		err = s.whole(w, r, c)
	}
	s.Log.Info("completion", "id", c.head.ID, "prompts", len(ids), "promptTokens", c.promptTokens,
		"completionTokens", c.usage().CompletionTokens, "stream", c.request.Stream, "milliseconds", s.Now().Sub(started).Milliseconds(), "error", err)
}

// accept checks a request and submits it.
func (s *Server) accept(w http.ResponseWriter, r *http.Request) (*call, []serving.ID, error) {
	// net/http takes the deadline back once the body has been read, so it does
	// not bound the completion. Not every ResponseWriter has deadlines; those
	// of tests need none.
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(s.BodyTimeout))
	request, err := decodeRequest(w, r, s.MaxBodyBytes)
	if err != nil {
		return nil, nil, err
	}
	if request.Model == nil {
		return nil, nil, invalid("model", "model is missing; this server serves %q", s.Model)
	}
	if *request.Model != s.Model {
		return nil, nil, &modelNotFound{asked: *request.Model, served: s.Model}
	}
	c := &call{request: request, group: newGroup(), head: completion{
		ID: fmt.Sprintf("cmpl-%016x%016x", s.Random(), s.Random()), Object: "text_completion", Created: s.Now().Unix(), Model: s.Model,
	}}
	prompts, err := s.prompts(request)
	if err != nil {
		return nil, nil, err
	}
	requests := make([]serving.Request, len(prompts))
	for i, prompt := range prompts {
		c.promptTokens += len(prompt)
		requests[i] = serving.Request{
			Sequence: serving.Sequence{Prompt: prompt, MaxTokens: request.maxTokens(), Sampling: request.sampling(s.Random), StopTokens: s.stopTokens(request)},
			Sink:     c.group.add(s.Tokenizer, request.stops, request.Logprobs != nil),
		}
	}
	ids, err := s.Loop.Submit(requests)
	return c, ids, err
}

// stopTokens are the model's end-of-sequence tokens, unless ignored, and those
// of the request.
func (s *Server) stopTokens(q *completionRequest) []int32 {
	stop := slices.Clone(q.StopTokenIDs)
	if q.IgnoreEOS {
		return stop
	}
	if described := s.Loop.Status().Described.GetEndOfSequenceTokens(); len(described) > 0 {
		return append(stop, described...)
	}
	if eos, ok := s.Tokenizer.EOS(); ok {
		stop = append(stop, eos)
	}
	return stop
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
		if out[i], err = s.encode(in, limits); err != nil {
			return nil, err
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
func (s *Server) encode(in promptInput, limits serving.Limits) ([]int32, error) {
	if !in.isText {
		return in.tokens, nil
	}
	if most := 4 * s.Tokenizer.LongestToken() * limits.ContextTokens; limits.ContextTokens > 0 && len(in.text) > most {
		return nil, &serving.Refusal{Kind: serving.Invalid, Param: "prompt", Code: "context_length_exceeded", Message: fmt.Sprintf(
			"a prompt of %d bytes cannot fit in this model's maximum context length of %d tokens; shorten it", len(in.text), limits.ContextTokens)}
	}
	ids, err := s.Tokenizer.Encode(in.text)
	if err != nil {
		return nil, invalid("prompt", "%v", err)
	}
	return ids, nil
}

// next waits for news and returns them by choice, with whether all choices
// have ended. The error is the client's going away or the engine's failure.
func (c *call) next(r *http.Request) (news map[int]part, done bool, err error) {
	select {
	case <-r.Context().Done():
		return nil, false, r.Context().Err()
	case <-c.group.changed:
	}
	c.group.Lock()
	defer c.group.Unlock()
	news, done = map[int]part{}, true
	for i, ch := range c.group.choices {
		if p, ok := ch.take(); ok {
			news[i] = p
		}
		if ch.err != nil {
			err = ch.err
		}
		done = done && ch.finish != ""
	}
	return news, done, err
}

func (c *call) usage() usage {
	c.group.Lock()
	defer c.group.Unlock()
	u := usage{PromptTokens: c.promptTokens}
	for _, ch := range c.group.choices {
		u.CompletionTokens += ch.generated
	}
	u.TotalTokens = u.PromptTokens + u.CompletionTokens
	return u
}

func (s *Server) whole(w http.ResponseWriter, r *http.Request, c *call) error {
	response := c.head
	response.Choices = make([]completionChoice, len(c.group.choices))
	for done := false; !done; {
		var news map[int]part
		var err error
		if news, done, err = c.next(r); err != nil {
			if r.Context().Err() == nil {
				writeError(w, err)
			}
			return err
		}
		for i, p := range news {
			choice := &response.Choices[i]
			choice.Index = i
			choice.Text += p.text
			choice.Logprobs = choice.Logprobs.append(p.logprobs)
			if p.finish != "" {
				choice.FinishReason = &p.finish
			}
		}
	}
	response.Usage = c.usage().raw()
	s.extend(w)
	writeJSON(w, http.StatusOK, response)
	return nil
}

// extend gives a write its time; without it a client that reads nothing would
// hold its connection for ever.
func (s *Server) extend(w http.ResponseWriter) {
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(s.WriteTimeout))
}
