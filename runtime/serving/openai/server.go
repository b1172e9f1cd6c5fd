// SPDX-License-Identifier: Apache-2.0

package openai

import (
	"log/slog"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/findep/findep-operator/runtime/chattemplate"
	"github.com/findep/findep-operator/runtime/serving"
	"github.com/findep/findep-operator/runtime/tokenizer"
)

// Config says what a Server serves.
type Config struct {
	// Model is the id in /v1/models that requests name.
	Model string
	// Tokenizer is the model's.
	Tokenizer *tokenizer.Tokenizer
	// Chat is the model's chat template; nil where it has none, or none that
	// could be read, and NoChat then says why.
	Chat   *chattemplate.Chat
	NoChat string
	// Loop runs the requests.
	Loop *serving.Loop
	// Metrics is served at /metrics.
	Metrics *serving.Metrics
	// MaxBodyBytes bounds a request body; 8 MiB by default.
	MaxBodyBytes int64
	// BodyTimeout bounds the reading of a request body; 1 minute by default.
	// WriteTimeout bounds one write to a client that does not read; 30 s by
	// default.
	BodyTimeout, WriteTimeout time.Duration
	// Random draws seeds and response ids. It must be unpredictable and safe
	// for concurrent use.
	Random func() uint64
	// Now is the clock of "created".
	Now func() time.Time
	// Log is the logger; slog.Default by default.
	Log *slog.Logger
}

// Server answers the HTTP API of the leader.
type Server struct {
	Config
	mux *http.ServeMux
	// since is reported as the model's "created".
	since time.Time
}

// New returns the handler of the leader's pod.
func New(c Config) *Server {
	if c.MaxBodyBytes <= 0 {
		c.MaxBodyBytes = 8 << 20
	}
	if c.BodyTimeout <= 0 {
		c.BodyTimeout = time.Minute
	}
	if c.WriteTimeout <= 0 {
		c.WriteTimeout = 30 * time.Second
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	s := &Server{Config: c, mux: http.NewServeMux(), since: c.Now()}
	s.mux.HandleFunc("/healthz", alive)
	s.mux.HandleFunc("/readyz", s.ready)
	s.mux.Handle("/metrics", promhttp.HandlerFor(c.Metrics.Registry(), promhttp.HandlerOpts{}))
	s.mux.HandleFunc("/v1/models", allow(http.MethodGet, s.models))
	s.mux.HandleFunc("/v1/models/{id...}", allow(http.MethodGet, s.model))
	s.mux.HandleFunc("/v1/completions", allow(http.MethodPost, s.completions))
	s.mux.HandleFunc("/v1/chat/completions", allow(http.MethodPost, s.chats))
	s.mux.HandleFunc("/", notFound)
	return s
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.extend(w)
	s.mux.ServeHTTP(w, r)
}

func alive(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = w.Write([]byte("ok\n"))
}

func (s *Server) ready(w http.ResponseWriter, _ *http.Request) {
	switch st := s.Loop.Status(); {
	case st.Draining:
		http.Error(w, "the server is shutting down", http.StatusServiceUnavailable)
	case !st.Ready:
		http.Error(w, st.Message, http.StatusServiceUnavailable)
	default:
		alive(w, nil)
	}
}

// allow answers other methods with an error in the API's shape.
func allow(method string, h http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.Method == method || method == http.MethodGet && r.Method == http.MethodHead {
			h(w, r)
			return
		}
		w.Header().Set("Allow", method)
		writeJSON(w, http.StatusMethodNotAllowed, body(r.Method+" is not allowed for "+r.URL.Path+"; use "+method, "invalid_request_error", "", "method_not_allowed"))
	}
}

func notFound(w http.ResponseWriter, r *http.Request) {
	writeJSON(w, http.StatusNotFound, body("there is no "+r.URL.Path+"; this server has /v1/models, /v1/completions and /v1/chat/completions", "invalid_request_error", "", "not_found"))
}

// modelObject is an entry of /v1/models.
type modelObject struct {
	ID          string `json:"id"`
	Object      string `json:"object"`
	Created     int64  `json:"created"`
	OwnedBy     string `json:"owned_by"`
	MaxModelLen int    `json:"max_model_len,omitempty"`
}

func (s *Server) modelObject() modelObject {
	return modelObject{ID: s.Model, Object: "model", Created: s.since.Unix(), OwnedBy: "findep", MaxModelLen: s.Loop.Status().Limits.ContextTokens}
}

func (s *Server) models(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, struct {
		Object string        `json:"object"`
		Data   []modelObject `json:"data"`
	}{"list", []modelObject{s.modelObject()}})
}

func (s *Server) model(w http.ResponseWriter, r *http.Request) {
	if id := r.PathValue("id"); id != s.Model {
		writeError(w, &modelNotFound{asked: id, served: s.Model})
		return
	}
	writeJSON(w, http.StatusOK, s.modelObject())
}
