// SPDX-License-Identifier: Apache-2.0

package moedeployment

import (
	"context"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/priorityqueue"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
)

// listening is a queue that remembers how something was added.
type listening struct {
	priorityqueue.PriorityQueue[reconcile.Request]
	after    time.Duration
	priority int
}

// AddWithOpts implements priorityqueue.PriorityQueue.
func (l *listening) AddWithOpts(o priorityqueue.AddOpts, _ ...reconcile.Request) {
	l.after, l.priority = o.After, 0
	if o.Priority != nil {
		l.priority = *o.Priority
	}
}

func TestNewsIsOrdered(t *testing.T) {
	everything := gathering{handler.EnqueueRequestsFromMapFunc(func(_ context.Context, o client.Object) []reconcile.Request {
		return []reconcile.Request{{NamespacedName: client.ObjectKeyFromObject(o)}}
	})}
	pending, placed := podWith("1", ""), podWith("1", "n")
	leaving := podWith("1", "n")
	leaving.DeletionTimestamp = &metav1.Time{Time: time.Unix(1, 0)}
	failed := podWith("1", "n")
	failed.Status.Phase = corev1.PodFailed
	ctx := context.Background()
	type order struct {
		After    time.Duration
		Priority int
	}
	cases := map[string]struct {
		tell func(*listening)
		want order
	}{
		"a child was made": {func(q *listening) {
			everything.Create(ctx, event.CreateEvent{Object: pending}, q)
		}, order{gatherDelay, 0}},
		"a pod has a node": {func(q *listening) {
			everything.Update(ctx, event.UpdateEvent{ObjectOld: pending, ObjectNew: placed}, q)
		}, order{gatherDelay, priorityOfKnown}},
		"nothing that matters changed": {func(q *listening) {
			a, b := podWith("1", "n"), podWith("1", "n")
			a.ResourceVersion, b.ResourceVersion = "1", "2"
			everything.Update(ctx, event.UpdateEvent{ObjectOld: a, ObjectNew: b}, q)
		}, order{-1, -1}},
		"a pod failed": {func(q *listening) {
			everything.Update(ctx, event.UpdateEvent{ObjectOld: placed, ObjectNew: failed}, q)
		}, order{0, priorityOfKnown}},
		"a pod is on its way out": {func(q *listening) {
			everything.Update(ctx, event.UpdateEvent{ObjectOld: placed, ObjectNew: leaving}, q)
		}, order{0, priorityOfKnown}},
		"a pod is gone": {func(q *listening) {
			everything.Delete(ctx, event.DeleteEvent{Object: leaving}, q)
		}, order{0, priorityOfKnown}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			q := &listening{after: -1, priority: -1}
			tc.tell(q)
			if diff := cmp.Diff(tc.want, order{q.after, q.priority}); diff != "" {
				t.Error(diff)
			}
		})
	}
}
