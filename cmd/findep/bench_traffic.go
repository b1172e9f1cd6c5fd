// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/findep/findep-operator/runtime/bench"
	"github.com/findep/findep-operator/runtime/local"
	"github.com/findep/findep-operator/runtime/plan"
	"github.com/findep/findep-operator/runtime/serving"
)

// kinds are the kinds of traffic that --traffic names.
func (o *benchOptions) kinds() ([]bench.Traffic, error) {
	var all []bench.Traffic
	for _, text := range o.traffic {
		t, err := bench.ParseTraffic(text)
		if err != nil {
			return nil, fmt.Errorf("--traffic: %w", err)
		}
		all = append(all, t)
	}
	return all, nil
}

func (o *benchOptions) validateTraffic() error {
	if len(o.traffic) == 0 {
		return nil
	}
	kinds, err := o.kinds()
	if err != nil {
		return err
	}
	c := o.trafficConfig(kinds)
	return c.Validate()
}

func (o *benchOptions) trafficConfig(kinds []bench.Traffic) bench.TrafficConfig {
	return bench.TrafficConfig{Traffic: kinds, Settle: o.settle, Turn: o.turn, Repeat: o.config.Repeat, Seed: o.config.Seed}
}

// trafficContext is the longest sequence of any traffic.
func (o *benchOptions) trafficContext() int {
	most := 0
	kinds, _ := o.kinds() // Checked with the flags.
	for _, t := range kinds {
		most = max(most, t.Tokens+o.settle+o.turn*o.config.Repeat)
	}
	return most
}

// changeTraffic lets the instance see every kind of traffic. Each is compared
// with an instance of its own, on the same link and cores.
func (o *benchOptions) changeTraffic(ctx context.Context, live *serving.Client, options local.Options, progress io.Writer) ([]bench.TrafficResult, error) {
	kinds, err := o.kinds()
	if err != nil {
		return nil, err
	}
	c := o.trafficConfig(kinds)
	c.Alone = func(ctx context.Context, t bench.Traffic) (bench.Engine, func(), error) {
		fmt.Fprintf(progress, "%s: an instance of its own is started\n", t)
		instance, client, err := startReady(ctx, options)
		if err != nil {
			return nil, nil, err
		}
		return client, func() {
			instance.Stop()
			_ = client.Close()
		}, nil
	}
	return bench.RunTraffic(ctx, live, c)
}

func printTraffic(out io.Writer, results []bench.TrafficResult) error {
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, "TRAFFIC\tPLAN\tSTEPS UNTIL\tCHANGES\tTOKENS/S (MIN-MAX)\tPLAN ALONE\tTOKENS/S ALONE\tRATIO")
	short := func(p plan.Plan) string {
		return fmt.Sprintf("m_a=%d r1=%d r2=%d q=%d %s", p.MicroBatchSize, p.R1, p.R2, p.Chunks, p.Order)
	}
	for _, r := range results {
		fmt.Fprintf(w, "%s\t%s\t%d\t%d in %d\t%.0f (%.0f-%.0f)\t%s\t%.0f (%.0f-%.0f)\t%.3f (%.3f-%.3f)\n",
			r.Traffic, short(r.Plan), r.StepsUntilPlan, r.Changes, r.Steps,
			r.TokensPerSecond.Median, r.TokensPerSecond.Min, r.TokensPerSecond.Max, short(r.AlonePlan),
			r.AloneTokensPerSecond.Median, r.AloneTokensPerSecond.Min, r.AloneTokensPerSecond.Max, r.Ratio.Median, r.Ratio.Min, r.Ratio.Max)
	}
	return w.Flush()
}
