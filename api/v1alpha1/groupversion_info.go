// SPDX-License-Identifier: Apache-2.0

// Package v1alpha1 holds the types of the API group findep.dev: MoEDeployment,
// which serves a Mixture-of-Experts model on two groups of GPUs, and
// GPUProfile, which holds what was measured about one kind of GPU.
//
// The schema rules (CEL) in the markers are the first line of validation; their
// messages are written for the person who applies the object.
//
// +kubebuilder:object:generate=true
// +kubebuilder:ac:generate=true
// +groupName=findep.dev
package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Group is the API group of this project.
const Group = "findep.dev"

// The scheme registration that clients and managers use.
var (
	// GroupVersion identifies the types of this package.
	GroupVersion = schema.GroupVersion{Group: Group, Version: "v1alpha1"}

	// SchemeGroupVersion is GroupVersion under the name that generated code
	// expects.
	SchemeGroupVersion = GroupVersion

	schemeBuilder = runtime.NewSchemeBuilder(addKnownTypes)

	// AddToScheme adds the types of this package to a scheme.
	AddToScheme = schemeBuilder.AddToScheme
)

func addKnownTypes(s *runtime.Scheme) error {
	s.AddKnownTypes(GroupVersion, &MoEDeployment{}, &MoEDeploymentList{}, &GPUProfile{}, &GPUProfileList{})
	metav1.AddToGroupVersion(s, GroupVersion)
	return nil
}
