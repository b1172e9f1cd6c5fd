// SPDX-License-Identifier: Apache-2.0

// Package transport moves token rows between attention and expert ranks. A
// Mesh is one rank's set of links for one epoch: to and from each rank of the
// other group. The two directions (A2E, E2A) use separate links, so that they
// overlap, and each link delivers messages in the order they were sent.
package transport

import (
	"context"
	"errors"
)

// Limits on what a peer can make a rank reserve for one message.
const (
	// MaxRows bounds the token rows of one message.
	MaxRows = 1 << 20
	// MaxPairs bounds the (row, expert) pairs of one message.
	MaxPairs = 1 << 24
	// MaxPayloadBytes bounds the payload of one message.
	MaxPayloadBytes = 1 << 31
)

// ErrClosed is returned by every operation on a closed mesh; ErrAborted by
// every operation on an aborted one, wrapped with the reason.
var (
	ErrClosed  = errors.New("transport: mesh is closed")
	ErrAborted = errors.New("transport: mesh was aborted")
)

// Header travels ahead of each payload. Sender and receiver run the same
// schedule, so the receiver knows what Step, Layer, MicroBatch and Segment must
// come next and refuses anything else; Rows and Pairs are what it learns.
type Header struct {
	Step       uint64
	Layer      uint32
	MicroBatch uint32
	Segment    uint32
	Rows       uint32
	Pairs      uint32
	// Bytes is the payload's size; Send fills it.
	Bytes uint64
}

// Link is one direction between this rank and one peer. One goroutine at a
// time uses it.
type Link interface {
	// Send writes the header and the parts as one message. The parts may be
	// reused when it returns. It blocks while the peer does not read.
	Send(h Header, parts ...[]byte) error
	// ReceiveHeader blocks until the next message begins.
	ReceiveHeader() (Header, error)
	// ReceivePayload fills the parts, which together are exactly Bytes of the
	// header just received.
	ReceivePayload(parts ...[]byte) error
}

// Mesh is the set of links of one rank in one epoch.
type Mesh interface {
	// To is the link on which this rank sends to the peer, From the one on
	// which it receives. Peer is a rank of the other group.
	To(peer int) (Link, error)
	From(peer int) (Link, error)
	// Abort fails every pending and later operation on this mesh at once with
	// ErrAborted and the reason; safe to call from any goroutine, repeatedly.
	Abort(reason error)
	// Close frees the mesh.
	Close() error
}

// Kind is what carries a link's bytes.
type Kind string

// The kinds of links.
const (
	KindTCP    Kind = "tcp"
	KindTLS    Kind = "tls"
	KindShared Kind = "shm"
)

// LinkKinds is what carries the rows to and from one peer.
type LinkKinds struct {
	Peer    int  `json:"peer"`
	Send    Kind `json:"send"`
	Receive Kind `json:"receive"`
}

// Kinds is implemented by meshes whose links may differ.
type Kinds interface {
	// Kinds lists every peer, in rank order; nil while the mesh is being made.
	Kinds() []LinkKinds
}

// Peer is where a rank's data listener is.
type Peer struct {
	Rank int
	// Address is host:port.
	Address string
}

// Connector makes the mesh of one epoch. Both sides call it with the same
// epoch; it returns when every link is up or ctx is done.
type Connector interface {
	Connect(ctx context.Context, epoch uint64, self int, peers []Peer) (Mesh, error)
}
