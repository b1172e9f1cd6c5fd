// SPDX-License-Identifier: Apache-2.0

package local

import (
	"errors"
	"fmt"
	"net"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func portAddress(port int) string { return net.JoinHostPort(Host, fmt.Sprint(port)) }

func TestReservedPortsAreDistinctAndCanBeListenedOnAgain(t *testing.T) {
	seen := map[int]bool{}
	for range 3 {
		ports, held, err := reserve(4)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := held.release(); err != nil {
				t.Error(err)
			}
		})
		for _, p := range ports {
			for _, port := range []int{p.Control, p.Data, p.Metrics} {
				if seen[port] {
					t.Errorf("port %d was given twice", port)
				}
				seen[port] = true
				for range 2 { // A rank, and the one that replaces it.
					l, err := net.Listen("tcp", portAddress(port))
					if err != nil {
						t.Fatal(err)
					}
					_ = l.Close()
				}
			}
		}
	}
}

// TestNoConnectionGetsAReservedPort lets the kernel choose the port of a
// connection among one port only, which it does once that port is let go.
func TestNoConnectionGetsAReservedPort(t *testing.T) {
	l, err := net.Listen("tcp", portAddress(0))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	ports, held, err := reserve(1)
	if err != nil {
		t.Fatal(err)
	}
	port := ports[0].Control
	dial := func() error {
		d := net.Dialer{Control: func(_, _ string, c syscall.RawConn) error {
			var err error
			return errors.Join(c.Control(func(fd uintptr) {
				err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_LOCAL_PORT_RANGE, port|port<<16)
			}), err)
		}}
		c, err := d.Dial("tcp", l.Addr().String())
		if err == nil {
			_ = c.Close()
		}
		return err
	}
	err = dial()
	if releaseErr := held.release(); releaseErr != nil {
		t.Fatal(releaseErr)
	}
	if errors.Is(err, unix.ENOPROTOOPT) {
		t.Skip("needs Linux 6.3, which can choose among some ports only")
	}
	if !errors.Is(err, unix.EADDRNOTAVAIL) {
		t.Errorf("a connection from the reserved port ended with %v", err)
	}
}
