// SPDX-License-Identifier: Apache-2.0

package moedeployment

import (
	"context"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/event"

	"github.com/findep/findep-operator/api/v1alpha1"
	"github.com/findep/findep-operator/controllers/render"
	"github.com/findep/findep-operator/controllers/resolve"
)

const testRack = "topology.kubernetes.io/rack"

// fourRacks is racks a to d with 4, 5, 6 and 7 GPUs on a node of the same name.
func fourRacks() map[string]*corev1.Node {
	nodes := map[string]*corev1.Node{}
	for n, name := range []string{"a", "b", "c", "d"} {
		nodes[name] = rackNode(name, int64(4+n))
	}
	return nodes
}

func rackNode(name string, gpus int64) *corev1.Node {
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{testRack: name}},
		Status:     corev1.NodeStatus{Allocatable: corev1.ResourceList{render.GPUResource: *resource.NewQuantity(gpus, resource.DecimalSI)}},
	}
}

// instanceInput is an instance of one attention and three expert ranks that prefers
// one rack.
func instanceInput(name string) *render.Input {
	in := &render.Input{Owner: render.Owner{Name: name, Namespace: "ns"}, Attention: 1, Expert: 3}
	in.Decision.Topology = []resolve.Pack{{Of: resolve.OfInstance, Mode: v1alpha1.TopologyPreferred, Key: testRack}}
	return in
}

func placedPod(name, node string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "ns", Labels: map[string]string{v1alpha1.LabelRole: "Expert"}}, Spec: corev1.PodSpec{NodeName: node}}
}

func TestPlaces(t *testing.T) {
	begin := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	all := []int{0, 1, 2, 3}
	cases := map[string]struct {
		before func(*places, map[string]*corev1.Node)
		later  time.Duration
		want   string
	}{
		"the tightest fit": {func(*places, map[string]*corev1.Node) {}, 0, "a"},
		"not where another instance was just sent": {func(p *places, nodes map[string]*corev1.Node) {
			p.choose(instanceInput("other"), nodes, nil, all, begin)
		}, 0, "b"},
		"there after all, if it found no place": {
			func(p *places, nodes map[string]*corev1.Node) {
				p.choose(instanceInput("other"), nodes, nil, all, begin)
			}, askedPatience, "a",
		},
		"elsewhere, if it went elsewhere than asked": {
			func(p *places, nodes map[string]*corev1.Node) {
				p.choose(instanceInput("other"), nodes, nil, all, begin)
				for _, rank := range all {
					p.podEvents().Update(context.Background(), event.UpdateEvent{ObjectNew: placedPod(render.PodName("other", 0, 1, rank), "c")}, nil)
				}
			}, 0, "a",
		},
		"not where pods run": {
			func(p *places, nodes map[string]*corev1.Node) {
				p.podEvents().Create(context.Background(), event.CreateEvent{Object: placedPod("x", "a")}, nil)
				p.podEvents().Update(context.Background(), event.UpdateEvent{ObjectNew: placedPod("x", "a")}, nil)
				p.podEvents().Create(context.Background(), event.CreateEvent{Object: placedPod("y", "b")}, nil)
				p.podEvents().Create(context.Background(), event.CreateEvent{Object: placedPod("z", "b")}, nil)
			}, 0, "c",
		},
		"where a pod was deleted": {
			func(p *places, nodes map[string]*corev1.Node) {
				p.podEvents().Create(context.Background(), event.CreateEvent{Object: placedPod("x", "a")}, nil)
				p.podEvents().Delete(context.Background(), event.DeleteEvent{Object: placedPod("x", "a")}, nil)
			}, 0, "a",
		},
		"where a pod has ended": {
			func(p *places, nodes map[string]*corev1.Node) {
				p.podEvents().Create(context.Background(), event.CreateEvent{Object: placedPod("x", "a")}, nil)
				gone := placedPod("x", "a")
				gone.Status.Phase = corev1.PodFailed
				p.podEvents().Update(context.Background(), event.UpdateEvent{ObjectNew: gone}, nil)
			}, 0, "a",
		},
		"not on a cordoned node": {
			func(p *places, nodes map[string]*corev1.Node) {
				nodes["a"].Spec.Unschedulable = true
			}, 0, "b",
		},
		"not on a node that is gone": {
			func(_ *places, nodes map[string]*corev1.Node) { delete(nodes, "a") }, 0, "b",
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			p, nodes := newPlaces(), fourRacks()
			tc.before(p, nodes)
			near := p.choose(instanceInput("mine"), nodes, nil, all, begin.Add(tc.later))
			if got := near[resolve.OfInstance][0]; got != tc.want {
				t.Errorf("sent to %v, want %s first", near, tc.want)
			}
		})
	}
}

// TestPlacesKeepsTo: a pod that is replaced goes where its instance is.
func TestPlacesKeepsTo(t *testing.T) {
	p := newPlaces()
	pods := map[string]*corev1.Pod{"mine-0-eg-1": placedPod("mine-0-eg-1", "d")}
	if near := p.choose(instanceInput("mine"), fourRacks(), pods, []int{0, 1, 3}, time.Time{}); near[resolve.OfInstance][0] != "d" {
		t.Errorf("sent to %v, want d first", near)
	}
}

func TestPlacesAvoids(t *testing.T) {
	in := instanceInput("mine")
	in.Avoid = []string{"a"}
	if near := newPlaces().choose(in, fourRacks(), nil, []int{0, 1, 2, 3}, time.Time{}); near[resolve.OfInstance][0] != "b" {
		t.Errorf("sent to %v, want b first", near)
	}
}

func TestPlacesUnknown(t *testing.T) {
	var none *places
	if near := none.choose(instanceInput("mine"), fourRacks(), nil, []int{0}, time.Time{}); len(near) > 0 {
		t.Errorf("chose %v without knowing anything", near)
	}
	if near := newPlaces().choose(instanceInput("mine"), nil, nil, []int{0}, time.Time{}); len(near) > 0 {
		t.Errorf("chose %v without nodes", near)
	}
}
