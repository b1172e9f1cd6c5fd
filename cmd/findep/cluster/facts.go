// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
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
		facts.Config = configFile(from, c)
	}
	return facts
}

func configFile(from *v1alpha1.ModelConfigSource, c *corev1.ConfigMap) *resolve.ConfigFile {
	if c == nil {
		return &resolve.ConfigFile{Problem: fmt.Sprintf(
			"the file holds no ConfigMap of the name %q; add it, or use --server to read it from the cluster.", from.Name)}
	}
	key := resolve.ConfigKey(from)
	data, found := c.Data[key]
	if !found {
		return &resolve.ConfigFile{Problem: fmt.Sprintf("ConfigMap %q has no key %q.", from.Name, key)}
	}
	return &resolve.ConfigFile{Data: data}
}

// serverFacts adds what the cluster knows, read as the operator reads it; objects
// of the file take precedence, because they are what would be applied. The notes
// say what could not be read.
func serverFacts(ctx context.Context, c client.Client, ask discovery.ServerResourcesInterface, m *manifest, d *v1alpha1.MoEDeployment) (resolve.Facts, []string, error) {
	facts := offlineFacts(m, d, nil)
	reader := moedeployment.FactReader{Cached: c, Direct: c, ClusterReads: true}
	if from := d.Spec.Model.ConfigFrom; from != nil && m.config(d.Namespace, from.Name) == nil {
		var err error
		if facts.Config, err = reader.Config(ctx, d); err != nil {
			return facts, nil, err
		}
	}
	var notes []string
	switch err := reader.Cluster(ctx, &facts); {
	case apierrors.IsForbidden(err):
		notes = append(notes, fmt.Sprintf("The operator may read what you may not, and could take another GPU profile: %v.", err))
	case err != nil:
		return facts, nil, fmt.Errorf("read GPUProfiles and nodes: %w", err)
	}
	for _, p := range m.profiles {
		facts.Profiles = append(slices.DeleteFunc(facts.Profiles, func(o v1alpha1.GPUProfile) bool { return o.Name == p.Name }), p)
	}
	served, err := (&moedeployment.DiscoveryDetector{Discovery: ask, Clock: clock.RealClock{}}).Served()
	if err != nil {
		return facts, nil, err
	}
	facts.GangServed, facts.Backends = served.PodGroup, served.Backends
	facts.Existing, err = existingDecision(ctx, c, d, resolve.Revision(d, facts.Config))
	if apierrors.IsForbidden(err) {
		return facts, append(notes, fmt.Sprintf("The operator keeps the split and images of running instances, which you may not read: %v.", err)), nil
	}
	return facts, notes, err
}

// existingDecision is what running instances of the same revision were made from.
// Only the metadata of their Secrets is read, which holds it.
func existingDecision(ctx context.Context, c client.Client, d *v1alpha1.MoEDeployment, revision string) (*resolve.Decision, error) {
	var secrets metav1.PartialObjectMetadataList
	secrets.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("SecretList"))
	labels := render.DeploymentLabels(d.Name)
	labels[v1alpha1.LabelRevision] = revision
	if err := c.List(ctx, &secrets, client.InNamespace(d.Namespace), client.MatchingLabels(labels)); err != nil {
		return nil, fmt.Errorf("list Secrets: %w", err)
	}
	for i := range secrets.Items {
		if decision := resolve.StoredDecision(secrets.Items[i].Annotations); decision != nil {
			return decision, nil
		}
	}
	return nil, nil
}
