// SPDX-License-Identifier: Apache-2.0

// Package features holds the Kubernetes feature gates and API versions that the
// project relies on, so that the local cluster and the API server tests cannot
// differ in them.
package features

// Gates is the value of --feature-gates for kube-apiserver,
// kube-controller-manager and kube-scheduler. Gang scheduling of PodGroups needs
// GenericWorkload; the topology constraint and groups of groups are alpha.
// Image volumes need no gate: they are always on since v1.36.
const Gates = "GenericWorkload=true,TopologyAwareWorkloadScheduling=true,CompositePodGroup=true"

// RuntimeConfig is the value of kube-apiserver's --runtime-config: the scheduling
// API versions that are off by default.
const RuntimeConfig = "scheduling.k8s.io/v1beta1=true,scheduling.k8s.io/v1alpha3=true"
