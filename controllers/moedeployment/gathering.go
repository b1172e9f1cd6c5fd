// SPDX-License-Identifier: Apache-2.0

package moedeployment

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/client"
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

// gathering passes on what happens to children: bad news at once, the rest
// gathered.
type gathering struct{ handler.EventHandler }

// Create implements handler.EventHandler.
func (g gathering) Create(ctx context.Context, e event.CreateEvent, q queue) {
	g.EventHandler.Create(ctx, e, gathered{q})
}

// Update implements handler.EventHandler.
func (g gathering) Update(ctx context.Context, e event.UpdateEvent, q queue) {
	if !urgent(e.ObjectOld, e.ObjectNew) {
		q = gathered{q}
	}
	g.EventHandler.Update(ctx, e, q)
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

// gathered is a queue whose additions wait.
type gathered struct{ queue }

// Add implements workqueue.TypedInterface.
func (g gathered) Add(r reconcile.Request) { g.AddAfter(r, gatherDelay) }
