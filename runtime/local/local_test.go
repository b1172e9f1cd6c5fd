// SPDX-License-Identifier: Apache-2.0

package local_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/spf13/pflag"

	"github.com/findep/findep-operator/runtime/agent"
	"github.com/findep/findep-operator/runtime/agent/agentpb"
	"github.com/findep/findep-operator/runtime/backend"
	"github.com/findep/findep-operator/runtime/identity"
	"github.com/findep/findep-operator/runtime/local"
	"github.com/findep/findep-operator/runtime/plan"
	"github.com/findep/findep-operator/runtime/rendezvous"
	"github.com/findep/findep-operator/runtime/serving"
)

const (
	tinyModel  = "../../test/testdata/tinymodel"
	references = "../../test/testdata/reference/prompts.json"
	within     = 60 * time.Second
	// patience is for how long a rank of a busy machine may be silent where a
	// test is not about that; a process that ends is noticed at once.
	patience = "20s"
)

// TestMain lets the test binary be a rank.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "rank" {
		rankMain(os.Args[2:])
		return
	}
	os.Exit(m.Run())
}

func rankMain(args []string) {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	var o agent.Options
	flags := pflag.NewFlagSet("rank", pflag.ExitOnError)
	o.AddFlags(flags)
	_ = flags.Parse(args)
	if err := agent.Run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, err)
		stop()
		os.Exit(1)
	}
}

// buffer is a log that several processes write.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func backendName() string {
	if dev, err := backend.Open("cpu", backend.Options{}); err == nil {
		_ = dev.Close()
		return "cpu"
	}
	return "reference"
}

func start(t *testing.T, attention, expert int, extra ...string) (*local.Instance, *serving.Client) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	log := &buffer{}
	in, err := local.Start(t.Context(), local.Options{
		ModelDir: tinyModel, Attention: attention, Expert: expert, MaxContextTokens: 512,
		Schedule: plan.Schedule{Policy: plan.FinDEP, Order: plan.OrderAuto, Chunks: "Off", Resolve: "Online"},
		Command:  []string{self, "rank"}, ExtraArgs: append([]string{"--backend", backendName(), "--heartbeat-timeout", patience}, extra...), Log: log,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Stop()
		if t.Failed() {
			t.Log(log.String())
		}
	})
	client, err := serving.Dial(in.Socket(0))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	return in, client
}

// ready waits for an epoch above the given one that takes steps.
func ready(t *testing.T, client *serving.Client, above uint64) uint64 {
	t.Helper()
	var last *agentpb.DescribeResponse
	for deadline := time.Now().Add(within); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		d, err := client.Describe(t.Context())
		if err == nil && d.Ready && d.Epoch > above {
			return d.Epoch
		}
		last = d
	}
	t.Fatalf("no epoch above %d within %v: %v", above, within, last)
	return 0
}

type prompt struct {
	ID           string  `json:"id"`
	PromptTokens []int32 `json:"promptTokens"`
	GreedyTokens []int32 `json:"greedyTokens"`
}

func prompts(t *testing.T) []prompt {
	t.Helper()
	b, err := os.ReadFile(references)
	if err != nil {
		t.Fatal(err)
	}
	var all []prompt
	if err := json.Unmarshal(b, &all); err != nil {
		t.Fatal(err)
	}
	return all
}

// generate continues several prompts together, spread over the attention ranks.
// It returns the plans of all steps.
func generate(t *testing.T, client *serving.Client, epoch uint64, ranks int, all []prompt) []*agentpb.PlanInUse {
	t.Helper()
	got := make([][]int32, len(all))
	var plans []*agentpb.PlanInUse
	for step := 0; ; step++ {
		req := &agentpb.StepRequest{Epoch: epoch}
		var from []int
		for i, p := range all {
			if step >= len(p.GreedyTokens) {
				continue
			}
			piece := &agentpb.Piece{Sequence: uint64(i), AttentionRank: uint32(i % ranks), Tokens: p.PromptTokens, Logits: agentpb.LogitsMode_LOGITS_LAST}
			if step > 0 {
				piece.Start = uint32(len(p.PromptTokens) + step - 1)
				piece.Tokens = []int32{got[i][step-1]}
			}
			req.Pieces, from = append(req.Pieces, piece), append(from, i)
		}
		if len(from) == 0 {
			break
		}
		r, err := client.Step(t.Context(), req)
		if err != nil {
			t.Fatalf("step %d: %v", step, err)
		}
		plans = append(plans, r.Plan)
		for k, i := range from {
			got[i] = append(got[i], r.Results[k].Token)
		}
	}
	for i, p := range all {
		if !slices.Equal(got[i], p.GreedyTokens) {
			t.Errorf("prompt %s: got %v, transformers has %v", p.ID, got[i], p.GreedyTokens)
		}
	}
	release := &agentpb.StepRequest{Epoch: epoch}
	for i := range all {
		release.Release = append(release.Release, uint64(i))
	}
	if _, err := client.Step(t.Context(), release); err != nil {
		t.Fatalf("release: %v", err)
	}
	return plans
}

// TestInstanceOutlivesItsRanks: a killed expert rank, a killed attention rank
// and a killed leader; each time the next epoch gives the same tokens.
func TestInstanceOutlivesItsRanks(t *testing.T) {
	in, client := start(t, 2, 2)
	all := prompts(t)[:6]
	epoch := ready(t, client, 0)
	generate(t, client, epoch, 2, all)
	for _, victim := range []int{3, 1, 0} {
		if err := in.Process(victim).Signal(syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		if err := in.StartRank(t.Context(), victim); err != nil {
			t.Fatal(err)
		}
		next := ready(t, client, epoch)
		t.Logf("rank %d was killed in epoch %d; epoch %d serves", victim, epoch, next)
		for rank := range 4 {
			if n := metric(t, in, rank, "findep_weight_loads_total"); n != "1" {
				t.Errorf("rank %d has loaded its weights %s times", rank, n)
			}
		}
		epoch = next
		generate(t, client, epoch, 2, all)
	}
	// The new leader did not measure: the other ranks have kept what it needs.
	if log := in.Log(); strings.Count(log, `"stages measured"`) != 1 || strings.Count(log, `"stages taken over from the leader before"`) != 1 {
		t.Errorf("the stages were measured %d times and taken over %d times", strings.Count(log, `"stages measured"`), strings.Count(log, `"stages taken over`))
	}
	_, err := client.Step(t.Context(), &agentpb.StepRequest{Epoch: epoch - 1})
	if err == nil || !strings.Contains(err.Error(), "the instance is in epoch") {
		t.Errorf("a step of the epoch before gave %v", err)
	}
}

// TestRestartedServerBeginsAnew: a server that was restarted in the same epoch
// numbers its sequences from the start, and the KV of the one before is freed.
func TestRestartedServerBeginsAnew(t *testing.T) {
	_, client := start(t, 1, 1)
	epoch := ready(t, client, 0)
	p := prompts(t)[5]
	step := func(session uint64) (*agentpb.StepResponse, error) {
		return client.Step(t.Context(), &agentpb.StepRequest{Epoch: epoch, Session: session, Pieces: []*agentpb.Piece{
			{Sequence: 1, Tokens: p.PromptTokens, Logits: agentpb.LogitsMode_LOGITS_LAST},
		}})
	}
	for _, session := range []uint64{7, 8} {
		r, err := step(session)
		if err != nil {
			t.Fatalf("session %d: %v", session, err)
		}
		if got := r.Results[0].Token; got != p.GreedyTokens[0] {
			t.Errorf("session %d: token %d, want %d", session, got, p.GreedyTokens[0])
		}
	}
	if _, err := step(8); err == nil || !strings.Contains(err.Error(), "starts at position 0") {
		t.Errorf("the same server again: %v", err)
	}
}

// TestWedgedRankIsNotReady: a stopped process keeps its connections, and must
// still cost everyone the epoch.
func TestWedgedRankIsNotReady(t *testing.T) {
	in, client := start(t, 1, 2, "--heartbeat-timeout", rendezvous.DefaultHeartbeatTimeout.String())
	epoch := ready(t, client, 0)
	if err := in.Process(2).Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(within)
	for readyz(t, in, 1) == http.StatusOK {
		if time.Now().After(deadline) {
			t.Fatalf("rank 1 is Ready %v after rank 2 was stopped", within)
		}
		time.Sleep(20 * time.Millisecond)
	}
	if err := in.Process(2).Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	generate(t, client, ready(t, client, epoch), 1, prompts(t)[:2])
}

// metric is the value of a series of one rank, as text.
func metric(t *testing.T, in *local.Instance, rank int, name string) string {
	t.Helper()
	r, err := http.Get(fmt.Sprintf("http://%s/metrics", net.JoinHostPort(local.Host, fmt.Sprint(in.Config.Ports[rank].Metrics))))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Body.Close() }()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if strings.HasPrefix(line, name+"{") || strings.HasPrefix(line, name+" ") {
			return strings.Fields(line)[1]
		}
	}
	return "absent"
}

func readyz(t *testing.T, in *local.Instance, rank int) int {
	t.Helper()
	r, err := http.Get(fmt.Sprintf("http://%s/readyz", net.JoinHostPort(local.Host, fmt.Sprint(in.Config.Ports[rank].Metrics))))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Body.Close() }()
	_, _ = io.Copy(io.Discard, r.Body)
	return r.StatusCode
}

// TestPolicyChangesWithoutRestart: the file changes, the next steps follow.
func TestPolicyChangesWithoutRestart(t *testing.T) {
	in, client := start(t, 2, 2)
	epoch := ready(t, client, 0)
	all := prompts(t)[:6]
	pipelined := plan.Plan{Policy: plan.FinDEP, MicroBatchSize: 1, R1: 3, R2: 2, Order: plan.AASS, Chunks: 1}
	chunked := plan.Plan{Policy: plan.FinDEP, MicroBatchSize: 2, R1: 2, R2: 2, Order: plan.ASAS, Chunks: 3, ChunkBoundaries: "450,750"}
	for _, s := range []plan.Schedule{
		{Policy: plan.FinDEP, Order: plan.OrderAuto, Chunks: "Auto", Resolve: "Online"},
		{Policy: plan.FinDEP, Order: plan.OrderAuto, Chunks: "Auto", Resolve: "Online", Fixed: &chunked},
		{Policy: plan.PPPipe, Order: plan.OrderAuto, Chunks: "Off", Resolve: "Online"},
		{Policy: plan.Sequential, Order: plan.OrderAuto, Chunks: "Off", Resolve: "AtStart"},
		{Policy: plan.FinDEP, Order: plan.OrderAuto, Chunks: "Off", Resolve: "Online", Fixed: &pipelined},
	} {
		in.Config.Schedule = s
		if err := in.WriteConfig(); err != nil {
			t.Fatal(err)
		}
		hash, err := in.Config.ScheduleHash()
		if err != nil {
			t.Fatal(err)
		}
		awaitSchedule(t, in, hash)
		for i, p := range generate(t, client, epoch, 2, all) {
			if p.Policy != string(s.Policy) {
				t.Fatalf("step %d ran %v, want %+v", i, p, s)
			}
			if f := s.Fixed; f != nil && (int(p.R1) != f.R1 || int(p.R2) != f.R2 || p.Order != string(f.Order) ||
				int(p.Chunks) != f.Chunks || p.ChunkBoundaries != string(f.ChunkBoundaries)) {
				t.Fatalf("step %d ran %v, want %+v", i, p, f)
			}
		}
	}
	if o := observe(t, in, nil); o.Epoch != epoch || o.Prefill == nil || o.Decode == nil || o.Steps == 0 || !o.Formed {
		t.Errorf("observation %+v", o)
	}
}

func awaitSchedule(t *testing.T, in *local.Instance, hash string) {
	t.Helper()
	deadline := time.Now().Add(within)
	for observe(t, in, nil).ScheduleHash != hash {
		if time.Now().After(deadline) {
			t.Fatalf("schedule %s is not in use after %v", hash, within)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// observe reads the leader as the operator does; bundle nil means with the
// instance's own certificate.
func observe(t *testing.T, in *local.Instance, bundle *identity.Bundle) *plan.Observation {
	t.Helper()
	o, err := tryObserve(t, in, bundle)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func tryObserve(t *testing.T, in *local.Instance, bundle *identity.Bundle) (*plan.Observation, error) {
	t.Helper()
	var source identity.Source
	var err error
	if bundle != nil {
		source, err = identity.Bytes(bundle)
	} else {
		source, err = identity.NewDirectory(in.TLSDir(), nil)
	}
	if err != nil {
		t.Fatal(err)
	}
	var config *tls.Config
	if config, err = identity.ClientTLS(identity.Config{Source: source, Peers: []string{in.Config.Identity()}}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	return rendezvous.Observe(ctx, net.JoinHostPort(local.Host, fmt.Sprint(in.Config.Ports[0].Control)), config)
}

// TestStrangersAreRefusedAndCounted: a certificate of another authority gets
// nothing, and the leader says that somebody tried.
func TestStrangersAreRefusedAndCounted(t *testing.T) {
	in, client := start(t, 1, 1)
	ready(t, client, 0)
	now := time.Now()
	ca, err := identity.NewCA(now, rand.Reader, "stranger")
	if err != nil {
		t.Fatal(err)
	}
	bundle, err := ca.Issue(now, in.Config.Identity(), []string{local.Host}, "instance", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	own, err := os.ReadFile(filepath.Join(in.TLSDir(), "ca.crt"))
	if err != nil {
		t.Fatal(err)
	}
	bundle.CA = own
	if o, err := tryObserve(t, in, bundle); err == nil {
		t.Fatalf("a stranger was told %+v", o)
	}
	if refused := observe(t, in, nil).Refused["certificate"]; refused == 0 {
		t.Error("the refusal was not counted")
	}
}

func TestStartNamesWhatIsWrong(t *testing.T) {
	for name, o := range map[string]local.Options{
		"config.json":         {ModelDir: t.TempDir(), Attention: 1, Expert: 1, MaxContextTokens: 8},
		"attentionRanks is 0": {ModelDir: tinyModel, Expert: 1, MaxContextTokens: 8},
	} {
		t.Run(name, func(t *testing.T) {
			o.Schedule = plan.Schedule{Policy: plan.FinDEP, Order: plan.OrderAuto, Chunks: "Off", Resolve: "Online"}
			if in, err := local.Start(t.Context(), o); err == nil || !strings.Contains(err.Error(), name) {
				in.Stop()
				t.Errorf("got %v", err)
			}
		})
	}
}
