// SPDX-License-Identifier: Apache-2.0

package compat_test

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	client "github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"

	"github.com/findep/findep-operator/runtime/chattemplate"
	"github.com/findep/findep-operator/runtime/serving"
	"github.com/findep/findep-operator/runtime/serving/openai"
	"github.com/findep/findep-operator/runtime/serving/servingtest"
	"github.com/findep/findep-operator/runtime/tokenizer"
)

const model = "acme/tiny-moe"

// start runs a server on a fake engine and returns its address and a function
// that gives the text with which a prompt is continued.
func start(t *testing.T) (url string, expect func(prompt string, maxTokens int) string) {
	t.Helper()
	return startWith(t, nil)
}

// startWith is start with a chat template.
func startWith(t *testing.T, chat *chattemplate.Chat) (url string, expect func(prompt string, maxTokens int) string) {
	t.Helper()
	b, err := os.ReadFile("../../../tokenizer/testdata/deepseek-v3.json")
	if err != nil {
		t.Fatal(err)
	}
	tok, err := tokenizer.Parse(b, nil)
	if err != nil {
		t.Fatal(err)
	}
	e := servingtest.New()
	e.Vocabulary = tok.VocabSize()
	log, metrics := slog.New(slog.DiscardHandler), serving.NewMetrics(model)
	loop := serving.NewLoop(e, serving.Config{Metrics: metrics, Log: log})
	server := httptest.NewServer(openai.New(openai.Config{
		Model: model, Tokenizer: tok, Chat: chat, Loop: loop, Metrics: metrics, Random: rand.Uint64, Now: time.Now, Log: log,
	}))
	ctx, cancel := context.WithCancel(context.Background())
	stopped := make(chan struct{})
	go func() { defer close(stopped); loop.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-stopped; server.Close() })
	for !loop.Status().Ready {
		time.Sleep(time.Millisecond)
	}
	return server.URL, func(prompt string, maxTokens int) string {
		ids, err := tok.Encode(prompt)
		if err != nil {
			t.Fatal(err)
		}
		return tok.Decode(e.Generate(ids, nil, maxTokens, nil))
	}
}

// TestOfficialClient drives the server with the OpenAI client library.
func TestOfficialClient(t *testing.T) {
	url, expect := start(t)
	ctx := context.Background()
	c := client.NewClient(option.WithBaseURL(url+"/v1"), option.WithAPIKey("none"), option.WithMaxRetries(0))
	const prompt = "The official client"
	params := client.CompletionNewParams{
		Model: model, Prompt: client.CompletionNewParamsPromptUnion{OfString: client.String(prompt)},
		MaxTokens: client.Int(24), Temperature: client.Float(0), Seed: client.Int(3), N: client.Int(1),
		Stop: client.CompletionNewParamsStopUnion{OfStringArray: []string{"never there"}}, User: client.String("me"),
	}
	want := expect(prompt, 24)

	whole, err := c.Completions.New(ctx, params)
	if err != nil {
		t.Fatal(err)
	}
	if got := whole.Choices[0]; got.Text != want || string(got.FinishReason) != "length" || whole.Usage.CompletionTokens != 24 {
		t.Errorf("completion %+v, want %q", whole, want)
	}

	params.StreamOptions = client.ChatCompletionStreamOptionsParam{IncludeUsage: client.Bool(true)}
	stream, text, used := c.Completions.NewStreaming(ctx, params), "", int64(0)
	for stream.Next() {
		for _, choice := range stream.Current().Choices {
			text += choice.Text
		}
		used += stream.Current().Usage.CompletionTokens
	}
	if err := stream.Err(); err != nil {
		t.Fatal(err)
	}
	if text != want || used != 24 {
		t.Errorf("streamed %q with %d tokens, want %q with 24", text, used, want)
	}

	checkModels(ctx, t, &c)

	params.Model, params.StreamOptions = "another", client.ChatCompletionStreamOptionsParam{}
	var apiErr *client.Error
	if _, err := c.Completions.New(ctx, params); !errors.As(err, &apiErr) || apiErr.StatusCode != http.StatusNotFound ||
		apiErr.Code != "model_not_found" || !strings.Contains(apiErr.Message, model) {
		t.Errorf("error %v", err)
	}
}

func checkModels(ctx context.Context, t *testing.T, c *client.Client) {
	t.Helper()
	page, err := c.Models.List(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if len(page.Data) != 1 || page.Data[0].ID != model {
		t.Errorf("models %+v", page.Data)
	}
	if one, err := c.Models.Get(ctx, model); err != nil || one.ID != model {
		t.Errorf("model %+v, error %v", one, err)
	}
}

// TestOfficialClientChats drives chats with the OpenAI client library, whole
// and streamed, with its accumulator.
func TestOfficialClientChats(t *testing.T) {
	source, err := os.ReadFile("../../../chattemplate/testdata/deepseek-v2.jinja")
	if err != nil {
		t.Fatal(err)
	}
	chat, err := chattemplate.New([]byte(`{"bos_token":"<｜begin▁of▁sentence｜>","eos_token":"<｜end▁of▁sentence｜>"}`), string(source))
	if err != nil {
		t.Fatal(err)
	}
	url, expect := startWith(t, chat)
	ctx := context.Background()
	c := client.NewClient(option.WithBaseURL(url+"/v1"), option.WithAPIKey("none"), option.WithMaxRetries(0))
	params := client.ChatCompletionNewParams{
		Model: model,
		Messages: []client.ChatCompletionMessageParamUnion{
			client.SystemMessage("Be brief."), client.UserMessage("Hi"), client.AssistantMessage("Hello."),
			client.UserMessage([]client.ChatCompletionContentPartUnionParam{client.TextContentPart("How are"), client.TextContentPart("you?")}),
		},
		MaxCompletionTokens: client.Int(24), Temperature: client.Float(0), Seed: client.Int(3), N: client.Int(1),
		Logprobs: client.Bool(true), TopLogprobs: client.Int(2),
	}
	want := expect("<｜begin▁of▁sentence｜>Be brief.\n\nUser: Hi\n\nAssistant: Hello.<｜end▁of▁sentence｜>User: How are\nyou?\n\nAssistant:", 24)

	whole, err := c.Chat.Completions.New(ctx, params)
	if err != nil {
		t.Fatal(err)
	}
	if got := whole.Choices[0]; got.Message.Content != want || got.FinishReason != "length" || whole.Usage.CompletionTokens != 24 ||
		len(got.Logprobs.Content) != 24 || len(got.Logprobs.Content[0].TopLogprobs) != 2 {
		t.Errorf("chat %+v, want %q", whole, want)
	}

	params.StreamOptions = client.ChatCompletionStreamOptionsParam{IncludeUsage: client.Bool(true)}
	stream, all := c.Chat.Completions.NewStreaming(ctx, params), client.ChatCompletionAccumulator{}
	for stream.Next() {
		if !all.AddChunk(stream.Current()) {
			t.Fatalf("the chunk %s does not fit", stream.Current().RawJSON())
		}
	}
	if err := stream.Err(); err != nil {
		t.Fatal(err)
	}
	if got := all.Choices[0]; got.Message.Content != want || got.Message.Role != "assistant" || got.FinishReason != "length" || all.Usage.CompletionTokens != 24 {
		t.Errorf("streamed %+v, want %q", all.ChatCompletion, want)
	}

	params.StreamOptions = client.ChatCompletionStreamOptionsParam{}
	params.N = client.Int(2)
	var apiErr *client.Error
	if _, err := c.Chat.Completions.New(ctx, params); !errors.As(err, &apiErr) || apiErr.StatusCode != http.StatusBadRequest || apiErr.Param != "n" {
		t.Errorf("error %v", err)
	}
}
