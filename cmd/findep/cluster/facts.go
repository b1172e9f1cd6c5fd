// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"encoding/json"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/discovery"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/findep/findep-operator/api/v1alpha1"
	"github.com/findep/findep-operator/controllers/moedeployment"
	"github.com/findep/findep-operator/controllers/render"
	"github.com/findep/findep-operator/controllers/resolve"
)

// unknownImages stand for the manager's own defaults, which only it knows.
var unknownImages = resolve.Images{Runtime: "(the operator's --runtime-image)", Server: "(the operator's --server-image)"}

// offlineFacts is what can be known from the file alone.
func offlineFacts(m *manifest, d *v1alpha1.MoEDeployment, products []string) resolve.Facts {
	facts := resolve.Facts{Profiles: m.profiles, Images: unknownImages, GangServed: true}
	for _, product := range products {
		facts.NodeLabels = append(facts.NodeLabels, map[string]string{resolve.ProductLabel: product})
	}
	if from := d.Spec.Model.ConfigFrom; from != nil {
		c := m.config(d.Namespace, from.Name)
		facts.Config = configFile(from, c, "the file holds no ConfigMap of the name %q; add it, or use --server to read it from the cluster.")
	}
	return facts
}

func configFile(from *v1alpha1.ModelConfigSource, c *corev1.ConfigMap, missing string) *resolve.ConfigFile {
	if c == nil {
		return &resolve.ConfigFile{Problem: fmt.Sprintf(missing, from.Name)}
	}
	key := resolve.ConfigKey(from)
	data, found := c.Data[key]
	if !found {
		return &resolve.ConfigFile{Problem: fmt.Sprintf("ConfigMap %q has no key %q.", from.Name, key)}
	}
	return &resolve.ConfigFile{Data: data}
}

// serverFacts adds what the cluster knows; objects of the file take precedence,
// because they are what would be applied. The notes say what could not be read.
func serverFacts(ctx context.Context, c client.Client, ask discovery.ServerResourcesInterface, m *manifest, d *v1alpha1.MoEDeployment) (resolve.Facts, []string, error) {
	facts := offlineFacts(m, d, nil)
	var notes []string
	if from := d.Spec.Model.ConfigFrom; from != nil && m.config(d.Namespace, from.Name) == nil {
		var config corev1.ConfigMap
		err := c.Get(ctx, types.NamespacedName{Namespace: d.Namespace, Name: from.Name}, &config)
		if err != nil && !apierrors.IsNotFound(err) {
			return facts, nil, fmt.Errorf("read ConfigMap %s: %w", from.Name, err)
		}
		found := &config
		if err != nil {
			found = nil
		}
		facts.Config = configFile(from, found, "neither the file nor the cluster has a ConfigMap of the name %q.")
	}
	note, err := clusterProfiles(ctx, c, &facts)
	if err != nil {
		return facts, nil, err
	}
	notes = append(notes, note...)
	served, err := (&moedeployment.DiscoveryDetector{Discovery: ask, Clock: clock.RealClock{}}).Served()
	if err != nil {
		return facts, nil, err
	}
	facts.GangServed, facts.Backends = served.PodGroup, served.Backends
	facts.Existing, err = existingDecision(ctx, c, d, resolve.Revision(d, facts.Config))
	return facts, notes, err
}

// clusterProfiles reads GPUProfiles and node labels, which not every user may.
func clusterProfiles(ctx context.Context, c client.Client, facts *resolve.Facts) (notes []string, err error) {
	var profiles v1alpha1.GPUProfileList
	var nodes metav1.PartialObjectMetadataList
	nodes.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("NodeList"))
	for _, read := range []struct {
		what string
		list client.ObjectList
	}{{"GPUProfiles", &profiles}, {"nodes", &nodes}} {
		err := c.List(ctx, read.list)
		switch {
		case apierrors.IsForbidden(err):
			notes = append(notes, fmt.Sprintf("You may not list %s; the operator may, and could take another GPU profile.", read.what))
		case err != nil:
			return nil, fmt.Errorf("list %s: %w", read.what, err)
		}
	}
	known := map[string]bool{}
	for _, p := range facts.Profiles {
		known[p.Name] = true
	}
	for _, p := range profiles.Items {
		if !known[p.Name] {
			facts.Profiles = append(facts.Profiles, p)
		}
	}
	for _, n := range nodes.Items {
		facts.NodeLabels = append(facts.NodeLabels, n.Labels)
	}
	return notes, nil
}

// existingDecision is what running instances of the same revision were made from.
func existingDecision(ctx context.Context, c client.Client, d *v1alpha1.MoEDeployment, revision string) (*resolve.Decision, error) {
	var configs corev1.ConfigMapList
	labels := render.DeploymentLabels(d.Name)
	labels[v1alpha1.LabelRevision] = revision
	if err := c.List(ctx, &configs, client.InNamespace(d.Namespace), client.MatchingLabels(labels)); err != nil {
		return nil, fmt.Errorf("list ConfigMaps: %w", err)
	}
	for _, config := range configs.Items {
		var decision resolve.Decision
		if json.Unmarshal([]byte(config.Annotations[v1alpha1.AnnotationDecision]), &decision) == nil && decision.Attention > 0 {
			return &decision, nil
		}
	}
	return nil, nil
}
