// SPDX-License-Identifier: Apache-2.0

package calibrate_test

import (
	"context"
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/findep/findep-operator/runtime/calibrate"
)

func TestPointTimeFitsTheBudget(t *testing.T) {
	for name, tc := range map[string]struct {
		budget         time.Duration
		series         int
		warmUp, trials int
	}{
		"GPU, alone":              {2 * time.Minute, 5, 10, 30},
		"GPU, with communication": {2 * time.Minute, 10, 10, 30},
		"short":                   {time.Second, 1, 0, 3},
		"no series":               {time.Minute, 0, 1, 3},
	} {
		t.Run(name, func(t *testing.T) {
			o := calibrate.Options{WarmUp: tc.warmUp, Trials: tc.trials}
			point := calibrate.PointTime(tc.budget, tc.series, o)
			// What a series runs: doubling sizes twice each, then all rounds.
			largest, spent := point.Seconds(), 0.0
			for range max(1, tc.series) {
				for size := largest; size > largest/1e6; size /= 2 {
					spent += 2 * size
				}
				for range tc.warmUp + tc.trials {
					for i := 1; i <= 5; i++ {
						spent += largest * float64(i) / 5
					}
				}
			}
			if spent > tc.budget.Seconds()*1.0001 || spent < 0.99*tc.budget.Seconds() {
				t.Errorf("points of %v take %.3f s of %v", point, spent, tc.budget)
			}
		})
	}
}

// TestBesideMeasuresWhileMessagesFlow uses a real connection.
func TestBesideMeasuresWhileMessagesFlow(t *testing.T) {
	near, far := pair(t)
	measured := false
	err := calibrate.Beside(t.Context(), func(ctx context.Context, flowing func()) error {
		return calibrate.Traffic(ctx, near, far, flowing)
	}, func(ctx context.Context) error {
		measured = true
		return ctx.Err()
	})
	if err != nil || !measured {
		t.Errorf("measured %v, %v", measured, err)
	}
}

func TestBesideSaysWhatWentWrong(t *testing.T) {
	boom := errors.New("boom")
	flow := func(ctx context.Context, flowing func()) error { flowing(); <-ctx.Done(); return nil }
	fine := func(context.Context) error { return nil }
	for name, tc := range map[string]struct {
		other   func(context.Context, func()) error
		measure func(context.Context) error
		want    string
	}{
		"never flows":        {func(context.Context, func()) error { return boom }, fine, "before it began"},
		"never, no reason":   {func(context.Context, func()) error { return nil }, fine, "before it began"},
		"measurement fails":  {flow, func(context.Context) error { return boom }, "boom"},
		"fails when stopped": {func(ctx context.Context, flowing func()) error { flowing(); <-ctx.Done(); return boom }, fine, "boom"},
	} {
		t.Run(name, func(t *testing.T) {
			if err := calibrate.Beside(t.Context(), tc.other, tc.measure); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
	t.Run("ends early", func(t *testing.T) {
		gone := make(chan struct{})
		err := calibrate.Beside(t.Context(), func(_ context.Context, flowing func()) error { flowing(); defer close(gone); return boom },
			func(context.Context) error { <-gone; return nil })
		if err == nil || !errors.Is(err, boom) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("a link that is down", func(t *testing.T) {
		near, far := pair(t)
		near.Abort(boom)
		if err := calibrate.Traffic(t.Context(), near, far, func() {}); err == nil {
			t.Error("messages flow over a link that is down")
		}
	})
}

func TestSlowdown(t *testing.T) {
	line := func(times ...float64) *calibrate.Line {
		var l calibrate.Line
		for i, v := range times {
			l.Points = append(l.Points, calibrate.Point{What: string(rune('a' + i)), Microseconds: v})
		}
		return &l
	}
	for name, tc := range map[string]struct {
		alone, beside *calibrate.Line
		want          float64
	}{
		"twice":        {line(1, 2), line(2, 4), 2},
		"mean":         {line(1, 1), line(1, 4), 2},
		"other sizes":  {line(1, 2), line(3), 3},
		"nothing":      {line(), line(1), 1},
		"not measured": {line(0, 2), line(5, 2), 1},
	} {
		t.Run(name, func(t *testing.T) {
			if got := calibrate.Slowdown(tc.alone, tc.beside); math.Abs(got-tc.want) > 1e-12 {
				t.Errorf("got %v, want %v", got, tc.want)
			}
		})
	}
}
