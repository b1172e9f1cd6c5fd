// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"context"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/findep/findep-operator/test/wrappers"
)

var _ = Describe("Tracing", func() {
	It("shows a pass as one span with a span below it for each of its phases", func(ctx context.Context) {
		w := newWorld(ctx)
		exporter := tracetest.NewInMemoryExporter()
		w.reconciler.Tracer = sdktrace.NewTracerProvider(sdktrace.WithSyncer(exporter)).Tracer("test")
		w.create(ctx, wrappers.MoEDeployment("lite"))
		w.reconcile(ctx, "lite")

		spans := exporter.GetSpans()
		root := spans[len(spans)-1]
		Expect(root.Name).To(Equal("reconcile"))
		var names []string
		for _, s := range spans[:len(spans)-1] {
			names = append(names, s.Name)
			Expect(s.Parent.SpanID()).To(Equal(root.SpanContext.SpanID()), "span %s", s.Name)
		}
		Expect(names).To(Equal([]string{"gather", "decide", "history", "secrets", "services", "protection", "engine", "observe", "nodes", "instances", "nudge", "status"}))
		attributes := map[string]string{}
		for _, a := range root.Attributes {
			attributes[string(a.Key)] = a.Value.String()
		}
		Expect(attributes).To(And(
			HaveKeyWithValue("k8s.namespace.name", w.namespace), HaveKeyWithValue("findep.deployment", "lite"),
			HaveKeyWithValue("findep.generation", "1"), HaveKeyWithValue("findep.revision", Not(BeEmpty()))))
	})
})
