// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/findep/findep-operator/api/v1alpha1"
	"github.com/findep/findep-operator/controllers/resolve"
)

// maxChanges bounds the list of changes in one line.
const maxChanges = 6

// revision is an intent that the operator has kept.
type revision struct {
	*appsv1.ControllerRevision
	intent resolve.Intent
}

func (r revision) id() string { return r.Labels[v1alpha1.LabelRevision] }

// onlyRevision is the first revision of a deployment that never had another. The
// operator makes ControllerRevisions when there is a second, and keeps the first
// in a Secret until then; here it follows from the spec.
func onlyRevision(ctx context.Context, c client.Client, d *v1alpha1.MoEDeployment) ([]revision, error) {
	if d.Status.ObservedGeneration < d.Generation {
		return nil, fmt.Errorf("MoEDeployment %s: the operator has not seen the spec as it is (generation %d, seen %d); try again in a moment",
			d.Name, d.Generation, d.Status.ObservedGeneration)
	}
	config, err := modelConfig(ctx, c, d.Namespace, d.Spec.Model.ConfigFrom)
	if err != nil {
		return nil, err
	}
	return []revision{{
		ControllerRevision: &appsv1.ControllerRevision{
			ObjectMeta: metav1.ObjectMeta{
				Labels:            map[string]string{v1alpha1.LabelRevision: resolve.Revision(d, config)},
				CreationTimestamp: d.CreationTimestamp,
			},
			Revision: 1,
		},
		intent: resolve.IntentOf(d, config),
	}}, nil
}

// modelConfig reads the model's config.json from the user's ConfigMap; nil if
// there is none to read.
func modelConfig(ctx context.Context, c client.Client, namespace string, from *v1alpha1.ModelConfigSource) (*resolve.ConfigFile, error) {
	if from == nil {
		return nil, nil
	}
	var config corev1.ConfigMap
	if err := c.Get(ctx, types.NamespacedName{Namespace: namespace, Name: from.Name}, &config); err != nil {
		return nil, fmt.Errorf("read ConfigMap %s: %w", from.Name, err)
	}
	return &resolve.ConfigFile{Data: config.Data[resolve.ConfigKey(from)]}, nil
}

func find(list []revision, number int64) (revision, error) {
	known := make([]string, 0, len(list))
	for _, r := range list {
		if r.Revision == number {
			return r, nil
		}
		known = append(known, fmt.Sprint(r.Revision))
	}
	return revision{}, BadInput{fmt.Errorf("there is no revision %d; kept are %s", number, strings.Join(known, ", "))}
}

// chooseRevision is the one with a number, or for 0 the one before the current.
func chooseRevision(list []revision, number int64) (revision, error) {
	if number != 0 {
		return find(list, number)
	}
	if len(list) < 2 {
		return revision{}, errNoHistory
	}
	return list[len(list)-2], nil
}

// configOf is the model's config.json of a revision.
func configOf(r revision) *resolve.ConfigFile {
	if r.intent.Model.ConfigFrom == nil {
		return nil
	}
	return &resolve.ConfigFile{Data: r.intent.Config}
}

// configUnchanged refuses a revision whose config.json is not what the user's
// ConfigMap holds now: the spec alone could not bring it back.
func configUnchanged(ctx context.Context, c client.Client, d *v1alpha1.MoEDeployment, r revision) error {
	from := r.intent.Model.ConfigFrom
	config, err := modelConfig(ctx, c, d.Namespace, from)
	if err != nil || config == nil {
		return err
	}
	if config.Data != r.intent.Config {
		return fmt.Errorf("ConfigMap %s has changed since revision %d; put its %s back first (rollout history --revision %d shows it)",
			from.Name, r.Revision, resolve.ConfigKey(from), r.Revision)
	}
	return nil
}

// changesBetween names the fields that differ, with both values.
func changesBetween(before, after resolve.Intent) string {
	old, current := leaves(before), leaves(after)
	names := slices.Collect(maps.Keys(current))
	for name := range old {
		if _, found := current[name]; !found {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	var changes []string
	for _, name := range names {
		if old[name] != current[name] {
			changes = append(changes, fmt.Sprintf("%s %s -> %s", name, shown(old[name]), shown(current[name])))
		}
	}
	switch {
	case len(changes) == 0:
		return "none"
	case len(changes) > maxChanges:
		changes = append(changes[:maxChanges], fmt.Sprintf("and %d more", len(changes)-maxChanges))
	}
	return strings.Join(changes, ", ")
}

// shown shortens long values, such as a config.json.
func shown(value string) string {
	const limit = 40
	switch {
	case value == "":
		return "(unset)"
	case len(value) > limit:
		return fmt.Sprintf("(%d characters)", len(value))
	}
	return value
}

// leaves flattens a value to the text of its leaves by dotted path.
func leaves(v any) map[string]string {
	out := map[string]string{}
	data, err := json.Marshal(v)
	var tree any
	if err != nil || json.Unmarshal(data, &tree) != nil {
		return out
	}
	var walk func(path string, node any)
	walk = func(path string, node any) {
		switch n := node.(type) {
		case map[string]any:
			for key, child := range n {
				walk(strings.TrimPrefix(path+"."+key, "."), child)
			}
		case []any:
			for i, child := range n {
				walk(fmt.Sprintf("%s[%d]", path, i), child)
			}
		default:
			out[path] = fmt.Sprint(n)
		}
	}
	walk("", tree)
	return out
}

// progressOf says how far a rollout is, and whether it is done. The error is for
// a rollout that cannot go on by itself.
func progressOf(d *v1alpha1.MoEDeployment) (text string, done bool, err error) {
	st, want := &d.Status, ptr.Deref(d.Spec.Replicas, 1)
	due := max(0, want-d.Spec.Rollout.Partition)
	updated, serving := ptr.Deref(st.UpdatedReplicas, 0), ptr.Deref(st.ReadyReplicas, 0)
	if st.ObservedGeneration < d.Generation {
		return fmt.Sprintf("Waiting for the operator to see the change (generation %d, seen %d)", d.Generation, st.ObservedGeneration), false, nil
	}
	for _, kind := range []string{v1alpha1.ConditionModelResolved, v1alpha1.ConditionFeasible} {
		if c := meta.FindStatusCondition(st.Conditions, kind); c != nil && c.Status == "False" {
			return "", false, fmt.Errorf("MoEDeployment %s: %s is False (%s): %s", d.Name, kind, c.Reason, c.Message)
		}
	}
	for _, i := range st.Instances {
		if i.Phase == v1alpha1.InstanceFailed {
			return "", false, fmt.Errorf("MoEDeployment %s: instance %d has failed for good: %s %s", d.Name, i.Index, i.Message, i.LastFailure)
		}
	}
	switch {
	case updated < due && d.Spec.Rollout.Paused == v1alpha1.Enabled:
		return fmt.Sprintf("Paused: %d of %d instances are at the current revision; rollout resume lets it go on", updated, due), false, nil
	case updated < due:
		return fmt.Sprintf("Waiting: %d of %d instances are at the current revision%s", updated, due, waitingFor(d)), false, nil
	case serving < want:
		return fmt.Sprintf("Waiting: %d of %d instances serve%s", serving, want, waitingFor(d)), false, nil
	case due < want:
		return fmt.Sprintf("Rolled out as far as spec.rollout.partition %d allows: %d of %d instances", d.Spec.Rollout.Partition, updated, want), true, nil
	}
	return fmt.Sprintf("Rolled out: %d of %d instances are at the current revision and serve", updated, want), true, nil
}

// waitingFor is what the first instance that does not serve waits for.
func waitingFor(d *v1alpha1.MoEDeployment) string {
	for _, i := range d.Status.Instances {
		if i.Phase != v1alpha1.InstanceServing && i.Message != "" {
			return fmt.Sprintf("; instance %d: %s", i.Index, i.Message)
		}
	}
	return ""
}
