// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"fmt"

	"github.com/findep/findep-operator/runtime/transport"
	"github.com/findep/findep-operator/runtime/transport/shm"
	"github.com/findep/findep-operator/runtime/transport/tcp"
)

// Values of Options.SharedMemory.
const (
	sharedAuto = "auto"
	sharedOff  = "off"
)

// sharedDirectoryVariable is the environment's way to set SharedDirectory, for
// pods, whose arguments are the operator's.
const sharedDirectoryVariable = "FINDEP_SHARED_DIRECTORY"

func (o *Options) validateShared() error {
	switch {
	case o.SharedMemory != sharedAuto && o.SharedMemory != sharedOff:
		return fmt.Errorf("--shared-memory is %q; use %s or %s", o.SharedMemory, sharedAuto, sharedOff)
	case o.SharedMemory == sharedOff && o.SharedDirectory != "":
		return fmt.Errorf("--shared-directory is %q while --shared-memory is %s; use one of them", o.SharedDirectory, sharedOff)
	case o.SharedDirectory != "" && o.DataDelay > 0:
		return fmt.Errorf("--shared-directory is %q and --data-delay %v; shared memory cannot be delayed, use one of them", o.SharedDirectory, o.DataDelay)
	}
	return nil
}

// listenData opens the listener of the data links, and the place where ranks of
// this machine come to share memory.
func (a *agent) listenData(address string, security *tcp.TLS) error {
	shared, err := a.openShared()
	if err != nil {
		return err
	}
	a.shared = shared
	a.data, err = tcp.Listen(address, security, tcp.Options{
		Plain: a.options.PlainData, Delay: a.options.DataDelay, Shared: shared,
		Unshared: func(peer int, err error) {
			a.log.Info("no shared memory with this peer", "peer", peer, "reason", err.Error())
		},
		Refused: func(reason string, err error) {
			a.log.Warn("data connection refused", "reason", reason, "detail", err.Error())
		},
	})
	return err
}

// openShared is nil where memory is not shared.
func (a *agent) openShared() (*shm.Meeting, error) {
	if a.options.SharedMemory == sharedOff || a.options.DataDelay > 0 {
		return nil, nil
	}
	m, err := shm.Listen(shm.Options{Directory: a.options.SharedDirectory})
	switch {
	case err == nil:
		return m, nil
	case a.options.SharedDirectory != "":
		return nil, fmt.Errorf("--shared-directory: %w", err)
	}
	// Nobody asked for it, and everything works without.
	a.log.Info("no shared memory with ranks of this machine", "reason", err.Error())
	return nil, nil
}

// describe says what carries the rows, to people and metrics.
func (r *rank) describe(epoch uint64, mesh transport.Mesh) {
	m, ok := mesh.(transport.Kinds)
	if !ok {
		return
	}
	links := m.Kinds()
	r.metrics.links.Reset()
	for _, l := range links {
		r.metrics.links.WithLabelValues(string(l.Send), "send").Inc()
		r.metrics.links.WithLabelValues(string(l.Receive), "receive").Inc()
	}
	r.log.Info("data links", "epoch", epoch, "links", links)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.links = links
}

// linkKinds is what carries the rows in the current epoch; empty before the
// first one.
func (r *rank) linkKinds() []transport.LinkKinds {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.links
}
