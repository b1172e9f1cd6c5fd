// SPDX-License-Identifier: Apache-2.0

package tcp

import (
	"fmt"
	"net"
	"sync"
	"sync/atomic"

	"github.com/findep/findep-operator/runtime/transport"
	"github.com/findep/findep-operator/runtime/transport/shm"
)

// connection is one established socket: conn is what is read and written (TLS
// or the socket itself), raw the socket below. Ending goes through raw, because
// closing a TLS connection may wait for a peer that does not read.
type connection struct {
	conn net.Conn
	raw  *net.TCPConn
	// delayed tells that bytes are held back between the two.
	delayed bool
	// pipe, if not nil, has taken the place of both.
	pipe *shm.Pipe
}

// drop closes without waiting for anything still unsent.
func (c *connection) drop() {
	_ = c.raw.SetLinger(0)
	c.close()
}

// close lets the peer still read what was sent.
func (c *connection) close() {
	_ = c.raw.Close()
	if c.pipe != nil {
		c.pipe.Close()
	}
}

// slot is the place of one connection of the mesh.
type slot struct {
	peer      int
	direction direction
}

// mesh is one epoch's set of links. It exists from the start of Connect, so
// that Abort and the endpoint can end it while it is being built.
type mesh struct {
	epoch     uint64
	self      int
	attention bool
	peers     map[int]transport.Peer

	// ended is why the mesh is over; it is set before the sockets are closed,
	// so that a call woken by the closing finds it.
	ended atomic.Pointer[error]
	done  chan struct{}
	// complete is closed when every slot is filled.
	complete chan struct{}

	mu          sync.Mutex
	connections map[slot]*connection
	links       map[slot]*link
}

var _ transport.Mesh = (*mesh)(nil)

func newMesh(epoch uint64, self int, peers []transport.Peer) (*mesh, error) {
	m := &mesh{
		epoch: epoch, self: self,
		peers:       make(map[int]transport.Peer, len(peers)),
		done:        make(chan struct{}),
		complete:    make(chan struct{}),
		connections: make(map[slot]*connection, 2*len(peers)),
		links:       make(map[slot]*link, 2*len(peers)),
	}
	if epoch == 0 || len(peers) == 0 || len(peers) > MaxPeers || self < 0 || self >= maxWireRank {
		return nil, fmt.Errorf("tcp: epoch is %d, rank %d, with %d peers; the epoch begins at 1, ranks at 0, and peers number 1 to %d",
			epoch, self, len(peers), MaxPeers)
	}
	m.attention = self < peers[0].Rank
	for _, p := range peers {
		if _, twice := m.peers[p.Rank]; twice || p.Rank < 0 || p.Rank >= maxWireRank {
			return nil, fmt.Errorf("tcp: peer rank %d is listed twice or out of range", p.Rank)
		}
		// Attention ranks come before expert ranks, so all peers of a rank lie
		// on one side of it.
		if p.Rank == self || m.attention != (self < p.Rank) {
			return nil, fmt.Errorf("tcp: peer rank %d is not in the group opposite of rank %d", p.Rank, self)
		}
		m.peers[p.Rank] = p
	}
	return m, nil
}

// To implements transport.Mesh.
func (m *mesh) To(peer int) (transport.Link, error) {
	if m.attention {
		return m.link(slot{peer, a2e})
	}
	return m.link(slot{peer, e2a})
}

// From implements transport.Mesh.
func (m *mesh) From(peer int) (transport.Link, error) {
	if m.attention {
		return m.link(slot{peer, e2a})
	}
	return m.link(slot{peer, a2e})
}

func (m *mesh) link(s slot) (transport.Link, error) {
	if err := m.failure(); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if l, ok := m.links[s]; ok {
		return l, nil
	}
	return nil, fmt.Errorf("tcp: rank %d is no peer of rank %d in epoch %d", s.peer, m.self, m.epoch)
}

// add fills a slot. It reports false if the mesh is over or the slot of a
// complete mesh is taken; the caller then keeps the connection.
func (m *mesh) add(s slot, c *connection) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.failure() != nil || len(m.connections) == 2*len(m.peers) {
		return false
	}
	if old := m.connections[s]; old != nil {
		// The dialler gave up on the old one (it missed our reply) and dialled
		// again, so nothing was sent on it yet.
		old.drop()
	}
	m.connections[s] = c
	if len(m.connections) == 2*len(m.peers) {
		m.buildLinks()
		close(m.complete)
	}
	return true
}

func (m *mesh) buildLinks() {
	for s, c := range m.connections {
		sends := (s.direction == a2e) == m.attention
		m.links[s] = newLink(m, s.peer, s.direction, sends, c)
	}
}

// failure is why the mesh is over, or nil.
func (m *mesh) failure() error {
	if p := m.ended.Load(); p != nil {
		return *p
	}
	return nil
}

// Abort implements transport.Mesh.
func (m *mesh) Abort(reason error) {
	m.end(fmt.Errorf("%w: %w", transport.ErrAborted, reason), (*connection).drop)
}

// Close implements transport.Mesh. What was sent before is still delivered.
func (m *mesh) Close() error {
	m.end(transport.ErrClosed, (*connection).close)
	return nil
}

func (m *mesh) end(err error, closeOne func(*connection)) {
	if !m.ended.CompareAndSwap(nil, &err) {
		return
	}
	close(m.done)
	// A connection added concurrently either sees ended or is in the map here.
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, c := range m.connections {
		closeOne(c)
	}
}
