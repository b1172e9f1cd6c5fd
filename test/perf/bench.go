// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"os"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// settings are the flags.
type settings struct {
	groups, pods, nodes int
	rest                time.Duration
	restart, roll       bool
	topology            bool
	gates               string
	keep, check         bool
	limit               time.Duration
	managerArgs         []string
	// root is the repository's folder.
	root string
	lws  lwsSettings
	// profile is the folder for profiles; empty for none.
	profile string
}

// bench is one subject under measurement.
type bench struct {
	settings
	plane   *plane
	client  client.Client
	watch   *podWatch
	states  *groupWatch
	leaders *leaders
	// manager is the process whose cost is reported; nil for a bare client.
	manager *process
}

// progress tells whoever waits.
func progress(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }

// measure runs one subject on a control plane of its own.
func measure(ctx context.Context, name string, set settings) (r *result, err error) {
	dir, err := os.MkdirTemp("", "findep-perf-")
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	b := &bench{settings: set}
	progress("%s: %d x %d pods on %d nodes; logs in %s", name, set.groups, set.pods, set.nodes, dir)
	if b.plane, err = startPlane(ctx, dir, set.gates); err != nil {
		return nil, err
	}
	defer func() {
		b.plane.stop()
		if err == nil && !set.keep {
			_ = os.RemoveAll(dir)
		}
	}()
	s := subjects[name]()
	if err := b.prepare(ctx, s); err != nil {
		return nil, err
	}
	r = &result{Subject: name, Groups: set.groups, PodsPerGroup: set.pods, Nodes: set.nodes}
	return r, b.phases(ctx, s, r)
}

func (b *bench) prepare(ctx context.Context, s subject) (err error) {
	if b.client, err = b.plane.client(userHarness); err != nil {
		return err
	}
	if err := furnish(ctx, b.client, b.nodes); err != nil {
		return fmt.Errorf("make nodes: %w", err)
	}
	if err := b.plane.startKwok(); err != nil {
		return err
	}
	if _, err := until(ctx, "all nodes are ready", b.limit, b.plane.alive, func() (bool, string) { return readyNodes(ctx, b.client, b.nodes) }); err != nil {
		return err
	}
	if b.watch, err = watchPods(ctx, b.plane.config(userHarness)); err != nil {
		return err
	}
	if err := s.install(ctx, b); err != nil {
		return err
	}
	if b.states, err = watchGroups(ctx, b, s); err != nil {
		return err
	}
	if _, ok := s.(*findep); ok {
		if b.leaders, err = startLeaders(ctx, b.client, b.watch); err != nil {
			return err
		}
	}
	// What just started has its own things to do first.
	time.Sleep(3 * time.Second)
	return nil
}

// groupWatch follows the objects that stand for groups.
type groupWatch struct {
	mu        sync.Mutex
	available map[types.UID]bool
	isUp      func(*unstructured.Unstructured) bool
}

func watchGroups(ctx context.Context, b *bench, s subject) (*groupWatch, error) {
	w := &groupWatch{available: map[types.UID]bool{}, isUp: s.available}
	kind := s.groups()
	if kind.Empty() {
		return w, nil
	}
	c, err := dynamic.NewForConfig(b.plane.config(userHarness))
	if err != nil {
		return nil, err
	}
	// A large definition takes the API server a moment to serve.
	var mapping *meta.RESTMapping
	if _, err := until(ctx, kind.Kind+" is served", time.Minute, b.plane.alive, func() (bool, string) {
		var err error
		mapping, err = b.client.RESTMapper().RESTMapping(kind.GroupKind(), kind.Version)
		return err == nil, fmt.Sprint(err)
	}); err != nil {
		return nil, err
	}
	resource := c.Resource(mapping.Resource).Namespace(namespace)
	lw := &cache.ListWatch{
		ListWithContextFunc:  func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) { return resource.List(ctx, o) },
		WatchFuncWithContext: resource.Watch,
	}
	store := &cache.FakeCustomStore{
		AddFunc: w.put, UpdateFunc: w.put, DeleteFunc: func(any) error { return nil },
		ReplaceFunc: func(list []any, _ string) error {
			for _, o := range list {
				if err := w.put(o); err != nil {
					return err
				}
			}
			return nil
		},
	}
	go cache.NewReflector(lw, &unstructured.Unstructured{}, store, 0).RunWithContext(ctx)
	return w, nil
}

func (w *groupWatch) put(o any) error {
	u, ok := o.(*unstructured.Unstructured)
	if !ok {
		return fmt.Errorf("the watch of groups brought a %T", o)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.available[u.GetUID()] = w.isUp(u)
	return nil
}

func (w *groupWatch) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := 0
	for _, up := range w.available {
		if up {
			n++
		}
	}
	return n
}
