// SPDX-License-Identifier: Apache-2.0

package moedeployment

import (
	"fmt"
	"slices"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/discovery"
	"k8s.io/utils/clock"

	"github.com/findep/findep-operator/controllers/resolve"
)

// Served is what the API server serves that schedules instances all or none.
type Served struct {
	// PodGroup is scheduling.k8s.io/v1beta1, which Kubernetes itself schedules.
	PodGroup bool
	resolve.Backends
}

// Detector asks the API server what it serves.
type Detector interface {
	Served() (Served, error)
}

// detectAgain is how old an answer of the API server may be. Backends come and
// go with CustomResourceDefinitions, which the operator has no right to watch.
const detectAgain = time.Minute

// DiscoveryDetector asks for the list of API groups, and for the resources of
// those that matter, at most once a minute.
type DiscoveryDetector struct {
	Discovery discovery.ServerResourcesInterface
	Clock     clock.PassiveClock

	mu    sync.Mutex
	asked time.Time
	last  Served
}

// Served implements Detector. What was known stays known while the API server
// does not answer.
func (d *DiscoveryDetector) Served() (Served, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := d.Clock.Now()
	if !d.asked.IsZero() && now.Sub(d.asked) < detectAgain {
		return d.last, nil
	}
	served, err := d.ask()
	if err != nil && d.asked.IsZero() {
		return Served{}, err
	}
	if err == nil {
		d.last = served
	}
	d.asked = now
	return d.last, nil
}

func (d *DiscoveryDetector) ask() (s Served, err error) {
	for _, q := range []struct {
		into     *bool
		resource string
		versions []string
	}{
		{&s.PodGroup, "podgroups", []string{"scheduling.k8s.io/v1beta1"}},
		{&s.Topology, "compositepodgroups", []string{"scheduling.k8s.io/v1alpha3"}},
		{&s.Volcano, "podgroups", []string{"scheduling.volcano.sh/v1beta1"}},
		{&s.Kueue, "localqueues", []string{"kueue.x-k8s.io/v1beta2", "kueue.x-k8s.io/v1beta1"}},
	} {
		for _, version := range q.versions {
			found, err := d.serves(version, q.resource)
			if err != nil {
				return s, err
			}
			*q.into = *q.into || found
		}
	}
	return s, nil
}

func (d *DiscoveryDetector) serves(version, resource string) (bool, error) {
	list, err := d.Discovery.ServerResourcesForGroupVersion(version)
	if apierrors.IsNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("ask whether %s is served: %w", version, err)
	}
	for _, r := range list.APIResources {
		if r.Name == resource {
			return slices.Contains(r.Verbs, "create"), nil
		}
	}
	return false, nil
}

// gatherBackends finds out what schedules instances.
func (r *Reconciler) gatherBackends(s *scope) error {
	served := Served{PodGroup: r.GangServed}
	if r.Backends != nil {
		var err error
		if served, err = r.Backends.Served(); err != nil {
			return err
		}
	}
	s.facts.GangServed, s.facts.Backends = served.PodGroup, served.Backends
	return nil
}
