// SPDX-License-Identifier: Apache-2.0

package resolve

import (
	"cmp"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	kjson "sigs.k8s.io/json"

	"github.com/findep/findep-operator/api/v1alpha1"
)

// Names in a pod that belong to the operator.
const (
	// RuntimeContainer solves and executes; see render.RuntimeContainer.
	RuntimeContainer = "runtime"
	// ServerContainer is the model server.
	ServerContainer = "server"
	// GPUClaim is the pod's claim of a GPU, where it has one.
	GPUClaim = "gpu"
	// GPUResource is the extended resource that a pod asks for.
	GPUResource = corev1.ResourceName("nvidia.com/gpu")
)

// OwnVolumes are the volumes of every pod.
var OwnVolumes = []string{"config", "tls", "run", "tmp", "model"}

// ownKeys are prefixes of labels and annotations that tie a pod to its rank and
// its gang.
var ownKeys = []string{
	v1alpha1.Group + "/", v1alpha1.LabelManagedBy, "kueue.x-k8s.io/queue-name", "kueue.x-k8s.io/pod-group", "scheduling.k8s.io/group-name",
}

// resolvePodTemplates refuses patches that cannot be applied.
func resolvePodTemplates(r *Result, spec *v1alpha1.MoEDeploymentSpec) {
	if !r.Feasible.OK {
		return
	}
	for _, g := range []struct {
		name  string
		patch *runtime.RawExtension
	}{{"attention", spec.Groups.Attention.PodTemplate}, {"expert", spec.Groups.Expert.PodTemplate}} {
		if problems := CheckPodTemplate(g.patch); len(problems) > 0 {
			r.Feasible = Finding{Reason: v1alpha1.ReasonPodTemplateInvalid, Message: fmt.Sprintf(
				"groups.%s.podTemplate: %s.", g.name, strings.Join(problems, "; "))}
			return
		}
	}
}

// CheckPodTemplate says what is wrong with a patch of a pod template: fields that
// do not exist, and those that it must not change, by name.
func CheckPodTemplate(patch *runtime.RawExtension) []string {
	if patch == nil {
		return nil
	}
	var t corev1.PodTemplateSpec
	strict, err := kjson.UnmarshalStrict(patch.Raw, &t)
	if err != nil {
		return []string{fmt.Sprintf("not a pod template: %v", err)}
	}
	var c templateCheck
	for _, e := range strict {
		c.add("%v", e)
	}
	c.metadata(&t.ObjectMeta)
	c.spec(&t.Spec)
	return c.problems
}

type templateCheck struct{ problems []string }

func (c *templateCheck) add(format string, args ...any) {
	c.problems = append(c.problems, fmt.Sprintf(format, args...))
}

// forbid reports the fields of a struct that are set although they must not be,
// by their JSON names.
func (c *templateCheck) forbid(path string, object any, fields ...string) {
	v := reflect.ValueOf(object).Elem()
	for i := range v.NumField() {
		name, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("json"), ",")
		if slices.Contains(fields, name) && !v.Field(i).IsZero() {
			c.add("%s.%s must not be set", path, name)
		}
	}
}

func (c *templateCheck) metadata(m *metav1.ObjectMeta) {
	for _, keys := range []struct {
		path string
		set  map[string]string
	}{{"metadata.labels", m.Labels}, {"metadata.annotations", m.Annotations}} {
		for _, key := range slices.Sorted(maps.Keys(keys.set)) {
			if slices.ContainsFunc(ownKeys, func(own string) bool { return strings.HasPrefix(key, own) }) {
				c.add("%s[%s] is the operator's own", keys.path, key)
			}
		}
	}
	rest := m.DeepCopy()
	rest.Labels, rest.Annotations = nil, nil
	if !reflect.DeepEqual(rest, &metav1.ObjectMeta{}) {
		c.add("metadata may hold labels and annotations only")
	}
}

func (c *templateCheck) spec(s *corev1.PodSpec) {
	c.forbid("spec", s, "hostname", "subdomain", "restartPolicy", "schedulingGroup", "nodeName", "automountServiceAccountToken",
		"hostNetwork", "hostPID", "hostIPC", "ephemeralContainers")
	for _, v := range s.Volumes {
		if slices.Contains(OwnVolumes, v.Name) {
			c.add("spec.volumes[%s] is the operator's own", v.Name)
		}
	}
	for _, claim := range s.ResourceClaims {
		if claim.Name == GPUClaim {
			c.add("spec.resourceClaims[%s] is the operator's own", claim.Name)
		}
	}
	for i := range s.InitContainers {
		c.container("spec.initContainers", &s.InitContainers[i], RuntimeContainer, ServerContainer)
	}
	for i := range s.Containers {
		c.container("spec.containers", &s.Containers[i], ServerContainer, RuntimeContainer)
	}
}

// container checks one container: own is the name of the operator's container in
// this list, taken the name of the one in the other list.
func (c *templateCheck) container(list string, k *corev1.Container, own, taken string) {
	path := fmt.Sprintf("%s[%s]", list, cmp.Or(k.Name, "without a name"))
	for _, resources := range []corev1.ResourceList{k.Resources.Limits, k.Resources.Requests} {
		if _, set := resources[GPUResource]; set {
			c.add("%s.resources must not have %s", path, GPUResource)
		}
	}
	switch k.Name {
	case "", taken:
		c.add("%s is not a name for a container of this list", path)
	case own:
		c.forbid(path, k, "image", "command", "args", "ports", "restartPolicy")
		for _, m := range k.VolumeMounts {
			if slices.Contains(OwnVolumes, m.Name) {
				c.add("%s.volumeMounts[%s] is the operator's own", path, m.Name)
			}
		}
		for _, e := range k.Env {
			if strings.HasPrefix(e.Name, "POD_") {
				c.add("%s.env[%s] is the operator's own", path, e.Name)
			}
		}
	}
}
