// SPDX-License-Identifier: Apache-2.0

// Package cluster runs a real Kubernetes cluster on one Linux machine, as root
// and without a container engine: etcd and the control plane as processes of the
// host, and any number of nodes, each a network namespace with a containerd,
// kubelet and kube-proxy of its own. The nodes hang on a bridge; pods of
// different nodes reach each other by plain routes, without address translation.
//
// What is decided from the options alone (addresses, configuration files,
// command lines) is in options.go, render.go and components.go; the rest acts on
// the machine. Every step may be repeated, so that Up also repairs.
package cluster
