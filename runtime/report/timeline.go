// SPDX-License-Identifier: Apache-2.0

// Package report writes self-contained HTML pages: timelines of simulated or
// measured schedules, and tables with plots. A page loads nothing from
// elsewhere, and its content security policy forbids it to.
package report

import (
	"bufio"
	_ "embed"
	"encoding/json"
	"fmt"
	"html/template"
	"io"
	"math"

	"github.com/findep/findep-operator/runtime/schedule"
	"github.com/findep/findep-operator/runtime/sim"
)

// MaxBars bounds the bars of one page: a browser still scrolls through that
// many without delay.
const MaxBars = 400_000

// Timeline is a page with the tasks of one or more schedules on a common time
// axis.
type Timeline struct {
	Title, Subtitle string
	// Panels are shown one below the other, so that equal times align.
	Panels []Panel
	// Notes are sentences below the panels.
	Notes []string
}

// Panel is one schedule.
type Panel struct {
	// Name and Summary head the panel.
	Name, Summary string
	// Milliseconds is the end of the last bar.
	Milliseconds float64
	Lanes        []Lane
}

// Lane is one resource. Its bars follow each other in time.
type Lane struct {
	Name string
	// BusyShare is the covered part of the panel's time, between 0 and 1.
	BusyShare float64
	Bars      []Bar
}

// Bar is one task.
type Bar struct {
	Kind                       schedule.Kind
	Layer, MicroBatch, Segment int32
	// Start and End are in milliseconds.
	Start, End float64
}

// MarshalJSON writes [kind, layer, micro-batch, segment, start, duration] with
// times in whole nanoseconds, which keeps pages small.
func (b Bar) MarshalJSON() ([]byte, error) {
	const nanoseconds = 1e6
	return fmt.Appendf(nil, "[%d,%d,%d,%d,%.0f,%.0f]", b.Kind, b.Layer, b.MicroBatch, b.Segment,
		math.Round(nanoseconds*b.Start), math.Round(nanoseconds*(b.End-b.Start))), nil
}

// laneNames are the resources as people call them.
var laneNames = [schedule.NumResources]string{"Attention GPUs", "A2E link", "Expert GPUs", "E2A link"}

// NewPanel makes a panel with one lane per resource from a simulation.
func NewPanel(name, summary string, s *schedule.Schedule, r *sim.Result) Panel {
	p := Panel{Name: name, Summary: summary, Milliseconds: r.Makespan}
	for resource := range schedule.NumResources {
		lane := Lane{Name: laneNames[resource], BusyShare: r.BusyShare(resource)}
		for _, id := range s.Stream(resource) {
			t := &s.Tasks[id]
			lane.Bars = append(lane.Bars, Bar{t.Kind, t.Layer, t.MicroBatch, t.Segment, r.Start[id], r.End[id]})
		}
		p.Lanes = append(p.Lanes, lane)
	}
	return p
}

var (
	//go:embed timeline.html
	timelineHTML string
	//go:embed timeline.js
	timelineJS string
	//go:embed page.css
	pageCSS string

	timelinePage = template.Must(template.New("timeline").Funcs(template.FuncMap{"percent": percent}).Parse(timelineHTML))
)

func percent(share float64) string { return fmt.Sprintf("%.0f %%", 100*share) }

// WriteTimeline writes the page. The error says how many bars are too many, or
// is the writer's.
func WriteTimeline(w io.Writer, t *Timeline) error {
	bars := 0
	for i := range t.Panels {
		for _, l := range t.Panels[i].Lanes {
			bars += len(l.Bars)
		}
	}
	if bars > MaxBars {
		return fmt.Errorf("timeline: %d tasks, more than %d; show fewer layers", bars, MaxBars)
	}
	kinds := make([]string, schedule.NumKinds)
	for k := range schedule.NumKinds {
		kinds[k] = k.String()
	}
	data, err := json.Marshal(struct {
		Kinds  []string
		Panels []Panel
	}{kinds, t.Panels})
	if err != nil {
		return fmt.Errorf("timeline: %w", err)
	}
	out := bufio.NewWriter(w)
	err = timelinePage.Execute(out, struct {
		*Timeline
		CSS  template.CSS
		JS   template.JS
		Data template.JS
	}{t, template.CSS(pageCSS), template.JS(timelineJS), template.JS(data)}) // #nosec G203 -- json.Marshal escapes <, > and &.
	if err != nil {
		return fmt.Errorf("timeline: %w", err)
	}
	return out.Flush()
}
