// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"encoding/json"
	"strings"
	"testing"
)

func validPlan() Plan {
	return Plan{Policy: FinDEP, MicroBatchSize: 2, R1: 2, R2: 4, Order: AASS, Chunks: 1}
}

func TestPlanValidateNamesTheField(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*Plan)
		want   string
	}{
		"valid":                          {func(*Plan) {}, ""},
		"unknown policy":                 {func(p *Plan) { p.Policy = "Fast" }, `policy "Fast"`},
		"order left open":                {func(p *Plan) { p.Order = OrderAuto }, `order "Auto"`},
		"no samples":                     {func(p *Plan) { p.MicroBatchSize = 0 }, "microBatchSize is 0"},
		"too many micro-batches":         {func(p *Plan) { p.R1 = MaxR1 + 1 }, "r1 is 1025"},
		"too many segments":              {func(p *Plan) { p.R2 = MaxR2 + 1 }, "r2 is 257"},
		"no chunk":                       {func(p *Plan) { p.Chunks = 0 }, "chunks is 0"},
		"ping-pong has no segments":      {func(p *Plan) { p.Policy = PPPipe }, "r2 is 4"},
		"sequential has no pipeline":     {func(p *Plan) { p.Policy, p.R2 = Sequential, 1 }, "r1 is 2"},
		"sequential with one of each":    {func(p *Plan) { p.Policy, p.R1, p.R2 = Sequential, 1, 1 }, ""},
		"ping-pong with micro-batches":   {func(p *Plan) { p.Policy, p.R2 = PPPipe, 1 }, ""},
		"negative number of micro-batch": {func(p *Plan) { p.R1 = -1 }, "r1 is -1"},
	} {
		t.Run(name, func(t *testing.T) {
			p := validPlan()
			tc.change(&p)
			expectError(t, p.Validate(), tc.want)
		})
	}
}

func validInstance() Instance {
	return Instance{
		Namespace: "ns", Deployment: "d", AttentionRanks: 1, ExpertRanks: 2,
		Hosts:    []string{"a", "b", "c"},
		Model:    ModelRef{Name: "m", Path: "/m", MaxContextTokens: 128},
		Schedule: Schedule{Policy: FinDEP, Order: OrderAuto, Chunks: "Auto", Resolve: "Online"},
		Start:    validPlan(),
	}
}

func TestInstanceValidateNamesTheField(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*Instance)
		want   string
	}{
		"valid":              {func(*Instance) {}, ""},
		"no expert rank":     {func(in *Instance) { in.ExpertRanks = 0 }, "expertRanks 0"},
		"world too large":    {func(in *Instance) { in.ExpertRanks = MaxRanks }, "at most 4096"},
		"a host is missing":  {func(in *Instance) { in.Hosts = in.Hosts[:2] }, "hosts has 2 entries"},
		"ports for some":     {func(in *Instance) { in.Ports = make([]RankPorts, 1) }, "ports has 1 entries"},
		"no model path":      {func(in *Instance) { in.Model.Path = "" }, `model.path ""`},
		"no context":         {func(in *Instance) { in.Model.MaxContextTokens = 0 }, "maxContextTokens is 0"},
		"unknown policy":     {func(in *Instance) { in.Schedule.Policy = "x" }, `schedule.policy "x"`},
		"unknown order":      {func(in *Instance) { in.Schedule.Order = "x" }, `schedule.order "x"`},
		"unknown chunks":     {func(in *Instance) { in.Schedule.Chunks = "x" }, `schedule.chunks "x"`},
		"unknown resolve":    {func(in *Instance) { in.Schedule.Resolve = "x" }, `schedule.resolve "x"`},
		"segments too large": {func(in *Instance) { in.Schedule.MaxSegments = 1000 }, "maxSegments is 1000"},
		"bad fixed plan":     {func(in *Instance) { in.Schedule.Fixed = &Plan{} }, "policy"},
	} {
		t.Run(name, func(t *testing.T) {
			in := validInstance()
			tc.change(&in)
			expectError(t, in.Validate(), tc.want)
		})
	}
}

func expectError(t *testing.T, err error, want string) {
	t.Helper()
	switch {
	case want == "" && err != nil:
		t.Fatalf("unexpected error: %v", err)
	case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
		t.Fatalf("error %v does not say %q", err, want)
	}
}

// TestHashesSeparateWhatMayChange: a changed schedule must not look like a
// changed topology, or every change would replace the pods.
func TestHashesSeparateWhatMayChange(t *testing.T) {
	in := validInstance()
	topology, schedule := hashes(t, in)
	in.Schedule.Policy = PPPipe
	if gotTopology, gotSchedule := hashes(t, in); gotTopology != topology || gotSchedule == schedule {
		t.Errorf("after a change of policy: topology %s (was %s), schedule %s (was %s)", gotTopology, topology, gotSchedule, schedule)
	}
	for what, change := range map[string]func(*Instance){
		"split":    func(in *Instance) { in.ExpertRanks, in.Hosts = 3, append(in.Hosts, "d") },
		"model":    func(in *Instance) { in.Model.Name = "another" },
		"context":  func(in *Instance) { in.Model.MaxContextTokens++ },
		"revision": func(in *Instance) { in.Revision = "another" },
	} {
		in = validInstance()
		change(&in)
		if gotTopology, gotSchedule := hashes(t, in); gotTopology == topology || gotSchedule != schedule {
			t.Errorf("after a change of %s: topology %s (was %s), schedule %s (was %s)", what, gotTopology, topology, gotSchedule, schedule)
		}
	}
}

func hashes(t *testing.T, in Instance) (topology, schedule string) {
	t.Helper()
	topology, err := Hash(in.Topology())
	if err != nil {
		t.Fatal(err)
	}
	if schedule, err = in.ScheduleHash(); err != nil {
		t.Fatal(err)
	}
	return topology, schedule
}

func TestDecodeInstanceRefuses(t *testing.T) {
	for name, text := range map[string]string{
		"nothing":         ``,
		"unknown field":   `{"surprise": 1}`,
		"two objects":     `{} {}`,
		"not an object":   `[]`,
		"an empty object": `{}`,
	} {
		t.Run(name, func(t *testing.T) {
			if in, err := DecodeInstance([]byte(text)); err == nil {
				t.Errorf("accepted %q as %+v", text, in)
			}
		})
	}
}

// FuzzDecodeInstance: whatever is accepted is valid and survives a round trip.
func FuzzDecodeInstance(f *testing.F) {
	b, err := json.Marshal(validInstance())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte(`{"attentionRanks":1,"expertRanks":1,"hosts":["a","b"]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		in, err := DecodeInstance(b)
		if err != nil {
			return
		}
		again, err := json.Marshal(in)
		if err != nil {
			t.Fatal(err)
		}
		back, err := DecodeInstance(again)
		if err != nil {
			t.Fatalf("%s is accepted, its own encoding %s is not: %v", b, again, err)
		}
		if last, _ := json.Marshal(back); string(last) != string(again) {
			t.Fatalf("encoding is not canonical: %s and %s", again, last)
		}
	})
}
