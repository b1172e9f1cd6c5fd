// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/findep/findep-operator/hack/localcluster/image"
)

// ownImage is an image that the cluster itself needs on every node.
type ownImage struct {
	spec    image.Spec
	archive string
}

func (c *Cluster) ownImages() []ownImage {
	program := func(binary, name, user string) ownImage {
		return ownImage{
			archive: filepath.Join(c.Paths.images(), binary+".tar"),
			spec: image.Spec{Name: name, User: user, Entrypoint: []string{"/" + binary},
				Files: []image.File{{Source: c.Builder.Path(binary), Destination: "/" + binary}}},
		}
	}
	return []ownImage{program("pause", pauseImage, "65535"), program("coredns", coreDNSImage, "65532")}
}

func (c *Cluster) writeOwnImages() error {
	if err := os.MkdirAll(c.Paths.images(), 0o755); err != nil {
		return err
	}
	for _, i := range c.ownImages() {
		if _, err := os.Stat(i.archive); err == nil {
			continue
		} else if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err := image.Write(i.spec, i.archive); err != nil {
			return err
		}
	}
	return nil
}

// importImage loads a docker-archive into node i's containerd, in the namespace
// in which the kubelet looks.
func (c *Cluster) importImage(ctx context.Context, i int, archive string) error {
	_, err := run(ctx, c.Builder.Path("ctr"), "-a", c.Paths.Socket(i), "-n", "k8s.io", "images", "import", "--local", archive)
	return err
}

// LoadImage writes the image and imports it into the named nodes, or all if none
// is named. Pods use it with imagePullPolicy Never or IfNotPresent.
func (c *Cluster) LoadImage(ctx context.Context, spec image.Spec, nodeNames []string) error {
	nodes, err := c.nodesByName(nodeNames)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(c.Paths.images(), 0o755); err != nil {
		return err
	}
	archive, err := os.CreateTemp(c.Paths.images(), "load-*.tar")
	if err != nil {
		return err
	}
	archive.Close()
	defer os.Remove(archive.Name())
	return c.phase(fmt.Sprintf("image %s on %d nodes", spec.Name, len(nodes)), func() error {
		if err := image.Write(spec, archive.Name()); err != nil {
			return err
		}
		return c.eachNode(nodes, func(i int) error { return c.importImage(ctx, i, archive.Name()) })
	})
}

// nodesByName returns the numbers of the named nodes, all if none is named.
func (c *Cluster) nodesByName(names []string) ([]int, error) {
	if len(names) == 0 {
		return c.Options.nodeNumbers(), nil
	}
	var nodes []int
	for _, name := range names {
		i, err := strconv.Atoi(strings.TrimPrefix(name, "node"))
		if err != nil || i < 1 || i > c.Options.Nodes || name != c.Options.NodeName(i) {
			return nil, fmt.Errorf("cluster %s has no node %q: its nodes are node1 to node%d", c.Options.Name, name, c.Options.Nodes)
		}
		nodes = append(nodes, i)
	}
	return nodes, nil
}
