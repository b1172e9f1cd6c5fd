// SPDX-License-Identifier: Apache-2.0

package local

import (
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/findep/findep-operator/runtime/plan"
)

// reservation keeps ports of Host for the ranks of one instance, from before
// they start until after they have ended.
//
// A port that is found free and let go is anybody's until the rank listens on it,
// and again while a rank is replaced: other programs take it, and so do the other
// ranks, because a connection to a port that nobody listens on may be given that
// very port and connect to itself. Here each port stays bound by a socket that
// does not listen. The kernel gives such a port to no connection and to nobody
// who asks for any port, and still lets a rank listen on it, as long as both
// sockets have SO_REUSEADDR, which Go sets on every listener.
type reservation []int

// reserve keeps three ports per rank.
func reserve(world int) ([]plan.RankPorts, reservation, error) {
	var r reservation
	ports := make([]plan.RankPorts, world)
	for i := range ports {
		for _, p := range []*int{&ports[i].Control, &ports[i].Data, &ports[i].Metrics} {
			var err error
			if *p, err = r.add(); err != nil {
				return nil, nil, errors.Join(fmt.Errorf("local instance: no free port: %w", err), r.release())
			}
		}
	}
	return ports, r, nil
}

func (r *reservation) add() (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("socket: %w", err)
	}
	*r = append(*r, fd)
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		return 0, fmt.Errorf("SO_REUSEADDR: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: netip.MustParseAddr(Host).As4()}); err != nil {
		return 0, fmt.Errorf("bind: %w", err)
	}
	bound, err := unix.Getsockname(fd)
	if err != nil {
		return 0, fmt.Errorf("getsockname: %w", err)
	}
	return bound.(*unix.SockaddrInet4).Port, nil
}

// release gives the ports back.
func (r *reservation) release() error {
	var errs []error
	for _, fd := range *r {
		errs = append(errs, unix.Close(fd))
	}
	*r = nil
	return errors.Join(errs...)
}
