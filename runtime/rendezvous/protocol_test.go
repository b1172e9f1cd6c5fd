// SPDX-License-Identifier: Apache-2.0

package rendezvous_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/findep/findep-operator/runtime/identity"
	"github.com/findep/findep-operator/runtime/plan"
	"github.com/findep/findep-operator/runtime/rendezvous"
	pb "github.com/findep/findep-operator/runtime/rendezvous/rendezvouspb"
)

func TestRefusals(t *testing.T) {
	other, err := identity.NewCA(time.Now(), nil, "other")
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name   string
		change func(*cluster, *rendezvous.MemberConfig)
		reason string
		want   string
	}{
		{"another authority", func(c *cluster, m *rendezvous.MemberConfig) { m.TLS = c.clientTLS(other, c.in.Identity()) }, "", "authority"},
		{"certificate of another instance", func(c *cluster, m *rendezvous.MemberConfig) {
			m.TLS = c.clientTLS(c.ca, "findep://serving/deepseek/1")
		}, "certificate", ""},
		{"certificate of the operator", func(c *cluster, m *rendezvous.MemberConfig) {
			m.TLS = c.clientTLS(c.ca, identity.OperatorURI)
		}, "certificate", "findep://operator may not do this"},
		{"identity of another instance", func(_ *cluster, m *rendezvous.MemberConfig) { m.Identity = "findep://serving/deepseek/1" }, "certificate", "instance is"},
		{"another topology", func(_ *cluster, m *rendezvous.MemberConfig) { m.TopologyHash = "0000" }, "topology", `topology hash is "0000"`},
		{"rank out of range", func(_ *cluster, m *rendezvous.MemberConfig) { m.Rank = 9 }, "rank", "rank 9 is not in a world of 2 ranks"},
		{"wrong role", func(_ *cluster, m *rendezvous.MemberConfig) { m.Role = plan.Attention }, "rank", `rank 1 is Expert here, not "Attention"`},
		{"no TLS", func(_ *cluster, m *rendezvous.MemberConfig) { m.TLS, m.Insecure = nil, true }, "", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := newCluster(t, 1, 1)
			c.startLeader()
			cfg := c.config(1)
			tc.change(c, &cfg)
			m := c.start(cfg)
			c.eventually("a refusal", func() bool { return m.State().LastError != "" })
			if got := m.State().LastError; !strings.Contains(got, tc.want) {
				t.Errorf("last error %q, want %q in it", got, tc.want)
			}
			if tc.reason != "" {
				c.eventually("the refusal to be counted", func() bool { return c.leader.Snapshot().Refused[tc.reason] > 0 })
			}
			if c.leader.Snapshot().Ranks[1].Joined {
				t.Error("the rank joined")
			}
		})
	}
}

// raw opens a session without a Member.
func (c *cluster) raw() grpc.BidiStreamingClient[pb.MemberMessage, pb.LeaderMessage] {
	c.t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+c.address,
		grpc.WithTransportCredentials(credentials.NewTLS(c.clientTLS(c.ca, c.in.Identity()))))
	if err != nil {
		c.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	c.t.Cleanup(func() { cancel(); _ = conn.Close() })
	stream, err := pb.NewRendezvousClient(conn).Session(ctx)
	if err != nil {
		c.t.Fatal(err)
	}
	return stream
}

func (c *cluster) hello(rank int) *pb.Hello {
	return &pb.Hello{
		Version: rendezvous.ProtocolVersion, Identity: c.in.Identity(), Rank: uint32(rank), Role: string(c.in.RoleOf(rank)),
		TopologyHash: c.hash, Host: "raw", DataAddress: "127.0.0.1:1", Incarnation: "raw",
	}
}

func say(t *testing.T, stream grpc.BidiStreamingClient[pb.MemberMessage, pb.LeaderMessage], m *pb.MemberMessage) {
	t.Helper()
	if err := stream.Send(m); err != nil {
		t.Fatal(err)
	}
}

// until reads until the leader says what is wanted.
func until(t *testing.T, stream grpc.BidiStreamingClient[pb.MemberMessage, pb.LeaderMessage], wanted func(*pb.LeaderMessage) bool) {
	t.Helper()
	for {
		m, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if wanted(m) {
			return
		}
	}
}

func TestOldEpochIsFenced(t *testing.T) {
	c := newCluster(t, 1, 1)
	c.startLeader()
	c.start(c.config(0))
	stream := c.raw()
	hello := c.hello(1)
	hello.LastEpoch = 6
	say(t, stream, &pb.MemberMessage{Kind: &pb.MemberMessage_Hello{Hello: hello}})
	until(t, stream, func(m *pb.LeaderMessage) bool { return m.GetWorld() != nil })
	ready := func(epoch uint64) *pb.MemberMessage {
		return &pb.MemberMessage{Kind: &pb.MemberMessage_Ready{Ready: &pb.Ready{Epoch: epoch}}}
	}
	say(t, stream, ready(6))
	c.eventually("the old epoch to be counted", func() bool { return c.leader.Snapshot().Refused["epoch"] == 1 })
	if o := c.leader.Snapshot(); o.Formed || o.Epoch != 7 {
		t.Errorf("observation %+v, want epoch 7, not formed", o)
	}
	say(t, stream, ready(7))
	if world := c.formed(); world.Epoch != 7 {
		t.Errorf("epoch %d, want 7: one above what a rank has seen", world.Epoch)
	}
	say(t, stream, &pb.MemberMessage{Kind: &pb.MemberMessage_Failure{Failure: &pb.Failure{Epoch: 6, Reason: "late"}}})
	say(t, stream, &pb.MemberMessage{Kind: &pb.MemberMessage_Result{Result: &pb.StepResult{Epoch: 6}}})
	c.eventually("both to be counted", func() bool { return c.leader.Snapshot().Refused["epoch"] == 3 })
	if !c.leader.Snapshot().Formed {
		t.Error("a message of an old epoch ended the current one")
	}
}

func TestProtocolViolationsEndTheSession(t *testing.T) {
	for _, tc := range []struct {
		name  string
		first bool
		send  *pb.MemberMessage
		want  string
	}{
		{"no hello", true, &pb.MemberMessage{Kind: &pb.MemberMessage_Ready{Ready: &pb.Ready{}}}, "must be hello"},
		{"empty", true, &pb.MemberMessage{}, "must be hello"},
		{"version", true, &pb.MemberMessage{Kind: &pb.MemberMessage_Hello{Hello: &pb.Hello{Version: 9}}}, "protocol version is 9"},
		{"second hello", false, &pb.MemberMessage{Kind: &pb.MemberMessage_Hello{Hello: &pb.Hello{}}}, "unexpected kind"},
		{"empty later", false, &pb.MemberMessage{}, "unexpected kind"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := newCluster(t, 1, 1)
			c.startLeader()
			stream := c.raw()
			if !tc.first {
				say(t, stream, &pb.MemberMessage{Kind: &pb.MemberMessage_Hello{Hello: c.hello(1)}})
			}
			say(t, stream, tc.send)
			for {
				_, err := stream.Recv()
				if err == nil {
					continue
				}
				if !strings.Contains(err.Error(), tc.want) {
					t.Errorf("ended with %v, want %q in it", err, tc.want)
				}
				break
			}
			c.eventually("the rank to be gone", func() bool { return !c.leader.Snapshot().Ranks[1].Joined })
		})
	}
}

// TestLargeStepDelaysNoHeartbeat: a rank that is slow to take a large step keeps
// its session, however many heartbeats it sends meanwhile.
func TestLargeStepDelaysNoHeartbeat(t *testing.T) {
	c := newCluster(t, 1, 1)
	c.startLeader()
	c.start(c.config(0))
	stream := c.raw()
	say(t, stream, &pb.MemberMessage{Kind: &pb.MemberMessage_Hello{Hello: c.hello(1)}})
	until(t, stream, func(m *pb.LeaderMessage) bool { return m.GetWorld() != nil })
	say(t, stream, &pb.MemberMessage{Kind: &pb.MemberMessage_Ready{Ready: &pb.Ready{Epoch: 1}}})
	c.formed()
	for range rendezvous.MaxStepsInFlight {
		if err := c.leader.Send(1, 1, make([]byte, 3<<20)); err != nil {
			t.Fatal(err)
		}
	}
	const beats = 1000
	for i := range beats {
		say(t, stream, &pb.MemberMessage{Kind: &pb.MemberMessage_Heartbeat{Heartbeat: &pb.Heartbeat{Sequence: uint64(i)}}})
	}
	steps := 0
	last := uint64(0)
	until(t, stream, func(m *pb.LeaderMessage) bool {
		if m.GetStep() != nil {
			steps++
		}
		if ack := m.GetHeartbeatAck(); ack != nil {
			last = ack.GetSequence()
		}
		return steps == rendezvous.MaxStepsInFlight && last == beats-1
	})
	if o := c.leader.Snapshot(); !o.Formed || o.Epoch != 1 {
		t.Errorf("observation %+v", o)
	}
}

func TestObserve(t *testing.T) {
	c := newCluster(t, 1, 1)
	c.startLeader()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for _, uri := range []string{identity.OperatorURI, c.in.Identity()} {
		o, err := rendezvous.Observe(ctx, c.address, c.clientTLS(c.ca, uri))
		if err != nil {
			t.Fatalf("%s: %v", uri, err)
		}
		if o.Formed || len(o.Ranks) != 2 || o.Ranks[1].Message != "has not joined yet" || o.TopologyHash != c.hash {
			t.Errorf("%s: observation %+v", uri, o)
		}
	}
	if _, err := rendezvous.Observe(ctx, c.address, c.clientTLS(c.ca, "findep://serving/other/0")); err == nil {
		t.Error("a stranger may observe")
	}
	if got := c.leader.Snapshot().Refused["certificate"]; got != 1 {
		t.Errorf("counted %d refused certificates, want 1", got)
	}
}

func TestBadConfigurations(t *testing.T) {
	c := newCluster(t, 1, 1)
	if _, err := rendezvous.NewCoordinator(rendezvous.Config{Instance: c.in, TopologyHash: "t", HeartbeatInterval: time.Second, HeartbeatTimeout: time.Second}); err == nil ||
		!strings.Contains(err.Error(), "interval") {
		t.Errorf("heartbeat: %v", err)
	}
	for name, change := range map[string]func(*rendezvous.MemberConfig){
		"leader":       func(m *rendezvous.MemberConfig) { m.Leaders = nil },
		"Insecure":     func(m *rendezvous.MemberConfig) { m.TLS = nil },
		"required":     func(m *rendezvous.MemberConfig) { m.Connect = nil },
		"rank is -1":   func(m *rendezvous.MemberConfig) { m.Rank = -1 },
		"data address": func(m *rendezvous.MemberConfig) { m.DataAddress = "nowhere" },
	} {
		cfg := c.config(1)
		cfg.OnAbort = func(uint64, string) {}
		change(&cfg)
		if _, err := rendezvous.NewMember(cfg); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: error %v", name, err)
		}
	}
}
