// SPDX-License-Identifier: Apache-2.0

package rendezvous_test

import (
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"runtime"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/findep/findep-operator/runtime/identity"
	"github.com/findep/findep-operator/runtime/plan"
	"github.com/findep/findep-operator/runtime/rendezvous"
)

// TestMain fails the package if goroutines outlive the tests. The fuzzing engine
// has some of its own.
func TestMain(m *testing.M) {
	before := runtime.NumGoroutine()
	code := m.Run()
	fuzzing := flag.Lookup("test.fuzz").Value.String() != ""
	deadline := time.Now().Add(patience)
	for code == 0 && !fuzzing && runtime.NumGoroutine() > before {
		if time.Now().After(deadline) {
			stacks := make([]byte, 1<<20)
			fmt.Fprintf(os.Stderr, "goroutines leaked:\n%s\n", stacks[:runtime.Stack(stacks, true)])
			code = 1
		}
		time.Sleep(10 * time.Millisecond)
	}
	os.Exit(code)
}

// patience bounds every wait of these tests; nothing depends on its length.
const patience = 60 * time.Second

// cluster is one instance on the loopback interface.
type cluster struct {
	t        *testing.T
	in       *plan.Instance
	hash     string
	ca       *identity.CA
	interval time.Duration
	timeout  time.Duration
	connect  time.Duration
	ids      func() ([]byte, error)

	leader  *rendezvous.Coordinator
	server  *grpc.Server
	address string
}

func newCluster(t *testing.T, ag, eg int) *cluster {
	t.Helper()
	in := &plan.Instance{
		Namespace: "serving", Deployment: "deepseek", AttentionRanks: ag, ExpertRanks: eg,
		Model:    plan.ModelRef{Name: "m", Path: "/m", MaxContextTokens: 1},
		Schedule: plan.Schedule{Policy: plan.FinDEP, Order: plan.OrderAuto, Chunks: "Auto", Resolve: "Online"},
	}
	for rank := range ag + eg {
		in.Hosts = append(in.Hosts, fmt.Sprintf("rank-%d", rank))
	}
	hash, err := plan.Hash(in.Topology())
	if err != nil {
		t.Fatal(err)
	}
	ca, err := identity.NewCA(time.Now(), nil, "test")
	if err != nil {
		t.Fatal(err)
	}
	c := &cluster{t: t, in: in, hash: hash, ca: ca, interval: 50 * time.Millisecond, timeout: 20 * time.Second, address: "127.0.0.1:0"}
	t.Cleanup(c.stopLeader)
	return c
}

func (c *cluster) source(ca *identity.CA, uri string) identity.Source {
	c.t.Helper()
	bundle, err := ca.Issue(time.Now(), uri, nil, "test", time.Hour)
	if err != nil {
		c.t.Fatal(err)
	}
	source, err := identity.Bytes(bundle)
	if err != nil {
		c.t.Fatal(err)
	}
	return source
}

func (c *cluster) clientTLS(ca *identity.CA, uri string) *tls.Config {
	c.t.Helper()
	config, err := identity.ClientTLS(identity.Config{Source: c.source(ca, uri), Peers: []string{c.in.Identity()}})
	if err != nil {
		c.t.Fatal(err)
	}
	return config
}

func (c *cluster) startLeader() {
	c.t.Helper()
	leader, err := rendezvous.NewCoordinator(rendezvous.Config{
		Instance: c.in, TopologyHash: c.hash, ConnectTimeout: c.connect,
		HeartbeatInterval: c.interval, HeartbeatTimeout: c.timeout, IDs: c.ids,
	})
	if err != nil {
		c.t.Fatal(err)
	}
	config, err := identity.ServerTLS(identity.Config{
		Source: c.source(c.ca, c.in.Identity()), Peers: []string{c.in.Identity(), identity.OperatorURI}, Refused: leader.RefusedPeer,
	})
	if err != nil {
		c.t.Fatal(err)
	}
	var listener net.Listener
	c.eventually("the leader's port to be free", func() bool {
		listener, err = net.Listen("tcp", c.address)
		return err == nil
	})
	c.leader, c.address = leader, listener.Addr().String()
	c.server = grpc.NewServer(rendezvous.ServerOptions(config)...)
	leader.Register(c.server)
	server := c.server
	go func() { _ = server.Serve(listener) }()
}

// stopLeader ends the leader as the death of its process would.
func (c *cluster) stopLeader() {
	if c.server != nil {
		c.server.Stop()
		_ = c.leader.Close()
		c.server = nil
	}
}

func (c *cluster) eventually(what string, done func() bool) {
	c.t.Helper()
	deadline := time.Now().Add(patience)
	for !done() {
		if time.Now().After(deadline) {
			c.t.Fatalf("waited in vain for %s", what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

func (c *cluster) formed() rendezvous.World {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	world, err := c.leader.WaitFormed(ctx)
	if err != nil {
		c.t.Fatal(err)
	}
	return world
}

// abort is what OnAbort was told.
type abort struct {
	epoch  uint64
	reason string
}

// member is one running rank. By default it connects at once and answers each
// step with "rank:payload".
type member struct {
	*rendezvous.Member
	cancel context.CancelFunc
	done   chan struct{}
	aborts chan abort
}

func (m *member) kill() {
	m.cancel()
	<-m.done
}

func (c *cluster) config(rank int) rendezvous.MemberConfig {
	return rendezvous.MemberConfig{
		Leaders: []string{c.address}, Identity: c.in.Identity(), Rank: rank, Role: c.in.RoleOf(rank),
		TopologyHash: c.hash, Host: c.in.Hosts[rank], DataAddress: fmt.Sprintf("127.0.0.1:%d", 1000+rank),
		TLS:        c.clientTLS(c.ca, c.in.Identity()),
		BackoffMin: 5 * time.Millisecond, BackoffMax: 50 * time.Millisecond,
		Connect: func(context.Context, rendezvous.World) error { return nil },
		OnStep: func(_ context.Context, _ uint64, payload []byte) ([]byte, error) {
			return fmt.Appendf(nil, "%d:%s", rank, payload), nil
		},
	}
}

func (c *cluster) start(cfg rendezvous.MemberConfig) *member {
	c.t.Helper()
	m := &member{done: make(chan struct{}), aborts: make(chan abort, 100)}
	inner := cfg.OnAbort
	cfg.OnAbort = func(epoch uint64, reason string) {
		m.aborts <- abort{epoch, reason}
		if inner != nil {
			inner(epoch, reason)
		}
	}
	var err error
	if m.Member, err = rendezvous.NewMember(cfg); err != nil {
		c.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	m.cancel = cancel
	go func() {
		defer close(m.done)
		if err := m.Run(ctx); !errors.Is(err, context.Canceled) {
			c.t.Errorf("Run ended with %v", err)
		}
	}()
	c.t.Cleanup(m.kill)
	return m
}

func (c *cluster) startAll() []*member {
	c.t.Helper()
	members := make([]*member, c.in.WorldSize())
	for rank := range members {
		members[rank] = c.start(c.config(rank))
	}
	return members
}

func receive[T any](t *testing.T, what string, from <-chan T) T {
	t.Helper()
	select {
	case v := <-from:
		return v
	case <-time.After(patience):
		t.Fatalf("waited in vain for %s", what)
		panic("unreachable")
	}
}
