// SPDX-License-Identifier: Apache-2.0

package moedeployment

import (
	"context"
	"errors"
	"testing"

	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
)

func TestSpansOfAPhase(t *testing.T) {
	exporter := tracetest.NewInMemoryExporter()
	r := &Reconciler{Tracer: sdktrace.NewTracerProvider(sdktrace.WithSyncer(exporter)).Tracer("test")}
	ctx, end := r.span(t.Context(), "reconcile")
	failure := errors.New("no place")
	if err := r.traced(ctx, nil, "instances", func(context.Context, *scope) error { return failure }); !errors.Is(err, failure) {
		t.Errorf("the phase's error became %v", err)
	}
	end(nil)
	spans := exporter.GetSpans()
	if len(spans) != 2 {
		t.Fatalf("%d spans, want 2", len(spans))
	}
	inner, outer := spans[0], spans[1]
	if inner.Name != "instances" || inner.Parent.SpanID() != outer.SpanContext.SpanID() {
		t.Errorf("%s is not below %s", inner.Name, outer.Name)
	}
	if inner.Status.Code != codes.Error || inner.Status.Description != "no place" || outer.Status.Code != codes.Unset {
		t.Errorf("statuses are %v and %v", inner.Status, outer.Status)
	}
}

func TestNoTracerRecordsNothing(t *testing.T) {
	r := &Reconciler{}
	if err := r.traced(t.Context(), nil, "instances", func(context.Context, *scope) error { return nil }); err != nil {
		t.Error(err)
	}
}
