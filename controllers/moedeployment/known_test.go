// SPDX-License-Identifier: Apache-2.0

package moedeployment

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"

	"github.com/findep/findep-operator/api/v1alpha1"
	"github.com/findep/findep-operator/test/wrappers"
)

func TestClusterFactsAreReadOnceUntilSomethingChanges(t *testing.T) {
	reads := 0
	read := func() (*clusterFacts, error) {
		reads++
		return &clusterFacts{nodes: map[string]*corev1.Node{}}, nil
	}
	c := &cluster{}
	get := func(read func() (*clusterFacts, error)) {
		t.Helper()
		if _, err := c.get(read); err != nil {
			t.Fatal(err)
		}
	}
	get(read)
	get(read)
	if reads != 1 {
		t.Errorf("two passes read %d times, want once", reads)
	}
	var sawIt bool
	watch := c.watched(handler.Funcs{UpdateFunc: func(context.Context, event.UpdateEvent, queue) { sawIt = c.facts == nil }})
	watch.Update(t.Context(), event.UpdateEvent{}, nil)
	if !sawIt {
		t.Error("the passes that a change brings about may see the facts of before")
	}
	get(read)
	if reads != 2 {
		t.Errorf("after a change it was read %d times, want twice", reads)
	}
	c.forget()
	// What was read before a change that comes in between must not be kept.
	get(func() (*clusterFacts, error) {
		c.forget()
		return read()
	})
	get(read)
	if reads != 4 {
		t.Errorf("it was read %d times, want 4", reads)
	}
	c.forget()
	if _, err := c.get(func() (*clusterFacts, error) { return nil, errors.New("no") }); err == nil {
		t.Error("an error is lost")
	}
	get(read)
}

func TestWithoutAManagerClusterFactsAreReadEachTime(t *testing.T) {
	var c *cluster
	reads := 0
	for range 2 {
		if _, err := c.get(func() (*clusterFacts, error) { reads++; return nil, nil }); err != nil {
			t.Fatal(err)
		}
	}
	if reads != 2 {
		t.Errorf("it was read %d times, want twice", reads)
	}
}

func TestChildrenAreFoundByTheirController(t *testing.T) {
	reference := func(kind, version string, controls bool) client.Object {
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{OwnerReferences: []metav1.OwnerReference{
			{Kind: kind, APIVersion: version, Name: "d", Controller: ptr.To(controls)},
		}}}
	}
	ours := v1alpha1.GroupVersion.String()
	for name, tc := range map[string]struct {
		object client.Object
		want   []string
	}{
		"a child":              {reference("MoEDeployment", ours, true), []string{"d"}},
		"merely owned":         {reference("MoEDeployment", ours, false), nil},
		"of another kind":      {reference("Deployment", "apps/v1", true), nil},
		"of another of ours":   {reference("GPUProfile", ours, true), nil},
		"of another API group": {reference("MoEDeployment", "example.com/v1", true), nil},
		"nobody's":             {&corev1.Pod{}, nil},
	} {
		if diff := cmp.Diff(tc.want, controllerOf(tc.object)); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

func TestTotalsAreCountedOnceInASecond(t *testing.T) {
	up := wrappers.MoEDeployment("up").Obj()
	up.Spec.Replicas = ptr.To[int32](3)
	up.Status.Conditions = []metav1.Condition{{Type: v1alpha1.ConditionAvailable, Status: metav1.ConditionTrue}}
	down := wrappers.MoEDeployment("down").Obj()
	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	c := fake.NewClientBuilder().WithScheme(scheme).WithObjects(up, down).Build()
	now := time.Unix(1_700_000_000, 0)
	count := &totalsKept{}
	want := totals{leaders: 4, comingUp: 1}
	if got := count.get(t.Context(), c, now); got != want {
		t.Errorf("counted %+v, want %+v", got, want)
	}
	if err := c.Delete(t.Context(), down); err != nil {
		t.Fatal(err)
	}
	if got := count.get(t.Context(), c, now.Add(totalsAge-1)); got != want {
		t.Errorf("counted %+v anew, want %+v", got, want)
	}
	if got, want := count.get(t.Context(), c, now.Add(totalsAge)), (totals{leaders: 3}); got != want {
		t.Errorf("after a second it is still %+v, want %+v", got, want)
	}
	var none *totalsKept
	if got := none.get(t.Context(), c, now); got != (totals{}) {
		t.Errorf("nobody counted, and it is %+v", got)
	}
}
