// SPDX-License-Identifier: Apache-2.0

// Package tcp is the data transport over TCP with mutual TLS.
package tcp

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"time"

	"github.com/findep/findep-operator/runtime/transport"
)

// TLS is the protection of both directions; it comes from package identity.
type TLS struct {
	Server, Client *tls.Config
}

// Options tunes an endpoint; the zero value is good.
type Options struct {
	// Plain asks for no TLS; without it, a nil TLS is an error.
	Plain bool
	// HandshakeTimeout bounds TLS and hello of one connection, and how long a
	// connection of a newer epoch waits for this side to reach it.
	HandshakeTimeout time.Duration
	// MaxPending bounds connections that are not part of a mesh yet.
	MaxPending int
	// SocketBufferBytes sets both socket buffers; 0 leaves them to the kernel.
	SocketBufferBytes int
	// Refused, if set, is told about each connection refused, with a reason
	// (certificate, epoch, rank, version, handshake). It must not block.
	Refused func(reason string, err error)
}

// Endpoint is one rank's listener. It lives across epochs.
type Endpoint struct{}

var _ transport.Connector = (*Endpoint)(nil)

var errTODO = errors.New("tcp: not implemented yet")

// Listen opens the listener at addr (host:port).
func Listen(addr string, security *TLS, opts Options) (*Endpoint, error) { return nil, errTODO }

// Addr is where the endpoint listens.
func (e *Endpoint) Addr() net.Addr { return nil }

// Connect implements transport.Connector. Attention ranks (self below every
// peer) dial, expert ranks accept.
func (e *Endpoint) Connect(ctx context.Context, epoch uint64, self int, peers []transport.Peer) (transport.Mesh, error) {
	return nil, errTODO
}

// Refused counts the connections refused, by reason.
func (e *Endpoint) Refused() map[string]uint64 { return nil }

// Close stops listening and aborts the current mesh.
func (e *Endpoint) Close() error { return nil }
