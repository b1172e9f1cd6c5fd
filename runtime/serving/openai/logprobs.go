// SPDX-License-Identifier: Apache-2.0

package openai

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/findep/findep-operator/runtime/agent/agentpb"
	"github.com/findep/findep-operator/runtime/tokenizer"
)

// logprobs is the API's log probabilities of a completion, by token.
type logprobs struct {
	// TextOffset counts runes of the completion before the token.
	TextOffset    []int                `json:"text_offset"`
	TokenLogprobs []float32            `json:"token_logprobs"`
	Tokens        []string             `json:"tokens"`
	TopLogprobs   []map[string]float32 `json:"top_logprobs"`
}

// completionLogprobs is nil where none were asked for. As in the API, the most
// likely tokens always include the sampled one.
func completionLogprobs(tok *tokenizer.Tokenizer, reports []tokenReport) *logprobs {
	if len(reports) == 0 {
		return nil
	}
	l := &logprobs{}
	for _, r := range reports {
		text := tokenText(tok, r.GetToken())
		top := map[string]float32{text: r.GetLogprob()}
		for _, o := range r.top {
			top[tokenText(tok, o.GetToken())] = o.GetLogprob()
		}
		l.TextOffset, l.TokenLogprobs = append(l.TextOffset, r.offset), append(l.TokenLogprobs, r.GetLogprob())
		l.Tokens, l.TopLogprobs = append(l.Tokens, text), append(l.TopLogprobs, top)
	}
	return l
}

// chatLogprobs is the API's log probabilities of a chat's answer.
type chatLogprobs struct {
	Content []tokenLogprob `json:"content"`
}

type tokenLogprob struct {
	likelyToken
	// TopLogprobs are as many as were asked for, most likely first.
	TopLogprobs []likelyToken `json:"top_logprobs"`
}

type likelyToken struct {
	Token   string  `json:"token"`
	Logprob float32 `json:"logprob"`
	// Bytes are numbers in JSON, because a token need not be whole runes.
	Bytes []int `json:"bytes"`
}

// newChatLogprobs is nil where none were asked for.
func newChatLogprobs(tok *tokenizer.Tokenizer, reports []tokenReport) *chatLogprobs {
	if len(reports) == 0 {
		return nil
	}
	l := &chatLogprobs{}
	for _, r := range reports {
		t := tokenLogprob{likelyToken: newLikelyToken(tok, r.TokenLogprob), TopLogprobs: []likelyToken{}}
		for _, o := range r.top {
			t.TopLogprobs = append(t.TopLogprobs, newLikelyToken(tok, o))
		}
		l.Content = append(l.Content, t)
	}
	return l
}

func newLikelyToken(tok *tokenizer.Tokenizer, t *agentpb.TokenLogprob) likelyToken {
	out := likelyToken{Token: tokenText(tok, t.GetToken()), Logprob: t.GetLogprob(), Bytes: []int{}}
	for _, b := range tok.TokenBytes(t.GetToken()) {
		out.Bytes = append(out.Bytes, int(b))
	}
	return out
}

// tokenText writes bytes that are no whole runes as the API does:
// "bytes:\xf0\x9f".
func tokenText(tok *tokenizer.Tokenizer, id int32) string {
	b := tok.TokenBytes(id)
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
