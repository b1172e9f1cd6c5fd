// SPDX-License-Identifier: Apache-2.0

package openai

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
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

// completionRequest is the body of POST /v1/completions.
type completionRequest struct {
	Model         *string         `json:"model"`
	Prompt        json.RawMessage `json:"prompt"`
	MaxTokens     *int            `json:"max_tokens"`
	Temperature   *float64        `json:"temperature"`
	TopP          *float64        `json:"top_p"`
	Stream        bool            `json:"stream"`
	StreamOptions *struct {
		IncludeUsage bool `json:"include_usage"`
	} `json:"stream_options"`
	Stop     json.RawMessage `json:"stop"`
	Seed     *int64          `json:"seed"`
	Logprobs *int            `json:"logprobs"`

	TopK         *int    `json:"top_k"`
	IgnoreEOS    bool    `json:"ignore_eos"`
	StopTokenIDs []int32 `json:"stop_token_ids"`

	stops []string
}

// unsupported lists fields that would change the completion, each with the
// values that ask for nothing. null always does.
var unsupported = map[string][]any{
	"n":                          {1.0},
	"best_of":                    {1.0},
	"echo":                       {false},
	"suffix":                     {""},
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
	"add_special_tokens":         {true},
	"prompt_logprobs":            {},
	"truncate_prompt_tokens":     {},
	"allowed_token_ids":          {},
	"bad_words":                  {[]any{}},
	"logits_processors":          {[]any{}},
	"prompt_embeds":              {},
	"response_format":            {map[string]any{"type": "text"}},
	"guided_json":                {},
	"guided_regex":               {},
	"guided_choice":              {},
	"guided_grammar":             {},
	"structured_outputs":         {},
}

// decodeRequest reads and checks what does not depend on the model.
func decodeRequest(w http.ResponseWriter, r *http.Request, limit int64) (*completionRequest, error) {
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
	if err != nil {
		var tooLarge *http.MaxBytesError
		if errors.As(err, &tooLarge) || errors.Is(err, os.ErrDeadlineExceeded) {
			return nil, err
		}
		return nil, invalid("", "the request body could not be read: %v", err)
	}
	return parseRequest(b)
}

func parseRequest(b []byte) (*completionRequest, error) {
	if len(bytes.TrimSpace(b)) == 0 {
		return nil, invalid("", "the request body is empty; send a JSON object with model and prompt")
	}
	var q completionRequest
	var fields map[string]any
	if err := errors.Join(json.Unmarshal(b, &fields), json.Unmarshal(b, &q)); err != nil {
		return nil, jsonError(err)
	}
	if err := refuseUnsupported(fields); err != nil {
		return nil, err
	}
	if err := q.checkSampling(); err != nil {
		return nil, err
	}
	if q.StreamOptions != nil && !q.Stream {
		return nil, invalid("stream_options", "stream_options is only allowed when stream is true")
	}
	var err error
	q.stops, err = parseStops(q.Stop)
	return &q, err
}

func jsonError(err error) error {
	var wrongType *json.UnmarshalTypeError
	if errors.As(err, &wrongType) && wrongType.Field != "" {
		return invalid(wrongType.Field, "%s is a JSON %s; it must be of type %s", wrongType.Field, wrongType.Value, jsonName(wrongType.Type))
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

func refuseUnsupported(fields map[string]any) error {
	names := make([]string, 0, len(fields))
	for name, value := range fields {
		neutral, known := unsupported[name]
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

func (q *completionRequest) checkSampling() error {
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
	case q.Logprobs != nil && (*q.Logprobs < 0 || *q.Logprobs > maxLogprobs):
		return invalid("logprobs", "logprobs is %d; it must lie between 0 and %d", *q.Logprobs, maxLogprobs)
	case len(q.StopTokenIDs) > maxStopTokens:
		return invalid("stop_token_ids", "stop_token_ids has %d entries; at most %d are allowed", len(q.StopTokenIDs), maxStopTokens)
	}
	return nil
}

// sampling is what the engine is told; random draws the seed when the client
// gives none.
func (q *completionRequest) sampling(random func() uint64) *agentpb.Sampling {
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
	if q.Logprobs != nil {
		s.Logprobs, s.TopLogprobs = true, uint32(*q.Logprobs)
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

// promptInput is one prompt: text, or token ids when tokens is set.
type promptInput struct {
	text   string
	tokens []int32
	isText bool
}

// parsePrompt reads the four forms of prompt: a string, an array of strings,
// an array of token ids, an array of arrays of token ids.
func parsePrompt(raw json.RawMessage) ([]promptInput, error) {
	if isNull(raw) {
		return nil, invalid("prompt", "prompt is missing; send a string, an array of strings, an array of token ids or an array of such arrays")
	}
	var text string
	if json.Unmarshal(raw, &text) == nil {
		return []promptInput{{text: text, isText: true}}, nil
	}
	var items []json.RawMessage
	if json.Unmarshal(raw, &items) != nil || len(items) == 0 {
		return nil, invalid("prompt", "prompt must be a string or an array with at least one entry")
	}
	if first := items[0][0]; first != '"' && first != '[' {
		tokens, err := parseTokens(raw, "prompt")
		return []promptInput{{tokens: tokens}}, err
	}
	if len(items) > maxPrompts {
		return nil, invalid("prompt", "prompt has %d entries; at most %d are allowed in one request", len(items), maxPrompts)
	}
	out := make([]promptInput, len(items))
	for i, item := range items {
		if item[0] == '[' {
			tokens, err := parseTokens(item, fmt.Sprintf("prompt[%d]", i))
			if err != nil {
				return nil, err
			}
			out[i] = promptInput{tokens: tokens}
			continue
		}
		if err := json.Unmarshal(item, &out[i].text); err != nil {
			return nil, invalid("prompt", "prompt[%d] is neither a string nor an array of token ids", i)
		}
		out[i].isText = true
	}
	return out, nil
}

func parseTokens(raw json.RawMessage, name string) ([]int32, error) {
	var tokens []int32
	if err := json.Unmarshal(raw, &tokens); err != nil {
		return nil, invalid("prompt", "%s must hold token ids, which are integers from 0 to 2147483647, and nothing else", name)
	}
	return tokens, nil
}
