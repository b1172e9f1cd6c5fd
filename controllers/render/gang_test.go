// SPDX-License-Identifier: Apache-2.0

package render_test

import (
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/runtime"

	"github.com/findep/findep-operator/api/v1alpha1"
	"github.com/findep/findep-operator/controllers/render"
	"github.com/findep/findep-operator/controllers/resolve"
	"github.com/findep/findep-operator/test/wrappers"
)

// gangOf renders what places an instance: the objects of its gang, and of the
// first pod of each group what ties it to them.
func gangOf(t *testing.T, in *render.Input) string {
	t.Helper()
	var objects []any
	for _, o := range render.GangObjects(in) {
		objects = append(objects, o)
	}
	for _, g := range render.PodGroups(in) {
		objects = append(objects, g)
	}
	for _, rank := range []int{0, in.Attention} {
		pod, err := render.PatchedPod(in, rank)
		if err != nil {
			t.Fatal(err)
		}
		pod.OwnerReferences, pod.Spec.Volumes, pod.Spec.SecurityContext = nil, nil, nil
		for i := range pod.Spec.InitContainers {
			c := &pod.Spec.InitContainers[i]
			c.Args, c.Ports, c.VolumeMounts, c.ReadinessProbe, c.LivenessProbe, c.SecurityContext = nil, nil, nil, nil, nil, nil
		}
		for i := range pod.Spec.Containers {
			c := &pod.Spec.Containers[i]
			c.Args, c.Ports, c.VolumeMounts, c.ReadinessProbe, c.SecurityContext = nil, nil, nil, nil, nil
		}
		objects = append(objects, pod)
	}
	return toYAML(t, objects...)
}

func TestGoldenGangs(t *testing.T) {
	prefer, require := v1alpha1.TopologyPreferred, v1alpha1.TopologyRequired
	const rack, clique, zone = "topology.kubernetes.io/rack", "nvidia.com/gpu.clique", "topology.kubernetes.io/zone"
	cases := map[string]struct {
		queue     string
		placement resolve.Placement
		change    func(*render.Input)
	}{
		"podgroup": {placement: resolve.Placement{Backend: v1alpha1.BackendPodGroup}},
		"podgroup-in-one-rack": {placement: resolve.Placement{
			Backend: v1alpha1.BackendPodGroup, Native: true, Topology: []resolve.Pack{{Of: resolve.OfInstance, Mode: require, Key: rack}, {Of: resolve.OfAttention, Mode: prefer, Key: clique}},
		}},
		"podgroups-in-a-composite": {placement: resolve.Placement{
			Backend: v1alpha1.BackendPodGroup, Native: true,
			Topology: []resolve.Pack{{Of: resolve.OfInstance, Mode: require, Key: rack}, {Of: resolve.OfAttention, Mode: require, Key: clique}, {Of: resolve.OfSpread, Mode: prefer, Key: zone}},
		}},
		"near": {placement: resolve.Placement{
			Backend: v1alpha1.BackendPodGroup, Topology: []resolve.Pack{{Of: resolve.OfInstance, Mode: prefer, Key: rack}, {Of: resolve.OfAttention, Mode: prefer, Key: clique}},
		}, change: func(in *render.Input) { in.Near = map[string][]string{resolve.OfInstance: {"r3", "r1"}} }},
		"affinity": {placement: resolve.Placement{
			Backend:  v1alpha1.BackendPodGroup,
			Topology: []resolve.Pack{{Of: resolve.OfInstance, Mode: require, Key: rack}, {Of: resolve.OfAttention, Mode: prefer, Key: clique}, {Of: resolve.OfSpread, Mode: require, Key: zone}},
		}},
		"volcano": {queue: "serving", placement: resolve.Placement{Backend: v1alpha1.BackendVolcano, Topology: []resolve.Pack{{Of: resolve.OfInstance, Mode: prefer, Key: rack}}},
			change: func(in *render.Input) { in.PriorityClassName = "high" }},
		"kueue": {queue: "serving", placement: resolve.Placement{Backend: v1alpha1.BackendKueue}},
		"none":  {change: func(in *render.Input) { in.Gang = false }},
		"device-claims": {change: func(in *render.Input) {
			in.Groups.Attention.DeviceClaim = &v1alpha1.DeviceClaimSpec{DeviceClassName: "gpu.nvidia.com", Selectors: []string{"device.attributes['gpu.nvidia.com'].architecture == 'Hopper'"}}
		}},
		"hardware": {placement: resolve.Placement{Hardware: map[v1alpha1.Role]resolve.Hardware{
			v1alpha1.RoleAttention: {
				NodeSelector: map[string]string{"gpu": "x", "pool": "profile"}, Resources: []v1alpha1.ExtendedResource{{Name: "rdma/hca", Count: 2}},
				Environment: []v1alpha1.EnvironmentVariable{{Name: "NCCL_IB_HCA", Value: "mlx5"}, {Name: "RAW", Value: "$(POD_IP)"}},
			},
			v1alpha1.RoleExpert: {Products: []string{"NVIDIA-H200"}, RuntimeImage: "findep/runtime-cuda:1"},
		}}, change: func(in *render.Input) { in.Groups.Attention.NodeSelector = map[string]string{"pool": "user"} }},
		"avoiding": {placement: resolve.Placement{Hardware: map[v1alpha1.Role]resolve.Hardware{
			v1alpha1.RoleExpert: {Products: []string{"NVIDIA-H200"}},
		}}, change: func(in *render.Input) {
			in.Avoid = []string{"sick-1", "sick-2"}
			in.Groups.Attention.PodTemplate = &runtime.RawExtension{Raw: []byte(`{"spec":{"affinity":{"nodeAffinity":{"requiredDuringSchedulingIgnoredDuringExecution":{
				"nodeSelectorTerms":[{"matchExpressions":[{"key":"zone","operator":"In","values":["a"]}]},{"matchExpressions":[{"key":"spare","operator":"Exists"}]}]}}}}}`)}
		}},
		"patched": {change: func(in *render.Input) {
			in.Groups.Expert.PodTemplate = &runtime.RawExtension{Raw: []byte(`{"metadata":{"labels":{"team":"moe"}},"spec":{"schedulerName":"mine",
				"initContainers":[{"name":"runtime","env":[{"name":"NCCL_DEBUG","value":"INFO"}]}],
				"containers":[{"name":"logs","image":"logs:1"}],"tolerations":[{"key":"x","operator":"Exists"}]}}`)}
		}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			in := input()
			in.Queue, in.Decision.Placement = tc.queue, tc.placement
			if tc.change != nil {
				tc.change(in)
			}
			wrappers.Golden(t, "gang-"+name+".golden.yaml", gangOf(t, in))
		})
	}
}

func TestPatchThatCannotBeApplied(t *testing.T) {
	in := input()
	in.Groups.Expert.PodTemplate = &runtime.RawExtension{Raw: []byte(`{"spec":{"containers":"none"}}`)}
	if _, err := render.PatchedPod(in, 4); err == nil || !strings.Contains(err.Error(), "rank 4") {
		t.Errorf("got %v", err)
	}
	if _, err := render.PatchedPod(in, 0); err != nil {
		t.Errorf("the other group has no patch: %v", err)
	}
}

// TestEveryRankIsInAGroupThatExists ties pods to their groups, and the groups' sizes
// to the number of pods that name them.
func TestEveryRankIsInAGroupThatExists(t *testing.T) {
	for _, native := range []bool{false, true} {
		in := input()
		in.Decision.Placement = resolve.Placement{Native: native, Topology: []resolve.Pack{{Of: resolve.OfExpert, Mode: v1alpha1.TopologyRequired, Key: "k"}}}
		sizes := map[string]int32{}
		for _, g := range render.PodGroups(in) {
			sizes[*g.Name] = *g.Spec.SchedulingPolicy.Gang.MinCount
		}
		for rank := range in.Attention + in.Expert {
			sizes[*render.Pod(in, rank).Spec.SchedulingGroup.PodGroupName]--
		}
		for name, left := range sizes {
			if left != 0 {
				t.Errorf("native %v: group %s counts %d pods too many", native, name, left)
			}
		}
	}
}
