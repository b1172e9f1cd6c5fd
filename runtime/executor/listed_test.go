// SPDX-License-Identifier: Apache-2.0

package executor_test

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/findep/findep-operator/runtime/backend"
	"github.com/findep/findep-operator/runtime/backend/recorder"
	"github.com/findep/findep-operator/runtime/backend/tasklist"
	"github.com/findep/findep-operator/runtime/executor"
	"github.com/findep/findep-operator/runtime/executor/harness"
	"github.com/findep/findep-operator/runtime/plan"
)

// errCaptured ends a step whose list was captured.
var errCaptured = errors.New("captured")

// capture is a pipeline that keeps the last list, or fails.
type capture struct {
	list      []byte
	run, wait error
	cancelled chan struct{}
}

func (c *capture) Run(list []byte, _ []backend.Buffer) error {
	c.list = bytes.Clone(list)
	return c.run
}

func (c *capture) Wait(time.Duration) error {
	if c.wait == nil {
		<-c.cancelled
		return backend.ErrCancelled
	}
	return c.wait
}

func (*capture) Times([]backend.TaskTime) error { return nil }

func (c *capture) Cancel() {
	select {
	case c.cancelled <- struct{}{}:
	default:
	}
}

func (*capture) Close() {}

// captured gives every rank a pipeline that captures.
func captured(in *harness.Instance) []*capture {
	var all []*capture
	for rank := range in.Meshes {
		c := &capture{wait: errCaptured, cancelled: make(chan struct{}, 1)}
		in.Meshes[rank] = executor.NewPipelined(in.Meshes[rank], c)
		all = append(all, c)
	}
	return all
}

// lists are what the ranks write down for a step.
func lists(t *testing.T, in *harness.Instance, step executor.Step) [][]byte {
	t.Helper()
	if err := in.Reset(t.Context()); err != nil {
		t.Fatal(err)
	}
	pipelines := captured(in)
	if _, err := in.Run(t.Context(), step); !errors.Is(err, errCaptured) {
		t.Fatalf("plan %s: %v", step.Plan, err)
	}
	var all [][]byte
	for rank, p := range pipelines {
		if p.list == nil {
			t.Fatalf("plan %s: rank %d has no list", step.Plan, rank)
		}
		all = append(all, p.list)
	}
	return all
}

// randomStep has a random plan and random pieces for every attention rank, some
// of which have none.
func randomStep(r *rand.Rand, ag, vocabulary int) executor.Step {
	p := finDEP(1+r.IntN(3), 1+r.IntN(3), 1+r.IntN(3), []plan.Order{plan.ASAS, plan.AASS}[r.IntN(2)])
	p.Chunks = 1 + r.IntN(2)
	switch r.IntN(4) {
	case 0:
		p = pppipe(p.MicroBatchSize, p.R1)
	case 1:
		p = sequential(p.MicroBatchSize)
	}
	step := executor.Step{Plan: p, Pieces: make([][]executor.Piece, ag)}
	id := uint64(1)
	for a := range step.Pieces {
		for range r.IntN(5) {
			piece := executor.Piece{Sequence: id, Tokens: make([]int32, 1+r.IntN(7)), Logits: executor.LogitsLast}
			for i := range piece.Tokens {
				piece.Tokens[i] = int32(r.IntN(vocabulary))
			}
			step.Pieces[a] = append(step.Pieces[a], piece)
			id++
		}
	}
	return step
}

// The lists that ranks write for real models are run by the native pipeline in
// the schedule's order, without a deadlock and without a race; their transfers
// fit each other for every batch.
func TestRanksWriteListsThatFitTogether(t *testing.T) {
	p, err := recorder.Start()
	if errors.Is(err, recorder.ErrNotBuilt) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	}()
	steps := 40
	if testing.Short() {
		steps = 8
	}
	for i, f := range families(t) {
		split := [][2]int{{2, 2}, {1, 3}, {3, 1}}[i]
		in := instance(t, harness.Config{Shape: f.shape, Checkpoint: f.dir, Attention: split[0], Expert: split[1], OpenDevice: openReference})
		for seed := range steps {
			step := randomStep(rand.New(rand.NewPCG(6, uint64(seed))), split[0], f.shape.VocabSize)
			if _, err := p.Check(lists(t, in, step)); err != nil {
				t.Fatalf("%s, split %s, seed %d, plan %s: %v", f.name, splitName(split[0], split[1]), seed, step.Plan, err)
			}
		}
	}
}

// A list does not change while only contexts grow, so that its graph is used
// again; another batch, another plan and a prompt make others.
func TestDecodeStepsKeepTheirList(t *testing.T) {
	f := families(t)[0]
	in := instance(t, harness.Config{Shape: f.shape, Checkpoint: f.dir, Attention: 1, Expert: 2, OpenDevice: openReference})
	prompt := executor.Step{Plan: sequential(8), Pieces: [][]executor.Piece{{{Sequence: 1, Tokens: make([]int32, 40)}, {Sequence: 2, Tokens: make([]int32, 50)}}}}
	decode := func(at int, p plan.Plan, sequences ...uint64) [][]byte {
		step := executor.Step{Plan: p, Pieces: make([][]executor.Piece, 1)}
		for _, s := range sequences {
			step.Pieces[0] = append(step.Pieces[0], executor.Piece{Sequence: s, Start: 30 + 10*int(s) + at, Tokens: []int32{5}})
		}
		pipelines := captured(in)
		if _, err := in.Run(t.Context(), step); !errors.Is(err, errCaptured) {
			t.Fatal(err)
		}
		if err := in.Connect(t.Context()); err != nil {
			t.Fatal(err)
		}
		var all [][]byte
		for _, c := range pipelines {
			all = append(all, c.list)
		}
		return all
	}
	if _, err := in.Run(t.Context(), prompt); err != nil {
		t.Fatal(err)
	}
	plans := []plan.Plan{finDEP(1, 2, 1, plan.ASAS), finDEP(1, 2, 2, plan.ASAS)}
	first := decode(0, plans[0], 1, 2)
	for at := 1; at < 10; at++ {
		for rank, list := range decode(at, plans[0], 1, 2) {
			if !bytes.Equal(list, first[rank]) {
				t.Fatalf("token %d: the list of rank %d changed", at, rank)
			}
		}
	}
	other, fewer := decode(10, plans[1], 1, 2), decode(11, plans[0], 1)
	for rank := range first {
		if bytes.Equal(first[rank], other[rank]) || bytes.Equal(first[rank], fewer[rank]) {
			t.Errorf("rank %d has the same list for another plan or batch", rank)
		}
		d, err := tasklist.Decode(first[rank])
		if err != nil || !d.Capture || d.Bucket != 2 {
			t.Errorf("rank %d: %v, capture %v, bucket %d", rank, err, d.Capture, d.Bucket)
		}
	}
	prefill, err := tasklist.Decode(lists(t, in, prompt)[0])
	if err != nil || prefill.Capture {
		t.Errorf("prompts are captured, or %v", err)
	}
}

// Whatever the device fails with ends the step on all ranks, keeps its name, and
// aborts the links so that peers end too; a context that ends cancels.
func TestPipelineFailuresEndTheStep(t *testing.T) {
	f := families(t)[2]
	in := instance(t, harness.Config{Shape: f.shape, Checkpoint: f.dir, Attention: 1, Expert: 1, OpenDevice: openReference})
	step := executor.Step{Plan: sequential(1), Pieces: [][]executor.Piece{{{Sequence: 1, Tokens: []int32{1}}}}}
	for _, failure := range []error{
		backend.ErrMemoryExceeded, backend.ErrNoKernelImage, backend.ErrDriverTooOld, backend.ErrNoCommLibrary,
		backend.ErrCommVersion, backend.ErrCommFailed, backend.ErrTimedOut, backend.ErrDeviceLost,
	} {
		for _, running := range []bool{false, true} {
			for rank := range 2 {
				if err := in.Reset(t.Context()); err != nil {
					t.Fatal(err)
				}
				pipelines := captured(in)
				pipelines[1-rank].wait = nil // it waits until it is cancelled
				if running {
					pipelines[rank].wait = failure
				} else {
					pipelines[rank].run = failure
				}
				within(t, failure.Error(), func() {
					_, err := in.Run(t.Context(), step)
					if !errors.Is(err, failure) || !strings.Contains(err.Error(), "step") {
						t.Errorf("%v on rank %d: error %v", failure, rank, err)
					}
				})
			}
		}
	}
}
