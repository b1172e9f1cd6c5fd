// SPDX-License-Identifier: Apache-2.0

package tcp

import (
	"net"
	"syscall"
)

const (
	// minLowMark and maxLowMark bound the bytes that a read waits for. In between
	// it waits for half of what is still to come: each wake-up takes in much, and
	// little is left to be copied when the last byte arrives.
	minLowMark = 64 << 10
	maxLowMark = 1 << 20
	// oneRead bounds what one read below TLS takes, tlsHolds what TLS can have
	// taken off the socket without having passed it on: a record and one read.
	oneRead  = recordBytes + 1<<10
	tlsHolds = 3 * oneRead
)

// lowMark is the number of bytes that must have arrived before a socket counts
// as readable (SO_RCVLOWAT). It must never exceed what the peer is bound to
// send, or the read would wait for ever; an end of the connection wakes it
// whatever the mark is.
type lowMark struct {
	socket  syscall.RawConn
	current int
	// apply is made once, because a closure per call would be allocated.
	apply func(fd uintptr)
}

func newLowMark(c *connection) *lowMark {
	m := &lowMark{current: 1}
	if c.delayed {
		// What is held back has left the socket, so no mark would be safe.
		return m
	}
	// Without access to the socket every arrival wakes, as it does by default.
	m.socket, _ = c.raw.SyscallConn()
	m.apply = func(fd uintptr) {
		_ = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVLOWAT, m.current)
	}
	return m
}

// ahead is the mark while so many bytes are certain to come.
func ahead(certain int) int { return min(certain, max(certain/2, minLowMark), maxLowMark) }

func (m *lowMark) set(n int) {
	if n == m.current || m.socket == nil {
		return
	}
	m.current = n
	// A closed socket fails the read that follows.
	_ = m.socket.Control(m.apply)
}

// shortReads bounds each read, so that it is known how much the reader above
// can hold back.
type shortReads struct{ net.Conn }

func (s shortReads) Read(p []byte) (int, error) { return s.Conn.Read(p[:min(len(p), oneRead)]) }
