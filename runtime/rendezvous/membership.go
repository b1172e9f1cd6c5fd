// SPDX-License-Identifier: Apache-2.0

package rendezvous

import (
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/findep/findep-operator/runtime/plan"
	pb "github.com/findep/findep-operator/runtime/rendezvous/rendezvouspb"
)

// This file is the membership state machine. Its methods are called with mu
// held and do no I/O: messages go to the sessions' queues.

// queueLength is what a session may have unsent: every step in flight, and the
// few other messages of an epoch.
const queueLength = MaxStepsInFlight + 16

// Waits before the next epoch when epochs of the same processes end soon after
// another, so that a fault that lasts does not turn into a busy loop. An epoch
// that was formed for stableAfter clears the record. Once a process has been
// replaced there is no wait: whoever started the new one has paced that.
const (
	minFormDelay = 100 * time.Millisecond
	maxFormDelay = 5 * time.Second
	stableAfter  = 10 * time.Second
)

var errShutdown = status.Error(codes.Unavailable, "the leader is shutting down")

// session is one admitted rank.
type session struct {
	rank  int
	hello *pb.Hello
	// heard is when the rank last sent anything.
	heard time.Time
	// device is what the last heartbeat said of the rank's device, nil if nothing.
	device *plan.DeviceHealth
	// mismatch is what it said of the profile.
	mismatch string
	// ready and inFlight belong to the current epoch.
	ready    bool
	inFlight int

	out chan *pb.LeaderMessage
	// ack holds the newest acknowledgement not sent yet. It is apart from out,
	// so that acknowledgements do not pile up behind a large step.
	ack chan *pb.LeaderMessage
	// done is closed when the session is over; err, set before, says why.
	done chan struct{}
	err  error
}

// join admits a rank or says why not.
func (c *Coordinator) join(hello *pb.Hello) (*session, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, errShutdown
	}
	refused := c.check(hello)
	if refused == nil {
		refused = c.displace(hello)
	}
	if refused != nil {
		c.refused[string(refused.Reason)]++
		if rank := int(hello.GetRank()); rank < len(c.ranks) && c.ranks[rank] == nil {
			c.notes[rank] = "was refused: " + refused.Message
		}
		c.cfg.Log("rank refused", "rank", hello.GetRank(), "host", hello.GetHost(), "reason", refused.Reason, "error", refused.Message)
		return nil, refused
	}
	s := &session{
		rank: int(hello.GetRank()), hello: hello, heard: c.cfg.Clock.Now(),
		out: make(chan *pb.LeaderMessage, queueLength), ack: make(chan *pb.LeaderMessage, 1), done: make(chan struct{}),
	}
	c.ranks[s.rank], c.notes[s.rank] = s, ""
	// Epochs never go back, also when this leader is younger than its ranks.
	c.epoch = max(c.epoch, hello.GetLastEpoch())
	c.cfg.Log("rank joined", "rank", s.rank, "host", hello.GetHost(), "lastEpoch", hello.GetLastEpoch())
	c.broadcast([]*session{s}, &pb.LeaderMessage{Kind: &pb.LeaderMessage_Welcome{Welcome: &pb.Welcome{
		HeartbeatIntervalMilliseconds: milliseconds(c.cfg.HeartbeatInterval),
		HeartbeatTimeoutMilliseconds:  milliseconds(c.cfg.HeartbeatTimeout),
	}}})
	c.form()
	return s, nil
}

func milliseconds(d time.Duration) uint32 {
	return uint32(min(d.Milliseconds(), 1<<31)) //nolint:gosec // bounded.
}

// check compares a Hello with what this instance is.
func (c *Coordinator) check(h *pb.Hello) *RefusedError {
	in := c.cfg.Instance
	for _, text := range []string{h.GetIdentity(), h.GetRole(), h.GetTopologyHash(), h.GetHost(), h.GetDataAddress(), h.GetIncarnation(), h.GetPod()} {
		if len(text) > maxText {
			return refuse(RefusedRank, "a field of hello has %d bytes, the limit is %d", len(text), maxText)
		}
	}
	rank := h.GetRank()
	switch {
	case h.GetVersion() != ProtocolVersion:
		return refuse(RefusedVersion, "protocol version is %d, the leader speaks %d", h.GetVersion(), ProtocolVersion)
	case h.GetIdentity() != in.Identity():
		return refuse(RefusedCertificate, "instance is %q, the leader's is %q", h.GetIdentity(), in.Identity())
	case h.GetTopologyHash() != c.cfg.TopologyHash:
		return refuse(RefusedTopology, "topology hash is %q, the leader's is %q", h.GetTopologyHash(), c.cfg.TopologyHash)
	case uint64(rank) >= uint64(len(c.ranks)):
		return refuse(RefusedRank, "rank %d is not in a world of %d ranks", rank, len(c.ranks))
	case h.GetRole() != string(in.RoleOf(int(rank))):
		return refuse(RefusedRank, "rank %d is %s here, not %q", rank, in.RoleOf(int(rank)), h.GetRole())
	case h.GetIncarnation() == "":
		return refuse(RefusedRank, "rank %d has no incarnation", rank)
	case h.GetLastEpoch() > MaxEpoch:
		return refuse(RefusedEpoch, "rank %d claims to have seen epoch %d, the limit is %d", rank, h.GetLastEpoch(), uint64(MaxEpoch))
	}
	if err := checkAddress(h.GetDataAddress()); err != nil {
		return refuse(RefusedRank, "data address of rank %d: %v", rank, err)
	}
	return nil
}

func checkAddress(address string) error {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return err
	}
	if n, err := strconv.ParseUint(port, 10, 16); host == "" || err != nil || n == 0 {
		return fmt.Errorf("%q is not host:port", address)
	}
	return nil
}

// displace makes the rank free for the newcomer, or refuses it while another
// member is alive in its place. See the package comment for the rule.
func (c *Coordinator) displace(h *pb.Hello) *RefusedError {
	holder := c.ranks[h.GetRank()]
	if holder == nil {
		return nil
	}
	samePod := h.GetPod() != "" && h.GetPod() == holder.hello.GetPod()
	switch {
	case h.GetIncarnation() == holder.hello.GetIncarnation():
		c.lose(holder, "connected again")
	case samePod:
		c.lose(holder, "was restarted in the same pod")
	case c.silent(holder):
		c.lose(holder, c.silence())
	default:
		refused := refuse(RefusedRank, "rank %d is held by a living member on %s", holder.rank, holder.hello.GetHost())
		refused.Retry = true
		return refused
	}
	return nil
}

func (c *Coordinator) silent(s *session) bool {
	return c.cfg.Clock.Now().Sub(s.heard) > c.cfg.HeartbeatTimeout
}

// age is the time since the rank last sent anything.
func (c *Coordinator) age(s *session) time.Duration {
	return c.cfg.Clock.Now().Sub(s.heard).Round(time.Millisecond)
}

func (c *Coordinator) silence() string {
	return fmt.Sprintf("sent no heartbeat for %v", c.cfg.HeartbeatTimeout)
}

// form starts the next epoch if every rank is there.
func (c *Coordinator) form() {
	now := c.cfg.Clock.Now()
	if c.closed || c.phase != Gathering || slices.Contains(c.ranks, nil) || (now.Before(c.notBefore) && !c.replaced()) {
		return
	}
	ids, err := c.ids()
	if err != nil {
		c.last = Failure{Epoch: c.epoch, Reason: shorten(fmt.Sprintf("the leader makes no ids for the next epoch: %v", err))}
		c.postpone(now)
		c.cfg.Log("no epoch begins", "reason", c.last.Reason)
		return
	}
	c.epoch++
	c.world = World{Epoch: c.epoch, Members: make([]WorldMember, len(c.ranks)), IDs: ids}
	message := &pb.World{Epoch: c.epoch, Members: make([]*pb.WorldMember, len(c.ranks)), Ids: ids}
	for rank, s := range c.ranks {
		s.ready, s.inFlight = false, 0
		c.world.Members[rank] = WorldMember{
			Rank: rank, Role: c.cfg.Instance.RoleOf(rank), Host: s.hello.GetHost(),
			DataAddress: s.hello.GetDataAddress(), Incarnation: s.hello.GetIncarnation(),
		}
		message.Members[rank] = &pb.WorldMember{
			Rank: s.hello.GetRank(), Role: s.hello.GetRole(), Host: s.hello.GetHost(),
			DataAddress: s.hello.GetDataAddress(), Incarnation: s.hello.GetIncarnation(),
		}
	}
	c.over = make(chan struct{})
	c.enter(Connecting)
	c.cfg.Log("epoch begins", "epoch", c.epoch, "ranks", len(c.ranks))
	c.broadcast(slices.Clone(c.ranks), &pb.LeaderMessage{Kind: &pb.LeaderMessage_World{World: message}})
}

func (c *Coordinator) ids() ([]byte, error) {
	if c.cfg.IDs == nil {
		return nil, nil
	}
	ids, err := c.cfg.IDs()
	if err == nil && len(ids) > MaxIDsBytes {
		err = fmt.Errorf("they have %d bytes, the limit is %d", len(ids), MaxIDsBytes)
	}
	return ids, err
}

// postpone delays the next epoch, longer after each failure.
func (c *Coordinator) postpone(now time.Time) {
	c.notBefore = now.Add(min(minFormDelay<<min(c.failures, 10), maxFormDelay))
	c.failures++
}

// replaced tells whether a rank has another process than in the last epoch.
func (c *Coordinator) replaced() bool {
	return slices.ContainsFunc(c.world.Members, func(m WorldMember) bool {
		return c.ranks[m.Rank].hello.GetIncarnation() != m.Incarnation
	})
}

// enter changes the phase and wakes who waits for it.
func (c *Coordinator) enter(p Phase) {
	c.phase, c.since = p, c.cfg.Clock.Now()
	c.signal()
}

func (c *Coordinator) signal() {
	close(c.changed)
	c.changed = make(chan struct{})
}

// endEpoch aborts the current epoch for everyone. Ranks stay admitted.
func (c *Coordinator) endEpoch(reason string) {
	if c.phase == Gathering {
		return
	}
	now := c.cfg.Clock.Now()
	if c.phase == Formed && now.Sub(c.since) >= stableAfter {
		c.failures = 0
		c.notBefore = now
	} else {
		c.postpone(now)
	}
	c.last = Failure{Epoch: c.epoch, Reason: reason}
	close(c.over)
	c.enter(Gathering)
	c.drainResults()
	c.cfg.Log("epoch is over", "epoch", c.epoch, "reason", reason)
	c.broadcast(c.present(), &pb.LeaderMessage{Kind: &pb.LeaderMessage_Abort{Abort: &pb.Abort{Epoch: c.epoch, Reason: reason}}})
}

// drainResults drops what nobody has read of the epoch that ended, so that the
// results of the next one always find room.
func (c *Coordinator) drainResults() {
	for {
		select {
		case <-c.results:
		default:
			return
		}
	}
}

func (c *Coordinator) present() []*session {
	return slices.DeleteFunc(slices.Clone(c.ranks), func(s *session) bool { return s == nil })
}

// broadcast queues a message. A rank whose queue is full does not read what it
// is sent and is lost.
func (c *Coordinator) broadcast(to []*session, m *pb.LeaderMessage) {
	var stuck []*session
	for _, s := range to {
		select {
		case s.out <- m:
		default:
			stuck = append(stuck, s)
		}
	}
	for _, s := range stuck {
		c.lose(s, "does not read the leader's messages")
	}
}

// lose removes a rank, which ends the epoch.
func (c *Coordinator) lose(s *session, why string) {
	if c.ranks[s.rank] != s {
		return
	}
	c.remove(s, status.Error(codes.Aborted, fmt.Sprintf("rank %d %s", s.rank, why)), why)
	c.endEpoch(fmt.Sprintf("rank %d (%s) %s (epoch %d, last heartbeat %v ago)", s.rank, s.hello.GetHost(), why, c.epoch, c.age(s)))
}

func (c *Coordinator) remove(s *session, err error, note string) {
	c.ranks[s.rank], c.notes[s.rank] = nil, note
	s.err = err
	close(s.done)
	c.cfg.Log("rank left", "rank", s.rank, "host", s.hello.GetHost(), "reason", note)
}

// leave is called when the session's stream has ended.
func (c *Coordinator) leave(s *session, why string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lose(s, why)
}

// tick finds ranks that went silent and epochs that do not get connected.
func (c *Coordinator) tick() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.present() {
		if c.silent(s) {
			c.lose(s, c.silence())
		}
	}
	if c.phase == Connecting && c.cfg.Clock.Now().Sub(c.since) > c.cfg.ConnectTimeout {
		var unready []int
		for _, s := range c.present() {
			if !s.ready {
				unready = append(unready, s.rank)
			}
		}
		c.endEpoch(fmt.Sprintf("%s not connected within %v (epoch %d)", rankList(unready), c.cfg.ConnectTimeout, c.epoch))
	}
	c.form()
}

// receive handles one message of an admitted rank. An error ends the session.
func (c *Coordinator) receive(s *session, m *pb.MemberMessage) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ranks[s.rank] != s {
		return s.err
	}
	s.heard = c.cfg.Clock.Now()
	switch k := m.GetKind().(type) {
	case *pb.MemberMessage_Heartbeat:
		s.device, s.mismatch = deviceFromProto(k.Heartbeat.GetDevice()), shorten(k.Heartbeat.GetProfileMismatch())
		c.acknowledge(s, k.Heartbeat.GetSequence())
	case *pb.MemberMessage_Ready:
		if c.current(s, k.Ready.GetEpoch(), Connecting) {
			s.ready = true
			c.formed()
		}
	case *pb.MemberMessage_Result:
		if c.current(s, k.Result.GetEpoch(), Formed) {
			return c.deliver(s, k.Result)
		}
	case *pb.MemberMessage_Failure:
		if c.current(s, k.Failure.GetEpoch(), Connecting, Formed) {
			c.endEpoch(fmt.Sprintf("rank %d (%s) failed: %s (epoch %d)", s.rank, s.hello.GetHost(), shorten(k.Failure.GetReason()), c.epoch))
		}
	default:
		return status.Errorf(codes.InvalidArgument, "rank %d sent a message of unknown or unexpected kind", s.rank)
	}
	return nil
}

// acknowledge answers a heartbeat, in place of an older answer still unsent.
func (c *Coordinator) acknowledge(s *session, sequence uint64) {
	select {
	case <-s.ack:
	default:
	}
	// Nobody else fills it, so there is room now.
	s.ack <- &pb.LeaderMessage{Kind: &pb.LeaderMessage_HeartbeatAck{HeartbeatAck: &pb.HeartbeatAck{
		Sequence: sequence, Epoch: c.epoch, Formed: c.phase == Formed, Draining: c.draining,
	}}}
}

// current reports whether a message is of the current epoch and phase; if not
// it is dropped and counted.
func (c *Coordinator) current(s *session, epoch uint64, phases ...Phase) bool {
	if epoch == c.epoch && slices.Contains(phases, c.phase) {
		return true
	}
	c.refused[string(RefusedEpoch)]++
	c.cfg.Log("message dropped", "rank", s.rank, "epoch", epoch, "current", c.epoch, "phase", c.phase)
	return false
}

func (c *Coordinator) formed() {
	for _, s := range c.ranks {
		if !s.ready {
			return
		}
	}
	c.enter(Formed)
	c.cfg.Log("epoch is formed", "epoch", c.epoch)
	c.broadcast(slices.Clone(c.ranks), &pb.LeaderMessage{Kind: &pb.LeaderMessage_Formed{Formed: &pb.Formed{Epoch: c.epoch}}})
}

func (c *Coordinator) deliver(s *session, r *pb.StepResult) error {
	if s.inFlight == 0 {
		return status.Errorf(codes.InvalidArgument, "rank %d answered a step it was not given", s.rank)
	}
	s.inFlight--
	select {
	case c.results <- Result{Rank: s.rank, Epoch: r.GetEpoch(), Payload: r.GetPayload()}:
	default:
		c.endEpoch("the leader does not read the results of its steps")
	}
	return nil
}

func shorten(text string) string {
	if len(text) > maxText {
		return strings.ToValidUTF8(text[:maxText], "") + "..."
	}
	return text
}

func rankList(ranks []int) string {
	const most = 8
	words := make([]string, 0, most+1)
	for i, rank := range ranks {
		if i == most {
			words = append(words, fmt.Sprintf("%d more", len(ranks)-most))
			break
		}
		words = append(words, strconv.Itoa(rank))
	}
	if len(ranks) == 1 {
		return "rank " + words[0]
	}
	return "ranks " + strings.Join(words, ", ")
}
