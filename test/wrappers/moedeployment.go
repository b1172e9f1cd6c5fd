// SPDX-License-Identifier: Apache-2.0

// Package wrappers builds objects for tests. Each builder starts from a valid
// object, so that a test only says what matters to it:
//
//	wrappers.MoEDeployment("tiny").GPUs(2, 3).Replicas(2).Obj()
package wrappers

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/findep/findep-operator/api/v1alpha1"
)

// Namespace is where objects are unless a test says otherwise.
const Namespace = "default"

// MoEDeploymentWrapper builds a MoEDeployment.
type MoEDeploymentWrapper struct{ d v1alpha1.MoEDeployment }

// MoEDeployment is a valid deployment of DeepSeek-V2-Lite on 2 attention and 3
// expert GPUs with the profile of the CPU backend.
func MoEDeployment(name string) *MoEDeploymentWrapper {
	return &MoEDeploymentWrapper{v1alpha1.MoEDeployment{
		TypeMeta:   metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion.String(), Kind: "MoEDeployment"},
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: Namespace},
		Spec: v1alpha1.MoEDeploymentSpec{
			Model: v1alpha1.ModelSpec{
				Name:             "deepseek-ai/DeepSeek-V2-Lite",
				Source:           v1alpha1.ModelSource{URI: "pvc://weights/lite"},
				MaxContextTokens: 512,
			},
			Replicas: ptr.To[int32](1),
			GPUs:     v1alpha1.GPUSpec{Attention: 2, Expert: 3},
			Groups: v1alpha1.GroupsSpec{
				Attention: v1alpha1.GroupSpec{ProfileRef: "h100-sxm"},
				Expert:    v1alpha1.GroupSpec{ProfileRef: "h100-sxm"},
			},
		},
	}}
}

// Obj returns the object.
func (w *MoEDeploymentWrapper) Obj() *v1alpha1.MoEDeployment { return w.d.DeepCopy() }

// Namespace sets the namespace.
func (w *MoEDeploymentWrapper) Namespace(ns string) *MoEDeploymentWrapper {
	w.d.Namespace = ns
	return w
}

// UID sets the UID, for tests without an API server.
func (w *MoEDeploymentWrapper) UID(uid types.UID) *MoEDeploymentWrapper {
	w.d.UID = uid
	return w
}

// Replicas sets the number of instances.
func (w *MoEDeploymentWrapper) Replicas(n int32) *MoEDeploymentWrapper {
	w.d.Spec.Replicas = ptr.To(n)
	return w
}

// GPUs fixes the split.
func (w *MoEDeploymentWrapper) GPUs(attention, expert int32) *MoEDeploymentWrapper {
	w.d.Spec.GPUs = v1alpha1.GPUSpec{Attention: attention, Expert: expert}
	return w
}

// TotalGPUs lets the solver choose the split.
func (w *MoEDeploymentWrapper) TotalGPUs(n int32) *MoEDeploymentWrapper {
	w.d.Spec.GPUs = v1alpha1.GPUSpec{Total: n}
	return w
}

// Model sets the catalogue name.
func (w *MoEDeploymentWrapper) Model(name string) *MoEDeploymentWrapper {
	w.d.Spec.Model.Name = name
	return w
}

// ConfigFrom takes the shape from a ConfigMap; the name is left out.
func (w *MoEDeploymentWrapper) ConfigFrom(configMap string) *MoEDeploymentWrapper {
	w.d.Spec.Model.Name = ""
	w.d.Spec.Model.ConfigFrom = &v1alpha1.ModelConfigSource{Name: configMap}
	return w
}

// Source sets the source of the model's files.
func (w *MoEDeploymentWrapper) Source(uri string) *MoEDeploymentWrapper {
	w.d.Spec.Model.Source = v1alpha1.ModelSource{URI: uri}
	return w
}

// Profile sets the profile of both groups.
func (w *MoEDeploymentWrapper) Profile(name string) *MoEDeploymentWrapper {
	w.d.Spec.Groups.Attention.ProfileRef, w.d.Spec.Groups.Expert.ProfileRef = name, name
	return w
}

// Policy sets the scheduling policy.
func (w *MoEDeploymentWrapper) Policy(p v1alpha1.SchedulePolicy) *MoEDeploymentWrapper {
	w.d.Spec.Schedule.Policy = p
	return w
}

// VLLM makes the pods run vLLM with a version of its plugin.
func (w *MoEDeploymentWrapper) VLLM(pluginVersion string) *MoEDeploymentWrapper {
	w.d.Spec.Engine = v1alpha1.EngineVLLMAFD
	w.d.Spec.VLLM = &v1alpha1.VLLMSpec{Image: "vllm:1", PluginVersion: pluginVersion}
	return w
}

// RuntimeImage sets the image of the sidecar.
func (w *MoEDeploymentWrapper) RuntimeImage(image string) *MoEDeploymentWrapper {
	w.d.Spec.Images.Runtime = image
	return w
}

// With changes anything else.
func (w *MoEDeploymentWrapper) With(change func(*v1alpha1.MoEDeploymentSpec)) *MoEDeploymentWrapper {
	change(&w.d.Spec)
	return w
}

// GPUProfileWrapper builds a GPUProfile.
type GPUProfileWrapper struct{ p v1alpha1.GPUProfile }

// GPUProfile is a valid profile of a middling GPU.
func GPUProfile(name string) *GPUProfileWrapper {
	return &GPUProfileWrapper{v1alpha1.GPUProfile{
		TypeMeta:   metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion.String(), Kind: "GPUProfile"},
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: v1alpha1.GPUProfileSpec{
			Quality:     v1alpha1.ProfileMeasured,
			MemoryBytes: 48 << 30,
			GEMM:        v1alpha1.ComputeModel{AlphaNanoseconds: 10_000, PicosecondsPerGigaMAC: 10_000_000},
			Attention:   v1alpha1.ComputeModel{AlphaNanoseconds: 15_000, PicosecondsPerGigaMAC: 20_000_000},
			Link:        v1alpha1.TransferModel{AlphaNanoseconds: 20_000, PicosecondsPerMegabyte: 40_000_000},
		},
	}}
}

// Obj returns the object.
func (w *GPUProfileWrapper) Obj() *v1alpha1.GPUProfile { return w.p.DeepCopy() }

// Selector sets the node selector from pairs.
func (w *GPUProfileWrapper) Selector(key, value string) *GPUProfileWrapper {
	if w.p.Spec.NodeSelector == nil {
		w.p.Spec.NodeSelector = map[string]string{}
	}
	w.p.Spec.NodeSelector[key] = value
	return w
}

// Memory sets the memory in bytes.
func (w *GPUProfileWrapper) Memory(bytes int64) *GPUProfileWrapper {
	w.p.Spec.MemoryBytes = bytes
	return w
}

// Node is a node with labels.
func Node(name string, labels map[string]string) *corev1.Node {
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}}
}
