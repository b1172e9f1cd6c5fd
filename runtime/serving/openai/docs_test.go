// SPDX-License-Identifier: Apache-2.0

package openai

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/findep/findep-operator/runtime/chattemplate"
	"github.com/findep/findep-operator/runtime/serving"
	"github.com/findep/findep-operator/runtime/serving/servingtest"
	"github.com/findep/findep-operator/runtime/tokenizer"
)

const docFile = "../../../docs/api-http.md"

var update = flag.Bool("update", false, "write what the examples print into "+docFile)

// documented runs the server of the examples: a model that says one sentence.
func documented(t *testing.T) (url string, metrics *serving.Metrics) {
	t.Helper()
	b, err := os.ReadFile("../../tokenizer/testdata/deepseek-v3.json")
	if err != nil {
		t.Fatal(err)
	}
	tok, err := tokenizer.Parse(b, nil)
	if err != nil {
		t.Fatal(err)
	}
	source, err := os.ReadFile("../../chattemplate/testdata/deepseek-v3.jinja")
	if err != nil {
		t.Fatal(err)
	}
	chat, err := chattemplate.New([]byte(`{"bos_token":"<｜begin▁of▁sentence｜>"}`), string(source))
	if err != nil {
		t.Fatal(err)
	}
	eos, _ := tok.ID("<｜end▁of▁sentence｜>")
	answer, err := tok.EncodeSegment(" I am fine, thank you.")
	if err != nil {
		t.Fatal(err)
	}
	e := servingtest.New()
	e.Vocabulary, e.EndOfSequence = tok.VocabSize(), []int32{eos}
	e.Next = func(history []int32, _ *servingtest.Sampling, _ int) int32 {
		return following(history, append(slices.Clone(answer), eos))
	}
	// Slow enough for most tokens to have an event of their own when the
	// document is written; nothing depends on it.
	e.OnStep = func(*servingtest.StepRequest) { time.Sleep(3 * time.Millisecond) }
	model := "acme/tiny-moe"
	metrics = serving.NewMetrics(model)
	log := slog.New(slog.DiscardHandler)
	loop := serving.NewLoop(e, serving.Config{Metrics: metrics, Log: log})
	id := uint64(0x8f2c41d07be3a956)
	server := httptest.NewServer(New(Config{
		Model: model, Tokenizer: tok, Chat: chat, Loop: loop, Metrics: metrics, Log: log,
		Random: func() uint64 { return id }, Now: func() time.Time { return time.Unix(1795503600, 0) },
	}))
	ctx, cancel := context.WithCancel(context.Background())
	stopped := make(chan struct{})
	go func() { defer close(stopped); loop.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-stopped; server.Close() })
	for !loop.Status().Ready {
		time.Sleep(time.Millisecond)
	}
	return server.URL, metrics
}

// following continues a history that ends with a beginning of text.
func following(history, text []int32) int32 {
	for n := min(len(text)-1, len(history)); n > 0; n-- {
		if slices.Equal(history[len(history)-n:], text[:n]) {
			return text[n]
		}
	}
	return text[0]
}

// example is a command in a console block with what it prints.
var (
	example = regexp.MustCompile("(?s)```console\n(\\$ [^\n]*\n)(.*?)```")
	curl    = regexp.MustCompile(`^\$ curl -sN? http://localhost:8000(\S+)(?: -d '(.*)')?( \| jq)?\n$`)
)

// TestDocumentedExamples: what docs/api-http.md shows is what the server
// answers. With -update the document is written anew.
func TestDocumentedExamples(t *testing.T) {
	url, _ := documented(t)
	doc, err := os.ReadFile(docFile)
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	written := example.ReplaceAllStringFunc(string(doc), func(block string) string {
		found++
		m := example.FindStringSubmatch(block)
		want, got := m[2], runExample(t, url, m[1])
		if !*update {
			if diff := cmp.Diff(gather(t, want), gather(t, got)); diff != "" {
				t.Errorf("%s(-documented +answered):\n%s", m[1], diff)
			}
			return block
		}
		return "```console\n" + m[1] + got + "```"
	})
	if found < 7 {
		t.Errorf("%d examples were found", found)
	}
	if *update {
		if err := os.WriteFile(docFile, []byte(written), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func runExample(t *testing.T, url, command string) string {
	t.Helper()
	m := curl.FindStringSubmatch(command)
	if m == nil {
		t.Fatalf("%q is no command that this test understands", command)
	}
	method := http.MethodGet
	if m[2] != "" {
		method = http.MethodPost
	}
	q, err := http.NewRequest(method, url+m[1], strings.NewReader(m[2]))
	if err != nil {
		t.Fatal(err)
	}
	r, err := http.DefaultClient.Do(q)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Body.Close() }()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	if m[3] == "" {
		return string(b)
	}
	var out bytes.Buffer
	if err := json.Indent(&out, b, "", "  "); err != nil {
		t.Fatal(err)
	}
	return strings.TrimRight(out.String(), "\n") + "\n"
}

// gather joins the events of a stream that differ in their text alone, because
// how many tokens share an event depends on time.
func gather(t *testing.T, output string) string {
	t.Helper()
	if !strings.HasPrefix(output, "data: ") {
		return output
	}
	text := regexp.MustCompile(`("text"|"content"):"((?:[^"\\]|\\.)*)"`)
	var kept []string
	said := ""
	for _, event := range strings.Split(output, "\n\n") {
		if m := text.FindStringSubmatch(event); m != nil {
			said += m[2]
		}
		if !strings.Contains(event, `"finish_reason":null`) || strings.Contains(event, `"role"`) {
			event = strings.Replace(text.ReplaceAllString(event, ""), `"delta":{}`, "", 1)
			kept = append(kept, event)
		}
	}
	return strings.Join(kept, "\n") + said
}

// TestDocumentedNames: the document names every metric and every field that is
// refused, and no metric that is not there.
func TestDocumentedNames(t *testing.T) {
	_, metrics := documented(t)
	doc, err := os.ReadFile(docFile)
	if err != nil {
		t.Fatal(err)
	}
	families, err := metrics.Registry().Gather()
	if err != nil {
		t.Fatal(err)
	}
	served := []string{"findep_step_failures_total"} // Appears with the first failure.
	for _, f := range families {
		if strings.HasPrefix(f.GetName(), "findep_") {
			served = append(served, f.GetName())
		}
	}
	named := regexp.MustCompile("`(findep_[a-z0-9_]+)`")
	var documented []string
	for _, m := range named.FindAllStringSubmatch(string(doc), -1) {
		documented = append(documented, m[1])
	}
	slices.Sort(served)
	slices.Sort(documented)
	if diff := cmp.Diff(slices.Compact(documented), slices.Compact(served)); diff != "" {
		t.Errorf("metrics (-documented +served):\n%s", diff)
	}
	for _, list := range []unsupported{unsupportedAlways, unsupportedInCompletions, unsupportedInChats} {
		for field := range list {
			if !strings.Contains(string(doc), "`"+field+"`") {
				t.Errorf("the refused field %s is not documented", field)
			}
		}
	}
}
