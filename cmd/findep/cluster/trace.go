// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/client-go/kubernetes"

	"github.com/findep/findep-operator/controllers/render"
	"github.com/findep/findep-operator/runtime/plan"
)

// maxTraceBytes bounds what a leader may send.
const maxTraceBytes = 1 << 30

// traceOptions are the flags of the trace command.
type traceOptions struct {
	instance, steps int32
	timeout         time.Duration
	url, output     string
}

// NewTrace is the command that records steps of a live instance.
func NewTrace() *cobra.Command {
	var o traceOptions
	cmd := &cobra.Command{
		Use:   "trace NAME | --url URL",
		Short: "Record steps of a live instance as a Chrome trace with all ranks on one clock",
		Long: `Asks the leader of an instance to record its next steps, and writes them as Chrome trace JSON,
which https://ui.perfetto.dev opens: one process per rank, one row per resource (attention compute,
A2E link, expert compute, E2A link), and a row with the steps, their plans and predictions. The ranks'
clocks are put on the leader's; the name of each process says how well its clock is known.

The instance must be working meanwhile, since only steps that run are recorded. The request goes through
the API server (pods/proxy); with --url it goes straight to the metrics port of rank 0.`,
		Example: "  kubectl findep trace deepseek --steps 32 -o trace.json\n  findep trace --url http://127.0.0.1:9401",
		Args:    cobra.MaximumNArgs(1),
	}
	a := newAccess(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if (len(args) == 1) == (o.url != "") {
			return BadInput{errors.New("name a MoEDeployment, or give --url, but not both")}
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), o.timeout+30*time.Second)
		defer cancel()
		body, err := openTrace(ctx, a, args, &o)
		if err != nil {
			return err
		}
		defer func() { _ = body.Close() }()
		return saveTrace(body, &o, cmd.OutOrStdout(), cmd.ErrOrStderr())
	}
	f := cmd.Flags()
	f.Int32Var(&o.instance, "instance", 0, "index of the instance")
	f.Int32Var(&o.steps, "steps", 16, "steps to record, at most 256")
	f.DurationVar(&o.timeout, "timeout", 30*time.Second, "take what there is after this time, at most 5m")
	f.StringVar(&o.url, "url", "", "address of rank 0's metrics port")
	f.StringVarP(&o.output, "output", "o", "-", `file to write; "-" is standard output`)
	return cmd
}

func (o *traceOptions) query() url.Values {
	return url.Values{"steps": {strconv.Itoa(int(o.steps))}, "timeout": {o.timeout.String()}}
}

func openTrace(ctx context.Context, a *access, args []string, o *traceOptions) (io.ReadCloser, error) {
	if o.url != "" {
		return getTrace(ctx, o)
	}
	c, err := a.open()
	if err != nil {
		return nil, err
	}
	d, err := a.get(ctx, c, args[0])
	if err != nil {
		return nil, err
	}
	if d.Status.Split == nil {
		return nil, fmt.Errorf("MoEDeployment %s has no instances yet", d.Name)
	}
	config, err := a.rest()
	if err != nil {
		return nil, err
	}
	clients, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	params := map[string]string{}
	for key := range o.query() {
		params[key] = o.query().Get(key)
	}
	pod := render.PodName(d.Name, o.instance, int(d.Status.Split.Attention), 0)
	body, err := clients.CoreV1().Pods(d.Namespace).ProxyGet("http", pod, strconv.Itoa(plan.MetricsPort), "debug/trace", params).Stream(ctx)
	if err != nil {
		return nil, fmt.Errorf("ask pod %s: %w", pod, err)
	}
	return body, nil
}

func getTrace(ctx context.Context, o *traceOptions) (io.ReadCloser, error) {
	address, err := url.Parse(o.url)
	if err != nil || address.Host == "" {
		return nil, BadInput{fmt.Errorf("--url is %q; give the address of rank 0's metrics port, such as http://127.0.0.1:9401", o.url)}
	}
	address = address.JoinPath("debug/trace")
	address.RawQuery = o.query().Encode()
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, address.String(), nil)
	if err != nil {
		return nil, err
	}
	r, err := http.DefaultClient.Do(q)
	if err != nil {
		return nil, err
	}
	if r.StatusCode != http.StatusOK {
		defer func() { _ = r.Body.Close() }()
		text, _ := io.ReadAll(io.LimitReader(r.Body, 4096))
		return nil, fmt.Errorf("%s: %s: %s", address.Host, r.Status, text)
	}
	return r.Body, nil
}

// saveTrace checks that it is a trace before anything is written, and says what
// is in it.
func saveTrace(body io.Reader, o *traceOptions, out, progress io.Writer) error {
	data, err := io.ReadAll(io.LimitReader(body, maxTraceBytes+1))
	if err != nil {
		return fmt.Errorf("read the trace: %w", err)
	}
	if len(data) > maxTraceBytes {
		return fmt.Errorf("the trace has more than %d bytes; ask for fewer steps", maxTraceBytes)
	}
	var trace struct {
		TraceEvents []struct {
			Phase string `json:"ph"`
		} `json:"traceEvents"`
	}
	if err := json.Unmarshal(data, &trace); err != nil {
		return fmt.Errorf("the answer is no trace: %w", err)
	}
	if o.output == "-" {
		_, err := out.Write(data)
		return err
	}
	if err := os.WriteFile(o.output, data, 0o644); err != nil { //nolint:gosec // a file for people
		return err
	}
	tasks := 0
	for _, e := range trace.TraceEvents {
		if e.Phase == "X" {
			tasks++
		}
	}
	fmt.Fprintf(progress, "%s: %d bars; open it in https://ui.perfetto.dev\n", o.output, tasks)
	return nil
}
