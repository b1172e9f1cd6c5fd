// SPDX-License-Identifier: Apache-2.0

package rendezvous

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"

	"github.com/findep/findep-operator/runtime/identity"
	"github.com/findep/findep-operator/runtime/plan"
	pb "github.com/findep/findep-operator/runtime/rendezvous/rendezvouspb"
)

// Config configures the leader's side.
type Config struct {
	Instance *plan.Instance
	// TopologyHash is plan.Hash of Instance.Topology(); ranks with another are
	// refused.
	TopologyHash string
	// Zero durations mean the defaults.
	HeartbeatInterval time.Duration
	HeartbeatTimeout  time.Duration
	// ConnectTimeout bounds the time from World to the last Ready.
	ConnectTimeout time.Duration
	// Observe gives the JSON of plan.Observation for the Observe RPC; nil means
	// Snapshot alone.
	Observe func(context.Context) ([]byte, error)
	// IDs makes the ids by which the ranks' devices meet in an epoch; it is called
	// once for each, must return at once, and may be nil. While it fails no epoch
	// begins.
	IDs func() ([]byte, error)
	// Insecure admits peers without TLS; it must be asked for.
	Insecure bool
	Clock    Clock
	Log      Log
}

// Coordinator is the leader's side. All methods may be called from any
// goroutine.
type Coordinator struct {
	pb.UnimplementedRendezvousServer

	cfg     Config
	results chan Result
	// closing is closed by Close; ticking when the ticker has ended.
	closing chan struct{}
	ticking chan struct{}

	mu    sync.Mutex
	phase Phase // Gathering, Connecting or Formed
	// epoch is the highest epoch known: the current one, or while Gathering the
	// last one of this leader or of any rank that said Hello.
	epoch uint64
	world World
	// ranks holds the session of each rank, nil while it is absent; notes says
	// why it is absent.
	ranks []*session
	notes []string
	// over is closed when the current epoch ends.
	over chan struct{}
	// changed is closed and replaced at each change of phase.
	changed chan struct{}
	// since is when the phase began; notBefore delays the next epoch after
	// failures short after another.
	since     time.Time
	notBefore time.Time
	failures  int
	last      Failure
	refused   map[string]uint64
	draining  bool
	closed    bool
}

// NewCoordinator checks the configuration and starts gathering. Call Close.
func NewCoordinator(cfg Config) (*Coordinator, error) {
	switch {
	case cfg.Instance == nil:
		return nil, errors.New("rendezvous: no instance")
	case cfg.TopologyHash == "":
		return nil, errors.New("rendezvous: no topology hash")
	}
	if err := cfg.Instance.Validate(); err != nil {
		return nil, err
	}
	cfg.HeartbeatInterval = orDefault(cfg.HeartbeatInterval, DefaultHeartbeatInterval)
	cfg.HeartbeatTimeout = orDefault(cfg.HeartbeatTimeout, DefaultHeartbeatTimeout)
	cfg.ConnectTimeout = orDefault(cfg.ConnectTimeout, DefaultConnectTimeout)
	if cfg.HeartbeatTimeout <= cfg.HeartbeatInterval || cfg.HeartbeatInterval < time.Millisecond {
		return nil, fmt.Errorf("rendezvous: heartbeat interval is %v and timeout %v; the interval must be at least 1ms and less than the timeout",
			cfg.HeartbeatInterval, cfg.HeartbeatTimeout)
	}
	if cfg.Clock == nil {
		cfg.Clock = SystemClock{}
	}
	if cfg.Log == nil {
		cfg.Log = func(string, ...any) {}
	}
	world := cfg.Instance.WorldSize()
	c := &Coordinator{
		cfg: cfg, phase: Gathering,
		// Every unanswered step fits, so that delivering a result never waits
		// for whoever reads them.
		results: make(chan Result, MaxStepsInFlight*world),
		closing: make(chan struct{}), ticking: make(chan struct{}),
		ranks: make([]*session, world), notes: make([]string, world),
		over: make(chan struct{}), changed: make(chan struct{}),
		since: cfg.Clock.Now(), refused: map[string]uint64{},
	}
	for i := range c.notes {
		c.notes[i] = "has not joined yet"
	}
	close(c.over)
	go c.run()
	return c, nil
}

func orDefault(d, otherwise time.Duration) time.Duration {
	if d <= 0 {
		return otherwise
	}
	return d
}

// Register adds the service to a server made with ServerOptions.
func (c *Coordinator) Register(s *grpc.Server) { pb.RegisterRendezvousServer(s, c) }

// RefusedPeer counts a peer refused by TLS; pass it as identity.Config.Refused.
func (c *Coordinator) RefusedPeer(err *identity.RefusedError) {
	c.cfg.Log("peer refused", "reason", RefusedCertificate, "error", err.Error())
	c.mu.Lock()
	defer c.mu.Unlock()
	c.refused[string(RefusedCertificate)]++
}

// WaitFormed blocks until an epoch is formed and returns its world.
func (c *Coordinator) WaitFormed(ctx context.Context) (World, error) {
	for {
		c.mu.Lock()
		phase, world, changed, closed := c.phase, c.world, c.changed, c.closed
		c.mu.Unlock()
		switch {
		case closed:
			return World{}, ErrClosed
		case phase == Formed:
			return world, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return World{}, fmt.Errorf("%w; waiting for %s", ctx.Err(), c.waitingFor())
		}
	}
}

// waitingFor says in words what keeps the epoch from being formed.
func (c *Coordinator) waitingFor() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var absent, unready []int
	for rank, s := range c.ranks {
		switch {
		case s == nil:
			absent = append(absent, rank)
		case c.phase == Connecting && !s.ready:
			unready = append(unready, rank)
		}
	}
	switch {
	case len(absent) > 0:
		return fmt.Sprintf("%s to join", rankList(absent))
	case len(unready) > 0:
		return fmt.Sprintf("%s to connect", rankList(unready))
	}
	return "the next epoch"
}

// Send queues a step for one rank, or for All, of a formed epoch. The payload
// must not change afterwards. Each step is answered by one Result per rank,
// unless the epoch ends first. It fails without sending anything if the epoch
// is over (ErrEpochOver), the payload is over MaxPayloadBytes, or a rank has
// MaxStepsInFlight unanswered steps.
func (c *Coordinator) Send(epoch uint64, rank int, payload []byte) error {
	if len(payload) > MaxPayloadBytes {
		return fmt.Errorf("rendezvous: step payload has %d bytes, the limit is %d", len(payload), MaxPayloadBytes)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	targets := c.ranks
	switch {
	case c.closed:
		return ErrClosed
	case c.phase != Formed || epoch != c.epoch:
		return fmt.Errorf("%w: epoch %d (the last is %d, %s)", ErrEpochOver, epoch, c.epoch, c.phase)
	case rank != All && (rank < 0 || rank >= len(c.ranks)):
		return fmt.Errorf("rendezvous: rank %d is not in a world of %d ranks", rank, len(c.ranks))
	case rank != All:
		targets = c.ranks[rank : rank+1]
	}
	// A lost rank is removed from c.ranks while sending.
	targets = slices.Clone(targets)
	for _, s := range targets {
		if s.inFlight >= MaxStepsInFlight {
			return fmt.Errorf("rendezvous: rank %d has %d unanswered steps, the limit", s.rank, s.inFlight)
		}
	}
	for _, s := range targets {
		s.inFlight++
	}
	c.broadcast(targets, &pb.LeaderMessage{Kind: &pb.LeaderMessage_Step{Step: &pb.Step{Epoch: epoch, Payload: payload}}})
	return nil
}

// Results carries the answers, each rank's in the order of its steps. It is
// never closed.
func (c *Coordinator) Results() <-chan Result { return c.results }

// Failed is closed when the epoch is over.
func (c *Coordinator) Failed(epoch uint64) <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if epoch == c.epoch || c.phase == Gathering {
		return c.over
	}
	over := make(chan struct{})
	close(over)
	return over
}

// Failure is how the last epoch ended.
func (c *Coordinator) Failure() Failure {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.last
}

// Abort ends the epoch, if it is the current one.
func (c *Coordinator) Abort(epoch uint64, reason string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if epoch == c.epoch {
		c.endEpoch(reason)
	}
}

// SetDraining tells every rank, with the next heartbeat, whether the leader's
// server is ending its accepted requests before it stops.
func (c *Coordinator) SetDraining(draining bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.draining = draining
}

// Describe names ranks with their hosts and the age of their last heartbeats,
// for errors: "rank 3 (host, last heartbeat 312ms ago)".
func (c *Coordinator) Describe(ranks []int) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	words := make([]string, len(ranks))
	for i, rank := range ranks {
		if s := c.ranks[rank]; s != nil {
			words[i] = fmt.Sprintf("rank %d (%s, last heartbeat %v ago)", rank, s.hello.GetHost(), c.age(s))
		} else {
			words[i] = fmt.Sprintf("rank %d (%s)", rank, c.notes[rank])
		}
	}
	return strings.Join(words, ", ")
}

// Snapshot fills the membership fields of an observation: Epoch, Formed, Ranks,
// TopologyHash, Refused and LastFailure.
func (c *Coordinator) Snapshot() plan.Observation {
	c.mu.Lock()
	defer c.mu.Unlock()
	o := plan.Observation{
		Epoch: c.epoch, Formed: c.phase == Formed,
		TopologyHash: c.cfg.TopologyHash,
		Refused:      maps.Clone(c.refused),
		LastFailure:  c.last.Reason,
		Ranks:        make([]plan.RankState, len(c.ranks)),
	}
	for rank, s := range c.ranks {
		state := plan.RankState{
			Rank: rank, Role: c.cfg.Instance.RoleOf(rank), Host: c.cfg.Instance.Hosts[rank],
			Joined: s != nil, Message: c.notes[rank],
		}
		if s != nil {
			state.Host, state.Device, state.ProfileMismatch = s.hello.GetHost(), s.device, s.mismatch
			if c.phase == Connecting && !s.ready {
				state.Message = "is connecting to its peers"
			}
		}
		o.Ranks[rank] = state
	}
	return o
}

// observation is the answer to the Observe RPC.
func (c *Coordinator) observation(ctx context.Context) ([]byte, error) {
	if c.cfg.Observe != nil {
		return c.cfg.Observe(ctx)
	}
	return json.Marshal(c.Snapshot())
}

// Close ends the current epoch and every session. The gRPC server is the
// caller's to stop.
func (c *Coordinator) Close() error {
	c.mu.Lock()
	if !c.closed {
		c.closed = true
		c.endEpoch("the leader is shutting down")
		for _, s := range c.ranks {
			if s != nil {
				c.remove(s, errShutdown, "the leader is shutting down")
			}
		}
		close(c.closing)
		c.signal()
	}
	c.mu.Unlock()
	<-c.ticking
	return nil
}

// run looks after deadlines until Close.
func (c *Coordinator) run() {
	defer close(c.ticking)
	for {
		select {
		case <-c.closing:
			return
		case <-c.cfg.Clock.After(c.cfg.HeartbeatInterval / 2):
			c.tick()
		}
	}
}
