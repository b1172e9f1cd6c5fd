// SPDX-License-Identifier: Apache-2.0

package resolve_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/findep/findep-operator/api/v1alpha1"
	"github.com/findep/findep-operator/controllers/resolve"
)

const (
	rack   = "topology.kubernetes.io/rack"
	clique = "nvidia.com/gpu.clique"
)

func nodeOf(rackName, cliqueName string, free int, mine ...v1alpha1.Role) resolve.Node {
	n := resolve.Node{Labels: map[string]string{rack: rackName}, Free: free, Mine: map[v1alpha1.Role]int{}}
	if cliqueName != "" {
		n.Labels[clique] = cliqueName
	}
	for _, role := range mine {
		n.Mine[role]++
	}
	return n
}

func preferred(of, key string) resolve.Pack {
	return resolve.Pack{Of: of, Mode: v1alpha1.TopologyPreferred, Key: key}
}

func TestNear(t *testing.T) {
	instance := []resolve.Pack{preferred(resolve.OfInstance, rack)}
	both := append(slices.Clone(instance), preferred(resolve.OfAttention, clique))
	h100 := map[v1alpha1.Role]resolve.Hardware{
		v1alpha1.RoleAttention: {Products: []string{"H100"}}, v1alpha1.RoleExpert: {Products: []string{"H100"}},
	}
	other := nodeOf("c", "", 99)
	other.Labels[resolve.ProductLabel] = "T4"
	right := nodeOf("d", "", 1)
	right.Labels[resolve.ProductLabel] = "H100"
	cases := map[string]struct {
		placement resolve.Placement
		nodes     []resolve.Node
		want      map[string][]string
	}{
		"the fullest that has room, and the next fullest after it": {
			resolve.Placement{Topology: instance},
			[]resolve.Node{nodeOf("a", "", 9), nodeOf("b", "", 6), nodeOf("c", "", 3), nodeOf("c", "", 4), nodeOf("d", "", 5)},
			map[string][]string{resolve.OfInstance: {"b", "c", "a"}},
		},
		"the emptiest, if none has room": {
			resolve.Placement{Topology: instance},
			[]resolve.Node{nodeOf("a", "", 1), nodeOf("b", "", 5), nodeOf("c", "", 3)},
			map[string][]string{resolve.OfInstance: {"b", "c", "a"}},
		},
		"where the instance is already, even without room": {
			resolve.Placement{Topology: instance},
			[]resolve.Node{nodeOf("a", "", 9), nodeOf("b", "", 0, v1alpha1.RoleExpert)},
			map[string][]string{resolve.OfInstance: {"b", "a"}},
		},
		"a group within the instance's domain": {
			resolve.Placement{Topology: both},
			[]resolve.Node{nodeOf("a", "a1", 4), nodeOf("a", "a2", 2), nodeOf("b", "b1", 20)},
			map[string][]string{resolve.OfInstance: {"a", "b"}, resolve.OfAttention: {"a2", "a1"}},
		},
		"a group anywhere, if the instance's domain has none for it": {
			resolve.Placement{Topology: both},
			[]resolve.Node{nodeOf("a", "", 6), nodeOf("b", "b1", 20)},
			map[string][]string{resolve.OfInstance: {"a", "b"}, resolve.OfAttention: {"b1"}},
		},
		"only nodes of the right GPUs": {
			resolve.Placement{Topology: instance, Hardware: h100},
			[]resolve.Node{other, right},
			map[string][]string{resolve.OfInstance: {"d"}},
		},
		"nothing for what is required": {
			resolve.Placement{Topology: []resolve.Pack{{Of: resolve.OfInstance, Mode: v1alpha1.TopologyRequired, Key: rack}}},
			[]resolve.Node{nodeOf("a", "", 9)}, map[string][]string{},
		},
		"nothing for instances that keep apart": {
			resolve.Placement{Topology: []resolve.Pack{preferred(resolve.OfSpread, rack)}},
			[]resolve.Node{nodeOf("a", "", 9)}, map[string][]string{},
		},
		"nothing where no GPU is counted": {
			resolve.Placement{Topology: instance}, []resolve.Node{nodeOf("a", "", 0)}, map[string][]string{},
		},
	}
	needs := map[v1alpha1.Role]int{v1alpha1.RoleAttention: 2, v1alpha1.RoleExpert: 4}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, resolve.Near(&tc.placement, &v1alpha1.GroupsSpec{}, tc.nodes, needs)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestNearFindsRoom: if any rack has room for a new instance, the first choice has,
// in whatever order nodes are listed.
func TestNearFindsRoom(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	p := resolve.Placement{Topology: []resolve.Pack{preferred(resolve.OfInstance, rack)}}
	for range 1000 {
		var nodes []resolve.Node
		free := map[string]int{}
		for range 1 + random.IntN(20) {
			n := nodeOf(fmt.Sprint("rack", random.IntN(5)), "", random.IntN(9))
			nodes = append(nodes, n)
			free[n.Labels[rack]] += n.Free
		}
		needs := map[v1alpha1.Role]int{v1alpha1.RoleAttention: 1 + random.IntN(10), v1alpha1.RoleExpert: 1 + random.IntN(10)}
		need := needs[v1alpha1.RoleAttention] + needs[v1alpha1.RoleExpert]
		near := resolve.Near(&p, &v1alpha1.GroupsSpec{}, nodes, needs)
		random.Shuffle(len(nodes), func(i, j int) { nodes[i], nodes[j] = nodes[j], nodes[i] })
		if diff := cmp.Diff(near, resolve.Near(&p, &v1alpha1.GroupsSpec{}, nodes, needs)); diff != "" {
			t.Fatalf("%v: depends on the order of nodes: %s", nodes, diff)
		}
		for name, n := range free {
			if n >= need && free[near[resolve.OfInstance][0]] < need {
				t.Fatalf("%v: %s has room for %d, %s was chosen", free, name, need, near[resolve.OfInstance][0])
			}
		}
	}
}
