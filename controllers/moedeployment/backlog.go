// SPDX-License-Identifier: Apache-2.0

package moedeployment

import (
	"context"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
)

// Bounds on the pods that wait for the scheduler at the same time. Pods that are
// made faster than they are placed only wait, in a queue that everybody's watches
// have to keep up with, and all deployments take longer instead of one after the
// other coming up at once.
const (
	// backlogLimit is the number of pods from which on no new instance is begun. The
	// pods of a gang wait for each other, so it is more than those of the instances
	// that are made side by side: with 64, two cores were idle for a quarter of the
	// time.
	backlogLimit = 256
	// backlogPatience is how long a pod counts, and how long a new instance waits:
	// pods that find no place hold up nobody for longer.
	backlogPatience = 3 * time.Second
	// backlogPoll is how often an instance that waits looks.
	backlogPoll = 20 * time.Millisecond
)

// backlog counts pods that were made a moment ago and have no node yet. Nothing
// is lost with it when the operator restarts.
type backlog struct {
	mu   sync.Mutex
	made map[types.UID]time.Time
}

// add counts a pod that was just made.
func (b *backlog) add(uid types.UID, now time.Time) {
	if b == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.made == nil {
		b.made = map[types.UID]time.Time{}
	}
	b.made[uid] = now
}

func (b *backlog) remove(uid types.UID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.made, uid)
}

// full says that no new instance should be begun, and forgets pods that have
// waited for too long.
func (b *backlog) full(now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	for uid, since := range b.made {
		if now.Sub(since) >= backlogPatience {
			delete(b.made, uid)
		}
	}
	return len(b.made) >= backlogLimit
}

// wait returns when there is room, when patience is over or with ctx. A nil
// backlog has room.
func (b *backlog) wait(ctx context.Context, now func() time.Time) {
	if b == nil || !b.full(now()) {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, backlogPatience)
	defer cancel()
	tick := time.NewTicker(backlogPoll)
	defer tick.Stop()
	for b.full(now()) {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// placing is a handler that takes pods out of the backlog when they have a node
// or are gone.
func (b *backlog) placing() handler.EventHandler {
	placed := func(o client.Object) {
		if pod, ok := o.(*corev1.Pod); ok && scheduled(pod) {
			b.remove(pod.UID)
		}
	}
	return handler.Funcs{
		CreateFunc: func(_ context.Context, e event.CreateEvent, _ queue) { placed(e.Object) },
		UpdateFunc: func(_ context.Context, e event.UpdateEvent, _ queue) { placed(e.ObjectNew) },
		DeleteFunc: func(_ context.Context, e event.DeleteEvent, _ queue) { b.remove(e.Object.GetUID()) },
	}
}
