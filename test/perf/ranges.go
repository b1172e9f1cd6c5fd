// SPDX-License-Identifier: Apache-2.0

package main

import (
	_ "embed"
	"fmt"
	"maps"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"
)

//go:embed ranges.yaml
var recordedRanges []byte

// recorded is a figure as it was measured before, and what it must not exceed.
type recorded struct {
	Figure string `json:"figure"`
	// Min and Max are the range over Runs runs.
	Min  float64 `json:"min"`
	Max  float64 `json:"max"`
	Runs int     `json:"runs"`
	// Limit is the largest value that is no step back.
	Limit float64 `json:"limit"`
}

// figures are those of a result that hardly depend on the machine.
func figures(r *result) map[string]float64 {
	pods := float64(r.Groups * r.PodsPerGroup)
	f := map[string]float64{
		"writesPerPod": r.WritesPerPod, "readsPerPod": float64(r.Create.Reads) / pods,
		"statusWritesPerGroup": float64(r.Create.Calls["patch moedeployments/status"]) / float64(r.Groups),
		"eventsPerGroup":       float64(r.Create.Calls["create events"]) / float64(r.Groups),
	}
	if r.Rest != nil {
		f["writesAtRest"] = float64(r.Rest.Writes)
	}
	if r.Restart != nil {
		f["writesAfterRestart"] = float64(r.Restart.Writes)
	}
	return f
}

// checkRanges compares a result of the operator with what is recorded.
func checkRanges(r *result, data []byte) error {
	var all []recorded
	if err := yaml.UnmarshalStrict(data, &all); err != nil {
		return fmt.Errorf("recorded ranges: %w", err)
	}
	got := figures(r)
	var worse []string
	for _, one := range all {
		value, measured := got[one.Figure]
		if measured && value > one.Limit {
			worse = append(worse, fmt.Sprintf("%s is %.3g; it was %.3g to %.3g in %d runs, and the limit is %.3g", one.Figure, value, one.Min, one.Max, one.Runs, one.Limit))
		}
		if !measured && !slices.Contains([]string{"writesAtRest", "writesAfterRestart"}, one.Figure) {
			return fmt.Errorf("recorded ranges: %q is no figure; use %s", one.Figure, strings.Join(slices.Sorted(maps.Keys(got)), ", "))
		}
	}
	if len(worse) > 0 {
		return fmt.Errorf("worse than recorded:\n  %s", strings.Join(worse, "\n  "))
	}
	return nil
}
