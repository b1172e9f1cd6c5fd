// SPDX-License-Identifier: Apache-2.0

package moedeployment

import (
	"context"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"

	"github.com/findep/findep-operator/api/v1alpha1"
	"github.com/findep/findep-operator/controllers/render"
	"github.com/findep/findep-operator/controllers/resolve"
)

// askedPatience is how long a pod that has no node counts where it was asked to
// go: one that finds no place must not keep that place from others.
const askedPatience = 10 * time.Second

// places counts the GPUs that pods of ours have, per node, and remembers where
// pods were asked to go that have no node yet. It follows the manager's watches, so
// that nothing has to be listed when an instance is begun, and nothing is lost with
// it when the operator restarts.
type places struct {
	mu    sync.Mutex
	used  map[string]int
	on    map[types.NamespacedName]string
	asked map[types.NamespacedName]ask
}

// ask is where a pod was asked to go: a domain by the key of its label.
type ask struct {
	key, value string
	since      time.Time
}

func newPlaces() *places {
	return &places{
		used: map[string]int{}, on: map[types.NamespacedName]string{}, asked: map[types.NamespacedName]ask{},
	}
}

// choose says where the missing ranks of an instance should go, and counts them
// there. Nodes are those of the cluster and pods those of the instance, by name. Its
// lock keeps two instances from taking the same places.
func (p *places) choose(in *render.Input, nodes map[string]*corev1.Node, pods map[string]*corev1.Pod, missing []int, now time.Time) map[string][]string {
	if p == nil {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	needs := map[v1alpha1.Role]int{}
	for _, rank := range missing {
		needs[in.Role(rank)]++
	}
	near := resolve.Near(&in.Decision.Placement, &in.Groups, p.count(nodes, pods, in.Avoid, now), needs)
	whole := in.Decision.Pack(resolve.OfInstance)
	if whole == nil || len(near[resolve.OfInstance]) == 0 {
		return near
	}
	for _, rank := range missing {
		name := types.NamespacedName{Namespace: in.Owner.Namespace, Name: render.PodName(in.Owner.Name, in.Index, in.Attention, rank)}
		p.asked[name] = ask{whole.Key, near[resolve.OfInstance][0], now}
	}
	return near
}

// count lists the nodes with what is free on them, which is nothing on those that
// are cordoned or to be avoided. What was asked of a domain is taken from the first
// of its nodes with anything free: only sums over domains matter. The lock is held.
func (p *places) count(nodes map[string]*corev1.Node, mine map[string]*corev1.Pod, avoid []string, now time.Time) []resolve.Node {
	owed := map[[2]string]int{}
	for name, a := range p.asked {
		if now.Sub(a.since) >= askedPatience {
			delete(p.asked, name)
			continue
		}
		owed[[2]string{a.key, a.value}]++
	}
	here := map[string]map[v1alpha1.Role]int{}
	for _, pod := range mine {
		if node := pod.Spec.NodeName; node != "" && !terminating(pod) {
			if here[node] == nil {
				here[node] = map[v1alpha1.Role]int{}
			}
			here[node][v1alpha1.Role(pod.Labels[v1alpha1.LabelRole])]++
		}
	}
	list := make([]resolve.Node, 0, len(nodes))
	for name, n := range nodes {
		free := 0
		if !n.Spec.Unschedulable && !slices.Contains(avoid, name) {
			gpus := n.Status.Allocatable[render.GPUResource]
			free = max(0, int(gpus.Value())-p.used[name])
		}
		for domain := range owed {
			if n.Labels[domain[0]] == domain[1] {
				taken := min(free, owed[domain])
				free, owed[domain] = free-taken, owed[domain]-taken
			}
		}
		list = append(list, resolve.Node{Labels: n.Labels, Free: free, Mine: here[name]})
	}
	return list
}

// podEvents keeps count of pods.
func (p *places) podEvents() handler.EventHandler {
	seen := func(o client.Object) {
		if pod, ok := o.(*corev1.Pod); ok {
			p.seePod(pod)
		}
	}
	return handler.Funcs{
		CreateFunc: func(_ context.Context, e event.CreateEvent, _ queue) { seen(e.Object) },
		UpdateFunc: func(_ context.Context, e event.UpdateEvent, _ queue) { seen(e.ObjectNew) },
		DeleteFunc: func(_ context.Context, e event.DeleteEvent, _ queue) {
			p.forgetPod(client.ObjectKeyFromObject(e.Object))
		},
	}
}

func (p *places) seePod(pod *corev1.Pod) {
	name := client.ObjectKeyFromObject(pod)
	if ended(pod) {
		p.forgetPod(name)
		return
	}
	if pod.Spec.NodeName == "" {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.asked, name)
	if p.on[name] == pod.Spec.NodeName {
		return
	}
	p.leave(name)
	p.on[name] = pod.Spec.NodeName
	p.used[pod.Spec.NodeName]++
}

func (p *places) forgetPod(name types.NamespacedName) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.asked, name)
	p.leave(name)
}

// leave gives the place of a pod back. The lock is held.
func (p *places) leave(name types.NamespacedName) {
	node, known := p.on[name]
	if !known {
		return
	}
	delete(p.on, name)
	if p.used[node]--; p.used[node] == 0 {
		delete(p.used, node)
	}
}
