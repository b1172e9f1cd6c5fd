// SPDX-License-Identifier: Apache-2.0

package moedeployment

import (
	"context"
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/event"
)

func TestBacklogHasRoomAgain(t *testing.T) {
	begin := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	cases := map[string]struct {
		change func(*backlog)
		later  time.Duration
		want   bool
	}{
		"no pod has a node": {func(*backlog) {}, time.Second, true},
		"a pod was given a node": {func(b *backlog) {
			b.placing().Update(context.Background(), event.UpdateEvent{ObjectNew: podWith("7", "n")}, nil)
		}, 0, false},
		"a pod changed otherwise": {func(b *backlog) {
			b.placing().Update(context.Background(), event.UpdateEvent{ObjectNew: podWith("7", "")}, nil)
		}, 0, true},
		"a pod is gone": {func(b *backlog) {
			b.placing().Delete(context.Background(), event.DeleteEvent{Object: podWith("7", "")}, nil)
		}, 0, false},
		"pods find no place": {func(*backlog) {}, backlogPatience, false},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			b := &backlog{}
			for n := range backlogLimit {
				if b.full(begin) {
					t.Fatalf("full with %d pods", n)
				}
				b.add(types.UID(fmt.Sprint(n)), begin)
			}
			tc.change(b)
			if got := b.full(begin.Add(tc.later)); got != tc.want {
				t.Errorf("full is %v, want %v", got, tc.want)
			}
		})
	}
}

func TestBacklogIsLeftAtOnceWhenThereIsRoom(t *testing.T) {
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	fixed := func() time.Time { return time.Unix(0, 0) }
	var none *backlog
	none.add("1", fixed())
	none.wait(ended, fixed)
	b := &backlog{}
	for n := range backlogLimit {
		b.add(types.UID(fmt.Sprint(n)), fixed())
	}
	// It never has room by this clock; only the context ends the wait.
	b.wait(ended, fixed)
}

func podWith(uid types.UID, node string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: uid}, Spec: corev1.PodSpec{NodeName: node}}
}
