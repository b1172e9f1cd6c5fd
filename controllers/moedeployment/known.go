// SPDX-License-Identifier: Apache-2.0

package moedeployment

import (
	"context"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"

	"github.com/findep/findep-operator/api/v1alpha1"
	"github.com/findep/findep-operator/controllers/resolve"
)

// This file keeps what passes over different deployments have in common, so that
// a pass costs what its own deployment is large, and not what the cluster is. All
// of it can be read again: nothing is lost with it when the operator restarts.

// ownerField is the field of the cache's indexes by which the children of one
// deployment are found without looking at those of all others. Its value is the
// name of the MoEDeployment that controls the object.
const ownerField = ".metadata.controller"

// controllerOf is the value of ownerField.
func controllerOf(o client.Object) []string {
	owner := metav1.GetControllerOfNoCopy(o)
	if owner == nil || owner.Kind != "MoEDeployment" || owner.APIVersion != v1alpha1.GroupVersion.String() {
		return nil
	}
	return []string{owner.Name}
}

// clusterFacts is what is known of nodes and GPUProfiles. It is shared, and must
// not be changed.
type clusterFacts struct {
	resolve.Facts
	nodes map[string]*corev1.Node
}

// cluster keeps the facts about nodes and GPUProfiles from one pass to the next:
// with a thousand nodes, listing them would be most of the work of a pass. A nil
// one keeps nothing.
type cluster struct {
	mu sync.Mutex
	// changes counts what was forgotten, so that facts which were read before a
	// change are not kept after it.
	changes int
	facts   *clusterFacts
}

// get returns the facts, reading them if need be.
func (c *cluster) get(read func() (*clusterFacts, error)) (*clusterFacts, error) {
	if c == nil {
		return read()
	}
	c.mu.Lock()
	known, before := c.facts, c.changes
	c.mu.Unlock()
	if known != nil {
		return known, nil
	}
	facts, err := read()
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.changes == before {
		c.facts = facts
	}
	return facts, nil
}

// forget makes the next pass read again.
func (c *cluster) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.facts = nil
	c.changes++
}

// watched forgets the facts whenever an object of a watch changes, and only then
// lets the watch bring about passes: these see the change.
func (c *cluster) watched(h handler.EventHandler) handler.EventHandler {
	return handler.Funcs{
		CreateFunc: func(ctx context.Context, e event.CreateEvent, q queue) {
			c.forget()
			h.Create(ctx, e, q)
		},
		UpdateFunc: func(ctx context.Context, e event.UpdateEvent, q queue) {
			c.forget()
			h.Update(ctx, e, q)
		},
		DeleteFunc: func(ctx context.Context, e event.DeleteEvent, q queue) {
			c.forget()
			h.Delete(ctx, e, q)
		},
	}
}

// totalsAge is how old the count of all deployments may be: what follows from it
// are intervals of seconds.
const totalsAge = time.Second

// totals are how many deployments there are.
type totals struct {
	// leaders is the number of instances of all of them.
	leaders int
	// comingUp is the number of those that do not serve.
	comingUp int
}

// totalsKept keeps them for a moment. A nil one has nothing to count.
type totalsKept struct {
	mu   sync.Mutex
	at   time.Time
	last totals
}

// get counts again if the last count is old. What cannot be read is not counted.
func (k *totalsKept) get(ctx context.Context, reader client.Reader, now time.Time) totals {
	if k == nil {
		return totals{}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if age := now.Sub(k.at); !k.at.IsZero() && age >= 0 && age < totalsAge {
		return k.last
	}
	var all v1alpha1.MoEDeploymentList
	if reader.List(ctx, &all, client.UnsafeDisableDeepCopy) == nil {
		k.last, k.at = countTotals(all.Items), now
	}
	return k.last
}

func countTotals(all []v1alpha1.MoEDeployment) totals {
	var n totals
	for i := range all {
		n.leaders += int(ptr.Deref(all[i].Spec.Replicas, 1))
		if !meta.IsStatusConditionTrue(all[i].Status.Conditions, v1alpha1.ConditionAvailable) {
			n.comingUp++
		}
	}
	return n
}
