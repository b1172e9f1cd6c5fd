// SPDX-License-Identifier: Apache-2.0

package tcp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/findep/findep-operator/runtime/transport"
	"github.com/findep/findep-operator/runtime/transport/shm"
)

// The dialler's verdict on a ticket: whether the pair uses shared memory from
// here on, or this connection.
const (
	verdictConnection = 0
	verdictShared     = 1
)

// invite makes a ticket for a dialler that may share memory; nil means that
// the connection is used.
func (e *Endpoint) invite(h hello) *shm.Invitation {
	if !h.share || e.opts.Shared == nil {
		return nil
	}
	// The listening side is the expert rank, which writes in direction E2A.
	i, err := e.opts.Shared.Invite(h.direction == e2a)
	if err != nil {
		e.unshared(h.from, err)
		return nil
	}
	return i
}

// ticketText is how a ticket travels in the reply.
func ticketText(i *shm.Invitation) string {
	if i == nil {
		return ""
	}
	return string(i.Ticket[:])
}

// settle waits for the verdict, if there was an invitation, and replaces the
// connection if it is that memory is shared.
func (c *connection) settle(i *shm.Invitation) error {
	if i == nil {
		return nil
	}
	defer i.Withdraw()
	var verdict [1]byte
	if _, err := io.ReadFull(c.conn, verdict[:]); err != nil {
		return fmt.Errorf("verdict: %w", err)
	}
	switch verdict[0] {
	case verdictConnection:
		return nil
	case verdictShared:
		p, err := i.Take()
		if err != nil {
			return err
		}
		c.replace(p)
		return nil
	}
	return fmt.Errorf("verdict is %d, want %d or %d", verdict[0], verdictConnection, verdictShared)
}

// share answers a consent that brought a ticket: it tries to share memory and
// tells the other side whether that worked.
func (e *Endpoint) share(ctx context.Context, c *connection, h hello, text string) error {
	if text == "" {
		return nil
	}
	if !h.share || len(text) != shm.TicketBytes {
		return &protocolError{fmt.Errorf("consent comes with %d bytes; a ticket has %d, and only those who ask get one", len(text), shm.TicketBytes)}
	}
	// The dialler is the attention rank, which writes in direction A2E.
	p, err := e.opts.Shared.Visit(ctx, shm.Ticket([]byte(text)), h.direction == a2e)
	if err != nil {
		e.unshared(h.to, err)
		_, err = c.conn.Write([]byte{verdictConnection})
		return err
	}
	if _, err := c.conn.Write([]byte{verdictShared}); err != nil {
		p.Close()
		return err
	}
	c.replace(p)
	return nil
}

// replace puts shared memory in the connection's place.
func (c *connection) replace(p *shm.Pipe) {
	c.pipe = p
	// An ordinary close, so that the verdict still arrives.
	_ = c.raw.Close()
}

func (e *Endpoint) unshared(peer int, err error) {
	if e.opts.Unshared != nil {
		e.opts.Unshared(peer, err)
	}
}

// checkShared refuses what cannot be combined.
func (o *Options) checkShared() error {
	if o.Shared != nil && o.Delay > 0 {
		return errors.New("tcp: shared memory cannot be delayed; use one of Shared and Delay")
	}
	return nil
}

// Kinds implements transport.Kinds.
func (m *mesh) Kinds() []transport.LinkKinds {
	m.mu.Lock()
	defer m.mu.Unlock()
	var all []transport.LinkKinds
	for rank := range m.peers {
		there, back := m.links[slot{rank, a2e}], m.links[slot{rank, e2a}]
		if there == nil || back == nil {
			return nil
		}
		if !m.attention {
			there, back = back, there
		}
		all = append(all, transport.LinkKinds{Peer: rank, Send: there.kind, Receive: back.kind})
	}
	slices.SortFunc(all, func(a, b transport.LinkKinds) int { return a.Peer - b.Peer })
	return all
}
