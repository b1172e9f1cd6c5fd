// SPDX-License-Identifier: Apache-2.0

package webhooks

import (
	"context"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"
)

// everywhere runs something in every manager, be it the leader or not.
type everywhere struct{ cache.Cache }

// NeedLeaderElection implements manager.LeaderElectionRunnable.
func (everywhere) NeedLeaderElection() bool { return false }

// SetupWithManager watches the Secret and the configuration. It has a cache of
// its own with these two objects, because the manager's holds neither.
func (c *Certificates) SetupWithManager(mgr ctrl.Manager) error {
	own, err := cache.New(mgr.GetConfig(), cache.Options{
		Scheme: mgr.GetScheme(), Mapper: mgr.GetRESTMapper(),
		ByObject: map[client.Object]cache.ByObject{
			&corev1.Secret{}: {Namespaces: map[string]cache.Config{
				c.Secret.Namespace: {FieldSelector: fields.OneTermEqualSelector("metadata.name", c.Secret.Name)},
			}},
			&admissionv1.ValidatingWebhookConfiguration{}: {Field: fields.OneTermEqualSelector("metadata.name", c.Configuration)},
		},
	})
	if err != nil {
		return err
	}
	c.Client, c.Reader = mgr.GetClient(), own
	if err := mgr.Add(everywhere{own}); err != nil {
		return err
	}
	request := reconcile.Request{NamespacedName: c.Secret}
	return ctrl.NewControllerManagedBy(mgr).Named("webhook-certificates").
		WatchesRawSource(source.Kind(own, &corev1.Secret{}, handler.TypedEnqueueRequestsFromMapFunc(
			func(context.Context, *corev1.Secret) []reconcile.Request { return []reconcile.Request{request} }))).
		WatchesRawSource(source.Kind(own, &admissionv1.ValidatingWebhookConfiguration{}, handler.TypedEnqueueRequestsFromMapFunc(
			func(context.Context, *admissionv1.ValidatingWebhookConfiguration) []reconcile.Request {
				return []reconcile.Request{request}
			}))).
		// The first pass, when neither exists.
		WatchesRawSource(source.Func(func(_ context.Context, queue workqueue.TypedRateLimitingInterface[reconcile.Request]) error {
			queue.Add(request)
			return nil
		})).
		WithOptions(controller.Options{NeedLeaderElection: ptr.To(false)}).
		Complete(c)
}
