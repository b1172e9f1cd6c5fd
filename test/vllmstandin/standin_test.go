// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// commandLine is what a rank is started with, before a test spoils it.
func commandLine(role string, rank, attention, ffn, port int) []string {
	size := map[string]int{"attention": attention, "ffn": ffn}[role]
	args := []string{"serve", "/models/model", "--served-model-name=lite", "--tensor-parallel-size=1", "--enable-expert-parallel",
		fmt.Sprintf("--data-parallel-size=%d", size)}
	if size > 1 {
		args = append(args, "--data-parallel-size-local=1", fmt.Sprintf("--data-parallel-start-rank=%d", rank),
			"--data-parallel-address=127.0.0.1", fmt.Sprintf("--data-parallel-rpc-port=%d", port+100+len(role)))
	}
	if rank > 0 {
		args = append(args, "--headless")
	}
	return append(args, "--enable-dbo", "--ubatch-size=2", fmt.Sprintf(
		`--additional-config={"afd":{"role":%q,"connector":"P2pNcclAFDConnector","host":"127.0.0.1","port":%d,"num_attention_ranks":%d,"num_ffn_ranks":%d,"compute_gate_on_attention":false}}`,
		role, port, attention, ffn))
}

func TestParse(t *testing.T) {
	valid := commandLine("attention", 1, 3, 2, 1239)
	edit := func(old, replacement string) []string {
		return strings.Split(strings.Replace(strings.Join(valid, "\n"), old, replacement, 1), "\n")
	}
	cases := map[string]struct {
		args []string
		want string
	}{
		"valid":                      {valid, ""},
		"no command":                 {valid[1:], "usage"},
		"an unknown argument":        {append(valid[:len(valid):len(valid)], "--tensor-parallel=1"), "not defined"},
		"an unknown field":           {edit(`"port"`, `"ports"`), "unknown field"},
		"a role that does not exist": {edit(`"role":"attention"`, `"role":"Attention"`), "must be attention or ffn"},
		"another connector":          {edit("P2pNccl", "P2pHccl"), "connector"},
		"no gate":                    {edit(`,"compute_gate_on_attention":false`, ""), "compute_gate_on_attention is missing"},
		"trailing text":              {edit("false}}", "false}}{}"), "something follows"},
		"more ffn ranks":             {edit(`"num_ffn_ranks":2`, `"num_ffn_ranks":4`), "is required"},
		"another size of the group":  {edit("--data-parallel-size=3", "--data-parallel-size=2"), "has 3 ranks"},
		"a rank beyond":              {edit("start-rank=1", "start-rank=3"), "start-rank 3 of 3"},
		"not headless":               {edit("--headless", "--enforce-eager"), "--headless is for"},
		"three micro-batches":        {edit("ubatch-size=2", "ubatch-size=3"), "exactly two"},
		"no address":                 {edit("--data-parallel-address=127.0.0.1", "--enforce-eager"), "several ranks need"},
		"no name":                    {edit("--served-model-name=lite", "--enforce-eager"), "--served-model-name"},
		"the older plugin's ratio":   {append(valid[:len(valid):len(valid)], "--standin-plugin=0.26"), "must be a multiple"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			_, err := parse(tc.args)
			if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
}

func TestWorldRanks(t *testing.T) {
	for _, want := range []struct {
		role        string
		rank, world int
	}{{"ffn", 0, 0}, {"ffn", 1, 1}, {"attention", 0, 2}, {"attention", 2, 4}} {
		c, err := parse(commandLine(want.role, want.rank, 3, 2, 1239))
		if err != nil {
			t.Fatal(err)
		}
		if c.worldRank() != want.world || c.worldSize() != 5 {
			t.Errorf("%s %d: world rank %d of %d, want %d of 5", want.role, want.rank, c.worldRank(), c.worldSize(), want.world)
		}
	}
}

// freePorts is the first of the ports that a world listens on, all free and below
// those that the kernel gives to connections, which other tests make meanwhile.
func freePorts(t *testing.T) int {
	t.Helper()
	for range 100 {
		first := 20000 + rand.IntN(12000)
		if free(first, 10) && free(first+100, 10) {
			return first
		}
	}
	t.Fatal("no free ports between 20000 and 32000")
	return 0
}

func free(first, n int) bool {
	for port := first; port < first+n; port++ {
		l, err := net.Listen("tcp", fmt.Sprintf(":%d", port))
		if err != nil {
			return false
		}
		_ = l.Close()
	}
	return true
}

// start starts a rank as run does, without the API server, and sends how it ended
// joining.
func start(ctx context.Context, t *testing.T, args []string) (joined chan error, lost <-chan struct{}, leave func()) {
	t.Helper()
	c, err := parse(args)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	w, err := listen(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	joined = make(chan error, 1)
	conns := make(chan net.Conn, 1)
	go w.admit(ctx, cancel)
	go func() {
		conn, err := w.join(ctx)
		if err == nil {
			conns <- conn
		}
		joined <- err
	}()
	leave = func() {
		cancel(context.Canceled)
		w.close()
		select {
		case conn := <-conns:
			_ = conn.Close()
		default:
		}
	}
	t.Cleanup(leave)
	return joined, ctx.Done(), leave
}

// TestWorldFormsWhenTheLastRankComes: not earlier, and for all at once; and ends
// for the first rank when another one goes.
func TestWorldFormsWhenTheLastRankComes(t *testing.T) {
	t.Setenv("VLLM_HOST_IP", "127.0.0.1")
	for name, tc := range map[string]struct {
		attention, ffn int
		plugin         string
	}{"older plugin": {2, 1, "0.26"}, "newer plugin": {3, 2, "0.30"}} {
		t.Run(name, func(t *testing.T) {
			port := freePorts(t)
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			rank := func(role string, n int) (chan error, <-chan struct{}, func()) {
				return start(ctx, t, append(commandLine(role, n, tc.attention, tc.ffn, port), "--standin-plugin="+tc.plugin))
			}
			var waiting []chan error
			first, lost, _ := rank("ffn", 0)
			waiting = append(waiting, first)
			for n := 1; n < tc.ffn; n++ {
				joined, _, _ := rank("ffn", n)
				waiting = append(waiting, joined)
			}
			for n := range tc.attention - 1 {
				joined, _, _ := rank("attention", n)
				waiting = append(waiting, joined)
			}
			for _, joined := range waiting {
				select {
				case err := <-joined:
					t.Fatalf("a rank did not wait for the last one: %v", err)
				case <-time.After(10 * time.Millisecond):
				}
			}
			last, _, leave := rank("attention", tc.attention-1)
			for _, joined := range append(waiting, last) {
				if err := <-joined; err != nil {
					t.Fatal(err)
				}
			}
			leave()
			<-lost
		})
	}
}

// TestRankStopsWhileItWaits: told to stop, it does not sit out its pod's grace.
func TestRankStopsWhileItWaits(t *testing.T) {
	t.Setenv("VLLM_HOST_IP", "127.0.0.1")
	port := freePorts(t)
	start(t.Context(), t, commandLine("ffn", 0, 2, 1, port))
	waiting, _, leave := start(t.Context(), t, commandLine("attention", 0, 2, 1, port))
	time.Sleep(50 * time.Millisecond)
	leave()
	if err := <-waiting; err == nil {
		t.Error("it joined a world that lacks a rank")
	}
}

func TestFirstRankRefuses(t *testing.T) {
	t.Setenv("VLLM_HOST_IP", "127.0.0.1")
	port := freePorts(t)
	start(t.Context(), t, commandLine("ffn", 0, 2, 1, port))
	start(t.Context(), t, commandLine("attention", 0, 2, 1, port))
	other, _, _ := start(t.Context(), t, append(commandLine("attention", 1, 2, 1, port), "--dbo-decode-token-threshold=7"))
	if err := <-other; err == nil || !strings.Contains(err.Error(), "was started with") {
		t.Errorf("a rank that was started otherwise: %v", err)
	}
}

func TestHandler(t *testing.T) {
	c, err := parse(commandLine("attention", 0, 2, 1, 1239))
	if err != nil {
		t.Fatal(err)
	}
	formed := make(chan struct{})
	ask := func(method, path, body string) *httptest.ResponseRecorder {
		r := httptest.NewRecorder()
		handler(c, formed).ServeHTTP(r, httptest.NewRequest(method, path, strings.NewReader(body)))
		return r
	}
	if got := ask("GET", "/health", "").Code; got != http.StatusServiceUnavailable {
		t.Errorf("/health before all ranks are there: %d", got)
	}
	close(formed)
	if got := ask("GET", "/health", "").Code; got != http.StatusOK {
		t.Errorf("/health: %d", got)
	}
	if got := ask("POST", "/v1/completions", `{"model":"other"}`).Code; got != http.StatusNotFound {
		t.Errorf("another model: %d", got)
	}
	if got := ask("POST", "/v1/completions", `{"model":"lite"}`); got.Code != http.StatusOK || !strings.Contains(got.Body.String(), answer) {
		t.Errorf("a completion: %d %s", got.Code, got.Body)
	}
}
