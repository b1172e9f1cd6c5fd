// SPDX-License-Identifier: Apache-2.0

package tcp_test

import (
	"encoding/binary"
	"io"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/findep/findep-operator/runtime/transport"
	"github.com/findep/findep-operator/runtime/transport/shm"
	"github.com/findep/findep-operator/runtime/transport/shm/shmtest"
	"github.com/findep/findep-operator/runtime/transport/tcp"
)

// TestWhoCannotMeetStaysConnected: both sides can share memory, but not with
// each other, or only one can.
func TestWhoCannotMeetStaysConnected(t *testing.T) {
	for name, tc := range map[string]struct {
		shared [2]*shm.Meeting
		told   bool
	}{
		"different directories": {[2]*shm.Meeting{meeting(t, shm.Options{Directory: shmtest.Directory(t)}), meeting(t, shm.Options{Directory: shmtest.Directory(t)})}, true},
		"the dialler alone":     {[2]*shm.Meeting{meeting(t, shm.Options{}), nil}, false},
		"the listener alone":    {[2]*shm.Meeting{nil, meeting(t, shm.Options{})}, false},
	} {
		t.Run(name, func(t *testing.T) {
			var told atomic.Int32
			var ends []*tcp.Endpoint
			for _, m := range tc.shared {
				ends = append(ends, listen(t, nil, tcp.Options{Shared: m, Unshared: func(int, error) { told.Add(1) }}))
			}
			meshes := connect(t, 1, 1, ends)
			want := []transport.LinkKinds{{Peer: 1, Send: transport.KindTCP, Receive: transport.KindTCP}}
			if got := meshes[0].(transport.Kinds).Kinds(); !slices.Equal(got, want) {
				t.Errorf("links %v, want %v", got, want)
			}
			if (told.Load() > 0) != tc.told {
				t.Errorf("told %d times, want any: %v", told.Load(), tc.told)
			}
			go func() { _ = sendAll(to(t, meshes[0], 1), 0, 1, 5) }()
			if err := receiveAll(from(t, meshes[1], 0), 0, 1, 5); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestBadVerdictsAreRefused: a dialler that asked for a ticket must say truly
// what came of it.
func TestBadVerdictsAreRefused(t *testing.T) {
	for name, verdict := range map[string]byte{"shared, without having come": 1, "unknown": 7} {
		t.Run(name, func(t *testing.T) {
			refused := make(chan string, 1)
			e := listen(t, nil, tcp.Options{Shared: meeting(t, shm.Options{}), HandshakeTimeout: patience,
				Refused: func(reason string, err error) { refused <- reason + ": " + err.Error() }})
			go func() { _, _ = e.Connect(bounded(t), 1, 1, []transport.Peer{{Rank: 0}}) }()
			conn, err := net.Dial("tcp", e.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = conn.Close() }()
			hello := make([]byte, 24)
			binary.LittleEndian.PutUint32(hello, 0x50445046)
			hello[4], hello[6], hello[7], hello[8], hello[20] = 2, 1, 1, 1, 1
			if _, err := conn.Write(hello); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(conn, make([]byte, 20+shm.TicketBytes)); err != nil {
				t.Fatalf("no ticket came: %v", err)
			}
			if _, err := conn.Write([]byte{verdict}); err != nil {
				t.Fatal(err)
			}
			select {
			case got := <-refused:
				if !strings.HasPrefix(got, "handshake: ") {
					t.Errorf("refused for %q", got)
				}
			case <-time.After(patience):
				t.Error("nothing was refused")
			}
		})
	}
}

func TestSharedMemoryCannotBeDelayed(t *testing.T) {
	o := tcp.Options{Plain: true, Delay: time.Millisecond, Shared: meeting(t, shm.Options{})}
	if e, err := tcp.Listen("127.0.0.1:0", nil, o); err == nil {
		_ = e.Close()
		t.Error("a delay and shared memory are taken together")
	}
}
