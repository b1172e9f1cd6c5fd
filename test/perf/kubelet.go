// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/utils/ptr"
)

// undertaker ends pods that are being deleted, as the kubelets of their nodes
// would. KWOK could, but it deletes by name: when it is late, or tries again, it
// takes a pod for its predecessor of the same name, and a rollout never ends.
type undertaker struct {
	client kubernetes.Interface
	queue  workqueue.TypedRateLimitingInterface[podID]
}

// podID names one pod, and not another of the same name.
type podID struct {
	Name string
	UID  types.UID
}

func newUndertaker(c kubernetes.Interface) *undertaker {
	return &undertaker{client: c, queue: workqueue.NewTypedRateLimitingQueue(workqueue.DefaultTypedControllerRateLimiter[podID]())}
}

// run works until ctx ends.
func (u *undertaker) run(ctx context.Context) {
	context.AfterFunc(ctx, u.queue.ShutDown)
	for range creators {
		go func() {
			for u.next(ctx) {
			}
		}()
	}
}

// end ends a pod soon.
func (u *undertaker) end(pod *corev1.Pod) { u.queue.Add(podID{pod.Name, pod.UID}) }

// next ends one pod. It returns false when there will be no more.
func (u *undertaker) next(ctx context.Context) bool {
	pod, down := u.queue.Get()
	if down {
		return false
	}
	defer u.queue.Done(pod)
	err := u.client.CoreV1().Pods(namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{
		GracePeriodSeconds: ptr.To[int64](0), Preconditions: &metav1.Preconditions{UID: &pod.UID},
	})
	// A conflict says that the name belongs to another pod by now.
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		u.queue.AddRateLimited(pod)
		return true
	}
	u.queue.Forget(pod)
	return true
}
