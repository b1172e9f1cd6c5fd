// SPDX-License-Identifier: Apache-2.0

// Package binaries builds the programs that the local cluster, the API server
// tests and the Makefile need (Kubernetes, etcd, containerd, CoreDNS, helm and
// so on) from Go modules at pinned versions, and keeps them in a cache folder.
//
// Each family of programs has a wrapper module of its own, which holds nothing
// but the pins: hack/localcluster/binaries/{kubernetes,node,coredns,pause} and
// hack/tools{,/helm,/golangci-lint,/crd-ref-docs}. Families are separate because their
// dependencies cannot be satisfied by one module graph.
package binaries
