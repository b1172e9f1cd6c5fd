// SPDX-License-Identifier: Apache-2.0

package report

import (
	"bufio"
	"fmt"
	"html/template"
	"io"
	"math"
	"slices"
	"strings"
)

// Table is a page with plots above a table.
type Table struct {
	Title, Subtitle string
	Plots           []Plot
	Columns         []string
	Rows            [][]string
}

// Plot is a line chart. Points whose y is NaN are left out.
type Plot struct {
	Title string
	// XLabel and YLabel name the axes, with units.
	XLabel, YLabel string
	// Categories, if set, are the labels of x = 0, 1, ...
	Categories []string
	Series     []Series
}

// Series is one line of a plot.
type Series struct {
	Name string
	// Group numbers the colours, so that lines to compare share one; Baseline
	// lines are dashed.
	Group    int
	Baseline bool
	// X and Y have the same length; X increases.
	X, Y []float64
}

// maxSeries bounds the lines of a plot: more cannot be told apart.
const maxSeries = 24

const (
	plotWidth, plotHeight = 720.0, 320.0
	plotLeft, plotBottom  = 78.0, 42.0
	plotTop, plotRight    = 10.0, 10.0
)

// palette can be told apart by most people who do not see all colours.
var palette = [...]string{
	"#0072b2", "#d55e00", "#009e73", "#b8860b", "#cc79a7", "#56b4e9", "#7a5195", "#8c564b", "#7f7f7f", "#bcbd22", "#003f5c", "#ff7c43",
}

var tablePage = template.Must(template.New("table").Parse(`<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{.Title}}</title>
<style>
{{.CSS}}
</style>
</head>
<body>
<header>
<h1>{{.Title}}</h1>
<p>{{.Subtitle}}</p>
</header>
{{range .Figures}}<figure>
<figcaption>{{.Title}}</figcaption>
{{.SVG}}</figure>
{{end}}<div class="scroll">
<table>
<thead><tr>{{range .Columns}}<th>{{.}}</th>{{end}}</tr></thead>
<tbody>
{{range .Rows}}<tr>{{range .}}<td>{{.}}</td>{{end}}</tr>
{{end}}</tbody>
</table>
</div>
</body>
</html>
`))

type figure struct {
	Title string
	SVG   template.HTML
}

// WriteTable writes the page. The error is the writer's.
func WriteTable(w io.Writer, t *Table) error {
	figures := make([]figure, len(t.Plots))
	for i := range t.Plots {
		// SVG escapes every text it holds.
		figures[i] = figure{t.Plots[i].Title, template.HTML(t.Plots[i].SVG())} // #nosec G203
	}
	out := bufio.NewWriter(w)
	err := tablePage.Execute(out, struct {
		*Table
		CSS     template.CSS
		Figures []figure
	}{t, template.CSS(pageCSS), figures})
	if err != nil {
		return fmt.Errorf("table: %w", err)
	}
	return out.Flush()
}

// scale maps values to pixels.
type scale struct{ low, high, from, to float64 }

func (s scale) at(v float64) float64 {
	return s.from + (v-s.low)/(s.high-s.low)*(s.to-s.from)
}

// SVG draws the plot.
func (p *Plot) SVG() string {
	x, y := p.scales()
	var b strings.Builder
	series := p.Series[:min(len(p.Series), maxSeries)]
	height := plotHeight + 18*float64((len(series)+1)/2)
	fmt.Fprintf(&b, `<svg class="plot" viewBox="0 0 %g %g" role="img" aria-label="%s">`+"\n", plotWidth, height, escape(p.Title))
	p.axes(&b, x, y)
	for i := range series {
		color, dash := palette[series[i].Group%len(palette)], ""
		if series[i].Baseline {
			dash = "5 4"
		}
		drawSeries(&b, &series[i], x, y, color, dash)
		lx, ly := plotLeft+float64(i%2)*320, plotHeight+18*float64(i/2)+10
		fmt.Fprintf(&b, `<line x1="%g" y1="%g" x2="%g" y2="%g" stroke="%s" stroke-width="2" stroke-dasharray="%s"/>`, lx, ly-4, lx+22, ly-4, color, dash)
		fmt.Fprintf(&b, `<text x="%g" y="%g">%s</text>`+"\n", lx+28, ly, escape(series[i].Name))
	}
	if n := len(p.Series) - len(series); n > 0 {
		fmt.Fprintf(&b, `<text x="%g" y="%g">%d more lines are in the table only</text>`, plotLeft, height-2, n)
	}
	b.WriteString("</svg>\n")
	return b.String()
}

func drawSeries(b *strings.Builder, s *Series, x, y scale, color, dash string) {
	var line, dots strings.Builder
	pen := "M"
	for i := range s.X {
		if math.IsNaN(s.Y[i]) {
			pen = "M"
			continue
		}
		px, py := x.at(s.X[i]), y.at(s.Y[i])
		fmt.Fprintf(&line, "%s%.1f %.1f", pen, px, py)
		fmt.Fprintf(&dots, `<circle cx="%.1f" cy="%.1f" r="3" fill="%s"><title>%s: %s</title></circle>`, px, py, color, escape(s.Name), number(s.Y[i]))
		pen = "L"
	}
	fmt.Fprintf(b, `<path d="%s" fill="none" stroke="%s" stroke-width="2" stroke-dasharray="%s"/>%s`+"\n", line.String(), color, dash, dots.String())
}

// axes draws the grid and the labels.
func (p *Plot) axes(b *strings.Builder, x, y scale) {
	for _, v := range ticks(y.low, y.high, 5) {
		at := y.at(v)
		fmt.Fprintf(b, `<line class="grid" x1="%g" x2="%g" y1="%.1f" y2="%.1f"/><text x="%g" y="%.1f" text-anchor="end">%s</text>`+"\n",
			plotLeft, plotWidth-plotRight, at, at, plotLeft-6, at+4, number(v))
	}
	bottom := plotHeight - plotBottom
	for _, t := range p.xTicks(x) {
		fmt.Fprintf(b, `<line class="grid" x1="%.1f" x2="%.1f" y1="%g" y2="%g"/><text x="%.1f" y="%g" text-anchor="middle">%s</text>`+"\n",
			x.at(t.value), x.at(t.value), plotTop, bottom, x.at(t.value), bottom+15, escape(t.label))
	}
	fmt.Fprintf(b, `<text x="%g" y="%g" text-anchor="middle">%s</text>`+"\n", (plotLeft+plotWidth-plotRight)/2, bottom+32, escape(p.XLabel))
	fmt.Fprintf(b, `<text transform="translate(12 %g) rotate(-90)" text-anchor="middle">%s</text>`+"\n", (plotTop+bottom)/2, escape(p.YLabel))
}

type tick struct {
	value float64
	label string
}

// xTicks are the values that occur, or round ones if they are many.
func (p *Plot) xTicks(x scale) []tick {
	var list []tick
	for i, label := range p.Categories {
		list = append(list, tick{float64(i), label})
	}
	if len(list) > 0 {
		return list
	}
	var values []float64
	for i := range p.Series {
		values = append(values, p.Series[i].X...)
	}
	slices.Sort(values)
	values = slices.Compact(values)
	if len(values) > 12 || crowded(values, x) {
		values = ticks(x.low, x.high, 8)
	}
	for _, v := range values {
		list = append(list, tick{v, number(v)})
	}
	return list
}

// crowded tells whether labels at these values would overlap.
func crowded(values []float64, x scale) bool {
	for i := 1; i < len(values); i++ {
		if x.at(values[i])-x.at(values[i-1]) < 36 {
			return true
		}
	}
	return false
}

// scales cover all points; y starts at 0.
func (p *Plot) scales() (x, y scale) {
	x = scale{math.Inf(1), math.Inf(-1), plotLeft, plotWidth - plotRight}
	y = scale{0, 0, plotHeight - plotBottom, plotTop}
	if n := len(p.Categories); n > 0 {
		x.low, x.high = 0, float64(n-1)
	}
	for i := range p.Series {
		for j, v := range p.Series[i].X {
			x.low, x.high = min(x.low, v), max(x.high, v)
			if u := p.Series[i].Y[j]; !math.IsNaN(u) {
				y.high = max(y.high, u)
			}
		}
	}
	if !(x.low < x.high) {
		if math.IsInf(x.low, 0) {
			x.low = 0
		}
		x.low, x.high = x.low-1, x.low+1
	}
	if y.high == 0 {
		y.high = 1
	}
	y.high *= 1.05
	return x, y
}

// ticks are about n round values between low and high.
func ticks(low, high float64, n int) []float64 {
	raw := (high - low) / float64(n)
	power := math.Pow(10, math.Floor(math.Log10(raw)))
	step := 10 * power
	for _, f := range []float64{1, 2, 5} {
		if f*power >= raw {
			step = f * power
			break
		}
	}
	var list []float64
	for k := math.Ceil(low / step); k*step <= high; k++ {
		list = append(list, k*step)
	}
	return list
}

// number writes a value for people.
func number(v float64) string {
	switch a := math.Abs(v); {
	case a >= 1e6:
		return fmt.Sprintf("%.3gM", v/1e6)
	case a >= 1e4:
		return fmt.Sprintf("%.3gk", v/1e3)
	}
	return fmt.Sprintf("%.4g", v)
}

func escape(s string) string { return template.HTMLEscapeString(s) }
