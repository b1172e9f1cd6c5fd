// SPDX-License-Identifier: Apache-2.0

package tcp

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/findep/findep-operator/runtime/identity"
)

// accept runs until the listener closes.
func (e *Endpoint) accept() {
	for {
		raw, err := e.listener.AcceptTCP()
		if err != nil {
			if e.ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return
			}
			// Out of file descriptors, for instance: others may become free.
			e.pause(50 * time.Millisecond)
			continue
		}
		select {
		case e.slots <- struct{}{}:
			e.wg.Go(func() {
				defer func() { <-e.slots }()
				e.welcome(raw)
			})
		default:
			e.count(statusBusy.reason(), fmt.Errorf("tcp: %s: %d connections already wait", raw.RemoteAddr(), e.opts.MaxPending))
			_ = raw.Close()
		}
	}
}

func (e *Endpoint) pause(d time.Duration) {
	select {
	case <-time.After(d):
	case <-e.ctx.Done():
	}
}

// welcome brings one accepted connection to its mesh, or refuses it.
func (e *Endpoint) welcome(raw *net.TCPConn) {
	e.tune(raw)
	deadline := time.Now().Add(e.opts.HandshakeTimeout)
	_ = raw.SetDeadline(deadline)
	stop := context.AfterFunc(e.ctx, func() { _ = raw.Close() })
	defer stop()

	c := e.connection(raw)
	if e.security != nil {
		secure := tls.Server(shortReads{c.conn}, e.security.Server)
		if err := secure.HandshakeContext(e.ctx); err != nil {
			e.dropped(c, "TLS handshake", err)
			return
		}
		c.conn = secure
	}
	var frame [helloBytes]byte
	if _, err := io.ReadFull(c.conn, frame[:]); err != nil {
		e.dropped(c, "hello", err)
		return
	}
	h, err := decodeHello(&frame)
	var other versionError
	switch {
	case errors.As(err, &other):
		e.refuse(c, statusVersion, err)
	case err != nil:
		// Whatever this is, it does not understand our reply.
		e.count("handshake", fmt.Errorf("tcp: %s: %w", raw.RemoteAddr(), err))
		c.drop()
	default:
		e.seat(c, h, deadline)
	}
}

// dropped ends a connection that failed before it said what it wants. A peer
// that only connects and leaves, as TCP probes do, is not worth counting.
func (e *Endpoint) dropped(c *connection, what string, err error) {
	c.drop()
	var refused *identity.RefusedError
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET), e.ctx.Err() != nil:
	case errors.As(err, &refused), isAlert(err):
		e.count("certificate", fmt.Errorf("tcp: %s: %s: %w", c.raw.RemoteAddr(), what, err))
	default:
		e.count("handshake", fmt.Errorf("tcp: %s: %s: %w", c.raw.RemoteAddr(), what, err))
	}
}

// refuse tells the dialler why and closes.
func (e *Endpoint) refuse(c *connection, s status, err error) {
	e.mu.Lock()
	epoch := e.epoch
	e.mu.Unlock()
	e.count(s.reason(), fmt.Errorf("tcp: %s: %w", c.raw.RemoteAddr(), err))
	_, _ = c.conn.Write(reply{status: s, epoch: epoch, text: err.Error()}.encode())
	// An ordinary close, so that the reply still arrives.
	_ = c.raw.Close()
}

// seat gives the connection its place in the mesh of its epoch, waiting until
// the deadline for an epoch that has not begun here.
func (e *Endpoint) seat(c *connection, h hello, deadline time.Time) {
	timer := time.NewTimer(time.Until(deadline) - replyReserve(e.opts.HandshakeTimeout))
	defer timer.Stop()
	for {
		e.mu.Lock()
		epoch, m, advanced := e.epoch, e.current, e.advanced
		e.mu.Unlock()
		if h.epoch <= epoch {
			e.seatIn(c, h, epoch, m)
			return
		}
		select {
		case <-advanced:
		case <-timer.C:
			e.refuse(c, statusEarly, fmt.Errorf("epoch %d of rank %d has not begun here: this rank is in epoch %d", h.epoch, h.from, epoch))
			return
		case <-e.ctx.Done():
			c.drop()
			return
		}
	}
}

// replyReserve is the part of the handshake timeout kept for the refusal of a
// connection that waited in vain.
func replyReserve(timeout time.Duration) time.Duration { return timeout / 10 }

// seatIn checks the hello against the current mesh, consents, and adds it.
func (e *Endpoint) seatIn(c *connection, h hello, epoch uint64, m *mesh) {
	if h.epoch < epoch || m.failure() != nil {
		e.refuse(c, statusStale, fmt.Errorf("epoch %d of rank %d is over: this rank has seen epoch %d", h.epoch, h.from, epoch))
		return
	}
	if err := m.expects(h); err != nil {
		e.refuse(c, statusRank, err)
		return
	}
	invitation := e.invite(h)
	_, err := c.conn.Write(reply{status: statusOK, epoch: epoch, text: ticketText(invitation)}.encode())
	if err == nil {
		err = c.settle(invitation)
	} else if invitation != nil {
		invitation.Withdraw()
	}
	if err != nil {
		e.dropped(c, "consent", err)
		return
	}
	_ = c.raw.SetDeadline(time.Time{})
	if !m.add(slot{h.from, h.direction}, c) {
		c.drop()
	}
}

// expects checks that the hello is for this rank and from one of its peers.
func (m *mesh) expects(h hello) error {
	switch {
	case h.to != m.self:
		return fmt.Errorf("rank %d dialled for rank %d, this is rank %d", h.from, h.to, m.self)
	case m.attention:
		return fmt.Errorf("rank %d dialled attention rank %d; attention ranks dial", h.from, m.self)
	}
	if _, ok := m.peers[h.from]; !ok {
		return fmt.Errorf("rank %d is no attention rank of epoch %d", h.from, m.epoch)
	}
	select {
	case <-m.complete:
		return fmt.Errorf("rank %d is already connected for %s in epoch %d", h.from, h.direction, m.epoch)
	default:
		return nil
	}
}

// missing names the peers that are not fully connected.
func (m *mesh) missing() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var ranks []int
	for rank := range m.peers {
		if m.connections[slot{rank, a2e}] == nil || m.connections[slot{rank, e2a}] == nil {
			ranks = append(ranks, rank)
		}
	}
	slices.Sort(ranks)
	const most = 8
	text := make([]string, 0, most+1)
	for i, rank := range ranks {
		if i == most {
			text = append(text, fmt.Sprintf("and %d more", len(ranks)-most))
			break
		}
		text = append(text, fmt.Sprintf("rank %d (%s)", rank, m.peers[rank].Address))
	}
	return strings.Join(text, ", ")
}
