// SPDX-License-Identifier: Apache-2.0

package rendezvous

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/findep/findep-operator/runtime/plan"
	pb "github.com/findep/findep-operator/runtime/rendezvous/rendezvouspb"
)

// manualClock moves only when told to; its timers never fire, so that a test
// calls tick itself.
type manualClock struct{ now time.Time }

func (c *manualClock) Now() time.Time                       { return c.now }
func (c *manualClock) After(time.Duration) <-chan time.Time { return nil }

// simulated is a rank's process as the property test sees it.
type simulated struct {
	session *session
	hello   *pb.Hello
	// world is the epoch it is in, nil if none; formed as it was told.
	world  *pb.World
	formed bool
	wedged bool
}

// simulation drives the state machine with random events and checks after each
// what must hold at all times.
type simulation struct {
	t       *testing.T
	random  *rand.Rand
	clock   *manualClock
	leader  *Coordinator
	in      *plan.Instance
	ranks   []*simulated
	created int
	// worlds holds what was announced for each epoch.
	worlds  map[uint64]*pb.World
	highest uint64
	formed  int
}

func testInstance(ag, eg int) *plan.Instance {
	in := &plan.Instance{
		Namespace: "serving", Deployment: "deepseek", AttentionRanks: ag, ExpertRanks: eg,
		Model:    plan.ModelRef{Name: "m", Path: "/m", MaxContextTokens: 1},
		Schedule: plan.Schedule{Policy: plan.FinDEP, Order: plan.OrderAuto, Chunks: "Auto", Resolve: "Online"},
	}
	for rank := range ag + eg {
		in.Hosts = append(in.Hosts, fmt.Sprintf("rank-%d", rank))
	}
	return in
}

func (s *simulation) startLeader() {
	leader, err := NewCoordinator(Config{Instance: s.in, TopologyHash: "t", Clock: s.clock})
	if err != nil {
		s.t.Fatal(err)
	}
	s.leader = leader
}

// join lets a fresh or surviving process of a rank say Hello.
func (s *simulation) join(rank int, fresh bool) {
	r := s.ranks[rank]
	if r == nil || fresh {
		s.created++
		r = &simulated{hello: &pb.Hello{
			Version: ProtocolVersion, Identity: s.in.Identity(), Rank: uint32(rank), Role: string(s.in.RoleOf(rank)),
			TopologyHash: "t", Host: s.in.Hosts[rank], DataAddress: "10.0.0.1:9402", Incarnation: fmt.Sprint(s.created),
		}}
	}
	session, err := s.leader.join(r.hello)
	if err != nil {
		var refused *RefusedError
		if !errors.As(err, &refused) || !refused.Retry {
			s.t.Fatalf("rank %d: %v", rank, err)
		}
		return
	}
	r.session, r.world, r.formed, r.wedged = session, nil, false, false
	s.ranks[rank] = r
}

// read takes what the leader told a rank, as a live process would.
func (s *simulation) read(rank int) {
	r := s.ranks[rank]
	for r != nil && r.session != nil {
		select {
		case m := <-r.session.out:
			s.told(rank, r, m)
			continue
		case <-r.session.ack:
			continue
		default:
		}
		select {
		case <-r.session.done: // The stream ended: the process lives on without.
			r.session, r.world, r.formed = nil, nil, false
		default:
		}
		return
	}
}

func (s *simulation) told(rank int, r *simulated, m *pb.LeaderMessage) {
	switch k := m.GetKind().(type) {
	case *pb.LeaderMessage_World:
		w := k.World
		if w.GetEpoch() <= r.hello.GetLastEpoch() {
			s.t.Fatalf("rank %d was told of epoch %d after %d", rank, w.GetEpoch(), r.hello.GetLastEpoch())
		}
		if known := s.worlds[w.GetEpoch()]; known != nil && !sameWorld(known, w) {
			s.t.Fatalf("two worlds for epoch %d: %v and %v", w.GetEpoch(), known, w)
		}
		s.worlds[w.GetEpoch()] = w
		r.world, r.formed, r.hello.LastEpoch = w, false, w.GetEpoch()
	case *pb.LeaderMessage_Formed:
		if r.world.GetEpoch() != k.Formed.GetEpoch() {
			s.t.Fatalf("rank %d in epoch %d was told that %d is formed", rank, r.world.GetEpoch(), k.Formed.GetEpoch())
		}
		r.formed = true
	case *pb.LeaderMessage_Abort:
		if r.world.GetEpoch() == k.Abort.GetEpoch() {
			r.world, r.formed = nil, false
		}
	}
}

func sameWorld(a, b *pb.World) bool { return a.String() == b.String() }

func (s *simulation) say(rank int, m *pb.MemberMessage) {
	if r := s.ranks[rank]; r != nil && r.session != nil && !r.wedged {
		if err := s.leader.receive(r.session, m); err != nil {
			s.leader.leave(r.session, "broke the protocol")
		}
	}
}

// event does one random thing.
func (s *simulation) event() string {
	rank := s.random.IntN(len(s.ranks))
	r := s.ranks[rank]
	heartbeat := &pb.MemberMessage{Kind: &pb.MemberMessage_Heartbeat{Heartbeat: &pb.Heartbeat{}}}
	switch dice := s.random.IntN(100); {
	case dice < 30:
		if r == nil || r.session == nil {
			s.join(rank, s.random.IntN(3) == 0)
		}
		return fmt.Sprintf("join %d", rank)
	case dice < 60:
		s.read(rank)
		if r != nil && r.world != nil {
			s.say(rank, &pb.MemberMessage{Kind: &pb.MemberMessage_Ready{Ready: &pb.Ready{Epoch: r.world.GetEpoch()}}})
		}
		return fmt.Sprintf("ready %d", rank)
	case dice < 75:
		for i := range s.ranks {
			s.read(i)
			s.say(i, heartbeat)
		}
		s.clock.now = s.clock.now.Add(time.Duration(s.random.IntN(2000)) * time.Millisecond)
		s.leader.tick()
		return "time passes"
	case dice < 80:
		if r != nil && r.session != nil {
			s.leader.leave(r.session, "was killed")
			s.ranks[rank] = nil
		}
		return fmt.Sprintf("kill %d", rank)
	case dice < 84:
		if r != nil {
			r.wedged = true
		}
		return fmt.Sprintf("wedge %d", rank)
	case dice < 88:
		s.join(rank, true) // A second process of a rank that may be held.
		return fmt.Sprintf("duplicate %d", rank)
	case dice < 92:
		// A message of some epoch, mostly a wrong one.
		s.say(rank, &pb.MemberMessage{Kind: &pb.MemberMessage_Failure{Failure: &pb.Failure{Epoch: s.random.Uint64N(s.highest + 3)}}})
		return fmt.Sprintf("failure from %d", rank)
	case dice < 94:
		s.say(rank, &pb.MemberMessage{Kind: &pb.MemberMessage_Ready{Ready: &pb.Ready{Epoch: s.random.Uint64N(s.highest + 3)}}})
		return fmt.Sprintf("stray ready from %d", rank)
	case dice < 95:
		return s.restartLeader()
	default:
		_ = s.leader.Send(s.leader.Snapshot().Epoch, All, nil)
		return "step"
	}
}

// restartLeader: what the new leader knows of epochs is what its ranks tell it,
// so from here on only they can say that an epoch went back; told checks it.
func (s *simulation) restartLeader() string {
	_ = s.leader.Close()
	for i := range s.ranks {
		s.read(i)
	}
	s.startLeader()
	s.highest, s.worlds = 0, map[uint64]*pb.World{}
	return "leader restarts"
}

// check tests what must hold after every event.
func (s *simulation) check(last string) {
	o := s.leader.Snapshot()
	if o.Formed {
		s.formed++
		for rank, r := range o.Ranks {
			if !r.Joined {
				s.t.Fatalf("after %s: epoch %d is formed without rank %d", last, o.Epoch, rank)
			}
		}
		world, err := s.leader.WaitFormed(context.Background())
		if err != nil || world.Epoch != o.Epoch {
			s.t.Fatalf("after %s: formed world %d of epoch %d, %v", last, world.Epoch, o.Epoch, err)
		}
		for rank, member := range world.Members {
			if got := s.worlds[o.Epoch].GetMembers()[rank].GetIncarnation(); got != member.Incarnation {
				s.t.Fatalf("after %s: epoch %d has %q as rank %d, members were told %q", last, o.Epoch, member.Incarnation, rank, got)
			}
		}
		select {
		case <-s.leader.Failed(o.Epoch):
			s.t.Fatalf("after %s: epoch %d is formed and failed", last, o.Epoch)
		default:
		}
	}
	if o.Epoch < s.highest {
		s.t.Fatalf("after %s: epoch went back from %d to %d", last, s.highest, o.Epoch)
	}
	s.highest = max(s.highest, o.Epoch)
}

// TestRandomJoinsAndLosses: an epoch is formed only while every rank of it is
// there, epochs strictly increase as every rank sees them, and all members of
// an epoch are told the same world, whatever happens in whatever order; and
// when the faults stop, an epoch forms.
func TestRandomJoinsAndLosses(t *testing.T) {
	formed := 0
	for seed := range uint64(100) {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			random := rand.New(rand.NewPCG(seed, 1))
			s := &simulation{
				t: t, random: random, clock: &manualClock{now: time.Unix(1_000_000, 0)},
				in: testInstance(1+random.IntN(3), 1+random.IntN(3)), worlds: map[uint64]*pb.World{},
			}
			s.ranks = make([]*simulated, s.in.WorldSize())
			s.startLeader()
			defer func() { _ = s.leader.Close() }()
			for range 400 {
				s.check(s.event())
			}
			s.settle()
			formed += s.formed
		})
	}
	if formed < 1000 {
		t.Errorf("epochs were formed after %d events only; the test sees too little", formed)
	}
}

// settle ends all faults and expects a formed epoch above all others.
func (s *simulation) settle() {
	before := s.highest
	for round := range 50 {
		for rank, r := range s.ranks {
			s.read(rank)
			if r == nil || r.session == nil || r.wedged {
				s.join(rank, r == nil || r.wedged)
			}
			if r := s.ranks[rank]; r != nil && !r.wedged {
				s.say(rank, &pb.MemberMessage{Kind: &pb.MemberMessage_Heartbeat{Heartbeat: &pb.Heartbeat{}}})
				if s.read(rank); r.world != nil && !r.formed {
					s.say(rank, &pb.MemberMessage{Kind: &pb.MemberMessage_Ready{Ready: &pb.Ready{Epoch: r.world.GetEpoch()}}})
				}
			}
		}
		s.check(fmt.Sprintf("settling, round %d", round))
		if o := s.leader.Snapshot(); o.Formed && o.Epoch >= before {
			return
		}
		s.clock.now = s.clock.now.Add(time.Second)
		s.leader.tick()
	}
	s.t.Fatalf("no epoch formed after the faults ended: %+v", s.leader.Snapshot())
}

func TestFormationIsDelayedAfterQuickFailures(t *testing.T) {
	clock := &manualClock{now: time.Unix(1_000_000, 0)}
	s := &simulation{t: t, clock: clock, in: testInstance(1, 1), ranks: make([]*simulated, 2), worlds: map[uint64]*pb.World{}}
	s.startLeader()
	defer func() { _ = s.leader.Close() }()
	s.join(0, true)
	s.join(1, true)
	var delays []time.Duration
	for epoch := uint64(1); epoch <= 9; epoch++ {
		s.leader.Abort(epoch, "test")
		start := clock.now
		for s.leader.Snapshot().Epoch == epoch {
			clock.now = clock.now.Add(50 * time.Millisecond)
			for i := range s.ranks {
				s.read(i)
				s.say(i, &pb.MemberMessage{Kind: &pb.MemberMessage_Heartbeat{Heartbeat: &pb.Heartbeat{}}})
			}
			s.leader.tick()
		}
		delays = append(delays, clock.now.Sub(start))
	}
	ms := time.Millisecond
	want := []time.Duration{100 * ms, 200 * ms, 400 * ms, 800 * ms, 1600 * ms, 3200 * ms, 5000 * ms, 5000 * ms, 5000 * ms}
	if diff := cmp.Diff(want, delays); diff != "" {
		t.Errorf("delays (-want +got):\n%s", diff)
	}
}

func TestHelloIsChecked(t *testing.T) {
	in := testInstance(1, 2)
	for _, tc := range []struct {
		name   string
		change func(*pb.Hello)
		reason Reason
	}{
		{"version", func(h *pb.Hello) { h.Version = 2 }, RefusedVersion},
		{"identity", func(h *pb.Hello) { h.Identity = "findep://serving/deepseek/1" }, RefusedCertificate},
		{"topology", func(h *pb.Hello) { h.TopologyHash = "other" }, RefusedTopology},
		{"rank out of range", func(h *pb.Hello) { h.Rank = 3 }, RefusedRank},
		{"rank far out of range", func(h *pb.Hello) { h.Rank = 1<<32 - 1 }, RefusedRank},
		{"role", func(h *pb.Hello) { h.Role = "Attention" }, RefusedRank},
		{"no incarnation", func(h *pb.Hello) { h.Incarnation = "" }, RefusedRank},
		{"no port", func(h *pb.Hello) { h.DataAddress = "host" }, RefusedRank},
		{"port zero", func(h *pb.Hello) { h.DataAddress = "host:0" }, RefusedRank},
		{"long host", func(h *pb.Hello) { h.Host = string(make([]byte, maxText+1)) }, RefusedRank},
		{"epoch near overflow", func(h *pb.Hello) { h.LastEpoch = MaxEpoch + 1 }, RefusedEpoch},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c, err := NewCoordinator(Config{Instance: in, TopologyHash: "t", Clock: &manualClock{now: time.Unix(1, 0)}})
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = c.Close() }()
			h := &pb.Hello{
				Version: ProtocolVersion, Identity: in.Identity(), Rank: 1, Role: "Expert",
				TopologyHash: "t", DataAddress: "10.0.0.1:9402", Incarnation: "a",
			}
			if _, err := c.join(h); err != nil {
				t.Fatalf("unchanged: %v", err)
			}
			h.Rank, h.Role = 2, "Expert"
			tc.change(h)
			_, err = c.join(h)
			var refused *RefusedError
			if !errors.As(err, &refused) || refused.Reason != tc.reason || refused.Retry {
				t.Errorf("error %v, want a refusal for %s", err, tc.reason)
			}
			if got := c.Snapshot().Refused[string(tc.reason)]; got != 1 {
				t.Errorf("counted %d refusals for %s, want 1", got, tc.reason)
			}
		})
	}
}

func TestWhoHoldsARank(t *testing.T) {
	for _, tc := range []struct {
		name             string
		incarnation, pod string
		silence          time.Duration
		admitted         bool
	}{
		{"another process while the holder lives", "b", "", time.Second, false},
		{"another pod while the holder lives", "b", "pod-2", time.Second, false},
		{"another process after the holder went silent", "b", "", 3 * time.Second, true},
		{"the same process", "a", "pod-1", 0, true},
		{"the same pod restarted", "b", "pod-1", 0, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			clock := &manualClock{now: time.Unix(1_000_000, 0)}
			in := testInstance(1, 1)
			c, err := NewCoordinator(Config{Instance: in, TopologyHash: "t", Clock: clock})
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = c.Close() }()
			hello := func(incarnation, pod string) *pb.Hello {
				return &pb.Hello{
					Version: ProtocolVersion, Identity: in.Identity(), Role: "Attention", TopologyHash: "t",
					DataAddress: "10.0.0.1:9402", Incarnation: incarnation, Pod: pod,
				}
			}
			holder, err := c.join(hello("a", "pod-1"))
			if err != nil {
				t.Fatal(err)
			}
			clock.now = clock.now.Add(tc.silence)
			_, err = c.join(hello(tc.incarnation, tc.pod))
			var refused *RefusedError
			if admitted := err == nil; admitted != tc.admitted || (!admitted && (!errors.As(err, &refused) || !refused.Retry)) {
				t.Errorf("error %v, want admitted: %v", err, tc.admitted)
			}
			select {
			case <-holder.done:
				if !tc.admitted {
					t.Error("the holder was dropped")
				}
			default:
				if tc.admitted {
					t.Error("the holder was kept")
				}
			}
		})
	}
}

// TestEpochsThatFailInARowAreSpaced: a fault that lasts must not become a busy
// loop, and must not delay the epoch that a replacement makes possible.
func TestEpochsThatFailInARowAreSpaced(t *testing.T) {
	clock := &manualClock{now: time.Unix(1_000_000, 0)}
	s := &simulation{t: t, clock: clock, in: testInstance(1, 1), ranks: make([]*simulated, 2), worlds: map[uint64]*pb.World{}}
	s.startLeader()
	defer func() { _ = s.leader.Close() }()
	s.join(0, true)
	s.join(1, true)
	began := func() uint64 {
		s.leader.tick()
		if s.leader.phase == Gathering {
			return 0
		}
		return s.leader.Snapshot().Epoch
	}
	if got := began(); got != 1 {
		t.Fatalf("epoch %d", got)
	}
	for i, wait := range []int{100, 200, 400, 800, 1600, 3200, 5000, 5000} {
		s.leader.Abort(uint64(i+1), "test")
		clock.now = clock.now.Add(time.Duration(wait-1) * time.Millisecond)
		s.leader.ranks[0].heard, s.leader.ranks[1].heard = clock.now, clock.now
		if got := began(); got != 0 {
			t.Fatalf("epoch %d began before %d ms had passed", got, wait)
		}
		clock.now = clock.now.Add(time.Millisecond)
		if got := began(); got != uint64(i+2) {
			t.Fatalf("after %d ms: epoch %d", wait, got)
		}
	}
	s.leader.leave(s.ranks[1].session, "was killed")
	if got := began(); got != 0 {
		t.Fatalf("epoch %d began without rank 1", got)
	}
	s.join(1, true)
	if got := began(); got != 10 {
		t.Errorf("with another process as rank 1: epoch %d, want 10 at once", got)
	}
}

// TestRankThatDoesNotReadIsLost: a stream that is open but never read must not
// make the leader hold ever more messages.
func TestRankThatDoesNotReadIsLost(t *testing.T) {
	clock := &manualClock{now: time.Unix(1_000_000, 0)}
	s := &simulation{t: t, clock: clock, in: testInstance(1, 1), ranks: make([]*simulated, 2), worlds: map[uint64]*pb.World{}}
	s.startLeader()
	defer func() { _ = s.leader.Close() }()
	s.join(0, true)
	s.join(1, true)
	deaf := s.ranks[1].session
	for range queueLength {
		s.leader.Abort(s.leader.Snapshot().Epoch, "test")
		clock.now = clock.now.Add(2 * time.Second)
		for range 3 {
			s.read(0)
			s.say(0, &pb.MemberMessage{Kind: &pb.MemberMessage_Heartbeat{Heartbeat: &pb.Heartbeat{}}})
			s.say(1, &pb.MemberMessage{Kind: &pb.MemberMessage_Heartbeat{Heartbeat: &pb.Heartbeat{}}})
			s.leader.tick()
			clock.now = clock.now.Add(2 * time.Second)
		}
		select {
		case <-deaf.done:
			if r := s.leader.Snapshot().Ranks[1]; r.Joined || r.Message != "does not read the leader's messages" {
				t.Errorf("rank %+v", r)
			}
			return
		default:
		}
	}
	t.Error("the rank is still there")
}
