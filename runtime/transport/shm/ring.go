// SPDX-License-Identifier: Apache-2.0

package shm

import (
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"unsafe"
)

// The shared memory begins with four words, each on cache lines of its own
// (processors fetch them in pairs), so that the two sides do not take lines from
// each other, and goes on with the
// ring's bytes.
const (
	// atWritten counts the bytes ever written; only the writer sets it.
	atWritten = 0
	// atRead counts the bytes ever read; only the reader sets it.
	atRead = 128
	// atReaderWants is the count of written bytes at which the writer must wake
	// the reader, 0 while the reader does not wait. atWriterWants is its mirror
	// image over the bytes read.
	atReaderWants = 256
	atWriterWants = 384
	// headerBytes is where the ring's bytes begin.
	headerBytes = 4096
)

// pieces is how many pieces a ring is moved in. The other side is told of each:
// of so few that telling costs nothing, and of enough that both sides copy at
// the same time.
const pieces = 16

// maxVain bounds the wake-ups in a row that bring no byte. An honest peer
// causes at most one or two; a hostile one could keep this rank busy for ever.
const maxVain = 1024

// Errors of a peer that does not keep to the rules.
var (
	errPosition = errors.New("the peer's position in the shared memory is impossible")
	errNoise    = errors.New("the peer rings again and again without moving a byte")
)

// ring is the shared memory of one direction, seen from one side. All words
// may be written by the other process at any time, so each is read once per
// decision and checked; the own position is kept outside of the shared memory.
type ring struct {
	written, read           *atomic.Uint64
	readerWants, writerWant *atomic.Uint64
	data                    []byte // a power of two
}

func newRing(memory []byte) ring {
	word := func(at int) *atomic.Uint64 { return (*atomic.Uint64)(unsafe.Pointer(&memory[at])) } //nolint:gosec // mmap is page aligned, so each word is aligned.
	return ring{
		written: word(atWritten), read: word(atRead),
		readerWants: word(atReaderWants), writerWant: word(atWriterWants),
		data: memory[headerBytes:],
	}
}

func (r *ring) capacity() uint64 { return uint64(len(r.data)) }

func (r *ring) piece() uint64 { return r.capacity() / pieces }

// readable is the number of bytes that the reader, which has read at, may read.
func (r *ring) readable(at uint64) (uint64, error) {
	written := r.written.Load()
	if n := written - at; n <= r.capacity() {
		return n, nil
	}
	return 0, fmt.Errorf("%w: %d bytes written, %d read, and room for %d", errPosition, written, at, r.capacity())
}

// writable is the number of bytes that the writer, which has written at, may
// write.
func (r *ring) writable(at uint64) (uint64, error) {
	read := r.read.Load()
	if n := at - read; n <= r.capacity() {
		return r.capacity() - n, nil
	}
	return 0, fmt.Errorf("%w: %d bytes read, %d written, and room for %d", errPosition, read, at, r.capacity())
}

// from is the contiguous part of the ring at a position, at most n bytes.
func (r *ring) from(at, n uint64) []byte {
	begin := at & (r.capacity() - 1)
	return r.data[begin:min(begin+n, r.capacity())]
}

// side is what the two ends of a ring have in common: waiting for the other
// one's count to reach a value, and waking the other one.
type side struct {
	// available counts what this side may move now.
	available func() (uint64, error)
	// theirs is the other side's count, mine this side's.
	theirs, mine *atomic.Uint64
	// wants is where this side says what it waits for, wanted where the other
	// one does.
	wants, wanted *atomic.Uint64
}

// publish tells the other side that this one has moved up to a position, and
// reports whether it must be woken.
func (s *side) publish(at uint64) bool {
	s.mine.Store(at)
	want := s.wanted.Load()
	// Whoever clears the word wakes, so it happens once.
	return want != 0 && at >= want && s.wanted.CompareAndSwap(want, 0)
}

// await blocks until this side may move at least one byte, and asks to be woken
// only when the other side's count has reached want. Sleep blocks until the
// other side wakes this one; io.EOF means that it never will again.
func (s *side) await(want uint64, sleep func() error) (uint64, error) {
	for range maxVain {
		// Said before the last look, so that either this look sees what the other
		// side published, or the other side sees what is wanted and wakes.
		s.wants.Store(want)
		if s.theirs.Load() >= want {
			s.wants.Store(0)
			return s.available()
		}
		err := sleep()
		s.wants.Store(0)
		n, fault := s.available()
		switch {
		case fault != nil:
			return 0, fault
		case n > 0:
			return n, nil
		case errors.Is(err, io.EOF):
			return 0, io.EOF
		case err != nil:
			return 0, err
		}
	}
	return 0, errNoise
}
