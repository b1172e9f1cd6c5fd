// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
)

// Unit is what an operation is limited by.
type Unit string

// The units of a peak.
const (
	// FLOP counts a multiplication and an addition as two.
	FLOP Unit = "FLOP"
	// Bytes counts what must be read and written at least.
	Bytes Unit = "B"
)

// Sample is one measured operation. Those without a goal make the peaks: what
// the device reaches where nothing else stands in the way.
type Sample struct {
	Op   string
	What string
	Unit Unit
	// Work is that of one run; Seconds are its times.
	Work    float64
	Seconds []float64
	// Goal is the share of the peak to reach; 0 for what makes the peak.
	Goal float64
}

// Rate is the work per second at the median time.
func (s *Sample) Rate() float64 {
	times := slices.Sorted(slices.Values(s.Seconds))
	if len(times) == 0 || times[len(times)/2] <= 0 {
		return 0
	}
	return s.Work / times[len(times)/2]
}

// Share is an operation beside its goal.
type Share struct {
	Sample
	// Of is the share of the peak, 1 for all of it.
	Of float64
}

// Reached says whether the goal is met.
func (s *Share) Reached() bool { return s.Of >= s.Goal }

// Shares divides the rates of the operations with a goal by the largest rate of
// the same unit among those without one, and returns these peaks. It is an error
// if an operation has no peak to be measured by.
func Shares(samples []Sample) ([]Share, map[Unit]float64, error) {
	peaks := map[Unit]float64{}
	for i := range samples {
		if s := &samples[i]; s.Goal == 0 {
			peaks[s.Unit] = max(peaks[s.Unit], s.Rate())
		}
	}
	var list []Share
	for i := range samples {
		s := &samples[i]
		if s.Goal == 0 {
			continue
		}
		if peaks[s.Unit] <= 0 {
			return nil, nil, fmt.Errorf("%s: no peak in %s/s was measured", s.Op, s.Unit)
		}
		list = append(list, Share{*s, s.Rate() / peaks[s.Unit]})
	}
	return list, peaks, nil
}

// Print writes the table of shares, in the order in which they were measured.
func Print(out io.Writer, device string, shares []Share, peaks map[Unit]float64) error {
	fmt.Fprintf(out, "%s: measured peaks %.4g GFLOP/s, %.4g GB/s\n", device, peaks[FLOP]/1e9, peaks[Bytes]/1e9)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "OPERATION\tWHAT\tRATE\tSHARE OF PEAK\tGOAL\t")
	for i := range shares {
		s := &shares[i]
		verdict := "reached"
		if !s.Reached() {
			verdict = "below"
		}
		fmt.Fprintf(w, "%s\t%s\t%.4g G%s/s\t%.0f %%\t%.0f %%\t%s\n", s.Op, s.What, s.Rate()/1e9, s.Unit, 100*s.Of, 100*s.Goal, verdict)
	}
	return w.Flush()
}
