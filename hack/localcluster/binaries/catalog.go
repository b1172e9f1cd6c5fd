// SPDX-License-Identifier: Apache-2.0

package binaries

import (
	"fmt"
	"sort"
	"strings"
)

// Versions of the pinned programs, as in the go.mod files of the wrapper
// modules (a test keeps the two equal).
const (
	KubernetesVersion = "v1.37.2"
	EtcdVersion       = "v3.7.3"
	ContainerdVersion = "v2.4.2"
	CoreDNSVersion    = "v1.15.0"
	KwokVersion       = "v0.8.0"
	HelmVersion       = "v4.3.1"

	ControllerGenVersion = "v0.23.0"
	KustomizeVersion     = "v5.8.2"
	GolangciLintVersion  = "v2.15.0"
	CRDRefDocsVersion    = "v0.3.0"
)

// Binary is one program that can be built from a wrapper module.
type Binary struct {
	// Name is the file name in the cache folder.
	Name string
	// Version is the module version that the wrapper module pins.
	Version string
	// Module is the wrapper module's folder, relative to the repository root.
	Module string
	// Package is the main package to build.
	Package string
	// Stamp lists the -X assignments that make the program report its version.
	// They reach only the linker, so they do not split the build cache.
	Stamp []string
}

const (
	kubernetesModule = "hack/localcluster/binaries/kubernetes"
	nodeModule       = "hack/localcluster/binaries/node"
	coreDNSModule    = "hack/localcluster/binaries/coredns"
	pauseModule      = "hack/localcluster/binaries/pause"
	toolsModule      = "hack/tools"
	helmModule       = "hack/tools/helm"
	lintModule       = "hack/tools/golangci-lint"
	referenceModule  = "hack/tools/crd-ref-docs"
)

// catalog is ordered so that what the API server tests need comes first, and
// that programs of one module follow each other: the second one then finds
// nearly all its packages in the build cache.
var catalog = []Binary{
	{Name: "etcd", Version: EtcdVersion, Module: nodeModule, Package: "go.etcd.io/etcd/server/v3"},
	kubernetes("kube-apiserver"),
	kubernetes("kubectl"),
	kubernetes("kube-controller-manager"),
	kubernetes("kube-scheduler"),
	kubernetes("kubelet"),
	kubernetes("kube-proxy"),
	containerd("containerd"),
	containerd("containerd-shim-runc-v2"),
	containerd("ctr"),
	{Name: "coredns", Version: CoreDNSVersion, Module: coreDNSModule, Package: "."},
	{Name: "pause", Version: "v0.0.0", Module: pauseModule, Package: "."},
	{Name: "kwok", Version: KwokVersion, Module: nodeModule, Package: "sigs.k8s.io/kwok/cmd/kwok",
		Stamp: []string{"sigs.k8s.io/kwok/pkg/consts.Version=" + KwokVersion}},
	{Name: "controller-gen", Version: ControllerGenVersion, Module: toolsModule,
		Package: "sigs.k8s.io/controller-tools/cmd/controller-gen",
		Stamp:   []string{"sigs.k8s.io/controller-tools/pkg/version.version=" + ControllerGenVersion}},
	{Name: "kustomize", Version: KustomizeVersion, Module: toolsModule,
		Package: "sigs.k8s.io/kustomize/kustomize/v5",
		Stamp:   []string{"sigs.k8s.io/kustomize/api/provenance.version=" + KustomizeVersion}},
	{Name: "helm", Version: HelmVersion, Module: helmModule, Package: "helm.sh/helm/v4/cmd/helm",
		Stamp: []string{"helm.sh/helm/v4/internal/version.version=" + HelmVersion}},
	{Name: "golangci-lint", Version: GolangciLintVersion, Module: lintModule,
		Package: "github.com/golangci/golangci-lint/v2/cmd/golangci-lint",
		Stamp:   []string{"main.version=" + strings.TrimPrefix(GolangciLintVersion, "v")}},
	{Name: "crd-ref-docs", Version: CRDRefDocsVersion, Module: referenceModule,
		Package: "github.com/elastic/crd-ref-docs"},
}

func kubernetes(name string) Binary {
	const version = "k8s.io/component-base/version."
	return Binary{
		Name: name, Version: KubernetesVersion, Module: kubernetesModule,
		Package: "k8s.io/kubernetes/cmd/" + name,
		Stamp: []string{
			// Without these the programs call themselves v0.0.0-master.
			version + "gitVersion=" + KubernetesVersion,
			version + "gitMajor=1", version + "gitMinor=37",
		},
	}
}

func containerd(name string) Binary {
	return Binary{
		Name: name, Version: ContainerdVersion, Module: nodeModule,
		Package: "github.com/containerd/containerd/v2/cmd/" + name,
		Stamp:   []string{"github.com/containerd/containerd/v2/version.Version=" + ContainerdVersion},
	}
}

// Set names a group of binaries that are wanted together.
type Set string

const (
	// ControlPlaneTests is what tests against a bare API server need.
	ControlPlaneTests Set = "envtest"
	// Cluster is what the local cluster runs, and kubectl to look at it.
	Cluster Set = "cluster"
	// Tools is what the Makefile's generate, verify and install targets need.
	Tools Set = "tools"
	// Everything is every binary of the catalogue.
	Everything Set = "all"
)

// Names returns the binaries of the set in build order, or an error that lists
// the known sets.
func (s Set) Names() ([]string, error) {
	switch s {
	case ControlPlaneTests:
		return []string{"etcd", "kube-apiserver", "kubectl"}, nil
	case Cluster:
		return []string{
			"etcd", "kube-apiserver", "kubectl", "kube-controller-manager", "kube-scheduler", "kubelet",
			"kube-proxy", "containerd", "containerd-shim-runc-v2", "ctr", "coredns", "pause",
		}, nil
	case Tools:
		return []string{"controller-gen", "kustomize", "helm", "golangci-lint", "crd-ref-docs"}, nil
	case Everything:
		names := make([]string, 0, len(catalog))
		for _, b := range catalog {
			names = append(names, b.Name)
		}
		return names, nil
	}
	return nil, fmt.Errorf("unknown set %q: use %s, %s, %s or %s", s, ControlPlaneTests, Cluster, Tools, Everything)
}

// Lookup returns the catalogue entry with the given name, or an error that
// lists the known names.
func Lookup(name string) (Binary, error) {
	known := make([]string, 0, len(catalog))
	for _, b := range catalog {
		if b.Name == name {
			return b, nil
		}
		known = append(known, b.Name)
	}
	sort.Strings(known)
	return Binary{}, fmt.Errorf("unknown binary %q: known are %s", name, strings.Join(known, ", "))
}
