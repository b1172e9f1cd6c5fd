// SPDX-License-Identifier: Apache-2.0

package rendezvous

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc"

	"github.com/findep/findep-operator/runtime/plan"
	pb "github.com/findep/findep-operator/runtime/rendezvous/rendezvouspb"
)

const (
	// joinTimeout bounds name resolution, TLS and admission together.
	joinTimeout = 5 * time.Second
	// watchInterval is how soon a timeout told by the leader takes effect.
	watchInterval = 500 * time.Millisecond
)

// attendance is one session of a member with the leader.
type attendance struct {
	m      *Member
	stream grpc.BidiStreamingClient[pb.MemberMessage, pb.LeaderMessage]
	// end ends the session with a cause.
	end context.CancelCauseFunc
	// sending guards the stream, which takes one message at a time.
	sending sync.Mutex

	mu sync.Mutex
	// heard is when the leader last sent anything.
	heard time.Time
	// epoch is the epoch this member is in, nil between two.
	epoch *epoch
}

// epoch is a member's part in one epoch. Its worker goroutine connects, then
// runs the steps one after another.
type epoch struct {
	world  World
	ctx    context.Context
	cancel context.CancelCauseFunc
	steps  chan []byte
	formed chan struct{}

	mu sync.Mutex
	// started is set before Connect is called, over when the epoch ends.
	started, over bool
	reason        string
}

// attend runs one session and reports whether the leader admitted this rank,
// and why the session ended.
func (m *Member) attend(parent context.Context, leader string) (admitted bool, err error) {
	conn, err := dial(leader, m.cfg.TLS, maxMessageBytes)
	if err != nil {
		return false, err
	}
	defer func() { _ = conn.Close() }()
	ctx, end := context.WithCancelCause(parent)
	defer end(nil)
	a := &attendance{m: m, end: end, heard: m.cfg.Clock.Now()}
	// The watch covers dialling and the first answer too.
	var watch sync.WaitGroup
	defer watch.Wait()
	defer end(nil)
	watch.Go(func() { a.watch(ctx) })

	a.stream, err = pb.NewRendezvousClient(conn).Session(ctx)
	if err == nil {
		admitted, err = a.converse(ctx)
	}
	if cause := context.Cause(ctx); cause != nil && parent.Err() == nil {
		err = cause
	}
	if err == nil {
		err = errors.New("rendezvous: the leader ended the session")
	}
	err = asRefusal(err)
	if parent.Err() != nil {
		err = errors.New("this member is stopping")
	}
	a.leaveEpoch("lost the leader: " + describe(err))
	return admitted, err
}

// converse says Hello and then handles what the leader says.
func (a *attendance) converse(ctx context.Context) (admitted bool, err error) {
	cfg := &a.m.cfg
	hello := &pb.Hello{
		Version: ProtocolVersion, Identity: cfg.Identity, Rank: uint32(cfg.Rank), //nolint:gosec // checked by NewMember.
		Role: string(cfg.Role), TopologyHash: cfg.TopologyHash, Host: cfg.Host, DataAddress: cfg.DataAddress,
		LastEpoch: a.m.State().Epoch, Incarnation: cfg.Incarnation, Pod: cfg.Pod,
	}
	if err := a.send(&pb.MemberMessage{Kind: &pb.MemberMessage_Hello{Hello: hello}}); err != nil {
		// The stream's own error is what Recv returns.
		_, err = a.stream.Recv()
		return false, err
	}
	for {
		message, err := a.stream.Recv()
		if err != nil {
			return admitted, err
		}
		a.mu.Lock()
		a.heard = cfg.Clock.Now()
		a.mu.Unlock()
		if w := message.GetWelcome(); w != nil {
			if admitted {
				return true, errors.New("rendezvous: the leader said welcome twice")
			}
			admitted = true
			a.welcomed(ctx, w)
			continue
		}
		if !admitted {
			return false, errors.New("rendezvous: the leader's first message is not welcome")
		}
		if err := a.handle(ctx, message); err != nil {
			return true, err
		}
	}
}

func (a *attendance) welcomed(ctx context.Context, w *pb.Welcome) {
	interval := time.Duration(w.GetHeartbeatIntervalMilliseconds()) * time.Millisecond
	a.m.mu.Lock()
	a.m.state.Phase = Gathering
	a.m.timeout = max(time.Duration(w.GetHeartbeatTimeoutMilliseconds())*time.Millisecond, time.Millisecond)
	a.m.grace = interval * 3 / 4
	a.m.mu.Unlock()
	go a.beat(ctx, max(interval, time.Millisecond))
}

// handle acts on one message after the welcome.
func (a *attendance) handle(ctx context.Context, message *pb.LeaderMessage) error {
	switch k := message.GetKind().(type) {
	case *pb.LeaderMessage_World:
		return a.begin(ctx, k.World)
	case *pb.LeaderMessage_Formed:
		if e := a.current(k.Formed.GetEpoch()); e != nil {
			a.formed(e)
		}
	case *pb.LeaderMessage_HeartbeatAck:
		a.acknowledged(k.HeartbeatAck)
	case *pb.LeaderMessage_Step:
		if e := a.current(k.Step.GetEpoch()); e != nil {
			select {
			case e.steps <- k.Step.GetPayload():
			default:
				return fmt.Errorf("rendezvous: the leader sent more than %d unanswered steps", MaxStepsInFlight)
			}
		}
	case *pb.LeaderMessage_Abort:
		if a.current(k.Abort.GetEpoch()) != nil {
			a.leaveEpoch(k.Abort.GetReason())
		}
	default:
		return errors.New("rendezvous: the leader sent a message of unknown kind")
	}
	return nil
}

// current returns the epoch if it is the one this member is in. Otherwise the
// message that named it is counted as dropped.
func (a *attendance) current(number uint64) *epoch {
	a.mu.Lock()
	e := a.epoch
	a.mu.Unlock()
	if e != nil && e.world.Epoch == number {
		return e
	}
	a.m.mu.Lock()
	defer a.m.mu.Unlock()
	a.m.state.Dropped++
	return nil
}

// begin enters a new epoch.
func (a *attendance) begin(ctx context.Context, w *pb.World) error {
	world, err := a.m.check(w)
	if err != nil {
		return err
	}
	a.leaveEpoch("a newer epoch begins")
	e := &epoch{world: world, steps: make(chan []byte, MaxStepsInFlight), formed: make(chan struct{})}
	e.ctx, e.cancel = context.WithCancelCause(ctx)
	a.mu.Lock()
	a.epoch = e
	a.mu.Unlock()

	a.m.mu.Lock()
	defer a.m.mu.Unlock()
	a.m.state.Phase, a.m.state.Epoch = Connecting, world.Epoch
	previous, worked := a.m.worked, make(chan struct{})
	a.m.worked = worked
	go func() {
		defer close(worked)
		<-previous
		a.work(e)
	}()
	return nil
}

// check refuses a world that this member cannot be part of.
func (m *Member) check(w *pb.World) (World, error) {
	last := m.State().Epoch
	members := w.GetMembers()
	switch {
	case w.GetEpoch() <= last || w.GetEpoch() > MaxEpoch+plan.MaxRanks:
		return World{}, fmt.Errorf("rendezvous: the leader announced epoch %d after epoch %d", w.GetEpoch(), last)
	case len(members) <= m.cfg.Rank || len(members) > plan.MaxRanks:
		return World{}, fmt.Errorf("rendezvous: the leader's world has %d ranks, this is rank %d", len(members), m.cfg.Rank)
	case members[m.cfg.Rank].GetIncarnation() != m.cfg.Incarnation:
		return World{}, fmt.Errorf("rendezvous: the leader's world has another process as rank %d", m.cfg.Rank)
	case len(w.GetIds()) > MaxIDsBytes:
		return World{}, fmt.Errorf("rendezvous: the leader's world has ids of %d bytes, the limit is %d", len(w.GetIds()), MaxIDsBytes)
	}
	world := World{Epoch: w.GetEpoch(), Members: make([]WorldMember, len(members)), IDs: w.GetIds()}
	for rank, member := range members {
		if int64(member.GetRank()) != int64(rank) {
			return World{}, fmt.Errorf("rendezvous: the leader's world has rank %d in place %d", member.GetRank(), rank)
		}
		world.Members[rank] = WorldMember{
			Rank: rank, Role: plan.Role(member.GetRole()), Host: member.GetHost(),
			DataAddress: member.GetDataAddress(), Incarnation: member.GetIncarnation(),
		}
	}
	return world, nil
}

func (a *attendance) formed(e *epoch) {
	select {
	case <-e.formed: // Said twice; nothing new.
		return
	default:
	}
	close(e.formed)
	a.m.mu.Lock()
	defer a.m.mu.Unlock()
	a.m.state.Phase = Formed
	a.m.state.Acknowledged = a.m.cfg.Clock.Now()
}

func (a *attendance) acknowledged(ack *pb.HeartbeatAck) {
	a.m.mu.Lock()
	defer a.m.mu.Unlock()
	a.m.state.Draining = ack.GetDraining()
	if ack.GetFormed() && a.m.state.Phase == Formed && a.m.state.Epoch == ack.GetEpoch() {
		a.m.state.Acknowledged = a.m.cfg.Clock.Now()
	}
}

// leaveEpoch ends the current epoch for this member, if there is one.
func (a *attendance) leaveEpoch(reason string) {
	a.mu.Lock()
	e := a.epoch
	a.epoch = nil
	a.mu.Unlock()
	if e == nil {
		return
	}
	a.m.mu.Lock()
	a.m.state.Phase, a.m.state.LastError = Gathering, reason
	a.m.mu.Unlock()
	e.mu.Lock()
	e.over, e.reason = true, reason
	started := e.started
	e.mu.Unlock()
	e.cancel(errors.New(reason))
	if started {
		a.m.cfg.OnAbort(e.world.Epoch, reason)
	}
}

// start marks Connect as called, unless the epoch is over already.
func (e *epoch) start() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.started = true
	return !e.over
}

// ended reports whether and why the epoch is over.
func (e *epoch) ended() (string, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.reason, e.over
}

// work connects, then runs steps until the epoch ends.
func (a *attendance) work(e *epoch) {
	defer e.cancel(nil)
	cfg, number := &a.m.cfg, e.world.Epoch
	if !e.start() {
		return
	}
	if err := cfg.Connect(e.ctx, e.world); err != nil {
		a.fail(e, "connect: "+err.Error())
		return
	}
	if reason, over := e.ended(); over {
		cfg.OnAbort(number, reason)
		return
	}
	if a.send(&pb.MemberMessage{Kind: &pb.MemberMessage_Ready{Ready: &pb.Ready{Epoch: number}}}) != nil {
		return // The session is ending, and with it the epoch.
	}
	select {
	case <-e.formed:
	case <-e.ctx.Done():
		return
	}
	if cfg.OnFormed != nil {
		cfg.OnFormed(e.world)
	}
	for {
		select {
		case payload := <-e.steps:
			if !a.step(e, payload) {
				return
			}
		case <-e.ctx.Done():
			return
		}
	}
}

// step runs one step and answers it.
func (a *attendance) step(e *epoch, payload []byte) bool {
	if e.ctx.Err() != nil {
		return false
	}
	result, err := a.m.cfg.OnStep(e.ctx, e.world.Epoch, payload)
	if err == nil && len(result) > MaxPayloadBytes {
		err = fmt.Errorf("the result has %d bytes, the limit is %d", len(result), MaxPayloadBytes)
	}
	if err != nil {
		a.fail(e, "step: "+err.Error())
		return false
	}
	return a.send(&pb.MemberMessage{Kind: &pb.MemberMessage_Result{Result: &pb.StepResult{
		Epoch: e.world.Epoch, Payload: result,
	}}}) == nil
}

// fail tells the leader that this rank cannot go on; the leader then aborts the
// epoch for everyone. If the epoch is over, the failure is only its echo.
func (a *attendance) fail(e *epoch, reason string) {
	if _, over := e.ended(); over {
		return
	}
	a.report(e.world.Epoch, reason)
}

func (a *attendance) report(number uint64, reason string) {
	_ = a.send(&pb.MemberMessage{Kind: &pb.MemberMessage_Failure{Failure: &pb.Failure{Epoch: number, Reason: shorten(reason)}}})
}

func (a *attendance) send(m *pb.MemberMessage) error {
	a.sending.Lock()
	defer a.sending.Unlock()
	return a.stream.Send(m)
}

// beat sends heartbeats until the session ends. Alive may block: then there is
// no heartbeat, which is the point of it.
func (a *attendance) beat(ctx context.Context, interval time.Duration) {
	for sequence := uint64(1); ; sequence++ {
		err := a.m.alive(ctx)
		switch {
		case ctx.Err() != nil: // Whatever ended the session is known already.
			return
		case err != nil:
			a.giveUp(err)
			return
		}
		heartbeat := &pb.Heartbeat{Sequence: sequence, Device: a.m.device(), ProfileMismatch: a.m.mismatch()}
		if a.send(&pb.MemberMessage{Kind: &pb.MemberMessage_Heartbeat{Heartbeat: heartbeat}}) != nil {
			return
		}
		select {
		case <-a.m.cfg.Clock.After(interval):
		case <-ctx.Done():
			return
		}
	}
}

// giveUp ends the session of a rank that says it is not alive. It keeps trying
// to join, and stays out for as long as it says so.
func (a *attendance) giveUp(err error) {
	a.mu.Lock()
	e := a.epoch
	a.mu.Unlock()
	if e != nil {
		a.fail(e, err.Error())
	}
	_ = a.stream.CloseSend()
	a.end(err)
}

// watch ends the session when the leader is silent for the heartbeat timeout,
// or does not admit this rank within joinTimeout. The leader only answers
// heartbeats, so of a rank that sends none both sides hear nothing: the leader,
// which looks every half interval and knows whose silence it is, decides first.
func (a *attendance) watch(ctx context.Context) {
	for {
		a.m.mu.Lock()
		timeout, admitted := a.m.timeout+a.m.grace, a.m.state.Phase != Disconnected
		a.m.mu.Unlock()
		if !admitted {
			timeout = max(timeout, joinTimeout)
		}
		a.mu.Lock()
		quiet := a.m.cfg.Clock.Now().Sub(a.heard)
		a.mu.Unlock()
		if quiet > timeout {
			a.end(fmt.Errorf("rendezvous: the leader does not answer: nothing was heard of it for %v after epoch %d, the limit is %v",
				quiet.Round(time.Millisecond), a.m.State().Epoch, timeout))
			return
		}
		select {
		case <-a.m.cfg.Clock.After(min(timeout-quiet+time.Millisecond, watchInterval)):
		case <-ctx.Done():
			return
		}
	}
}
