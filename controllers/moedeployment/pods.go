// SPDX-License-Identifier: Apache-2.0

package moedeployment

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"

	"github.com/findep/findep-operator/api/v1alpha1"
	"github.com/findep/findep-operator/controllers/render"
)

// shortLife is how long an instance must have lived for the repair of its first
// failure not to be held back.
const shortLife = time.Minute

func revisionOf(pod *corev1.Pod) string { return pod.Labels[v1alpha1.LabelRevision] }

func rankOf(pod *corev1.Pod) int {
	rank, err := strconv.Atoi(pod.Labels[v1alpha1.LabelRank])
	if err != nil {
		return -1
	}
	return rank
}

func terminating(pod *corev1.Pod) bool { return !pod.DeletionTimestamp.IsZero() }

// ended says that the pod will never run again, for example after an eviction.
func ended(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodFailed || pod.Status.Phase == corev1.PodSucceeded
}

func ready(pod *corev1.Pod) bool {
	c := podCondition(pod, corev1.PodReady)
	return c != nil && c.Status == corev1.ConditionTrue && !terminating(pod) && !ended(pod)
}

func scheduled(pod *corev1.Pod) bool { return pod.Spec.NodeName != "" }

func podCondition(pod *corev1.Pod, kind corev1.PodConditionType) *corev1.PodCondition {
	for i := range pod.Status.Conditions {
		if pod.Status.Conditions[i].Type == kind {
			return &pod.Status.Conditions[i]
		}
	}
	return nil
}

// sorted returns pods in rank order.
func sorted(pods map[string]*corev1.Pod) []*corev1.Pod {
	return slices.SortedFunc(maps.Values(pods), func(a, b *corev1.Pod) int {
		return cmp.Or(cmp.Compare(rankOf(a), rankOf(b)), cmp.Compare(a.Name, b.Name))
	})
}

// containerStatuses lists both containers, the sidecar first.
func containerStatuses(pod *corev1.Pod) []corev1.ContainerStatus {
	return append(slices.Clone(pod.Status.InitContainerStatuses), pod.Status.ContainerStatuses...)
}

// blocker is why a container does not start.
type blocker struct {
	reason  string // one of the condition reasons
	message string
}

// blocked says which container of a pod cannot start or keeps exiting; nil if
// none. A container that has not been tried yet is not blocked.
func blocked(pod *corev1.Pod) *blocker {
	for _, c := range containerStatuses(pod) {
		w := c.State.Waiting
		if w == nil {
			continue
		}
		switch w.Reason {
		case "ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName", "ImageInspectError", "RegistryUnavailable":
			return &blocker{v1alpha1.ReasonImagePullFailed, fmt.Sprintf(
				"Pod %s, container %s: an image cannot be pulled (%s); it uses %s.%s",
				pod.Name, c.Name, w.Reason, imagesOf(pod, c), detail(w.Message))}
		case "CrashLoopBackOff":
			return &blocker{v1alpha1.ReasonContainerFailing, fmt.Sprintf(
				"Pod %s, container %s keeps exiting%s", pod.Name, c.Name, lastExit(c))}
		case "CreateContainerConfigError", "CreateContainerError", "RunContainerError":
			return &blocker{v1alpha1.ReasonContainerFailing, fmt.Sprintf(
				"Pod %s, container %s cannot be started (%s); it uses %s.%s",
				pod.Name, c.Name, w.Reason, imagesOf(pod, c), detail(w.Message))}
		}
	}
	return nil
}

// imagesOf names the images that a container needs, as they were asked for: its
// own, and the ones that are mounted as volumes. The kubelet reports trouble
// with either at the container.
func imagesOf(pod *corev1.Pod, c corev1.ContainerStatus) string {
	text := "the image " + c.Image
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for _, spec := range list {
			if spec.Name == c.Name {
				text = "the image " + spec.Image
			}
		}
	}
	for _, v := range pod.Spec.Volumes {
		if v.Image != nil {
			text += fmt.Sprintf(" and, as volume %s, the image %s", v.Name, v.Image.Reference)
		}
	}
	return text
}

func detail(message string) string {
	if message == "" {
		return ""
	}
	return " " + tail(message)
}

// lastExit describes the last exit of a container, without times and counts,
// which would make the text change for ever.
func lastExit(c corev1.ContainerStatus) string {
	t := c.LastTerminationState.Terminated
	if t == nil {
		t = c.State.Terminated
	}
	if t == nil {
		return "."
	}
	text := fmt.Sprintf(": exit code %d", t.ExitCode)
	if t.Reason != "" && t.Reason != "Error" && t.Reason != "Completed" {
		text += " (" + t.Reason + ")"
	}
	if t.Message == "" {
		return text + "."
	}
	return text + ", its output ends with: " + tail(t.Message)
}

// tail keeps the end of a text, on one line.
func tail(text string) string {
	const most = 400
	text = strings.Join(strings.Fields(text), " ")
	if len(text) <= most {
		return text
	}
	return "..." + strings.ToValidUTF8(text[len(text)-most:], "")
}

// lastFailure is the most recent failure that the pods still show, and the exit
// code if a container exited.
func lastFailure(pods []*corev1.Pod) (text string, exitCode *int32) {
	var latest time.Time
	for _, pod := range pods {
		if pod.Status.Phase == corev1.PodFailed && text == "" {
			text = strings.TrimSpace(fmt.Sprintf("Pod %s ended: %s %s", pod.Name, pod.Status.Reason, tail(pod.Status.Message)))
		}
		for _, c := range containerStatuses(pod) {
			t := c.LastTerminationState.Terminated
			if t == nil {
				t = c.State.Terminated
			}
			if t == nil || t.ExitCode == 0 || t.FinishedAt.Time.Before(latest) {
				continue
			}
			latest, exitCode = t.FinishedAt.Time, ptr.To(t.ExitCode)
			text = fmt.Sprintf("Pod %s, container %s exited%s", pod.Name, c.Name, lastExit(c))
		}
	}
	return text, exitCode
}

// leaderOf is the pod of rank 0, nil if there is none.
func leaderOf(i *instance) *corev1.Pod {
	for _, pod := range i.pods {
		if rankOf(pod) == 0 && !terminating(pod) {
			return pod
		}
	}
	return nil
}

// reachable says that the leader's sidecar runs and has an address.
func reachable(pod *corev1.Pod) bool {
	if pod == nil || pod.Status.PodIP == "" {
		return false
	}
	for _, c := range pod.Status.InitContainerStatuses {
		if c.Name == render.RuntimeContainer {
			return c.State.Running != nil
		}
	}
	return false
}
