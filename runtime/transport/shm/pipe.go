// SPDX-License-Identifier: Apache-2.0

package shm

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

// Pipe is one end of a byte stream between two processes of one machine. It
// goes one way: one end reads and the other writes. One goroutine at a time
// uses it; Close may be called from any.
type Pipe struct {
	ring
	side
	writes bool
	// at counts the bytes that this end has moved. The copy in the shared memory
	// is for the other end and never read back.
	at uint64

	// socket carries nothing but wake-ups, one byte each, and ends when the
	// other process does.
	socket *net.UnixConn
	// gone is set when the other end has hung up.
	gone bool
	bell bell
	// sleep is made once, because a closure per call would be allocated.
	sleep func() error
	woken [64]byte

	// users counts the calls in progress and the pipe itself; the memory is
	// unmapped when none is left, because a copy into it may be going on.
	users  atomic.Int64
	closed atomic.Bool
	memory []byte
}

// newPipe takes over the socket and maps the memory; the file stays the
// caller's.
func newPipe(file *os.File, socket *net.UnixConn, writes bool) (*Pipe, error) {
	memory, err := mapMemory(file)
	if err != nil {
		return nil, err
	}
	p := &Pipe{ring: newRing(memory), writes: writes, socket: socket, memory: memory}
	p.users.Store(1)
	if err := p.bell.hang(socket); err != nil {
		p.Close()
		return nil, err
	}
	r := &p.ring
	if writes {
		p.side = side{
			available: func() (uint64, error) { return r.writable(p.at) },
			theirs:    r.read, mine: r.written, wants: r.writerWant, wanted: r.readerWants,
		}
	} else {
		p.side = side{
			available: func() (uint64, error) { return r.readable(p.at) },
			theirs:    r.written, mine: r.read, wants: r.readerWants, wanted: r.writerWant,
		}
	}
	p.sleep = p.listen
	return p, nil
}

// listen blocks until the other end rings or hangs up.
func (p *Pipe) listen() error {
	if p.gone {
		return io.EOF
	}
	_, err := p.socket.Read(p.woken[:])
	switch {
	case err == nil:
		return nil
	case p.closed.Load():
		return net.ErrClosed
	}
	// However the socket ended, what is in the ring may still be read.
	p.gone = true
	return io.EOF
}

// Write writes all parts, and blocks while the ring is full. It fails with
// io.ErrClosedPipe when the ring is full and the reader has gone.
func (p *Pipe) Write(parts ...[]byte) error {
	if !p.writes {
		return errors.New("shm: this end of the pipe reads")
	}
	if !p.enter() {
		return net.ErrClosed
	}
	defer p.leave()
	left := 0
	for _, part := range parts {
		left += len(part)
	}
	fresh := uint64(0) // bytes copied and not yet published
	for _, part := range parts {
		for len(part) > 0 {
			room, err := p.room(uint64(left), &fresh)
			if err != nil {
				return err
			}
			n := copy(p.from(p.at, min(room, p.piece()-fresh)), part)
			part, left = part[n:], left-n
			p.at, fresh = p.at+uint64(n), fresh+uint64(n)
			if fresh == p.piece() {
				p.tell(&fresh)
			}
		}
	}
	p.tell(&fresh)
	return nil
}

// room waits until the ring has room. To wait for more than one byte saves the
// reader from waking the writer for each piece it takes; half of the ring is
// as much as always comes, whatever the reader waits for.
func (p *Pipe) room(left uint64, fresh *uint64) (uint64, error) {
	if p.closed.Load() {
		return 0, net.ErrClosed
	}
	n, err := p.available()
	if n > 0 || err != nil {
		return n, err
	}
	p.tell(fresh)
	want := min(left, p.capacity()/2)
	n, err = p.await(p.at-p.capacity()+want, p.sleep)
	if errors.Is(err, io.EOF) {
		return 0, io.ErrClosedPipe
	}
	return n, err
}

// tell publishes what was moved, and wakes the other end if it waits for it.
func (p *Pipe) tell(fresh *uint64) {
	if *fresh > 0 && p.publish(p.at) {
		p.bell.ring()
	}
	*fresh = 0
}

// Read fills the buffer. Certain is the number of bytes, the buffer included,
// that the writer is bound to write from here on: while the ring is empty the
// reader sleeps until many of them are there. It fails with io.EOF when the
// writer has gone and all that it wrote was read.
func (p *Pipe) Read(b []byte, certain uint64) error {
	if p.writes {
		return errors.New("shm: this end of the pipe writes")
	}
	if !p.enter() {
		return net.ErrClosed
	}
	defer p.leave()
	for len(b) > 0 {
		if p.closed.Load() {
			return net.ErrClosed
		}
		n, err := p.available()
		if n == 0 && err == nil {
			n, err = p.await(p.at+min(max(certain, 1), p.piece()), p.sleep)
		}
		if err != nil {
			return err
		}
		fresh := uint64(copy(b, p.from(p.at, min(n, p.piece()))))
		b, certain = b[fresh:], certain-min(certain, fresh)
		p.at += fresh
		p.tell(&fresh)
	}
	return nil
}

// Close ends this end. A call in progress returns net.ErrClosed; the other end
// can still read what was written.
func (p *Pipe) Close() {
	if p.closed.CompareAndSwap(false, true) {
		_ = p.socket.Close()
		p.leave()
	}
}

func (p *Pipe) enter() bool {
	for {
		n := p.users.Load()
		if n == 0 || p.closed.Load() {
			return false
		}
		if p.users.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

func (p *Pipe) leave() {
	if p.users.Add(-1) == 0 {
		_ = unix.Munmap(p.memory)
	}
}

// bell wakes the other end by a byte on the socket.
type bell struct {
	raw syscall.RawConn
	// send is made once, because a closure per call would be allocated.
	send func(fd uintptr) bool
}

var ding = []byte{1}

func (b *bell) hang(socket *net.UnixConn) error {
	raw, err := socket.SyscallConn()
	if err != nil {
		return fmt.Errorf("shm: %w", err)
	}
	b.raw = raw
	b.send = func(fd uintptr) bool {
		// Never waits: where the socket is full the other end has enough to wake
		// it, and where it is gone the next sleep says so.
		_ = unix.Send(int(fd), ding, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
		return true
	}
	return nil
}

func (b *bell) ring() { _ = b.raw.Write(b.send) }
