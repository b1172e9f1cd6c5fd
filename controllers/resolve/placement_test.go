// SPDX-License-Identifier: Apache-2.0

package resolve_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/findep/findep-operator/api/v1alpha1"
	"github.com/findep/findep-operator/controllers/resolve"
	"github.com/findep/findep-operator/test/wrappers"
)

func placed(change func(*v1alpha1.PlacementSpec)) *v1alpha1.MoEDeployment {
	return wrappers.MoEDeployment("a").With(func(s *v1alpha1.MoEDeploymentSpec) { change(&s.Placement) }).Obj()
}

func TestBackend(t *testing.T) {
	all := resolve.Facts{GangServed: true, Backends: resolve.Backends{Volcano: true, Kueue: true}}
	cases := map[string]struct {
		spec        v1alpha1.PlacementSpec
		facts       resolve.Facts
		want        v1alpha1.GangBackend
		why         string
		wantProblem string
	}{
		"native where served":              {facts: all, want: v1alpha1.BackendPodGroup, why: "This API server serves scheduling.k8s.io"},
		"Kueue with a queue":               {spec: v1alpha1.PlacementSpec{Queue: "q"}, facts: all, want: v1alpha1.BackendKueue, why: "placement.queue is given"},
		"a queue without Kueue":            {spec: v1alpha1.PlacementSpec{Queue: "q"}, facts: resolve.Facts{GangServed: true}, want: v1alpha1.BackendPodGroup},
		"Volcano if there is nothing else": {facts: resolve.Facts{Backends: resolve.Backends{Volcano: true, Kueue: true}}, want: v1alpha1.BackendVolcano, why: "Volcano"},
		"none to be had":                   {why: "one by one"},
		"Off":                              {spec: v1alpha1.PlacementSpec{Gang: v1alpha1.GangOff}, facts: all, why: "placement.gang is Off"},
		"by name":                          {spec: v1alpha1.PlacementSpec{Backend: v1alpha1.BackendVolcano}, facts: all, want: v1alpha1.BackendVolcano, why: "placement.backend names it"},
		"by name, and not served":          {spec: v1alpha1.PlacementSpec{Backend: v1alpha1.BackendVolcano}, facts: resolve.Facts{GangServed: true}, wantProblem: "placement.backend is Volcano"},
		"Required, and none to be had":     {spec: v1alpha1.PlacementSpec{Gang: v1alpha1.GangRequired}, wantProblem: "placement.gang is Required"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			r := resolve.Resolve(placed(func(p *v1alpha1.PlacementSpec) { *p = tc.spec }), tc.facts)
			if r.Decision.Backend != tc.want || r.Decision.Gang != (tc.want != "") || !strings.Contains(r.Decision.BackendWhy, tc.why) {
				t.Errorf("got %q since %q, want %q since %q", r.Decision.Backend, r.Decision.BackendWhy, tc.want, tc.why)
			}
			if !strings.Contains(r.GangProblem, tc.wantProblem) || r.GangMissing != (tc.wantProblem != "") || r.OK() == r.GangMissing {
				t.Errorf("problem %q (%v), want %q", r.GangProblem, r.GangMissing, tc.wantProblem)
			}
		})
	}
}

// TestDecisionIsKept: what instances were made with is what replacements of their
// pods are made with, whatever is served by then.
func TestDecisionIsKept(t *testing.T) {
	d := placed(func(p *v1alpha1.PlacementSpec) { p.Topology.Key = "rack" })
	first := resolve.Resolve(d, resolve.Facts{Backends: resolve.Backends{Volcano: true}})
	again := resolve.Resolve(d, resolve.Facts{GangServed: true, Backends: resolve.Backends{Topology: true}, Existing: &first.Decision})
	if diff := cmp.Diff(first.Decision, again.Decision); diff != "" {
		t.Error(diff)
	}
	old := resolve.Decision{Attention: 2, Expert: 3, Why: "Given.", Gang: true}
	if r := resolve.Resolve(d, resolve.Facts{Existing: &old}); r.Decision.Backend != v1alpha1.BackendPodGroup || r.Decision.Topology != nil {
		t.Errorf("a decision of an operator that knew PodGroups only: %+v", r.Decision)
	}
}

func TestTopology(t *testing.T) {
	const rack, zone, clique = "topology.kubernetes.io/rack", "topology.kubernetes.io/zone", "nvidia.com/gpu.clique"
	nodes := []map[string]string{{rack: "r1", clique: "c1"}}
	prefer, require, none := v1alpha1.TopologyPreferred, v1alpha1.TopologyRequired, v1alpha1.TopologyNone
	cases := map[string]struct {
		topology   v1alpha1.TopologySpec
		facts      resolve.Facts
		want       []resolve.Pack
		wantNative bool
	}{
		"nodes without labels": {},
		"labels are preferred": {
			facts: resolve.Facts{NodeLabels: nodes},
			want:  []resolve.Pack{{Of: resolve.OfInstance, Mode: prefer, Key: rack}, {Of: resolve.OfAttention, Mode: prefer, Key: clique}},
		},
		"unless the user says no": {
			topology: v1alpha1.TopologySpec{Instance: none, Attention: &v1alpha1.TopologyRule{Mode: none}}, facts: resolve.Facts{NodeLabels: nodes},
		},
		"a key alone is a preference": {
			topology: v1alpha1.TopologySpec{Key: "k"}, want: []resolve.Pack{{Of: resolve.OfInstance, Mode: prefer, Key: "k"}},
		},
		"a mode alone is about racks": {
			topology: v1alpha1.TopologySpec{Instance: require}, want: []resolve.Pack{{Of: resolve.OfInstance, Mode: require, Key: rack}},
		},
		"the PodGroup sees to what is required": {
			topology: v1alpha1.TopologySpec{Expert: &v1alpha1.TopologyRule{Mode: require}},
			facts:    resolve.Facts{GangServed: true, Backends: resolve.Backends{Topology: true}},
			want:     []resolve.Pack{{Of: resolve.OfExpert, Mode: require, Key: clique}}, wantNative: true,
		},
		"not to a preference, and not to a spread": {
			topology: v1alpha1.TopologySpec{Key: "k", Spread: &v1alpha1.TopologyRule{Mode: require}},
			facts:    resolve.Facts{GangServed: true, Backends: resolve.Backends{Topology: true}},
			want:     []resolve.Pack{{Of: resolve.OfInstance, Mode: prefer, Key: "k"}, {Of: resolve.OfSpread, Mode: require, Key: zone}},
		},
		"nor where it has no constraints": {
			topology: v1alpha1.TopologySpec{Instance: require, Key: "k"}, facts: resolve.Facts{GangServed: true},
			want: []resolve.Pack{{Of: resolve.OfInstance, Mode: require, Key: "k"}},
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			r := resolve.Resolve(placed(func(p *v1alpha1.PlacementSpec) { p.Topology = tc.topology }), tc.facts)
			if diff := cmp.Diff(tc.want, r.Decision.Topology); diff != "" || r.Decision.Native != tc.wantNative {
				t.Errorf("native %v, topology (-want +got):\n%s", r.Decision.Native, diff)
			}
		})
	}
}

func TestHardwareFollowsTheProfile(t *testing.T) {
	profile := wrappers.GPUProfile("ib").Selector("gpu", "x").Obj()
	profile.Spec.Resources = []v1alpha1.ExtendedResource{{Name: "rdma/hca", Count: 1}}
	profile.Spec.Environment = []v1alpha1.EnvironmentVariable{{Name: "NCCL_IB_HCA", Value: "mlx5"}}
	facts := resolve.Facts{
		Profiles:   []v1alpha1.GPUProfile{*profile},
		NodeLabels: []map[string]string{{resolve.ProductLabel: "NVIDIA-H200"}, {resolve.ProductLabel: "NVIDIA-H200-SXM"}, {resolve.ProductLabel: "NVIDIA-L40S"}},
	}
	d := wrappers.MoEDeployment("a").With(func(s *v1alpha1.MoEDeploymentSpec) {
		s.Groups.Attention.ProfileRef, s.Groups.Expert.ProfileRef = "ib", "h200"
	}).Obj()
	want := map[v1alpha1.Role]resolve.Hardware{
		v1alpha1.RoleAttention: {NodeSelector: map[string]string{"gpu": "x"}, Resources: profile.Spec.Resources, Environment: profile.Spec.Environment},
		v1alpha1.RoleExpert:    {Products: []string{"NVIDIA-H200", "NVIDIA-H200-SXM"}},
	}
	if diff := cmp.Diff(want, resolve.Resolve(d, facts).Decision.Hardware); diff != "" {
		t.Error(diff)
	}
	if h := resolve.Resolve(wrappers.MoEDeployment("a").Profile("").Obj(), resolve.Facts{}).Decision.Hardware; len(h) > 0 {
		t.Errorf("nothing is known about the nodes, and yet %v", h)
	}
}

func TestCheckPodTemplate(t *testing.T) {
	cases := map[string]struct{ patch, want string }{
		"labels and annotations":    {patch: `{"metadata":{"labels":{"a":"b"},"annotations":{"c":"d"}}}`},
		"a sidecar of the user's":   {patch: `{"spec":{"containers":[{"name":"logs","image":"l:1"}],"volumes":[{"name":"scratch","emptyDir":{}}]}}`},
		"environment":               {patch: `{"spec":{"initContainers":[{"name":"runtime","env":[{"name":"NCCL_DEBUG","value":"INFO"}]}]}}`},
		"a grace period":            {patch: `{"spec":{"terminationGracePeriodSeconds":60}}`},
		"not an object":             {patch: `[1]`, want: "not a pod template"},
		"not JSON":                  {patch: `{`, want: "not a pod template"},
		"a misspelt field":          {patch: `{"spec":{"nodeSelectors":{}}}`, want: `unknown field "spec.nodeSelectors"`},
		"directives of patches":     {patch: `{"spec":{"containers":[{"name":"server","$patch":"delete"}]}}`, want: "$patch"},
		"a name":                    {patch: `{"metadata":{"name":"x"}}`, want: "labels and annotations only"},
		"a label of the operator":   {patch: `{"metadata":{"labels":{"findep.dev/rank":"7"}}}`, want: "metadata.labels[findep.dev/rank]"},
		"an annotation of the gang": {patch: `{"metadata":{"annotations":{"scheduling.k8s.io/group-name":"x"}}}`, want: "metadata.annotations[scheduling.k8s.io/group-name]"},
		"a host name":               {patch: `{"spec":{"hostname":"x"}}`, want: "spec.hostname"},
		"the host's network":        {patch: `{"spec":{"hostNetwork":true}}`, want: "spec.hostNetwork"},
		"a token":                   {patch: `{"spec":{"automountServiceAccountToken":true}}`, want: "spec.automountServiceAccountToken"},
		"another gang":              {patch: `{"spec":{"schedulingGroup":{"podGroupName":"x"}}}`, want: "spec.schedulingGroup"},
		"a volume of the operator":  {patch: `{"spec":{"volumes":[{"name":"tls","emptyDir":{}}]}}`, want: "spec.volumes[tls]"},
		"a claim of the operator":   {patch: `{"spec":{"resourceClaims":[{"name":"gpu"}]}}`, want: "spec.resourceClaims[gpu]"},
		"the sidecar's image":       {patch: `{"spec":{"initContainers":[{"name":"runtime","image":"x"}]}}`, want: "spec.initContainers[runtime].image"},
		"the server's arguments":    {patch: `{"spec":{"containers":[{"name":"server","args":["x"]}]}}`, want: "spec.containers[server].args"},
		"the sidecar elsewhere":     {patch: `{"spec":{"containers":[{"name":"runtime","image":"x"}]}}`, want: "spec.containers[runtime] is not a name"},
		"a container without name":  {patch: `{"spec":{"containers":[{"image":"x"}]}}`, want: "without a name"},
		"another mount of a volume": {patch: `{"spec":{"containers":[{"name":"server","volumeMounts":[{"name":"tls","mountPath":"/x"}]}]}}`, want: "volumeMounts[tls]"},
		"an own variable":           {patch: `{"spec":{"initContainers":[{"name":"runtime","env":[{"name":"POD_IP","value":"1"}]}]}}`, want: "env[POD_IP]"},
		"GPUs":                      {patch: `{"spec":{"containers":[{"name":"x","image":"x","resources":{"limits":{"nvidia.com/gpu":1}}}]}}`, want: "nvidia.com/gpu"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			got := strings.Join(resolve.CheckPodTemplate(&runtime.RawExtension{Raw: []byte(tc.patch)}), "; ")
			if (got == "") != (tc.want == "") || !strings.Contains(got, tc.want) {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
	d := wrappers.MoEDeployment("a").With(func(s *v1alpha1.MoEDeploymentSpec) {
		s.Groups.Expert.PodTemplate = &runtime.RawExtension{Raw: []byte(`{"spec":{"hostNetwork":true}}`)}
	}).Obj()
	if f := resolve.Resolve(d, resolve.Facts{}).Feasible; f.OK || f.Reason != v1alpha1.ReasonPodTemplateInvalid || !strings.Contains(f.Message, "groups.expert.podTemplate: spec.hostNetwork") {
		t.Errorf("got %+v", f)
	}
}

func FuzzCheckPodTemplate(f *testing.F) {
	f.Add([]byte(`{"spec":{"containers":[{"name":"server","args":["x"]}]}}`))
	f.Add([]byte(`{"metadata":null,"spec":{"initContainers":[null]}}`))
	f.Fuzz(func(_ *testing.T, raw []byte) {
		resolve.CheckPodTemplate(&runtime.RawExtension{Raw: raw})
	})
}
