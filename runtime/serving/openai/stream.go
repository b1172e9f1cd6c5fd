// SPDX-License-Identifier: Apache-2.0

package openai

import (
	"encoding/json"
	"net/http"
	"slices"
)

// stream answers with server-sent events: one per part of a choice, then the
// usage if asked for, then [DONE]. An engine that fails in between ends the
// stream with an error event instead of [DONE].
func (s *Server) stream(w http.ResponseWriter, r *http.Request, c *call) error {
	withUsage := c.StreamOptions != nil && c.StreamOptions.IncludeUsage
	var noUsage json.RawMessage
	if withUsage {
		noUsage = json.RawMessage("null")
	}
	ended := make([]bool, len(c.group.choices))
	started := false
	for done := false; !done; {
		news, finished, err := c.next(r)
		if err != nil {
			s.streamError(w, r, started, err)
			return err
		}
		if !started {
			started = true
			if err := s.open(w, c, noUsage); err != nil {
				return err
			}
		}
		for i := range ended {
			p, ok := news[i]
			if !ok || ended[i] {
				continue
			}
			ended[i] = p.finish != ""
			if err := s.event(w, c.shape.event(c.head, i, p, noUsage)); err != nil {
				return err
			}
		}
		done = finished
	}
	if withUsage {
		if err := s.event(w, c.shape.usage(c.head, c.usage().raw())); err != nil {
			return err
		}
	}
	return s.write(w, []byte("[DONE]"))
}

// open begins a stream.
func (s *Server) open(w http.ResponseWriter, c *call, usage json.RawMessage) error {
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-cache")
	w.Header().Set("X-Accel-Buffering", "no") // Proxies must not collect events.
	for i := range c.group.choices {
		event := c.shape.opening(c.head, i, usage)
		if event == nil {
			continue
		}
		if err := s.event(w, event); err != nil {
			return err
		}
	}
	return nil
}

// streamError reports a failure: with its status while nothing was sent, as an
// event after that. Whoever went away is told nothing.
func (s *Server) streamError(w http.ResponseWriter, r *http.Request, started bool, err error) {
	switch {
	case r.Context().Err() != nil:
	case started:
		_, failure := errorResponse(err)
		_ = s.event(w, failure) // The connection ends either way.
	default:
		writeError(w, err)
	}
}

func (s *Server) event(w http.ResponseWriter, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return s.write(w, b)
}

func (s *Server) write(w http.ResponseWriter, data []byte) error {
	s.extend(w)
	if _, err := w.Write(slices.Concat([]byte("data: "), data, []byte("\n\n"))); err != nil {
		return err
	}
	return http.NewResponseController(w).Flush()
}
