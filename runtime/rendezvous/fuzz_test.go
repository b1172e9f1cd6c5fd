// SPDX-License-Identifier: Apache-2.0

package rendezvous

import (
	"encoding/binary"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	pb "github.com/findep/findep-operator/runtime/rendezvous/rendezvouspb"
)

// FuzzMemberMessages lets a rank of the instance say anything, in any order:
// whatever it says, the epoch does not go back, a formed epoch has all ranks,
// and no answer is delivered that was not asked for.
func FuzzMemberMessages(f *testing.F) {
	in := testInstance(1, 1)
	hello := func(rank uint32) *pb.Hello {
		return &pb.Hello{Version: ProtocolVersion, Identity: in.Identity(), Rank: rank, Role: string(in.RoleOf(int(rank))),
			TopologyHash: "t", Host: "h", DataAddress: "10.0.0.1:9402", Incarnation: "a"}
	}
	kinds := []*pb.MemberMessage{
		{Kind: &pb.MemberMessage_Hello{Hello: hello(1)}},
		{Kind: &pb.MemberMessage_Ready{Ready: &pb.Ready{Epoch: 1}}},
		{Kind: &pb.MemberMessage_Heartbeat{Heartbeat: &pb.Heartbeat{Sequence: 1}}},
		{Kind: &pb.MemberMessage_Result{Result: &pb.StepResult{Epoch: 1, Payload: []byte("x")}}},
		{Kind: &pb.MemberMessage_Failure{Failure: &pb.Failure{Epoch: 1, Reason: "out of memory"}}},
		{},
	}
	for first := range kinds {
		var all []byte
		for i := range kinds {
			all = appendMessage(f, all, kinds[(first+i)%len(kinds)])
		}
		f.Add(all)
	}
	f.Add(appendMessage(f, nil, &pb.MemberMessage{Kind: &pb.MemberMessage_Hello{Hello: &pb.Hello{LastEpoch: MaxEpoch + 1, Rank: 1 << 31}}}))
	f.Fuzz(func(t *testing.T, data []byte) {
		clock := &manualClock{now: time.Unix(1_000_000, 0)}
		c, err := NewCoordinator(Config{Instance: in, TopologyHash: "t", Clock: clock})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = c.Close() }()
		other, err := c.join(hello(0))
		if err != nil {
			t.Fatal(err)
		}
		var s *session
		sent, before := 0, uint64(0)
		for _, m := range splitMessages(data) {
			clock.now = clock.now.Add(50 * time.Millisecond)
			if h := m.GetHello(); h != nil && s == nil {
				s, _ = c.join(h)
			} else if s != nil && c.receive(s, m) != nil {
				c.leave(s, "broke the protocol")
				s = nil
			}
			_ = c.receive(other, &pb.MemberMessage{Kind: &pb.MemberMessage_Ready{Ready: &pb.Ready{Epoch: c.epoch}}})
			if c.Send(c.epoch, 1, []byte("step")) == nil {
				sent++
			}
			c.tick()
			o := c.Snapshot()
			if o.Epoch < before {
				t.Fatalf("epoch %d after %d", o.Epoch, before)
			}
			before = o.Epoch
			if o.Formed && (!o.Ranks[0].Joined || !o.Ranks[1].Joined) {
				t.Fatalf("formed with %+v", o.Ranks)
			}
			if len(c.Results()) > sent {
				t.Fatalf("%d answers to %d steps", len(c.Results()), sent)
			}
		}
	})
}

// appendMessage adds a message with its length before it.
func appendMessage(f *testing.F, to []byte, m *pb.MemberMessage) []byte {
	f.Helper()
	b, err := proto.Marshal(m)
	if err != nil {
		f.Fatal(err)
	}
	return append(binary.AppendUvarint(to, uint64(len(b))), b...)
}

// splitMessages reads what appendMessage wrote, or makes the best of it.
func splitMessages(data []byte) []*pb.MemberMessage {
	var all []*pb.MemberMessage
	for len(data) > 0 && len(all) < 64 {
		n, k := binary.Uvarint(data)
		if k <= 0 {
			return all
		}
		data = data[k:]
		length := min(n, uint64(len(data)))
		m := &pb.MemberMessage{}
		if proto.Unmarshal(data[:length], m) == nil {
			all = append(all, m)
		}
		data = data[length:]
	}
	return all
}
