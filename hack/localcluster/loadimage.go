// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/findep/findep-operator/hack/localcluster/image"
	"github.com/findep/findep-operator/hack/localcluster/internal/cluster"
)

// imageFlags are the flags of load-image.
type imageFlags struct {
	image      string
	binaries   []string
	files      []string
	entrypoint []string
	user       string
	env        []string
	baseLibs   string
	nodes      []string
}

func loadImageCommand() *cobra.Command {
	var f imageFlags
	var name string
	cmd := &cobra.Command{
		Use:   "load-image --name NAME:TAG [--binary PATH[=/DST]]... [--add SRC=/DST]...",
		Short: "Make an image from local files and load it into the nodes",
		Long: `Make a one-layer image from local files and import it into the containerd of
every node. Pods use it with imagePullPolicy Never or IfNotPresent. An image
without a binary has no entrypoint and serves as an image volume.`,
		Example: `  localcluster load-image --name localhost/findep/manager:dev --binary bin/manager
  localcluster load-image --name localhost/findep/runtime:dev --binary bin/runtime --base-libs auto
  localcluster load-image --name localhost/findep/tinymodel:dev --add test/models/tiny=/model`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			spec, err := f.spec()
			if err != nil {
				return err
			}
			c, err := openExisting(cmd, name)
			if err != nil {
				return err
			}
			return c.LoadImage(cmd.Context(), spec, f.nodes)
		},
	}
	flags := cmd.Flags()
	// Here, --name is the image's and hides the root command's.
	flags.StringVar(&f.image, "name", "", "name and tag of the image")
	flags.StringVar(&name, "cluster", cluster.Defaults().Name, "name of the cluster")
	flags.StringArrayVar(&f.binaries, "binary", nil, "program to add, as PATH or PATH=/DST; the first is the entrypoint")
	flags.StringArrayVar(&f.files, "add", nil, "file or folder to add, as SRC=/DST")
	flags.StringArrayVar(&f.entrypoint, "entrypoint", nil, "one word of the command; repeat for more (default the first binary)")
	flags.StringVar(&f.user, "user", "65532", "numeric user that runs the command")
	flags.StringArrayVar(&f.env, "env", nil, "NAME=VALUE to set for the command")
	flags.StringVar(&f.baseLibs, "base-libs", "none", "auto adds the shared libraries that the programs need; none does not")
	flags.StringArrayVar(&f.nodes, "node", nil, "node to load the image into; repeat for more (default all)")
	_ = cmd.MarkFlagRequired("name")
	return cmd
}

func (f imageFlags) spec() (image.Spec, error) {
	spec := image.Spec{Name: f.image, Entrypoint: f.entrypoint, Env: f.env}
	switch f.baseLibs {
	case "auto":
		spec.Libraries = true
	case "none":
	default:
		return spec, fmt.Errorf("--base-libs %q: use auto or none", f.baseLibs)
	}
	for _, s := range append(append([]string{}, f.binaries...), f.files...) {
		file, err := image.ParseFile(s)
		if err != nil {
			return spec, err
		}
		spec.Files = append(spec.Files, file)
	}
	if len(spec.Entrypoint) == 0 && len(f.binaries) > 0 {
		spec.Entrypoint = []string{spec.Files[0].Destination}
	}
	if len(spec.Entrypoint) > 0 {
		spec.User = f.user
	}
	return spec, nil
}
