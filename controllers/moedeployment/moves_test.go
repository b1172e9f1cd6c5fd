// SPDX-License-Identifier: Apache-2.0

package moedeployment

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/findep/findep-operator/api/v1alpha1"
)

func TestPlanMoves(t *testing.T) {
	const whenDown, always, report = v1alpha1.UnhealthyGPUMoveWhenDown, v1alpha1.UnhealthyGPUMove, v1alpha1.UnhealthyGPUReport
	// on is an instance with pods on sick node n1 that nothing keeps from moving.
	on := func(index int32, change ...func(*moveFacts)) moveFacts {
		f := moveFacts{index: index, nodes: []string{"n1"}, eligible: true, room: true}
		for _, c := range change {
			c(&f)
		}
		return f
	}
	serving := func(f *moveFacts) { f.serving = true }
	marked := func(f *moveFacts) { f.moving, f.since = []string{"n1"}, start.Add(-time.Minute) }
	gone := func(f *moveFacts) { f.nodes = nil }
	limits := func(p v1alpha1.UnhealthyGPUPolicy, down int) moveLimits { return moveLimits{p, 1, down} }
	cases := map[string]struct {
		facts  []moveFacts
		limits moveLimits
		// want has, for each instance, its step or why it stays; a "+" is its mark.
		want []string
	}{
		"well":                                 {[]moveFacts{on(0, gone), on(1, gone, serving)}, limits(always, 1), []string{"", ""}},
		"down":                                 {[]moveFacts{on(0)}, limits(whenDown, 1), []string{"announce+"}},
		"down and announced":                   {[]moveFacts{on(0, marked)}, limits(whenDown, 1), []string{"depart+"}},
		"announced for another node":           {[]moveFacts{on(0, marked, func(f *moveFacts) { f.nodes = []string{"n1", "n2"} })}, limits(whenDown, 1), []string{"announce+"}},
		"in the pause":                         {[]moveFacts{on(0, marked, func(f *moveFacts) { f.pause = time.Second })}, limits(whenDown, 1), []string{"the pause after its last failure is not over+"}},
		"its pods are on their way":            {[]moveFacts{on(0, marked, gone)}, limits(whenDown, 1), []string{"+"}},
		"serves again":                         {[]moveFacts{on(0, marked, gone, serving)}, limits(whenDown, 0), []string{""}},
		"serves":                               {[]moveFacts{on(0, serving)}, limits(whenDown, 0), []string{"it serves, and recovery.unhealthyGPUs is MoveWhenDown"}},
		"served again before it was moved":     {[]moveFacts{on(0, serving, marked)}, limits(whenDown, 0), []string{"it serves, and recovery.unhealthyGPUs is MoveWhenDown"}},
		"serves and is to move":                {[]moveFacts{on(0, serving)}, limits(always, 0), []string{"announce+"}},
		"serves while another is down":         {[]moveFacts{on(0, serving), on(1, gone)}, limits(always, 1), []string{"it serves, and rollout.maxUnavailable (1) allows no other instance to be down", ""}},
		"the one that is down first":           {[]moveFacts{on(0, serving), on(1)}, moveLimits{always, 2, 1}, []string{"instance 1 is moved first", "announce+"}},
		"one after the other":                  {[]moveFacts{on(0), on(1, marked, gone)}, limits(whenDown, 2), []string{"instance 1 is moved first", "+"}},
		"one that does not come back":          {[]moveFacts{on(0), on(1, gone, func(f *moveFacts) { f.moving, f.since = []string{"n1"}, start.Add(-moveHold) })}, limits(whenDown, 2), []string{"announce+", "+"}},
		"no other node":                        {[]moveFacts{on(0, func(f *moveFacts) { f.room = false })}, limits(whenDown, 1), []string{"no other nodes that it may run on offer GPUs enough"}},
		"no other node any more":               {[]moveFacts{on(0, marked, func(f *moveFacts) { f.room = false })}, limits(whenDown, 1), []string{"no other nodes that it may run on offer GPUs enough"}},
		"used up":                              {[]moveFacts{on(0, func(f *moveFacts) { f.exhausted = true })}, limits(whenDown, 1), []string{"its restarts are used up"}},
		"only told":                            {[]moveFacts{on(0)}, limits(report, 1), []string{"recovery.unhealthyGPUs is Report"}},
		"being rolled out":                     {[]moveFacts{on(0, func(f *moveFacts) { f.eligible = false })}, limits(whenDown, 1), []string{"it is not repaired as it is: it is replaced or removed, or recovery.policy is None"}},
		"one that cannot holds up nobody else": {[]moveFacts{on(0, func(f *moveFacts) { f.room = false }), on(1)}, limits(whenDown, 2), []string{"no other nodes that it may run on offer GPUs enough", "announce+"}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			var got []string
			for _, m := range planMoves(tc.facts, tc.limits, start) {
				text := map[step]string{stay: m.why, announce: "announce", depart: "depart"}[m.step]
				if m.marked {
					text += "+"
				}
				got = append(got, text)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// caravan is a deployment on nodes that get sick and well, seen as planMoves sees it.
type caravan struct {
	random    *rand.Rand
	limits    moveLimits
	now       time.Time
	sick      map[string]bool
	instances []*traveller
}

// traveller is an instance; a pod without a node waits for one.
type traveller struct {
	pods     []string
	broken   bool
	moving   []string
	since    time.Time
	failures int
}

const caravanRestarts = 6

func (x *traveller) serves() bool { return !x.broken && !slices.Contains(x.pods, "") }

func (f *caravan) facts() []moveFacts {
	facts := make([]moveFacts, len(f.instances))
	f.limits.down = 0
	well := 0
	for n := range len(f.sick) {
		if !f.sick[fmt.Sprint(n)] {
			well++
		}
	}
	for n, x := range f.instances {
		facts[n] = moveFacts{index: int32(n), eligible: true, serving: x.serves(), room: well > 0, moving: x.moving, since: x.since}
		for _, node := range x.pods {
			if f.sick[node] && !slices.Contains(facts[n].nodes, node) {
				facts[n].nodes = append(facts[n].nodes, node)
			}
		}
		slices.Sort(facts[n].nodes)
		facts[n].exhausted = !facts[n].announced() && x.failures >= caravanRestarts
		if !x.serves() {
			f.limits.down++
		}
	}
	return facts
}

// live lets things happen: nodes and instances break and get well, and pods that
// wait find nodes.
func (f *caravan) live(calm bool) {
	f.now = f.now.Add(time.Duration(f.random.IntN(120)) * time.Second)
	if !calm && f.random.IntN(4) == 0 {
		node := fmt.Sprint(f.random.IntN(len(f.sick)))
		f.sick[node] = !f.sick[node]
	}
	for _, x := range f.instances {
		x.broken = !calm && f.random.IntN(4) == 0
		for p, node := range x.pods {
			if place := fmt.Sprint(f.random.IntN(len(f.sick))); node == "" && !f.sick[place] {
				x.pods[p] = place
			}
		}
	}
}

// pass does what planMoves says, checks that it may, and returns whether anything
// was done.
func (f *caravan) pass(t *testing.T) bool {
	t.Helper()
	facts, steps := f.facts(), 0
	for n, m := range planMoves(facts, f.limits, f.now) {
		x, fact := f.instances[n], facts[n]
		if m.step != stay {
			steps++
			f.mayStep(t, n, facts)
		}
		switch m.step {
		case announce:
			x.moving, x.since = fact.nodes, f.now
			x.failures++
		case depart:
			if !fact.announced() {
				t.Fatalf("instance %d departs from %v; status tells of %v", n, fact.nodes, fact.moving)
			}
			for p, node := range x.pods {
				if f.sick[node] {
					x.pods[p] = ""
				}
			}
		}
		if !m.marked {
			x.moving = nil
		}
		if m.step == stay && len(fact.nodes) > 0 && m.why == "" {
			t.Fatalf("instance %d stays on %v, and nobody says why", n, fact.nodes)
		}
	}
	if steps > 1 {
		t.Fatalf("%d instances at once", steps)
	}
	return steps > 0
}

func (f *caravan) mayStep(t *testing.T, n int, facts []moveFacts) {
	t.Helper()
	fact := facts[n]
	switch {
	case f.limits.policy == v1alpha1.UnhealthyGPUReport:
		t.Fatalf("instance %d moves, and is only to be reported", n)
	case !fact.room || fact.exhausted || len(fact.nodes) == 0:
		t.Fatalf("instance %d moves: %+v", n, fact)
	case fact.serving && (f.limits.policy != v1alpha1.UnhealthyGPUMove || f.limits.down >= f.limits.maxUnavailable):
		t.Fatalf("instance %d serves and moves, with %d of %d down", n, f.limits.down, f.limits.maxUnavailable)
	}
	for o := range facts {
		if o != n && len(facts[o].moving) > 0 && f.now.Sub(facts[o].since) < moveHold && !facts[o].since.Before(fact.since) {
			t.Fatalf("instance %d moves while %d does", n, o)
		}
	}
}

// TestMovesConverge lets a caravan live and, once nothing breaks any more, expects
// it to be off all sick nodes, as far as the user lets it.
func TestMovesConverge(t *testing.T) {
	policies := []v1alpha1.UnhealthyGPUPolicy{v1alpha1.UnhealthyGPUMoveWhenDown, v1alpha1.UnhealthyGPUMove, v1alpha1.UnhealthyGPUReport}
	moved := map[v1alpha1.UnhealthyGPUPolicy]int{}
	const seeds, days = 300, 60
	for seed := range uint64(seeds) {
		random := rand.New(rand.NewPCG(seed, 7))
		f := &caravan{random: random, now: start, sick: map[string]bool{}, limits: moveLimits{policy: policies[seed%3], maxUnavailable: random.IntN(3)}}
		for n := range 2 + random.IntN(5) {
			f.sick[fmt.Sprint(n)] = false
		}
		for range 1 + random.IntN(4) {
			f.instances = append(f.instances, &traveller{pods: []string{"", "", ""}})
		}
		for range days {
			f.live(false)
			if f.pass(t) {
				moved[f.limits.policy]++
			}
		}
		f.sick["0"] = false
		for range 20 * days {
			f.live(true)
			f.pass(t)
		}
		for n, x := range f.instances {
			stuck := slices.ContainsFunc(x.pods, func(node string) bool { return f.sick[node] })
			allowed := f.limits.policy == v1alpha1.UnhealthyGPUMove && f.limits.maxUnavailable > 0 && x.failures < caravanRestarts
			if !x.serves() || stuck && allowed || len(x.moving) > 0 && !stuck {
				t.Errorf("seed %d: instance %d ended with %+v, sick %v", seed, n, x, f.sick)
			}
			if x.failures > caravanRestarts {
				t.Errorf("seed %d: instance %d moved %d times", seed, n, x.failures)
			}
		}
	}
	if moved[policies[0]] == 0 || moved[policies[1]] == 0 || moved[policies[2]] > 0 {
		t.Errorf("steps by policy: %v", moved)
	}
}

func TestRecordDevices(t *testing.T) {
	now := metav1.NewTime(start)
	entry := func(uid, node, boot string, since time.Time) v1alpha1.UnhealthyGPU {
		return v1alpha1.UnhealthyGPU{UID: uid, Node: node, BootID: boot, Since: &metav1.Time{Time: since}, Message: "XID 79"}
	}
	boots := func(node string) (string, bool) {
		id, exists := map[string]string{"n1": "b1", "n2": "b2"}[node]
		return id, exists
	}
	old := start.Add(-time.Hour)
	cases := map[string]struct {
		before  []v1alpha1.UnhealthyGPU
		reports []deviceReport
		want    []v1alpha1.UnhealthyGPU
	}{
		"nothing":                              {},
		"a report":                             {nil, []deviceReport{{"u1", "n1", true, "XID 79"}}, []v1alpha1.UnhealthyGPU{{UID: "u1", Node: "n1", BootID: "b1", Since: &now, Message: "XID 79"}}},
		"the same again":                       {[]v1alpha1.UnhealthyGPU{entry("u1", "n1", "b1", old)}, []deviceReport{{"u1", "n1", true, "XID 79"}}, []v1alpha1.UnhealthyGPU{entry("u1", "n1", "b1", old)}},
		"a pod that says nothing":              {[]v1alpha1.UnhealthyGPU{entry("u1", "n1", "b1", old)}, []deviceReport{{"u1", "n1", false, ""}}, []v1alpha1.UnhealthyGPU{entry("u1", "n1", "b1", old)}},
		"a pod that is well again":             {[]v1alpha1.UnhealthyGPU{entry("u1", "n1", "b1", old)}, []deviceReport{{"u1", "n1", true, ""}}, nil},
		"a pod that is gone":                   {[]v1alpha1.UnhealthyGPU{entry("u1", "n1", "b1", old)}, []deviceReport{{"u2", "n1", true, ""}}, []v1alpha1.UnhealthyGPU{entry("u1", "n1", "b1", old)}},
		"its node restarted":                   {[]v1alpha1.UnhealthyGPU{entry("u1", "n1", "b0", old)}, nil, nil},
		"its node is gone":                     {[]v1alpha1.UnhealthyGPU{entry("u1", "n3", "b3", old)}, nil, nil},
		"a day later":                          {[]v1alpha1.UnhealthyGPU{entry("u1", "n1", "b1", start.Add(-unhealthyFor))}, nil, nil},
		"a report from a node that is unknown": {nil, []deviceReport{{"u1", "n3", true, "XID 79"}}, nil},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, recordDevices(tc.before, tc.reports, boots, start)); diff != "" {
				t.Error(diff)
			}
		})
	}
	var many []deviceReport
	for n := range 3 * maxUnhealthy {
		many = append(many, deviceReport{fmt.Sprint(n), "n2", true, "XID 79"})
	}
	list := recordDevices([]v1alpha1.UnhealthyGPU{entry("old", "n1", "b1", old)}, many, boots, start)
	if len(list) != maxUnhealthy || strings.Contains(fmt.Sprint(list), "old") {
		t.Errorf("got %d entries, want the newest %d", len(list), maxUnhealthy)
	}
}
