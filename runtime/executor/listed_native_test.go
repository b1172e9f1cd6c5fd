// SPDX-License-Identifier: Apache-2.0

//go:build findep_native

package executor_test

import (
	"errors"
	"os"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/findep/findep-operator/runtime/backend"
	"github.com/findep/findep-operator/runtime/backend/native"
	"github.com/findep/findep-operator/runtime/executor"
	"github.com/findep/findep-operator/runtime/executor/harness"
	"github.com/findep/findep-operator/runtime/plan"
	"github.com/findep/findep-operator/runtime/schedule"
)

// openShim opens the CUDA backend's own sources on the model of CUDA, between
// whose ranks the stand-in for NCCL moves the rows.
func openShim(t *testing.T) func(int) (backend.Device, error) {
	t.Helper()
	path := os.Getenv("FINDEP_CUDA_SHIM")
	if path == "" || os.Getenv("FINDEP_NCCL_LIBRARY") == "" {
		t.Skip("FINDEP_CUDA_SHIM or FINDEP_NCCL_LIBRARY names no library; run `make test-cuda-shim`")
	}
	return func(int) (backend.Device, error) {
		return backend.Open(native.CUDA, backend.Options{Library: path})
	}
}

// Steps that are written down as lists and run by the CUDA pipeline, with packing
// and transfers of its own, give what the reference gives operation by operation.
func TestListsOnTheModelOfCUDAEqualTheReference(t *testing.T) {
	open := openShim(t)
	plans := []plan.Plan{sequential(8), pppipe(2, 3), finDEP(1, 3, 2, plan.ASAS), finDEP(2, 2, 3, plan.AASS), chunked(finDEP(2, 1, 2, plan.ASAS), 3)}
	for i, f := range families(t) {
		split := [][2]int{{2, 2}, {1, 3}, {3, 1}}[i]
		t.Run(f.name+"/split="+splitName(split[0], split[1]), func(t *testing.T) {
			c := harness.Config{Shape: f.shape, Checkpoint: f.dir, Attention: split[0], Expert: split[1], KVTokens: 512, MaxStepTokens: 64}
			c.OpenDevice = openReference
			reference := instance(t, c)
			c.OpenDevice, c.Pipelines = open, true
			in := instance(t, c)
			prompts := randomPrompts(f.shape.VocabSize, 7, 2, 11, 1)
			for _, p := range plans {
				want, err := reference.Generate(t.Context(), prompts, harness.Options{Plan: p})
				if err != nil {
					t.Fatal(err)
				}
				got, err := in.Generate(t.Context(), prompts, harness.Options{Plan: p})
				if err != nil {
					t.Fatalf("%s: %v", p, err)
				}
				if diff := cmp.Diff(want, got, cmpopts.EquateApprox(1e-3, 1e-4)); diff != "" {
					t.Errorf("%s: outputs differ:\n%.2000s", p, diff)
				}
			}
		})
	}
}

// A cache of BF16 rounds the same on both, and not at all like one of F32.
func TestBF16CacheOnTheModelOfCUDAEqualsTheReference(t *testing.T) {
	open := openShim(t)
	for _, f := range families(t)[:2] {
		t.Run(f.name, func(t *testing.T) {
			c := harness.Config{Shape: f.shape, Checkpoint: f.dir, Attention: 1, Expert: 1, KVTokens: 512, MaxStepTokens: 64}
			generate := func(kv backend.DType, open func(int) (backend.Device, error), pipelines bool) any {
				c := c
				c.KVType, c.OpenDevice, c.Pipelines = kv, open, pipelines
				got, err := instance(t, c).Generate(t.Context(), randomPrompts(f.shape.VocabSize, 9, 4), harness.Options{Plan: finDEP(1, 2, 1, plan.ASAS)})
				if err != nil {
					t.Fatal(err)
				}
				return got
			}
			want := generate(backend.BF16, openReference, false)
			near := cmpopts.EquateApprox(1e-3, 1e-4)
			if diff := cmp.Diff(want, generate(backend.BF16, open, true), near); diff != "" {
				t.Errorf("outputs differ:\n%.2000s", diff)
			}
			if cmp.Equal(want, generate(backend.F32, openReference, false)) {
				t.Error("a cache of F32 gives the same bits: nothing was rounded")
			}
		})
	}
}

// Steps on pipelines tell when their tasks ran, if asked: all of them in a trace, and
// in sums those whose time is the rank's own.
func TestTimesOnTheModelOfCUDA(t *testing.T) {
	f := families(t)[0]
	in := instance(t, harness.Config{Shape: f.shape, Checkpoint: f.dir, Attention: 1, Expert: 1, KVTokens: 512, MaxStepTokens: 64, OpenDevice: openShim(t), Pipelines: true})
	for _, trace := range []bool{true, false} {
		if err := in.Reset(t.Context()); err != nil {
			t.Fatal(err)
		}
		step := executor.Step{Number: 1, Plan: finDEP(1, 2, 2, plan.ASAS), Trace: trace, Times: !trace, Pieces: [][]executor.Piece{{
			{Sequence: 1, Tokens: []int32{1, 2, 3}, Logits: executor.LogitsLast}, {Sequence: 2, Tokens: []int32{4, 5}, Logits: executor.LogitsLast},
		}}}
		results, err := in.Run(t.Context(), step)
		if err != nil {
			t.Fatal(err)
		}
		for rank, received := range []schedule.Kind{schedule.E2A, schedule.A2E} {
			r := results[rank]
			kinds := map[executor.Kind]int{}
			for _, task := range r.Trace {
				kinds[task.Kind]++
				if task.Start > task.End || task.End > r.Nanoseconds {
					t.Errorf("rank %d: %+v in a step of %d ns", rank, task, r.Nanoseconds)
				}
			}
			own := []schedule.Kind{schedule.A2E, schedule.E2A, schedule.Expert}[rank:]
			for _, kind := range own {
				want := kind != received && (rank == 1 || kind != schedule.Expert)
				if d := r.Durations[kind]; (d.Tasks > 0) != want || want && d.Nanoseconds <= 0 {
					t.Errorf("rank %d, %v: %+v", rank, kind, d)
				}
			}
			if got := kinds[executor.Kind(received)]; (got > 0) != trace {
				t.Errorf("rank %d: %d receives are traced", rank, got)
			}
			if rank == 0 && r.Durations[executor.Head].Tasks != 2 {
				t.Errorf("%d heads for 2 micro-batches", r.Durations[executor.Head].Tasks)
			}
		}
	}
	step := executor.Step{Number: 2, Plan: finDEP(1, 2, 2, plan.ASAS), Pieces: [][]executor.Piece{{{Sequence: 9, Tokens: []int32{1}}}}}
	results, err := in.Run(t.Context(), step)
	if err != nil {
		t.Fatal(err)
	}
	if results[0].Durations != (executor.Result{}).Durations || len(results[0].Trace) > 0 {
		t.Errorf("times that nobody asked for: %+v", results[0])
	}
}

// Every failure of the communication library has its name, on every rank.
func TestFailuresOnTheModelOfCUDAHaveNames(t *testing.T) {
	open := openShim(t)
	f := families(t)[2]
	config := harness.Config{Shape: f.shape, Checkpoint: f.dir, Attention: 1, Expert: 2, OpenDevice: open, Pipelines: true}
	for name, tc := range map[string]struct {
		variable, value string
		want            error
	}{
		"ids":     {"FAKENCCL_FAIL", "ncclGetUniqueId", backend.ErrCommFailed},
		"joining": {"FAKENCCL_FAIL", "ncclCommInitRankConfig", backend.ErrCommFailed},
		"polling": {"FAKENCCL_FAIL", "ncclCommGetAsyncError", backend.ErrCommFailed},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv(tc.variable, tc.value)
			in, err := harness.New(config)
			if err == nil {
				in.Close()
			}
			if !errors.Is(err, tc.want) {
				t.Errorf("error %v; want %v", err, tc.want)
			}
		})
	}
	for _, call := range []string{"ncclSend", "ncclRecv", "ncclGroupEnd", "ncclCommGetAsyncError"} {
		t.Run("in a step: "+call, func(t *testing.T) {
			in := instance(t, config)
			t.Setenv("FAKENCCL_FAIL", call)
			within(t, call, func() {
				_, err := in.Generate(t.Context(), randomPrompts(f.shape.VocabSize, 5, 3), harness.Options{Plan: finDEP(1, 2, 1, plan.ASAS)})
				if !errors.Is(err, backend.ErrCommFailed) {
					t.Errorf("error %v", err)
				}
			})
			t.Setenv("FAKENCCL_FAIL", "")
			if err := in.Reset(t.Context()); err != nil {
				t.Fatal(err)
			}
			got, err := in.Generate(t.Context(), randomPrompts(f.shape.VocabSize, 5, 3), harness.Options{Plan: finDEP(1, 2, 1, plan.ASAS)})
			if err != nil || len(got) != 2 || slices.Contains(got[0].Tokens, -1) {
				t.Errorf("after the next epoch: %v, %v", got, err)
			}
		})
	}
}
