// SPDX-License-Identifier: Apache-2.0

package openai

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"os"
	"strconv"

	"github.com/findep/findep-operator/runtime/serving"
)

// apiError is the body of an error response.
type apiError struct {
	Error errorBody `json:"error"`
}

type errorBody struct {
	Message string  `json:"message"`
	Type    string  `json:"type"`
	Param   *string `json:"param"`
	Code    *string `json:"code"`
}

func body(message, kind, param, code string) apiError {
	optional := func(s string) *string {
		if s == "" {
			return nil
		}
		return &s
	}
	return apiError{errorBody{Message: message, Type: kind, Param: optional(param), Code: optional(code)}}
}

// invalid is a 400 that names the field.
func invalid(param, format string, args ...any) error {
	return &serving.Refusal{Kind: serving.Invalid, Param: param, Message: fmt.Sprintf(format, args...)}
}

// writeError answers with the status that fits err.
func writeError(w http.ResponseWriter, err error) {
	status, b := errorResponse(err)
	var refusal *serving.Refusal
	if errors.As(err, &refusal) && refusal.RetryAfter > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(refusal.RetryAfter.Seconds()))))
	}
	writeJSON(w, status, b)
}

func errorResponse(err error) (int, apiError) {
	var tooLarge *http.MaxBytesError
	var unknown *modelNotFound
	var refusal *serving.Refusal
	switch {
	case errors.As(err, &tooLarge):
		return http.StatusRequestEntityTooLarge, body(fmt.Sprintf("the request body exceeds %d bytes", tooLarge.Limit), "invalid_request_error", "", "request_too_large")
	case errors.Is(err, os.ErrDeadlineExceeded):
		return http.StatusRequestTimeout, body("the request body did not arrive in time", "invalid_request_error", "", "request_timeout")
	case errors.As(err, &unknown):
		return http.StatusNotFound, body(unknown.Error(), "invalid_request_error", "model", "model_not_found")
	case !errors.As(err, &refusal):
		return http.StatusInternalServerError, body(err.Error(), "server_error", "", "")
	}
	switch refusal.Kind {
	case serving.Invalid:
		return http.StatusBadRequest, body(refusal.Message, "invalid_request_error", refusal.Param, refusal.Code)
	case serving.Busy:
		return http.StatusTooManyRequests, body(refusal.Message, "rate_limit_error", "", "queue_full")
	case serving.Unavailable:
		return http.StatusServiceUnavailable, body(refusal.Message, "service_unavailable", "", "not_ready")
	default:
		return http.StatusInternalServerError, body(refusal.Message, "server_error", "", "engine_error")
	}
}

// modelNotFound is a 404 that says what is served.
type modelNotFound struct{ asked, served string }

func (m *modelNotFound) Error() string {
	return fmt.Sprintf("the model %q does not exist here; this server serves %q", m.asked, m.served)
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(append(b, '\n')) // The client may have gone; nobody is left to tell.
}
