// SPDX-License-Identifier: Apache-2.0

package rendezvous_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/findep/findep-operator/runtime/identity"
	"github.com/findep/findep-operator/runtime/rendezvous"
	"github.com/findep/findep-operator/runtime/transport"
	"github.com/findep/findep-operator/runtime/transport/tcp"
)

func TestFormsAndRunsSteps(t *testing.T) {
	for _, size := range [][2]int{{1, 1}, {2, 3}} {
		t.Run(fmt.Sprintf("%d+%d", size[0], size[1]), func(t *testing.T) {
			c := newCluster(t, size[0], size[1])
			c.startLeader()
			members := c.startAll()
			world := c.formed()
			if world.Epoch != 1 || len(world.Members) != c.in.WorldSize() || world.Members[1].DataAddress != "127.0.0.1:1001" {
				t.Errorf("world %+v", world)
			}
			for rank, m := range members {
				c.eventually(fmt.Sprintf("rank %d to be ready", rank), func() bool { return m.State().Ready })
			}
			for i := range 3 {
				if err := c.leader.Send(1, rendezvous.All, fmt.Appendf(nil, "step%d", i)); err != nil {
					t.Fatal(err)
				}
			}
			if err := c.leader.Send(1, 1, []byte("alone")); err != nil {
				t.Fatal(err)
			}
			got := map[int][]string{}
			for range 3*c.in.WorldSize() + 1 {
				r := receive(t, "a result", c.leader.Results())
				got[r.Rank] = append(got[r.Rank], string(r.Payload))
			}
			for rank := range members {
				want := []string{fmt.Sprintf("%d:step0", rank), fmt.Sprintf("%d:step1", rank), fmt.Sprintf("%d:step2", rank)}
				if rank == 1 {
					want = append(want, "1:alone")
				}
				if diff := cmp.Diff(want, got[rank]); diff != "" {
					t.Errorf("results of rank %d (-want +got):\n%s", rank, diff)
				}
			}
			o := c.leader.Snapshot()
			if !o.Formed || o.Epoch != 1 || !o.Ranks[1].Joined || o.Ranks[1].Message != "" || len(o.Refused) != 0 {
				t.Errorf("observation %+v", o)
			}
		})
	}
}

// TestFormsRealMeshes connects the data transport of each rank in Connect and
// sends a message both ways in a step.
func TestFormsRealMeshes(t *testing.T) {
	c := newCluster(t, 2, 3)
	c.startLeader()
	for rank := range c.in.WorldSize() {
		cfg := c.config(rank)
		server, err := identity.ServerTLS(identity.Config{Source: c.source(c.ca, c.in.Identity()), Peers: []string{c.in.Identity()}})
		if err != nil {
			t.Fatal(err)
		}
		endpoint, err := tcp.Listen("127.0.0.1:0", &tcp.TLS{Server: server, Client: cfg.TLS}, tcp.Options{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = endpoint.Close() })
		cfg.DataAddress = endpoint.Addr().String()
		var mu sync.Mutex
		var mesh transport.Mesh
		var peers []transport.Peer
		cfg.Connect = func(ctx context.Context, w rendezvous.World) error {
			mu.Lock()
			defer mu.Unlock()
			peers = nil
			for _, m := range w.Members {
				if m.Role != cfg.Role {
					peers = append(peers, transport.Peer{Rank: m.Rank, Address: m.DataAddress})
				}
			}
			mesh, err = endpoint.Connect(ctx, w.Epoch, rank, peers)
			return err
		}
		cfg.OnStep = func(context.Context, uint64, []byte) ([]byte, error) {
			mu.Lock()
			defer mu.Unlock()
			for _, p := range peers {
				to, err := mesh.To(p.Rank)
				if err != nil {
					return nil, err
				}
				if err := to.Send(transport.Header{Step: uint64(rank)}, []byte{byte(rank)}); err != nil {
					return nil, err
				}
			}
			var heard []byte
			for _, p := range peers {
				from, err := mesh.From(p.Rank)
				if err != nil {
					return nil, err
				}
				if h, err := from.ReceiveHeader(); err != nil || h.Step != uint64(p.Rank) {
					return nil, fmt.Errorf("header %+v, %w", h, err)
				}
				b := make([]byte, 1)
				if err := from.ReceivePayload(b); err != nil {
					return nil, err
				}
				heard = append(heard, b...)
			}
			return heard, nil
		}
		c.start(cfg)
	}
	for epoch := uint64(1); epoch <= 2; epoch++ {
		c.eventually("the epoch", func() bool { return c.formed().Epoch == epoch })
		if err := c.leader.Send(epoch, rendezvous.All, nil); err != nil {
			t.Fatal(err)
		}
		for range c.in.WorldSize() {
			r := receive(t, "a result", c.leader.Results())
			want := []byte{2, 3, 4}
			if r.Rank >= 2 {
				want = []byte{0, 1}
			}
			if diff := cmp.Diff(want, r.Payload); diff != "" {
				t.Errorf("epoch %d: rank %d heard (-want +got):\n%s", epoch, r.Rank, diff)
			}
		}
		c.leader.Abort(epoch, "test")
	}
}

func TestMemberKilledInAStepIsReplaced(t *testing.T) {
	c := newCluster(t, 1, 2)
	c.startLeader()
	blocked := make(chan int, 3)
	blocking := func(rank int) rendezvous.MemberConfig {
		cfg := c.config(rank)
		cfg.OnStep = func(ctx context.Context, epoch uint64, payload []byte) ([]byte, error) {
			if epoch == 1 {
				blocked <- rank
				<-ctx.Done() // As a collective whose peer is gone.
				return nil, context.Cause(ctx)
			}
			return payload, nil
		}
		return cfg
	}
	members := []*member{c.start(blocking(0)), c.start(blocking(1)), c.start(blocking(2))}
	first := c.formed()
	failed := c.leader.Failed(1)
	if err := c.leader.Send(1, rendezvous.All, nil); err != nil {
		t.Fatal(err)
	}
	for range members {
		receive(t, "each rank to be in the step", blocked)
	}
	members[2].kill()
	receive(t, "the epoch to fail", failed)
	for rank, m := range members[:2] {
		got := receive(t, "OnAbort", m.aborts)
		if got.epoch != 1 || !strings.Contains(got.reason, "rank 2 (rank-2)") {
			t.Errorf("rank %d was aborted with %+v", rank, got)
		}
	}
	if f := c.leader.Failure(); f.Epoch != 1 || !strings.Contains(f.Reason, "rank 2") {
		t.Errorf("failure %+v", f)
	}
	if err := c.leader.Send(1, rendezvous.All, nil); !errors.Is(err, rendezvous.ErrEpochOver) {
		t.Errorf("step in an epoch that is over: %v", err)
	}
	c.start(blocking(2))
	second := c.formed()
	if second.Epoch != 2 {
		t.Fatalf("the second epoch is %d", second.Epoch)
	}
	for rank := range members {
		same := first.Members[rank].Incarnation == second.Members[rank].Incarnation
		if same != (rank < 2) {
			t.Errorf("rank %d: same process %v", rank, same)
		}
	}
	if err := c.leader.Send(2, rendezvous.All, []byte("again")); err != nil {
		t.Fatal(err)
	}
	for range members {
		if r := receive(t, "a result", c.leader.Results()); r.Epoch != 2 || string(r.Payload) != "again" {
			t.Errorf("result %+v", r)
		}
	}
	receive(t, "Failed of an old epoch to be closed", c.leader.Failed(1))
}

func TestLeaderRestartRaisesTheEpoch(t *testing.T) {
	c := newCluster(t, 1, 2)
	c.startLeader()
	members := c.startAll()
	c.formed()
	c.leader.Abort(1, "test")
	c.eventually("epoch 2", func() bool { return c.formed().Epoch == 2 })
	// The leader's pod dies: coordinator and rank 0 together.
	members[0].kill()
	c.stopLeader()
	for _, m := range members[1:] {
		c.eventually("survivors to notice", func() bool { return m.State().Phase == rendezvous.Disconnected && !m.State().Ready })
	}
	c.startLeader()
	c.start(c.config(0))
	if world := c.formed(); world.Epoch != 3 {
		t.Errorf("the epoch after the restart is %d, want 3", world.Epoch)
	}
	for _, m := range members[1:] {
		c.eventually("survivors to be ready", func() bool { return m.State().Ready && m.State().Epoch == 3 })
	}
}

// TestMembersWaitForTheirLeader: its pod may start last, and until then its name
// may stand for nothing, or for an address at which nobody listens.
func TestMembersWaitForTheirLeader(t *testing.T) {
	c := newCluster(t, 1, 2)
	c.startLeader()
	c.stopLeader() // Now there is an address.
	members := []*member{c.start(c.config(0)), c.start(c.config(1))}
	nameless := c.config(2)
	nameless.Leaders = []string{"leader.invalid:9401", c.address}
	members = append(members, c.start(nameless))
	for rank, m := range members {
		c.eventually(fmt.Sprintf("rank %d to have asked in vain", rank), func() bool { return m.State().LastError != "" })
		if s := m.State(); s.Ready || s.Phase != rendezvous.Disconnected {
			t.Errorf("rank %d without a leader: %+v", rank, s)
		}
	}
	c.startLeader()
	if world := c.formed(); world.Epoch != 1 {
		t.Errorf("epoch %d, want the first", world.Epoch)
	}
	for rank, m := range members {
		c.eventually(fmt.Sprintf("rank %d to be ready", rank), func() bool { return m.State().Ready })
	}
}

// wedgedClock runs at another speed once its rank is wedged.
type wedgedClock struct {
	rendezvous.SystemClock
	wedged <-chan struct{}
	speed  int
	since  func() time.Time
}

func (c *wedgedClock) Now() time.Time {
	select {
	case <-c.wedged:
		since := c.since()
		return since.Add(time.Duration(c.speed) * time.Since(since))
	default:
		return time.Now()
	}
}

// TestWedgedMemberIsDetected: by the leader, or by the rank itself, which hears
// nothing either, because only heartbeats are answered.
func TestWedgedMemberIsDetected(t *testing.T) {
	for name, tc := range map[string]struct {
		speed int
		want  []string
	}{
		"by the leader":   {0, []string{"rank 1 (rank-1) sent no heartbeat for 2s", "epoch 1", "last heartbeat "}},
		"by itself first": {1000, []string{"rank 1 (rank-1) lost its connection to the leader", "epoch 1"}},
	} {
		t.Run(name, func(t *testing.T) { wedge(t, tc.speed, tc.want) })
	}
}

func wedge(t *testing.T, speed int, want []string) {
	t.Helper()
	c := newCluster(t, 1, 1)
	c.timeout = 2 * time.Second // For longer no living rank waits for the processor.
	c.startLeader()
	c.start(c.config(0))
	wedged, release := make(chan struct{}), make(chan struct{})
	t.Cleanup(func() { close(release) })
	cfg := c.config(1)
	cfg.Clock = &wedgedClock{wedged: wedged, speed: speed, since: sync.OnceValue(time.Now)}
	cfg.Alive = func() error {
		select {
		case <-wedged: // Heartbeats stop here; the stream stays open.
			<-release
		default:
		}
		return nil
	}
	c.start(cfg)
	c.formed()
	close(wedged)
	receive(t, "the wedged rank to be noticed", c.leader.Failed(1))
	f := c.leader.Failure()
	for _, want := range want {
		if !strings.Contains(f.Reason, want) {
			t.Errorf("failure %+v does not say %q", f, want)
		}
	}
	c.start(c.config(1)) // A replacement takes over while the old one hangs.
	c.eventually("the next epoch", func() bool { return c.formed().Epoch >= 2 })
}

func TestMemberThatSaysItIsNotAlive(t *testing.T) {
	c := newCluster(t, 1, 1)
	c.startLeader()
	c.start(c.config(0))
	var mu sync.Mutex
	var sick error
	set := func(err error) { mu.Lock(); defer mu.Unlock(); sick = err }
	cfg := c.config(1)
	cfg.Alive = func() error { mu.Lock(); defer mu.Unlock(); return sick }
	m := c.start(cfg)
	c.formed()
	set(errors.New("the device fell off the bus"))
	receive(t, "the epoch to end", c.leader.Failed(1))
	c.eventually("the reason to be known", func() bool { return strings.Contains(m.State().LastError, "fell off the bus") })
	// It leaves, and does not come back to fail the next epoch too.
	c.eventually("the rank to leave", func() bool { return !c.leader.Snapshot().Ranks[1].Joined })
	for range 20 {
		if s := c.leader.Snapshot(); s.Epoch != 1 || s.Ranks[1].Joined {
			t.Fatalf("the rank is back: %+v", s)
		}
		time.Sleep(20 * time.Millisecond)
	}
	set(nil)
	c.eventually("the next epoch", func() bool { return c.formed().Epoch >= 2 })
}

func TestDrainingIsToldToEveryRank(t *testing.T) {
	c := newCluster(t, 1, 2)
	c.startLeader()
	members := c.startAll()
	c.formed()
	for _, draining := range []bool{true, false} {
		c.leader.SetDraining(draining)
		for _, m := range members {
			c.eventually("the ranks to hear of it", func() bool { return m.State().Draining == draining })
		}
	}
}

func TestDescribeNamesRanksAndHeartbeats(t *testing.T) {
	c := newCluster(t, 1, 2)
	c.startLeader()
	members := c.startAll()
	c.formed()
	members[2].kill()
	c.eventually("the rank to be gone", func() bool { return !c.leader.Snapshot().Ranks[2].Joined })
	got := c.leader.Describe([]int{1, 2})
	for _, want := range []string{"rank 1 (rank-1, last heartbeat ", "rank 2 (l"} {
		if !strings.Contains(got, want) {
			t.Errorf("%q does not say %q", got, want)
		}
	}
}

func TestOnlyOneProcessHoldsARank(t *testing.T) {
	c := newCluster(t, 1, 1)
	c.startLeader()
	members := c.startAll()
	c.formed()
	c.eventually("the holder to know", func() bool { return members[1].State().Ready })
	second := c.start(c.config(1))
	c.eventually("the duplicate to be refused", func() bool { return c.leader.Snapshot().Refused["rank"] > 0 })
	if s := members[1].State(); s.Phase != rendezvous.Formed || c.leader.Snapshot().Epoch != 1 {
		t.Errorf("the duplicate disturbed the holder: %+v", s)
	}
	c.eventually("the duplicate to know why", func() bool {
		return strings.Contains(second.State().LastError, "rank 1 is held by a living member on rank-1")
	})
	members[1].kill()
	c.eventually("the duplicate to take over", func() bool { return second.State().Ready })
	if world := c.formed(); world.Epoch != 2 {
		t.Errorf("epoch %d, want 2", world.Epoch)
	}
}

func TestConnectFailuresAndDelays(t *testing.T) {
	t.Run("slow connect outlives the heartbeat timeout", func(t *testing.T) {
		c := newCluster(t, 1, 1)
		c.timeout = time.Second
		c.startLeader()
		c.start(c.config(0))
		cfg := c.config(1)
		cfg.Connect = func(ctx context.Context, _ rendezvous.World) error {
			select {
			case <-time.After(3 * c.timeout):
			case <-ctx.Done():
			}
			return context.Cause(ctx)
		}
		c.start(cfg)
		c.formed()
	})
	t.Run("connect that never ends is given up and named", func(t *testing.T) {
		c := newCluster(t, 1, 1)
		c.connect = 2 * time.Second
		c.startLeader()
		c.start(c.config(0))
		cfg := c.config(1)
		cfg.Connect = func(ctx context.Context, w rendezvous.World) error {
			if w.Epoch > 1 {
				return nil
			}
			<-ctx.Done()
			return context.Cause(ctx)
		}
		m := c.start(cfg)
		c.eventually("epoch 2", func() bool { return c.formed().Epoch == 2 })
		if got := receive(t, "OnAbort", m.aborts); got.epoch != 1 || got.reason != "rank 1 not connected within 2s (epoch 1)" {
			t.Errorf("aborted with %+v", got)
		}
	})
	t.Run("connect error is reported and tried again", func(t *testing.T) {
		c := newCluster(t, 1, 1)
		c.startLeader()
		leader := c.start(c.config(0))
		cfg := c.config(1)
		cfg.Connect = func(_ context.Context, w rendezvous.World) error {
			if w.Epoch < 3 {
				return errors.New("no route to rank 0")
			}
			return nil
		}
		c.start(cfg)
		c.eventually("epoch 3", func() bool { return c.formed().Epoch == 3 })
		if got := receive(t, "OnAbort", leader.aborts); !strings.Contains(got.reason, "rank 1 (rank-1) failed: connect: no route to rank 0") {
			t.Errorf("aborted with %+v", got)
		}
	})
	t.Run("a mesh finished too late is aborted again", func(t *testing.T) {
		c := newCluster(t, 1, 1)
		c.startLeader()
		c.start(c.config(0))
		entered, finish := make(chan struct{}), make(chan struct{})
		cfg := c.config(1)
		cfg.Connect = func(_ context.Context, w rendezvous.World) error {
			if w.Epoch == 1 {
				close(entered)
				<-finish // Deaf to its context.
			}
			return nil
		}
		m := c.start(cfg)
		receive(t, "Connect", entered)
		c.leader.Abort(1, "test")
		receive(t, "the first OnAbort", m.aborts)
		close(finish)
		if again := receive(t, "the second OnAbort", m.aborts); again.epoch != 1 {
			t.Errorf("aborted %+v", again)
		}
		c.eventually("epoch 2", func() bool { return c.formed().Epoch >= 2 })
	})
}

func TestStepErrorEndsTheEpoch(t *testing.T) {
	for _, tc := range []struct {
		name   string
		result []byte
		err    error
		want   string
	}{
		{"error", nil, errors.New("out of KV cache"), "rank 1 (rank-1) failed: step: out of KV cache"},
		{"result too large", make([]byte, rendezvous.MaxPayloadBytes+1), nil, "the result has 67108865 bytes, the limit is 67108864"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := newCluster(t, 1, 1)
			c.startLeader()
			c.start(c.config(0))
			cfg := c.config(1)
			cfg.OnStep = func(context.Context, uint64, []byte) ([]byte, error) { return tc.result, tc.err }
			c.start(cfg)
			c.formed()
			failed := c.leader.Failed(1)
			if err := c.leader.Send(1, 1, nil); err != nil {
				t.Fatal(err)
			}
			receive(t, "the epoch to end", failed)
			if f := c.leader.Failure(); !strings.Contains(f.Reason, tc.want) {
				t.Errorf("failure %+v, want %q in it", f, tc.want)
			}
		})
	}
}

func TestSendLimits(t *testing.T) {
	c := newCluster(t, 1, 1)
	c.startLeader()
	c.start(c.config(0))
	release := make(chan struct{})
	cfg := c.config(1)
	cfg.OnStep = func(ctx context.Context, _ uint64, p []byte) ([]byte, error) {
		select {
		case <-release:
		case <-ctx.Done():
		}
		return p, nil
	}
	c.start(cfg)
	if err := c.leader.Send(1, 0, nil); !errors.Is(err, rendezvous.ErrEpochOver) {
		t.Errorf("step before the epoch: %v", err)
	}
	c.formed()
	if err := c.leader.Send(1, 2, nil); err == nil || !strings.Contains(err.Error(), "rank 2 is not in a world of 2") {
		t.Errorf("unknown rank: %v", err)
	}
	if err := c.leader.Send(1, 0, make([]byte, rendezvous.MaxPayloadBytes+1)); err == nil || !strings.Contains(err.Error(), "the limit is") {
		t.Errorf("oversized: %v", err)
	}
	for i := range rendezvous.MaxStepsInFlight {
		if err := c.leader.Send(1, 1, nil); err != nil {
			t.Fatalf("step %d: %v", i, err)
		}
	}
	if err := c.leader.Send(1, rendezvous.All, nil); err == nil || !strings.Contains(err.Error(), "rank 1 has 16 unanswered steps") {
		t.Errorf("one step too many: %v", err)
	}
	close(release)
	for range rendezvous.MaxStepsInFlight {
		receive(t, "a result", c.leader.Results())
	}
	big := make([]byte, rendezvous.MaxPayloadBytes) // The largest step and result pass.
	if err := c.leader.Send(1, 1, big); err != nil {
		t.Fatal(err)
	}
	if r := receive(t, "a large result", c.leader.Results()); len(r.Payload) != len(big) {
		t.Errorf("result has %d bytes", len(r.Payload))
	}
}
