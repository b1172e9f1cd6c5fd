// SPDX-License-Identifier: Apache-2.0

package moedeployment

import (
	"context"
	"strconv"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	schedulingv1beta1 "k8s.io/api/scheduling/v1beta1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/findep/findep-operator/api/v1alpha1"
	"github.com/findep/findep-operator/controllers/render"
	"github.com/findep/findep-operator/controllers/resolve"
)

// configRetry is how soon a ConfigMap of the user that is missing is looked for
// again: it is not watched.
const configRetry = 10 * time.Second

// gather reads everything that decisions are made from.
func (r *Reconciler) gather(ctx context.Context, s *scope) error {
	if err := r.gatherBackends(s); err != nil {
		return err
	}
	for _, read := range []phase{r.gatherChildren, r.gatherProtection, r.gatherPods, r.gatherGroups, r.gatherConfig, r.gatherProfiles} {
		if err := read(ctx, s); err != nil {
			return err
		}
	}
	s.considerMembers()
	s.facts.Images = r.Images
	s.facts.Existing = s.existingDecision(resolve.Revision(s.deployment, s.facts.Config))
	s.gathered = true
	return nil
}

// owned lists the children of one kind, which are only read. Objects that merely
// carry our labels are left alone. Without the index, which only the cache has,
// those of the whole namespace are looked at.
func (r *Reconciler) owned(ctx context.Context, s *scope, list client.ObjectList) error {
	options := []client.ListOption{
		client.InNamespace(s.owner.Namespace), client.MatchingLabels(render.DeploymentLabels(s.owner.Name)),
		client.UnsafeDisableDeepCopy,
	}
	// PodGroups that came to be served after the start have no index.
	if _, groups := list.(*schedulingv1beta1.PodGroupList); r.indexed && (!groups || r.GangServed) {
		options = append(options, client.MatchingFields{ownerField: s.owner.Name})
	}
	return r.Client.List(ctx, list, options...)
}

func index[T any, P interface {
	*T
	client.Object
}](s *scope, items []T) map[string]P {
	byName := make(map[string]P, len(items))
	for i := range items {
		if p := P(&items[i]); metav1.IsControlledBy(p, s.deployment) {
			byName[p.GetName()] = p
		}
	}
	return byName
}

func (r *Reconciler) gatherChildren(ctx context.Context, s *scope) error {
	var services corev1.ServiceList
	var secrets corev1.SecretList
	var revisions appsv1.ControllerRevisionList
	for _, list := range []client.ObjectList{&services, &secrets, &revisions} {
		if err := r.owned(ctx, s, list); err != nil {
			return err
		}
	}
	s.services, s.secrets = index(s, services.Items), index(s, secrets.Items)
	s.revisions = index(s, revisions.Items)
	for _, c := range s.secrets {
		s.noticeInstance(c)
	}
	return nil
}

func (r *Reconciler) gatherProtection(ctx context.Context, s *scope) error {
	var budgets policyv1.PodDisruptionBudgetList
	if err := r.owned(ctx, s, &budgets); err != nil {
		return err
	}
	s.budget = index(s, budgets.Items)[s.owner.Name]
	return nil
}

// noticeInstance makes sure that an instance is known as long as it has any
// child, so that scaling down removes all of them.
func (s *scope) noticeInstance(o client.Object) *instance {
	n, err := strconv.ParseInt(o.GetLabels()[v1alpha1.LabelInstance], 10, 32)
	if err != nil || n < 0 {
		return nil
	}
	return s.byIndex(int32(n))
}

func (r *Reconciler) gatherPods(ctx context.Context, s *scope) error {
	var pods corev1.PodList
	if err := r.owned(ctx, s, &pods); err != nil {
		return err
	}
	for name, pod := range index(s, pods.Items) {
		if i := s.noticeInstance(pod); i != nil {
			i.pods[name] = pod
		}
	}
	return nil
}

func (r *Reconciler) gatherGroups(ctx context.Context, s *scope) error {
	if !s.facts.GangServed {
		return nil
	}
	var groups schedulingv1beta1.PodGroupList
	if err := r.owned(ctx, s, &groups); err != nil {
		return err
	}
	for _, group := range index(s, groups.Items) {
		if i := s.noticeInstance(group); i != nil {
			i.groups[group.Name] = group
		}
	}
	return nil
}

// gatherConfig reads the ConfigMap with the model's config.json.
func (r *Reconciler) gatherConfig(ctx context.Context, s *scope) (err error) {
	s.facts.Config, err = r.factReader().Config(ctx, s.deployment)
	if s.facts.Config != nil && s.facts.Config.Problem != "" {
		s.requeue(configRetry)
	}
	return err
}

// gatherProfiles reads GPUProfiles and nodes.
func (r *Reconciler) gatherProfiles(ctx context.Context, s *scope) error {
	if !r.ClusterReads {
		return nil
	}
	known, err := r.cluster.get(func() (*clusterFacts, error) { return r.factReader().clusterFacts(ctx) })
	if err != nil {
		return err
	}
	s.facts.Profiles, s.facts.NodeLabels, s.facts.Nodes = known.Profiles, known.NodeLabels, known.Nodes
	s.nodes = known.nodes
	return nil
}

func (r *Reconciler) factReader() FactReader {
	return FactReader{Cached: r.Client, Direct: r.Reader, ClusterReads: r.ClusterReads}
}

// existingDecision is what the running instances of a revision were made from.
func (s *scope) existingDecision(revision string) *resolve.Decision {
	for _, i := range s.instances {
		c := s.secrets[render.SecretName(s.owner.Name, i.index)]
		if c == nil || c.Labels[v1alpha1.LabelRevision] != revision {
			continue
		}
		if d := resolve.StoredDecision(c.Annotations); d != nil {
			return d
		}
	}
	return nil
}
