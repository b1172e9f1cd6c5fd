// SPDX-License-Identifier: Apache-2.0

package shm

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"net"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// enemy is a peer that writes into the shared memory what it likes.
type enemy struct {
	ring
	bell   bell
	socket *net.UnixConn
}

// against is an end of a ring of the smallest size, and the enemy at its other
// end.
func against(t testing.TB, writes bool) (*Pipe, *enemy) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var sockets [2]*net.UnixConn
	for i, fd := range fds {
		file := os.NewFile(uintptr(fd), "pair")
		c, err := net.FileConn(file)
		_ = file.Close()
		if err != nil {
			t.Fatal(err)
		}
		sockets[i] = c.(*net.UnixConn)
	}
	file, err := newMemory(MinRingBytes)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	p, err := newPipe(file, sockets[0], writes)
	if err != nil {
		t.Fatal(err)
	}
	memory, err := mapMemory(file)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.Close()
		_ = sockets[1].Close()
		_ = unix.Munmap(memory)
	})
	e := &enemy{ring: newRing(memory), socket: sockets[1]}
	if err := e.bell.hang(e.socket); err != nil {
		t.Fatal(err)
	}
	return p, e
}

func TestImpossiblePositionsAreRefused(t *testing.T) {
	for name, count := range map[string]uint64{
		"one too far": MinRingBytes + 1, "behind": math.MaxUint64, "far": 1 << 63,
	} {
		t.Run("writer "+name, func(t *testing.T) {
			p, e := against(t, false)
			e.written.Store(count)
			if err := p.Read(make([]byte, 1), 1); !errors.Is(err, errPosition) {
				t.Errorf("reading: %v", err)
			}
		})
		t.Run("reader "+name, func(t *testing.T) {
			p, e := against(t, true)
			e.read.Store(-count)
			if err := p.Write([]byte{1}); !errors.Is(err, errPosition) {
				t.Errorf("writing: %v", err)
			}
		})
	}
}

// TestNoiseIsRefused: wake-ups without a byte must not keep this rank busy.
func TestNoiseIsRefused(t *testing.T) {
	p, e := against(t, false)
	go func() {
		for {
			if _, err := e.socket.Write(ding); err != nil {
				return
			}
		}
	}()
	if err := p.Read(make([]byte, 1), 1); !errors.Is(err, errNoise) {
		t.Errorf("reading: %v", err)
	}
	p.Close()
}

// TestRingingNeverBlocks: the enemy asks to be woken again and again, and takes
// no wake-up off its socket.
func TestRingingNeverBlocks(t *testing.T) {
	p, e := against(t, true)
	for i := range uint64(100_000) {
		e.readerWants.Store(i + 1)
		e.read.Store(i)
		if err := p.Write([]byte{1}); err != nil {
			t.Fatal(err)
		}
	}
}

// FuzzHostileWriter lets the other side do anything to the memory between two
// reads. The reader gets bytes that are in the ring, or an error.
func FuzzHostileWriter(f *testing.F) {
	op := func(kind byte, value uint64) []byte { return binary.LittleEndian.AppendUint64([]byte{kind}, value) }
	f.Add(op(0, 10))
	f.Add(bytes.Join([][]byte{op(1, MinRingBytes), op(1, 1)}, nil))
	f.Add(bytes.Join([][]byte{op(1, 100), op(2, 7), op(3, 60), op(4, 0), op(0, 5)}, nil))
	f.Fuzz(func(t *testing.T, script []byte) {
		p, e := against(t, false)
		taken := uint64(0)
		for len(script) >= 9 {
			kind, value := script[0], binary.LittleEndian.Uint64(script[1:])
			script = script[9:]
			switch kind % 5 {
			case 0:
				e.written.Store(value)
			case 1:
				e.written.Add(value)
			case 2:
				e.writerWant.Store(value)
				e.readerWants.Store(value)
				e.read.Store(value)
			case 3:
				e.data[value%uint64(len(e.data))]++
			case 4:
				e.bell.ring()
			}
			there := e.written.Load() - taken
			possible := there <= e.capacity()
			n := min(there, 1+value%(2*MinRingBytes))
			if there == 0 {
				continue // The reader would rightly wait.
			}
			want := make([]byte, n)
			for i := range want {
				want[i] = e.data[(taken+uint64(i))%e.capacity()]
			}
			got := make([]byte, n)
			err := p.Read(got, n)
			switch {
			case possible && (err != nil || !bytes.Equal(got, want)):
				t.Fatalf("%d bytes are there, reading %d gave %v", there, n, err)
			case !possible && !errors.Is(err, errPosition):
				t.Fatalf("%d bytes are said to be there in a ring of %d, reading gave %v", there, e.capacity(), err)
			case !possible:
				return
			}
			taken += n
		}
		_ = e.socket.Close()
		for err := error(nil); err == nil; {
			if err = p.Read(make([]byte, MinRingBytes), 1); err != nil && !errors.Is(err, io.EOF) {
				t.Fatalf("after the end: %v", err)
			}
		}
	})
}
