// SPDX-License-Identifier: Apache-2.0

// Command manager is the operator: it reconciles MoEDeployments.
package main

import (
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"go.uber.org/zap/zapcore"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/client-go/discovery"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	_ "k8s.io/client-go/plugin/pkg/client/auth"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/healthz"
	"sigs.k8s.io/controller-runtime/pkg/log/zap"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/findep/findep-operator/api/v1alpha1"
	"github.com/findep/findep-operator/controllers/moedeployment"
	"github.com/findep/findep-operator/controllers/resolve"
	"github.com/findep/findep-operator/controllers/webhooks"
)

// options are the flags.
type options struct {
	metricsAddress  string
	probeAddress    string
	profileAddress  string
	leaderElection  bool
	leaseName       string
	watchNamespaces []string
	clusterReads    bool
	budgets         bool
	networkPolicies bool
	concurrency     int
	qps             float32
	burst           int
	runtimeImage    string
	runtimeCUDA     string
	serverImage     string
	pullPolicy      string
	logLevel        string
	logFormat       string
	tracing         tracingOptions
	webhooks        webhookOptions
}

func main() {
	if err := command().Execute(); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func command() *cobra.Command {
	var o options
	c := &cobra.Command{
		Use:           "manager",
		Short:         "Reconcile MoEDeployments",
		Args:          cobra.NoArgs,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE:          func(*cobra.Command, []string) error { return run(&o) },
	}
	c.AddCommand(checkCommand())
	f := c.Flags()
	f.StringVar(&o.metricsAddress, "metrics-bind-address", ":8080", "address of /metrics; 0 switches it off")
	f.StringVar(&o.probeAddress, "health-probe-bind-address", ":8081", "address of /healthz and /readyz")
	f.StringVar(&o.profileAddress, "pprof-bind-address", "0", "address of /debug/pprof; 0 switches it off")
	f.BoolVar(&o.leaderElection, "leader-elect", false, "let one of several managers work; needed with more than one replica")
	f.StringVar(&o.leaseName, "leader-elect-lease", "findep-operator.findep.dev", "name of the Lease, in the manager's namespace, by which the managers of one installation agree on a leader")
	f.StringSliceVar(&o.watchNamespaces, "watch-namespace", nil, "namespaces to work in (default all)")
	f.BoolVar(&o.clusterReads, "cluster-reads", true, "read GPUProfiles and node labels, which are cluster-scoped; switch off where the manager only has namespaced rights")
	f.BoolVar(&o.budgets, "pod-disruption-budgets", true, "give every MoEDeployment a PodDisruptionBudget that counts instances")
	f.BoolVar(&o.networkPolicies, "network-policies", true, "give every MoEDeployment a NetworkPolicy")
	f.IntVar(&o.concurrency, "concurrency", 8, "MoEDeployments that are reconciled at once")
	f.Float32Var(&o.qps, "kube-api-qps", 500, "sustained requests per second to the API server")
	f.IntVar(&o.burst, "kube-api-burst", 1000, "burst of requests to the API server")
	f.StringVar(&o.runtimeImage, "runtime-image", "findep/runtime:latest", "image of the sidecar in instances that are made from now on")
	f.StringVar(&o.runtimeCUDA, "runtime-cuda-image", "", "image of the sidecar in groups on NVIDIA's GPUs (default: --runtime-image)")
	f.StringVar(&o.serverImage, "server-image", "findep/server:latest", "image of the model server in instances that are made from now on")
	f.StringVar(&o.pullPolicy, "image-pull-policy", string(corev1.PullIfNotPresent), "pull policy of both: Always, IfNotPresent or Never")
	f.StringVar(&o.logLevel, "log-level", "info", "debug, info, warn or error")
	f.StringVar(&o.logFormat, "log-format", "json", "json or console")
	o.tracing.add(f)
	o.webhooks.add(f)
	return c
}

func (o *options) validate() error {
	switch corev1.PullPolicy(o.pullPolicy) {
	case corev1.PullAlways, corev1.PullIfNotPresent, corev1.PullNever:
	default:
		return fmt.Errorf("--image-pull-policy is %q; use Always, IfNotPresent or Never", o.pullPolicy)
	}
	if o.runtimeImage == "" || o.serverImage == "" {
		return fmt.Errorf("--runtime-image is %q and --server-image %q; both are needed", o.runtimeImage, o.serverImage)
	}
	if problems := validation.IsDNS1123Subdomain(o.leaseName); len(problems) > 0 {
		return fmt.Errorf("--leader-elect-lease is %q, which names no Lease: %s", o.leaseName, strings.Join(problems, "; "))
	}
	if o.concurrency < 1 {
		return fmt.Errorf("--concurrency is %d; it must be at least 1", o.concurrency)
	}
	if o.logFormat != "json" && o.logFormat != "console" {
		return fmt.Errorf("--log-format is %q; use json or console", o.logFormat)
	}
	if err := o.tracing.validate(); err != nil {
		return err
	}
	return o.webhooks.validate()
}

func run(o *options) error {
	if err := o.validate(); err != nil {
		return err
	}
	level, err := zapcore.ParseLevel(o.logLevel)
	if err != nil {
		return fmt.Errorf("--log-level: %w", err)
	}
	ctrl.SetLogger(zap.New(zap.UseDevMode(o.logFormat == "console"), zap.Level(level)))
	config, err := ctrl.GetConfig()
	if err != nil {
		return fmt.Errorf("find the API server: %w", err)
	}
	config.QPS, config.Burst = o.qps, o.burst
	server, certificates := o.webhooks.server()
	options := managerOptions(o)
	options.WebhookServer = server
	mgr, err := ctrl.NewManager(config, options)
	if err != nil {
		return fmt.Errorf("make the manager: %w", err)
	}
	if err := register(mgr, o, certificates); err != nil {
		return err
	}
	return mgr.Start(ctrl.SetupSignalHandler())
}

func managerOptions(o *options) ctrl.Options {
	scheme := runtime.NewScheme()
	utilruntime.Must(clientgoscheme.AddToScheme(scheme))
	utilruntime.Must(v1alpha1.AddToScheme(scheme))
	options := ctrl.Options{
		Scheme:                 scheme,
		Metrics:                metricsserver.Options{BindAddress: o.metricsAddress},
		HealthProbeBindAddress: o.probeAddress,
		PprofBindAddress:       o.profileAddress,
		LeaderElection:         o.leaderElection,
		LeaderElectionID:       o.leaseName,
		// The process ends when leadership does, so giving it up at once is safe
		// and lets a successor begin without waiting for the lease.
		LeaderElectionReleaseOnCancel: true,
		Cache: cache.Options{
			ByObject: moedeployment.CacheObjects(),
			// Nobody reads who wrote which field.
			DefaultTransform: cache.TransformStripManagedFields(),
		},
	}
	if len(o.watchNamespaces) > 0 {
		options.Cache.DefaultNamespaces = map[string]cache.Config{}
		for _, n := range o.watchNamespaces {
			options.Cache.DefaultNamespaces[n] = cache.Config{}
		}
	}
	return options
}

func register(mgr ctrl.Manager, o *options, certificates *webhooks.Certificates) error {
	ask, err := discovery.NewDiscoveryClientForConfigAndClient(mgr.GetConfig(), mgr.GetHTTPClient())
	if err != nil {
		return fmt.Errorf("ask what the API server serves: %w", err)
	}
	backends := &moedeployment.DiscoveryDetector{Discovery: ask, Clock: clock.RealClock{}}
	served, err := backends.Served()
	if err != nil {
		return err
	}
	gang := served.PodGroup
	ctrl.Log.WithName("setup").Info("Starting", "version", version, "backends", served, "namespaces", o.watchNamespaces,
		"runtimeImage", o.runtimeImage, "serverImage", o.serverImage)
	tracer, err := o.tracing.start(mgr)
	if err != nil {
		return fmt.Errorf("send traces: %w", err)
	}
	r := &moedeployment.Reconciler{
		Tracer:   tracer,
		Client:   mgr.GetClient(),
		Reader:   mgr.GetAPIReader(),
		Recorder: mgr.GetEventRecorder("findep-operator"),
		Clock:    clock.RealClock{},
		Observer: moedeployment.RPCObserver{},
		Images: resolve.Images{
			Runtime: o.runtimeImage, RuntimeCUDA: o.runtimeCUDA, Server: o.serverImage, PullPolicy: corev1.PullPolicy(o.pullPolicy),
		},
		GangServed:   gang,
		Backends:     backends,
		ClusterReads: o.clusterReads,

		DisruptionBudgets: o.budgets, NetworkPolicies: o.networkPolicies,
	}
	if err := r.SetupWithManager(mgr, o.concurrency); err != nil {
		return fmt.Errorf("set up the controller: %w", err)
	}
	decide := func(f *resolve.Facts) {
		f.Images = r.Images
		if now, err := backends.Served(); err == nil {
			f.GangServed, f.Backends = now.PodGroup, now.Backends
		}
	}
	if err := registerWebhooks(mgr, o, certificates, decide); err != nil {
		return err
	}
	if err := mgr.AddHealthzCheck("ping", healthz.Ping); err != nil {
		return err
	}
	return mgr.AddReadyzCheck("ping", healthz.Ping)
}
