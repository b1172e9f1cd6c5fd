// SPDX-License-Identifier: Apache-2.0

package executor_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/findep/findep-operator/runtime/backend"
	"github.com/findep/findep-operator/runtime/backend/reference"
	"github.com/findep/findep-operator/runtime/executor"
	"github.com/findep/findep-operator/runtime/executor/harness"
	"github.com/findep/findep-operator/runtime/kvcache"
	"github.com/findep/findep-operator/runtime/plan"
	"github.com/findep/findep-operator/runtime/sampling"
	"github.com/findep/findep-operator/runtime/transport"
)

// hookedMesh calls send before every message that this rank sends; number
// counts them from 0.
type hookedMesh struct {
	transport.Mesh
	number atomic.Int64
	send   func(number int64, h *transport.Header, parts *[][]byte) error
}

func (m *hookedMesh) To(peer int) (transport.Link, error) {
	l, err := m.Mesh.To(peer)
	return hookedLink{l, m}, err
}

type hookedLink struct {
	transport.Link
	mesh *hookedMesh
}

func (l hookedLink) Send(h transport.Header, parts ...[]byte) error {
	if err := l.mesh.send(l.mesh.number.Add(1)-1, &h, &parts); err != nil {
		return err
	}
	return l.Link.Send(h, parts...)
}

// patience bounds every wait of these tests; nothing depends on its length.
const patience = time.Minute

// within fails the test if f takes longer than any honest run.
func within(t *testing.T, what string, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	select {
	case <-done:
	case <-time.After(patience):
		buffer := make([]byte, 1<<20)
		t.Fatalf("%s does not end:\n%s", what, buffer[:runtime.Stack(buffer, true)])
	}
}

var errRankLost = errors.New("rank lost")

// An abort at any message of any rank ends the step on all ranks, and the same
// ranks then compute the right thing over new meshes.
func TestAbortEndsEveryRankAndLeavesThemUsable(t *testing.T) {
	f := families(t)[0]
	in := instance(t, harness.Config{Shape: f.shape, Checkpoint: f.dir, Attention: 2, Expert: 2, OpenDevice: openReference})
	prompts := randomPrompts(f.shape.VocabSize, 7, 5, 9)
	p := finDEP(1, 2, 2, plan.AASS)
	want, err := in.Generate(t.Context(), prompts, harness.Options{Plan: p})
	if err != nil {
		t.Fatal(err)
	}
	for rank := range 4 {
		for _, at := range []int64{0, 1, 7, 20} {
			name := fmt.Sprintf("rank %d, message %d", rank, at)
			mesh := &hookedMesh{Mesh: in.Meshes[rank]}
			mesh.send = func(n int64, _ *transport.Header, _ *[][]byte) error {
				if n == at {
					mesh.Abort(errRankLost)
				}
				return nil
			}
			in.Meshes[rank] = mesh
			within(t, name, func() {
				_, err := in.Generate(t.Context(), prompts, harness.Options{Plan: p})
				if !errors.Is(err, transport.ErrAborted) || !errors.Is(err, errRankLost) {
					t.Errorf("%s: error %v", name, err)
				}
				for r := range 4 {
					if err != nil && !strings.Contains(err.Error(), fmt.Sprintf("rank %d, step", r)) {
						t.Errorf("%s: rank %d did not fail: %v", name, r, err)
					}
				}
			})
			if err := in.Reset(t.Context()); err != nil {
				t.Fatal(err)
			}
			got, err := in.Generate(t.Context(), prompts, harness.Options{Plan: p})
			if err != nil {
				t.Fatalf("%s: after the reset: %v", name, err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s: after the reset outputs differ:\n%.1000s", name, diff)
			}
		}
	}
}

func TestCancelledContextEndsEveryRank(t *testing.T) {
	f := families(t)[0]
	in := instance(t, harness.Config{Shape: f.shape, Checkpoint: f.dir, Attention: 2, Expert: 1, OpenDevice: openReference})
	ctx, cancel := context.WithCancelCause(t.Context())
	mesh := &hookedMesh{Mesh: in.Meshes[2]}
	mesh.send = func(n int64, _ *transport.Header, _ *[][]byte) error {
		if n == 3 {
			cancel(errRankLost)
		}
		return nil
	}
	in.Meshes[2] = mesh
	within(t, "cancelled step", func() {
		_, err := in.Generate(ctx, randomPrompts(f.shape.VocabSize, 6, 6), harness.Options{Plan: sequential(1)})
		if !errors.Is(err, errRankLost) {
			t.Errorf("error %v", err)
		}
	})
}

// A message that is not what the schedule has next, or that lies about its
// content, ends the step with an error that names what came and what should
// have come.
func TestWrongMessagesAreRefused(t *testing.T) {
	put := func(part int, element int, value int32) func(*transport.Header, *[][]byte) {
		return func(_ *transport.Header, parts *[][]byte) {
			b := append([]byte(nil), (*parts)[part]...)
			if element < 0 {
				element = len(b)/4 + element
			}
			binary.LittleEndian.PutUint32(b[4*element:], uint32(value))
			(*parts)[part] = b
		}
	}
	header := func(f func(*transport.Header)) func(*transport.Header, *[][]byte) {
		return func(h *transport.Header, _ *[][]byte) { f(h) }
	}
	tests := map[string]struct {
		rank   int // 0 is an attention rank, 2 an expert rank
		change func(*transport.Header, *[][]byte)
		want   []string
	}{
		"old step":            {0, header(func(h *transport.Header) { h.Step-- }), []string{"rank 0 sent step 0", "the schedule has step 1"}},
		"other layer":         {0, header(func(h *transport.Header) { h.Layer = 9 }), []string{"layer 9", "layer 0"}},
		"other micro-batch":   {0, header(func(h *transport.Header) { h.MicroBatch = 7 }), []string{"micro-batch 7", "micro-batch 0"}},
		"other segment":       {0, header(func(h *transport.Header) { h.Segment = 5 }), []string{"segment 5", "segment 0"}},
		"too many rows":       {0, header(func(h *transport.Header) { h.Rows = 5000; h.Pairs = 5000 }), []string{"rank 0 sent 5000 rows", "at most 4096"}},
		"more rows than data": {0, header(func(h *transport.Header) { h.Rows++ }), []string{"bytes"}},
		"too many pairs":      {0, header(func(h *transport.Header) { h.Pairs = 1 << 20 }), []string{"1048576 pairs"}},
		"no pairs":            {0, header(func(h *transport.Header) { h.Pairs = 0 }), []string{"with 0 pairs"}},
		"expert out of range": {0, put(2, 0, 4), []string{"pair 0 is for expert 4", "this rank has 4"}},
		"negative expert":     {0, put(2, -1, -1), []string{"expert -1"}},
		"pairs from nowhere":  {0, put(1, 0, 3), []string{"numbered 3 to"}},
		"pairs beyond":        {0, put(1, -1, 1<<30), []string{"to 1073741824"}},
		"pairs backwards":     {0, put(1, 1, 0), []string{"row 0 has the pairs 0 to 0"}},
		"missing part":        {0, func(_ *transport.Header, parts *[][]byte) { *parts = (*parts)[:2] }, []string{"bytes"}},
		"row lost":            {2, header(func(h *transport.Header) { h.Rows-- }), []string{"rank 2 returned", "it was sent"}},
		"payload lost":        {2, func(_ *transport.Header, parts *[][]byte) { *parts = nil }, []string{"0 bytes", "were expected"}},
		"pairs back":          {2, header(func(h *transport.Header) { h.Pairs = 1 }), []string{"1 pairs"}},
		"old step back":       {2, header(func(h *transport.Header) { h.Step = 77 }), []string{"rank 2 sent step 77"}},
	}
	f := families(t)[0]
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			in := instance(t, harness.Config{Shape: f.shape, Checkpoint: f.dir, Attention: 2, Expert: 2, OpenDevice: openReference})
			in.Meshes[tc.rank] = &hookedMesh{Mesh: in.Meshes[tc.rank], send: func(n int64, h *transport.Header, parts *[][]byte) error {
				if n == 0 {
					tc.change(h, parts)
				}
				return nil
			}}
			within(t, name, func() {
				_, err := in.Generate(t.Context(), randomPrompts(f.shape.VocabSize, 30, 30), harness.Options{Plan: finDEP(1, 1, 2, plan.ASAS)})
				if !errors.Is(err, executor.ErrProtocol) {
					t.Fatalf("error %v", err)
				}
				for _, want := range tc.want {
					if !strings.Contains(err.Error(), want) {
						t.Errorf("error %q does not mention %q", err, want)
					}
				}
			})
		})
	}
}

// What is wrong with a step is found before anything runs; every rank ends, and
// the KV cache holds what it held.
func TestInvalidStepsAreRefused(t *testing.T) {
	f := families(t)[1]
	piece := func(tokens ...int32) executor.Piece { return executor.Piece{Sequence: 9, Tokens: tokens} }
	long := make([]int32, 300)
	with := func(p executor.Piece, f func(*executor.Piece)) executor.Piece {
		f(&p)
		return p
	}
	tests := map[string]struct {
		plan   plan.Plan
		pieces []executor.Piece
		want   string
	}{
		"bad plan":           {plan.Plan{}, nil, "policy"},
		"too many tasks":     {finDEP(1, 1024, 256, plan.ASAS), nil, "tasks"},
		"no tokens":          {sequential(1), []executor.Piece{piece()}, "without tokens"},
		"negative token":     {sequential(1), []executor.Piece{piece(1, -1)}, "token -1 at position 1"},
		"token too large":    {sequential(1), []executor.Piece{piece(64)}, "the vocabulary has 64"},
		"gap":                {sequential(1), []executor.Piece{with(piece(1), func(p *executor.Piece) { p.Start = 3 })}, "starts at token 3, but 0"},
		"overlap":            {sequential(1), []executor.Piece{{Sequence: 1, Tokens: []int32{1}}}, "starts at token 0, but 5"},
		"twice from 0":       {sequential(2), []executor.Piece{piece(1), piece(1)}, "starts at token 0, but 1"},
		"beyond the context": {sequential(1), []executor.Piece{piece(long[:257]...)}, "limited to 256"},
		"too many tokens":    {sequential(1), []executor.Piece{piece(long[:150]...), {Sequence: 10, Tokens: long[:151]}}, "which takes 300"},
		"cache full":         {sequential(4), []executor.Piece{piece(long[:240]...)}, kvcache.ErrFull.Error()},
		"bad sampling":       {sequential(1), []executor.Piece{with(piece(1), func(p *executor.Piece) { p.Sampling.Temperature = -1 })}, "temperature"},
		"unknown mode":       {sequential(1), []executor.Piece{with(piece(1), func(p *executor.Piece) { p.Logits = 9 })}, "logits mode 9"},
	}
	in := instance(t, harness.Config{Shape: f.shape, Checkpoint: f.dir, Attention: 1, Expert: 2, OpenDevice: openReference, KVTokens: 240, MaxStepTokens: 300})
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if err := in.Reset(t.Context()); err != nil {
				t.Fatal(err)
			}
			if _, err := in.Run(t.Context(), executor.Step{Plan: sequential(1), Pieces: [][]executor.Piece{{{Sequence: 1, Tokens: []int32{1, 2, 3, 4, 5}}}}}); err != nil {
				t.Fatal(err)
			}
			within(t, name, func() {
				_, err := in.Run(t.Context(), executor.Step{Plan: tc.plan, Pieces: [][]executor.Piece{tc.pieces}})
				if !errors.Is(err, executor.ErrStep) || !strings.Contains(err.Error(), tc.want) {
					t.Errorf("error %q does not mention %q", err, tc.want)
				}
			})
			if got := in.Attention[0].CachedTokens(); got != 5 {
				t.Errorf("the KV cache holds %d tokens, 5 before", got)
			}
		})
	}
	within(t, "pieces for a rank too many", func() {
		_, err := in.Run(t.Context(), executor.Step{Plan: sequential(1), Pieces: make([][]executor.Piece, 2)})
		if !errors.Is(err, executor.ErrStep) {
			t.Errorf("error %v", err)
		}
	})
}

// A device that runs out of memory at any allocation gives an error, never a
// panic, and everything is freed.
func TestDeviceWithoutMemory(t *testing.T) {
	f := families(t)[2]
	open := func(memory int64) func(int) (backend.Device, error) {
		return func(int) (backend.Device, error) { return reference.New(memory), nil }
	}
	failed := 0
	for memory := int64(1000); memory < 4<<20; memory = memory * 5 / 4 {
		in, err := harness.New(harness.Config{Shape: f.shape, Checkpoint: f.dir, Attention: 1, Expert: 1, KVTokens: 512, OpenDevice: open(memory)})
		if err == nil {
			within(t, "step without memory", func() {
				_, err = in.Generate(t.Context(), randomPrompts(f.shape.VocabSize, 200, 100), harness.Options{Plan: finDEP(1, 2, 2, plan.ASAS)})
			})
			in.Close()
		}
		if err != nil {
			failed++
			if !strings.Contains(err.Error(), "cannot allocate") {
				t.Errorf("with %d bytes: %v", memory, err)
			}
		}
	}
	if failed < 10 {
		t.Errorf("only %d sizes were too small", failed)
	}
}

func TestOneStepAtATimeAndNoneAfterClose(t *testing.T) {
	f := families(t)[2]
	before := runtime.NumGoroutine()
	in, err := harness.New(harness.Config{Shape: f.shape, Checkpoint: f.dir, Attention: 1, Expert: 1, OpenDevice: openReference})
	if err != nil {
		t.Fatal(err)
	}
	step := &executor.Step{Plan: sequential(1)}
	first, began := make(chan error, 1), make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	mesh := &hookedMesh{Mesh: in.Meshes[0], send: func(n int64, _ *transport.Header, _ *[][]byte) error {
		if n == 0 {
			close(began)
		}
		return nil
	}}
	// Alone, the attention rank waits for the expert rank's answer.
	go func() { _, err := in.Attention[0].Run(ctx, step, mesh); first <- err }()
	<-began
	if _, err := in.Attention[0].Run(ctx, step, mesh); !errors.Is(err, executor.ErrBusy) {
		t.Errorf("second step: %v", err)
	}
	cancel()
	if err := <-first; !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled step: %v", err)
	}
	in.Close()
	if _, err := in.Expert[0].Run(t.Context(), step, mesh); !errors.Is(err, executor.ErrClosed) {
		t.Errorf("step after close: %v", err)
	}
	for deadline := time.Now().Add(patience); runtime.NumGoroutine() > before; {
		if time.Now().After(deadline) {
			t.Fatalf("%d goroutines before, %d after", before, runtime.NumGoroutine())
		}
		time.Sleep(time.Millisecond)
	}
}

func TestConfigurationErrorsNameTheValue(t *testing.T) {
	f := families(t)[2]
	for name, tc := range map[string]struct {
		c    harness.Config
		want string
	}{
		"more expert ranks than experts": {harness.Config{Attention: 1, Expert: 8}, "8 expert ranks for 7 routed experts"},
		"context beyond the model":       {harness.Config{Attention: 1, Expert: 1, MaxContextTokens: 257}, "257 tokens"},
		"step too large":                 {harness.Config{Attention: 1, Expert: 1, MaxStepTokens: 1 << 30}, "1073741824 tokens"},
		"no KV":                          {harness.Config{Attention: 1, Expert: 1, KVTokens: -32}, "KV cache of -"},
	} {
		t.Run(name, func(t *testing.T) {
			tc.c.Shape, tc.c.Checkpoint, tc.c.OpenDevice = f.shape, f.dir, openReference
			in, err := harness.New(tc.c)
			if err == nil {
				in.Close()
				t.Fatal("accepted")
			}
			if !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %q does not mention %q", err, tc.want)
			}
		})
	}
}

// A sequence that was lost and is computed again from its tokens goes on with
// the same samples.
func TestResumedSequenceSamplesTheSameTokens(t *testing.T) {
	f := families(t)[0]
	in := instance(t, harness.Config{Shape: f.shape, Checkpoint: f.dir, Attention: 1, Expert: 2, OpenDevice: openReference})
	prompt := randomPrompts(f.shape.VocabSize, 8)[0]
	prompt.MaxTokens, prompt.Sampling = 12, sampling.Params{Temperature: 100, Seed: 3}
	all, err := in.Generate(t.Context(), []harness.Prompt{prompt}, harness.Options{Plan: sequential(1)})
	if err != nil {
		t.Fatal(err)
	}
	if distinct := slices.Compact(slices.Sorted(slices.Values(all[0].Tokens))); len(distinct) < 4 {
		t.Errorf("12 nearly uniform samples are %v: the position does not count", all[0].Tokens)
	}
	resumed := prompt
	resumed.Tokens = append(append([]int32(nil), prompt.Tokens...), all[0].Tokens[:5]...)
	resumed.MaxTokens = 7
	rest, err := in.Generate(t.Context(), []harness.Prompt{resumed}, harness.Options{Plan: finDEP(1, 1, 2, plan.ASAS)})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(all[0].Tokens[5:], rest[0].Tokens); diff != "" {
		t.Errorf("resumed tokens differ: %s", diff)
	}
}

// Expert loads count every (token, expert) pair of every layer once.
func TestExpertLoadCountsEveryPair(t *testing.T) {
	for _, f := range families(t) {
		in := instance(t, harness.Config{Shape: f.shape, Checkpoint: f.dir, Attention: 2, Expert: 3, OpenDevice: openReference})
		step := executor.Step{Plan: finDEP(1, 2, 2, plan.AASS), Pieces: make([][]executor.Piece, 2)}
		for i, p := range randomPrompts(f.shape.VocabSize, 11, 6, 3) {
			step.Pieces[i%2] = append(step.Pieces[i%2], executor.Piece{Sequence: p.ID, Tokens: p.Tokens})
		}
		results, err := in.Run(t.Context(), step)
		if err != nil {
			t.Fatal(err)
		}
		pairs := uint64(0)
		for _, r := range results {
			for _, n := range r.ExpertLoad {
				pairs += n
			}
		}
		if want := uint64(20 * f.shape.MoELayers() * f.shape.MoE.ExpertsPerToken); pairs != want {
			t.Errorf("%s: %d pairs, want %d", f.name, pairs, want)
		}
	}
}
