// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/findep/findep-operator/hack/localcluster/binaries"
)

// Cluster is one local cluster, running or not.
type Cluster struct {
	// Options are those the cluster was made with, once it exists.
	Options Options
	// Paths says where its files are.
	Paths Paths
	// Builder provides the binaries.
	Builder *binaries.Builder
	// Out receives one line per step.
	Out io.Writer

	// watched are the components that this Up has started or found running. If
	// one of them ends, waiting is of no use. Others may still be missing, as
	// Up is about to start them.
	watched map[string]bool
}

// ErrNone is returned where a cluster is asked for that does not exist.
var ErrNone = errors.New("there is no such cluster: make it with up")

// Open returns the named cluster, with the options it was made with. If there is
// none, the result has the default options and found is false.
func Open(name string, builder *binaries.Builder, out io.Writer) (c *Cluster, found bool, err error) {
	if !namePattern.MatchString(name) {
		return nil, false, fmt.Errorf("cluster name %q: use 2 to 16 lower-case letters, digits and dashes, beginning with a letter", name)
	}
	c = &Cluster{Options: Defaults(), Paths: NewPaths(filepath.Dir(builder.Bin), name), Builder: builder, Out: out}
	c.Options.Name = name
	data, err := os.ReadFile(c.Paths.options())
	if errors.Is(err, fs.ErrNotExist) {
		return c, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	if err := json.Unmarshal(data, &c.Options); err != nil {
		return nil, false, fmt.Errorf("%s: %w; remove the cluster with down", c.Paths.options(), err)
	}
	return c, true, nil
}

// bin returns the folder of the binaries.
func (c *Cluster) bin() string { return c.Builder.Bin }

func (c *Cluster) printf(format string, args ...any) {
	if c.Out != nil {
		fmt.Fprintf(c.Out, format, args...)
	}
}

// phase runs one step and reports how long it took.
func (c *Cluster) phase(name string, f func() error) error {
	start := time.Now()
	if err := f(); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	c.printf("%-45s %5.1f s\n", name, time.Since(start).Seconds())
	return nil
}

// lock keeps two commands from changing one cluster at a time.
func (c *Cluster) lock() (unlock func(), err error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("a cluster needs network namespaces, mounts and cgroups: run this command as root")
	}
	if err := os.MkdirAll(filepath.Dir(c.Paths.lock()), 0o755); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(c.Paths.lock(), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("another command is changing cluster %s: wait until it has finished (%w)", c.Options.Name, err)
	}
	return func() { f.Close() }, nil
}

// wait polls until done returns true, the time is over or a process that ought
// to run has ended.
func (c *Cluster) wait(ctx context.Context, what string, timeout time.Duration, done func(context.Context) bool) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	for {
		if done(ctx) {
			return nil
		}
		if err := c.checkAlive(); err != nil {
			return fmt.Errorf("waiting for %s: %w", what, err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waited %s for %s in vain; look at the logs in %s", timeout, what, c.Paths.logs())
		case <-time.After(pollEvery):
		}
	}
}

// checkAlive returns an error with the end of its log if a watched process has
// ended.
func (c *Cluster) checkAlive() error {
	records, err := loadRecords(c.Paths)
	if err != nil {
		return err
	}
	for _, r := range records {
		if c.watched[r.Name] && !r.alive() {
			return fmt.Errorf("%s has ended; the end of its log %s:\n%s", r.Name, r.Log, lastLines(r.Log, 8))
		}
	}
	return nil
}
