// SPDX-License-Identifier: Apache-2.0

package report_test

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"math"
	"regexp"
	"strings"
	"testing"

	"github.com/findep/findep-operator/runtime/plan"
	"github.com/findep/findep-operator/runtime/report"
	"github.com/findep/findep-operator/runtime/schedule"
	"github.com/findep/findep-operator/runtime/sim"
)

// timeline simulates two policies with small numbers.
func timeline(t *testing.T, layers int) *report.Timeline {
	t.Helper()
	page := &report.Timeline{Title: "A <test>", Subtitle: "two & three", Notes: []string{"</script><b>note</b>"}}
	for _, p := range []plan.Plan{
		{Policy: plan.FinDEP, MicroBatchSize: 1, R1: 2, R2: 2, Order: plan.ASAS, Chunks: 1},
		{Policy: plan.PPPipe, MicroBatchSize: 1, R1: 2, R2: 1, Order: plan.ASAS, Chunks: 1},
	} {
		s, err := schedule.Build(p, layers, schedule.Options{SharedExperts: true})
		if err != nil {
			t.Fatal(err)
		}
		durations := sim.Uniform{3, 1, 2, 2.5, 1.5}
		r, err := sim.Run(s, durations.Duration)
		if err != nil {
			t.Fatal(err)
		}
		page.Panels = append(page.Panels, report.NewPanel(p.String()+" </script>", "summary", s, r))
	}
	return page
}

func render(t *testing.T, page *report.Timeline) string {
	t.Helper()
	var b bytes.Buffer
	if err := report.WriteTimeline(&b, page); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// pageData are the bars as the page's script gets them.
type pageData struct {
	Kinds  []string
	Panels []struct {
		Name         string
		Milliseconds float64
		Lanes        []struct {
			Name string
			Bars [][6]int64
		}
	}
}

func dataOf(t *testing.T, html string) pageData {
	t.Helper()
	m := regexp.MustCompile(`(?m)^const data = (.*);$`).FindStringSubmatch(html)
	if m == nil {
		t.Fatal("the page has no data")
	}
	var d pageData
	if err := json.Unmarshal([]byte(m[1]), &d); err != nil {
		t.Fatal(err)
	}
	return d
}

func TestTimelineHoldsEveryTaskInOrder(t *testing.T) {
	page := timeline(t, 3)
	d := dataOf(t, render(t, page))
	if len(d.Panels) != 2 || len(d.Kinds) != int(schedule.NumKinds) {
		t.Fatalf("%d panels, kinds %v", len(d.Panels), d.Kinds)
	}
	for i, panel := range d.Panels {
		if len(panel.Lanes) != int(schedule.NumResources) {
			t.Fatalf("panel %d has %d lanes", i, len(panel.Lanes))
		}
		for j, lane := range panel.Lanes {
			want := page.Panels[i].Lanes[j].Bars
			if len(lane.Bars) != len(want) || len(want) == 0 {
				t.Fatalf("%s has %d bars, want %d", lane.Name, len(lane.Bars), len(want))
			}
			end := int64(0)
			for k, b := range lane.Bars {
				if b[4] < end {
					t.Errorf("%s: bar %d starts at %d, before the end of the one before", lane.Name, k, b[4])
				}
				end = b[4] + b[5]
				if math.Abs(float64(end)-1e6*want[k].End) > 2 || b[1] != int64(want[k].Layer) || b[2] != int64(want[k].MicroBatch) || b[3] != int64(want[k].Segment) {
					t.Errorf("%s: bar %d is %v, want %+v", lane.Name, k, b, want[k])
				}
			}
			if float64(end) > 1e6*panel.Milliseconds+2 {
				t.Errorf("%s ends after the panel", lane.Name)
			}
		}
	}
}

// selfContained fails for a page that could load anything.
func selfContained(t *testing.T, html string) {
	t.Helper()
	if !strings.Contains(html, `Content-Security-Policy" content="default-src 'none';`) {
		t.Error("no content security policy")
	}
	for _, bad := range []string{"src=", "href=", "url(", "@import", "fetch(", "XMLHttpRequest"} {
		if strings.Contains(html, bad) {
			t.Errorf("the page has %q", bad)
		}
	}
	// The one address is the name of SVG's namespace.
	if got := regexp.MustCompile(`https?://[^"'\s]+`).FindAllString(html, -1); len(got) > 1 || len(got) == 1 && got[0] != "http://www.w3.org/2000/svg" {
		t.Errorf("the page names %v", got)
	}
}

func TestTimelineIsSelfContainedAndEscaped(t *testing.T) {
	html := render(t, timeline(t, 2))
	selfContained(t, html)
	if n := strings.Count(html, "</script>"); n != 1 {
		t.Errorf("%d script ends; a name escaped from its place", n)
	}
	for _, want := range []string{"A &lt;test&gt;", "two &amp; three", "&lt;b&gt;note", `id="panel-0"`, `id="panel-1"`} {
		if !strings.Contains(html, want) {
			t.Errorf("%q is missing", want)
		}
	}
}

func TestTimelineRefusesTooManyBars(t *testing.T) {
	page := &report.Timeline{Panels: []report.Panel{{Lanes: []report.Lane{{Bars: make([]report.Bar, report.MaxBars+1)}}}}}
	if err := report.WriteTimeline(io.Discard, page); err == nil || !strings.Contains(err.Error(), "fewer layers") {
		t.Errorf("got %v", err)
	}
}

type broken struct{}

func (broken) Write([]byte) (int, error) { return 0, errors.New("disk full") }

func TestWriteErrorsAreReported(t *testing.T) {
	if err := report.WriteTimeline(broken{}, timeline(t, 2)); err == nil || !strings.Contains(err.Error(), "disk full") {
		t.Errorf("timeline: %v", err)
	}
	if err := report.WriteTable(broken{}, &report.Table{}); err == nil || !strings.Contains(err.Error(), "disk full") {
		t.Errorf("table: %v", err)
	}
}

func TestPlots(t *testing.T) {
	nan := math.NaN()
	for name, tc := range map[string]struct {
		plot  report.Plot
		dots  int
		texts []string
	}{
		"two lines with a gap": {report.Plot{Title: "a", XLabel: "tokens", YLabel: "ms", Series: []report.Series{
			{Name: "one <1>", X: []float64{1, 2, 3}, Y: []float64{10, nan, 30}}, {Name: "two", X: []float64{1, 2, 3}, Y: []float64{1, 2, 3}}}},
			5, []string{"tokens", "ms", "one &lt;1&gt;", "two"}},
		"categories": {report.Plot{Categories: []string{"h20", "h100"}, Series: []report.Series{{Name: "x", X: []float64{0, 1}, Y: []float64{1, 2}}}},
			2, []string{"h20", "h100"}},
		"one point":   {report.Plot{Series: []report.Series{{Name: "x", X: []float64{5}, Y: []float64{0}}}}, 1, nil},
		"nothing":     {report.Plot{}, 0, nil},
		"only gaps":   {report.Plot{Series: []report.Series{{Name: "x", X: []float64{1, 2}, Y: []float64{nan, nan}}}}, 0, nil},
		"huge values": {report.Plot{Series: []report.Series{{Name: "x", X: []float64{1, 1e300}, Y: []float64{1e-300, 1e300}}}}, 2, nil},
	} {
		t.Run(name, func(t *testing.T) {
			svg := tc.plot.SVG()
			if err := wellFormed(svg); err != nil {
				t.Errorf("%v in\n%s", err, svg)
			}
			if n := strings.Count(svg, "<circle"); n != tc.dots {
				t.Errorf("%d dots, want %d", n, tc.dots)
			}
			for _, text := range append(tc.texts, "</svg>") {
				if !strings.Contains(svg, text) {
					t.Errorf("%q is missing in\n%s", text, svg)
				}
			}
			if strings.Contains(svg, "NaN") || strings.Contains(svg, "Inf") {
				t.Errorf("not a number in\n%s", svg)
			}
		})
	}
}

func wellFormed(svg string) error {
	d := xml.NewDecoder(strings.NewReader(svg))
	for {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
}

func TestManyLinesAreCutAndSaidSo(t *testing.T) {
	p := report.Plot{}
	for range 30 {
		p.Series = append(p.Series, report.Series{Name: "x", X: []float64{1, 2}, Y: []float64{1, 2}})
	}
	if svg := p.SVG(); !strings.Contains(svg, "6 more lines") || strings.Count(svg, "<path") != 24 {
		t.Error("the plot does not say that lines are missing")
	}
}

func TestTablePage(t *testing.T) {
	var b bytes.Buffer
	page := &report.Table{
		Title: "Sweep", Columns: []string{"key", "tokens/s"}, Rows: [][]string{{"<1>", "2"}},
		Plots: []report.Plot{{Title: "Throughput", Series: []report.Series{{Name: "x", X: []float64{1, 2}, Y: []float64{1, 2}}}}},
	}
	if err := report.WriteTable(&b, page); err != nil {
		t.Fatal(err)
	}
	selfContained(t, b.String())
	for _, want := range []string{"<td>&lt;1&gt;</td>", "<th>tokens/s</th>", "<svg", "Throughput"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("%q is missing", want)
		}
	}
}
