// SPDX-License-Identifier: Apache-2.0

package openai

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"math"
	"net/http"
	"os"
	"reflect"
	"slices"
	"strings"

	"github.com/findep/findep-operator/runtime/agent/agentpb"
)

const (
	// defaultMaxTokens is the API's default for completions.
	defaultMaxTokens = 16
	// maxPrompts bounds the prompts of one request.
	maxPrompts = 128
	// maxStops is the API's limit; maxStopBytes keeps the search for stop
	// strings, which runs for each token, cheap.
	maxStops     = 4
	maxStopBytes = 256
	// maxStopTokens bounds stop_token_ids.
	maxStopTokens = 64
	// maxLogprobs is what the engine offers.
	maxLogprobs = 20
)

// parameters are the fields that completions and chats share.
type parameters struct {
	Model         *string  `json:"model"`
	MaxTokens     *int     `json:"max_tokens"`
	Temperature   *float64 `json:"temperature"`
	TopP          *float64 `json:"top_p"`
	Stream        bool     `json:"stream"`
	StreamOptions *struct {
		IncludeUsage bool `json:"include_usage"`
	} `json:"stream_options"`
	Stop json.RawMessage `json:"stop"`
	Seed *int64          `json:"seed"`

	TopK         *int    `json:"top_k"`
	IgnoreEOS    bool    `json:"ignore_eos"`
	StopTokenIDs []int32 `json:"stop_token_ids"`

	stops []string
}

// completionRequest is the body of POST /v1/completions.
type completionRequest struct {
	parameters
	Prompt   json.RawMessage `json:"prompt"`
	Logprobs *int            `json:"logprobs"`
}

// unsupported lists fields that would change the completion, each with the
// values that ask for nothing. null always does.
type unsupported map[string][]any

// unsupportedAlways are those of completions and chats; the ones of each come
// in addition.
var unsupportedAlways = unsupported{
	"n":                          {1.0},
	"echo":                       {false},
	"logit_bias":                 {map[string]any{}},
	"presence_penalty":           {0.0},
	"frequency_penalty":          {0.0},
	"repetition_penalty":         {1.0},
	"length_penalty":             {1.0},
	"min_p":                      {0.0},
	"min_tokens":                 {0.0},
	"use_beam_search":            {false},
	"include_stop_str_in_output": {false},
	"skip_special_tokens":        {true},
	"prompt_logprobs":            {},
	"truncate_prompt_tokens":     {},
	"allowed_token_ids":          {},
	"bad_words":                  {[]any{}},
	"logits_processors":          {[]any{}},
	"response_format":            {map[string]any{"type": "text"}},
	"guided_json":                {},
	"guided_regex":               {},
	"guided_choice":              {},
	"guided_grammar":             {},
	"structured_outputs":         {},
}

var unsupportedInCompletions = unsupported{
	"best_of":            {1.0},
	"suffix":             {""},
	"prompt_embeds":      {},
	"add_special_tokens": {true},
}

// readBody reads a request's body.
func readBody(w http.ResponseWriter, r *http.Request, limit int64) ([]byte, error) {
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
	if err != nil {
		var tooLarge *http.MaxBytesError
		if errors.As(err, &tooLarge) || errors.Is(err, os.ErrDeadlineExceeded) {
			return nil, err
		}
		return nil, invalid("", "the request body could not be read: %v", err)
	}
	return b, nil
}

// decode reads a body into a request and refuses fields by name. content is
// the field with what is to be continued.
func decode(b []byte, into any, content string, more unsupported) error {
	if len(bytes.TrimSpace(b)) == 0 {
		return invalid("", "the request body is empty; send a JSON object with model and %s", content)
	}
	var fields map[string]any
	if err := errors.Join(json.Unmarshal(b, &fields), json.Unmarshal(b, into)); err != nil {
		return jsonError(err)
	}
	return refuseUnsupported(fields, unsupportedAlways, more)
}

func parseRequest(b []byte) (*completionRequest, error) {
	var q completionRequest
	if err := decode(b, &q, "prompt", unsupportedInCompletions); err != nil {
		return nil, err
	}
	if q.Logprobs != nil && (*q.Logprobs < 0 || *q.Logprobs > maxLogprobs) {
		return nil, invalid("logprobs", "logprobs is %d; it must lie between 0 and %d", *q.Logprobs, maxLogprobs)
	}
	return &q, q.check()
}

func jsonError(err error) error {
	var wrongType *json.UnmarshalTypeError
	if errors.As(err, &wrongType) && wrongType.Field != "" {
		field := strings.TrimPrefix(wrongType.Field, "parameters.") // The embedded struct's name is not the client's.
		return invalid(field, "%s is a JSON %s; it must be of type %s", field, wrongType.Value, jsonName(wrongType.Type))
	}
	if wrongType != nil {
		return invalid("", "the request body is a JSON %s; it must be an object", wrongType.Value)
	}
	first, _, _ := strings.Cut(err.Error(), "\n")
	return invalid("", "the request body is not valid JSON: %s", first)
}

func jsonName(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Int, reflect.Int32, reflect.Int64:
		return "integer"
	case reflect.Float64:
		return "number"
	case reflect.Bool:
		return "boolean"
	case reflect.Slice:
		return "array"
	case reflect.Struct:
		return "object"
	default:
		return t.String()
	}
}

func refuseUnsupported(fields map[string]any, lists ...unsupported) error {
	names := make([]string, 0, len(fields))
	for name, value := range fields {
		var neutral []any
		known := false
		for _, list := range lists {
			if values, ok := list[name]; ok {
				neutral, known = values, true
			}
		}
		harmless := value == nil || slices.ContainsFunc(neutral, func(n any) bool { return reflect.DeepEqual(n, value) })
		if known && !harmless {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return nil
	}
	slices.Sort(names)
	return invalid(names[0], "%s is not supported with the value given; leave it out", strings.Join(names, ", "))
}

// check refuses values out of range and reads the stop strings.
func (q *parameters) check() error {
	if err := q.checkSampling(); err != nil {
		return err
	}
	if q.StreamOptions != nil && !q.Stream {
		return invalid("stream_options", "stream_options is only allowed when stream is true")
	}
	var err error
	q.stops, err = parseStops(q.Stop)
	return err
}

func (q *parameters) checkSampling() error {
	outside := func(v *float64, least, most float64) bool { return v != nil && (*v < least || *v > most) }
	switch {
	case q.MaxTokens != nil && *q.MaxTokens < 1:
		return invalid("max_tokens", "max_tokens is %d; it must be at least 1", *q.MaxTokens)
	case outside(q.Temperature, 0, 2):
		return invalid("temperature", "temperature is %v; it must lie between 0 and 2", *q.Temperature)
	case outside(q.TopP, math.SmallestNonzeroFloat64, 1):
		return invalid("top_p", "top_p is %v; it must be above 0 and at most 1", *q.TopP)
	case q.TopK != nil && (*q.TopK < -1 || *q.TopK > 1<<30):
		return invalid("top_k", "top_k is %d; it must be positive, or 0 or -1 for no limit", *q.TopK)
	case len(q.StopTokenIDs) > maxStopTokens:
		return invalid("stop_token_ids", "stop_token_ids has %d entries; at most %d are allowed", len(q.StopTokenIDs), maxStopTokens)
	}
	return nil
}

// sampling is what the engine is told; random draws the seed when the client
// gives none. logprobs is how many most likely tokens to report; nil for no
// log probabilities at all.
func (q *parameters) sampling(random func() uint64, logprobs *int) *agentpb.Sampling {
	s := &agentpb.Sampling{Temperature: 1, TopP: 1}
	if q.Temperature != nil {
		s.Temperature = float32(*q.Temperature)
	}
	if q.TopP != nil {
		// A value that rounds to 0 would mean no limit to the engine.
		s.TopP = max(float32(*q.TopP), math.SmallestNonzeroFloat32)
	}
	if q.TopK != nil {
		s.TopK = uint32(max(*q.TopK, 0))
	}
	if logprobs != nil {
		s.TopLogprobs = uint32(*logprobs)
	}
	if q.Seed != nil {
		s.Seed = uint64(*q.Seed)
	} else {
		s.Seed = random()
	}
	return s
}

func (q *completionRequest) maxTokens() int {
	if q.MaxTokens == nil {
		return defaultMaxTokens
	}
	return *q.MaxTokens
}

// isNull is true for an absent field and for null.
func isNull(raw json.RawMessage) bool {
	return len(raw) == 0 || bytes.Equal(raw, []byte("null"))
}

func parseStops(raw json.RawMessage) ([]string, error) {
	if isNull(raw) {
		return nil, nil
	}
	var one string
	var many []string
	if json.Unmarshal(raw, &one) == nil {
		many = []string{one}
	} else if json.Unmarshal(raw, &many) != nil {
		return nil, invalid("stop", "stop must be a string or an array of strings")
	}
	if len(many) > maxStops {
		return nil, invalid("stop", "stop has %d strings; at most %d are allowed", len(many), maxStops)
	}
	for i, s := range many {
		if s == "" || len(s) > maxStopBytes {
			return nil, invalid("stop", "stop string %d has %d bytes; it must have 1 to %d", i, len(s), maxStopBytes)
		}
	}
	return many, nil
}
