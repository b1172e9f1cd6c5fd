// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"strings"
	"testing"

	"github.com/findep/findep-operator/runtime/agent/agentpb"
	"github.com/findep/findep-operator/runtime/plan"
)

// lateEngine plans for the batch that it saw some steps before, and takes twice
// as long under another plan than the batch's.
type lateEngine struct {
	fakeEngine
	late int
	seen []int
}

func (l *lateEngine) Step(ctx context.Context, req *agentpb.StepRequest) (*agentpb.StepResponse, error) {
	r, err := l.fakeEngine.Step(ctx, req)
	if len(req.Pieces) == 0 {
		return r, err
	}
	l.seen = append(l.seen, len(req.Pieces))
	r.Plan.R1 = uint32(l.seen[max(0, len(l.seen)-1-l.late)])
	r.MeasuredMilliseconds = float64(len(req.Pieces))
	if int(r.Plan.R1) != len(req.Pieces) {
		r.MeasuredMilliseconds *= 2
	}
	return r, err
}

func newLate(t *testing.T, late int) *lateEngine {
	return &lateEngine{fakeEngine: fakeEngine{t: t, policy: plan.FinDEP, length: map[uint64]int{}}, late: late}
}

func TestTrafficChangesAreFollowed(t *testing.T) {
	for name, late := range map[string]int{"at once": 0, "late": 3} {
		t.Run(name, func(t *testing.T) {
			live := newLate(t, late)
			stopped := 0
			c := TrafficConfig{
				Traffic: []Traffic{{Sequences: 4, Tokens: 3}, {Sequences: 1, Tokens: 30}, {Decode: true, Sequences: 6, Tokens: 20}},
				Settle:  8, Turn: 2, Repeat: 3,
				Alone: func(context.Context, Traffic) (Engine, func(), error) {
					return newLate(t, 0), func() { stopped++ }, nil
				},
			}
			results, err := RunTraffic(t.Context(), live, c)
			if err != nil {
				t.Fatal(err)
			}
			if len(live.length) != 0 || stopped != 3 {
				t.Errorf("%d sequences were never released, %d instances stopped", len(live.length), stopped)
			}
			// The first kind has nothing before it. The context of the third is
			// made by a step that counts for nothing but shows the batch.
			for i, want := range []struct {
				traffic  string
				r1, late int
			}{{"prefill:4x3", 8, 0}, {"prefill:1x30", 2, late}, {"decode:6x20", 12, max(0, late-1)}} {
				r := results[i]
				if r.Traffic != want.traffic || r.Plan.R1 != want.r1 || r.AlonePlan != r.Plan || r.StepsUntilPlan != want.late || r.Changes != 0 || r.Steps != 14 {
					t.Errorf("%+v, want traffic %s with r1=%d after %d steps", r, want.traffic, want.r1, want.late)
				}
				if r.Ratio.Min != 1 || r.Ratio.Max != 1 || r.TokensPerSecond.Median != r.AloneTokensPerSecond.Median {
					t.Errorf("%s: ratio %+v of equal instances", r.Traffic, r.Ratio)
				}
			}
		})
	}
}

func TestFollowCountsLaterChanges(t *testing.T) {
	a, b := plan.Plan{R1: 1}, plan.Plan{R1: 2}
	if until, changes := follow([]plan.Plan{b, b, a, a, b, a}, a); until != 2 || changes != 2 {
		t.Errorf("%d steps until, %d changes; want 2 and 2", until, changes)
	}
}

func TestParseTraffic(t *testing.T) {
	for _, text := range []string{"prefill:8x64", "decode:16x256"} {
		if got, err := ParseTraffic(text); err != nil || got.String() != text {
			t.Errorf("%s: %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "prefill", "prefill:8", "chat:1x1", "prefill:0x4", "prefill:4x0", "decode:-1x4", "decode:5000x1", "prefill:1x9999999", "prefill:1x1x1"} {
		if _, err := ParseTraffic(text); err == nil || !strings.Contains(err.Error(), "prefill:NxT") {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestTrafficNamesWhatIsWrong(t *testing.T) {
	c := TrafficConfig{Traffic: []Traffic{{Decode: true, Sequences: 1, Tokens: 90}}, Settle: 8, Turn: 2, Repeat: 3}
	if _, err := RunTraffic(t.Context(), newLate(t, 0), c); err == nil || !strings.Contains(err.Error(), "reaches 104 tokens; the context is 100") {
		t.Errorf("got %v", err)
	}
	c.Turn = 0
	if _, err := RunTraffic(t.Context(), newLate(t, 0), c); err == nil || !strings.Contains(err.Error(), "turn is 0") {
		t.Errorf("got %v", err)
	}
}
