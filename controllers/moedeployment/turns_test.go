// SPDX-License-Identifier: Apache-2.0

package moedeployment

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/event"

	"github.com/findep/findep-operator/api/v1alpha1"
	"github.com/findep/findep-operator/test/wrappers"
)

// podsOfWish is the size of instances that divides owedLimit.
const podsOfWish = 16

// wishOf is that of instance 0 of the n-th deployment.
func wishOf(n int) debt {
	return debt{instance: instanceName{types.NamespacedName{Namespace: "ns", Name: fmt.Sprint(n)}, "0"}, revision: "new", size: podsOfWish}
}

// successor is a pod of the instance of a wish, with a node.
func successor(wish debt, rank int) *corev1.Pod {
	pod := podWith(types.UID(fmt.Sprint(wish.instance, wish.revision, rank)), "node")
	pod.Namespace = wish.instance.deployment.Namespace
	pod.Labels = map[string]string{
		v1alpha1.LabelDeployment: wish.instance.deployment.Name, v1alpha1.LabelInstance: wish.instance.index, v1alpha1.LabelRevision: wish.revision,
	}
	return pod
}

// fullTurns has granted as much as it does, to the first deployments.
func fullTurns(t *testing.T, now time.Time) *turns {
	t.Helper()
	all := &turns{}
	for n := range owedLimit / podsOfWish {
		if !all.take(wishOf(n), now) {
			t.Fatalf("instance %d has to wait", n)
		}
	}
	return all
}

func TestInstancesThatServeTakeTurns(t *testing.T) {
	const next = owedLimit / podsOfWish
	// tell reports a pod, and returns the deployments that get a pass for it.
	tell := func(all *turns, pod *corev1.Pod) []string {
		q := &woken{}
		all.placing(func() time.Time { return start }).Update(context.Background(), event.UpdateEvent{ObjectNew: pod}, q)
		return q.names
	}
	cases := map[string]struct {
		wish   debt
		change func(*turns) []string
		later  time.Duration
		// woken are the deployments that get a pass, granted says whether the wish is.
		woken   []string
		granted bool
	}{
		"too many are owed":    {wish: wishOf(next)},
		"it was granted":       {wish: wishOf(0), granted: true},
		"patience is over":     {wish: wishOf(next), later: owedPatience, granted: true},
		"a pod has a node":     {wish: wishOf(next), change: func(all *turns) []string { return tell(all, successor(wishOf(0), 0)) }, woken: []string{fmt.Sprint(next)}, granted: true},
		"another was first":    {wish: wishOf(next + 1), change: func(all *turns) []string { return tell(all, successor(wishOf(0), 0)) }, woken: []string{fmt.Sprint(next)}},
		"a pod has none":       {wish: wishOf(next), change: func(all *turns) []string { p := successor(wishOf(0), 0); p.Spec.NodeName = ""; return tell(all, p) }},
		"an old pod has one":   {wish: wishOf(next), change: func(all *turns) []string { w := wishOf(0); w.revision = "old"; return tell(all, successor(w, 0)) }},
		"a pod of nobody's":    {wish: wishOf(next), change: func(all *turns) []string { return tell(all, podWith("1", "node")) }},
		"granted, then edited": {wish: func() debt { w := wishOf(0); w.revision = "newer"; return w }(), granted: true},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			all := fullTurns(t, start)
			// Asked twice, as passes do, they wait once.
			for _, n := range []int{next, next + 1, next, next + 1} {
				if all.take(wishOf(n), start) {
					t.Fatalf("instance %d goes down beside %d others", n, next)
				}
			}
			var woken []string
			if tc.change != nil {
				woken = tc.change(all)
			}
			if diff := cmp.Diff(tc.woken, woken); diff != "" {
				t.Errorf("woken: %s", diff)
			}
			if got := all.take(tc.wish, start.Add(tc.later)); got != tc.granted {
				t.Errorf("granted is %v, want %v", got, tc.granted)
			}
		})
	}
}

func TestWhatIsDownGoesBeforeATurn(t *testing.T) {
	all, q := fullTurns(t, start), &listening{after: -1, priority: -1}
	all.take(wishOf(owedLimit/podsOfWish), start)
	all.placing(func() time.Time { return start }).Create(context.Background(), event.CreateEvent{Object: successor(wishOf(0), 0)}, q)
	if q.after != 0 || q.priority < 0 || q.priority >= priorityOfKnown {
		t.Errorf("after %v with priority %d; want at once, below %d", q.after, q.priority, priorityOfKnown)
	}
}

func TestNothingWaitsForItself(t *testing.T) {
	large := wishOf(0)
	large.size = 4 * owedLimit
	if !(&turns{}).take(large, start) {
		t.Error("an instance that is larger than the limit never gets a turn")
	}
	var none *turns
	if !none.take(large, start) {
		t.Error("without turns something waits")
	}
}

func TestATurnIsHadOnce(t *testing.T) {
	all, later := fullTurns(t, start), start.Add(owedPatience)
	wish := wishOf(owedLimit / podsOfWish)
	all.take(wish, start)
	for rank := range podsOfWish {
		// It is asked in every pass until the old pods are seen to go.
		if !all.take(wish, later) {
			t.Fatal("a turn is taken back")
		}
		if woken := all.place(successor(wish, rank), later); len(woken) > 0 {
			t.Fatalf("%v gets another turn", woken)
		}
	}
	if owed := all.owed(); owed > 0 {
		t.Errorf("%d pods are owed, and all have a node", owed)
	}
}

// TestTurnsAreBoundedAndComeToAll replays rollouts of many deployments: never is
// more owed than allowed, and in the end everybody has had a turn.
func TestTurnsAreBoundedAndComeToAll(t *testing.T) {
	const deployments = 60
	for seed := range uint64(100) {
		random := rand.New(rand.NewPCG(seed, 1))
		all, passes := &turns{}, []string{}
		for _, n := range random.Perm(deployments) {
			passes = append(passes, fmt.Sprint(n))
		}
		// lacking are the pods that are still to be placed.
		var lacking []*corev1.Pod
		for len(passes)+len(lacking) > 0 {
			if len(passes) > 0 && random.IntN(2) == 0 {
				wish := wishOf(0)
				wish.instance.deployment.Name = passes[0]
				for rank := range podsOfWish {
					if all.take(wish, start) {
						lacking = append(lacking, successor(wish, rank))
					}
				}
				passes = passes[1:]
			}
			if len(lacking) >= owedLimit+podsOfWish {
				t.Fatalf("seed %d: %d pods are owed", seed, len(lacking))
			}
			if n := len(lacking); n > 0 {
				at := random.IntN(n)
				for _, name := range all.place(lacking[at], start) {
					passes = append(passes, name.Name)
				}
				lacking[at], lacking = lacking[n-1], lacking[:n-1]
			}
		}
		if len(all.waiting)+len(all.granted) > 0 {
			t.Fatalf("seed %d: %d still wait, %d are still down", seed, len(all.waiting), len(all.granted))
		}
	}
}

func TestOnlyWhatServesWaitsForItsTurn(t *testing.T) {
	cases := map[string]struct {
		change func(*instance)
		want   action
		waits  bool
	}{
		"it serves":                     {func(i *instance) { i.action = recreate }, keep, true},
		"it is down":                    {func(i *instance) { i.action = recreate; delete(i.pods, "lite-0-eg-2") }, recreate, false},
		"it failed":                     {func(i *instance) { i.action = restart }, restart, false},
		"it is too many":                {func(i *instance) { i.action = remove }, remove, false},
		"it is moved off a sick node":   {func(i *instance) { i.action = relocate }, relocate, false},
		"it is at the current revision": {func(i *instance) { i.action = complete }, complete, false},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			s := newStage(t, wrappers.MoEDeployment("lite")).pods(readyPod)
			tc.change(s.instances[0])
			(&Reconciler{turns: fullTurns(t, start)}).considerTurns(s.scope)
			if i := s.instances[0]; i.action != tc.want || i.waits != tc.waits {
				t.Errorf("action %v, waits %v; want %v, %v", i.action, i.waits, tc.want, tc.waits)
			}
			if again := s.requeueAfter > 0; again != tc.waits {
				t.Errorf("another pass is asked for: %v, want %v", again, tc.waits)
			}
		})
	}
}
