// SPDX-License-Identifier: Apache-2.0

package openai

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/findep/findep-operator/runtime/serving"
)

// logprobs is the API's log probabilities of a completion, by token.
type logprobs struct {
	// TextOffset counts runes of the completion before the token.
	TextOffset    []int                `json:"text_offset"`
	TokenLogprobs []float32            `json:"token_logprobs"`
	Tokens        []string             `json:"tokens"`
	TopLogprobs   []map[string]float32 `json:"top_logprobs"`
}

func (l *logprobs) append(other *logprobs) *logprobs {
	if l == nil || other == nil {
		if l == nil {
			return other
		}
		return l
	}
	l.TextOffset = append(l.TextOffset, other.TextOffset...)
	l.TokenLogprobs = append(l.TokenLogprobs, other.TokenLogprobs...)
	l.Tokens = append(l.Tokens, other.Tokens...)
	l.TopLogprobs = append(l.TopLogprobs, other.TopLogprobs...)
	return l
}

// appendLogprobs records a token. As in the API, the most likely ones always
// include the sampled one.
func (c *choice) appendLogprobs(t serving.Token) {
	top := map[string]float32{c.tokenText(t.GetToken()): t.GetLogprob()}
	for _, o := range t.GetTop() {
		top[c.tokenText(o.GetToken())] = o.GetLogprob()
	}
	c.report = c.report.append(&logprobs{
		TextOffset: []int{c.runes}, TokenLogprobs: []float32{t.GetLogprob()},
		Tokens: []string{c.tokenText(t.GetToken())}, TopLogprobs: []map[string]float32{top},
	})
}

// tokenText writes bytes that are no whole runes as the API does:
// "bytes:\xf0\x9f".
func (c *choice) tokenText(id int32) string {
	b := c.tok.TokenBytes(id)
	if utf8.Valid(b) {
		return string(b)
	}
	var out strings.Builder
	out.WriteString("bytes:")
	for _, x := range b {
		fmt.Fprintf(&out, `\x%02x`, x)
	}
	return out.String()
}
