// SPDX-License-Identifier: Apache-2.0

package sim

import "github.com/findep/findep-operator/runtime/schedule"

// RunHalfDuplex simulates a schedule whose two link directions share one link:
// it carries one transfer at a time, the one that became ready first, and of
// two at once the result. Each direction keeps its own order, and everything
// else is as in Run. Busy counts each direction by itself.
func RunHalfDuplex(s *schedule.Schedule, duration DurationFunc) (*Result, error) {
	n := len(s.Tasks)
	times := make([]float64, 2*n)
	h := &halfDuplex{s: s, r: &Result{Start: times[:n:n], End: times[n:]}, duration: make([]float64, n), ended: make([]bool, n)}
	for id := range s.Tasks {
		d, err := checked(&s.Tasks[id], duration)
		if err != nil {
			return nil, err
		}
		h.duration[id] = d
		h.r.Busy[s.Tasks[id].Resource] += d
	}
	for h.step() {
	}
	return h.r, nil
}

// halfDuplex is one simulation: done counts the tasks of each stream that have
// ended, free is when each resource is.
type halfDuplex struct {
	s        *schedule.Schedule
	r        *Result
	duration []float64
	done     [schedule.NumResources]int
	free     [schedule.NumResources]float64
	ended    []bool
}

// step runs what does not need the link and then one transfer; false at the
// end.
func (h *halfDuplex) step() bool {
	for _, r := range []schedule.Resource{schedule.AttentionCompute, schedule.ExpertCompute} {
		for {
			id, ready, ok := h.next(r)
			if !ok {
				break
			}
			h.run(id, ready)
		}
	}
	a, segment, sending := h.next(schedule.A2ELink)
	c, result, returning := h.next(schedule.E2ALink)
	switch {
	case returning && (!sending || result <= segment):
		h.run(c, result)
	case sending:
		h.run(a, segment)
	default:
		return false
	}
	link := max(h.free[schedule.A2ELink], h.free[schedule.E2ALink])
	h.free[schedule.A2ELink], h.free[schedule.E2ALink] = link, link
	return true
}

// next returns the first task of a resource that has not run, and when its
// dependencies have ended; ok is false if there is none or they have not run.
func (h *halfDuplex) next(r schedule.Resource) (id schedule.TaskID, ready float64, ok bool) {
	stream := h.s.Stream(r)
	if h.done[r] == len(stream) {
		return 0, 0, false
	}
	id = stream[h.done[r]]
	for _, dep := range h.s.Tasks[id].Deps {
		if !h.ended[dep] {
			return 0, 0, false
		}
		ready = max(ready, h.r.End[dep])
	}
	return id, ready, true
}

func (h *halfDuplex) run(id schedule.TaskID, ready float64) {
	r := h.s.Tasks[id].Resource
	start := max(ready, h.free[r])
	end := start + h.duration[id]
	h.r.Start[id], h.r.End[id], h.free[r] = start, end, end
	h.r.Makespan = max(h.r.Makespan, end)
	h.done[r]++
	h.ended[id] = true
}
