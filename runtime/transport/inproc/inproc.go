// SPDX-License-Identifier: Apache-2.0

// Package inproc is a transport between ranks of one process, over channels.
// It serves tests and simulations of a whole instance: messages are copied, so
// that reusing or overwriting a sent buffer shows as it would on a network, and
// a sender blocks when the receiver is more than a few messages behind.
package inproc

import (
	"context"
	"fmt"
	"io"
	"sync"

	"github.com/findep/findep-operator/runtime/transport"
)

// DefaultDepth is the number of messages a link holds before Send blocks.
const DefaultDepth = 2

// Hub joins the meshes of the ranks of one process. It is safe for concurrent
// use and is itself the Connector of every rank.
type Hub struct {
	depth int
	mu    sync.Mutex
	pipes map[pipeKey]*pipe
}

var _ transport.Connector = (*Hub)(nil)

type pipeKey struct {
	epoch    uint64
	from, to int
}

// NewHub makes a hub whose links hold depth messages; 0 makes every Send wait
// for its receiver.
func NewHub(depth int) *Hub {
	return &Hub{depth: max(depth, 0), pipes: map[pipeKey]*pipe{}}
}

// pipe is one direction between two ranks. gone is closed when either end
// closes or aborts.
type pipe struct {
	messages chan message
	spare    chan []byte
	ready    chan struct{}
	ends     int
	gone     chan struct{}
	once     sync.Once
}

type message struct {
	header  transport.Header
	payload []byte
}

// Connect implements transport.Connector. It returns when every peer has
// called it with the same epoch.
func (h *Hub) Connect(ctx context.Context, epoch uint64, self int, peers []transport.Peer) (transport.Mesh, error) {
	m := &mesh{stop: make(chan struct{}), to: map[int]*link{}, from: map[int]*link{}}
	for _, p := range peers {
		m.to[p.Rank] = &link{mesh: m, peer: p.Rank, pipe: h.attach(pipeKey{epoch, self, p.Rank})}
		m.from[p.Rank] = &link{mesh: m, peer: p.Rank, pipe: h.attach(pipeKey{epoch, p.Rank, self}), receives: true}
	}
	for _, l := range m.links() {
		select {
		case <-l.pipe.ready:
		case <-ctx.Done():
			m.Abort(ctx.Err())
			return nil, fmt.Errorf("rank %d, epoch %d: waiting for rank %d: %w", self, epoch, l.peer, ctx.Err())
		}
	}
	return m, nil
}

// attach returns the pipe of a key. When both ends have it, it leaves the hub,
// so that a later epoch of the same number begins anew.
func (h *Hub) attach(key pipeKey) *pipe {
	h.mu.Lock()
	defer h.mu.Unlock()
	p := h.pipes[key]
	if p == nil || p.isGone() {
		p = &pipe{messages: make(chan message, h.depth), spare: make(chan []byte, h.depth+2), ready: make(chan struct{}), gone: make(chan struct{})}
		h.pipes[key] = p
	}
	if p.ends++; p.ends == 2 {
		close(p.ready)
		delete(h.pipes, key)
	}
	return p
}

func (p *pipe) isGone() bool {
	select {
	case <-p.gone:
		return true
	default:
		return false
	}
}

func (p *pipe) end() { p.once.Do(func() { close(p.gone) }) }

type mesh struct {
	to, from map[int]*link
	once     sync.Once
	stop     chan struct{} // closed after err is set
	err      error
}

func (m *mesh) links() []*link {
	var all []*link
	for _, l := range m.to {
		all = append(all, l)
	}
	for _, l := range m.from {
		all = append(all, l)
	}
	return all
}

// To implements transport.Mesh.
func (m *mesh) To(peer int) (transport.Link, error) { return find(m.to, "to", peer) }

// From implements transport.Mesh.
func (m *mesh) From(peer int) (transport.Link, error) { return find(m.from, "from", peer) }

func find(links map[int]*link, direction string, peer int) (transport.Link, error) {
	if l := links[peer]; l != nil {
		return l, nil
	}
	return nil, fmt.Errorf("inproc: the mesh has no link %s rank %d", direction, peer)
}

// Abort implements transport.Mesh.
func (m *mesh) Abort(reason error) { m.end(fmt.Errorf("%w: %w", transport.ErrAborted, reason)) }

// Close implements transport.Mesh.
func (m *mesh) Close() error {
	m.end(transport.ErrClosed)
	return nil
}

func (m *mesh) end(err error) {
	m.once.Do(func() {
		m.err = err
		close(m.stop)
		for _, l := range m.links() {
			l.pipe.end()
		}
	})
}

// link is one end of a pipe.
type link struct {
	mesh     *mesh
	pipe     *pipe
	peer     int
	receives bool
	pending  *message
	current  message
}

// failure is the error of an operation that found the link ended.
func (l *link) failure() error {
	select {
	case <-l.mesh.stop:
		return l.mesh.err
	default:
		return fmt.Errorf("inproc: rank %d ended the connection: %w", l.peer, io.ErrUnexpectedEOF)
	}
}

// Send implements transport.Link.
func (l *link) Send(h transport.Header, parts ...[]byte) error {
	if l.receives {
		return fmt.Errorf("inproc: the link from rank %d does not send", l.peer)
	}
	h.Bytes = 0
	for _, p := range parts {
		h.Bytes += uint64(len(p))
	}
	if h.Rows > transport.MaxRows || h.Pairs > transport.MaxPairs || h.Bytes > transport.MaxPayloadBytes {
		return fmt.Errorf("inproc: a message of %d rows, %d pairs and %d bytes exceeds the limits", h.Rows, h.Pairs, h.Bytes)
	}
	if l.pipe.isGone() {
		return l.failure()
	}
	payload := l.buffer(int(h.Bytes))
	for _, p := range parts {
		payload = append(payload, p...)
	}
	select {
	case l.pipe.messages <- message{h, payload}:
		return nil
	case <-l.pipe.gone:
		return l.failure()
	}
}

// buffer takes a spare buffer if it is large enough.
func (l *link) buffer(n int) []byte {
	select {
	case b := <-l.pipe.spare:
		if cap(b) >= n {
			return b[:0]
		}
	default:
	}
	return make([]byte, 0, n)
}

// ReceiveHeader implements transport.Link. What a peer sent before it closed
// still arrives; after an abort of this side nothing does.
func (l *link) ReceiveHeader() (transport.Header, error) {
	if !l.receives {
		return transport.Header{}, fmt.Errorf("inproc: the link to rank %d does not receive", l.peer)
	}
	if l.pending != nil {
		return transport.Header{}, fmt.Errorf("inproc: the payload of the last message from rank %d was not read", l.peer)
	}
	select {
	case <-l.mesh.stop:
		return transport.Header{}, l.mesh.err
	default:
	}
	select {
	case l.current = <-l.pipe.messages:
	case <-l.pipe.gone:
		select {
		case l.current = <-l.pipe.messages:
		default:
			return transport.Header{}, l.failure()
		}
	}
	if l.current.header.Bytes > 0 {
		l.pending = &l.current
	}
	return l.current.header, nil
}

// ReceivePayload implements transport.Link.
func (l *link) ReceivePayload(parts ...[]byte) error {
	total := 0
	for _, p := range parts {
		total += len(p)
	}
	if l.pending == nil {
		if total == 0 {
			return nil
		}
		return fmt.Errorf("inproc: no payload from rank %d is waiting, %d bytes were asked for", l.peer, total)
	}
	select {
	case <-l.mesh.stop:
		return l.mesh.err
	default:
	}
	rest := l.pending.payload
	if total != len(rest) {
		return fmt.Errorf("inproc: the message from rank %d has %d bytes, %d were asked for", l.peer, len(rest), total)
	}
	for _, p := range parts {
		rest = rest[copy(p, rest):]
	}
	select {
	case l.pipe.spare <- l.pending.payload:
	default:
	}
	l.pending = nil
	return nil
}
