// SPDX-License-Identifier: Apache-2.0

package moedeployment

import (
	"context"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
	"k8s.io/apimachinery/pkg/types"
)

// Attributes of spans, named as the keys of the log are.
const (
	attributeNamespace  = attribute.Key("k8s.namespace.name")
	attributeDeployment = attribute.Key("findep.deployment")
	attributeGeneration = attribute.Key("findep." + keyGeneration)
	attributeRevision   = attribute.Key("findep." + keyRevision)
)

// ending ends a span and says how what it measured went.
type ending func(error)

// span begins a span below that of ctx; without a tracer nothing is recorded.
func (r *Reconciler) span(ctx context.Context, name string, attributes ...attribute.KeyValue) (context.Context, ending) {
	tracer := r.Tracer
	if tracer == nil {
		tracer = noop.Tracer{}
	}
	ctx, span := tracer.Start(ctx, name, trace.WithAttributes(attributes...))
	return ctx, func(err error) {
		if err != nil {
			span.RecordError(err)
			span.SetStatus(codes.Error, err.Error())
		}
		span.End()
	}
}

// traced runs a phase within a span of its name.
func (r *Reconciler) traced(ctx context.Context, s *scope, name string, run phase) error {
	ctx, end := r.span(ctx, name)
	err := run(ctx, s)
	end(err)
	return err
}

// passAttributes tell which deployment a pass is about.
func passAttributes(name types.NamespacedName) []attribute.KeyValue {
	return []attribute.KeyValue{attributeNamespace.String(name.Namespace), attributeDeployment.String(name.Name)}
}

// describe adds to the span of a pass what was found out in it.
func (s *scope) describe(ctx context.Context) {
	span := trace.SpanFromContext(ctx)
	span.SetAttributes(attributeGeneration.Int64(s.deployment.Generation))
	if s.resolved != nil {
		span.SetAttributes(attributeRevision.String(s.resolved.Revision))
	}
}
