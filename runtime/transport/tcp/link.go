// SPDX-License-Identifier: Apache-2.0

package tcp

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"

	"github.com/findep/findep-operator/runtime/transport"
	"github.com/findep/findep-operator/runtime/transport/shm"
)

// recordBytes is the plaintext of one full TLS record (RFC 8446, 5.1). Header
// and small parts are gathered up to it, because each record costs one
// encryption and one system call whatever its size.
const recordBytes = 16 << 10

// readAhead is what one read takes beyond a header: small messages then need
// one system call. Large parts are read straight into their destination.
const readAhead = 16 << 10

// link is one direction of one pair: a connection used one way.
type link struct {
	mesh      *mesh
	peer      int
	direction direction
	sends     bool

	// pipe, if not nil, is used instead of the connection.
	pipe *shm.Pipe
	conn net.Conn
	raw  *net.TCPConn
	kind transport.Kind
	// broken is the first error; the stream has no defined position after it.
	broken error

	// Sender's state, kept to send without allocation.
	header [messageBytes]byte
	vec    [][]byte
	bufs   net.Buffers
	record []byte

	// Receiver's state: the payload announced and not yet read.
	reader  *bufio.Reader
	pending uint64
	mark    *lowMark
}

func newLink(m *mesh, peer int, d direction, sends bool, c *connection) *link {
	l := &link{mesh: m, peer: peer, direction: d, sends: sends, conn: c.conn, raw: c.raw, pipe: c.pipe, kind: transport.KindTCP}
	if l.secure() {
		l.kind = transport.KindTLS
	}
	switch {
	case c.pipe != nil:
		l.kind = transport.KindShared
	case !sends:
		l.reader = bufio.NewReaderSize(c.conn, readAhead)
		l.mark = newLowMark(c)
	case l.secure():
		l.record = make([]byte, 0, recordBytes)
	}
	return l
}

func (l *link) secure() bool {
	_, ok := l.conn.(*tls.Conn)
	return ok
}

// Send implements transport.Link.
func (l *link) Send(h transport.Header, parts ...[]byte) error {
	if !l.sends {
		return l.errorf("send", errors.New("this link receives; use the mesh's To"))
	}
	if err := l.usable(); err != nil {
		return err
	}
	h.Bytes = totalBytes(parts)
	if err := checkHeader(&h); err != nil {
		// Nothing was written, so the link stays usable.
		return l.errorf("send", err)
	}
	encodeHeader(&l.header, &h)
	var err error
	switch {
	case l.pipe != nil:
		err = l.pipe.Write(l.gather(parts)...)
		clear(l.vec)
	case l.record != nil:
		err = l.sendRecords(parts)
	default:
		err = l.sendVector(parts)
	}
	return l.fail("send", err)
}

// gather lists header and parts, without copying them.
func (l *link) gather(parts [][]byte) [][]byte {
	l.vec = append(l.vec[:0], l.header[:])
	for _, p := range parts {
		if len(p) > 0 {
			l.vec = append(l.vec, p)
		}
	}
	return l.vec
}

// sendVector hands header and parts to the kernel in one writev.
func (l *link) sendVector(parts [][]byte) error {
	// WriteTo consumes the slice it is called on; the field keeps it from
	// escaping to the heap at each call.
	l.bufs = l.gather(parts)
	_, err := l.bufs.WriteTo(l.raw)
	// The parts belong to the caller again, also for the garbage collector.
	clear(l.vec)
	return err
}

// sendRecords fills TLS records with header and parts, and passes what makes
// whole records by itself without copying.
func (l *link) sendRecords(parts [][]byte) error {
	buffer := append(l.record[:0], l.header[:]...)
	for _, p := range parts {
		for len(p) > 0 {
			if whole := len(p) - len(p)%recordBytes; len(buffer) == 0 && whole > 0 {
				if _, err := l.conn.Write(p[:whole]); err != nil {
					return err
				}
				p = p[whole:]
				continue
			}
			n := min(len(p), recordBytes-len(buffer))
			buffer, p = append(buffer, p[:n]...), p[n:]
			if len(buffer) == recordBytes {
				if _, err := l.conn.Write(buffer); err != nil {
					return err
				}
				buffer = buffer[:0]
			}
		}
	}
	if len(buffer) == 0 {
		return nil
	}
	_, err := l.conn.Write(buffer)
	return err
}

// ReceiveHeader implements transport.Link.
func (l *link) ReceiveHeader() (transport.Header, error) {
	if l.sends {
		return transport.Header{}, l.errorf("receive", errors.New("this link sends; use the mesh's From"))
	}
	if err := l.usable(); err != nil {
		return transport.Header{}, err
	}
	if l.pending > 0 {
		return transport.Header{}, l.errorf("receive",
			fmt.Errorf("%d payload bytes of the last message have not been received", l.pending))
	}
	if err := l.readHeader(); err != nil {
		return transport.Header{}, l.fail("receive", err)
	}
	h, err := decodeHeader(&l.header)
	if err != nil {
		return transport.Header{}, l.fail("receive", err)
	}
	l.pending = h.Bytes
	return h, nil
}

func (l *link) readHeader() error {
	if l.pipe != nil {
		return l.pipe.Read(l.header[:], messageBytes)
	}
	_, err := io.ReadFull(l.reader, l.header[:])
	return err
}

// ReceivePayload implements transport.Link.
func (l *link) ReceivePayload(parts ...[]byte) error {
	if l.sends {
		return l.errorf("receive", errors.New("this link sends; use the mesh's From"))
	}
	if err := l.usable(); err != nil {
		return err
	}
	if n := totalBytes(parts); n != l.pending {
		// Nothing was read, so the link stays usable.
		return l.errorf("receive", fmt.Errorf("parts hold %d bytes, the message has %d", n, l.pending))
	}
	for _, p := range parts {
		if err := l.fill(p); err != nil {
			return l.fail("receive", err)
		}
	}
	if l.mark != nil {
		l.mark.set(1)
	}
	return nil
}

// fill reads one part of a payload. While much of it is still to come, the
// kernel is asked to wait for much: a link slower than memory delivers in
// pieces of a few packets, and to wake for each would take the core from the
// kernels of this rank hundreds of times per message.
func (l *link) fill(p []byte) error {
	if l.pipe != nil {
		err := l.pipe.Read(p, l.pending)
		l.pending -= uint64(len(p))
		return err
	}
	hidden := 0
	if l.secure() {
		hidden = tlsHolds
	}
	for len(p) > 0 {
		// What is buffered may reach beyond this message.
		if certain := int(l.pending) - l.reader.Buffered() - hidden; certain > readAhead {
			l.mark.set(ahead(certain))
		} else {
			l.mark.set(1)
		}
		n, err := l.reader.Read(p)
		p, l.pending = p[n:], l.pending-uint64(n)
		if err != nil && len(p) > 0 {
			return err
		}
	}
	return nil
}

func (l *link) usable() error {
	if err := l.mesh.failure(); err != nil {
		return err
	}
	return l.broken
}

// fail makes an error permanent. The mesh's own end comes first: closing the
// socket is how it wakes a blocked call, so the socket's error says nothing.
func (l *link) fail(verb string, err error) error {
	if err == nil {
		return nil
	}
	if ended := l.mesh.failure(); ended != nil {
		return ended
	}
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF),
		errors.Is(err, io.ErrClosedPipe), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		err = fmt.Errorf("the peer closed the connection: %w", err)
	}
	l.broken = l.errorf(verb, err)
	return l.broken
}

func (l *link) errorf(verb string, err error) error {
	name := "tcp"
	if l.pipe != nil {
		name = "shm"
	}
	return fmt.Errorf("%s: %s, rank %d with rank %d, %s, epoch %d: %w",
		name, verb, l.mesh.self, l.peer, l.direction, l.mesh.epoch, err)
}

func totalBytes(parts [][]byte) uint64 {
	var n uint64
	for _, p := range parts {
		n += uint64(len(p))
	}
	return n
}
