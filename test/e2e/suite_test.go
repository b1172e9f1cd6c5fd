// SPDX-License-Identifier: Apache-2.0

// Package e2e tests the whole product on a real cluster: the chart is
// installed, pods run, requests are answered. hack/e2e.sh prepares the cluster
// and sets KUBECONFIG; without it the suite is skipped.
package e2e

import (
	"context"
	"os"
	"testing"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	k8sruntime "k8s.io/apimachinery/pkg/runtime"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/client-go/kubernetes"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/config"

	"github.com/findep/findep-operator/api/v1alpha1"
)

// Time-outs of steps that a busy two-core machine still meets.
const (
	availableWithin = 4 * time.Minute
	changeWithin    = 90 * time.Second
	pollEvery       = 500 * time.Millisecond
	// settle is how long something that must not happen is watched for.
	settle = 5 * time.Second
)

var (
	k8s       client.Client
	clientset kubernetes.Interface
	namespace string
)

func TestEndToEnd(t *testing.T) {
	if os.Getenv("KUBECONFIG") == "" {
		t.Skip("KUBECONFIG is not set; run make test-e2e")
	}
	RegisterFailHandler(Fail)
	RunSpecs(t, "End to end on a real cluster")
}

var _ = BeforeSuite(func(ctx context.Context) {
	// Warnings of the API server, for those who read the output of a failed spec.
	ctrl.SetLogger(GinkgoLogr)
	scheme := k8sruntime.NewScheme()
	utilruntime.Must(clientgoscheme.AddToScheme(scheme))
	utilruntime.Must(v1alpha1.AddToScheme(scheme))
	cfg, err := config.GetConfig()
	Expect(err).NotTo(HaveOccurred())
	k8s, err = client.New(cfg, client.Options{Scheme: scheme})
	Expect(err).NotTo(HaveOccurred())
	clientset, err = kubernetes.NewForConfig(cfg)
	Expect(err).NotTo(HaveOccurred())

	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{
		GenerateName: "findep-e2e-",
		// The strictest standard: an instance's pods must need nothing more.
		Labels: map[string]string{"pod-security.kubernetes.io/enforce": "restricted"},
	}}
	Expect(k8s.Create(ctx, ns)).To(Succeed())
	namespace = ns.Name
	DeferCleanup(func(ctx context.Context) {
		Expect(client.IgnoreNotFound(k8s.Delete(ctx, ns))).To(Succeed())
	})
	createModelConfig(ctx, namespace)
	startKiller()
})

// Each failed spec shows what a person would look at first.
var _ = AfterEach(func(ctx context.Context) {
	if CurrentSpecReport().Failed() {
		dumpNamespace(ctx)
	}
})
