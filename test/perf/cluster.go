// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/findep/findep-operator/api/v1alpha1"
)

const (
	// namespace is where everything is made.
	namespace = "default"
	// gpusPerNode and nodesPerRack describe the made-up machines.
	gpusPerNode, nodesPerRack = 8, 16
	// creators is how many requests the harness has in flight.
	creators = 16
)

func newScheme() (*runtime.Scheme, error) {
	s := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientgoscheme.AddToScheme, v1alpha1.AddToScheme} {
		if err := add(s); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// client makes a client for one of the users.
func (p *plane) client(user string) (client.Client, error) {
	scheme, err := newScheme()
	if err != nil {
		return nil, err
	}
	return client.New(p.config(user), client.Options{Scheme: scheme})
}

// inParallel calls f for 0 to n-1 with several calls in flight.
func inParallel(ctx context.Context, n int, f func(context.Context, int) error) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(creators)
	for i := range n {
		group.Go(func() error { return f(ctx, i) })
	}
	return group.Wait()
}

// furnish makes nodes and the service account that pods refer to, which a
// controller of the full control plane would make.
func furnish(ctx context.Context, c client.Client, nodes int) error {
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default", Namespace: namespace}}
	if err := c.Create(ctx, account); err != nil {
		return err
	}
	return inParallel(ctx, nodes, func(ctx context.Context, i int) error {
		n := node(i)
		if err := c.Create(ctx, n); err != nil {
			return err
		}
		// Admission taints every new node as not ready, whatever its status says;
		// only a controller that is not running here would take that back.
		before := n.DeepCopy()
		n.Spec.Taints = nil
		return c.Patch(ctx, n, client.MergeFrom(before))
	})
}

func node(i int) *corev1.Node {
	resources := corev1.ResourceList{
		corev1.ResourceCPU: resource.MustParse("64"), corev1.ResourceMemory: resource.MustParse("1Ti"),
		corev1.ResourcePods: resource.MustParse("110"), "nvidia.com/gpu": resource.MustParse(fmt.Sprint(gpusPerNode)),
	}
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("kwok-%04d", i), Labels: map[string]string{
			"type": "kwok", corev1.LabelHostname: fmt.Sprintf("kwok-%04d", i),
			"nvidia.com/gpu.product":      "NVIDIA-H100-80GB-HBM3",
			"topology.kubernetes.io/rack": fmt.Sprintf("r%d", i/nodesPerRack),
		}},
		Status: corev1.NodeStatus{
			Capacity: resources, Allocatable: resources,
			Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "127.0.0.1"}},
		},
	}
}

// applyFiles creates the objects of YAML files, one object per document.
func applyFiles(ctx context.Context, c client.Client, patterns ...string) error {
	for _, pattern := range patterns {
		paths, err := filepath.Glob(pattern)
		if err != nil {
			return err
		}
		if len(paths) == 0 {
			return fmt.Errorf("no file matches %s", pattern)
		}
		for _, path := range paths {
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			var o unstructured.Unstructured
			if err := yaml.Unmarshal(b, &o.Object); err != nil {
				return fmt.Errorf("%s: %w", path, err)
			}
			if err := c.Create(ctx, &o); err != nil {
				return fmt.Errorf("%s: %w", path, err)
			}
		}
	}
	return nil
}

// readyNodes says whether n nodes are ready.
func readyNodes(ctx context.Context, c client.Client, n int) (bool, string) {
	var list corev1.NodeList
	if err := c.List(ctx, &list); err != nil {
		return false, err.Error()
	}
	ready := 0
	for i := range list.Items {
		for _, condition := range list.Items[i].Status.Conditions {
			if condition.Type == corev1.NodeReady && condition.Status == corev1.ConditionTrue {
				ready++
			}
		}
	}
	return ready >= n, fmt.Sprintf("%d of %d", ready, n)
}
