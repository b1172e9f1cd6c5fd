// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"net/url"
	"time"

	"github.com/spf13/pflag"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	ctrl "sigs.k8s.io/controller-runtime"
)

// tracesFlushed bounds how long the manager waits at its end for the last spans
// to be taken.
const tracesFlushed = 5 * time.Second

// tracingOptions say where spans go.
type tracingOptions struct {
	endpoint string
	ratio    float64
}

func (o *tracingOptions) add(f *pflag.FlagSet) {
	f.StringVar(&o.endpoint, "otlp-endpoint", "", "URL of an OpenTelemetry collector that traces of reconciles are sent to by OTLP over gRPC, such as http://collector:4317 (https for TLS); empty sends none")
	f.Float64Var(&o.ratio, "trace-ratio", 1, "share of reconciles that are traced, from 0 to 1")
}

func (o *tracingOptions) validate() error {
	if o.ratio < 0 || o.ratio > 1 || o.ratio != o.ratio {
		return fmt.Errorf("--trace-ratio is %v; use a number from 0 to 1", o.ratio)
	}
	if o.endpoint == "" {
		return nil
	}
	u, err := url.Parse(o.endpoint)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return fmt.Errorf("--otlp-endpoint is %q; use a URL such as http://collector:4317, or https://collector:4317 for TLS", o.endpoint)
	}
	return nil
}

// start returns the tracer of the reconciler, nil if there is none, and makes the
// manager send what is left when it ends. A collector that cannot be reached
// costs spans and nothing else.
func (o *tracingOptions) start(mgr ctrl.Manager) (trace.Tracer, error) {
	if o.endpoint == "" {
		return nil, nil
	}
	log := ctrl.Log.WithName("tracing")
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { log.Error(err, "Spans were lost", "endpoint", o.endpoint) }))
	exporter, err := otlptracegrpc.New(context.Background(), otlptracegrpc.WithEndpointURL(o.endpoint))
	if err != nil {
		return nil, err
	}
	provider := newProvider(o.ratio, sdktrace.WithBatcher(exporter))
	if err := mgr.Add(flush{provider}); err != nil {
		return nil, err
	}
	return provider.Tracer("github.com/findep/findep-operator/controllers/moedeployment"), nil
}

// newProvider names this program in every span.
func newProvider(ratio float64, to sdktrace.TracerProviderOption) *sdktrace.TracerProvider {
	self := resource.NewSchemaless(attribute.String("service.name", "findep-operator"), attribute.String("service.version", version))
	return sdktrace.NewTracerProvider(to, sdktrace.WithResource(self),
		sdktrace.WithSampler(sdktrace.ParentBased(sdktrace.TraceIDRatioBased(ratio))))
}

// flush sends the last spans when the manager ends.
type flush struct{ provider *sdktrace.TracerProvider }

// Start implements manager.Runnable.
func (f flush) Start(ctx context.Context) error {
	<-ctx.Done()
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), tracesFlushed)
	defer cancel()
	// What the collector does not take by then is lost, which is no failure.
	_ = f.provider.Shutdown(end)
	return nil
}

// NeedLeaderElection implements manager.LeaderElectionRunnable: every manager has
// a provider to end.
func (flush) NeedLeaderElection() bool { return false }
