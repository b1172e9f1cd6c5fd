// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"

	"github.com/findep/findep-operator/hack/localcluster/image"
	"github.com/findep/findep-operator/hack/localcluster/internal/cluster"
)

func TestOnlyGivenFlagsCanContradictAnExistingCluster(t *testing.T) {
	existing := cluster.Defaults()
	existing.Nodes, existing.FastFaults = 3, true
	tests := []struct {
		name string
		args []string
		want string
	}{
		{"none given", nil, ""},
		{"same value", []string{"--nodes=3"}, ""},
		{"another number", []string{"--nodes=2"}, "--nodes"},
		{"another switch", []string{"--fast-faults=false"}, "--fast-faults"},
		{"another network", []string{"--pod-cidr=10.1.0.0/16"}, "--pod-cidr"},
		{"another text", []string{"--product=H100"}, "--product"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cmd, wanted := &cobra.Command{}, cluster.Defaults()
			for _, f := range optionFlags {
				f.add(cmd, &wanted)
			}
			if err := cmd.ParseFlags(tt.args); err != nil {
				t.Fatal(err)
			}
			err := sameOptions(cmd, wanted, existing)
			switch {
			case tt.want == "" && err != nil:
				t.Errorf("error = %v, want none", err)
			case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
				t.Errorf("error = %v, want one with %q", err, tt.want)
			}
		})
	}
}

func TestImageFlags(t *testing.T) {
	tests := []struct {
		name  string
		flags imageFlags
		want  image.Spec
		err   string
	}{
		{
			"program", imageFlags{image: "localhost/m:1", binaries: []string{"bin/manager"}, user: "65532", baseLibs: "none"},
			image.Spec{Name: "localhost/m:1", Files: []image.File{{Source: "bin/manager", Destination: "/manager"}},
				Entrypoint: []string{"/manager"}, User: "65532"}, "",
		},
		{
			"program with a command of its own", imageFlags{image: "localhost/m:1", binaries: []string{"bin/m=/opt/m"},
				entrypoint: []string{"/opt/m", "serve"}, user: "0", baseLibs: "auto"},
			image.Spec{Name: "localhost/m:1", Files: []image.File{{Source: "bin/m", Destination: "/opt/m"}},
				Entrypoint: []string{"/opt/m", "serve"}, User: "0", Libraries: true}, "",
		},
		{
			"data", imageFlags{image: "localhost/d:1", files: []string{"model=/"}, user: "65532", baseLibs: "none"},
			image.Spec{Name: "localhost/d:1", Files: []image.File{{Source: "model", Destination: "/"}}}, "",
		},
		{"unknown libraries", imageFlags{baseLibs: "all"}, image.Spec{}, "auto or none"},
		{"relative destination", imageFlags{baseLibs: "none", files: []string{"a=b"}}, image.Spec{}, "absolute"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := tt.flags.spec()
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Errorf("error = %v, want one with %q", err, tt.err)
				}
				return
			}
			if diff := cmp.Diff(tt.want, got); err != nil || diff != "" {
				t.Errorf("error %v, spec (-want +got):\n%s", err, diff)
			}
		})
	}
}

func TestExpandNamesSetsAndBinaries(t *testing.T) {
	got, err := expand([]string{"envtest", "helm"})
	if diff := cmp.Diff([]string{"etcd", "kube-apiserver", "kubectl", "helm"}, got); err != nil || diff != "" {
		t.Errorf("error %v, names (-want +got):\n%s", err, diff)
	}
	if _, err := expand([]string{"kubelett"}); err == nil || !strings.Contains(err.Error(), "kubelet") {
		t.Errorf("error = %v, want one that lists the known names", err)
	}
}
