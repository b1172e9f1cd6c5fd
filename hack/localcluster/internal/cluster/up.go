// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/findep/findep-operator/hack/localcluster/binaries"
)

// Timeouts of single steps, generous for a machine that is busy with something
// else.
const (
	startTimeout = 2 * time.Minute
	readyTimeout = 3 * time.Minute
)

// Up makes the cluster, or starts again what of it has ended. It returns when
// all nodes are Ready with their GPUs and DNS answers.
func (c *Cluster) Up(ctx context.Context) error {
	if err := c.Options.Validate(); err != nil {
		return err
	}
	unlock, err := c.lock()
	if err != nil {
		return err
	}
	defer unlock()
	if c.ready(ctx) {
		c.printf("cluster %s is already up\n", c.Options.Name)
		return nil
	}
	start := time.Now()
	steps := []struct {
		name string
		run  func(context.Context) error
	}{
		{"programs of the host", c.installPackages},
		{"binaries", c.buildBinaries},
		{"configuration, keys and images", c.writeFiles},
		{"network", c.setUpHost},
		{"etcd and kube-apiserver", c.startAPIServer},
		{"controller-manager and scheduler", c.startControllers},
		{"containerd and images of every node", c.startRuntimes},
		{"kubelets", c.startKubelets},
		{"kube-proxies, labels and GPUs", c.finishNodes},
		{"DNS", c.startDNS},
	}
	for _, s := range steps {
		if err := c.phase(s.name, func() error { return s.run(ctx) }); err != nil {
			return err
		}
	}
	c.printf("cluster %s is up after %.1f s: %d nodes, %d GPUs each\n",
		c.Options.Name, time.Since(start).Seconds(), c.Options.Nodes, c.Options.GPUs)
	return nil
}

func (c *Cluster) buildBinaries(ctx context.Context) error {
	names, err := binaries.Cluster.Names()
	if err != nil {
		return err
	}
	return c.Builder.Ensure(ctx, names...)
}

// writeFiles writes all that is decided by the options. The options come first:
// from then on, Down knows the cluster.
func (c *Cluster) writeFiles(ctx context.Context) error {
	if _, err := os.Stat(c.Paths.options()); errors.Is(err, fs.ErrNotExist) {
		if err := c.checkHost(ctx); err != nil {
			return err
		}
		if err := writeJSON(c.Paths.options(), c.Options); err != nil {
			return err
		}
	}
	if err := os.Chmod(c.Paths.Base, 0o711); err != nil {
		return err
	}
	if err := writeAuth(c.Options, c.Paths, time.Now()); err != nil {
		return err
	}
	files, err := sharedFiles(c.Options, c.Paths)
	if err != nil {
		return err
	}
	if err := writeFiles(files); err != nil {
		return err
	}
	for _, i := range c.Options.nodeNumbers() {
		files, err := nodeFiles(c.Options, c.Paths, i, snapshotter(c.Paths.Base))
		if err != nil {
			return err
		}
		if err := writeFiles(files); err != nil {
			return err
		}
		if err := os.MkdirAll(c.Paths.shimSockets(i), 0o711); err != nil {
			return err
		}
	}
	return c.writeOwnImages()
}

func writeFiles(files map[string][]byte) error {
	for path, content := range files {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, content, 0o644); err != nil {
			return err
		}
	}
	return nil
}

func (c *Cluster) setUpHost(ctx context.Context) error {
	if err := c.prepareHost(ctx); err != nil {
		return err
	}
	if err := c.setUpNetwork(ctx); err != nil {
		return err
	}
	h, err := hostHierarchies()
	if err != nil {
		return err
	}
	return h.create(c.Options)
}

// start starts a component unless it runs already with the same arguments.
func (c *Cluster) start(comp component) error {
	records, err := loadRecords(c.Paths)
	if err != nil {
		return err
	}
	if c.watched == nil {
		c.watched = map[string]bool{}
	}
	c.watched[comp.name] = true
	if r, ok := records[comp.name]; ok && r.alive() {
		if slices.Equal(r.Args, comp.args) {
			return nil
		}
		r.kill()
	}
	_, err = launch(c.Paths, comp, environment(c.bin()))
	return err
}

// startHealthy starts components and waits until each answers.
func (c *Cluster) startHealthy(ctx context.Context, comps ...component) error {
	for _, comp := range comps {
		if err := c.start(comp); err != nil {
			return err
		}
	}
	for _, comp := range comps {
		err := c.wait(ctx, comp.name, startTimeout, func(ctx context.Context) bool { return healthy(ctx, comp.health) })
		if err != nil {
			return err
		}
	}
	return nil
}

func (c *Cluster) startAPIServer(ctx context.Context) error {
	if err := c.startHealthy(ctx, etcdComponent(c.Options, c.Paths, c.bin())); err != nil {
		return err
	}
	return c.startHealthy(ctx, apiserverComponent(c.Options, c.Paths, c.bin()))
}

func (c *Cluster) startControllers(ctx context.Context) error {
	return c.startHealthy(ctx,
		controllerManagerComponent(c.Options, c.Paths, c.bin()),
		schedulerComponent(c.Options, c.Paths, c.bin()))
}

func (c *Cluster) startRuntimes(ctx context.Context) error {
	for _, i := range c.Options.nodeNumbers() {
		if err := c.start(containerdComponent(c.Options, c.Paths, c.bin(), i)); err != nil {
			return err
		}
	}
	return c.eachNode(c.Options.nodeNumbers(), func(i int) error {
		socket := c.Paths.Socket(i)
		err := c.wait(ctx, socket, startTimeout, func(ctx context.Context) bool { return listening(ctx, socket) })
		if err != nil {
			return err
		}
		for _, image := range c.ownImages() {
			if err := c.importImage(ctx, i, image.archive); err != nil {
				return err
			}
		}
		return nil
	})
}

// eachNode calls f for all given nodes at once.
func (c *Cluster) eachNode(nodes []int, f func(i int) error) error {
	errs := make([]error, len(nodes))
	var group sync.WaitGroup
	for k, i := range nodes {
		group.Go(func() {
			if err := f(i); err != nil {
				errs[k] = fmt.Errorf("%s: %w", c.Options.NodeName(i), err)
			}
		})
	}
	group.Wait()
	return errors.Join(errs...)
}

func (c *Cluster) startKubelets(ctx context.Context) error {
	for _, i := range c.Options.nodeNumbers() {
		if err := c.start(kubeletComponent(c.Options, c.Paths, c.bin(), i)); err != nil {
			return err
		}
	}
	api, err := newAPIClient(c.Options, c.Paths)
	if err != nil {
		return err
	}
	return c.wait(ctx, "all nodes to be Ready", readyTimeout, func(ctx context.Context) bool {
		nodes, err := api.nodes(ctx)
		if err != nil {
			return false
		}
		for _, i := range c.Options.nodeNumbers() {
			if !nodes[c.Options.NodeName(i)].ready() {
				return false
			}
		}
		return true
	})
}

// finishNodes starts the proxies, now that their Nodes exist: a proxy that finds
// none waits half a minute before it tries again.
func (c *Cluster) finishNodes(ctx context.Context) error {
	var proxies []component
	for _, i := range c.Options.nodeNumbers() {
		proxies = append(proxies, proxyComponent(c.Options, c.Paths, c.bin(), i))
	}
	if err := c.startHealthy(ctx, proxies...); err != nil {
		return err
	}
	api, err := newAPIClient(c.Options, c.Paths)
	if err != nil {
		return err
	}
	for _, i := range c.Options.nodeNumbers() {
		if err := api.labelNode(ctx, c.Options, i); err != nil {
			return err
		}
		if err := api.advertiseGPUs(ctx, c.Options, i); err != nil {
			return err
		}
	}
	return c.wait(ctx, "all nodes to show their GPUs", startTimeout, func(ctx context.Context) bool {
		nodes, err := api.nodes(ctx)
		for _, i := range c.Options.nodeNumbers() {
			if err != nil || !nodes[c.Options.NodeName(i)].hasGPUs(c.Options) {
				return false
			}
		}
		return true
	})
}

func (c *Cluster) startDNS(ctx context.Context) error {
	_, err := run(ctx, c.Builder.Path("kubectl"), "--kubeconfig="+c.Paths.Kubeconfig(), "apply", "--server-side",
		"--force-conflicts", "--field-manager=localcluster", "-f", filepath.Join(c.Paths.manifests(), "coredns.yaml"))
	if err != nil {
		return err
	}
	api, err := newAPIClient(c.Options, c.Paths)
	if err != nil {
		return err
	}
	return c.wait(ctx, "CoreDNS", readyTimeout, func(ctx context.Context) bool {
		ready, err := api.dnsReady(ctx)
		return err == nil && ready
	})
}
