// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"sync/atomic"
	"time"

	"github.com/findep/findep-operator/runtime/plan"
)

// configPoll is how often the configuration file is looked at. It bounds how
// late a changed schedule takes effect once the file is there.
const configPoll = 500 * time.Millisecond

// maxConfigBytes is a Secret's limit.
const maxConfigBytes = 1 << 20

// configFile keeps the newest valid configuration. Only what is not part of
// the topology may change while the process runs: a changed topology means
// other pods, so it is reported and the old configuration stays in use.
type configFile struct {
	path    string
	log     *slog.Logger
	current atomic.Pointer[plan.Instance]
	hash    string // of the topology
	changed func(*plan.Instance)
	lastBad string
}

func openConfig(path string, log *slog.Logger) (*configFile, error) {
	c := &configFile{path: path, log: log, changed: func(*plan.Instance) {}}
	in, err := c.read()
	if err != nil {
		return nil, err
	}
	if c.hash, err = plan.Hash(in.Topology()); err != nil {
		return nil, err
	}
	c.current.Store(in)
	return c, nil
}

func (c *configFile) read() (*plan.Instance, error) {
	info, err := os.Stat(c.path)
	if err != nil {
		return nil, fmt.Errorf("instance configuration: %w", err)
	}
	if info.Size() > maxConfigBytes {
		return nil, fmt.Errorf("instance configuration %s has %d bytes; at most %d are read", c.path, info.Size(), maxConfigBytes)
	}
	b, err := os.ReadFile(c.path)
	if err != nil {
		return nil, fmt.Errorf("instance configuration: %w", err)
	}
	return plan.DecodeInstance(b)
}

// watch looks at the file until ctx ends.
func (c *configFile) watch(ctx context.Context) {
	tick := time.NewTicker(configPoll)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			c.refresh()
		}
	}
}

// refresh takes over a changed file, and says once what is wrong with a bad
// one.
func (c *configFile) refresh() {
	in, err := c.read()
	if err == nil {
		err = c.accept(in)
	}
	if err == nil {
		c.lastBad = ""
		return
	}
	if err.Error() != c.lastBad {
		c.lastBad = err.Error()
		c.log.Warn("configuration change is not used", "reason", err.Error())
	}
}

func (c *configFile) accept(in *plan.Instance) error {
	hash, err := plan.Hash(in.Topology())
	if err != nil {
		return err
	}
	if hash != c.hash {
		return fmt.Errorf("instance configuration: the topology changed from %s to %s; the pods must be replaced for that", c.hash, hash)
	}
	before, err := c.current.Load().ScheduleHash()
	if err != nil {
		return err
	}
	after, err := in.ScheduleHash()
	if err != nil || before == after {
		return err
	}
	c.current.Store(in)
	c.log.Info("schedule changed", "policy", in.Schedule.Policy, "order", in.Schedule.Order, "scheduleHash", after)
	c.changed(in)
	return nil
}
