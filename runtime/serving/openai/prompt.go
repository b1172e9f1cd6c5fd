// SPDX-License-Identifier: Apache-2.0

package openai

import (
	"encoding/json"
	"fmt"
)

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
