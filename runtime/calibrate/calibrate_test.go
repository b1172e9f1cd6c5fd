// SPDX-License-Identifier: Apache-2.0

package calibrate_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/findep/findep-operator/runtime/calibrate"
)

// clock is advanced by what runs, so that times are exact.
type clock struct{ at time.Time }

func (c *clock) now() time.Time { return c.at }

// taking makes a work that takes the given microseconds, the last one for ever.
func (c *clock) taking(what string, amount float64, launches int, log *[]string, microseconds ...int) calibrate.Work {
	runs := 0
	return calibrate.Work{What: what, Amount: amount, Launches: launches, Run: func() error {
		c.at = c.at.Add(time.Duration(microseconds[min(runs, len(microseconds)-1)]) * time.Microsecond)
		runs++
		*log = append(*log, what)
		return nil
	}}
}

func TestMeasureTakesMediansAfterWarmingUp(t *testing.T) {
	c, log := &clock{at: time.Unix(0, 0)}, []string{}
	works := []calibrate.Work{
		c.taking("small", 1, 1, &log, 900, 900, 10, 30, 20, 50, 40),
		c.taking("large", 2, 2, &log, 900, 900, 100),
	}
	var rounds []int
	got, err := calibrate.Measure(t.Context(), calibrate.GEMM, works, calibrate.Options{Trials: 5, WarmUp: 2, Now: c.now,
		Progress: func(kind calibrate.Kind, round, of int) {
			if kind != calibrate.GEMM || of != 7 {
				t.Errorf("progress of %s out of %d rounds, want gemm out of 7", kind, of)
			}
			rounds = append(rounds, round)
		}})
	if err != nil {
		t.Fatal(err)
	}
	want := calibrate.Series{Kind: calibrate.GEMM, Points: []calibrate.Point{
		{What: "small", Amount: 1, Microseconds: 30, Low: 20, High: 40},
		{What: "large", Amount: 2, Microseconds: 50, Low: 50, High: 50}, // two launches share 100
	}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("series (-want +got):\n%s", diff)
	}
	if want := slices.Repeat([]string{"small", "large"}, 7); !slices.Equal(log, want) {
		t.Errorf("ran %v, want the sizes to take turns", log)
	}
	if !slices.Equal(rounds, []int{1, 2, 3, 4, 5, 6, 7}) {
		t.Errorf("progress %v, want every round", rounds)
	}
}

func TestMeasureStopsWhenItShould(t *testing.T) {
	c, log := &clock{}, []string{}
	ctx, cancel := context.WithCancel(t.Context())
	works := []calibrate.Work{c.taking("small", 1, 1, &log, 1)}
	options := calibrate.Options{Trials: 100, Now: c.now, Progress: func(_ calibrate.Kind, round, _ int) {
		if round == 3 {
			cancel()
		}
	}}
	if _, err := calibrate.Measure(ctx, calibrate.GEMM, works, options); !errors.Is(err, context.Canceled) || len(log) != 3 {
		t.Errorf("error %v after %d runs, want the cancellation after 3", err, len(log))
	}
	broken := errors.New("no such kernel")
	works[0].Run = func() error { return broken }
	if _, err := calibrate.Measure(t.Context(), calibrate.GEMM, works, options); !errors.Is(err, broken) || !strings.Contains(err.Error(), "gemm, small") {
		t.Errorf("error %v, want what ran and why it failed", err)
	}
	for _, o := range []calibrate.Options{{Trials: 2}, {Trials: 10_001}, {Trials: 30, WarmUp: -1}} {
		if _, err := calibrate.Measure(t.Context(), calibrate.GEMM, nil, o); err == nil {
			t.Errorf("%+v is accepted", o)
		}
	}
}

// points on y = 5 + 2x, x = 10..50, with the given factors on y.
func points(scatter float64, factors ...float64) calibrate.Series {
	s := calibrate.Series{Kind: calibrate.Attention}
	for i, f := range factors {
		x := 10 * float64(i+1)
		y := (5 + 2*x) * f
		s.Points = append(s.Points, calibrate.Point{What: []string{"ten", "twenty", "thirty", "forty", "fifty"}[i],
			Amount: x, Microseconds: y, Low: y * (1 - scatter/2), High: y * (1 + scatter/2)})
	}
	return s
}

func TestFitAcceptsALine(t *testing.T) {
	line, err := calibrate.FitLine(points(0, 1, 1, 1, 1, 1))
	if err != nil {
		t.Fatal(err)
	}
	if c := line.Compute(); !near(c.AlphaMicroseconds, 5) || !near(c.MicrosecondsPerGigaMAC, 2) || c.RSquared != 1 {
		t.Errorf("line %+v, want 5 + 2x", c)
	}
	if tr := line.Transfer("wire"); tr.Name != "wire" || !near(tr.MicrosecondsPerMegabyte, 2) {
		t.Errorf("transfer %+v", tr)
	}
	if _, err := calibrate.FitLine(calibrate.Series{Kind: calibrate.Link}); err == nil {
		t.Error("a line through no points is accepted")
	}
}

func near(a, b float64) bool { return a > b*(1-1e-9) && a < b*(1+1e-9) }

func TestPoorFitsAreRefusedWithTheReason(t *testing.T) {
	for _, c := range []struct {
		name         string
		series       calibrate.Series
		worst, cause string
		remedy       string
	}{
		{"a disturbed size", points(0.5, 1, 1, 1.6, 1, 1), "thirty took", "other load on the machine", "stop what else runs"},
		{"a step", points(0.01, 1, 0.6, 1, 0.8, 1), "31 %", "not linear in size", "change the range"},
		{"slow when large", points(0.01, 1, 1, 1, 1, 1.6), "R2 is 0.8", "large sizes are slower", "lower --point-milliseconds"},
		{"falling", points(0.01, 1, 0.5, 0.3, 0.2, 0.1), "does not grow", "too small to matter", "use a larger model"},
	} {
		line, err := calibrate.FitLine(c.series)
		var poor *calibrate.PoorFitError
		if !errors.As(err, &poor) {
			t.Errorf("%s: error %v, want a poor fit", c.name, err)
			continue
		}
		if len(line.Points) != 5 {
			t.Errorf("%s: the line comes without its points", c.name)
		}
		if poor.Kind != calibrate.Attention || poor.Flat != (line.Beta == 0) {
			t.Errorf("%s: %+v", c.name, poor)
		}
		for _, part := range []string{"attention: ", c.worst, c.cause, c.remedy} {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%s: error %q does not contain %q", c.name, err, part)
			}
		}
	}
}
