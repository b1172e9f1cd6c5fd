// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"image/color"
	"math"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"

	"github.com/findep/findep-operator/runtime/evaluation"
)

// shortName is a model's name without its publisher and size.
func shortName(model string) string {
	name := model[strings.LastIndex(model, "/")+1:]
	return strings.TrimSuffix(name, "-A22B")
}

// capName names a bound on samples in flight.
func capName(samples int) string {
	switch samples {
	case 0:
		return "as memory allows"
	case 1:
		return "1 sample"
	}
	return fmt.Sprintf("%d samples", samples)
}

// plotGains draws published and predicted gains of Table 5, cell by cell.
func plotGains(predictions []evaluation.Prediction) (*plot.Plot, error) {
	p := newPlot("Table 5: FinDEP's gain over PPPipe, published and predicted blind", "", "throughput relative to PPPipe")
	var names []string
	published := series{name: "published", colour: 1, points: true}
	predicted := series{name: "predicted, fitted to PPPipe only", colour: 0, points: true}
	for i := range predictions {
		x := &predictions[i]
		if x.Cell.Misprint != "" {
			continue
		}
		at := float64(len(names))
		names = append(names, fmt.Sprintf("%s %s %dk", x.Cell.Testbed, strings.SplitN(shortName(x.Cell.Model), "-", 2)[0], x.Cell.Tokens/1024))
		published.x, published.y = append(published.x, at), append(published.y, x.Cell.Gain())
		predicted.x, predicted.y = append(predicted.x, at), append(predicted.y, x.Gain())
		line, err := plotter.NewLine(plotter.XYs{{X: at, Y: x.Cell.Gain()}, {X: at, Y: x.Gain()}})
		if err != nil {
			return nil, err
		}
		line.Color, line.Width = color.Gray{150}, vg.Points(1)
		p.Add(line)
	}
	nameTicks(&p.X, names)
	evenTicks(&p.Y, 0.9, 1.8, 0.1, 1)
	return p, addSeries(p, published, predicted)
}

func plotScale(rows [][]*evaluation.Comparison) (*plot.Plot, error) {
	p := newPlot("Gain by size: DeepSeek-V2, H200, 400 Gb/s RDMA, prompts of 4096 tokens", "GPUs", "throughput relative to PPPipe")
	for i, row := range rows {
		s := series{name: capName(caps[i]), colour: i}
		for k, c := range row {
			s.x, s.y = append(s.x, float64(clusterSizes[k])), append(s.y, c.Gain())
		}
		if err := addSeries(p, s); err != nil {
			return nil, err
		}
	}
	var ticks []float64
	for _, n := range clusterSizes {
		ticks = append(ticks, float64(n))
	}
	logTicks(&p.X, ticks)
	evenTicks(&p.Y, 0.8, 3, 0.2, 1)
	return p, nil
}

func plotLinks(rows [][]*evaluation.Comparison) (*plot.Plot, error) {
	p := newPlot("Gain by link speed: DeepSeek-V2 on 32 H200, prompts of 4096 tokens", "link between the groups, GB/s per GPU and direction", "throughput relative to PPPipe")
	for i, row := range rows {
		s := series{name: capName(caps[i]), colour: i}
		for k, c := range row {
			s.x, s.y = append(s.x, linkSpeeds[k]), append(s.y, c.Gain())
		}
		if err := addSeries(p, s); err != nil {
			return nil, err
		}
	}
	logTicks(&p.X, linkSpeeds)
	evenTicks(&p.Y, 0.8, 2.8, 0.2, 1)
	return p, nil
}

// plotJitter draws the range from the 5th to the 95th percentile of noisy
// throughput, relative to none.
func plotJitter(s *noiseStudy) (*plot.Plot, error) {
	p := newPlot("Throughput when every task's time is noisy (median, 5th to 95th percentile)", "", "relative to no noise")
	var names []string
	for i, samples := range noiseCaps {
		for k, at := range noiseLevels {
			x := float64(len(names))
			names = append(names, fmt.Sprintf("%s, ±%.0f %%", capName(samples), 100*at))
			for side, values := range [][]float64{s.Jitter[i][k].FinDEP, s.Jitter[i][k].PPPipe} {
				name := ""
				if x == 0 {
					name = []string{"FinDEP", "PPPipe"}[side]
				}
				if err := addRange(p, name, x-0.15+0.3*float64(side), values, side); err != nil {
					return nil, err
				}
			}
		}
	}
	nameTicks(&p.X, names)
	p.Legend.Top = false
	evenTicks(&p.Y, 0.95, 1.02, 0.01, 2)
	p.X.Min, p.X.Max = -0.5, float64(len(names))-0.5
	return p, level(p, 1, -0.5, float64(len(names))-0.5)
}

func addRange(p *plot.Plot, name string, x float64, values []float64, colour int) error {
	low, middle, high := quantile(values, 0.05), quantile(values, 0.5), quantile(values, 0.95)
	line, err := plotter.NewLine(plotter.XYs{{X: x, Y: low}, {X: x, Y: high}})
	if err != nil {
		return err
	}
	line.Color, line.Width = palette[colour], vg.Points(3)
	p.Add(line)
	return addSeries(p, series{name: name, x: []float64{x}, y: []float64{middle}, colour: colour, points: true})
}

func plotDrift(s *noiseStudy) (*plot.Plot, error) {
	p := newPlot("How often an old plan stays within 2 % of the best when stages drift", "drift of each stage's time, ± %", "% of draws")
	for i, row := range s.Drift {
		name := "random problems, 1 to 4 samples"
		if i < len(noiseCaps) {
			name = "DeepSeek-V2, " + capName(noiseCaps[i])
		}
		line := series{name: name, colour: i}
		for _, d := range row {
			line.x, line.y = append(line.x, 100*d.Level), append(line.y, 100*d.Within(0.02))
		}
		if err := addSeries(p, line); err != nil {
			return nil, err
		}
	}
	p.Legend.Top = false
	evenTicks(&p.X, 0, 80, 10, 0)
	evenTicks(&p.Y, 60, 100, 5, 0)
	return p, nil
}

func plotPressure(s *pressureStudy) (*plot.Plot, error) {
	p := newPlot("Memory pressure on the attention GPUs: Qwen3-235B on 4 + 4 H200", "% of usable memory taken", "thousand tokens/s")
	lines := []series{{name: "FinDEP", colour: 0, bare: true}, {name: "PPPipe", colour: 1, bare: true}}
	for i := range s.Curve {
		row := &s.Curve[i]
		for k, r := range []float64{row.FinDEP.TokensPerSecond, row.PPPipe.TokensPerSecond} {
			if r > 0 {
				lines[k].x, lines[k].y = append(lines[k].x, 100*row.Taken), append(lines[k].y, r/1e3)
			}
		}
	}
	p.Legend.Top = false
	evenTicks(&p.X, 85, 100, 1, 0)
	evenTicks(&p.Y, 0, 70, 10, 0)
	return p, addSeries(p, lines...)
}

// plotRandom draws the distribution of gains: how many problems gain at most so
// much.
func plotRandom(s *randomStudy) (*plot.Plot, error) {
	p := newPlot("Gain over the best PPPipe plan on random problems", "throughput relative to PPPipe", "% of problems that gain at most this")
	for i, g := range s.ByCap {
		line := series{name: "at most " + capName(g.Most), colour: i, bare: true}
		for part := 0.0; part <= 100 && g.Quantile(part/100) <= 2; part++ {
			line.x, line.y = append(line.x, g.Quantile(part/100)), append(line.y, part)
		}
		if err := addSeries(p, line); err != nil {
			return nil, err
		}
	}
	p.Legend.Top, p.Legend.XOffs = false, vg.Points(380)
	evenTicks(&p.X, 1, 2, 0.1, 1)
	evenTicks(&p.Y, 0, 100, 10, 0)
	return p, nil
}

// plotChunks draws a group of bars per case.
func plotChunks(rows []*evaluation.ChunkRow) (*plot.Plot, error) {
	p := newPlot("Causal chunks: the best plan of each scheme", "", "relative to PPPipe, no chunks")
	var names []string
	schemes := []string{"FinDEP", "PPPipe with chunks", "FinDEP with chunks"}
	values := make([]plotter.Values, len(schemes))
	for _, r := range rows {
		names = append(names, chunkName(&r.Case))
		for k, x := range []float64{r.FinDEP.TokensPerSecond, r.ChunkedPPPipe.TokensPerSecond, r.ChunkedFinDEP.TokensPerSecond} {
			values[k] = append(values[k], x/r.PPPipe.TokensPerSecond)
		}
	}
	for k, v := range values {
		bars, err := plotter.NewBarChart(v, vg.Points(13))
		if err != nil {
			return nil, err
		}
		bars.Color, bars.LineStyle.Width = palette[[]int{4, 1, 0}[k]], 0
		bars.Offset = vg.Points(13 * float64(k-1))
		p.Add(bars)
		p.Legend.Add(schemes[k], bars)
	}
	nameTicks(&p.X, names)
	p.X.Tick.Label.Rotation = math.Pi / 6
	p.X.Tick.Label.YAlign = draw.YTop
	evenTicks(&p.Y, 0, 4, 0.5, 1)
	p.X.Min, p.X.Max = -0.6, float64(len(names))-0.4
	return p, level(p, 1, -0.6, float64(len(names))-0.4)
}

// chunkName is a short name of a case.
func chunkName(c *evaluation.ChunkCase) string {
	name := "V2-Lite"
	if c.Qwen {
		name = "Qwen3-30B"
	}
	name += fmt.Sprintf(" S=%d R=%d", c.Tokens, c.Samples)
	switch {
	case c.Link != 1:
		name += ", slow link"
	case c.Latency != 1:
		name += ", slow launch"
	}
	return name
}
