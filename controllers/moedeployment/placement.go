// SPDX-License-Identifier: Apache-2.0

package moedeployment

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/findep/findep-operator/api/v1alpha1"
	"github.com/findep/findep-operator/controllers/resolve"
)

// Bounds on the lists in status.
const (
	maxNodes   = 64
	maxDomains = 4
)

// placementStatus says how instances of the current spec are placed.
func placementStatus(d *resolve.Decision) *v1alpha1.PlacementStatus {
	out := &v1alpha1.PlacementStatus{Backend: "None", Why: d.BackendWhy, Topology: topologyText(d.Topology)}
	if d.Gang {
		out.Backend = string(d.Backend)
	}
	return out
}

func topologyText(packs []resolve.Pack) string {
	var parts []string
	for _, p := range packs {
		verb := map[v1alpha1.TopologyMode]string{v1alpha1.TopologyPreferred: "preferably", v1alpha1.TopologyRequired: "always"}[p.Mode]
		switch p.Of {
		case resolve.OfInstance:
			parts = append(parts, fmt.Sprintf("an instance is %s within one %s", verb, p.Key))
		case resolve.OfSpread:
			parts = append(parts, fmt.Sprintf("instances are %s spread over %s", verb, p.Key))
		default:
			parts = append(parts, fmt.Sprintf("its %s group %s within one %s", strings.ToLower(p.Of), verb, p.Key))
		}
	}
	return strings.Join(parts, "; ")
}

// placementOf says where the pods of an instance are, once all have a node.
func (s *scope) placementOf(i *instance, size int) *v1alpha1.InstancePlacement {
	pods := sorted(i.pods)
	if len(pods) == 0 || len(pods) < size || !slices.ContainsFunc(pods, scheduled) || slices.ContainsFunc(pods, func(p *corev1.Pod) bool { return !scheduled(p) }) {
		return nil
	}
	out := &v1alpha1.InstancePlacement{Nodes: nodeRanks(pods)}
	if target := s.target(i); target != nil && !s.old(i) {
		for _, p := range target.Decision.Topology {
			if p.Of != resolve.OfSpread {
				out.Domains = append(out.Domains, s.domain(p, pods))
			}
		}
	}
	return out
}

func nodeRanks(pods []*corev1.Pod) []v1alpha1.NodeRanks {
	var names []string
	ranks := map[string][]int{}
	for _, pod := range pods {
		node := pod.Spec.NodeName
		if _, known := ranks[node]; !known {
			names = append(names, node)
		}
		ranks[node] = append(ranks[node], rankOf(pod))
	}
	var list []v1alpha1.NodeRanks
	for _, name := range names[:min(maxNodes, len(names))] {
		list = append(list, v1alpha1.NodeRanks{Node: name, Ranks: ranges(ranks[name])})
	}
	return list
}

// ranges writes ascending numbers as people do: 0-2,5.
func ranges(numbers []int) string {
	var parts []string
	for from := 0; from < len(numbers); {
		to := from
		for to+1 < len(numbers) && numbers[to+1] == numbers[to]+1 {
			to++
		}
		part := fmt.Sprint(numbers[from])
		if to > from {
			part += fmt.Sprintf("-%d", numbers[to])
		}
		parts, from = append(parts, part), to+1
	}
	return strings.Join(parts, ",")
}

// domain says whether the pods that a pack is about share a domain.
func (s *scope) domain(p resolve.Pack, pods []*corev1.Pod) v1alpha1.DomainStatus {
	out := v1alpha1.DomainStatus{Of: p.Of, Key: p.Key, Reached: v1alpha1.DomainUnknown}
	known := true
	for _, pod := range pods {
		if p.Of != resolve.OfInstance && pod.Labels[v1alpha1.LabelRole] != p.Of {
			continue
		}
		value := s.facts.Nodes[pod.Spec.NodeName][p.Key]
		known = known && value != ""
		if value != "" && !slices.Contains(out.Values, value) {
			out.Values = append(out.Values, value)
		}
	}
	slices.Sort(out.Values)
	switch {
	case len(out.Values) > 1:
		out.Reached = v1alpha1.DomainNo
	case known && len(out.Values) == 1:
		out.Reached = v1alpha1.DomainYes
	}
	out.Values = out.Values[:min(maxDomains, len(out.Values))]
	return out
}

// needs says what one pod of an instance asks for.
func (s *scope) needs(i *instance) string {
	r := s.target(i)
	if r == nil {
		return "one " + string(resolve.GPUResource)
	}
	a, e := r.Groups.Attention.DeviceClaim, r.Groups.Expert.DeviceClaim
	switch {
	case a == nil && e == nil:
		return "one " + string(resolve.GPUResource)
	case a != nil && e != nil && a.DeviceClassName == e.DeviceClassName:
		return "one device of class " + a.DeviceClassName
	default:
		return "one GPU"
	}
}

// gatesOf names the scheduling gates that keep a pod from being scheduled.
func gatesOf(pods []*corev1.Pod) []string {
	var names []string
	for _, pod := range pods {
		for _, g := range pod.Spec.SchedulingGates {
			if !slices.Contains(names, g.Name) {
				names = append(names, g.Name)
			}
		}
	}
	slices.Sort(names)
	return names
}
