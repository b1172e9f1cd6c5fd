// SPDX-License-Identifier: Apache-2.0

package moedeployment

import (
	"context"
	"reflect"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/priorityqueue"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
)

// gatherDelay is how long good news of a child waits for more of the same. The
// pods of an instance are created, placed and started in quick succession, and a
// pass, with a write of the status, for each of those steps of each of them would
// be most of the operator's work.
const gatherDelay = time.Second

type queue = workqueue.TypedRateLimitingInterface[reconcile.Request]

// priorityOfKnown is that of passes over what has pods already: they go before
// the first passes over new deployments, which have 0. Many of those at once would
// otherwise keep everybody from a status, and from repairs, until all have pods.
const priorityOfKnown = 1

// priorityOfTurn is that of passes that may take down what serves: whatever is down
// already goes before, since it has lost pods or is to be told to serve again.
const priorityOfTurn = 0

// gathering passes on what happens to children: bad news at once, the rest
// gathered.
type gathering struct{ handler.EventHandler }

// Create implements handler.EventHandler.
func (g gathering) Create(ctx context.Context, e event.CreateEvent, q queue) {
	g.EventHandler.Create(ctx, e, ordered{queue: q, after: gatherDelay})
}

// Update implements handler.EventHandler.
func (g gathering) Update(ctx context.Context, e event.UpdateEvent, q queue) {
	if unchanged(e.ObjectOld, e.ObjectNew) {
		return
	}
	o := ordered{queue: q, after: gatherDelay, priority: ptr.To(priorityOfKnown)}
	if urgent(e.ObjectOld, e.ObjectNew) {
		o.after = 0
	}
	g.EventHandler.Update(ctx, e, o)
}

// Delete implements handler.EventHandler.
func (g gathering) Delete(ctx context.Context, e event.DeleteEvent, q queue) {
	g.EventHandler.Delete(ctx, e, ordered{queue: q, priority: ptr.To(priorityOfKnown)})
}

// unchanged says that nothing of a pod changed which the cache keeps: the node that
// the scheduler has in mind, for example, is written to most pods of a gang.
func unchanged(before, after client.Object) bool {
	was, ok := before.(*corev1.Pod)
	is, same := after.(*corev1.Pod)
	if !ok || !same || was.ResourceVersion == is.ResourceVersion {
		return false
	}
	a, b := *was, *is
	a.ResourceVersion, b.ResourceVersion = "", ""
	// Semantic equality takes seven times as long, and is not needed: both were
	// decoded alike, and a pass too many does no harm.
	return reflect.DeepEqual(&a, &b)
}

// urgent says that a pod failed or is on its way out, which it was not before.
func urgent(before, after client.Object) bool {
	was, ok := before.(*corev1.Pod)
	is, same := after.(*corev1.Pod)
	if !ok || !same {
		return false
	}
	return terminating(is) && !terminating(was) || podFailures(is) > podFailures(was) || ready(was) && !ready(is)
}

// ordered is a queue whose additions wait and have a priority.
type ordered struct {
	queue
	after    time.Duration
	priority *int
}

// Add implements workqueue.TypedInterface.
func (o ordered) Add(r reconcile.Request) {
	if q, ok := o.queue.(priorityqueue.PriorityQueue[reconcile.Request]); ok {
		q.AddWithOpts(priorityqueue.AddOpts{After: o.after, Priority: o.priority}, r)
		return
	}
	o.AddAfter(r, o.after)
}
