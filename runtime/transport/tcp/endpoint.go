// SPDX-License-Identifier: Apache-2.0

// Package tcp is the data transport over TCP with mutual TLS: the default on
// CPUs, and what needs nothing but a network.
//
// Each pair of an attention and an expert rank has two connections, one per
// direction, so that a full A2E pipe never delays E2A. Attention ranks dial. A
// connection begins with a hello that names protocol version, epoch, both ranks
// and direction; the listener answers with consent or with the reason of its
// refusal. The listener lives across epochs: a hello of an older epoch is
// refused, one of a newer epoch waits, for a bounded time, until this side gets
// there.
//
// Where both sides can share memory (package shm) the connection serves to
// prove who they are and to agree on it, and is closed then. A mesh may have
// links of both kinds.
package tcp

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"net"
	"sync"
	"time"

	"github.com/findep/findep-operator/runtime/transport"
	"github.com/findep/findep-operator/runtime/transport/shm"
)

// Limits and defaults of an endpoint.
const (
	// MaxPeers bounds the peers of one mesh.
	MaxPeers = 4096
	// DefaultHandshakeTimeout is used when Options has none.
	DefaultHandshakeTimeout = 10 * time.Second
	// DefaultMaxPending is used when Options has none.
	DefaultMaxPending = 2 * MaxPeers
)

// TLS is the protection of both directions; it comes from package identity
// with the instance's identity as the only peer.
type TLS struct {
	Server, Client *tls.Config
}

// Options tunes an endpoint; the zero value is good.
type Options struct {
	// Plain asks for no TLS; without it, a nil TLS is an error.
	Plain bool
	// HandshakeTimeout bounds TLS and hello of one connection together with the
	// time that a connection of a newer epoch waits for this side to reach it.
	HandshakeTimeout time.Duration
	// MaxPending bounds connections that are not part of a mesh yet.
	MaxPending int
	// SocketBufferBytes sets both socket buffers. 0 leaves them to the kernel,
	// which grows them as far as the path needs; a fixed size is cut to
	// net.core.[rw]mem_max and is often smaller than that.
	SocketBufferBytes int
	// Delay makes everything that arrives wait, as on a longer path; for
	// experiments. It must be below a tenth of the handshake timeout.
	Delay time.Duration
	// Shared, if set, is where memory is shared with peers of this machine; their
	// links then go through it. It stays the caller's and must outlive the
	// endpoint.
	Shared *shm.Meeting
	// Unshared, if set, is told why a peer that could share memory is reached
	// over a connection after all. It must not block.
	Unshared func(peer int, err error)
	// Refused, if set, is told about each connection refused, with a reason
	// (certificate, epoch, rank, version, handshake). It must not block.
	Refused func(reason string, err error)
}

// Endpoint is one rank's listener, and what dials for it. It lives across
// epochs and has at most one mesh at a time.
type Endpoint struct {
	listener *net.TCPListener
	security *TLS
	opts     Options
	// ctx ends with the endpoint.
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
	// slots bounds the connections in handshake.
	slots chan struct{}

	mu sync.Mutex
	// epoch is the highest that Connect was called for; current is its mesh.
	epoch   uint64
	current *mesh
	// advanced is closed and replaced when epoch grows.
	advanced chan struct{}
	refused  map[string]uint64
}

var _ transport.Connector = (*Endpoint)(nil)

// Listen opens the listener at addr (host:port, port 0 for any). Security nil
// needs Options.Plain.
func Listen(addr string, security *TLS, opts Options) (*Endpoint, error) {
	switch {
	case security == nil && !opts.Plain:
		return nil, errors.New("tcp: no TLS configuration; set Plain to exchange data unprotected")
	case security != nil && (opts.Plain || security.Server == nil || security.Client == nil):
		return nil, errors.New("tcp: TLS needs a server and a client configuration, and excludes Plain")
	}
	if opts.HandshakeTimeout <= 0 {
		opts.HandshakeTimeout = DefaultHandshakeTimeout
	}
	if opts.MaxPending <= 0 {
		opts.MaxPending = DefaultMaxPending
	}
	if opts.Delay < 0 || opts.Delay > opts.HandshakeTimeout/10 {
		return nil, fmt.Errorf("tcp: delay is %v; it must lie between 0 and a tenth of the handshake timeout (%v)", opts.Delay, opts.HandshakeTimeout)
	}
	if err := opts.checkShared(); err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("tcp: listen for data: %w", err)
	}
	e := &Endpoint{
		listener: listener.(*net.TCPListener),
		opts:     opts,
		slots:    make(chan struct{}, opts.MaxPending),
		advanced: make(chan struct{}),
		refused:  map[string]uint64{},
	}
	if security != nil {
		e.security = &TLS{Server: fullRecords(security.Server), Client: fullRecords(security.Client)}
	}
	e.ctx, e.cancel = context.WithCancel(context.Background())
	e.wg.Go(e.accept)
	return e, nil
}

// fullRecords turns off the small records that TLS begins with: they help a
// browser to render early, and cost throughput here.
func fullRecords(c *tls.Config) *tls.Config {
	c = c.Clone()
	c.DynamicRecordSizingDisabled = true
	return c
}

// Addr is where the endpoint listens.
func (e *Endpoint) Addr() net.Addr { return e.listener.Addr() }

// Refused counts the connections refused, by reason (certificate, epoch, rank,
// version, handshake).
func (e *Endpoint) Refused() map[string]uint64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	return maps.Clone(e.refused)
}

// Connect implements transport.Connector. Attention ranks (self below every
// peer) dial, expert ranks accept. The epoch must be higher than that of every
// call before; a mesh of an older epoch is aborted. On failure nothing stays
// open, and the error names the peers that are missing.
func (e *Endpoint) Connect(ctx context.Context, epoch uint64, self int, peers []transport.Peer) (transport.Mesh, error) {
	m, err := newMesh(epoch, self, peers)
	if err != nil {
		return nil, err
	}
	if err := e.begin(m); err != nil {
		return nil, err
	}
	if m.attention {
		err = e.dialAll(ctx, m)
	} else {
		err = m.awaitPeers(ctx)
	}
	if err != nil {
		m.Abort(err)
		return nil, fmt.Errorf("tcp: rank %d, epoch %d: %w", self, epoch, err)
	}
	return m, nil
}

// begin makes m the current mesh and lets early connections of its epoch in.
func (e *Endpoint) begin(m *mesh) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case e.ctx.Err() != nil:
		return transport.ErrClosed
	case m.epoch <= e.epoch:
		return fmt.Errorf("tcp: epoch %d is over: this rank has seen epoch %d", m.epoch, e.epoch)
	}
	if e.current != nil {
		e.current.Abort(fmt.Errorf("epoch %d begins", m.epoch))
	}
	e.epoch, e.current = m.epoch, m
	close(e.advanced)
	e.advanced = make(chan struct{})
	return nil
}

// awaitPeers waits until every attention rank has dialled in.
func (m *mesh) awaitPeers(ctx context.Context) error {
	select {
	case <-m.complete:
		return nil
	case <-m.done:
		return m.failure()
	case <-ctx.Done():
		return fmt.Errorf("%w while waiting for %s", context.Cause(ctx), m.missing())
	}
}

// Close stops listening, aborts the current mesh and waits for every goroutine
// of the endpoint.
func (e *Endpoint) Close() error {
	e.cancel()
	err := e.listener.Close()
	e.mu.Lock()
	if e.current != nil {
		e.current.Abort(transport.ErrClosed)
	}
	e.mu.Unlock()
	e.wg.Wait()
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

func (e *Endpoint) count(reason string, err error) {
	e.mu.Lock()
	e.refused[reason]++
	e.mu.Unlock()
	if e.opts.Refused != nil {
		e.opts.Refused(reason, err)
	}
}

// connection wraps a new socket, with the delay if one was asked for.
func (e *Endpoint) connection(raw *net.TCPConn) *connection {
	if e.opts.Delay == 0 {
		return &connection{conn: raw, raw: raw}
	}
	return &connection{conn: newDelayed(raw, e.opts.Delay, e.wg.Go), raw: raw, delayed: true}
}

// tune sets the socket options of a new connection. Failures are ignored: the
// connection works without.
func (e *Endpoint) tune(c *net.TCPConn) {
	_ = c.SetNoDelay(true)
	// A peer whose machine vanished is noticed even if rendezvous is not used.
	_ = c.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: 10 * time.Second, Interval: 2 * time.Second, Count: 5})
	if n := e.opts.SocketBufferBytes; n > 0 {
		_ = c.SetReadBuffer(n)
		_ = c.SetWriteBuffer(n)
	}
}
