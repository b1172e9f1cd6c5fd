// SPDX-License-Identifier: Apache-2.0

package resolve

import (
	"cmp"
	"maps"
	"slices"

	"github.com/findep/findep-operator/api/v1alpha1"
)

// nearDomains is how many domains are preferred before all others: enough to keep
// pods together when the first one turns out to be full.
const nearDomains = 3

// Node is a node as far as the places of pods go.
type Node struct {
	Labels map[string]string
	// Free counts the GPUs that no pod of ours has or was asked to take.
	Free int
	// Mine counts the pods of the instance, by role, that are there already.
	Mine map[v1alpha1.Role]int
}

// Near names, for each preferred pack, the domains that its pods should go to, the
// best first. It takes the place of affinity between pods, which costs the
// scheduler a look at every pod of the cluster for each pod that it places. Needs
// are the pods, by role, that have no place yet. It is nil if no node has a GPU
// that is counted, as where devices are claimed.
//
// A wrong guess, since others use GPUs too, does no harm: all pods of a pack prefer
// the same domains in the same order.
func Near(p *Placement, groups *v1alpha1.GroupsSpec, nodes []Node, needs map[v1alpha1.Role]int) map[string][]string {
	of := map[string][]v1alpha1.Role{
		OfInstance:  {v1alpha1.RoleAttention, v1alpha1.RoleExpert},
		OfAttention: {v1alpha1.RoleAttention},
		OfExpert:    {v1alpha1.RoleExpert},
	}
	near := map[string][]string{}
	for _, pack := range p.Topology {
		roles := of[pack.Of]
		if pack.Mode != v1alpha1.TopologyPreferred || len(roles) == 0 {
			continue
		}
		candidates := slices.DeleteFunc(slices.Clone(nodes), func(n Node) bool {
			return !slices.ContainsFunc(roles, func(r v1alpha1.Role) bool { return p.suits(r, groups, n.Labels) })
		})
		// A group's domain is looked for within the instance's.
		if whole := p.Pack(OfInstance); whole != nil && pack.Of != OfInstance && len(near[OfInstance]) > 0 {
			within := slices.DeleteFunc(slices.Clone(candidates), func(n Node) bool { return n.Labels[whole.Key] != near[OfInstance][0] })
			if slices.ContainsFunc(within, func(n Node) bool { return n.Labels[pack.Key] != "" }) {
				candidates = within
			}
		}
		need := 0
		for _, r := range roles {
			need += needs[r]
		}
		if best := order(domains(candidates, pack.Key, roles), need); len(best) > 0 {
			near[pack.Of] = best
		}
	}
	return near
}

// suits says whether pods of a role may run on a node with labels.
func (p *Placement) suits(role v1alpha1.Role, groups *v1alpha1.GroupsSpec, labels map[string]string) bool {
	selector := groups.Attention.NodeSelector
	if role == v1alpha1.RoleExpert {
		selector = groups.Expert.NodeSelector
	}
	h := p.Hardware[role]
	return Matches(selector, labels) && Matches(h.NodeSelector, labels) &&
		(len(h.Products) == 0 || slices.Contains(h.Products, labels[ProductLabel]))
}

// domain is one value of a topology label.
type domain struct {
	value      string
	free, mine int
}

func domains(nodes []Node, key string, roles []v1alpha1.Role) []domain {
	found := map[string]*domain{}
	for _, n := range nodes {
		value := n.Labels[key]
		if value == "" {
			continue
		}
		d := found[value]
		if d == nil {
			d = &domain{value: value}
			found[value] = d
		}
		d.free += n.Free
		for _, r := range roles {
			d.mine += n.Mine[r]
		}
	}
	list := make([]domain, 0, len(found))
	for _, value := range slices.Sorted(maps.Keys(found)) {
		list = append(list, *found[value])
	}
	return list
}

// order sorts domains: where most of the instance is already; else those with room
// for all that is needed, the fullest of them first, which leaves the emptiest ones
// to larger instances; else the emptiest.
func order(list []domain, need int) []string {
	if !slices.ContainsFunc(list, func(d domain) bool { return d.free > 0 || d.mine > 0 }) {
		return nil
	}
	slices.SortStableFunc(list, func(a, b domain) int {
		roomA, roomB := a.free >= need, b.free >= need
		switch {
		case a.mine != b.mine:
			return cmp.Compare(b.mine, a.mine)
		case roomA && roomB:
			return cmp.Compare(a.free, b.free)
		default:
			return cmp.Compare(b.free, a.free)
		}
	})
	var values []string
	for _, d := range list[:min(nearDomains, len(list))] {
		values = append(values, d.value)
	}
	return values
}
