// SPDX-License-Identifier: Apache-2.0

package moedeployment

import (
	"errors"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/findep/findep-operator/controllers/resolve"
)

// fakeDiscovery serves resources by group version.
type fakeDiscovery struct {
	discovery.ServerResourcesInterface
	served map[string]string
	err    error
	asked  int
}

// ServerResourcesForGroupVersion implements discovery.ServerResourcesInterface.
func (f *fakeDiscovery) ServerResourcesForGroupVersion(version string) (*metav1.APIResourceList, error) {
	f.asked++
	if f.err != nil {
		return nil, f.err
	}
	name, ok := f.served[version]
	if !ok {
		return nil, apierrors.NewNotFound(schema.GroupResource{}, version)
	}
	return &metav1.APIResourceList{APIResources: []metav1.APIResource{{Name: name, Verbs: metav1.Verbs{"create"}}}}, nil
}

func TestDetectorFollowsWhatIsServed(t *testing.T) {
	clock := clocktesting.NewFakePassiveClock(start)
	f := &fakeDiscovery{err: errors.New("refused")}
	d := &DiscoveryDetector{Discovery: f, Clock: clock}
	if _, err := d.Served(); err == nil {
		t.Error("nothing is known, and yet there is an answer")
	}
	expect := func(want Served) {
		t.Helper()
		if got, err := d.Served(); err != nil || got != want {
			t.Errorf("got %+v, %v; want %+v", got, err, want)
		}
	}
	f.err = nil
	expect(Served{})
	f.served = map[string]string{
		"scheduling.k8s.io/v1beta1": "podgroups", "scheduling.k8s.io/v1alpha3": "workloads",
		"scheduling.volcano.sh/v1beta1": "podgroups", "kueue.x-k8s.io/v1beta1": "localqueues",
	}
	asked := f.asked
	expect(Served{})
	if f.asked != asked {
		t.Error("asked again within the minute")
	}
	all := Served{PodGroup: true, Backends: resolve.Backends{Volcano: true, Kueue: true}}
	clock.SetTime(clock.Now().Add(time.Minute))
	expect(all)
	f.err = errors.New("refused")
	clock.SetTime(clock.Now().Add(time.Minute))
	expect(all)
	f.err = nil
	delete(f.served, "scheduling.volcano.sh/v1beta1")
	f.served["scheduling.k8s.io/v1alpha3"] = "compositepodgroups"
	clock.SetTime(clock.Now().Add(time.Minute))
	expect(Served{PodGroup: true, Backends: resolve.Backends{Topology: true, Kueue: true}})
}

func TestRanges(t *testing.T) {
	for want, numbers := range map[string][]int{"": nil, "3": {3}, "0-2,5": {0, 1, 2, 5}, "0,2,4-5": {0, 2, 4, 5}} {
		if got := ranges(numbers); got != want {
			t.Errorf("got %q for %v, want %q", got, numbers, want)
		}
	}
}
