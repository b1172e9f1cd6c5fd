// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	clocktesting "k8s.io/utils/clock/testing"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"
	"sigs.k8s.io/controller-runtime/pkg/webhook"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"
	"sigs.k8s.io/yaml"

	"github.com/findep/findep-operator/api/v1alpha1"
	"github.com/findep/findep-operator/controllers/moedeployment"
	"github.com/findep/findep-operator/controllers/webhooks"
	"github.com/findep/findep-operator/test/wrappers"
)

// said collects the warnings that the API server passes on.
type said struct{ warnings []string }

// HandleWarningHeader implements rest.WarningHandler.
func (s *said) HandleWarningHeader(_ int, _, text string) { s.warnings = append(s.warnings, text) }

// hooks is a webhook server that the API server asks about one namespace.
type hooks struct {
	world        *world
	clock        *clocktesting.FakePassiveClock
	certificates *webhooks.Certificates
	said         *said
	client       client.Client
	port         int
}

// newHooks serves the webhooks as config/webhook describes them, but refuses what
// they cannot be asked about, so that a broken certificate shows. The clock
// stands at begin.
func newHooks(ctx context.Context, begin time.Time) *hooks {
	GinkgoHelper()
	h := &hooks{world: newWorld(ctx), clock: clocktesting.NewFakePassiveClock(begin), said: &said{}}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	Expect(err).NotTo(HaveOccurred())
	h.port = listener.Addr().(*net.TCPAddr).Port
	Expect(listener.Close()).To(Succeed())
	configuration := webhookConfiguration(h.world.namespace, h.port)
	Expect(k8s.Create(ctx, configuration)).To(Succeed())
	DeferCleanup(func(ctx context.Context) { Expect(k8s.Delete(ctx, configuration)).To(Succeed()) })
	h.certificates = &webhooks.Certificates{
		Client: k8s, Reader: k8s, Clock: h.clock, Names: []string{"127.0.0.1"},
		Secret:        types.NamespacedName{Namespace: h.world.namespace, Name: "webhook-cert"},
		Configuration: configuration.Name,
	}
	h.serve()
	own := rest.CopyConfig(config)
	own.WarningHandler = h.said
	h.client, err = client.New(own, client.Options{Scheme: scheme})
	Expect(err).NotTo(HaveOccurred())
	return h
}

// webhookConfiguration is the one that is installed, with an address instead of
// the Service.
func webhookConfiguration(namespace string, port int) *admissionv1.ValidatingWebhookConfiguration {
	GinkgoHelper()
	b, err := os.ReadFile("../../config/webhook/manifests.yaml")
	Expect(err).NotTo(HaveOccurred())
	var c admissionv1.ValidatingWebhookConfiguration
	Expect(yaml.UnmarshalStrict(b, &c)).To(Succeed())
	c.Name = namespace
	for i := range c.Webhooks {
		w := &c.Webhooks[i]
		w.ClientConfig = admissionv1.WebhookClientConfig{URL: ptr.To(fmt.Sprintf("https://127.0.0.1:%d%s", port, *w.ClientConfig.Service.Path))}
		w.FailurePolicy = ptr.To(admissionv1.Fail)
		w.NamespaceSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"kubernetes.io/metadata.name": namespace}}
	}
	return &c
}

func (h *hooks) serve() {
	GinkgoHelper()
	server := webhook.NewServer(webhook.Options{Host: "127.0.0.1", Port: h.port, TLSOpts: []func(*tls.Config){
		func(c *tls.Config) { c.GetCertificate = h.certificates.GetCertificate },
	}})
	facts := moedeployment.FactReader{Cached: k8s, Direct: k8s, ClusterReads: true}
	server.Register("/validate-findep-dev-v1alpha1-moedeployment", admission.WithValidator(scheme, &webhooks.Validator{Facts: facts}))
	server.Register("/validate-findep-dev-v1alpha1-gpuprofile", admission.WithValidator(scheme, &webhooks.ProfileValidator{Facts: facts}))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- server.Start(ctx) }()
	DeferCleanup(func() {
		cancel()
		Expect(<-done).To(Succeed())
	})
}

// pass makes the certificates follow the clock.
func (h *hooks) pass(ctx context.Context) {
	GinkgoHelper()
	_, err := h.certificates.Reconcile(ctx, ctrl.Request{})
	Expect(err).NotTo(HaveOccurred())
}

// bundle is what the API server trusts.
func (h *hooks) bundle(ctx context.Context) string {
	GinkgoHelper()
	var c admissionv1.ValidatingWebhookConfiguration
	Expect(k8s.Get(ctx, types.NamespacedName{Name: h.certificates.Configuration}, &c)).To(Succeed())
	Expect(c.Webhooks).To(HaveLen(2))
	Expect(c.Webhooks[0].ClientConfig.CABundle).To(Equal(c.Webhooks[1].ClientConfig.CABundle))
	return string(c.Webhooks[0].ClientConfig.CABundle)
}

// served is the serial number of the certificate that a new connection gets, as
// somebody sees it who trusts a bundle.
func (h *hooks) served(bundle string) string {
	GinkgoHelper()
	roots := x509.NewCertPool()
	Expect(roots.AppendCertsFromPEM([]byte(bundle))).To(BeTrue())
	conn, err := (&tls.Dialer{Config: &tls.Config{RootCAs: roots}}).DialContext(context.Background(), "tcp", fmt.Sprintf("127.0.0.1:%d", h.port))
	Expect(err).NotTo(HaveOccurred())
	defer func() { _ = conn.Close() }()
	return conn.(*tls.Conn).ConnectionState().PeerCertificates[0].SerialNumber.String()
}

func (h *hooks) deployment(name string) *wrappers.MoEDeploymentWrapper {
	return wrappers.MoEDeployment(name).Namespace(h.world.namespace)
}

// eventuallyAsked waits until the API server asks and is answered.
func (h *hooks) eventuallyAsked(ctx context.Context) {
	GinkgoHelper()
	Eventually(ctx, func() error {
		return h.client.Create(ctx, h.deployment("probe").GPUs(1, 65).Obj(), client.DryRunAll)
	}).WithTimeout(30 * time.Second).WithPolling(100 * time.Millisecond).Should(MatchError(ContainSubstring("spec.gpus.expert")))
	h.said.warnings = nil
}

var _ = Describe("The webhooks", Ordered, func() {
	const tooLarge = "needs at least"
	var h *hooks
	large := func(name string) *v1alpha1.MoEDeployment {
		return h.deployment(name).Model("deepseek-ai/DeepSeek-V3").Obj()
	}

	BeforeAll(func(ctx context.Context) {
		h = newHooks(ctx, time.Now())
		h.pass(ctx)
		h.eventuallyAsked(ctx)
	})

	It("refuse what fits no GPU, and make nothing", func(ctx context.Context) {
		Expect(h.client.Create(ctx, large("a"))).To(MatchError(ContainSubstring(tooLarge)))
		var list v1alpha1.MoEDeploymentList
		Expect(k8s.List(ctx, &list, client.InNamespace(h.world.namespace))).To(Succeed())
		Expect(list.Items).To(BeEmpty())
	})

	It("say the same of a dry run", func(ctx context.Context) {
		Expect(h.client.Create(ctx, large("a"), client.DryRunAll)).To(MatchError(ContainSubstring(tooLarge)))
		Expect(h.client.Create(ctx, h.deployment("a").Obj(), client.DryRunAll)).To(Succeed())
		var list v1alpha1.MoEDeploymentList
		Expect(k8s.List(ctx, &list, client.InNamespace(h.world.namespace))).To(Succeed())
		Expect(list.Items).To(BeEmpty())
	})

	It("let the user insist, and status says so", func(ctx context.Context) {
		d := large("insists")
		d.Annotations = map[string]string{v1alpha1.AnnotationMemoryCheck: v1alpha1.MemoryCheckOverride}
		Expect(h.client.Create(ctx, d)).To(Succeed())
		Expect(strings.Join(h.said.warnings, "\n")).To(ContainSubstring(tooLarge))
		h.world.reconcile(ctx, d.Name)
		Expect(h.world.condition(ctx, d.Name, v1alpha1.ConditionFeasible)).To(HavePrefix("True/MemoryCheckOverridden"))
		Expect(h.world.pods(ctx, d.Name)).To(HaveLen(5))
	})

	It("warn of what may come right, and of what it costs", func(ctx context.Context) {
		h.said.warnings = nil
		d := h.deployment("warned").ConfigFrom("not-yet").Obj()
		Expect(h.client.Create(ctx, d)).To(Succeed())
		Expect(h.said.warnings).To(ConsistOf(ContainSubstring("no pods are made until it is")))

		d = h.deployment("costly").Obj()
		Expect(h.client.Create(ctx, d)).To(Succeed())
		h.world.reconcile(ctx, d.Name)
		h.world.reconcile(ctx, d.Name)
		Expect(k8s.Get(ctx, client.ObjectKeyFromObject(d), d)).To(Succeed())
		h.said.warnings = nil
		changed := d.DeepCopy()
		changed.Spec.GPUs = v1alpha1.GPUSpec{Attention: 1, Expert: 4}
		Expect(h.client.Patch(ctx, changed, client.MergeFrom(d))).To(Succeed())
		Expect(h.said.warnings).To(ConsistOf(ContainSubstring("changing spec.gpus recreates the pods of 1 instance,")))
	})

	It("change nothing of what the user wrote", func(ctx context.Context) {
		d := h.deployment("as-written").Obj()
		want := d.Spec.DeepCopy()
		Expect(h.client.Create(ctx, d)).To(Succeed())
		Expect(&d.Spec).To(Equal(want))
	})

	It("check profiles", func(ctx context.Context) {
		p := wrappers.GPUProfile("reserved").Memory(1 << 30).Obj()
		p.Spec.ReservedBytes = 1 << 30
		Expect(h.client.Create(ctx, p)).To(MatchError(ContainSubstring("spec.reservedBytes")))
	})

	It("do not hold up what is on its way out, or changes of anything but the spec, when they are away", func(ctx context.Context) {
		d := h.deployment("leaving").Obj()
		Expect(h.client.Create(ctx, d)).To(Succeed())
		// An authority that nobody has makes every call fail, and failures refuse.
		var c admissionv1.ValidatingWebhookConfiguration
		Expect(k8s.Get(ctx, types.NamespacedName{Name: h.certificates.Configuration}, &c)).To(Succeed())
		lost := c.DeepCopy()
		for i := range lost.Webhooks {
			lost.Webhooks[i].ClientConfig.URL = ptr.To("https://127.0.0.1:1/gone")
		}
		Expect(k8s.Patch(ctx, lost, client.MergeFrom(&c))).To(Succeed())
		DeferCleanup(func(ctx context.Context) {
			back := lost.DeepCopy()
			for i := range back.Webhooks {
				back.Webhooks[i].ClientConfig.URL = c.Webhooks[i].ClientConfig.URL
			}
			Expect(k8s.Patch(ctx, back, client.MergeFrom(lost))).To(Succeed())
			h.eventuallyAsked(ctx)
		})
		Eventually(ctx, func() error {
			return h.client.Create(ctx, h.deployment("probe").Obj(), client.DryRunAll)
		}).WithTimeout(30 * time.Second).WithPolling(100 * time.Millisecond).Should(MatchError(ContainSubstring("failed calling webhook")))

		marked := d.DeepCopy()
		marked.Labels = map[string]string{"a": "b"}
		marked.Finalizers = []string{"example.com/hold"}
		Expect(h.client.Patch(ctx, marked, client.MergeFrom(d))).To(Succeed())
		Expect(h.client.Delete(ctx, marked)).To(Succeed())
		Expect(k8s.Get(ctx, client.ObjectKeyFromObject(d), marked)).To(Succeed())
		freed := marked.DeepCopy()
		freed.Finalizers = nil
		Expect(h.client.Patch(ctx, freed, client.MergeFrom(marked))).To(Succeed())
		Expect(client.IgnoreNotFound(k8s.Get(ctx, client.ObjectKeyFromObject(d), marked))).To(Succeed())
	})
})

var _ = Describe("The certificates of the webhooks", func() {
	It("are rotated in time, and nobody is without a common authority", func(ctx context.Context) {
		// The API server's clock is real, so the story ends now: a week after two
		// thirds of the ten years that the authority is good for.
		now := time.Now()
		h := newHooks(ctx, now.AddDate(0, 0, -2440))
		h.pass(ctx)
		first := h.bundle(ctx)
		Expect(strings.Count(first, "BEGIN CERTIFICATE")).To(Equal(1))

		By("renewing the certificate under the same authority")
		h.clock.SetTime(now.AddDate(0, 0, -61))
		h.pass(ctx)
		h.clock.SetTime(now.Add(-2 * time.Hour))
		h.pass(ctx)
		second := h.bundle(ctx)
		Expect(second).To(HavePrefix(first))
		old := h.served(first)
		h.eventuallyAsked(ctx)

		By("trusting the next authority before it is used")
		Expect(strings.Count(second, "BEGIN CERTIFICATE")).To(Equal(2))
		h.clock.SetTime(now)
		h.pass(ctx)
		third := h.bundle(ctx)
		Expect(h.served(second)).NotTo(Equal(old), "the certificate of the new authority, as the bundle of before sees it")
		Expect(h.served(third)).To(Equal(h.served(second)))
		Expect(h.client.Create(ctx, h.deployment("probe").GPUs(1, 65).Obj(), client.DryRunAll)).To(MatchError(ContainSubstring("spec.gpus.expert")))

		By("writing nothing at rest")
		var before, after corev1.Secret
		Expect(k8s.Get(ctx, h.certificates.Secret, &before)).To(Succeed())
		h.pass(ctx)
		Expect(k8s.Get(ctx, h.certificates.Secret, &after)).To(Succeed())
		Expect(after.ResourceVersion).To(Equal(before.ResourceVersion))
		Expect(h.bundle(ctx)).To(Equal(third))
	})

	It("are made anew by any manager when they are lost or spoilt", func(ctx context.Context) {
		h := newHooks(ctx, time.Now())
		mgr, err := ctrl.NewManager(config, ctrl.Options{
			Scheme: scheme, Metrics: metricsserver.Options{BindAddress: "0"},
			// Somebody else is the leader.
			LeaderElection: true, LeaderElectionID: "never", LeaderElectionNamespace: "does-not-exist",
		})
		Expect(err).NotTo(HaveOccurred())
		Expect(h.certificates.SetupWithManager(mgr)).To(Succeed())
		run, cancel := context.WithCancel(ctx)
		stopped := make(chan struct{})
		go func() {
			defer GinkgoRecover()
			defer close(stopped)
			Expect(mgr.Start(run)).To(Succeed())
		}()
		DeferCleanup(func() {
			cancel()
			<-stopped
		})
		h.eventuallyAsked(ctx)
		first := h.bundle(ctx)

		Expect(k8s.Delete(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: h.certificates.Secret.Namespace, Name: h.certificates.Secret.Name}})).To(Succeed())
		Eventually(ctx, func() string { return h.bundle(ctx) }).WithTimeout(30 * time.Second).ShouldNot(Equal(first))
		h.eventuallyAsked(ctx)

		second := h.bundle(ctx)
		var c admissionv1.ValidatingWebhookConfiguration
		Expect(k8s.Get(ctx, types.NamespacedName{Name: h.certificates.Configuration}, &c)).To(Succeed())
		spoilt := c.DeepCopy()
		for i := range spoilt.Webhooks {
			spoilt.Webhooks[i].ClientConfig.CABundle = []byte(first)
		}
		Expect(k8s.Patch(ctx, spoilt, client.MergeFrom(&c))).To(Succeed())
		Eventually(ctx, func() string { return h.bundle(ctx) }).WithTimeout(30 * time.Second).Should(Equal(second))
		h.eventuallyAsked(ctx)
	})
})
