// SPDX-License-Identifier: Apache-2.0

package tcp

import (
	"net"
	"syscall"
	"testing"
)

// TestLowMarkReachesTheSocket, and setting it allocates nothing.
func TestLowMarkReachesTheSocket(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	conn, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	raw := conn.(*net.TCPConn)
	read := func() (value int) {
		socket, err := raw.SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		if err := socket.Control(func(fd uintptr) {
			value, err = syscall.GetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVLOWAT)
		}); err != nil {
			t.Fatal(err)
		}
		return value
	}
	mark := newLowMark(&connection{conn: raw, raw: raw})
	for _, n := range []int{70_000, 1} {
		if mark.set(n); read() != n {
			t.Errorf("the mark is %d, want %d", read(), n)
		}
	}
	if allocs := testing.AllocsPerRun(100, func() { mark.set(50_000); mark.set(1) }); allocs != 0 {
		t.Errorf("setting the mark allocates %v times", allocs)
	}
	held := newLowMark(&connection{conn: raw, raw: raw, delayed: true})
	if held.set(70_000); read() != 1 {
		t.Error("a delayed connection has a mark")
	}
}

// TestTheMarkAsksForLessAndLess: never for more than is certain to come, or the
// read would wait for ever.
func TestTheMarkAsksForLessAndLess(t *testing.T) {
	for certain, want := range map[int]int{
		1: 1, minLowMark: minLowMark, minLowMark + 1: minLowMark, 1 << 20: 512 << 10, 100 << 20: maxLowMark,
	} {
		if got := ahead(certain); got != want {
			t.Errorf("of %d bytes the read waits for %d, want %d", certain, got, want)
		}
	}
}
