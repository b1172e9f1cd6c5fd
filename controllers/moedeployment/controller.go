// SPDX-License-Identifier: Apache-2.0

package moedeployment

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.opentelemetry.io/otel/trace"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/tools/events"
	"k8s.io/utils/clock"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/findep/findep-operator/api/v1alpha1"
	"github.com/findep/findep-operator/controllers/resolve"
)

// FieldOwner owns the fields that the operator applies to children.
const FieldOwner = client.FieldOwner("findep-operator")

// configOwner owns the config-hash annotation of running pods. It is apart from
// FieldOwner because an apply with that one would have to repeat the whole pod.
const configOwner = client.FieldOwner("findep-operator-config")

// pollInterval is how often a running leader is read, see pollOf.
const pollInterval = 5 * time.Second

// conflictRetry is how soon a pass that read an old object is repeated.
const conflictRetry = 200 * time.Millisecond

// Reconciler reconciles MoEDeployments.
type Reconciler struct {
	// Client reads through the cache, and writes.
	Client client.Client
	// Reader reads past the cache: objects of the user that are not worth a
	// watch on all objects of their kind.
	Reader client.Reader
	// Recorder records events.
	Recorder events.EventRecorder
	// Clock tells the time.
	Clock clock.PassiveClock
	// Observer reads leaders.
	Observer Observer
	// Images are the defaults for instances that are made from now on.
	Images resolve.Images
	// GangServed says that the API server served PodGroups at the start; they are
	// watched then.
	GangServed bool
	// Backends says what it serves now; nil means PodGroups, if GangServed, and
	// nothing else.
	Backends Detector
	// Tracer records a span of each pass and of each of its phases; nil records
	// none.
	Tracer trace.Tracer
	// ClusterReads says that GPUProfiles and nodes may be read. Without it only
	// groups.*.profileRef with a preset, and the cpu preset, are known.
	ClusterReads bool
	// DisruptionBudgets says whether deployments with more than one instance get
	// one, NetworkPolicies whether namespaces with deployments do.
	DisruptionBudgets, NetworkPolicies bool
	// backlog holds back new instances while pods wait for the scheduler. Set by
	// SetupWithManager; without it nothing is held back.
	backlog *backlog
	// turns hold back rollouts while others owe pods. Set by SetupWithManager;
	// without it nothing is held back.
	turns *turns
	// expected are the pods that were made and are not in the cache yet. Set by
	// SetupWithManager, as the cache tells of them; without it none are expected.
	expected *expected
	// cluster and totals keep what passes have in common. Set by
	// SetupWithManager; without them everything is read and made anew.
	cluster *cluster
	totals  *totalsKept
	// indexed says that the cache finds children by their owner. Set by
	// SetupWithManager.
	indexed bool
	// places says which domain has room for an instance. Set by SetupWithManager;
	// without it pods only prefer to be near each other.
	places *places
}

// +kubebuilder:rbac:groups=findep.dev,resources=moedeployments,verbs=get;list;watch
// +kubebuilder:rbac:groups=findep.dev,resources=moedeployments/status,verbs=patch
// +kubebuilder:rbac:groups=findep.dev,resources=moedeployments/finalizers,verbs=update
// +kubebuilder:rbac:groups="",resources=pods;secrets;services,verbs=get;list;watch;create;patch;delete
// +kubebuilder:rbac:groups="",resources=configmaps,verbs=get
// +kubebuilder:rbac:groups=scheduling.k8s.io,resources=podgroups,verbs=get;list;watch;create;patch;delete
// +kubebuilder:rbac:groups=apps,resources=controllerrevisions,verbs=get;list;watch;create;patch;delete
// +kubebuilder:rbac:groups=policy,resources=poddisruptionbudgets,verbs=get;list;watch;create;patch;delete
// +kubebuilder:rbac:groups=networking.k8s.io,resources=networkpolicies,verbs=get;list;watch;create;patch;delete
// +kubebuilder:rbac:groups=events.k8s.io,resources=events,verbs=create;patch
// +kubebuilder:rbac:groups=findep.dev,resources=gpuprofiles,verbs=get;list;watch,roleName=manager-cluster-reader
// +kubebuilder:rbac:groups="",resources=nodes,verbs=get;list;watch,roleName=manager-cluster-reader

// phase is one step of a pass. It reads and completes the scope.
type phase func(context.Context, *scope) error

// Reconcile brings one MoEDeployment closer to its spec.
func (r *Reconciler) Reconcile(ctx context.Context, req ctrl.Request) (result ctrl.Result, err error) {
	ctx, end := r.span(ctx, "reconcile", passAttributes(req.NamespacedName)...)
	defer func() { end(err) }()
	var d v1alpha1.MoEDeployment
	if err := r.Client.Get(ctx, req.NamespacedName, &d); err != nil {
		if apierrors.IsNotFound(err) {
			withdraw(req.NamespacedName)
			return ctrl.Result{}, r.reconcileNamespace(ctx, req.Namespace)
		}
		return ctrl.Result{}, err
	}
	s := newScope(&d, r.Clock.Now())
	// Whatever happens below, the status says how far it got.
	defer func() {
		s.describe(ctx)
		err = errors.Join(err, r.traced(ctx, s, "status", r.finish))
		result = ctrl.Result{RequeueAfter: s.requeueAfter, Priority: ptr.To(priorityOfKnown)}
		if err != nil {
			result = ctrl.Result{}
		}
	}()
	// Without knowing what exists nothing can be decided.
	if err := r.traced(ctx, s, "gather", r.gather); err != nil {
		return ctrl.Result{}, s.fail("read the children", err)
	}
	if !d.DeletionTimestamp.IsZero() {
		// The children are owned and go by garbage collection.
		return ctrl.Result{}, nil
	}
	_ = r.traced(ctx, s, "decide", func(context.Context, *scope) error {
		s.resolved = resolve.Resolve(&d, s.facts)
		s.considerRollout()
		s.considerRecovery()
		s.planInstances()
		r.considerTurns(s)
		return nil
	})
	// From here on the phases are independent enough that one that fails must
	// not keep the others from their work.
	var errs []error
	for _, p := range []struct {
		name string
		run  phase
	}{
		{"history", r.reconcileRevisions},
		{"secrets", r.reconcileSecrets},
		{"services", r.reconcileServices},
		{"protection", r.reconcileProtection},
		{"engine", r.reconcileEngine},
		{"observe", r.observe},
		{"nodes", r.releaseLostPods},
		{"instances", r.reconcileInstances},
		{"nudge", r.nudge},
	} {
		begin := r.Clock.Now()
		err := r.traced(ctx, s, p.name, p.run)
		timePhase(p.name, r.Clock.Since(begin), err)
		if err != nil {
			errs = append(errs, s.fail(p.name, err))
		}
	}
	return ctrl.Result{}, errors.Join(errs...)
}

// finish computes the status, writes it if it changed, and records events for
// what changed, in this order: an event must not tell of a status that was
// never written. One that tells of mere progress may wait, see statusWait.
func (r *Reconciler) finish(ctx context.Context, s *scope) error {
	s.computeStatus()
	publish(s.deployment)
	if !s.statusChanged() {
		s.recordEvents(r.Recorder)
		return nil
	}
	if wait := s.statusWait(r.totals.get(ctx, r.Client, r.Clock.Now()).comingUp); wait > 0 {
		s.requeue(wait)
		return nil
	}
	// The lock makes a pass that read an old object, from a cache that lags, write
	// nothing and tell nothing; it is repeated when the cache has caught up.
	base := client.MergeFromWithOptions(s.original, client.MergeFromWithOptimisticLock{})
	switch err := r.Client.Status().Patch(ctx, s.deployment, base); {
	case apierrors.IsNotFound(err):
		return nil
	case apierrors.IsConflict(err):
		s.requeue(conflictRetry)
		return nil
	case err != nil:
		return fmt.Errorf("write the status: %w", err)
	}
	s.logStatus(ctx)
	s.recordEvents(r.Recorder)
	return nil
}
