// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
)

// result is what was measured of one subject.
type result struct {
	Subject      string `json:"subject"`
	Groups       int    `json:"groups"`
	PodsPerGroup int    `json:"podsPerGroup"`
	Nodes        int    `json:"nodes"`
	// Seconds are counted from the first apply.
	CreatedSeconds   float64 `json:"createdSeconds"`
	RunningSeconds   float64 `json:"runningSeconds"`
	AvailableSeconds float64 `json:"availableSeconds,omitempty"`
	// PodsPerSecond is the number of pods over RunningSeconds.
	PodsPerSecond float64 `json:"podsPerSecond"`
	// WritesPerPod counts requests of the subject that may change something, events
	// included, up to the moment when all groups were available.
	WritesPerPod float64  `json:"writesPerPod"`
	Create       spending `json:"create"`
	// Plane is what the other processes had cost by then, by name.
	Plane map[string]usage `json:"plane"`

	Rest    *spending `json:"rest,omitempty"`
	Restart *spending `json:"restart,omitempty"`
	Roll    *spending `json:"roll,omitempty"`
}

// spending is what a phase has cost.
type spending struct {
	Seconds      float64 `json:"seconds,omitempty"`
	Calls        calls   `json:"calls"`
	Writes       int     `json:"writes"`
	Reads        int     `json:"reads"`
	Reconciles   int     `json:"reconciles,omitempty"`
	Observations int     `json:"observations,omitempty"`
	// LeastAvailable is the lowest number of groups available at a time, of a rollout.
	LeastAvailable int `json:"leastAvailable,omitempty"`
	usage
}

// markdown writes results as a table, with the figures of the bare client, if
// there is one, as the measure of the others.
func markdown(out io.Writer, results []*result) error {
	const head = "| subject | pods | all made after s | all run after s | pods/s | over bare | available after s | writes per pod | manager CPU-s | peak MiB | at rest | after a restart | rolled |\n" +
		"|---|---|---|---|---|---|---|---|---|---|---|---|---|\n"
	if _, err := io.WriteString(out, head); err != nil {
		return err
	}
	ceiling := 0.0
	for _, r := range results {
		if r.Subject == "bare" {
			ceiling = r.PodsPerSecond
		}
	}
	for _, r := range results {
		if _, err := fmt.Fprintf(out, "| %s | %d | %.1f | %.1f | %.1f | %s | %s | %.2f | %s | %s | %s | %s | %s |\n",
			r.Subject, r.Groups*r.PodsPerGroup, r.CreatedSeconds, r.RunningSeconds, r.PodsPerSecond, over(r.PodsPerSecond, ceiling),
			known("%.1f", r.AvailableSeconds), r.WritesPerPod, known("%.1f", r.Create.CPUSeconds), known("%.0f", r.Create.PeakMiB),
			r.Rest.describe("%d writes, %d passes in %.0f s"), r.Restart.describe("%d writes, %d passes, %.1f s"), rolled(r)); err != nil {
			return err
		}
	}
	return nil
}

func over(value, ceiling float64) string {
	if ceiling <= 0 {
		return ""
	}
	return fmt.Sprintf("%.2f", value/ceiling)
}

// known is empty for what was not measured.
func known(format string, value float64) string {
	if value <= 0 {
		return ""
	}
	return fmt.Sprintf(format, value)
}

// describe puts writes, reconciles and seconds into a text; empty without.
func (s *spending) describe(format string) string {
	if s == nil {
		return ""
	}
	return fmt.Sprintf(format, s.Writes, s.Reconciles, s.Seconds)
}

func rolled(r *result) string {
	if r.Roll == nil {
		return ""
	}
	return fmt.Sprintf("%.1f s, %.2f writes per pod", r.Roll.Seconds, float64(r.Roll.Writes)/float64(r.Groups*r.PodsPerGroup))
}
