// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/findep/findep-operator/runtime/bench"
	"github.com/findep/findep-operator/runtime/local"
	"github.com/findep/findep-operator/runtime/model"
	"github.com/findep/findep-operator/runtime/plan"
	"github.com/findep/findep-operator/runtime/serving"
	"github.com/findep/findep-operator/runtime/transport"
	"github.com/findep/findep-operator/runtime/transport/tcp"
	"github.com/findep/findep-operator/runtime/weights"
)

// benchOptions are the flags of `findep bench`.
type benchOptions struct {
	run      runOptions // model, attention, expert, backend, threads
	shape    string
	policies []string
	config   bench.Config
	chunks   string
	rate     string
	link     bool
	pin      bool
	plain    bool
	shared   string
	delay    time.Duration
	warmUp   time.Duration
	output   string
	// traffic, settle and turn are those of `findep bench --traffic`.
	traffic      []string
	settle, turn int
}

func newBench() *cobra.Command {
	o := benchOptions{run: runOptions{policy: string(plan.FinDEP), order: string(plan.OrderAuto)}}
	cmd := &cobra.Command{
		Use:   "bench --model DIR | --shape FILE",
		Short: "Compare FinDEP, PPPipe and Sequential on one running instance, each with its own best plan",
		Long: `Starts one process per rank, measures the stages, and lets the policies take
turns on the same prompts. With --link-rate or --namespaces each group is in a
network namespace of its own (root, iproute2), joined by a link of that rate;
with --pin each group has one core.

With --traffic one instance under the first policy sees one kind of traffic after
the other, and is compared on each, in turns, with a new instance that has seen
nothing else.

--shape takes a config.json and makes random weights for it, so that sizes can
be chosen where the stages balance.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := o.validate(); err != nil {
				return usageError{err}
			}
			return o.bench(cmd.Context(), cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.run.model, "model", "", "directory with config.json and weights")
	f.StringVar(&o.shape, "shape", "", "config.json to make random weights for")
	f.IntVar(&o.run.attention, "attention", 1, "attention ranks")
	f.IntVar(&o.run.expert, "expert", 1, "expert ranks")
	f.StringSliceVar(&o.policies, "policies", []string{"FinDEP", "PPPipe", "Sequential"}, "policies to compare; FinDEP+chunks allows causal chunks for this one alone")
	f.IntVar(&o.config.PromptTokens, "prompt-tokens", 256, "tokens per prompt")
	f.IntVar(&o.config.OutputTokens, "output-tokens", 1, "tokens to generate per prompt")
	f.IntVar(&o.config.Batch, "batch", 1, "prompts per attention rank and round")
	f.IntVar(&o.config.SamplesInFlight, "samples-in-flight", 1, "prompts per attention rank that share a step")
	f.IntVar(&o.config.Repeat, "repeat", 10, "rounds per policy, after one that warms up")
	f.Uint64Var(&o.config.Seed, "seed", 1, "seed of the prompts and of random weights")
	f.StringVar(&o.chunks, "chunks", "off", "auto lets plans cut prompts into causal chunks")
	f.StringVar(&o.rate, "link-rate", "", "rate of the link between the groups, in tc's notation, such as 1gbit")
	f.DurationVar(&o.delay, "link-delay", 0, "delay of that link in each direction, made by the receiving transport")
	f.BoolVar(&o.link, "namespaces", false, "put each group into a network namespace even without --link-rate")
	f.BoolVar(&o.pin, "pin", false, "give each group one core of its own")
	f.BoolVar(&o.plain, "plain", false, "exchange token rows without TLS")
	f.StringVar(&o.shared, "shared-memory", "auto", "auto lets ranks in one network namespace exchange token rows through memory; off never does")
	f.DurationVar(&o.warmUp, "warm-up-budget", 10*time.Second, "time for measuring stages with larger and larger prompts before the first round")
	f.StringVar(&o.run.backend, "backend", "cpu", "kernels to use: cpu, cuda, auto (cuda, or cpu where there is no GPU) or reference")
	f.IntVar(&o.run.threads, "threads", 1, "host threads per rank of the CPU backend")
	f.BoolVarP(&o.run.verbose, "verbose", "v", false, "show the ranks' logs")
	f.StringVarP(&o.output, "output", "o", "table", "table or json")
	f.StringSliceVar(&o.traffic, "traffic", nil, "kinds of traffic that follow each other, such as prefill:8x64,prefill:1x512,decode:16x64: sequences per attention rank and their tokens")
	f.IntVar(&o.settle, "settle-steps", 16, "steps of each kind of traffic before turns are timed")
	f.IntVar(&o.turn, "turn-steps", 4, "steps in one turn under --traffic; --repeat is the number of turns")
	return cmd
}

// maxLinkDelay is what the transport's handshake has patience for.
const maxLinkDelay = tcp.DefaultHandshakeTimeout / 10

// chunksSuffix behind a policy allows causal chunks for that one alone, so that
// one run compares plans with and without.
const chunksSuffix = "+chunks"

func (o *benchOptions) validate() error {
	switch {
	case (o.run.model == "") == (o.shape == ""):
		return errors.New("give either --model or --shape")
	case o.chunks != "auto" && o.chunks != "off":
		return fmt.Errorf("--chunks is %q; use auto or off", o.chunks)
	case o.shared != "auto" && o.shared != "off":
		return fmt.Errorf("--shared-memory is %q; use auto or off", o.shared)
	case o.output != "table" && o.output != "json":
		return fmt.Errorf("--output is %q; use table or json", o.output)
	case o.delay < 0 || o.delay > maxLinkDelay:
		return fmt.Errorf("--link-delay is %v; it must lie between 0 and %v", o.delay, maxLinkDelay)
	}
	if err := o.readPolicies(); err != nil {
		return err
	}
	if err := o.config.Validate(); err != nil {
		return err
	}
	return o.validateTraffic()
}

// readPolicies makes the contenders that --policies and --chunks name.
func (o *benchOptions) readPolicies() error {
	o.config.Contenders = nil
	for _, name := range o.policies {
		policy, chunks := strings.CutSuffix(name, chunksSuffix)
		c := bench.Contender{Policy: plan.Policy(policy), Chunks: chunks || o.chunks == "auto"}
		if c.Policy != plan.FinDEP && c.Policy != plan.PPPipe && c.Policy != plan.Sequential {
			return fmt.Errorf("--policies has %q; use FinDEP, PPPipe or Sequential, or one with %s behind it", name, chunksSuffix)
		}
		o.config.Contenders = append(o.config.Contenders, c)
	}
	return nil
}

func (o *benchOptions) bench(ctx context.Context, out, progress io.Writer) error {
	if o.shape != "" {
		dir, err := randomModel(o.shape, o.config.Seed)
		if err != nil {
			return usageError{err}
		}
		defer func() { _ = os.RemoveAll(dir) }()
		o.run.model = dir
	}
	if err := o.run.checkModel(); err != nil {
		return usageError{err}
	}
	o.run.maxContext = o.config.PromptTokens + o.config.OutputTokens
	options, err := o.instanceOptions(progress)
	if err != nil {
		return err
	}
	if o.link || o.rate != "" || o.pin {
		link, err := local.NewLink(o.rate)
		if err != nil {
			return err
		}
		defer func() { _ = link.Close() }()
		options.Place = link.Place(o.run.attention, o.pin)
	}
	instance, client, err := startReady(ctx, options)
	if err != nil {
		return err
	}
	defer instance.Stop()
	defer func() { _ = client.Close() }()
	r := &bench.Report{}
	if len(o.traffic) > 0 {
		r.Traffic, err = o.changeTraffic(ctx, client, options, progress)
	} else {
		r.Policies, err = o.comparePolicies(ctx, instance, client, progress)
	}
	if err != nil {
		return usageError{err}
	}
	link, err := o.carrier(ctx, instance)
	if err != nil {
		return err
	}
	r.Machine = o.machine(link)
	return o.print(out, r)
}

// instanceOptions describes the instances that are compared.
func (o *benchOptions) instanceOptions(progress io.Writer) (local.Options, error) {
	if len(o.traffic) > 0 {
		o.run.maxContext = o.trafficContext()
		o.run.policy, o.run.chunks = string(o.config.Contenders[0].Policy), o.config.Contenders[0].Chunks
	}
	options, err := o.run.localOptions(progress)
	options.ExtraArgs = append(options.ExtraArgs, "--warm-up-budget", o.warmUp.String(), fmt.Sprintf("--plain-data=%t", o.plain),
		"--shared-memory", o.shared, "--data-delay", o.delay.String())
	return options, err
}

// startReady starts an instance and waits until it takes steps.
func startReady(ctx context.Context, options local.Options) (*local.Instance, *serving.Client, error) {
	instance, client, err := startLocal(ctx, options)
	if err != nil {
		return nil, nil, err
	}
	if _, err := waitReady(ctx, instance, client); err != nil {
		instance.Stop()
		return nil, nil, errors.Join(err, client.Close())
	}
	return instance, client, nil
}

func (o *benchOptions) comparePolicies(ctx context.Context, instance *local.Instance, client *serving.Client, progress io.Writer) ([]bench.PolicyResult, error) {
	o.config.Switch = func(ctx context.Context, c bench.Contender) error {
		return switchPolicy(ctx, instance, client, c)
	}
	o.config.Progress = func(c bench.Contender, round int) {
		fmt.Fprintf(progress, "\r%-60s", fmt.Sprintf("round %d of %d: %s", round, o.config.Repeat, c.Policy))
	}
	results, err := bench.Run(ctx, client, o.config)
	fmt.Fprint(progress, "\r"+strings.Repeat(" ", 60)+"\r")
	return results, err
}

// carrier is what the leader says carries its rows. Namespaces of a link hide
// the leader's page; what they are for is to go over that link.
func (o *benchOptions) carrier(ctx context.Context, in *local.Instance) (string, error) {
	if o.link || o.rate != "" || o.pin {
		if o.plain {
			return "veth without TLS", nil
		}
		return "veth", nil
	}
	page := fmt.Sprintf("http://%s/debug/plan", net.JoinHostPort(local.Host, strconv.Itoa(in.Config.PortsOf(0).Metrics)))
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, page, http.NoBody)
	if err != nil {
		return "", err
	}
	r, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer func() { _ = r.Body.Close() }()
	var leader struct{ Links []transport.LinkKinds }
	if err := json.NewDecoder(r.Body).Decode(&leader); err != nil {
		return "", fmt.Errorf("%s: %w", page, err)
	}
	var kinds []string
	for _, l := range leader.Links {
		kinds = append(kinds, string(l.Send), string(l.Receive))
	}
	slices.Sort(kinds)
	return "loopback by " + strings.Join(slices.Compact(kinds), " and "), nil
}

// randomModel makes a checkpoint directory with random weights.
func randomModel(shape string, seed uint64) (string, error) {
	b, err := os.ReadFile(shape)
	if err != nil {
		return "", err
	}
	s, err := model.Parse(b)
	if err != nil {
		return "", fmt.Errorf("%s: %w", shape, err)
	}
	dir, err := os.MkdirTemp("", "findep-shape-")
	if err != nil {
		return "", err
	}
	if err := os.WriteFile(filepath.Join(dir, "config.json"), b, 0o600); err != nil {
		return "", errors.Join(err, os.RemoveAll(dir))
	}
	if err := weights.WriteRandom(filepath.Join(dir, "model.safetensors"), s, seed); err != nil {
		return "", errors.Join(err, os.RemoveAll(dir))
	}
	return dir, nil
}

// switchPolicy writes a contender to the instance's configuration, as the
// operator would, and waits until the leader uses it.
func switchPolicy(ctx context.Context, in *local.Instance, client *serving.Client, c bench.Contender) error {
	in.Config.Schedule.Policy, in.Config.Schedule.Chunks = c.Policy, "Off"
	if c.Chunks {
		in.Config.Schedule.Chunks = "Auto"
	}
	if err := in.WriteConfig(); err != nil {
		return err
	}
	want, err := in.Config.ScheduleHash()
	if err != nil {
		return err
	}
	for {
		d, err := client.Describe(ctx)
		switch {
		case err != nil:
			return stepError(err)
		case d.ScheduleHash == want:
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (o *benchOptions) machine(link string) bench.Machine {
	m := bench.Machine{Cores: runtime.NumCPU(), Backend: o.run.backend, Link: link, When: bench.Stamp(time.Now())}
	if o.rate != "" {
		m.Link += " " + o.rate
	}
	if o.delay > 0 {
		m.Link += " delay " + o.delay.String()
	}
	if b, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(b)) {
			if name, ok := strings.CutPrefix(line, "model name"); ok {
				m.CPU = strings.Trim(name, "\t :\n")
				break
			}
		}
	}
	if b, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		m.Kernel = strings.TrimSpace(string(b))
	}
	return m
}

func (o *benchOptions) print(out io.Writer, r *bench.Report) error {
	if o.output == "json" {
		enc := json.NewEncoder(out)
		enc.SetIndent("", "  ")
		return enc.Encode(r)
	}
	if len(r.Traffic) > 0 {
		return printTraffic(out, r.Traffic)
	}
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, "POLICY\tPLAN\tTOKENS/S (MIN-MAX)\tMAKESPAN MS\tPREDICTED\tERROR\tEXPOSED MS\tVS FIRST")
	first := r.Policies[0].TokensPerSecond.Median
	for _, p := range r.Policies {
		measured := p.MakespanMilliseconds.Median
		fmt.Fprintf(w, "%s\tm_a=%d r1=%d r2=%d q=%d %s\t%.0f (%.0f-%.0f)\t%.2f\t%.2f\t%+.1f %%\t%.2f\t%.2f\n",
			p.Policy, p.Plan.MicroBatchSize, p.Plan.R1, p.Plan.R2, p.Plan.Chunks, p.Plan.Order,
			p.TokensPerSecond.Median, p.TokensPerSecond.Min, p.TokensPerSecond.Max, measured,
			p.PredictedMakespanMilliseconds, 100*(p.PredictedMakespanMilliseconds-measured)/measured,
			p.ExposedCommunicationMilliseconds, p.TokensPerSecond.Median/first)
	}
	return w.Flush()
}
