// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/tls"
	"fmt"

	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/webhook"

	"github.com/findep/findep-operator/controllers/moedeployment"
	"github.com/findep/findep-operator/controllers/resolve"
	"github.com/findep/findep-operator/controllers/webhooks"
)

// The ways in which the webhooks get their certificate.
const (
	webhooksSelfManaged = "SelfManaged"
	webhooksFromFiles   = "Files"
	webhooksDisabled    = "Disabled"
)

// webhookOptions are the flags of the webhooks.
type webhookOptions struct {
	mode          string
	port          int
	certDir       string
	namespace     string
	service       string
	secret        string
	configuration string
}

func (w *webhookOptions) add(f *pflag.FlagSet) {
	f.StringVar(&w.mode, "webhook-mode", webhooksDisabled, "SelfManaged: serve admission webhooks with a certificate that the managers make and rotate; Files: with tls.crt and tls.key of --webhook-cert-dir; Disabled")
	f.IntVar(&w.port, "webhook-port", 9443, "port of the webhooks")
	f.StringVar(&w.certDir, "webhook-cert-dir", "", "with Files: directory of tls.crt and tls.key, read anew when they change")
	f.StringVar(&w.namespace, "webhook-namespace", "", "with SelfManaged: namespace of this manager, the webhooks' Service and their Secret")
	f.StringVar(&w.service, "webhook-service", "", "with SelfManaged: the Service that the API server reaches the webhooks by")
	f.StringVar(&w.secret, "webhook-secret", "", "with SelfManaged: the Secret for authority and certificate; it is made")
	f.StringVar(&w.configuration, "webhook-configuration", "", "with SelfManaged: the ValidatingWebhookConfiguration that is told the authority")
}

func (w *webhookOptions) validate() error {
	switch w.mode {
	case webhooksDisabled:
		return nil
	case webhooksFromFiles:
		if w.certDir == "" {
			return fmt.Errorf("--webhook-mode is Files; --webhook-cert-dir must say where")
		}
	case webhooksSelfManaged:
		for flag, value := range map[string]string{
			"namespace": w.namespace, "service": w.service, "secret": w.secret, "configuration": w.configuration,
		} {
			if value == "" {
				return fmt.Errorf("--webhook-mode is SelfManaged; --webhook-%s is needed", flag)
			}
		}
	default:
		return fmt.Errorf("--webhook-mode is %q; use SelfManaged, Files or Disabled", w.mode)
	}
	if w.port < 1 || w.port > 65535 {
		return fmt.Errorf("--webhook-port is %d; use 1 to 65535", w.port)
	}
	return nil
}

// server is what the manager listens with; certificates are nil unless it makes
// them itself.
func (w *webhookOptions) server() (webhook.Server, *webhooks.Certificates) {
	options := webhook.Options{Port: w.port, CertDir: w.certDir, TLSOpts: []func(*tls.Config){
		func(c *tls.Config) { c.MinVersion = tls.VersionTLS13 },
	}}
	if w.mode != webhooksSelfManaged {
		return webhook.NewServer(options), nil
	}
	own := &webhooks.Certificates{
		Clock:  clock.RealClock{},
		Secret: types.NamespacedName{Namespace: w.namespace, Name: w.secret}, Configuration: w.configuration,
		Names: webhooks.ServiceNames(w.namespace, w.service),
	}
	options.TLSOpts = append(options.TLSOpts, func(c *tls.Config) { c.GetCertificate = own.GetCertificate })
	return webhook.NewServer(options), own
}

// registerWebhooks serves the webhooks, and makes the manager ready only when
// they can be reached.
func registerWebhooks(mgr ctrl.Manager, o *options, own *webhooks.Certificates, decide func(*resolve.Facts)) error {
	if o.webhooks.mode == webhooksDisabled {
		return nil
	}
	facts := moedeployment.FactReader{Cached: mgr.GetClient(), Direct: mgr.GetAPIReader(), ClusterReads: o.clusterReads}
	if err := webhooks.Setup(mgr, &webhooks.Validator{Facts: facts, Decide: decide}); err != nil {
		return fmt.Errorf("set up the webhooks: %w", err)
	}
	if own == nil {
		return mgr.AddReadyzCheck("webhooks", mgr.GetWebhookServer().StartedChecker())
	}
	if err := own.SetupWithManager(mgr); err != nil {
		return fmt.Errorf("set up the webhooks' certificates: %w", err)
	}
	return mgr.AddReadyzCheck("webhooks", own.Ready)
}
