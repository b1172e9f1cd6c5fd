// SPDX-License-Identifier: Apache-2.0

package moedeployment

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/event"

	"github.com/findep/findep-operator/api/v1alpha1"
	"github.com/findep/findep-operator/controllers/render"
	"github.com/findep/findep-operator/test/wrappers"
)

func TestAPodIsExpectedUntilItIsSeen(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	pod := podWith("1", "")
	pod.Namespace, pod.Name = "ns", "d-0-ag-0"
	key := types.NamespacedName{Namespace: "ns", Name: "d-0-ag-0"}
	for name, tc := range map[string]struct {
		happens func(*expected)
		want    time.Duration
	}{
		"nothing": {nil, expectAfter - time.Second},
		"it is in the cache": {func(e *expected) {
			e.seeing().Create(t.Context(), event.CreateEvent{Object: pod}, nil)
		}, 0},
		"it took the place of another": {func(e *expected) {
			e.seeing().Update(t.Context(), event.UpdateEvent{ObjectOld: podWith("0", ""), ObjectNew: pod}, nil)
		}, 0},
		"it is gone already": {func(e *expected) {
			e.seeing().Delete(t.Context(), event.DeleteEvent{Object: pod}, nil)
		}, 0},
		"it could not be made": {func(e *expected) { e.remove(key) }, 0},
		"another one is seen": {func(e *expected) {
			e.seeing().Create(t.Context(), event.CreateEvent{Object: podWith("2", "")}, nil)
		}, expectAfter - time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			e := &expected{}
			e.add(key, instanceName{}, now)
			if tc.happens != nil {
				tc.happens(e)
			}
			if got := e.wait(key, now.Add(time.Second)); got != tc.want {
				t.Errorf("it is expected for %v, want %v", got, tc.want)
			}
		})
	}
}

func TestAPodIsNotExpectedForEver(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	key := types.NamespacedName{Namespace: "ns", Name: "p"}
	e := &expected{}
	e.add(key, instanceName{}, now)
	if got := e.wait(key, now.Add(expectAfter)); got != 0 || len(e.made) != 0 {
		t.Errorf("it is expected for another %v, and %d are remembered", got, len(e.made))
	}
	var none *expected
	none.add(key, instanceName{}, now)
	none.remove(key)
	if got := none.wait(key, now); got != 0 {
		t.Errorf("nobody expects it, and yet for %v", got)
	}
}

// TestAPassWaitsForThePodsOfTheLast: none of an instance's pods is made while one
// that was made is not in the cache.
func TestAPassWaitsForThePodsOfTheLast(t *testing.T) {
	s := newStage(t, wrappers.MoEDeployment("d")).scope
	i := s.byIndex(0)
	in := s.input(i)
	r := &Reconciler{expected: &expected{}}
	name := func(rank int) string { return render.PodName("d", 0, in.Attention, rank) }
	i.pods[name(0)] = podWith("0", "n")
	r.expected.add(types.NamespacedName{Namespace: s.owner.Namespace, Name: name(0)}, nameOf(s, i), s.now)
	var all []int
	for rank := 1; rank < in.Attention+in.Expert; rank++ {
		all = append(all, rank)
	}
	ranks, wait := r.missing(s, i, in)
	if diff := cmp.Diff(all, ranks); diff != "" || wait != 0 {
		t.Errorf("it waits %v although all expected pods are there; missing: %s", wait, diff)
	}
	r.expected.add(types.NamespacedName{Namespace: s.owner.Namespace, Name: name(1)}, nameOf(s, i), s.now)
	if _, wait := r.missing(s, i, in); wait != expectAfter {
		t.Errorf("it waits %v for a pod that was just made, want %v", wait, expectAfter)
	}
}

// TestAnInstanceIsNotMadeTwice: as long as the cache shows the Secret of an
// instance and none of its pods, no other instance is made in its stead.
func TestAnInstanceIsNotMadeTwice(t *testing.T) {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientgoscheme.AddToScheme, v1alpha1.AddToScheme} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	d := wrappers.MoEDeployment("d").UID("uid-1").Obj()
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{
		Name: render.SecretName("d", 0), Namespace: d.Namespace, Labels: render.DeploymentLabels("d"),
		OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(d, v1alpha1.GroupVersion.WithKind("MoEDeployment"))},
	}}
	secret.Labels[v1alpha1.LabelInstance] = "0"
	c := fake.NewClientBuilder().WithScheme(scheme).WithObjects(d, secret).Build()
	first := instanceName{client.ObjectKeyFromObject(d), "0"}
	other := instanceName{types.NamespacedName{Namespace: d.Namespace, Name: "other"}, "0"}
	for name, tc := range map[string]struct {
		of   instanceName
		made time.Time
		want int32
	}{
		"its pods were made":                {first, start, 0},
		"those of another deployment were":  {other, start, 1},
		"they should have been seen by now": {first, start.Add(-expectAfter), 1},
	} {
		t.Run(name, func(t *testing.T) {
			r := &Reconciler{Client: c, Reader: c, expected: &expected{}}
			r.expected.add(types.NamespacedName{Namespace: d.Namespace, Name: "p"}, tc.of, tc.made)
			s := newScope(d.DeepCopy(), start)
			if err := r.gather(t.Context(), s); err != nil {
				t.Fatal(err)
			}
			var wanted []int32
			for _, i := range s.instances {
				if i.wanted {
					wanted = append(wanted, i.index)
				}
			}
			if diff := cmp.Diff([]int32{tc.want}, wanted); diff != "" {
				t.Error(diff)
			}
		})
	}
}
