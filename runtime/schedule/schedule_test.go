// SPDX-License-Identifier: Apache-2.0

package schedule_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/findep/findep-operator/runtime/plan"
	"github.com/findep/findep-operator/runtime/schedule"
)

func findep(r1, r2 int, order plan.Order) plan.Plan {
	return plan.Plan{Policy: plan.FinDEP, MicroBatchSize: 1, R1: r1, R2: r2, Order: order, Chunks: 1}
}

func build(t *testing.T, p plan.Plan, layers int, shared bool) *schedule.Schedule {
	t.Helper()
	s, err := schedule.Build(p, layers, schedule.Options{SharedExperts: shared})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// names renders a stream with the dependencies of each task.
func names(s *schedule.Schedule, r schedule.Resource) []string {
	var out []string
	for _, id := range s.Stream(r) {
		task := &s.Tasks[id]
		var deps []string
		for _, d := range task.Deps {
			deps = append(deps, s.Tasks[d].Name())
		}
		out = append(out, fmt.Sprintf("%s <- %s", task.Name(), strings.Join(deps, ", ")))
	}
	return out
}

func TestStreamsOfSmallPlans(t *testing.T) {
	pppipe := plan.Plan{Policy: plan.PPPipe, MicroBatchSize: 4, R1: 2, R2: 1, Order: plan.ASAS, Chunks: 1}
	sequential := plan.Plan{Policy: plan.Sequential, MicroBatchSize: 8, R1: 1, R2: 1, Order: plan.ASAS, Chunks: 1}
	tests := map[string]struct {
		plan     plan.Plan
		layers   int
		shared   bool
		resource schedule.Resource
		want     []string
	}{
		"ASAS alternates": {findep(2, 1, plan.ASAS), 1, true, schedule.AttentionCompute, []string{
			"Attention L0 m0 <- ", "Shared L0 m0 <- Attention L0 m0", "Attention L0 m1 <- ", "Shared L0 m1 <- Attention L0 m1"}},
		"AASS runs attention first": {findep(2, 1, plan.AASS), 1, true, schedule.AttentionCompute, []string{
			"Attention L0 m0 <- ", "Attention L0 m1 <- ", "Shared L0 m0 <- Attention L0 m0", "Shared L0 m1 <- Attention L0 m1"}},
		"attention waits for all segments and the shared expert": {findep(1, 2, plan.ASAS), 2, true, schedule.AttentionCompute, []string{
			"Attention L0 m0 <- ", "Shared L0 m0 <- Attention L0 m0",
			"Attention L1 m0 <- E2A L0 m0 s0, E2A L0 m0 s1, Shared L0 m0", "Shared L1 m0 <- Attention L1 m0"}},
		"FinDEP sends before the shared expert": {findep(1, 2, plan.ASAS), 1, true, schedule.A2ELink, []string{
			"A2E L0 m0 s0 <- Attention L0 m0", "A2E L0 m0 s1 <- Attention L0 m0"}},
		"PPPipe sends after the shared expert": {pppipe, 1, true, schedule.A2ELink, []string{
			"A2E L0 m0 s0 <- Shared L0 m0", "A2E L0 m1 s0 <- Shared L0 m1"}},
		"PPPipe without shared experts": {pppipe, 1, false, schedule.A2ELink, []string{
			"A2E L0 m0 s0 <- Attention L0 m0", "A2E L0 m1 s0 <- Attention L0 m1"}},
		"no shared experts": {findep(2, 1, plan.AASS), 1, false, schedule.AttentionCompute, []string{
			"Attention L0 m0 <- ", "Attention L0 m1 <- "}},
		"experts follow the link": {findep(1, 2, plan.ASAS), 1, true, schedule.ExpertCompute, []string{
			"Expert L0 m0 s0 <- A2E L0 m0 s0", "Expert L0 m0 s1 <- A2E L0 m0 s1"}},
		"results follow the experts": {sequential, 2, true, schedule.E2ALink, []string{
			"E2A L0 m0 s0 <- Expert L0 m0 s0", "E2A L1 m0 s0 <- Expert L1 m0 s0"}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, names(build(t, tc.plan, tc.layers, tc.shared), tc.resource)); diff != "" {
				t.Errorf("%s (-want +got):\n%s", tc.resource, diff)
			}
		})
	}
}

// Sequential must have no freedom: each task transitively waits for all before.
func TestSequentialIsOneChain(t *testing.T) {
	p := plan.Plan{Policy: plan.Sequential, MicroBatchSize: 8, R1: 1, R2: 1, Order: plan.ASAS, Chunks: 1}
	for _, shared := range []bool{true, false} {
		s := build(t, p, 3, shared)
		for id := 1; id < len(s.Tasks); id++ {
			if !slices.Contains(s.Tasks[id].Deps, schedule.TaskID(id-1)) {
				t.Errorf("shared=%v: %s does not wait for %s", shared, s.Tasks[id].Name(), s.Tasks[id-1].Name())
			}
		}
	}
}

// randomPlan draws any valid combination.
func randomPlan(r *rand.Rand) (p plan.Plan, layers int, shared bool) {
	p = plan.Plan{
		Policy: []plan.Policy{plan.FinDEP, plan.PPPipe, plan.Sequential}[r.IntN(3)], MicroBatchSize: 1 + r.IntN(8),
		R1: 1 + r.IntN(5), R2: 1 + r.IntN(5), Order: []plan.Order{plan.ASAS, plan.AASS}[r.IntN(2)], Chunks: 1 + r.IntN(3),
	}
	if p.Policy != plan.FinDEP {
		p.R2, p.Order = 1, plan.ASAS
	}
	if p.Policy == plan.Sequential {
		p.R1, p.Chunks = 1, 1
	}
	return p, 1 + r.IntN(5), r.IntN(2) == 0
}

func TestEveryScheduleKeepsTheRules(t *testing.T) {
	for seed := range uint64(500) {
		p, layers, shared := randomPlan(rand.New(rand.NewPCG(seed, 1)))
		s := build(t, p, layers, shared)
		if msg := broken(s, p, layers, shared); msg != "" {
			t.Fatalf("seed %d, %v, %d layers, shared %v: %s", seed, p, layers, shared, msg)
		}
	}
}

// broken returns the first rule that a schedule does not keep.
func broken(s *schedule.Schedule, p plan.Plan, layers int, shared bool) string {
	m := p.R1 * p.Chunks
	attention := layers * m
	if shared {
		attention *= 2
	}
	counts := [schedule.NumResources]int{attention, layers * m * p.R2, layers * m * p.R2, layers * m * p.R2}
	total := 0
	for r, want := range counts {
		stream := s.Stream(schedule.Resource(r))
		if len(stream) != want {
			return fmt.Sprintf("%d tasks on %s, want %d", len(stream), schedule.Resource(r), want)
		}
		if !slices.IsSorted(stream) {
			return "a stream is not in ID order"
		}
		total += want
	}
	if len(s.Tasks) != total {
		return fmt.Sprintf("%d tasks, want %d", len(s.Tasks), total)
	}
	for id := range s.Tasks {
		if msg := brokenTask(s, id); msg != "" {
			return msg
		}
	}
	return brokenRules(s, p, shared)
}

// brokenTask checks what holds for each task by itself. Together with the
// counts, a Find that returns each ID for its own coordinates proves that each
// (kind, layer, micro-batch, segment) occurs exactly once.
func brokenTask(s *schedule.Schedule, id int) string {
	task := &s.Tasks[id]
	found, ok := s.Find(task.Kind, int(task.Layer), int(task.MicroBatch), int(task.Segment))
	if !ok || int(found) != id || int(task.ID) != id {
		return fmt.Sprintf("%s has ID %d at index %d, Find says %d, %v", task.Name(), task.ID, id, found, ok)
	}
	if task.Resource != task.Kind.Resource() {
		return fmt.Sprintf("%s runs on %s", task.Name(), task.Resource)
	}
	for _, d := range task.Deps {
		if int(d) >= id {
			return fmt.Sprintf("%s waits for the later %s", task.Name(), s.Tasks[d].Name())
		}
	}
	return ""
}

// coordinates identify a task.
type coordinates struct {
	kind    schedule.Kind
	t, i, j int32
}

func at(task *schedule.Task) coordinates {
	return coordinates{task.Kind, task.Layer, task.MicroBatch, task.Segment}
}

// required lists what a task must wait for, from the rules of the paper.
func required(task *schedule.Task, p plan.Plan, shared bool) []coordinates {
	t, i, j := task.Layer, task.MicroBatch, task.Segment
	switch task.Kind {
	case schedule.Attention:
		if t == 0 {
			return nil
		}
		var need []coordinates
		for segment := range int32(p.R2) {
			need = append(need, coordinates{schedule.E2A, t - 1, i, segment})
		}
		if shared {
			need = append(need, coordinates{schedule.Shared, t - 1, i, 0})
		}
		return need
	case schedule.A2E:
		if shared && p.Policy != plan.FinDEP {
			return []coordinates{{schedule.Shared, t, i, 0}}
		}
		return []coordinates{{schedule.Attention, t, i, 0}}
	case schedule.Expert:
		return []coordinates{{schedule.A2E, t, i, j}}
	case schedule.E2A:
		return []coordinates{{schedule.Expert, t, i, j}}
	default:
		return []coordinates{{schedule.Attention, t, i, 0}}
	}
}

// brokenRules checks precedence by coordinates, and the order on the links.
func brokenRules(s *schedule.Schedule, p plan.Plan, shared bool) string {
	for id := range s.Tasks {
		task := &s.Tasks[id]
		var got []coordinates
		for _, d := range task.Deps {
			got = append(got, at(&s.Tasks[d]))
		}
		if diff := cmp.Diff(required(task, p, shared), got, cmp.AllowUnexported(coordinates{})); diff != "" {
			return fmt.Sprintf("%s waits for (-want +got):\n%s", task.Name(), diff)
		}
	}
	for _, r := range []schedule.Resource{schedule.A2ELink, schedule.ExpertCompute, schedule.E2ALink} {
		if !slices.IsSortedFunc(s.Stream(r), func(a, b schedule.TaskID) int {
			x, y := &s.Tasks[a], &s.Tasks[b]
			return slices.Compare([]int32{x.Layer, x.MicroBatch, x.Segment}, []int32{y.Layer, y.MicroBatch, y.Segment})
		}) {
			return r.String() + " is not in lexicographic order"
		}
	}
	return ""
}

func TestFindRefusesWhatDoesNotExist(t *testing.T) {
	s := build(t, findep(2, 3, plan.ASAS), 4, false)
	for _, c := range [][4]int{{0, 4, 0, 0}, {0, -1, 0, 0}, {0, 0, 2, 0}, {2, 0, 0, 3}, {2, 0, 0, -1}, {1, 0, 0, 0}, {9, 0, 0, 0}} {
		if id, ok := s.Find(schedule.Kind(c[0]), c[1], c[2], c[3]); ok {
			t.Errorf("Find%v = %d, want none", c, id)
		}
	}
	if got := s.Stream(schedule.NumResources); got != nil {
		t.Errorf("a stream of no resource holds %v", got)
	}
}

func TestBuildRefuses(t *testing.T) {
	pppipe := plan.Plan{Policy: plan.PPPipe, MicroBatchSize: 1, R1: 2, R2: 1, Order: plan.AASS, Chunks: 1}
	sequential := plan.Plan{Policy: plan.Sequential, MicroBatchSize: 1, R1: 1, R2: 1, Order: plan.ASAS, Chunks: 2}
	tests := map[string]struct {
		plan   plan.Plan
		layers int
		want   string
	}{
		"no micro-batch":      {findep(0, 1, plan.ASAS), 1, "r1 is 0"},
		"too many segments":   {findep(1, plan.MaxR2+1, plan.ASAS), 1, "r2 is 257"},
		"unsolved order":      {findep(1, 1, plan.OrderAuto), 1, `order "Auto"`},
		"no layers":           {findep(1, 1, plan.ASAS), 0, "0 MoE layers"},
		"too many layers":     {findep(1, 1, plan.ASAS), schedule.MaxLayers + 1, "1025 MoE layers"},
		"too many tasks":      {findep(plan.MaxR1, plan.MaxR2, plan.ASAS), schedule.MaxLayers, "lower r1 or r2"},
		"PPPipe with AASS":    {pppipe, 1, "use ASAS"},
		"Sequential in parts": {sequential, 1, "chunks is 2"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if _, err := schedule.Build(tc.plan, tc.layers, schedule.Options{}); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v, want one with %q", err, tc.want)
			}
		})
	}
}

func TestSegmentRangeCutsEvenly(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 7))
	for range 5000 {
		n, r2 := r.IntN(1<<20), 1+r.IntN(plan.MaxR2)
		next := 0
		for j := range r2 {
			from, to := schedule.SegmentRange(n, r2, j)
			if from != next || to-from < n/r2 || to-from > n/r2+1 {
				t.Fatalf("segment %d of %d over %d tokens is [%d,%d) after %d", j, r2, n, from, to, next)
			}
			next = to
		}
		if next != n {
			t.Fatalf("%d segments cover %d of %d tokens", r2, next, n)
		}
	}
}

// Building is on the path of every step whose plan changed.
func BenchmarkBuild(b *testing.B) {
	p := findep(8, 4, plan.ASAS)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := schedule.Build(p, 60, schedule.Options{SharedExperts: true}); err != nil {
			b.Fatal(err)
		}
	}
}
