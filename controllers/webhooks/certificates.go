// SPDX-License-Identifier: Apache-2.0

package webhooks

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"reflect"
	"sync/atomic"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	admissionac "k8s.io/client-go/applyconfigurations/admissionregistration/v1"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/findep/findep-operator/api/v1alpha1"
	"github.com/findep/findep-operator/controllers/certs"
	"github.com/findep/findep-operator/runtime/identity"
)

// FieldOwner owns the caBundle of the webhooks and nothing else of their
// configuration, so that whoever installs it may do so again.
const FieldOwner = client.FieldOwner("findep-operator-webhook")

// Keys of the Secret beside those of the authority.
const (
	serverCert = "server.crt"
	serverKey  = "server.key"
)

// recheck bounds the time until the certificates are looked at again; watches
// tell of changes before.
const recheck = 12 * time.Hour

// race is how soon a pass is repeated that lost against another manager.
const race = time.Second

// Certificates makes and rotates the certificate that the webhooks serve with,
// and tells the API server whom to trust. Every manager runs it, leader or not:
// all of them serve. What they agree on is in one Secret.
//
// It serves from memory, so a new certificate is in use at once; a mounted
// Secret would follow within minutes, and at first not exist.
type Certificates struct {
	// Client writes, Reader reads.
	Client client.Client
	Reader client.Reader
	Clock  clock.PassiveClock
	// Secret holds authority and certificate.
	Secret types.NamespacedName
	// Configuration is the name of the ValidatingWebhookConfiguration.
	Configuration string
	// Names are the DNS names and addresses that the webhooks are reached by.
	Names []string

	current atomic.Pointer[tls.Certificate]
}

// ServiceNames are the names of a Service that the API server may use.
func ServiceNames(namespace, service string) []string {
	return []string{fmt.Sprintf("%s.%s.svc", service, namespace), fmt.Sprintf("%s.%s.svc.cluster.local", service, namespace)}
}

var errNoCertificate = errors.New("there is no certificate for the webhooks yet")

// GetCertificate is for tls.Config.
func (c *Certificates) GetCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	if own := c.current.Load(); own != nil {
		return own, nil
	}
	return nil, errNoCertificate
}

// Ready is a healthz.Checker: a manager that has no certificate must not get
// requests.
func (c *Certificates) Ready(*http.Request) error {
	_, err := c.GetCertificate(nil)
	return err
}

// Reconcile brings Secret, configuration and what is served up to date, in this
// order: an authority is stored before it is trusted, and trusted before a
// certificate of its is served.
func (c *Certificates) Reconcile(ctx context.Context, _ ctrl.Request) (ctrl.Result, error) {
	data, after, err := c.reconcileSecret(ctx)
	if apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) {
		return ctrl.Result{RequeueAfter: race}, nil
	}
	if err != nil {
		return ctrl.Result{}, fmt.Errorf("the Secret %s: %w", c.Secret, err)
	}
	if err := c.reconcileBundle(ctx, data[identity.CAFile]); err != nil {
		return ctrl.Result{}, fmt.Errorf("the ValidatingWebhookConfiguration %s: %w", c.Configuration, err)
	}
	pair, err := tls.X509KeyPair(data[identity.CertFile], data[identity.KeyFile])
	if err != nil {
		return ctrl.Result{}, fmt.Errorf("the Secret %s: %w", c.Secret, err)
	}
	c.current.Store(&pair)
	return ctrl.Result{RequeueAfter: after}, nil
}

// reconcileSecret returns the certificate and when to look at it again.
func (c *Certificates) reconcileSecret(ctx context.Context) (leaf map[string][]byte, after time.Duration, err error) {
	var secret corev1.Secret
	err = c.Reader.Get(ctx, c.Secret, &secret)
	if err != nil && !apierrors.IsNotFound(err) {
		return nil, 0, err
	}
	absent := err != nil
	now := c.Clock.Now()
	authority, err := certs.Next(secret.Data, c.Secret.String(), now)
	if err != nil {
		return nil, 0, err
	}
	known := map[string][]byte{identity.CertFile: secret.Data[serverCert], identity.KeyFile: secret.Data[serverKey]}
	if _, err := tls.X509KeyPair(known[identity.CertFile], known[identity.KeyFile]); err != nil {
		known = nil
	}
	leaf, err = authority.Leaf(known, fmt.Sprintf("findep://%s/%s", c.Secret.Namespace, c.Secret.Name), c.Names, "webhook", now)
	if err != nil {
		return nil, 0, err
	}
	wanted := maps.Clone(authority.Data)
	wanted[serverCert], wanted[serverKey] = leaf[identity.CertFile], leaf[identity.KeyFile]
	after, err = c.next(authority, leaf, now)
	if err != nil || !absent && reflect.DeepEqual(secret.Data, wanted) {
		return leaf, after, err
	}
	secret.Data = wanted
	if !absent {
		return leaf, after, c.Client.Update(ctx, &secret)
	}
	secret.ObjectMeta = metav1.ObjectMeta{
		Namespace: c.Secret.Namespace, Name: c.Secret.Name,
		Labels: map[string]string{v1alpha1.LabelComponent: v1alpha1.ComponentManager},
	}
	return leaf, after, c.Client.Create(ctx, &secret)
}

// next is when the next step of a rotation is due.
func (c *Certificates) next(a *certs.Authority, leaf map[string][]byte, now time.Time) (time.Duration, error) {
	own, err := identity.ParseCertificate(leaf[identity.CertFile])
	if err != nil {
		return 0, err
	}
	if a.Pending() {
		return certs.TrustDelay, nil
	}
	due := own.NotBefore.Add(own.NotAfter.Sub(own.NotBefore) / 3 * 2).Sub(now)
	return max(time.Minute, min(due, recheck)), nil
}

// reconcileBundle applies the authorities to every webhook of the configuration.
// Where there is none, there is nobody to tell; a watch tells when there is.
func (c *Certificates) reconcileBundle(ctx context.Context, bundle []byte) error {
	var live admissionv1.ValidatingWebhookConfiguration
	if err := c.Reader.Get(ctx, types.NamespacedName{Name: c.Configuration}, &live); err != nil {
		return client.IgnoreNotFound(err)
	}
	wanted := admissionac.ValidatingWebhookConfiguration(c.Configuration).WithUID(live.UID)
	same := true
	for i := range live.Webhooks {
		w := &live.Webhooks[i]
		same = same && bytes.Equal(w.ClientConfig.CABundle, bundle)
		wanted.WithWebhooks(admissionac.ValidatingWebhook().WithName(w.Name).
			WithClientConfig(admissionac.WebhookClientConfig().WithCABundle(bundle...)))
	}
	if same {
		return nil
	}
	return c.Client.Apply(ctx, wanted, FieldOwner, client.ForceOwnership)
}
