// SPDX-License-Identifier: Apache-2.0

package local_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"testing"
	"time"

	"github.com/findep/findep-operator/runtime/agent/agentpb"
	"github.com/findep/findep-operator/runtime/backend"
	"github.com/findep/findep-operator/runtime/local"
	"github.com/findep/findep-operator/runtime/plan"
	"github.com/findep/findep-operator/runtime/serving"
)

// unsteady is a backend whose matrix products and experts take up to half as long
// again, at random.
const unsteady = "unsteady"

func init() {
	backend.Register(unsteady, func(o backend.Options) (backend.Device, error) {
		d, err := backend.Open(backendName(), o)
		return unsteadyDevice{d}, err
	})
}

type unsteadyDevice struct{ backend.Device }

func (d unsteadyDevice) NewStream(threads int) (backend.Stream, error) {
	s, err := d.Device.NewStream(threads)
	return unsteadyStream{s}, err
}

type unsteadyStream struct{ backend.Stream }

// linger works on for a random part of the time since start.
func linger(start time.Time) {
	for end := time.Now().Add(time.Duration(rand.Float64() / 2 * float64(time.Since(start)))); time.Now().Before(end); {
	}
}

func (s unsteadyStream) MatMul(out, x, w backend.Matrix, accumulate bool) error {
	defer linger(time.Now())
	return s.Stream.MatMul(out, x, w, accumulate)
}

func (s unsteadyStream) ExpertMLP(out, x backend.Matrix, args backend.ExpertMLPArgs) error {
	defer linger(time.Now())
	return s.Stream.ExpertMLP(out, x, args)
}

// planned is what one step ran under.
type planned struct {
	step uint64
	plan string
}

// change runs steps of n prompts of a length under the live instance.
func change(t *testing.T, client *serving.Client, epoch uint64, steps, n, tokens int) []planned {
	t.Helper()
	var all []planned
	for range steps {
		req, release := &agentpb.StepRequest{Epoch: epoch}, &agentpb.StepRequest{Epoch: epoch}
		for i := range n {
			p := &agentpb.Piece{Sequence: uint64(i), Tokens: make([]int32, tokens), Logits: agentpb.LogitsMode_LOGITS_LAST}
			for j := range p.Tokens {
				p.Tokens[j] = int32(rand.IntN(500))
			}
			req.Pieces, release.Release = append(req.Pieces, p), append(release.Release, p.Sequence)
		}
		r, err := client.Step(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, planned{r.Step, planString(r.Plan)})
		if _, err := client.Step(t.Context(), release); err != nil {
			t.Fatal(err)
		}
	}
	return all
}

func planString(p *agentpb.PlanInUse) string {
	return plan.Plan{
		Policy: plan.Policy(p.Policy), MicroBatchSize: int(p.MicroBatchSize), R1: int(p.R1), R2: int(p.R2),
		Order: plan.Order(p.Order), Chunks: int(p.Chunks), ChunkBoundaries: plan.Boundaries(p.ChunkBoundaries),
	}.String()
}

func refits(t *testing.T, in *local.Instance) int {
	t.Helper()
	n, err := strconv.Atoi(metric(t, in, 0, "findep_stage_refits_total"))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestPlanFollowsTheTrafficOfALiveInstance: short prompts, long prompts, decode,
// on processes whose kernels take an unsteady time. The first step of each kind
// runs under the plan that all others of it run under, also the hundredth; the
// trace and the debug page show the plans that the steps ran under. Only a new
// fit of the stages may change a plan, once each.
func TestPlanFollowsTheTrafficOfALiveInstance(t *testing.T) {
	in, client := start(t, 1, 2, "--backend", unsteady)
	epoch := ready(t, client, 0)
	const short, long, decode = 100, 10, 10
	traced := make(chan string, 1)
	go func() {
		text, err := fetchTrace(in, short+long+decode+1)
		if err != nil {
			text = err.Error()
		}
		traced <- text
	}()
	waitForTrace(t, in)
	phases := []struct {
		name string
		run  func() []planned
	}{
		{"short prompts", func() []planned { return change(t, client, epoch, short, 6, 16) }},
		{"long prompts", func() []planned { return change(t, client, epoch, long, 1, 256) }},
		{"decode", func() []planned { return extend(t, client, epoch, decode, 8) }},
	}
	var all []planned
	for _, phase := range phases {
		before := refits(t, in)
		steps := phase.run()
		all = append(all, steps...)
		if phase.name == "decode" {
			steps = steps[1:] // The first one makes the contexts.
		}
		changes := 0
		for i := range steps {
			if i > 0 && steps[i].plan != steps[i-1].plan {
				changes++
			}
		}
		fitted := refits(t, in) - before
		t.Logf("%s: %d steps under %s, %d changes, %d fits", phase.name, len(steps), steps[len(steps)-1].plan, changes, fitted)
		if changes > fitted {
			t.Errorf("%s: the plan changed %d times in %d steps, the stages were fitted %d times", phase.name, changes, len(steps), fitted)
		}
	}
	checkTraced(t, <-traced, all)
	checkDebugPlan(t, in, all)
}

// waitForTrace waits until the recording has begun: a second one is refused.
func waitForTrace(t *testing.T, in *local.Instance) {
	t.Helper()
	url := fmt.Sprintf("http://%s/debug/trace?steps=1&timeout=1ms", net.JoinHostPort(local.Host, strconv.Itoa(in.Config.PortsOf(0).Metrics)))
	for deadline := time.Now().Add(within); ; time.Sleep(10 * time.Millisecond) {
		r, err := http.Get(url)
		if err != nil {
			t.Fatal(err)
		}
		_ = r.Body.Close()
		if r.StatusCode == http.StatusConflict {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("no recording within %v", within)
		}
	}
}

// extend prefills n sequences of 16 tokens and extends each by a token per step.
func extend(t *testing.T, client *serving.Client, epoch uint64, steps, n int) []planned {
	t.Helper()
	req, release := &agentpb.StepRequest{Epoch: epoch}, &agentpb.StepRequest{Epoch: epoch}
	for i := range n {
		req.Pieces = append(req.Pieces, &agentpb.Piece{Sequence: uint64(i), Tokens: make([]int32, 16), Logits: agentpb.LogitsMode_LOGITS_LAST})
		release.Release = append(release.Release, uint64(i))
	}
	var all []planned
	for range steps + 1 {
		r, err := client.Step(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, planned{r.Step, planString(r.Plan)})
		for i, p := range req.Pieces {
			p.Start, p.Tokens = p.Start+uint32(len(p.Tokens)), []int32{r.Results[i].Token}
		}
	}
	if _, err := client.Step(t.Context(), release); err != nil {
		t.Fatal(err)
	}
	return all
}

// checkTraced compares the plans that the leader's trace shows.
func checkTraced(t *testing.T, text string, want []planned) {
	t.Helper()
	shown := map[uint64]string{}
	for _, b := range parseTrace(t, text) {
		if b.process == "leader" {
			shown[uint64(b.args["step"].(float64))] = b.args["plan"].(string)
		}
	}
	if len(shown) != len(want) {
		t.Errorf("the trace shows %d steps, %d ran", len(shown), len(want))
	}
	for _, s := range want {
		if shown[s.step] != s.plan {
			t.Errorf("step %d ran under %s; the trace shows %q", s.step, s.plan, shown[s.step])
		}
	}
}

// checkDebugPlan compares the plan of the last decode step.
func checkDebugPlan(t *testing.T, in *local.Instance, want []planned) {
	t.Helper()
	r, err := http.Get(fmt.Sprintf("http://%s/debug/plan", net.JoinHostPort(local.Host, strconv.Itoa(in.Config.PortsOf(0).Metrics))))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Body.Close() }()
	var o plan.Observation
	if err := json.NewDecoder(r.Body).Decode(&o); err != nil {
		t.Fatal(err)
	}
	if last := want[len(want)-1].plan; o.Decode == nil || o.Decode.Plan.String() != last {
		t.Errorf("/debug/plan shows %+v, the last decode step ran under %s", o.Decode, last)
	}
}
