// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"time"
)

// answer is the text of every completion.
const answer = "All ranks of this world have reached each other."

// serve answers as the API server of a role's first rank does.
func serve(c *config, formed <-chan struct{}) (*http.Server, error) {
	l, err := net.Listen("tcp", net.JoinHostPort("", strconv.Itoa(c.port)))
	if err != nil {
		return nil, err
	}
	s := &http.Server{Handler: handler(c, formed), ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = s.Serve(l) }()
	return s, nil
}

func handler(c *config, formed <-chan struct{}) http.Handler {
	whenFormed := func(h http.HandlerFunc) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			select {
			case <-formed:
				h(w, r)
			default:
				http.Error(w, "ranks are missing", http.StatusServiceUnavailable)
			}
		}
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /health", whenFormed(func(http.ResponseWriter, *http.Request) {}))
	mux.HandleFunc("GET /metrics", whenFormed(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, "vllm:num_requests_running{model_name=%q} 0\n", c.served)
	}))
	if c.afd.Role == "attention" {
		mux.HandleFunc("POST /v1/completions", whenFormed(func(w http.ResponseWriter, r *http.Request) { complete(w, r, c.served) }))
	}
	return mux
}

func complete(w http.ResponseWriter, r *http.Request, served string) {
	var request struct {
		Model string `json:"model"`
	}
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<20)).Decode(&request); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	if request.Model != served {
		http.Error(w, fmt.Sprintf("the model %q does not exist; there is %q", request.Model, served), http.StatusNotFound)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = send(w, map[string]any{
		"object": "text_completion", "model": served, "choices": []map[string]any{{"index": 0, "text": answer, "finish_reason": "stop"}},
	})
}
