// SPDX-License-Identifier: Apache-2.0

package moedeployment

import (
	"context"
	"slices"
	"strconv"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/findep/findep-operator/api/v1alpha1"
)

// This file bounds how much of the cluster rollouts take down at the same time.
// Pods are deleted much faster than others are made and placed in their stead: with
// hundreds of deployments changed at once, all would be down before the first is up
// again, although each keeps to its own rollout.maxUnavailable. Only instances that
// serve wait. What is broken, scaled down or to be repaired has nothing to lose.

const (
	// owedLimit is the number of pods, of all deployments, that rollouts may owe when
	// another instance is taken down. It is that of pods that may wait for the
	// scheduler: whoever takes down more does not come up sooner.
	owedLimit = backlogLimit
	// owedPatience is how long an instance counts, and so how long one waits at most
	// for others that drain, or find no place.
	owedPatience = 30 * time.Second
)

// instanceName names an instance of any deployment.
type instanceName struct {
	deployment types.NamespacedName
	index      string
}

func nameOf(s *scope, i *instance) instanceName {
	return instanceName{types.NamespacedName{Namespace: s.owner.Namespace, Name: s.owner.Name}, strconv.Itoa(int(i.index))}
}

// debt is an instance that a rollout takes down, until its successor has been
// placed.
type debt struct {
	instance instanceName
	// revision and size are those of its successor.
	revision string
	size     int
	// since is when it was granted, placed the successor's pods that have a node.
	since  time.Time
	placed map[types.UID]struct{}
}

// turns grants instances that serve their turn to be taken down, one after the
// other. Nothing is lost with it when the operator restarts: it only begins to
// count again.
type turns struct {
	mu sync.Mutex
	// granted may be, or have been, taken down. waiting are in order of arrival.
	granted map[instanceName]*debt
	waiting []debt
}

// take says whether an instance may be taken down. If not, a pass over its
// deployment follows when it may. A nil one holds nothing back.
func (t *turns) take(wish debt, now time.Time) bool {
	if t == nil {
		return true
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.forget(now)
	if d := t.granted[wish.instance]; d != nil && d.revision == wish.revision {
		return true
	}
	delete(t.granted, wish.instance)
	at := slices.IndexFunc(t.waiting, func(d debt) bool { return d.instance == wish.instance })
	if t.owed() < owedLimit {
		t.grant(wish, now)
		if at >= 0 {
			t.waiting = slices.Delete(t.waiting, at, at+1)
		}
		return true
	}
	if at >= 0 {
		t.waiting[at] = wish
	} else {
		t.waiting = append(t.waiting, wish)
	}
	return false
}

func (t *turns) grant(d debt, now time.Time) {
	if t.granted == nil {
		t.granted = map[instanceName]*debt{}
	}
	d.since, d.placed = now, map[types.UID]struct{}{}
	t.granted[d.instance] = &d
}

// owed is the number of pods that were to be taken down and have no successor with
// a node yet.
func (t *turns) owed() int {
	n := 0
	for _, d := range t.granted {
		n += d.size - len(d.placed)
	}
	return n
}

// forget drops what has counted for long enough.
func (t *turns) forget(now time.Time) {
	for name, d := range t.granted {
		if now.Sub(d.since) >= owedPatience {
			delete(t.granted, name)
		}
	}
}

// place takes note of a pod that has a node, and returns the deployments whose turn
// it is now.
func (t *turns) place(pod *corev1.Pod, now time.Time) []types.NamespacedName {
	t.mu.Lock()
	defer t.mu.Unlock()
	name := instanceName{types.NamespacedName{Namespace: pod.Namespace, Name: pod.Labels[v1alpha1.LabelDeployment]}, pod.Labels[v1alpha1.LabelInstance]}
	d := t.granted[name]
	if d == nil || d.revision != revisionOf(pod) {
		return nil
	}
	d.placed[pod.UID] = struct{}{}
	if len(d.placed) >= d.size {
		delete(t.granted, name)
	}
	t.forget(now)
	var next []types.NamespacedName
	for len(t.waiting) > 0 && t.owed() < owedLimit {
		t.grant(t.waiting[0], now)
		next = append(next, t.waiting[0].instance.deployment)
		t.waiting = t.waiting[1:]
	}
	return next
}

// placing is a handler that follows the successors' pods.
func (t *turns) placing(now func() time.Time) handler.EventHandler {
	placed := func(o client.Object, q queue) {
		pod, ok := o.(*corev1.Pod)
		if !ok || !scheduled(pod) {
			return
		}
		for _, deployment := range t.place(pod, now()) {
			ordered{queue: q, priority: ptr.To(priorityOfTurn)}.Add(reconcile.Request{NamespacedName: deployment})
		}
	}
	return handler.Funcs{
		CreateFunc: func(_ context.Context, e event.CreateEvent, q queue) { placed(e.Object, q) },
		UpdateFunc: func(_ context.Context, e event.UpdateEvent, q queue) { placed(e.ObjectNew, q) },
	}
}

// considerTurns leaves instances that serve as they are until it is their turn.
func (r *Reconciler) considerTurns(s *scope) {
	for _, i := range slices.Backward(s.instances) {
		if i.action != recreate || !s.serving(i) {
			continue
		}
		d := &s.resolved.Decision
		wish := debt{instance: nameOf(s, i), revision: s.resolved.Revision, size: d.Attention + d.Expert}
		if !r.turns.take(wish, s.now) {
			i.action, i.waits = keep, true
			s.requeue(owedPatience)
		}
	}
}
