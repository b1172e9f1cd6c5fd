// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/findep/findep-operator/runtime/agent/agentpb"
	"github.com/findep/findep-operator/runtime/local"
	"github.com/findep/findep-operator/runtime/model"
	"github.com/findep/findep-operator/runtime/plan"
	"github.com/findep/findep-operator/runtime/serving"
	"github.com/findep/findep-operator/runtime/tokenizer"
)

// formTimeout bounds loading the weights and forming the instance.
const formTimeout = 5 * time.Minute

// runOptions are the flags of `findep run`.
type runOptions struct {
	model             string
	attention, expert int
	policy, order     string
	prompt            string
	maxTokens         int
	maxContext        int
	temperature       float32
	seed              uint64
	fixed             plan.Plan
	output            string
	logits            string
	backend           string
	threads           int
	verbose           bool
	// chunks lets plans cut prompts into causal chunks.
	chunks bool
}

func newRun() *cobra.Command {
	var o runOptions
	cmd := &cobra.Command{
		Use:   "run --model DIR --prompt TEXT",
		Short: "Run a model as local rank processes, without Kubernetes, and print the completion",
		Long: `Starts one process per attention and expert rank on this machine, wired as pods
are (mutual TLS, rendezvous), completes the prompt and stops them. The ranks
exchange token rows through shared memory, as ranks of one pod do.

With -o json the result is {"text", "tokens", "split", "plan",
"predictedTokensPerSecond", "measuredTokensPerSecond"}; the rates are those of
the decode steps, or of the prefill if one token was asked for.`,
		Example: "  findep run --model test/testdata/tinymodel --attention 2 --expert 2 --prompt 'And it came to pass in those days,' --max-tokens 32",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := o.validate(); err != nil {
				return usageError{err}
			}
			return o.run(cmd.Context(), cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.model, "model", "", "directory with config.json, weights and tokenizer.json")
	f.IntVar(&o.attention, "attention", 1, "attention ranks")
	f.IntVar(&o.expert, "expert", 1, "expert ranks")
	f.StringVar(&o.policy, "policy", string(plan.FinDEP), "FinDEP, PPPipe or Sequential")
	f.StringVar(&o.order, "order", string(plan.OrderAuto), "Auto, ASAS or AASS")
	f.StringVar(&o.prompt, "prompt", "", "text to complete")
	f.IntVar(&o.maxTokens, "max-tokens", 32, "tokens to generate at most")
	f.IntVar(&o.maxContext, "max-context", 0, "context length in tokens (default: the model's)")
	f.Float32Var(&o.temperature, "temperature", 0, "sampling temperature; 0 is greedy")
	f.Uint64Var(&o.seed, "seed", 0, "seed of the sampling")
	f.IntVar(&o.fixed.MicroBatchSize, "micro-batch-size", 0, "fix m_a instead of solving; needs --r1 and --r2 too")
	f.IntVar(&o.fixed.R1, "r1", 0, "fix the micro-batches per attention rank")
	f.IntVar(&o.fixed.R2, "r2", 0, "fix the segments per micro-batch")
	f.StringVarP(&o.output, "output", "o", "text", "text or json")
	f.StringVar(&o.logits, "logits", "", "write the fp32 logits of every prompt position to this .npy file, [positions, vocabulary]")
	f.StringVar(&o.backend, "backend", "cpu", "kernels to use: cpu, cuda, auto (cuda, or cpu where there is no GPU) or reference")
	f.IntVar(&o.threads, "threads", 1, "host threads per rank of the CPU backend")
	f.BoolVarP(&o.verbose, "verbose", "v", false, "show the ranks' logs")
	return cmd
}

func (o *runOptions) validate() error {
	switch {
	case o.model == "":
		return errors.New("--model is required: a directory with config.json, weights and tokenizer.json")
	case o.prompt == "":
		return errors.New("--prompt is required")
	case o.maxTokens < 1:
		return fmt.Errorf("--max-tokens is %d; it must be at least 1", o.maxTokens)
	case o.output != "text" && o.output != "json":
		return fmt.Errorf("--output is %q; use text or json", o.output)
	}
	if info, err := os.Stat(o.model); err != nil {
		return fmt.Errorf("--model: %w", err)
	} else if !info.IsDir() {
		return fmt.Errorf("--model is %s, a file; name the directory that it is in", o.model)
	}
	if o.fixed.MicroBatchSize != 0 || o.fixed.R1 != 0 || o.fixed.R2 != 0 {
		o.fixed.Policy, o.fixed.Order, o.fixed.Chunks = plan.Policy(o.policy), plan.Order(o.order), 1
		if o.order == string(plan.OrderAuto) {
			o.fixed.Order = plan.ASAS
		}
		return o.fixed.Validate()
	}
	return nil
}

func (o *runOptions) schedule() plan.Schedule {
	s := plan.Schedule{Policy: plan.Policy(o.policy), Order: plan.Order(o.order), Chunks: "Off", Resolve: "Online"}
	if o.fixed.R1 != 0 {
		s.Fixed = &o.fixed
	}
	if o.chunks {
		s.Chunks = "Auto"
	}
	return s
}

// runResult is the JSON output.
type runResult struct {
	Text   string  `json:"text"`
	Tokens []int32 `json:"tokens"`
	Split  struct {
		Attention int `json:"attention"`
		Expert    int `json:"expert"`
	} `json:"split"`
	Plan struct {
		MicroBatchSize uint32 `json:"microBatchSize"`
		R1             uint32 `json:"r1"`
		R2             uint32 `json:"r2"`
		Order          string `json:"order"`
	} `json:"plan"`
	PredictedTokensPerSecond float64 `json:"predictedTokensPerSecond"`
	MeasuredTokensPerSecond  float64 `json:"measuredTokensPerSecond"`
}

func (o *runOptions) run(ctx context.Context, out, progress io.Writer) error {
	tok, err := tokenizer.Load(o.model)
	if err != nil {
		return usageError{err}
	}
	tokens, err := tok.Encode(o.prompt)
	if err != nil {
		return usageError{err}
	}
	if err := o.checkModel(); err != nil {
		return usageError{err}
	}
	instance, client, err := o.start(ctx, progress)
	if err != nil {
		return err
	}
	defer instance.Stop()
	defer func() { _ = client.Close() }()

	d, err := waitReady(ctx, instance, client)
	if err != nil {
		return err
	}
	if limit := int(d.MaxContextTokens); len(tokens)+o.maxTokens > limit {
		return usageError{fmt.Errorf("the prompt has %d tokens and --max-tokens is %d; the context is %d", len(tokens), o.maxTokens, limit)}
	}
	g := generation{client: client, describe: d, options: o}
	if err := g.complete(ctx, tokens); err != nil {
		return err
	}
	if o.logits != "" {
		if err := writeLogits(o.logits, g.logits, int(d.VocabularySize)); err != nil {
			return err
		}
	}
	return o.print(out, g.result(tok))
}

// checkModel finds what is wrong with config.json before any process starts.
func (o *runOptions) checkModel() error {
	b, err := os.ReadFile(filepath.Join(o.model, "config.json"))
	if err != nil {
		return err
	}
	shape, err := model.Parse(b)
	if err != nil {
		return fmt.Errorf("%s: %w", filepath.Join(o.model, "config.json"), err)
	}
	if o.expert > shape.MoE.Experts {
		return fmt.Errorf("--expert is %d; the model has only %d routed experts per layer", o.expert, shape.MoE.Experts)
	}
	return nil
}

func (o *runOptions) start(ctx context.Context, progress io.Writer) (*local.Instance, *serving.Client, error) {
	options, err := o.localOptions(progress)
	if err != nil {
		return nil, nil, err
	}
	return startLocal(ctx, options)
}

// localOptions describes the instance that the flags ask for.
func (o *runOptions) localOptions(progress io.Writer) (local.Options, error) {
	self, err := os.Executable()
	if err != nil {
		return local.Options{}, fmt.Errorf("own executable: %w", err)
	}
	options := local.Options{
		ModelDir: o.model, Attention: o.attention, Expert: o.expert, MaxContextTokens: o.maxContext, Schedule: o.schedule(),
		Command:   []string{self, "rank"},
		ExtraArgs: []string{"--backend", o.backend, "--threads", fmt.Sprint(o.threads)},
		Log:       &lastLines{},
	}
	if o.maxContext == 0 {
		options.MaxContextTokens = defaultContext
	}
	if o.verbose {
		options.Log = &lastLines{show: progress}
	}
	return options, nil
}

// startLocal starts an instance and connects to its leader.
func startLocal(ctx context.Context, options local.Options) (*local.Instance, *serving.Client, error) {
	instance, err := local.Start(ctx, options)
	if err != nil {
		return nil, nil, usageError{err}
	}
	client, err := serving.Dial(instance.Socket(0))
	if err != nil {
		instance.Stop()
		return nil, nil, err
	}
	return instance, client, nil
}

// defaultContext is cut to the model's own limit by the ranks.
const defaultContext = 1 << 20

// waitReady waits until the instance takes steps, or says why it cannot.
func waitReady(ctx context.Context, instance *local.Instance, client *serving.Client) (*agentpb.DescribeResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, formTimeout)
	defer cancel()
	for {
		d, err := client.Describe(ctx)
		if err == nil && d.Ready {
			return d, nil
		}
		if failed := instance.Failed(); failed != nil {
			return nil, fmt.Errorf("%w: %s", failed, lastWords(instance.Log()))
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("the instance did not form within %v: %s", formTimeout, d.GetMessage())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// lastWords are the lines of a process that are not structured logs: its error.
func lastWords(log string) string {
	var words []string
	for line := range strings.Lines(log) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "{") {
			words = append(words, strings.TrimPrefix(line, "findep: "))
		}
	}
	if len(words) == 0 {
		return "it said nothing; run again with --verbose"
	}
	return words[len(words)-1]
}

// generation drives one sequence through prefill and decode.
type generation struct {
	client   *serving.Client
	describe *agentpb.DescribeResponse
	options  *runOptions

	generated           []int32
	logits              []byte
	last                *agentpb.PlanInUse
	steps               float64 // tokens counted in the two sums
	predicted, measured float64 // milliseconds
}

func (g *generation) complete(ctx context.Context, prompt []int32) error {
	piece := &agentpb.Piece{Sequence: 1, Tokens: prompt, Logits: agentpb.LogitsMode_LOGITS_LAST,
		Sampling: &agentpb.Sampling{Temperature: g.options.temperature, Seed: g.options.seed}}
	if g.options.logits != "" {
		piece.Logits = agentpb.LogitsMode_LOGITS_ALL
	}
	for length := len(prompt); ; length++ {
		response, err := g.client.Step(ctx, &agentpb.StepRequest{Epoch: g.describe.Epoch, Pieces: []*agentpb.Piece{piece}})
		if err != nil {
			return stepError(err)
		}
		g.take(response, len(piece.Tokens))
		token := g.generated[len(g.generated)-1]
		if len(g.generated) == g.options.maxTokens || g.ends(token) {
			return nil
		}
		piece = &agentpb.Piece{Sequence: 1, Start: uint32(length), Tokens: []int32{token},
			Logits: agentpb.LogitsMode_LOGITS_LAST, Sampling: piece.Sampling}
	}
}

// take keeps a step's token and times. The prefill's times count only while
// there is no decode step.
func (g *generation) take(r *agentpb.StepResponse, tokens int) {
	result := r.Results[0]
	if len(g.generated) <= 1 {
		g.steps, g.predicted, g.measured = 0, 0, 0
	}
	if len(g.generated) == 0 {
		g.logits = result.Logits
	}
	g.generated = append(g.generated, result.Token)
	g.last = r.Plan
	g.steps += float64(tokens)
	g.predicted += r.PredictedMilliseconds
	g.measured += r.MeasuredMilliseconds
}

func (g *generation) ends(token int32) bool {
	for _, id := range g.describe.EndOfSequenceTokens {
		if id == token {
			return true
		}
	}
	return false
}

func (g *generation) result(tok *tokenizer.Tokenizer) *runResult {
	text := g.generated
	if n := len(text); g.ends(text[n-1]) {
		text = text[:n-1]
	}
	r := &runResult{Text: tok.Decode(text), Tokens: g.generated}
	r.Split.Attention, r.Split.Expert = int(g.describe.AttentionRanks), int(g.describe.ExpertRanks)
	r.Plan.MicroBatchSize, r.Plan.R1, r.Plan.R2, r.Plan.Order = g.last.MicroBatchSize, g.last.R1, g.last.R2, g.last.Order
	if g.predicted > 0 {
		r.PredictedTokensPerSecond = 1000 * g.steps / g.predicted
	}
	if g.measured > 0 {
		r.MeasuredTokensPerSecond = 1000 * g.steps / g.measured
	}
	return r
}

// stepError gives the engine's words without gRPC's frame; what the engine
// calls an invalid argument is the user's input.
func stepError(err error) error {
	s := status.Convert(err)
	if s.Code() == codes.InvalidArgument {
		return usageError{errors.New(s.Message())}
	}
	return fmt.Errorf("step failed: %s", s.Message())
}

func (o *runOptions) print(out io.Writer, r *runResult) error {
	if o.output == "json" {
		enc := json.NewEncoder(out)
		return enc.Encode(r)
	}
	_, err := fmt.Fprintf(out, "%s%s\n\nsplit %d:%d, plan %s m_a=%d r1=%d r2=%d %s, %.1f tokens/s predicted, %.1f measured\n",
		o.prompt, strings.TrimRight(r.Text, "\n"), r.Split.Attention, r.Split.Expert, o.policy,
		r.Plan.MicroBatchSize, r.Plan.R1, r.Plan.R2, r.Plan.Order, r.PredictedTokensPerSecond, r.MeasuredTokensPerSecond)
	return err
}
