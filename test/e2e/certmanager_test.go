// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"
)

const (
	certificateName   = operator + "-webhook"
	certificateSecret = operator + "-webhook-tls"
	// renewedWithin is how long a kubelet may take to show a changed Secret.
	renewedWithin = 4 * time.Minute
)

// certManager runs cert-manager beside the cluster until the container's end.
// hack/certmanager.sh builds it and says where its definitions are.
func certManager(ctx context.Context) {
	GinkgoHelper()
	program, definitions := os.Getenv("FINDEP_CERT_MANAGER"), os.Getenv("FINDEP_CERT_MANAGER_CRDS")
	if program == "" || definitions == "" {
		Skip("FINDEP_CERT_MANAGER is not set; run make test-long")
	}
	files, err := filepath.Glob(filepath.Join(definitions, "*.yaml"))
	Expect(err).NotTo(HaveOccurred())
	Expect(files).NotTo(BeEmpty())
	for _, file := range files {
		b, err := os.ReadFile(file) //nolint:gosec // a file of cert-manager's module
		Expect(err).NotTo(HaveOccurred())
		crd := &unstructured.Unstructured{}
		Expect(yaml.Unmarshal(b, &crd.Object)).To(Succeed())
		Expect(k8s.Create(ctx, crd)).To(Succeed())
		DeferCleanup(func(ctx context.Context) { Expect(client.IgnoreNotFound(k8s.Delete(ctx, crd))).To(Succeed()) })
	}
	Eventually(ctx, func() error {
		list := &unstructured.UnstructuredList{}
		list.SetAPIVersion("cert-manager.io/v1")
		list.SetKind("CertificateList")
		return k8s.List(ctx, list)
	}).WithTimeout(changeWithin).WithPolling(pollEvery).Should(Succeed())

	process := exec.Command(program) //nolint:gosec,noctx // it outlives this node's context
	process.Stdout, process.Stderr = GinkgoWriter, GinkgoWriter
	Expect(process.Start()).To(Succeed())
	DeferCleanup(func() {
		Expect(process.Process.Signal(syscall.SIGTERM)).To(Succeed())
		Expect(process.Wait()).To(Succeed())
	})
}

// served are the serial numbers of the certificates that the managers' pods
// serve, asked over the pods' own network.
func served(ctx context.Context) (map[string]string, error) {
	var pods corev1.PodList
	if err := k8s.List(ctx, &pods, client.InNamespace(operatorSpace), client.MatchingLabels{"findep.dev/component": "manager"}); err != nil {
		return nil, err
	}
	serials := map[string]string{}
	for _, pod := range pods.Items {
		// The one before an upgrade may be on its way out.
		if pod.DeletionTimestamp != nil {
			continue
		}
		dialer := &tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true}} //nolint:gosec // only looked at
		conn, err := dialer.DialContext(ctx, "tcp", pod.Status.PodIP+":9443")
		if err != nil {
			return nil, err
		}
		serials[pod.Name] = conn.(*tls.Conn).ConnectionState().PeerCertificates[0].SerialNumber.String()
		_ = conn.Close()
	}
	return serials, nil
}

// stored is the serial number of the certificate in the Secret.
func stored(ctx context.Context) (string, error) {
	var secret corev1.Secret
	if err := k8s.Get(ctx, types.NamespacedName{Namespace: operatorSpace, Name: certificateSecret}, &secret); err != nil {
		return "", err
	}
	block, _ := pem.Decode(secret.Data[corev1.TLSCertKey])
	if block == nil {
		return "", errors.New("the Secret holds no certificate")
	}
	certificate, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return "", err
	}
	return certificate.SerialNumber.String(), nil
}

// admission asks the webhooks again and again for two objects, one of which
// they refuse, and collects every other answer. The API server has to refuse
// when it cannot ask them, so that it would show.
func admission(ctx context.Context) (wrong func() []string, stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var (
		mu   sync.Mutex
		all  []string
		done sync.WaitGroup
	)
	done.Go(func() {
		for ctx.Err() == nil {
			fine := k8s.Create(ctx, tiny("fine", 1, 1), client.DryRunAll)
			refused := k8s.Create(ctx, tiny("too-many", 1, 200), client.DryRunAll)
			right := fine == nil && refused != nil && strings.Contains(refused.Error(), "spec.gpus.expert")
			if !right && ctx.Err() == nil {
				mu.Lock()
				all = append(all, fmt.Sprintf("%s: %v; %v", time.Now().Format(time.TimeOnly), fine, refused))
				mu.Unlock()
			}
			select {
			case <-ctx.Done():
			case <-time.After(pollEvery):
			}
		}
	})
	wrong = func() []string {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(all)
	}
	return wrong, func() {
		cancel()
		done.Wait()
	}
}

var _ = Describe("The webhooks with certificates of cert-manager", Label("cert-manager", "chart", "long"), Ordered, func() {
	var values string
	bundle := func(ctx context.Context) ([]byte, error) {
		var c admissionv1.ValidatingWebhookConfiguration
		err := k8s.Get(ctx, types.NamespacedName{Name: operator}, &c)
		if err != nil || len(c.Webhooks) == 0 {
			return nil, err
		}
		return c.Webhooks[0].ClientConfig.CABundle, nil
	}
	// renewal waits until every manager serves another certificate than before,
	// and wants nobody to notice.
	renewal := func(ctx context.Context, begin func()) {
		GinkgoHelper()
		before, err := stored(ctx)
		Expect(err).NotTo(HaveOccurred())
		trusted, err := bundle(ctx)
		Expect(err).NotTo(HaveOccurred())
		Eventually(ctx, func() (map[string]string, error) { return served(ctx) }).
			WithTimeout(renewedWithin).WithPolling(pollEvery).Should(HaveEach(before))
		wrong, stop := admission(ctx)
		defer stop()
		begin()
		Eventually(ctx, func() (string, error) { return stored(ctx) }).
			WithTimeout(changeWithin).WithPolling(pollEvery).ShouldNot(Equal(before))
		after, err := stored(ctx)
		Expect(err).NotTo(HaveOccurred())
		Eventually(ctx, func() (map[string]string, error) { return served(ctx) }).
			WithTimeout(renewedWithin).WithPolling(pollEvery).Should(HaveEach(after))
		Expect(wrong()).To(BeEmpty(), "answers of the webhooks meanwhile")
		Expect(bundle(ctx)).To(Equal(trusted), "the authority stays")
	}

	BeforeAll(func(ctx context.Context) {
		certManager(ctx)
		values = borrowRelease(ctx)
	})

	It("are issued and trusted without help", func(ctx context.Context) {
		mustHelm(ctx, "upgrade", release, presentChart, "--values", values, "--wait", "--timeout", helmTimeout,
			"--set", "webhooks.mode=certManager", "--set", "webhooks.failurePolicy=Fail")
		Eventually(ctx, func() error { return k8s.Create(ctx, tiny("too-many", 1, 200), client.DryRunAll) }).
			WithTimeout(changeWithin).WithPolling(pollEvery).Should(MatchError(ContainSubstring("spec.gpus.expert")))
		Expect(k8s.Create(ctx, tiny("fine", 1, 1), client.DryRunAll)).To(Succeed())
		Expect(bundle(ctx)).NotTo(BeEmpty())
	})

	It("are renewed, and no request fails", func(ctx context.Context) {
		renewal(ctx, func() {
			// What cmctl renew does.
			c := &unstructured.Unstructured{}
			c.SetAPIVersion("cert-manager.io/v1")
			c.SetKind("Certificate")
			Expect(k8s.Get(ctx, types.NamespacedName{Namespace: operatorSpace, Name: certificateName}, c)).To(Succeed())
			conditions, _, err := unstructured.NestedSlice(c.Object, "status", "conditions")
			Expect(err).NotTo(HaveOccurred())
			conditions = append(conditions, map[string]any{
				"type": "Issuing", "status": "True", "reason": "ManuallyTriggered", "message": "renewed by a test",
				"lastTransitionTime": time.Now().UTC().Format(time.RFC3339), "observedGeneration": c.GetGeneration(),
			})
			Expect(unstructured.SetNestedSlice(c.Object, conditions, "status", "conditions")).To(Succeed())
			Expect(k8s.Status().Update(ctx, c)).To(Succeed())
		})
	})

	It("are issued again when their Secret is lost", func(ctx context.Context) {
		renewal(ctx, func() {
			Expect(k8s.Delete(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: operatorSpace, Name: certificateSecret}})).To(Succeed())
			Eventually(ctx, func() error { _, err := stored(ctx); return err }).
				WithTimeout(changeWithin).WithPolling(pollEvery).Should(Succeed())
		})
	})

	It("can be given back to the operator", func(ctx context.Context) {
		before, err := bundle(ctx)
		Expect(err).NotTo(HaveOccurred())
		mustHelm(ctx, "upgrade", release, presentChart, "--values", values, "--wait", "--timeout", helmTimeout)
		Eventually(ctx, func() ([]byte, error) { return bundle(ctx) }).WithTimeout(changeWithin).WithPolling(pollEvery).
			ShouldNot(Or(BeEmpty(), Equal(before)))
		Eventually(ctx, func() error { return k8s.Create(ctx, tiny("too-many", 1, 200), client.DryRunAll) }).
			WithTimeout(changeWithin).WithPolling(pollEvery).Should(MatchError(ContainSubstring("spec.gpus.expert")))
	})
})
