// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	k8stesting "k8s.io/client-go/testing"
)

func TestOnlyThePodThatIsBeingDeletedIsEnded(t *testing.T) {
	pods := schema.GroupResource{Resource: "pods"}
	cases := map[string]struct {
		deleted bool
		answers []error
		want    []podID
	}{
		"a pod that runs":                {false, nil, nil},
		"a pod on its way out":           {true, []error{nil}, []podID{{"p", "1"}}},
		"a pod that is gone":             {true, []error{apierrors.NewNotFound(pods, "p")}, []podID{{"p", "1"}}},
		"a pod with a successor":         {true, []error{apierrors.NewConflict(pods, "p", errors.New("UID"))}, []podID{{"p", "1"}}},
		"an API server that is too busy": {true, []error{apierrors.NewTooManyRequests("later", 0), nil}, []podID{{"p", "1"}, {"p", "1"}}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			c := fake.NewClientset()
			var asked []podID
			c.PrependReactor("delete", "pods", func(a k8stesting.Action) (bool, runtime.Object, error) {
				d := a.(k8stesting.DeleteActionImpl)
				if grace := d.DeleteOptions.GracePeriodSeconds; grace == nil || *grace != 0 {
					t.Errorf("grace period %v, want 0", grace)
				}
				asked = append(asked, podID{d.Name, *d.DeleteOptions.Preconditions.UID})
				return true, nil, tc.answers[len(asked)-1]
			})
			u := newUndertaker(c)
			w := &podWatch{pods: map[types.UID]podState{}, undertaker: u}
			pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", UID: "1"}}
			if tc.deleted {
				pod.DeletionTimestamp = &metav1.Time{}
			}
			for range tc.want {
				// The deletion itself changes the pod once more, and the watch tells.
				for range 2 {
					if err := w.put(pod); err != nil {
						t.Fatal(err)
					}
				}
				u.next(context.Background())
			}
			if err := w.put(pod); err != nil {
				t.Fatal(err)
			}
			if n := u.queue.NumRequeues(podID{"p", "1"}); n > 0 {
				t.Errorf("it is tried again %d times", n)
			}
			u.queue.ShutDown()
			if more := u.next(context.Background()); more {
				t.Error("there is more to do")
			}
			if diff := cmp.Diff(tc.want, asked); diff != "" {
				t.Error(diff)
			}
		})
	}
}
