// SPDX-License-Identifier: Apache-2.0

package resolve

import (
	"fmt"

	"github.com/findep/findep-operator/api/v1alpha1"
)

// notActedOn lists the fields that are set to something with no effect in this
// version. A field is removed here in the change that gives it an effect.
func notActedOn(spec *v1alpha1.MoEDeploymentSpec) []string {
	var list []string
	note := func(set bool, field, instead string) {
		if set {
			list = append(list, fmt.Sprintf("%s (%s)", field, instead))
		}
	}
	for _, g := range []struct {
		name  string
		group *v1alpha1.GroupSpec
	}{{"attention", &spec.Groups.Attention}, {"expert", &spec.Groups.Expert}} {
		note(g.group.GPUsPerPod > 1, "groups."+g.name+".gpusPerPod", "every rank has a pod with one GPU of its own; placement.topology with the key kubernetes.io/hostname keeps a group on one node")
	}
	note(spec.Groups.Expert.ServerResources != nil && spec.Engine != v1alpha1.EngineVLLMAFD, "groups.expert.serverResources", "only the pod of rank 0 has a server, with groups.attention.serverResources")
	idleWithVLLM(spec, note)
	note(spec.Placement.Queue != "" && spec.Placement.Backend == v1alpha1.BackendPodGroup, "placement.queue", "PodGroups of Kubernetes know no queues")
	return list
}

// warnings lists what works and yet deserves attention.
func warnings(spec *v1alpha1.MoEDeploymentSpec) []string {
	list := warningsOfVLLM(spec)
	if s, err := ParseSource(spec.Model.Source); err == nil && s.Kind == SourceHostPath {
		list = append(list, "model.source is a hostPath: namespaces that enforce the baseline or restricted Pod Security Standard refuse these pods, and every node needs the directory "+s.Reference)
	}
	return list
}
