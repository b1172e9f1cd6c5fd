// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"net"
	"testing"
	"time"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/grpc"
	"sigs.k8s.io/controller-runtime/pkg/manager"
)

func TestProviderNamesTheProgramAndSamples(t *testing.T) {
	for ratio, want := range map[float64]int{1: 3, 0: 0} {
		exporter := tracetest.NewInMemoryExporter()
		provider := newProvider(ratio, sdktrace.WithSyncer(exporter))
		for range 3 {
			_, span := provider.Tracer("a").Start(t.Context(), "reconcile")
			span.End()
		}
		spans := exporter.GetSpans()
		if len(spans) != want {
			t.Errorf("ratio %v: %d spans of 3, want %d", ratio, len(spans), want)
		}
		for _, s := range spans {
			if name, _ := s.Resource.Set().Value("service.name"); name.AsString() != "findep-operator" {
				t.Errorf("a span is of %s", s.Resource)
			}
		}
	}
}

// runnables is a manager that only takes what it is to run.
type runnables struct {
	manager.Manager
	list []manager.Runnable
}

func (m *runnables) Add(r manager.Runnable) error {
	m.list = append(m.list, r)
	return nil
}

// fakeCollector counts the spans that it is sent.
type fakeCollector struct {
	collector.UnimplementedTraceServiceServer
	names chan string
}

func (c *fakeCollector) Export(_ context.Context, request *collector.ExportTraceServiceRequest) (*collector.ExportTraceServiceResponse, error) {
	for _, r := range request.ResourceSpans {
		for _, s := range r.ScopeSpans {
			for _, span := range s.Spans {
				c.names <- span.Name
			}
		}
	}
	return &collector.ExportTraceServiceResponse{}, nil
}

// TestSpansReachACollector: those of the last moment too, which are sent when the
// manager ends.
func TestSpansReachACollector(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &fakeCollector{names: make(chan string, 8)}
	server := grpc.NewServer()
	collector.RegisterTraceServiceServer(server, c)
	go func() { _ = server.Serve(l) }()
	t.Cleanup(server.Stop)

	var m runnables
	o := tracingOptions{endpoint: "http://" + l.Addr().String(), ratio: 1}
	tracer, err := o.start(&m)
	if err != nil || len(m.list) != 1 {
		t.Fatalf("%v, %d runnables", err, len(m.list))
	}
	_, span := tracer.Start(t.Context(), "reconcile")
	span.End()
	ctx, stop := context.WithCancel(t.Context())
	stop()
	if err := m.list[0].Start(ctx); err != nil {
		t.Fatal(err)
	}
	select {
	case name := <-c.names:
		if name != "reconcile" {
			t.Errorf("the collector has %s", name)
		}
	case <-time.After(time.Minute):
		t.Error("the collector has no span")
	}
}

func TestNoTracesByDefault(t *testing.T) {
	var m runnables
	tracer, err := new(tracingOptions).start(&m)
	if tracer != nil || err != nil || len(m.list) != 0 {
		t.Errorf("tracer %v, error %v, %d runnables; want nothing", tracer, err, len(m.list))
	}
}
