// SPDX-License-Identifier: Apache-2.0

package moedeployment

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	schedulingv1beta1 "k8s.io/api/scheduling/v1beta1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	schedulingac "k8s.io/client-go/applyconfigurations/scheduling/v1beta1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/findep/findep-operator/controllers/render"
)

// regroup is how soon a PodGroup is made that takes the place of another.
const regroup = time.Second

// +kubebuilder:rbac:groups=scheduling.k8s.io,resources=workloads;compositepodgroups,verbs=get;create;patch;delete
// +kubebuilder:rbac:groups=scheduling.volcano.sh,resources=podgroups,verbs=get;create;patch;delete
// +kubebuilder:rbac:groups=resource.k8s.io,resources=resourceclaimtemplates,verbs=get;create;patch;delete

// reconcileGang makes what schedules an instance all or none, and reports whether
// pods may be made. PodGroups of Kubernetes are watched and kept as they should
// be. The other objects, some of which cannot be watched because their kind may
// not exist, are only made along with pods: they matter to nobody afterwards.
func (r *Reconciler) reconcileGang(ctx context.Context, s *scope, i *instance, in *render.Input) (ready bool, err error) {
	if len(i.pods) < in.Attention+in.Expert {
		for _, o := range render.GangObjects(in) {
			if err := r.apply(ctx, s, o, nil); err != nil {
				return false, fmt.Errorf("%s %s: %w", *o.GetKind(), *o.GetName(), err)
			}
		}
	}
	for _, wanted := range render.PodGroups(in) {
		existing := i.groups[*wanted.Name]
		if existing != nil && len(i.pods) == 0 && !similar(existing, wanted) {
			// What differs cannot be changed, so that the PodGroup of the earlier
			// revision has to go first.
			s.requeue(regroup)
			if !existing.DeletionTimestamp.IsZero() {
				return false, nil
			}
			return false, r.delete(ctx, existing)
		}
		if err := r.apply(ctx, s, wanted, existing); err != nil {
			return false, fmt.Errorf("PodGroup %s: %w", *wanted.Name, err)
		}
	}
	return true, nil
}

// similar compares what cannot be changed in a PodGroup, and whether it stays.
func similar(live *schedulingv1beta1.PodGroup, wanted *schedulingac.PodGroupApplyConfiguration) bool {
	var a, b []string
	if c := live.Spec.SchedulingConstraints; c != nil {
		for _, t := range c.Topology {
			a = append(a, t.Key)
		}
	}
	if c := wanted.Spec.SchedulingConstraints; c != nil {
		for _, t := range c.Topology {
			b = append(b, ptr.Deref(t.Key, ""))
		}
	}
	return slices.Equal(a, b) && live.DeletionTimestamp.IsZero() &&
		ptr.Deref(live.Spec.ParentCompositePodGroupName, "") == ptr.Deref(wanted.Spec.ParentCompositePodGroupName, "")
}

// deleteGang deletes the same of an instance that goes.
func (r *Reconciler) deleteGang(ctx context.Context, s *scope, i *instance) error {
	var errs []error
	for _, group := range i.groups {
		if group.DeletionTimestamp.IsZero() {
			errs = append(errs, r.delete(ctx, group))
		}
	}
	if s.target(i) == nil {
		return errors.Join(errs...)
	}
	for _, wanted := range render.GangObjects(s.input(i)) {
		o := &metav1.PartialObjectMetadata{}
		o.APIVersion, o.Kind = *wanted.GetAPIVersion(), *wanted.GetKind()
		o.Namespace, o.Name = s.owner.Namespace, *wanted.GetName()
		err := r.Reader.Get(ctx, client.ObjectKeyFromObject(o), o)
		if err == nil && metav1.IsControlledBy(o, s.deployment) {
			err = r.delete(ctx, o)
		}
		if !apierrors.IsNotFound(err) && !meta.IsNoMatchError(err) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
