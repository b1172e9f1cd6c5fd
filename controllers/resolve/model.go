// SPDX-License-Identifier: Apache-2.0

package resolve

import (
	"fmt"
	"strings"

	"github.com/findep/findep-operator/api/v1alpha1"
	"github.com/findep/findep-operator/runtime/model"
)

// resolveModel sets the shape, the public name, the source and the context.
func resolveModel(r *Result, d *v1alpha1.MoEDeployment, config *ConfigFile) {
	spec := d.Spec.Model
	refuse := func(reason, format string, args ...any) {
		r.Model = Finding{Reason: reason, Message: fmt.Sprintf(format, args...)}
	}
	source, err := ParseSource(spec.Source)
	if err != nil {
		refuse(v1alpha1.ReasonSourceNotSupported, "%v", err)
		return
	}
	if source.Kind == SourceHub {
		refuse(v1alpha1.ReasonSourceNotSupported,
			"model.source.uri %q: downloading from a model hub is not supported yet; put the files on a PersistentVolumeClaim (pvc://) or into an image (oci://)",
			spec.Source.URI)
		return
	}
	r.Source, r.ModelName = source, or(spec.Name, d.Name)
	if r.Shape = shapeOf(spec, config, refuse); r.Shape == nil {
		return
	}
	r.MaxContextTokens = or(int(spec.MaxContextTokens), r.Shape.MaxPositionEmbeddings)
	r.Model = Finding{OK: true, Reason: v1alpha1.ReasonResolved, Message: describe(r.Shape)}
}

func shapeOf(spec v1alpha1.ModelSpec, config *ConfigFile, refuse func(reason, format string, args ...any)) *model.Shape {
	if spec.ConfigFrom == nil {
		shape, err := model.ByName(spec.Name)
		if err != nil {
			refuse(v1alpha1.ReasonUnknownModel,
				"The model %q is not in the built-in catalogue (%s). Give its config.json with model.configFrom.",
				spec.Name, strings.Join(model.Names(), ", "))
			return nil
		}
		return shape
	}
	if config == nil || config.Problem != "" {
		problem := "it was not read"
		if config != nil {
			problem = config.Problem
		}
		refuse(v1alpha1.ReasonConfigNotFound, "The ConfigMap of model.configFrom: %s", problem)
		return nil
	}
	shape, err := model.Parse([]byte(config.Data))
	if err != nil {
		refuse(v1alpha1.ReasonConfigInvalid, "Key %q of ConfigMap %q: %v",
			ConfigKey(spec.ConfigFrom), spec.ConfigFrom.Name, err)
		return nil
	}
	return shape
}

// ConfigKey is the key of the ConfigMap that holds config.json.
func ConfigKey(s *v1alpha1.ModelConfigSource) string { return or(s.Key, "config.json") }

func describe(s *model.Shape) string {
	return fmt.Sprintf("%s with %d layers, %d routed experts (%d per token) and %d shared, %s parameters.",
		s.Architecture, s.Layers, s.MoE.Experts, s.MoE.ExpertsPerToken, s.MoE.SharedExperts,
		count(s.Parameters().Total))
}

// count writes a number of parameters as people say it.
func count(n int64) string {
	switch {
	case n >= 1e9:
		return fmt.Sprintf("%.1f billion", float64(n)/1e9)
	case n >= 1e6:
		return fmt.Sprintf("%.1f million", float64(n)/1e6)
	default:
		return fmt.Sprintf("%d", n)
	}
}

// elementType is the number format that memory is counted in.
func elementType(spec v1alpha1.ModelSpec, s *model.Shape) model.DType {
	switch spec.DType {
	case v1alpha1.FP32:
		return model.Float32
	case v1alpha1.FP16:
		return model.Float16
	case v1alpha1.BF16:
		return model.BFloat16
	case v1alpha1.FP8:
		return model.Float8
	default:
		return s.WeightDType()
	}
}
