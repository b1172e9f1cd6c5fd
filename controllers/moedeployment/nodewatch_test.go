// SPDX-License-Identifier: Apache-2.0

package moedeployment

import (
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/controller/priorityqueue"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/findep/findep-operator/api/v1alpha1"
	"github.com/findep/findep-operator/controllers/resolve"
)

// woken is a queue that remembers who was added.
type woken struct {
	priorityqueue.PriorityQueue[reconcile.Request]
	names []string
}

// AddWithOpts implements priorityqueue.PriorityQueue.
func (w *woken) AddWithOpts(_ priorityqueue.AddOpts, requests ...reconcile.Request) {
	for _, r := range requests {
		w.names = append(w.names, r.Name)
	}
}

func gpuNode(name string, gpus int64, change ...func(*corev1.Node)) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"pool": "a"}}}
	n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}
	n.Status.Capacity = corev1.ResourceList{resolve.GPUResource: *resource.NewQuantity(gpus, resource.DecimalSI)}
	n.Status.Allocatable = n.Status.Capacity.DeepCopy()
	for _, f := range change {
		f(n)
	}
	return n
}

func withCondition(kind corev1.NodeConditionType, status corev1.ConditionStatus) func(*corev1.Node) {
	return func(n *corev1.Node) { n.Status.Conditions = append(n.Status.Conditions, nodeCondition(kind, status)) }
}

func cordoned(n *corev1.Node) { n.Spec.Unschedulable = true }

// TestNodesWakeWhomTheyConcern: of a deployment on the node, one elsewhere, two
// that wait for GPUs, for want of any or of well ones, and one that another profile
// would suit, each change wakes those that it concerns and nobody else.
func TestNodesWakeWhomTheyConcern(t *testing.T) {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientgoscheme.AddToScheme, v1alpha1.AddToScheme} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	deployment := func(name, profile string, phase v1alpha1.InstancePhase) *v1alpha1.MoEDeployment {
		d := &v1alpha1.MoEDeployment{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name}}
		d.Status.Instances = []v1alpha1.InstanceStatus{{Phase: phase}}
		d.Status.Profiles = []v1alpha1.ProfileStatus{{Role: v1alpha1.RoleAttention, Name: profile}}
		return d
	}
	sick := deployment("sick", "cpu", v1alpha1.InstanceServing)
	sick.Status.Conditions = []metav1.Condition{{Type: v1alpha1.ConditionNodesHealthy, Reason: v1alpha1.ReasonGPUUnhealthy}}
	sick.Spec.Groups.Attention.ProfileRef = "cpu"
	fixed := deployment("elsewhere", "cpu", v1alpha1.InstanceServing)
	fixed.Spec.Groups.Attention.ProfileRef = "cpu"
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p", Labels: map[string]string{v1alpha1.LabelDeployment: "there"}}}
	pod.Spec.NodeName = "n"
	well, h100 := gpuNode("n", 8), func(n *corev1.Node) { n.Labels = map[string]string{resolve.ProductLabel: "NVIDIA-H100-80GB-HBM3"} }
	cases := map[string]struct {
		was, is *corev1.Node
		want    []string
	}{
		"a heartbeat": {was: well, is: gpuNode("n", 8, func(n *corev1.Node) {
			n.ResourceVersion = "2"
			n.Status.Conditions[0].LastHeartbeatTime = metav1.Now()
			n.Status.Images = []corev1.ContainerImage{{SizeBytes: 1}}
		})},
		"cordoned":                      {was: well, is: gpuNode("n", 8, cordoned), want: []string{"there"}},
		"made schedulable":              {was: gpuNode("n", 8, cordoned), is: well, want: []string{"sick", "there", "waiting"}},
		"a GPU gets sick":               {was: well, is: gpuNode("n", 8, withCondition("GpuMemWatch", corev1.ConditionTrue)), want: []string{"there"}},
		"rebooted":                      {was: well, is: gpuNode("n", 8, func(n *corev1.Node) { n.Status.NodeInfo.BootID = "2" }), want: []string{"there"}},
		"more GPUs":                     {was: gpuNode("n", 4), is: well, want: []string{"sick", "waiting"}},
		"gone":                          {was: well, want: []string{"there"}},
		"new, without GPUs":             {is: gpuNode("n", 0), want: []string{"there"}},
		"new, with GPUs":                {is: well, want: []string{"sick", "there", "waiting"}},
		"labelled with another product": {was: well, is: gpuNode("n", 8, h100), want: []string{"planned", "sick", "there", "waiting"}},
		"another label":                 {was: gpuNode("n", 0), is: gpuNode("n", 0, func(n *corev1.Node) { n.Labels["pool"] = "b" }), want: []string{"there"}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			objects := []client.Object{
				sick, pod, fixed, deployment("there", "h100-sxm", v1alpha1.InstanceServing), deployment("waiting", "h100-sxm", v1alpha1.InstancePending),
				deployment("planned", "cpu", v1alpha1.InstanceServing),
			}
			var facts resolve.Facts
			if tc.is != nil {
				objects = append(objects, tc.is)
				facts.NodeLabels = []map[string]string{tc.is.Labels}
			}
			// Those that no other profile would suit are planned with the one of now.
			for _, o := range objects[3:5] {
				o.(*v1alpha1.MoEDeployment).Status.Profiles[0].Name = resolve.ProfileName(&v1alpha1.GroupSpec{}, facts)
			}
			c := fake.NewClientBuilder().WithScheme(scheme).WithObjects(objects...).WithIndex(&corev1.Pod{}, podNode, nodeOf).Build()
			r := &Reconciler{Client: c, Reader: c, ClusterReads: true}
			q, watch := &woken{}, r.nodeWatch()
			switch {
			case tc.was == nil:
				watch.Create(t.Context(), event.CreateEvent{Object: tc.is, IsInInitialList: true}, q)
				if len(q.names) > 0 {
					t.Errorf("when the manager starts: woke %v", q.names)
				}
				watch.Create(t.Context(), event.CreateEvent{Object: tc.is}, q)
			case tc.is == nil:
				watch.Delete(t.Context(), event.DeleteEvent{Object: tc.was}, q)
			default:
				watch.Update(t.Context(), event.UpdateEvent{ObjectOld: tc.was, ObjectNew: tc.is}, q)
			}
			slices.Sort(q.names)
			if diff := cmp.Diff(tc.want, q.names); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestSlimNodeKeepsWhatIsCompared: what the cache forgets cannot be decided from.
func TestSlimNodeKeepsWhatIsCompared(t *testing.T) {
	was, is := gpuNode("n", 4), gpuNode("n", 8, withCondition("GpuMemWatch", corev1.ConditionTrue), cordoned)
	is.Status.NodeInfo = corev1.NodeSystemInfo{BootID: "2", KernelVersion: "6"}
	is.Status.Allocatable[corev1.ResourcePods] = resource.MustParse("110")
	want := fmt.Sprint(changeOf(was, is))
	slim, err := slimNode(is)
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(changeOf(was, slim.(*corev1.Node))); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if is.Status.NodeInfo.KernelVersion != "" || len(is.Status.Allocatable) != 1 {
		t.Errorf("kept more than is looked at: %+v", is.Status)
	}
}

// TestHeartbeatsReadNothing: a thousand nodes have a hundred heartbeats a second.
// A reconciler without a client would panic if it read anything.
func TestHeartbeatsReadNothing(t *testing.T) {
	q := &woken{}
	(&Reconciler{}).nodeWatch().Update(t.Context(), event.UpdateEvent{ObjectOld: gpuNode("n", 8), ObjectNew: gpuNode("n", 8, func(n *corev1.Node) {
		n.Status.Conditions[0].LastHeartbeatTime = metav1.Now()
	})}, q)
	if len(q.names) > 0 {
		t.Errorf("woke %v", q.names)
	}
}
