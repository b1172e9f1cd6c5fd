// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"github.com/findep/findep-operator/api/v1alpha1"
)

// podWatch follows all pods. It keeps no more of a pod than it needs, so that
// the harness stays small beside what it measures.
type podWatch struct {
	mu   sync.Mutex
	pods map[types.UID]podState
	// leaders is the instance of each leader by the address of its pod.
	leaders map[string]instanceKey
	created int
	// undertaker ends those that are being deleted.
	undertaker *undertaker
}

type podState struct {
	running  bool
	ending   bool
	node     string
	revision string
	ip       string
	leader   bool
}

// instanceKey names an instance of a MoEDeployment.
type instanceKey struct{ deployment, index string }

// watchPods begins to follow pods, and to end those that are deleted, until ctx
// ends.
func watchPods(ctx context.Context, config *rest.Config) (*podWatch, error) {
	config = rest.CopyConfig(config)
	config.ContentType, config.AcceptContentTypes = "application/vnd.kubernetes.protobuf", "application/vnd.kubernetes.protobuf"
	c, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	w := &podWatch{pods: map[types.UID]podState{}, leaders: map[string]instanceKey{}, undertaker: newUndertaker(c)}
	w.undertaker.run(ctx)
	lw := cache.NewListWatchFromClient(c.CoreV1().RESTClient(), "pods", namespace, fields.Everything())
	store := &cache.FakeCustomStore{
		AddFunc: w.put, UpdateFunc: w.put, DeleteFunc: w.remove,
		ReplaceFunc: func(list []any, _ string) error {
			for _, o := range list {
				if err := w.put(o); err != nil {
					return err
				}
			}
			return nil
		},
	}
	go cache.NewReflector(lw, &corev1.Pod{}, store, 0).RunWithContext(ctx)
	return w, nil
}

func (w *podWatch) put(o any) error {
	pod, ok := o.(*corev1.Pod)
	if !ok {
		return fmt.Errorf("the watch of pods brought a %T", o)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	before, known := w.pods[pod.UID]
	if !known {
		w.created++
	}
	ending := pod.DeletionTimestamp != nil
	if ending && !before.ending {
		w.undertaker.end(pod)
	}
	s := podState{
		running: pod.Status.Phase == corev1.PodRunning && !ending, ending: ending,
		node: pod.Spec.NodeName, revision: pod.Labels[v1alpha1.LabelRevision], ip: pod.Status.PodIP,
		leader: pod.Labels[v1alpha1.LabelLeader] == "true",
	}
	w.pods[pod.UID] = s
	if s.leader && s.ip != "" {
		w.leaders[s.ip] = instanceKey{pod.Labels[v1alpha1.LabelDeployment], pod.Labels[v1alpha1.LabelInstance]}
	}
	return nil
}

func (w *podWatch) remove(o any) error {
	pod, ok := o.(metav1.Object)
	if !ok {
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.pods, pod.GetUID())
	return nil
}

// census counts pods.
type census struct {
	// created is how many were ever made, running how many run now.
	created, running int
	// revisions counts the running ones by revision.
	revisions map[string]int
}

func (w *podWatch) count() census {
	w.mu.Lock()
	defer w.mu.Unlock()
	c := census{created: w.created, revisions: map[string]int{}}
	for _, p := range w.pods {
		if p.running {
			c.running++
			c.revisions[p.revision]++
		}
	}
	return c
}

// leaderAt is the instance whose leader has an address.
func (w *podWatch) leaderAt(ip string) (instanceKey, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	k, ok := w.leaders[ip]
	return k, ok
}

// until polls a condition, shows progress every few seconds, and gives up after
// limit.
func until(ctx context.Context, what string, limit time.Duration, healthy func() error, done func() (bool, string)) (time.Duration, error) {
	const poll, every = 100 * time.Millisecond, 5 * time.Second
	begin := time.Now()
	shown := begin
	for {
		ok, state := done()
		if ok {
			return time.Since(begin), nil
		}
		if err := healthy(); err != nil {
			return 0, err
		}
		if time.Since(begin) > limit {
			return 0, fmt.Errorf("%s: not within %v; %s", what, limit, state)
		}
		if time.Since(shown) >= every {
			shown = time.Now()
			progress("  %4.0f s  %s: %s", time.Since(begin).Seconds(), what, state)
		}
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-time.After(poll):
		}
	}
}
