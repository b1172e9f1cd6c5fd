// SPDX-License-Identifier: Apache-2.0

// Package env starts a real kube-apiserver and etcd for tests of controllers,
// with the same binaries, feature gates and API versions as the local cluster.
// There is no scheduler, kubelet or controller-manager: pods stay pending and
// nothing is garbage-collected unless the test does it.
package env

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	"github.com/findep/findep-operator/hack/localcluster/binaries"
	"github.com/findep/findep-operator/hack/localcluster/features"
)

// Options says what to install into the API server.
type Options struct {
	// CRDPaths are folders or files with CustomResourceDefinitions, relative to
	// the test's folder, as in "../../config/crd/bases". A missing path is an
	// error.
	CRDPaths []string
	// Webhooks are admission webhook configurations that point at a server
	// which the test runs.
	Webhooks envtest.WebhookInstallOptions
	// Attach copies the output of kube-apiserver and etcd to the test's.
	Attach bool
}

// startTimeout is generous because several packages' tests may start an API
// server each on the same small machine.
const startTimeout = 2 * time.Minute

// Start builds the binaries if the cache lacks them, starts the API server and
// returns a client configuration with cluster-admin rights. The caller must call
// stop once, also after a failed test; it is nil when err is not.
func Start(ctx context.Context, o Options) (config *rest.Config, stop func() error, err error) {
	builder, err := binaries.NewBuilder(os.Stderr)
	if err != nil {
		return nil, nil, err
	}
	names, err := binaries.ControlPlaneTests.Names()
	if err != nil {
		return nil, nil, err
	}
	if err := builder.Ensure(ctx, names...); err != nil {
		return nil, nil, fmt.Errorf("build the API server: %w", err)
	}
	environment := &envtest.Environment{
		BinaryAssetsDirectory:    builder.Bin,
		CRDDirectoryPaths:        o.CRDPaths,
		ErrorIfCRDPathMissing:    true,
		WebhookInstallOptions:    o.Webhooks,
		AttachControlPlaneOutput: o.Attach,
		ControlPlaneStartTimeout: startTimeout,
		ControlPlaneStopTimeout:  startTimeout,
	}
	environment.ControlPlane.GetAPIServer().Configure().
		Set("feature-gates", features.Gates).
		Set("runtime-config", features.RuntimeConfig)
	config, err = environment.Start()
	if err != nil {
		// A control plane that came up before, say, a CRD was refused must not
		// outlive the test.
		return nil, nil, errors.Join(fmt.Errorf("start the API server: %w", err), environment.Stop())
	}
	return config, environment.Stop, nil
}

// Run is [Start] for one test or benchmark: it fails tb on an error and stops
// the API server at tb's end.
func Run(tb testing.TB, o Options) *rest.Config {
	tb.Helper()
	config, stop, err := Start(context.Background(), o)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := stop(); err != nil {
			tb.Errorf("stop the API server: %v", err)
		}
	})
	return config
}
