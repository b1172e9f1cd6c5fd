// SPDX-License-Identifier: Apache-2.0

// Llamabench lets the CPU backend and llama.cpp's llama-bench decode the same
// checkpoint in turns, each in one process with the same number of threads per
// operation, and prints tokens per second with the ratio of each pair of turns.
// checkpoint.py beside it writes the checkpoint in both formats.
//
//	go run -tags findep_native ./hack/llamabench --model DIR --llama-bench PATH [--threads 2]
//
// Both begin with an empty context and decode one sequence, one token at a time.
// The CPU backend runs an attention and an expert rank over the in-process
// transport; for a single token they work one after the other, so with N threads
// N cores are busy at a time, as in llama.cpp.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"time"

	"github.com/findep/findep-operator/runtime/backend"
	_ "github.com/findep/findep-operator/runtime/backend/native"
	"github.com/findep/findep-operator/runtime/executor"
	"github.com/findep/findep-operator/runtime/executor/harness"
	"github.com/findep/findep-operator/runtime/model"
	"github.com/findep/findep-operator/runtime/plan"
	"github.com/findep/findep-operator/runtime/weights"
)

type options struct {
	model, gguf, llamaBench, weights string
	tokens, rounds, threads, expert  int
}

func main() {
	var o options
	flag.StringVar(&o.model, "model", "", "directory with config.json and safetensors")
	flag.StringVar(&o.gguf, "gguf", "", "the same checkpoint as GGUF (default model.gguf in --model)")
	flag.StringVar(&o.llamaBench, "llama-bench", "llama-bench", "llama.cpp's benchmark program")
	flag.StringVar(&o.weights, "weights", "BF16", "type that the CPU backend keeps matrices in, as the checkpoint has them: BF16 or F32")
	flag.IntVar(&o.tokens, "tokens", 64, "tokens to decode in one turn")
	flag.IntVar(&o.rounds, "rounds", 7, "turns of each contender, after one that warms up")
	flag.IntVar(&o.threads, "threads", 1, "threads per operation")
	flag.IntVar(&o.expert, "expert", 1, "expert ranks")
	flag.Parse()
	if o.gguf == "" {
		o.gguf = filepath.Join(o.model, "model.gguf")
	}
	if err := o.compare(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, "llamabench:", err)
		os.Exit(1)
	}
}

func (o *options) compare(ctx context.Context) error {
	if o.weights != backend.BF16.String() && o.weights != backend.F32.String() {
		return fmt.Errorf("--weights is %q; use BF16 or F32", o.weights)
	}
	if o.tokens < 1 || o.rounds < 1 || o.threads < 1 {
		return errors.New("--tokens, --rounds and --threads must be at least 1")
	}
	// As ranks do, see agent.Run.
	runtime.GOMAXPROCS(max(runtime.GOMAXPROCS(0), executor.Lanes+1))
	in, err := o.instance()
	if err != nil {
		return err
	}
	defer in.Close()
	var ours, theirs, ratios []float64
	for round := range o.rounds + 1 {
		mine, err := o.decode(ctx, in)
		if err != nil {
			return err
		}
		other, err := o.llama(ctx)
		if err != nil {
			return err
		}
		if round > 0 {
			ours, theirs, ratios = append(ours, mine), append(theirs, other), append(ratios, mine/other)
		}
	}
	fmt.Printf("%d tokens, %d threads, %d rounds: median (min-max)\n", o.tokens, o.threads, o.rounds)
	for _, line := range []struct {
		name, unit string
		values     []float64
	}{{"findep", "tokens/s", ours}, {"llama.cpp", "tokens/s", theirs}, {"findep over llama.cpp", "", ratios}} {
		slices.Sort(line.values)
		fmt.Printf("%-22s %6.2f (%.2f-%.2f) %s\n", line.name, line.values[len(line.values)/2], line.values[0], line.values[len(line.values)-1], line.unit)
	}
	return nil
}

func (o *options) instance() (*harness.Instance, error) {
	b, err := os.ReadFile(filepath.Join(o.model, "config.json"))
	if err != nil {
		return nil, err
	}
	shape, err := model.Parse(b)
	if err != nil {
		return nil, err
	}
	dtype := backend.F32
	if o.weights == backend.BF16.String() {
		dtype = backend.BF16
	}
	return harness.New(harness.Config{
		Shape: shape, Checkpoint: o.model, Attention: 1, Expert: o.expert, Threads: o.threads, Weights: weights.Options{DType: dtype},
		MaxContextTokens: o.tokens + 1,
		OpenDevice:       func(int) (backend.Device, error) { return backend.Open("cpu", backend.Options{}) },
	})
}

// decode extends a sequence of one token and returns tokens per second.
func (o *options) decode(ctx context.Context, in *harness.Instance) (float64, error) {
	const sequence = 1
	whole := plan.Plan{Policy: plan.Sequential, MicroBatchSize: 1, R1: 1, R2: 1, Order: plan.ASAS, Chunks: 1}
	token := int32(1)
	start := time.Now()
	for n := range o.tokens {
		results, err := in.Run(ctx, executor.Step{Plan: whole, Pieces: [][]executor.Piece{{{
			Sequence: sequence, Start: n, Tokens: []int32{token}, Logits: executor.LogitsLast,
		}}}})
		if err != nil {
			return 0, err
		}
		token = results[0].Outputs[0].Token
	}
	rate := float64(o.tokens) / time.Since(start).Seconds()
	_, err := in.Run(ctx, executor.Step{Plan: whole, Release: []uint64{sequence}})
	return rate, err
}

// llama runs llama-bench for one turn.
func (o *options) llama(ctx context.Context) (float64, error) {
	cmd := exec.CommandContext(ctx, o.llamaBench, "-m", o.gguf, "-p", "0", "-n", strconv.Itoa(o.tokens),
		"-t", strconv.Itoa(o.threads), "-r", "1", "-o", "json")
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			err = fmt.Errorf("%w: %s", err, exit.Stderr)
		}
		return 0, fmt.Errorf("%s: %w", o.llamaBench, err)
	}
	var tests []struct {
		Rate float64 `json:"avg_ts"`
	}
	if err := json.Unmarshal(out, &tests); err != nil {
		return 0, fmt.Errorf("%s wrote %.200q: %w", o.llamaBench, out, err)
	}
	if len(tests) != 1 {
		return 0, fmt.Errorf("%s reported %d tests, want 1", o.llamaBench, len(tests))
	}
	return tests[0].Rate, nil
}
