// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	_ "embed" // the report's text
	"fmt"
	"math"
	"slices"
	"strings"
	"text/template"

	"gonum.org/v1/plot"

	"github.com/findep/findep-operator/runtime/evaluation"
	"github.com/findep/findep-operator/runtime/profile"
)

//go:embed report.md.tmpl
var reportText string

// report holds what the experiments found. Paper is nil in a report that leaves
// out the slow part.
type report struct {
	Paper    *paperStudy
	Scale    *scaleStudy
	Noise    *noiseStudy
	Pressure *pressureStudy
	Random   *randomStudy
	Chunks   []*evaluation.ChunkRow
	Orders   *orderStudy
}

// steps is the number of experiments.
const steps = 7

// newReport runs all experiments. begin is called before each and returns what
// to call after it.
func newReport(begin func(step int, title string) func()) (*report, error) {
	r, err := newFastReport(begin)
	if err != nil {
		return nil, err
	}
	end := begin(steps-1, "seeking better orders")
	if r.Orders, err = studyOrders(); err != nil {
		return nil, err
	}
	end()
	end = begin(steps, "fitting the paper's testbeds")
	if r.Paper, err = studyPaper(); err != nil {
		return nil, err
	}
	end()
	return r, nil
}

// newFastReport runs the experiments that take seconds.
func newFastReport(begin func(step int, title string) func()) (*report, error) {
	r := &report{}
	for i, x := range []struct {
		title string
		study func() error
	}{
		{"scaling and link speed", func() (err error) { r.Scale, err = studyScale(); return }},
		{"memory pressure", func() (err error) { r.Pressure, err = studyPressure(); return }},
		{"random problems", func() (err error) { r.Random, err = studyRandom(); return }},
		{"causal chunks", func() (err error) { r.Chunks, err = studyChunks(); return }},
		{"noise", func() (err error) { r.Noise, err = studyNoise(); return }},
	} {
		end := begin(i+1, x.title)
		if err := x.study(); err != nil {
			return nil, fmt.Errorf("%s: %w", x.title, err)
		}
		end()
	}
	return r, nil
}

// pictures are the plots of all experiments.
func (r *report) pictures() []picture {
	return []picture{
		{"gains.svg", func() (*plot.Plot, error) { return plotGains(r.Paper.Offline[len(variants)-1]) }},
		{"scale.svg", func() (*plot.Plot, error) { return plotScale(r.Scale.Sizes[0]) }},
		{"links.svg", func() (*plot.Plot, error) { return plotLinks(r.Scale.Speeds[0]) }},
		{"jitter.svg", func() (*plot.Plot, error) { return plotJitter(r.Noise) }},
		{"drift.svg", func() (*plot.Plot, error) { return plotDrift(r.Noise) }},
		{"pressure.svg", func() (*plot.Plot, error) { return plotPressure(r.Pressure) }},
		{"random.svg", func() (*plot.Plot, error) { return plotRandom(r.Random) }},
		{"chunks.svg", func() (*plot.Plot, error) { return plotChunks(r.Chunks) }},
	}
}

// fastSections are the parts of the report, by their names in its template,
// that fast experiments suffice for.
var fastSections = []string{"scale", "noise", "pressure", "random", "chunks"}

// whole is the report.
func (r *report) whole() ([]byte, error) { return r.section("report") }

// section is one part of the report.
func (r *report) section(name string) ([]byte, error) {
	t, err := template.New("").Funcs(functions).Parse(reportText)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	if err := t.ExecuteTemplate(&b, name, r); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

var functions = template.FuncMap{
	"f":              func(digits int, x float64) string { return fmt.Sprintf("%.*f", digits, x) },
	"percent":        func(digits int, x float64) string { return fmt.Sprintf("%.*f %%", digits, 100*x) },
	"signed":         func(digits int, x float64) string { return fmt.Sprintf("%+.*f %%", digits, 100*x) },
	"k":              func(x float64) string { return fmt.Sprintf("%.1f", x/1e3) },
	"gb":             func(bytes int64) string { return fmt.Sprintf("%.2f GB", float64(bytes)/1e9) },
	"sub":            func(a, b float64) float64 { return a - b },
	"q":              quantile,
	"short":          shortName,
	"cap":            capName,
	"chunk":          chunkName,
	"assess":         evaluation.Assess,
	"guess":          evaluation.AssessConstant,
	"pays":           pays,
	"drift":          driftAt,
	"fitted":         func(f [][]*evaluation.Fit) []*evaluation.Fit { return pick(f, len(variants)-1) },
	"speeds":         effective,
	"mean":           meanGain,
	"flight":         func(f *evaluation.Fit, model string) string { return inFlight(f.Machine.TokensInFlight[model]) },
	"last":           func(p [][]evaluation.Prediction) []evaluation.Prediction { return p[len(p)-1] },
	"variant":        func(i int) string { return variants[i].String() },
	"sizes":          func() []int { return clusterSizes },
	"links":          func() []float64 { return linkSpeeds },
	"caps":           func() []int { return caps },
	"models":         func() []string { return models },
	"levels":         func() []float64 { return noiseLevels },
	"ncaps":          func() []int { return noiseCaps },
	"plan":           planText,
	"reading":        func(i int) string { return evaluation.Reading(i).String() },
	"chunkLeast":     leastChunkGains,
	"chunkLead":      chunkLead,
	"shortTokens":    func() int { return evaluation.ShortPromptTokens },
	"randomProblems": func() int { return randomProblems },
}

func pick(all [][]*evaluation.Fit, i int) (some []*evaluation.Fit) {
	for _, f := range all {
		some = append(some, f[i])
	}
	return some
}

func inFlight(tokens int) string {
	if tokens == 0 {
		return "memory model"
	}
	return fmt.Sprintf("%d", tokens)
}

// speedText are the machine's speeds in units that can be compared with a
// datasheet.
type speedText struct{ GEMM, Grouped, Core, Link, Launch string }

func effective(f *evaluation.Fit) (speedText, error) {
	p, err := profile.Preset(f.Testbed.Profile)
	if err != nil {
		return speedText{}, err
	}
	link, err := profile.Link(f.Testbed.Link)
	if err != nil {
		return speedText{}, err
	}
	m := &f.Machine
	// 1 us per 10^9 multiply-accumulates is 2000 TFLOP/s; per 10^6 bytes, 1000
	// GB/s.
	flops := func(us float64) string { return fmt.Sprintf("%.0f", 2e3/us) }
	return speedText{
		GEMM:    flops(p.GEMM.MicrosecondsPerGigaMAC * m.Compute),
		Grouped: flops(p.GroupedGEMM.MicrosecondsPerGigaMAC * m.Compute),
		Core:    flops(p.Attention.MicrosecondsPerGigaMAC * m.Core),
		Link:    fmt.Sprintf("%.1f", 1e3/(link.Transfer.MicrosecondsPerMegabyte*m.Link)),
		Launch:  fmt.Sprintf("%.0f", p.GEMM.AlphaMicroseconds*m.Latency),
	}, nil
}

// meanGain is the mean published gain, the best guess of somebody who has seen
// the answers.
func meanGain(p []evaluation.Prediction) float64 {
	sum, n := 0.0, 0.0
	for i := range p {
		if p[i].Cell.Misprint == "" {
			sum += p[i].Cell.Gain()
			n++
		}
	}
	return sum / n
}

// quantile is a value that a part of the list does not exceed.
func quantile(list []float64, part float64) float64 {
	sorted := slices.Sorted(slices.Values(list))
	return sorted[int(part*float64(len(sorted)-1)+0.5)]
}

func pays(d []*evaluation.Drift) string {
	level, ok := evaluation.ResolvingPays(d)
	if !ok {
		return fmt.Sprintf("not up to ±%.0f %%", 100*d[len(d)-1].Level)
	}
	return fmt.Sprintf("±%.0f %%", 100*level)
}

// driftAt is the drift study of a level.
func driftAt(d []*evaluation.Drift, level float64) (*evaluation.Drift, error) {
	for _, x := range d {
		if x.Level == level {
			return x, nil
		}
	}
	return nil, fmt.Errorf("no drift of %v was computed", level)
}

// planText is a plan without the policy's name.
func planText(p fmt.Stringer) string {
	_, rest, _ := strings.Cut(p.String(), " ")
	return rest
}

// leastChunkGains are the least gains with one sample in flight, over PPPipe and
// over FinDEP without chunks.
func leastChunkGains(rows []*evaluation.ChunkRow) []float64 {
	least := []float64{math.Inf(1), math.Inf(1)}
	for _, r := range rows {
		if r.Case.Samples == 1 {
			least[0], least[1] = min(least[0], r.OverPPPipe()), min(least[1], r.OverFinDEP())
		}
	}
	return least
}

// chunkLead is the most by which FinDEP is ahead of PPPipe if both have chunks.
func chunkLead(rows []*evaluation.ChunkRow) float64 {
	most := 0.0
	for _, r := range rows {
		most = max(most, r.ChunkedFinDEP.TokensPerSecond/r.ChunkedPPPipe.TokensPerSecond-1)
	}
	return most
}
