// SPDX-License-Identifier: Apache-2.0

package moedeployment

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/event"

	"github.com/findep/findep-operator/controllers/render"
	"github.com/findep/findep-operator/test/wrappers"
)

func TestAPodIsExpectedUntilItIsSeen(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	pod := podWith("1", "")
	pod.Namespace, pod.Name = "ns", "d-0-ag-0"
	key := types.NamespacedName{Namespace: "ns", Name: "d-0-ag-0"}
	for name, tc := range map[string]struct {
		happens func(*expected)
		want    time.Duration
	}{
		"nothing": {nil, expectAfter - time.Second},
		"it is in the cache": {func(e *expected) {
			e.seeing().Create(t.Context(), event.CreateEvent{Object: pod}, nil)
		}, 0},
		"it took the place of another": {func(e *expected) {
			e.seeing().Update(t.Context(), event.UpdateEvent{ObjectOld: podWith("0", ""), ObjectNew: pod}, nil)
		}, 0},
		"it is gone already": {func(e *expected) {
			e.seeing().Delete(t.Context(), event.DeleteEvent{Object: pod}, nil)
		}, 0},
		"it could not be made": {func(e *expected) { e.remove(key) }, 0},
		"another one is seen": {func(e *expected) {
			e.seeing().Create(t.Context(), event.CreateEvent{Object: podWith("2", "")}, nil)
		}, expectAfter - time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			e := &expected{}
			e.add(key, now)
			if tc.happens != nil {
				tc.happens(e)
			}
			if got := e.wait(key, now.Add(time.Second)); got != tc.want {
				t.Errorf("it is expected for %v, want %v", got, tc.want)
			}
		})
	}
}

func TestAPodIsNotExpectedForEver(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	key := types.NamespacedName{Namespace: "ns", Name: "p"}
	e := &expected{}
	e.add(key, now)
	if got := e.wait(key, now.Add(expectAfter)); got != 0 || len(e.made) != 0 {
		t.Errorf("it is expected for another %v, and %d are remembered", got, len(e.made))
	}
	var none *expected
	none.add(key, now)
	none.remove(key)
	if got := none.wait(key, now); got != 0 {
		t.Errorf("nobody expects it, and yet for %v", got)
	}
}

// TestAPassWaitsForThePodsOfTheLast: none of an instance's pods is made while one
// that was made is not in the cache.
func TestAPassWaitsForThePodsOfTheLast(t *testing.T) {
	s := newStage(t, wrappers.MoEDeployment("d")).scope
	i := s.byIndex(0)
	in := s.input(i)
	r := &Reconciler{expected: &expected{}}
	name := func(rank int) string { return render.PodName("d", 0, in.Attention, rank) }
	i.pods[name(0)] = podWith("0", "n")
	r.expected.add(types.NamespacedName{Namespace: s.owner.Namespace, Name: name(0)}, s.now)
	var all []int
	for rank := 1; rank < in.Attention+in.Expert; rank++ {
		all = append(all, rank)
	}
	ranks, wait := r.missing(s, i, in)
	if diff := cmp.Diff(all, ranks); diff != "" || wait != 0 {
		t.Errorf("it waits %v although all expected pods are there; missing: %s", wait, diff)
	}
	r.expected.add(types.NamespacedName{Namespace: s.owner.Namespace, Name: name(1)}, s.now)
	if _, wait := r.missing(s, i, in); wait != expectAfter {
		t.Errorf("it waits %v for a pod that was just made, want %v", wait, expectAfter)
	}
}
