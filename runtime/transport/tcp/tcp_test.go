// SPDX-License-Identifier: Apache-2.0

package tcp_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/findep/findep-operator/runtime/identity"
	"github.com/findep/findep-operator/runtime/transport"
	"github.com/findep/findep-operator/runtime/transport/shm"
	"github.com/findep/findep-operator/runtime/transport/tcp"
)

const instance = "findep://serving/deepseek/0"

// patience bounds every wait of these tests; nothing depends on its length.
const patience = 60 * time.Second

// TestMain fails the package if goroutines outlive the tests. The fuzzing
// engine leaves one of its own, so it is not checked then.
func TestMain(m *testing.M) {
	before := runtime.NumGoroutine()
	code := m.Run()
	if flag.Lookup("test.fuzz").Value.String() != "" {
		os.Exit(code)
	}
	deadline := time.Now().Add(patience)
	for code == 0 && runtime.NumGoroutine() > before {
		if time.Now().After(deadline) {
			stacks := make([]byte, 1<<20)
			fmt.Fprintf(os.Stderr, "goroutines leaked:\n%s\n", stacks[:runtime.Stack(stacks, true)])
			code = 1
		}
		time.Sleep(10 * time.Millisecond)
	}
	os.Exit(code)
}

func authority(t testing.TB) *identity.CA {
	t.Helper()
	ca, err := identity.NewCA(time.Now(), nil, "test")
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

func security(t testing.TB, ca *identity.CA, uri string) *tcp.TLS {
	t.Helper()
	bundle, err := ca.Issue(time.Now(), uri, nil, "test", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	source, err := identity.Bytes(bundle)
	if err != nil {
		t.Fatal(err)
	}
	config := identity.Config{Source: source, Peers: []string{instance}}
	server, err := identity.ServerTLS(config)
	if err != nil {
		t.Fatal(err)
	}
	client, err := identity.ClientTLS(config)
	if err != nil {
		t.Fatal(err)
	}
	return &tcp.TLS{Server: server, Client: client}
}

func listen(t testing.TB, s *tcp.TLS, opts tcp.Options) *tcp.Endpoint {
	t.Helper()
	opts.Plain = s == nil
	e, err := tcp.Listen("127.0.0.1:0", s, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return e
}

func bounded(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

func peer(rank int, e *tcp.Endpoint) transport.Peer {
	return transport.Peer{Rank: rank, Address: e.Addr().String()}
}

// connect forms the meshes of an instance of ag attention and eg expert ranks.
func connect(t testing.TB, epoch uint64, ag int, endpoints []*tcp.Endpoint) []transport.Mesh {
	t.Helper()
	ctx := bounded(t)
	var attention, expert []transport.Peer
	for rank, e := range endpoints {
		if rank < ag {
			attention = append(attention, peer(rank, e))
		} else {
			expert = append(expert, peer(rank, e))
		}
	}
	meshes := make([]transport.Mesh, len(endpoints))
	errs := make([]error, len(endpoints))
	var wg sync.WaitGroup
	for rank, e := range endpoints {
		peers := attention
		if rank < ag {
			peers = expert
		}
		wg.Go(func() { meshes[rank], errs[rank] = e.Connect(ctx, epoch, rank, peers) })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	return meshes
}

// variant is a way to carry the bytes; whatever a mesh promises holds for all.
type variant struct {
	name           string
	secure, shared bool
	kind           transport.Kind
}

var variants = []variant{
	{"plain", false, false, transport.KindTCP},
	{"tls", true, false, transport.KindTLS},
	{"shm", false, true, transport.KindShared},
	{"shm after tls", true, true, transport.KindShared},
}

// each runs a test on every variant.
func each(t *testing.T, run func(t *testing.T, v variant)) {
	for _, v := range variants {
		t.Run(v.name, func(t *testing.T) { run(t, v) })
	}
}

// endpoints opens count endpoints of one instance.
func (v variant) endpoints(t testing.TB, count int) []*tcp.Endpoint {
	t.Helper()
	var s *tcp.TLS
	if v.secure {
		s = security(t, authority(t), instance)
	}
	all := make([]*tcp.Endpoint, count)
	for i := range all {
		var opts tcp.Options
		if v.shared {
			opts.Shared = meeting(t, shm.Options{})
			opts.Unshared = func(peer int, err error) { t.Errorf("no shared memory with rank %d: %v", peer, err) }
		}
		all[i] = listen(t, s, opts)
	}
	return all
}

func meeting(t testing.TB, o shm.Options) *shm.Meeting {
	t.Helper()
	m, err := shm.Listen(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return m
}

// pair is one attention rank (0) and one expert rank (1).
func (v variant) pair(t testing.TB) (a, e transport.Mesh) {
	t.Helper()
	meshes := connect(t, 1, 1, v.endpoints(t, 2))
	for rank, m := range meshes {
		want := []transport.LinkKinds{{Peer: 1 - rank, Send: v.kind, Receive: v.kind}}
		if got := m.(transport.Kinds).Kinds(); !slices.Equal(got, want) {
			t.Fatalf("rank %d has links %v, want %v", rank, got, want)
		}
	}
	return meshes[0], meshes[1]
}

// delayed is a pair whose bytes arrive late.
func delayed(t testing.TB, s *tcp.TLS, delay time.Duration) (a, e transport.Mesh) {
	t.Helper()
	opts := tcp.Options{Delay: delay}
	meshes := connect(t, 1, 1, []*tcp.Endpoint{listen(t, s, opts), listen(t, s, opts)})
	return meshes[0], meshes[1]
}

func to(t testing.TB, m transport.Mesh, peer int) transport.Link {
	t.Helper()
	l, err := m.To(peer)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func from(t testing.TB, m transport.Mesh, peer int) transport.Link {
	t.Helper()
	l, err := m.From(peer)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// noise is what payloads are cut from; two cuts at different places differ.
var noise = func() []byte {
	b := make([]byte, 2<<20)
	random := rand.New(rand.NewPCG(1, 2))
	for i := 0; i < len(b); i += 8 {
		binary.LittleEndian.PutUint64(b[i:], random.Uint64())
	}
	return b
}()

// message derives header and parts from who sends what, so that the receiver
// can tell exactly what must arrive.
func message(sender, receiver, index int) (transport.Header, [][]byte) {
	random := rand.New(rand.NewPCG(uint64(sender)<<32|uint64(receiver), uint64(index)))
	sizes := []int{0, 1, 47, 48, 16<<10 - 48, 16 << 10, 16<<10 + 1, 100_000, 1 << 20}
	parts := make([][]byte, random.IntN(5))
	for i := range parts {
		size := sizes[random.IntN(len(sizes))]
		at := random.IntN(len(noise) - size)
		parts[i] = noise[at : at+size]
	}
	return transport.Header{
		Step: uint64(index), Layer: random.Uint32(), MicroBatch: random.Uint32(), Segment: random.Uint32(),
		Rows: uint32(random.IntN(transport.MaxRows + 1)), Pairs: uint32(random.IntN(transport.MaxPairs + 1)),
	}, parts
}

func sendAll(l transport.Link, sender, receiver, count int) error {
	for i := range count {
		h, parts := message(sender, receiver, i)
		if err := l.Send(h, parts...); err != nil {
			return err
		}
	}
	return nil
}

func receiveAll(l transport.Link, sender, receiver, count int) error {
	for i := range count {
		want, parts := message(sender, receiver, i)
		for _, p := range parts {
			want.Bytes += uint64(len(p))
		}
		got, err := l.ReceiveHeader()
		if err != nil {
			return err
		}
		if got != want {
			return fmt.Errorf("message %d: header %+v, want %+v", i, got, want)
		}
		into := make([][]byte, len(parts))
		for j := range parts {
			into[j] = make([]byte, len(parts[j]))
		}
		if err := l.ReceivePayload(into...); err != nil {
			return err
		}
		for j := range parts {
			if !bytes.Equal(into[j], parts[j]) {
				return fmt.Errorf("message %d: part %d differs", i, j)
			}
		}
	}
	return nil
}

func TestExchangeInBothDirectionsAtOnce(t *testing.T) {
	each(t, func(t *testing.T, v variant) {
		for _, tc := range []struct{ ag, eg int }{{1, 1}, {2, 3}} {
			meshes := connect(t, 1, tc.ag, v.endpoints(t, tc.ag+tc.eg))
			const count = 30
			var wg sync.WaitGroup
			check := func(run func() error) {
				wg.Go(func() {
					if err := run(); err != nil {
						t.Error(err)
					}
				})
			}
			for a := range tc.ag {
				for e := tc.ag; e < tc.ag+tc.eg; e++ {
					check(func() error { return sendAll(to(t, meshes[a], e), a, e, count) })
					check(func() error { return receiveAll(from(t, meshes[e], a), a, e, count) })
					check(func() error { return sendAll(to(t, meshes[e], a), e, a, count) })
					check(func() error { return receiveAll(from(t, meshes[a], e), e, a, count) })
				}
			}
			wg.Wait()
			for _, m := range meshes {
				if err := m.Close(); err != nil {
					t.Error(err)
				}
				if _, err := m.To(0); !errors.Is(err, transport.ErrClosed) {
					t.Errorf("after Close, To says %v", err)
				}
			}
		}
	})
}

func TestMisuseLeavesTheLinkUsable(t *testing.T) { each(t, misuse) }

func misuse(t *testing.T, v variant) {
	a, e := v.pair(t)
	out, in := to(t, a, 1), from(t, e, 0)
	for name, err := range map[string]error{
		"too many rows":   out.Send(transport.Header{Rows: transport.MaxRows + 1}),
		"too many pairs":  out.Send(transport.Header{Pairs: transport.MaxPairs + 1}),
		"send on From":    in.Send(transport.Header{}),
		"payload on To":   out.ReceivePayload(),
		"payload unasked": in.ReceivePayload(make([]byte, 1)),
	} {
		if err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if _, err := out.ReceiveHeader(); err == nil {
		t.Error("header on To: no error")
	}
	if _, err := a.To(7); err == nil {
		t.Error("link to an unknown rank: no error")
	}
	if err := out.Send(transport.Header{Rows: 3}, []byte("abc"), nil, []byte("defg")); err != nil {
		t.Fatal(err)
	}
	h, err := in.ReceiveHeader()
	if err != nil || h.Bytes != 7 {
		t.Fatalf("header %+v, %v", h, err)
	}
	if _, err := in.ReceiveHeader(); err == nil || !strings.Contains(err.Error(), "7 payload bytes") {
		t.Errorf("second header before the payload: %v", err)
	}
	if err := in.ReceivePayload(make([]byte, 6)); err == nil || !strings.Contains(err.Error(), "parts hold 6 bytes, the message has 7") {
		t.Errorf("short parts: %v", err)
	}
	got := make([]byte, 7)
	if err := in.ReceivePayload(got[:2], got[2:]); err != nil || string(got) != "abcdefg" {
		t.Errorf("payload %q, %v", got, err)
	}
}

func TestAbortWakesEveryBlockedCall(t *testing.T) { each(t, abortBlocked) }

func abortBlocked(t *testing.T, v variant) {
	a, e := v.pair(t)
	reason := errors.New("rank 1 is gone")
	results := make(chan error, 3)
	started := make(chan struct{}, 3)
	out, in, expertIn := to(t, a, 1), from(t, a, 1), from(t, e, 0)
	go func() { // Blocks in Send: the peer never reads past the first message.
		started <- struct{}{}
		for {
			if err := out.Send(transport.Header{}, make([]byte, 1<<20)); err != nil {
				results <- err
				return
			}
		}
	}()
	go func() { // Blocks in ReceiveHeader: the peer never sends.
		started <- struct{}{}
		_, err := in.ReceiveHeader()
		results <- err
	}()
	if _, err := expertIn.ReceiveHeader(); err != nil {
		t.Fatal(err)
	}
	<-started
	<-started
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() { a.Abort(reason) })
	}
	wg.Wait()
	for range 2 {
		if err := <-results; !errors.Is(err, transport.ErrAborted) || !errors.Is(err, reason) {
			t.Errorf("woken with %v", err)
		}
	}
	if err := out.Send(transport.Header{}); !errors.Is(err, transport.ErrAborted) {
		t.Errorf("Send after Abort: %v", err)
	}
	if _, err := a.From(1); !errors.Is(err, transport.ErrAborted) {
		t.Errorf("From after Abort: %v", err)
	}
	if err := a.Close(); err != nil {
		t.Errorf("Close after Abort: %v", err)
	}
	// The other side notices without any abort of its own.
	for {
		if err := expertIn.ReceivePayload(make([]byte, 1<<20)); err != nil {
			if errors.Is(err, transport.ErrAborted) || !strings.Contains(err.Error(), "rank 1 with rank 0, A2E, epoch 1") {
				t.Errorf("the peer of the aborted side got %v", err)
			}
			break
		}
		if _, err := expertIn.ReceiveHeader(); err != nil {
			break
		}
	}
}

func TestNewEpochReplacesTheOld(t *testing.T) { each(t, replaceEpoch) }

func replaceEpoch(t *testing.T, v variant) {
	endpoints := v.endpoints(t, 2)
	old := connect(t, 3, 1, endpoints)
	oldIn := from(t, old[1], 0)
	blocked := make(chan error, 1)
	go func() { _, err := oldIn.ReceiveHeader(); blocked <- err }()
	meshes := connect(t, 4, 1, endpoints)
	// It is woken by its own abort or by the other side's, whichever is first.
	if err := <-blocked; err == nil {
		t.Error("a call on the old mesh went on")
	}
	if _, err := old[1].To(0); !errors.Is(err, transport.ErrAborted) {
		t.Errorf("the old mesh ended with %v", err)
	}
	if err := to(t, meshes[0], 1).Send(transport.Header{Step: 9}); err != nil {
		t.Fatal(err)
	}
	if h, err := from(t, meshes[1], 0).ReceiveHeader(); err != nil || h.Step != 9 {
		t.Errorf("header %+v, %v", h, err)
	}
	if _, err := endpoints[0].Connect(bounded(t), 4, 0, []transport.Peer{peer(1, endpoints[1])}); err == nil ||
		!strings.Contains(err.Error(), "epoch 4 is over") {
		t.Errorf("the same epoch again: %v", err)
	}
}

func TestEarlyArrivalWaitsForItsEpoch(t *testing.T) {
	for _, tc := range []struct {
		name    string
		timeout time.Duration
		refuses bool
	}{
		{"within the handshake timeout", patience, false},
		{"beyond it, by dialling again", 60 * time.Millisecond, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			refused := make(chan string, 1000)
			a := listen(t, nil, tcp.Options{})
			e := listen(t, nil, tcp.Options{HandshakeTimeout: tc.timeout, Refused: func(reason string, _ error) { refused <- reason }})
			done := make(chan error, 1)
			ctx := bounded(t)
			go func() { _, err := a.Connect(ctx, 5, 0, []transport.Peer{peer(1, e)}); done <- err }()
			if tc.refuses {
				if got := <-refused; got != "epoch" {
					t.Errorf("refused for %q", got)
				}
			}
			if _, err := e.Connect(ctx, 5, 1, []transport.Peer{peer(0, a)}); err != nil {
				t.Fatal(err)
			}
			if err := <-done; err != nil {
				t.Fatal(err)
			}
			if got := e.Refused()["epoch"]; (got > 0) != tc.refuses {
				t.Errorf("%d refusals by epoch, want any: %v", got, tc.refuses)
			}
		})
	}
}

func TestConnectErrors(t *testing.T) {
	e := listen(t, nil, tcp.Options{})
	for _, tc := range []struct {
		name  string
		epoch uint64
		self  int
		peers []int
		want  string
	}{
		{"epoch zero", 0, 0, []int{1}, "epoch is 0"},
		{"no peers", 1, 0, nil, "with 0 peers"},
		{"own rank", 1, 1, []int{1}, "not in the group opposite"},
		{"both sides", 1, 1, []int{0, 2}, "not in the group opposite"},
		{"twice", 1, 0, []int{1, 1}, "listed twice"},
		{"negative", 1, 1, []int{-1}, "out of range"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var peers []transport.Peer
			for _, rank := range tc.peers {
				peers = append(peers, peer(rank, e))
			}
			_, err := e.Connect(bounded(t), tc.epoch, tc.self, peers)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v, want %q in it", err, tc.want)
			}
		})
	}
	if _, err := tcp.Listen("127.0.0.1:0", nil, tcp.Options{}); err == nil || !strings.Contains(err.Error(), "Plain") {
		t.Errorf("no TLS without asking: %v", err)
	}
}

func TestMissingPeersAreNamed(t *testing.T) {
	// Nobody listens here. A port that was free a moment ago may be anybody's.
	const address = "127.0.0.1:1"
	for _, tc := range []struct {
		name string
		self int
	}{{"attention side dials", 0}, {"expert side waits", 2}} {
		t.Run(tc.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
			defer cancel()
			_, err := listen(t, nil, tcp.Options{}).Connect(ctx, 1, tc.self, []transport.Peer{{Rank: 1, Address: address}})
			if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "rank 1") || !strings.Contains(err.Error(), address) {
				t.Errorf("error %v", err)
			}
		})
	}
}

func TestRefusals(t *testing.T) {
	ca := authority(t)
	good := security(t, ca, instance)
	for _, tc := range []struct {
		name    string
		dialler *tcp.TLS
		epoch   uint64
		self    int
		target  int
		reason  string
		want    string
	}{
		{"another instance", security(t, ca, "findep://serving/deepseek/1"), 5, 0, 2, "certificate", "tls"},
		{"the operator", security(t, ca, identity.OperatorURI), 5, 0, 2, "certificate", "tls"},
		{"another authority", security(t, authority(t), instance), 5, 0, 2, "certificate", "certificate"},
		{"no TLS", nil, 5, 0, 2, "handshake", ""},
		{"old epoch", good, 4, 0, 2, "epoch", "epoch 4 of rank 0 is over: this rank has seen epoch 5"},
		{"wrong target", good, 5, 0, 3, "rank", "rank 0 dialled for rank 3, this is rank 2"},
		{"unknown rank", good, 5, 1, 2, "rank", "rank 1 is no attention rank of epoch 5"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			refused := make(chan string, 100)
			e := listen(t, good, tcp.Options{Refused: func(reason string, _ error) { refused <- reason }})
			waiting, stop := context.WithCancel(bounded(t))
			done := make(chan struct{})
			go func() {
				defer close(done)
				_, _ = e.Connect(waiting, 5, 2, []transport.Peer{{Rank: 0, Address: "unused:1"}})
			}()
			a := listen(t, tc.dialler, tcp.Options{})
			ctx, cancel := context.WithCancel(bounded(t))
			connected := make(chan error, 1)
			go func() {
				_, err := a.Connect(ctx, tc.epoch, tc.self, []transport.Peer{{Rank: tc.target, Address: e.Addr().String()}})
				connected <- err
			}()
			select {
			case got := <-refused:
				if got != tc.reason {
					t.Errorf("refused for %q, want %q", got, tc.reason)
				}
			case <-time.After(patience):
				t.Error("nothing was refused")
				cancel()
			}
			if tc.want == "" {
				cancel()
			}
			if err := <-connected; err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("dialler's error %v, want %q in it", err, tc.want)
			}
			cancel()
			stop()
			<-done
			if e.Refused()[tc.reason] == 0 {
				t.Errorf("counts %v", e.Refused())
			}
		})
	}
}

// TestRawBytes speaks to a listener byte by byte.
func TestRawBytes(t *testing.T) {
	hello := func(version uint16, epoch uint64) []byte {
		b := make([]byte, 24)
		binary.LittleEndian.PutUint32(b, 0x50445046)
		binary.LittleEndian.PutUint16(b[4:], version)
		b[6] = 1
		binary.LittleEndian.PutUint64(b[8:], epoch)
		binary.LittleEndian.PutUint32(b[20:], 1)
		return b
	}
	for _, tc := range []struct {
		name    string
		send    []byte
		timeout time.Duration
		reason  string
		answer  string
	}{
		{"garbage", bytes.Repeat([]byte{0xff}, 64), patience, "handshake", ""},
		{"half a hello, then silence", hello(2, 1)[:10], 200 * time.Millisecond, "handshake", ""},
		{"another version", hello(9, 1), patience, "version", "version is 9, this side speaks 2"},
		{"old epoch", hello(2, 1), patience, "epoch", "epoch 1 of rank 0 is over"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			refused := make(chan string, 1)
			e := listen(t, nil, tcp.Options{HandshakeTimeout: tc.timeout, Refused: func(reason string, _ error) { refused <- reason }})
			ctx, cancel := context.WithCancel(context.Background())
			cancel()
			_, _ = e.Connect(ctx, 2, 1, []transport.Peer{{Rank: 0}})
			conn, err := net.Dial("tcp", e.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = conn.Close() }()
			if _, err := conn.Write(tc.send); err != nil {
				t.Fatal(err)
			}
			if got := <-refused; got != tc.reason {
				t.Errorf("refused for %q, want %q", got, tc.reason)
			}
			answer, _ := io.ReadAll(conn)
			if !bytes.Contains(answer, []byte(tc.answer)) {
				t.Errorf("answer %q, want %q in it", answer, tc.answer)
			}
		})
	}
}

// TestOversizedHeaderIsRefused lets a peer with a valid hello announce more
// than a rank may be made to reserve.
func TestOversizedHeaderIsRefused(t *testing.T) {
	for _, tc := range []struct {
		name   string
		offset int
		value  uint64
		want   string
	}{
		{"rows", 24, transport.MaxRows + 1, "message rows is 1048577, the limit is 1048576"},
		{"pairs", 28, transport.MaxPairs + 1, "message pairs is 16777217, the limit is 16777216"},
		{"bytes", 32, transport.MaxPayloadBytes + 1, "message bytes is 2147483649, the limit is 2147483648"},
		{"magic", 0, 0, "out of step"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			e := listen(t, nil, tcp.Options{})
			conns := make(chan net.Conn, 2)
			for direction := range 2 {
				go func() {
					conn, err := net.Dial("tcp", e.Addr().String())
					if err != nil {
						t.Error(err)
					}
					b := make([]byte, 24)
					binary.LittleEndian.PutUint32(b, 0x50445046)
					b[4], b[6], b[8], b[20] = 2, byte(direction+1), 1, 1
					if _, err := conn.Write(b); err != nil {
						t.Error(err)
					}
					header := make([]byte, 48)
					binary.LittleEndian.PutUint32(header, 0x4d445046)
					if tc.offset == 32 {
						binary.LittleEndian.PutUint64(header[32:], tc.value)
					} else {
						binary.LittleEndian.PutUint32(header[tc.offset:], uint32(tc.value))
					}
					if _, err := conn.Write(header); err != nil {
						t.Error(err)
					}
					conns <- conn
				}()
			}
			m, err := e.Connect(bounded(t), 1, 1, []transport.Peer{{Rank: 0}})
			if err != nil {
				t.Fatal(err)
			}
			in := from(t, m, 0)
			// Only a header that is accepted lets the second call block.
			limit := time.AfterFunc(patience, func() { m.Abort(errors.New("nothing was refused")) })
			defer limit.Stop()
			for range 2 { // The error is permanent.
				if _, err := in.ReceiveHeader(); err == nil || !strings.Contains(err.Error(), tc.want) {
					t.Errorf("error %v, want %q in it", err, tc.want)
				}
			}
			for range 2 {
				_ = (<-conns).Close()
			}
		})
	}
}

func TestTooManyPendingConnections(t *testing.T) {
	refused := make(chan string, 10)
	e := listen(t, nil, tcp.Options{MaxPending: 2, Refused: func(reason string, _ error) { refused <- reason }})
	for range 3 {
		conn, err := net.Dial("tcp", e.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.Close() }()
	}
	if got := <-refused; got != "handshake" {
		t.Errorf("refused for %q", got)
	}
}

func TestCloseEndsAConnectInProgress(t *testing.T) {
	for _, self := range []int{0, 2} {
		e := listen(t, nil, tcp.Options{})
		done := make(chan error, 1)
		go func() {
			_, err := e.Connect(context.Background(), 1, self, []transport.Peer{{Rank: 1, Address: "127.0.0.1:1"}})
			done <- err
		}()
		if err := e.Close(); err != nil {
			t.Fatal(err)
		}
		if err := <-done; !errors.Is(err, transport.ErrClosed) {
			t.Errorf("rank %d: Connect ended with %v", self, err)
		}
	}
}

func benchmark(b *testing.B, run func(b *testing.B, v variant)) {
	for _, v := range variants[:3] {
		b.Run(v.name, func(b *testing.B) { run(b, v) })
	}
}

// BenchmarkThroughput sends messages of 1 MiB one way.
func BenchmarkThroughput(b *testing.B) {
	benchmark(b, func(b *testing.B, v variant) {
		a, e := v.pair(b)
		out, in := to(b, a, 1), from(b, e, 0)
		payload, into := make([]byte, 1<<20), make([]byte, 1<<20)
		b.SetBytes(1 << 20)
		b.ReportAllocs()
		done := make(chan error, 1)
		go func() {
			for {
				_, err := in.ReceiveHeader()
				if err == nil {
					err = in.ReceivePayload(into)
				}
				if err != nil {
					done <- err
					return
				}
			}
		}()
		for b.Loop() {
			if err := out.Send(transport.Header{}, payload); err != nil {
				b.Fatal(err)
			}
		}
		a.Abort(errors.New("end of benchmark"))
		<-done //nolint:errcheck // It fails, as asked for.
	})
}

// BenchmarkRoundTrip sends 4 KiB there and back.
func BenchmarkRoundTrip(b *testing.B) {
	benchmark(b, func(b *testing.B, v variant) {
		a, e := v.pair(b)
		there, back := to(b, a, 1), to(b, e, 0)
		atExpert, atAttention := from(b, e, 0), from(b, a, 1)
		done := make(chan struct{})
		go func() {
			defer close(done)
			buffer := make([]byte, 4<<10)
			for {
				if _, err := atExpert.ReceiveHeader(); err != nil {
					return
				}
				if atExpert.ReceivePayload(buffer) != nil || back.Send(transport.Header{}, buffer) != nil {
					return
				}
			}
		}()
		buffer := make([]byte, 4<<10)
		b.ReportAllocs()
		for b.Loop() {
			if err := there.Send(transport.Header{}, buffer); err != nil {
				b.Fatal(err)
			}
			if _, err := atAttention.ReceiveHeader(); err != nil {
				b.Fatal(err)
			}
			if err := atAttention.ReceivePayload(buffer); err != nil {
				b.Fatal(err)
			}
		}
		a.Abort(errors.New("end of benchmark"))
		<-done
	})
}
