// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/findep/findep-operator/runtime/plan"
	"github.com/findep/findep-operator/runtime/serving/servingtest"
	"github.com/findep/findep-operator/runtime/tokenizer"
)

const tinyModel = "../../test/testdata/tinymodel"

// patience bounds every wait of these tests; nothing depends on its length.
const patience = 60 * time.Second

// listening finds the address in the log.
var listening = regexp.MustCompile(`"address":"([^"]+)"`)

// instance is the configuration of one attention and one expert rank.
func instance(model string) *plan.Instance {
	return &plan.Instance{
		Namespace: "ns", Deployment: "moe", AttentionRanks: 1, ExpertRanks: 1, Hosts: []string{"moe-0", "moe-1"},
		Model:    plan.ModelRef{Name: "tiny", Path: model, MaxContextTokens: 256},
		Schedule: plan.Schedule{Policy: plan.FinDEP, Order: plan.OrderAuto, Chunks: "Auto", Resolve: "Online"},
	}
}

func configDir(t *testing.T, in *plan.Instance) string {
	t.Helper()
	dir := t.TempDir()
	b, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, plan.InstanceFile), b, 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

// process is a server running as the command does.
type process struct {
	t    *testing.T
	log  *syncBuffer
	stop context.CancelFunc
	done chan error
}

type syncBuffer struct {
	sync.Mutex
	bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.Lock()
	defer b.Unlock()
	return b.Buffer.Write(p)
}

func (b *syncBuffer) text() string {
	b.Lock()
	defer b.Unlock()
	return b.String()
}

func launch(t *testing.T, args ...string) *process {
	t.Helper()
	p := &process{t: t, log: &syncBuffer{}, done: make(chan error, 1)}
	var ctx context.Context
	ctx, p.stop = context.WithCancel(context.Background())
	cmd := command(slog.New(slog.NewJSONHandler(p.log, nil)))
	cmd.SetArgs(append(args, "--listen", "127.0.0.1:0"))
	cmd.SetOut(io.Discard)
	cmd.SetErr(io.Discard)
	go func() { p.done <- cmd.ExecuteContext(ctx) }()
	t.Cleanup(p.stop)
	return p
}

// until polls for a condition that is bound to come about.
func (p *process) until(what string, condition func() bool) {
	p.t.Helper()
	for deadline := time.Now().Add(patience); !condition(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			p.t.Fatalf("waited in vain for %s; log: %s", what, p.log.text())
		}
	}
}

// url is that of a path. The port is the kernel's choice, which the log tells.
func (p *process) url(path string) string {
	p.t.Helper()
	var address string
	p.until("the address", func() bool {
		if m := listening.FindStringSubmatch(p.log.text()); m != nil {
			address = m[1]
		}
		return address != ""
	})
	return "http://" + address + path
}

// get polls a path until it has the status.
func (p *process) get(path string, status int) string {
	p.t.Helper()
	var text string
	p.until(fmt.Sprint(path, " to have status ", status), func() bool {
		r, err := http.Get(p.url(path))
		if err != nil {
			return false
		}
		b, _ := io.ReadAll(r.Body)
		_ = r.Body.Close()
		text = string(b)
		return r.StatusCode == status
	})
	return text
}

func (p *process) complete(prompt string) (text string, status int) {
	p.t.Helper()
	b, err := json.Marshal(map[string]any{"model": "tiny", "prompt": prompt, "temperature": 0, "max_tokens": 30})
	if err != nil {
		p.t.Fatal(err)
	}
	r, err := http.Post(p.url("/v1/completions"), "application/json", bytes.NewReader(b))
	if err != nil {
		return err.Error(), 0
	}
	defer func() { _ = r.Body.Close() }()
	var c struct{ Choices []struct{ Text string } }
	if err := json.NewDecoder(r.Body).Decode(&c); err != nil || len(c.Choices) != 1 {
		return "", r.StatusCode
	}
	return c.Choices[0].Text, r.StatusCode
}

func fake(t *testing.T) (*servingtest.Engine, func(prompt string) string) {
	t.Helper()
	tok, err := tokenizer.Load(tinyModel)
	if err != nil {
		t.Fatal(err)
	}
	e := servingtest.New()
	e.Vocabulary = tok.VocabSize()
	t.Cleanup(func() {
		for _, p := range e.Problems() {
			t.Error(p)
		}
	})
	return e, func(prompt string) string {
		ids, err := tok.Encode(prompt)
		if err != nil {
			t.Fatal(err)
		}
		return tok.Decode(e.Generate(ids, nil, 30, nil))
	}
}

func TestLeaderServesAndDrains(t *testing.T) {
	e, expect := fake(t)
	hold := make(chan struct{})
	var once sync.Once
	started := make(chan struct{})
	e.OnStep = func(*servingtest.StepRequest) { once.Do(func() { close(started) }); <-hold }
	socket, _ := servingtest.ServeSocket(t, e)
	p := launch(t, "--config-dir", configDir(t, instance(tinyModel)), "--socket", socket)
	p.get("/readyz", http.StatusOK)
	answer := make(chan string)
	go func() { text, _ := p.complete("In the beginning"); answer <- text }()
	<-started
	p.stop()
	p.until("the drain to begin", func() bool { return strings.Contains(p.log.text(), `"draining"`) })
	// Others are told when to come back, as long as the accepted one runs.
	refusal, err := http.Post(p.url("/v1/completions"), "application/json", strings.NewReader(`{"model":"tiny","prompt":"And"}`))
	if err != nil {
		t.Fatal(err)
	}
	_ = refusal.Body.Close()
	if refusal.StatusCode != http.StatusServiceUnavailable || refusal.Header.Get("Retry-After") == "" {
		t.Errorf("while draining: status %d, Retry-After %q", refusal.StatusCode, refusal.Header.Get("Retry-After"))
	}
	p.get("/readyz", http.StatusServiceUnavailable)
	p.until("the sidecar to be told", func() bool { return e.Report().GetDraining() })
	close(hold)
	if got, want := <-answer, expect("In the beginning"); got != want {
		t.Errorf("the accepted request got %q, want %q", got, want)
	}
	if err := <-p.done; err != nil {
		t.Error(err)
	}
	if !strings.Contains(p.log.text(), `"drained"`) {
		t.Errorf("log: %s", p.log.text())
	}
}

// TestDrainThatTakesTooLongTellsItsClients: the connection ends with words.
func TestDrainThatTakesTooLongTellsItsClients(t *testing.T) {
	e, _ := fake(t)
	hold := make(chan struct{})
	defer close(hold)
	var once sync.Once
	started := make(chan struct{})
	e.OnStep = func(*servingtest.StepRequest) { once.Do(func() { close(started) }); <-hold }
	socket, _ := servingtest.ServeSocket(t, e)
	p := launch(t, "--config-dir", configDir(t, instance(tinyModel)), "--socket", socket, "--drain-timeout", "50ms")
	p.get("/readyz", http.StatusOK)
	answer := make(chan string)
	go func() {
		r, err := http.Post(p.url("/v1/completions"), "application/json", strings.NewReader(`{"model":"tiny","prompt":"And","stream":true}`))
		if err != nil {
			answer <- err.Error()
			return
		}
		defer func() { _ = r.Body.Close() }()
		b, err := io.ReadAll(r.Body)
		answer <- fmt.Sprint(string(b), err)
	}()
	<-started
	p.stop()
	if got := <-answer; !strings.Contains(got, "send the request again") {
		t.Errorf("the client got %q", got)
	}
	if err := <-p.done; err != nil {
		t.Error(err)
	}
	if !strings.Contains(p.log.text(), "accepted requests were not done") {
		t.Errorf("log: %s", p.log.text())
	}
}

// TestLeaderOutlivesItsSidecar: the socket may come late, and the sidecar may
// restart with another epoch; a request accepted before that is answered.
func TestLeaderOutlivesItsSidecar(t *testing.T) {
	e, expect := fake(t)
	dir := t.TempDir()
	socket := filepath.Join(dir, "engine.sock")
	p := launch(t, "--config-dir", configDir(t, instance(tinyModel)), "--socket", socket)
	if text := p.get("/readyz", http.StatusServiceUnavailable); !strings.Contains(text, "sidecar") {
		t.Errorf("readyz says %q", text)
	}
	p.get("/healthz", http.StatusOK)
	if _, status := p.complete("too early"); status != http.StatusServiceUnavailable {
		t.Errorf("status %d before the sidecar is there", status)
	}
	first := servingtest.ServeAt(t, socket, e)
	p.get("/readyz", http.StatusOK)
	started := make(chan struct{})
	release := make(chan struct{})
	var once sync.Once
	e.OnStep = func(*servingtest.StepRequest) { once.Do(func() { close(started) }); <-release }
	answer := make(chan string)
	go func() { text, _ := p.complete("In the beginning"); answer <- text }()
	<-started
	go first() // Waits for the step, which is held.
	close(release)
	e.Break(nil)
	servingtest.ServeAt(t, socket, e)
	if got, want := <-answer, expect("In the beginning"); got != want {
		t.Errorf("after the restart: %q, want %q", got, want)
	}
}

// TestOtherRanksAnswerProbesOnly: operators before 0.2 start a server for them too.
func TestOtherRanksAnswerProbesOnly(t *testing.T) {
	p := launch(t, "--config-dir", t.TempDir(), "--rank", "1")
	p.get("/healthz", http.StatusOK)
	p.get("/readyz", http.StatusOK)
	p.get("/v1/models", http.StatusNotFound)
	p.stop()
	if err := <-p.done; err != nil {
		t.Error(err)
	}
}

func TestStartErrors(t *testing.T) {
	valid := configDir(t, instance(tinyModel))
	noTokenizer := configDir(t, instance(t.TempDir()))
	broken := t.TempDir()
	if err := os.WriteFile(filepath.Join(broken, plan.InstanceFile), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	tests := map[string]struct {
		args []string
		want string
	}{
		"no configuration":     {[]string{"--config-dir", t.TempDir()}, "instance configuration"},
		"broken configuration": {[]string{"--config-dir", broken}, "instance configuration"},
		"no queue":             {[]string{"--config-dir", valid, "--max-queue", "0"}, "--max-queue is 0"},
		"no tokenizer":         {[]string{"--config-dir", noTokenizer}, "no tokenizer.json"},
		"unknown argument":     {[]string{"--config-dir", valid, "now"}, "unknown command"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			p := launch(t, tt.args...)
			if err := <-p.done; err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want one with %q", err, tt.want)
			}
		})
	}
}
