// SPDX-License-Identifier: Apache-2.0

package tasklist_test

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/findep/findep-operator/runtime/backend/recorder"
	"github.com/findep/findep-operator/runtime/backend/tasklist"
	"github.com/findep/findep-operator/runtime/plan"
	"github.com/findep/findep-operator/runtime/schedule"
)

// pipelined is a world in which every kind of wait occurs.
func pipelined(t testing.TB) *world {
	t.Helper()
	p := plan.Plan{Policy: plan.FinDEP, Order: plan.ASAS, MicroBatchSize: 2, R1: 2, R2: 2, Chunks: 1}
	s, err := schedule.Build(p, 3, schedule.Options{SharedExperts: true})
	if err != nil {
		t.Fatal(err)
	}
	return &world{ag: 2, eg: 2, schedule: s, capacity: 2}
}

// records are the traces and the tasks of all ranks.
func records(t *testing.T, p *recorder.Program, w *world) (traces []*recorder.Trace, tasks [][]tasklist.Task) {
	t.Helper()
	for rank, list := range w.lists(t) {
		text, err := p.Record(list)
		if err != nil {
			t.Fatal(err)
		}
		trace, err := recorder.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		traces = append(traces, trace)
		tasks = append(tasks, tasklist.Local(w.schedule, rank < w.ag))
	}
	return traces, tasks
}

func wants(t *testing.T, err error, text string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), text) {
		t.Errorf("error %v; it should speak of a %q", err, text)
	}
}

// Every single wait that is left out is noticed.
func TestDetectorFindsEveryMissingWait(t *testing.T) {
	traces, tasks := records(t, startRecorder(t), pipelined(t))
	dropped := 0
	for rank, trace := range traces {
		for i, e := range trace.Entries {
			if e.Action != recorder.Wait || e.Task < 0 {
				continue
			}
			broken := &recorder.Trace{Entries: slices.Delete(slices.Clone(trace.Entries), i, i+1)}
			wants(t, recorder.CheckWaits(tasks[rank], broken), "missing wait")
			dropped++
		}
	}
	if dropped < 50 {
		t.Errorf("only %d waits", dropped)
	}
}

// A wait that the schedule does not ask for is noticed, and one that other
// waits make needless.
func TestDetectorFindsSuperfluousWaits(t *testing.T) {
	traces, tasks := records(t, startRecorder(t), pipelined(t))
	entries := traces[0].Entries
	last := slices.IndexFunc(entries, func(e recorder.Entry) bool { return e.Action == recorder.Wait && e.Task > 20 })
	again := slices.Insert(slices.Clone(entries), last, entries[last])
	wants(t, recorder.CheckWaits(tasks[0], &recorder.Trace{Entries: again}), "superfluous wait")
	// The shared experts of the first micro-batch need not wait for its receive.
	shared := slices.IndexFunc(tasks[0], func(k tasklist.Task) bool {
		return k.Kind == tasklist.Kind(schedule.Shared) && k.Layer == 2
	})
	at := slices.IndexFunc(entries, func(e recorder.Entry) bool { return e.Task == shared })
	wait := recorder.Entry{Action: recorder.Wait, Stream: tasklist.StreamCompute, Task: shared, Event: 99}
	record := recorder.Entry{Action: recorder.Record, Stream: tasklist.StreamA2E, Task: shared - 1, Event: 99}
	for k := at; k >= 0; k-- {
		if entries[k].Stream == tasklist.StreamA2E && entries[k].Task >= 0 {
			record.Task = entries[k].Task
			break
		}
	}
	more := slices.Insert(slices.Clone(entries), at, record, wait)
	wants(t, recorder.CheckWaits(tasks[0], &recorder.Trace{Entries: more}), "superfluous")
}

// Two groups that one rank alone enqueues the other way round are noticed.
func TestDetectorFindsSwappedGroups(t *testing.T) {
	p := startRecorder(t)
	for _, action := range []recorder.Action{recorder.Send, recorder.Receive} {
		for rank := range 4 {
			traces, _ := records(t, p, pipelined(t))
			var groups []int
			for i, e := range traces[rank].Entries {
				if e.Action == action {
					groups = append(groups, i)
				}
			}
			e := traces[rank].Entries
			e[groups[0]], e[groups[1]] = e[groups[1]], e[groups[0]]
			_, err := recorder.CheckWorld(traces)
			wants(t, err, "swapped order")
		}
	}
}

// A part that only one side has is noticed.
func TestDetectorFindsUnmatchedParts(t *testing.T) {
	traces, _ := records(t, startRecorder(t), pipelined(t))
	e := traces[3].Entries
	at := slices.IndexFunc(e, func(e recorder.Entry) bool { return e.Action == recorder.Receive })
	e[at].Parts = e[at].Parts[1:]
	_, err := recorder.CheckWorld(traces)
	wants(t, err, "transfers")
	traces, _ = records(t, startRecorder(t), pipelined(t))
	traces[3].Entries[at].Parts[1].Bytes++
	_, err = recorder.CheckWorld(traces)
	wants(t, err, "are expected")
}

// Both directions on one stream, receives first, make ranks wait for each other
// in a circle.
func TestDetectorFindsDeadlock(t *testing.T) {
	traces, _ := records(t, startRecorder(t), pipelined(t))
	e := traces[1].Entries
	send := slices.IndexFunc(e, func(e recorder.Entry) bool { return e.Action == recorder.Send })
	receive := slices.IndexFunc(e, func(e recorder.Entry) bool { return e.Action == recorder.Receive })
	early := e[receive]
	e = slices.Insert(slices.Delete(slices.Clone(e), receive, receive+1), send, early)
	for i := range e {
		if e[i].Stream == tasklist.StreamE2A {
			e[i].Stream = tasklist.StreamA2E
		}
	}
	// Without the waits that would be in the way of the receive.
	e = slices.DeleteFunc(e, func(e recorder.Entry) bool {
		return e.Action == recorder.Wait && e.Task == early.Task
	})
	traces[1] = &recorder.Trace{Entries: e}
	_, err := recorder.CheckWorld(traces)
	wants(t, err, "deadlock")
}

// Streams may be in order while the hosts that fill them are not: a rank that
// enqueues what it receives before what it sends is noticed.
func TestDetectorFindsHostsThatWaitInACircle(t *testing.T) {
	traces, _ := records(t, startRecorder(t), pipelined(t))
	e := traces[1].Entries
	send := slices.IndexFunc(e, func(e recorder.Entry) bool { return e.Action == recorder.Send })
	receive := slices.IndexFunc(e, func(e recorder.Entry) bool { return e.Action == recorder.Receive })
	early := e[receive]
	e = slices.Insert(slices.Delete(slices.Clone(e), receive, receive+1), send, early)
	traces[1].Entries = slices.DeleteFunc(e, func(e recorder.Entry) bool {
		return e.Action == recorder.Wait && e.Task == early.Task
	})
	_, err := recorder.CheckWorld(traces)
	wants(t, err, "hosts that wait")
}

// A slot that the next segment overwrites before it was read is noticed.
func TestDetectorFindsEarlySlotReuse(t *testing.T) {
	w := pipelined(t)
	w.sharedSlots = true
	traces, tasks := records(t, startRecorder(t), w)
	for rank := range traces {
		if err := recorder.CheckWaits(tasks[rank], traces[rank]); err != nil {
			t.Fatal(err)
		}
	}
	_, err := recorder.CheckWorld(traces)
	wants(t, err, "rank 0: early reuse")
}

// Without the waits of any one stream, the records of a rank race: what they
// order is not left to the good behaviour of peers.
func TestDetectorFindsRaces(t *testing.T) {
	p := startRecorder(t)
	for rank := range 4 {
		for stream := range tasklist.NumStreams {
			traces, _ := records(t, p, pipelined(t))
			traces[rank].Entries = slices.DeleteFunc(traces[rank].Entries, func(e recorder.Entry) bool {
				return e.Action == recorder.Wait && e.Task >= 0 && e.Stream == stream
			})
			_, err := recorder.CheckWorld(traces)
			wants(t, err, "race")
		}
	}
}

// Every stamp that is left out or stands on the wrong side of its neighbour is
// noticed.
func TestDetectorFindsMisplacedStamps(t *testing.T) {
	p, w := startRecorder(t), pipelined(t)
	w.timed = true
	lists := w.lists(t)
	traces, _ := records(t, p, w)
	for rank, trace := range traces {
		list, err := tasklist.Decode(lists[rank])
		if err != nil {
			t.Fatal(err)
		}
		if err := recorder.CheckStamps(list, trace); err != nil {
			t.Fatalf("rank %d: %v", rank, err)
		}
		broken := func(i int, entries []recorder.Entry) {
			if recorder.CheckStamps(list, &recorder.Trace{Entries: entries}) == nil {
				t.Fatalf("rank %d: entry %d is misplaced, and nothing is found", rank, i)
			}
		}
		for i, e := range trace.Entries {
			if e.Action != recorder.Stamp {
				continue
			}
			broken(i, slices.Delete(slices.Clone(trace.Entries), i, i+1))
			for _, next := range []int{i - 1, i + 1} {
				// The beginning and the ends of a step are no task's.
				if next < 0 || next >= len(trace.Entries) || trace.Entries[next].Task < 0 || e.Task < 0 {
					continue
				}
				swapped := slices.Clone(trace.Entries)
				swapped[i], swapped[next] = swapped[next], swapped[i]
				broken(i, swapped)
			}
		}
		list.Timed = false
		broken(0, trace.Entries)
	}
}

// Random damage to one stream's order never passes for another's.
func TestDetectorFindsRandomDamage(t *testing.T) {
	p := startRecorder(t)
	found, tried := 0, 0
	for seed := range 200 {
		r := rand.New(rand.NewPCG(3, uint64(seed)))
		w := randomWorld(t, r)
		w.capture, w.timed = false, false
		traces, tasks := records(t, p, w)
		rank := r.IntN(len(traces))
		e := traces[rank].Entries
		i := r.IntN(len(e))
		if e[i].Task < 0 || e[i].Action == recorder.Record || e[i].Action == recorder.Operate {
			continue
		}
		tried++
		traces[rank].Entries = slices.Delete(slices.Clone(e), i, i+1)
		err := recorder.CheckWaits(tasks[rank], traces[rank])
		if err == nil {
			_, err = recorder.CheckWorld(traces)
		}
		if err != nil {
			found++
		}
	}
	if found != tried || tried < 20 {
		t.Errorf("%d of %d damaged records were noticed", found, tried)
	}
}
