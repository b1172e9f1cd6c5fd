// SPDX-License-Identifier: Apache-2.0

// Command picture draws the timeline of the README: the same work under the
// three policies, simulated on the schedules that ranks execute.
package main

import (
	"fmt"
	"os"
	"strings"

	"github.com/findep/findep-operator/runtime/plan"
	"github.com/findep/findep-operator/runtime/schedule"
	"github.com/findep/findep-operator/runtime/sim"
)

// The example: two layers, two samples. Per sample attention takes 4 units,
// shared experts 2, a transfer 2 each way, routed experts 4, all in proportion
// to the tokens.
const layers = 2

// panel is one policy's row of four lanes. Times are those of one task of its
// plan.
type panel struct {
	title string
	plan  plan.Plan
	times sim.Uniform
}

func panels() []panel {
	make := func(attention, shared, a2e, expert float64) sim.Uniform {
		return sim.Uniform{schedule.Attention: attention, schedule.Shared: shared, schedule.A2E: a2e, schedule.Expert: expert, schedule.E2A: a2e}
	}
	return []panel{
		{"Sequential", plan.Plan{Policy: plan.Sequential, MicroBatchSize: 2, R1: 1, R2: 1, Order: plan.ASAS, Chunks: 1}, make(8, 4, 4, 8)},
		{"PPPipe (ping-pong): 2 micro-batches", plan.Plan{Policy: plan.PPPipe, MicroBatchSize: 1, R1: 2, R2: 1, Order: plan.ASAS, Chunks: 1}, make(4, 2, 2, 4)},
		{"FinDEP: 2 micro-batches of 2 segments, AASS", plan.Plan{Policy: plan.FinDEP, MicroBatchSize: 1, R1: 2, R2: 2, Order: plan.AASS, Chunks: 1}, make(4, 2, 1, 2)},
	}
}

const (
	scale      = 14.0 // pixels per unit of time
	left       = 120.0
	laneHeight = 22.0
	panelSpace = 46.0
)

var colours = [schedule.NumKinds]string{
	schedule.Attention: "#2f6db3", schedule.Shared: "#7fb2e5", schedule.A2E: "#e0a030", schedule.Expert: "#3c8c4a", schedule.E2A: "#c9622f",
}

func main() {
	if err := run("docs/images/timeline.svg"); err != nil {
		fmt.Fprintln(os.Stderr, "picture:", err)
		os.Exit(1)
	}
}

func run(path string) error {
	var body strings.Builder
	y, widest := 34.0, 0.0
	for _, p := range panels() {
		s, err := schedule.Build(p.plan, layers, schedule.Options{SharedExperts: true})
		if err != nil {
			return err
		}
		r, err := sim.Run(s, p.times.Duration)
		if err != nil {
			return err
		}
		drawPanel(&body, p.title, s, r, y)
		y += panelSpace + laneHeight*float64(schedule.NumResources)
		widest = max(widest, r.Makespan)
	}
	drawLegend(&body, y-16)
	svg := fmt.Sprintf("<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%.0f\" height=\"%.0f\" font-family=\"sans-serif\" font-size=\"12\">\n"+
		"<rect width=\"100%%\" height=\"100%%\" fill=\"white\"/>\n%s</svg>\n", left+scale*widest+90, y+14, body.String())
	return os.WriteFile(path, []byte(svg), 0o644)
}

func drawPanel(b *strings.Builder, title string, s *schedule.Schedule, r *sim.Result, y float64) {
	fmt.Fprintf(b, "<text x=\"%.0f\" y=\"%.0f\" font-weight=\"bold\">%s</text>\n", left, y-10, title)
	for lane, name := range []string{"attention GPUs", "A2E link", "expert GPUs", "E2A link"} {
		top := y + laneHeight*float64(lane)
		fmt.Fprintf(b, "<text x=\"%.0f\" y=\"%.1f\" text-anchor=\"end\" fill=\"#333\">%s</text>\n", left-8, top+14, name)
		fmt.Fprintf(b, "<rect x=\"%.0f\" y=\"%.1f\" width=\"%.1f\" height=\"%.0f\" fill=\"#f2f2f2\"/>\n", left, top+1, scale*r.Makespan, laneHeight-2)
	}
	for id := range s.Tasks {
		task := &s.Tasks[id]
		x, w := left+scale*r.Start[id], scale*(r.End[id]-r.Start[id])
		top := y + laneHeight*float64(task.Resource)
		opacity := 1.0
		if task.MicroBatch%2 == 1 {
			opacity = 0.7
		}
		fmt.Fprintf(b, "<rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.0f\" fill=\"%s\" fill-opacity=\"%.1f\" stroke=\"white\"><title>%s</title></rect>\n",
			x, top+1, w, laneHeight-2, colours[task.Kind], opacity, task.Name())
		if w >= 20 {
			fmt.Fprintf(b, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"middle\" fill=\"white\" font-size=\"10\">%s</text>\n", x+w/2, top+15, label(task))
		}
	}
	fmt.Fprintf(b, "<text x=\"%.1f\" y=\"%.1f\" font-weight=\"bold\">%.0f</text>\n", left+scale*r.Makespan+8, y+laneHeight*2+4, r.Makespan)
}

func label(t *schedule.Task) string {
	name := map[schedule.Kind]string{schedule.Attention: "A", schedule.Shared: "S", schedule.A2E: "a2e", schedule.Expert: "E", schedule.E2A: "e2a"}[t.Kind]
	return fmt.Sprintf("%s%d", name, t.MicroBatch)
}

func drawLegend(b *strings.Builder, y float64) {
	x := left
	for kind, name := range []string{"attention", "shared experts", "A2E transfer", "routed experts", "E2A transfer"} {
		fmt.Fprintf(b, "<rect x=\"%.0f\" y=\"%.0f\" width=\"12\" height=\"12\" fill=\"%s\"/><text x=\"%.0f\" y=\"%.0f\">%s</text>\n", x, y, colours[kind], x+16, y+11, name)
		x += 120
	}
}
