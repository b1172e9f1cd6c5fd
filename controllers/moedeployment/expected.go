// SPDX-License-Identifier: Apache-2.0

package moedeployment

import (
	"context"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
)

// expectAfter is how long a pod that was made may take to appear in the cache. One
// that has not by then, because it was deleted at once, say, is made again; if it
// is there after all, the API server says so.
const expectAfter = 30 * time.Second

// expected are the pods that were made and are not in the cache yet, as the
// controllers of Kubernetes keep them: a pass that a lagging cache shows no pods
// would try to make all of them again. Nothing is lost with it when the operator
// restarts. A nil one expects nothing.
type expected struct {
	mu   sync.Mutex
	made map[types.NamespacedName]time.Time
}

// add expects a pod. It is called before the pod is made, or the news of it could
// come first.
func (e *expected) add(pod types.NamespacedName, now time.Time) {
	if e == nil {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.made == nil {
		e.made = map[types.NamespacedName]time.Time{}
	}
	e.made[pod] = now
}

// remove expects a pod no longer: it is there, or could not be made.
func (e *expected) remove(pod types.NamespacedName) {
	if e == nil {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.made, pod)
}

// wait is for how long a pod is still expected; 0 if it is not.
func (e *expected) wait(pod types.NamespacedName, now time.Time) time.Duration {
	if e == nil {
		return 0
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	since, found := e.made[pod]
	if !found {
		return 0
	}
	left := since.Add(expectAfter).Sub(now)
	if left <= 0 {
		delete(e.made, pod)
	}
	return max(0, left)
}

// seeing is a handler that takes note of the pods in the cache.
func (e *expected) seeing() handler.EventHandler {
	seen := func(o client.Object) { e.remove(client.ObjectKeyFromObject(o)) }
	return handler.Funcs{
		CreateFunc: func(_ context.Context, c event.CreateEvent, _ queue) { seen(c.Object) },
		// A pod may have taken the place of another while the watch was interrupted.
		UpdateFunc: func(_ context.Context, u event.UpdateEvent, _ queue) { seen(u.ObjectNew) },
		DeleteFunc: func(_ context.Context, d event.DeleteEvent, _ queue) { seen(d.Object) },
	}
}
