// SPDX-License-Identifier: Apache-2.0

package webhooks

import (
	"context"
	"fmt"
	"maps"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/validation/field"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	"github.com/findep/findep-operator/api/v1alpha1"
	"github.com/findep/findep-operator/controllers/moedeployment"
	"github.com/findep/findep-operator/controllers/resolve"
)

// Validator checks MoEDeployments.
type Validator struct {
	// Facts reads what is checked against.
	Facts moedeployment.FactReader
	// Decide completes the facts that are read with those that the reconciler
	// was started with; nil means that there are none.
	Decide func(*resolve.Facts)
}

var _ admission.Validator[*v1alpha1.MoEDeployment] = (*Validator)(nil)

// ValidateCreate implements admission.Validator.
func (v *Validator) ValidateCreate(ctx context.Context, d *v1alpha1.MoEDeployment) (admission.Warnings, error) {
	return v.validate(ctx, d, nil)
}

// ValidateUpdate implements admission.Validator. An object that is on its way
// out is never held up.
func (v *Validator) ValidateUpdate(ctx context.Context, old, d *v1alpha1.MoEDeployment) (admission.Warnings, error) {
	if !d.DeletionTimestamp.IsZero() {
		return nil, nil
	}
	return v.validate(ctx, d, old)
}

// ValidateDelete implements admission.Validator.
func (*Validator) ValidateDelete(context.Context, *v1alpha1.MoEDeployment) (admission.Warnings, error) {
	return nil, nil
}

func (v *Validator) validate(ctx context.Context, d, old *v1alpha1.MoEDeployment) (admission.Warnings, error) {
	facts, err := v.facts(ctx, d)
	if err != nil {
		// The reconciler reads the same and reports what it finds in status.
		return admission.Warnings{fmt.Sprintf("not checked at admission, since the cluster could not be read: %v", err)}, nil
	}
	verdict := Check(d, old, facts)
	return verdict.Warnings, refuse("MoEDeployment", d.Name, verdict.Errors)
}

func (v *Validator) facts(ctx context.Context, d *v1alpha1.MoEDeployment) (facts resolve.Facts, err error) {
	if facts.Config, err = v.Facts.Config(ctx, d); err != nil {
		return facts, err
	}
	if err := v.Facts.Cluster(ctx, &facts); err != nil {
		return facts, err
	}
	if v.Decide != nil {
		v.Decide(&facts)
	}
	return facts, nil
}

func refuse(kind, name string, errs field.ErrorList) error {
	if len(errs) == 0 {
		return nil
	}
	return apierrors.NewInvalid(v1alpha1.GroupVersion.WithKind(kind).GroupKind(), name, errs)
}

// ProfileValidator checks GPUProfiles.
type ProfileValidator struct {
	// Facts reads the other profiles and the nodes.
	Facts moedeployment.FactReader
}

var _ admission.Validator[*v1alpha1.GPUProfile] = (*ProfileValidator)(nil)

// ValidateCreate implements admission.Validator.
func (v *ProfileValidator) ValidateCreate(ctx context.Context, p *v1alpha1.GPUProfile) (admission.Warnings, error) {
	var facts resolve.Facts
	if err := v.Facts.Cluster(ctx, &facts); err != nil {
		return admission.Warnings{fmt.Sprintf("nodes and other profiles were not looked at, since the cluster could not be read: %v", err)}, nil
	}
	verdict := CheckProfile(p, facts)
	return verdict.Warnings, refuse("GPUProfile", p.Name, verdict.Errors)
}

// ValidateUpdate implements admission.Validator.
func (v *ProfileValidator) ValidateUpdate(ctx context.Context, _, p *v1alpha1.GPUProfile) (admission.Warnings, error) {
	if !p.DeletionTimestamp.IsZero() {
		return nil, nil
	}
	return v.ValidateCreate(ctx, p)
}

// ValidateDelete implements admission.Validator.
func (*ProfileValidator) ValidateDelete(context.Context, *v1alpha1.GPUProfile) (admission.Warnings, error) {
	return nil, nil
}

// CheckProfile looks at a profile's figures, and at the nodes that it is for.
func CheckProfile(p *v1alpha1.GPUProfile, facts resolve.Facts) Verdict {
	var v Verdict
	converted := resolve.Convert(p)
	if err := converted.Validate(); err != nil {
		v.Errors = append(v.Errors, field.Invalid(spec, p.Name, err.Error()))
	} else if converted.UsableBytes() == 0 {
		v.Errors = append(v.Errors, field.Invalid(spec.Child("reservedBytes"), p.Spec.ReservedBytes, fmt.Sprintf(
			"no memory is left for a model: memoryBytes is %d and usableMemoryPermille %d", p.Spec.MemoryBytes, converted.UsableMemoryPermille)))
	}
	if len(p.Spec.NodeSelector) == 0 {
		return v
	}
	for i := range facts.Profiles {
		if o := &facts.Profiles[i]; o.Name != p.Name && maps.Equal(o.Spec.NodeSelector, p.Spec.NodeSelector) {
			v.warn("GPUProfile %s has the same nodeSelector; of the two, %s is used", o.Name, min(o.Name, p.Name))
		}
	}
	if len(facts.NodeLabels) > 0 && !slices.ContainsFunc(facts.NodeLabels, func(labels map[string]string) bool { return resolve.Matches(p.Spec.NodeSelector, labels) }) {
		v.warn("no node of this cluster has the labels of spec.nodeSelector; the profile is used once there is one")
	}
	return v
}

// Setup registers both validators.
func Setup(mgr ctrl.Manager, deployments *Validator) error {
	if err := ctrl.NewWebhookManagedBy(mgr, &v1alpha1.MoEDeployment{}).WithValidator(deployments).Complete(); err != nil {
		return err
	}
	return ctrl.NewWebhookManagedBy(mgr, &v1alpha1.GPUProfile{}).WithValidator(&ProfileValidator{Facts: deployments.Facts}).Complete()
}
