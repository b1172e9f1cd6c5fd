// SPDX-License-Identifier: Apache-2.0

// Package integration runs the reconciler against a real API server. Specs call
// Reconcile themselves, with a fake clock and a fake leader, so nothing in them
// waits; only the specs of the manager, which prove the watches, do.
package integration

import (
	"context"
	"errors"
	"testing"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/events"
	clocktesting "k8s.io/utils/clock/testing"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log/zap"

	"github.com/findep/findep-operator/api/v1alpha1"
	"github.com/findep/findep-operator/controllers/moedeployment"
	"github.com/findep/findep-operator/controllers/resolve"
	"github.com/findep/findep-operator/runtime/plan"
	"github.com/findep/findep-operator/test/env"
	"github.com/findep/findep-operator/test/wrappers"
)

var (
	config *rest.Config
	k8s    client.Client
	scheme = runtime.NewScheme()
)

func TestIntegration(t *testing.T) {
	RegisterFailHandler(Fail)
	ctrl.SetLogger(zap.New(zap.UseDevMode(true), zap.WriteTo(GinkgoWriter)))
	if err := clientgoscheme.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	config = env.Run(t, env.Options{CRDPaths: []string{"../../config/crd/bases"}})
	var err error
	if k8s, err = client.New(config, client.Options{Scheme: scheme}); err != nil {
		t.Fatal(err)
	}
	// The node that eachPod binds pods to.
	if err := k8s.Create(t.Context(), wrappers.Node("node1", nil)); err != nil {
		t.Fatal(err)
	}
	RunSpecs(t, "integration")
}

// images are what the reconciler of a world is installed with.
var images = resolve.Images{Runtime: "findep/runtime:1", Server: "findep/server:1", PullPolicy: corev1.PullIfNotPresent}

// fakeLeader answers as the leader would.
type fakeLeader struct {
	observation *plan.Observation
	// of answers for the instance of an identity instead.
	of      map[string]*plan.Observation
	targets []moedeployment.Target
}

// Observe implements moedeployment.Observer.
func (f *fakeLeader) Observe(_ context.Context, target moedeployment.Target) (*plan.Observation, error) {
	f.targets = append(f.targets, target)
	if o := f.of[target.Identity]; o != nil {
		return o, nil
	}
	if f.observation == nil {
		return nil, errors.New("connection refused")
	}
	return f.observation, nil
}

// world is one namespace with a reconciler of its own.
type world struct {
	namespace  string
	reconciler *moedeployment.Reconciler
	clock      *clocktesting.FakePassiveClock
	leader     *fakeLeader
	events     *events.FakeRecorder
	writes     *writeCounter
}

func newWorld(ctx context.Context) *world {
	GinkgoHelper()
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{
		GenerateName: "world-",
		// What the operator makes must be admitted by the strictest standard.
		Labels: map[string]string{"pod-security.kubernetes.io/enforce": "restricted"},
	}}
	Expect(k8s.Create(ctx, ns)).To(Succeed())
	w := &world{
		namespace: ns.Name,
		// Certificates are checked against the wall clock by nobody here.
		clock:  clocktesting.NewFakePassiveClock(time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)),
		leader: &fakeLeader{},
		events: events.NewFakeRecorder(1000),
	}
	w.writes = &writeCounter{}
	w.reconciler = &moedeployment.Reconciler{
		Client: w.writes.wrap(k8s), Reader: k8s, Recorder: w.events, Clock: w.clock, Observer: w.leader,
		Images: images, GangServed: true, ClusterReads: true,
		DisruptionBudgets: true, NetworkPolicies: true,
	}
	return w
}
