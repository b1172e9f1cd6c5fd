// SPDX-License-Identifier: Apache-2.0

package openai

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/findep/findep-operator/runtime/serving"
)

// head is what responses and events begin with.
type head struct {
	ID      string `json:"id"`
	Object  string `json:"object"`
	Created int64  `json:"created"`
	Model   string `json:"model"`
}

func (s *Server) head(prefix, object string) head {
	return head{ID: fmt.Sprintf("%s%016x%016x", prefix, s.Random(), s.Random()), Object: object, Created: s.Now().Unix(), Model: s.Model}
}

// shape writes answers as an endpoint does. usage is empty where a response or
// event has none.
type shape interface {
	// opening is the first event of a choice in a stream; nil for none.
	opening(h head, index int, usage json.RawMessage) any
	// event is what a choice has to say next in a stream.
	event(h head, index int, p part, usage json.RawMessage) any
	// usage is the last event of a stream whose client asked for it.
	usage(h head, usage json.RawMessage) any
	// whole is the response that is not streamed.
	whole(h head, parts []part, usage json.RawMessage) any
}

// job is a request that was read and checked.
type job struct {
	*parameters
	// input is the field that the prompts come from.
	input     string
	prompts   [][]int32
	maxTokens int
	// logprobs is how many most likely tokens to report; nil for none at all.
	logprobs *int
	shape    shape
	head     head
}

// call is a job that was accepted.
type call struct {
	*job
	group *group
	// promptTokens is over all prompts.
	promptTokens int
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

// serve answers a request that prepare reads.
func (s *Server) serve(w http.ResponseWriter, r *http.Request, prepare func([]byte) (*job, error)) {
	started := s.Now()
	c, ids, err := s.accept(w, r, prepare)
	if err != nil {
		writeError(w, err)
		return
	}
	// Releases the KV of a client that went away; ended sequences are ignored.
	defer s.Loop.Cancel(ids)
	if c.Stream {
		err = s.stream(w, r, c)
	} else {
		err = s.whole(w, r, c)
	}
	s.Log.Info("completion", "id", c.head.ID, "prompts", len(ids), "promptTokens", c.promptTokens,
		"completionTokens", c.usage().CompletionTokens, "stream", c.Stream, "milliseconds", s.Now().Sub(started).Milliseconds(), "error", err)
}

// accept checks a request and submits it.
func (s *Server) accept(w http.ResponseWriter, r *http.Request, prepare func([]byte) (*job, error)) (*call, []serving.ID, error) {
	// net/http takes the deadline back once the body has been read, so it does
	// not bound the completion. Not every ResponseWriter has deadlines; those
	// of tests need none.
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(s.BodyTimeout))
	body, err := readBody(w, r, s.MaxBodyBytes)
	if err != nil {
		return nil, nil, err
	}
	j, err := prepare(body)
	if err != nil {
		return nil, nil, err
	}
	c := &call{job: j, group: newGroup()}
	requests := make([]serving.Request, len(j.prompts))
	for i, prompt := range j.prompts {
		c.promptTokens += len(prompt)
		requests[i] = serving.Request{
			Sequence: serving.Sequence{Prompt: prompt, MaxTokens: j.maxTokens, Sampling: j.sampling(s.Random, j.logprobs), StopTokens: s.stopTokens(j.parameters)},
			Sink:     c.group.add(s.Tokenizer, j.stops, j.logprobs != nil),
		}
	}
	ids, err := s.Loop.Submit(requests)
	var refusal *serving.Refusal
	if errors.As(err, &refusal) && refusal.Param == "prompt" {
		refusal.Param = j.input
	}
	return c, ids, err
}

func (s *Server) checkModel(q *parameters) error {
	if q.Model == nil {
		return invalid("model", "model is missing; this server serves %q", s.Model)
	}
	if *q.Model != s.Model {
		return &modelNotFound{asked: *q.Model, served: s.Model}
	}
	return nil
}

// stopTokens are the model's end-of-sequence tokens, unless ignored, and those
// of the request.
func (s *Server) stopTokens(q *parameters) []int32 {
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
	parts := make([]part, len(c.group.choices))
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
			parts[i].add(p)
		}
	}
	s.extend(w)
	writeJSON(w, http.StatusOK, c.shape.whole(c.head, parts, c.usage().raw()))
	return nil
}

// extend gives a write its time; without it a client that reads nothing would
// hold its connection for ever.
func (s *Server) extend(w http.ResponseWriter) {
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(s.WriteTimeout))
}
