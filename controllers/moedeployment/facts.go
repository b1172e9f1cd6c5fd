// SPDX-License-Identifier: Apache-2.0

package moedeployment

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/findep/findep-operator/api/v1alpha1"
	"github.com/findep/findep-operator/controllers/resolve"
)

// FactReader reads what resolve decides from and is not a child of the
// deployment. Admission reads the same facts as the reconciler, so that both
// come to the same conclusion.
type FactReader struct {
	// Cached reads GPUProfiles and nodes; Direct reads past the cache.
	Cached, Direct client.Reader
	// ClusterReads says that GPUProfiles and nodes may be read.
	ClusterReads bool
}

// Config reads the ConfigMap with the model's config.json past the cache; nil if
// the spec names none.
func (f FactReader) Config(ctx context.Context, d *v1alpha1.MoEDeployment) (*resolve.ConfigFile, error) {
	from := d.Spec.Model.ConfigFrom
	if from == nil {
		return nil, nil
	}
	var c corev1.ConfigMap
	err := f.Direct.Get(ctx, types.NamespacedName{Namespace: d.Namespace, Name: from.Name}, &c)
	if err != nil && !apierrors.IsNotFound(err) {
		return nil, fmt.Errorf("ConfigMap %s: %w", from.Name, err)
	}
	key := resolve.ConfigKey(from)
	data, found := c.Data[key]
	file := &resolve.ConfigFile{Data: data}
	switch {
	case err != nil:
		file.Problem = fmt.Sprintf("there is none with the name %q in namespace %q.", from.Name, d.Namespace)
	case !found:
		file.Problem = fmt.Sprintf("%q has no key %q.", from.Name, key)
	}
	return file, nil
}

// Cluster reads GPUProfiles and the labels of nodes into facts.
func (f FactReader) Cluster(ctx context.Context, facts *resolve.Facts) error {
	if !f.ClusterReads {
		return nil
	}
	known, err := f.clusterFacts(ctx)
	if err != nil {
		return err
	}
	facts.Profiles, facts.NodeLabels, facts.Nodes = known.Profiles, known.NodeLabels, known.Nodes
	return nil
}

func (f FactReader) clusterFacts(ctx context.Context) (*clusterFacts, error) {
	var profiles v1alpha1.GPUProfileList
	if err := f.Cached.List(ctx, &profiles); err != nil {
		return nil, err
	}
	var nodes corev1.NodeList
	// Only read, and there may be thousands: not worth a copy.
	if err := f.Cached.List(ctx, &nodes, client.UnsafeDisableDeepCopy); err != nil {
		return nil, err
	}
	known := &clusterFacts{nodes: make(map[string]*corev1.Node, len(nodes.Items))}
	known.Profiles, known.NodeLabels = profiles.Items, nodeLabels(nodes.Items)
	known.Nodes = make(map[string]map[string]string, len(nodes.Items))
	for i := range nodes.Items {
		node := &nodes.Items[i]
		known.nodes[node.Name], known.Nodes[node.Name] = node, node.Labels
	}
	return known, nil
}

// nodeLabels is in order of the GPU product: the cache lists nodes in any order,
// and which preset is taken must not depend on it.
func nodeLabels(nodes []corev1.Node) []map[string]string {
	list := make([]map[string]string, 0, len(nodes))
	for i := range nodes {
		list = append(list, nodes[i].Labels)
	}
	slices.SortFunc(list, func(a, b map[string]string) int {
		return cmp.Compare(a[resolve.ProductLabel], b[resolve.ProductLabel])
	})
	return list
}
