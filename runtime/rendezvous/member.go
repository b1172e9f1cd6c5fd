// SPDX-License-Identifier: Apache-2.0

package rendezvous

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"sync"
	"time"

	"github.com/findep/findep-operator/runtime/plan"
)

// MemberConfig configures one rank's side.
type MemberConfig struct {
	// Leaders holds one or more host:port of the leader, tried in turn.
	Leaders []string
	// Identity, Rank, Role and TopologyHash must be what the leader has.
	Identity     string
	Rank         int
	Role         plan.Role
	TopologyHash string
	// Host is for people; DataAddress is where the data listener is.
	Host        string
	DataAddress string
	// Pod is the pod's UID, empty if unknown. Incarnation is random per
	// process; empty means that NewMember makes one.
	Pod         string
	Incarnation string
	// TLS comes from identity.ClientTLS; nil needs Insecure.
	TLS      *tls.Config
	Insecure bool

	// Connect builds the data mesh of an epoch. Its context ends with the epoch.
	Connect func(ctx context.Context, world World) error
	// OnStep runs one step; steps of an epoch run one after another. The
	// context ends with the epoch. An error ends the epoch for everyone.
	OnStep func(ctx context.Context, epoch uint64, payload []byte) ([]byte, error)
	// OnAbort is called for each epoch whose Connect was called, at the moment
	// it ends, also while Connect or OnStep still run: it must unblock them
	// (transport.Mesh.Abort) and not wait for them. If Connect succeeds after
	// that, OnAbort is called again, so that the mesh it made is not forgotten.
	OnAbort func(epoch uint64, reason string)
	// OnFormed, if set, is called when every rank is connected, before the
	// first OnStep.
	OnFormed func(world World)
	// Alive, if set, is called before each attempt to join and before each
	// heartbeat. While it blocks, no heartbeat is sent, so that a wedged rank is
	// noticed; an error ends the epoch, and keeps this rank out until there is
	// none.
	Alive func() error
	// Device, if set, says how this rank's device does; nil if nothing is known.
	// Heartbeats carry the answer, so it must not wait for anything.
	Device func() *plan.DeviceHealth
	// ProfileMismatch, if set, says how this rank's device is another than the one
	// that was planned with, empty if it is not. It must not wait either.
	ProfileMismatch func() string

	// BackoffMin and BackoffMax bound the wait between two attempts to join;
	// zero means 100 ms and 1 s. Random, in [0, 1), spreads the attempts; nil
	// means the global generator.
	BackoffMin, BackoffMax time.Duration
	Random                 func() float64
	// HeartbeatTimeout is used until the leader says its own; 0 means the
	// default.
	HeartbeatTimeout time.Duration
	Clock            Clock
	Log              Log
}

// Phase is where a member stands.
type Phase string

// The phases of a member.
const (
	// Disconnected has no session with the leader.
	Disconnected Phase = "Disconnected"
	// Gathering is admitted and waits for the other ranks.
	Gathering Phase = "Gathering"
	// Connecting builds the data mesh.
	Connecting Phase = "Connecting"
	// Formed takes steps.
	Formed Phase = "Formed"
)

// State is a member's view of the instance.
type State struct {
	Phase Phase
	// Epoch is the current epoch, or the last one while there is none.
	Epoch uint64
	// Acknowledged is when the leader last confirmed that every rank
	// heartbeats; zero outside of Formed.
	Acknowledged time.Time
	// Ready is true while Formed and confirmed within the heartbeat timeout.
	Ready bool
	// LastError is why the last attempt to join ended, or the last abort.
	LastError string
	// Dropped counts messages of epochs that were over.
	Dropped uint64
	// Draining is true while the leader's server ends its accepted requests
	// before it stops.
	Draining bool
}

// Member is one rank's side.
type Member struct {
	cfg MemberConfig

	mu    sync.Mutex
	state State
	// timeout is the heartbeat timeout in use, grace how much longer the leader
	// may be silent.
	timeout, grace time.Duration
	// worked is closed when the goroutine of the last epoch has ended; the next
	// epoch waits for it, so that two never touch the rank's state at once.
	worked chan struct{}
}

// NewMember checks the configuration.
func NewMember(cfg MemberConfig) (*Member, error) {
	switch {
	case len(cfg.Leaders) == 0:
		return nil, errors.New("rendezvous: no leader address")
	case cfg.TLS == nil && !cfg.Insecure:
		return nil, errors.New("rendezvous: no TLS configuration; set Insecure to join unprotected")
	case cfg.Connect == nil || cfg.OnStep == nil || cfg.OnAbort == nil:
		return nil, errors.New("rendezvous: Connect, OnStep and OnAbort are required")
	case cfg.Rank < 0 || cfg.Rank >= plan.MaxRanks:
		return nil, fmt.Errorf("rendezvous: rank is %d; it must lie between 0 and %d", cfg.Rank, plan.MaxRanks-1)
	}
	if err := checkAddress(cfg.DataAddress); err != nil {
		return nil, fmt.Errorf("rendezvous: data address: %w", err)
	}
	if cfg.Incarnation == "" {
		var b [16]byte
		if _, err := rand.Read(b[:]); err != nil {
			return nil, fmt.Errorf("rendezvous: incarnation: %w", err)
		}
		cfg.Incarnation = hex.EncodeToString(b[:])
	}
	cfg.BackoffMin = orDefault(cfg.BackoffMin, 100*time.Millisecond)
	cfg.BackoffMax = max(orDefault(cfg.BackoffMax, time.Second), cfg.BackoffMin)
	cfg.HeartbeatTimeout = orDefault(cfg.HeartbeatTimeout, DefaultHeartbeatTimeout)
	if cfg.Random == nil {
		cfg.Random = mathrand.Float64
	}
	if cfg.Clock == nil {
		cfg.Clock = SystemClock{}
	}
	if cfg.Log == nil {
		cfg.Log = func(string, ...any) {}
	}
	idle := make(chan struct{})
	close(idle)
	return &Member{cfg: cfg, state: State{Phase: Disconnected}, timeout: cfg.HeartbeatTimeout, worked: idle}, nil
}

// Run takes part in the rendezvous until ctx ends, and returns its error. It
// joins again, with growing waits, however often the leader is lost or refuses.
// When it returns, neither Connect nor OnStep is running.
func (m *Member) Run(ctx context.Context) error {
	wait := m.cfg.BackoffMin
	for attempt := 0; ctx.Err() == nil; attempt++ {
		leader := m.cfg.Leaders[attempt%len(m.cfg.Leaders)]
		admitted, err := false, m.alive(ctx)
		if err == nil {
			admitted, err = m.attend(ctx, leader)
		}
		if ctx.Err() != nil {
			break
		}
		if admitted {
			wait = m.cfg.BackoffMin
		}
		m.disconnected(leader, err)
		// Between half and all of the wait, so that ranks that lost the leader
		// together do not come back together.
		pause := time.Duration((0.5 + m.cfg.Random()/2) * float64(wait))
		wait = min(2*wait, m.cfg.BackoffMax)
		select {
		case <-m.cfg.Clock.After(pause):
		case <-ctx.Done():
		}
	}
	m.mu.Lock()
	m.state.Phase = Disconnected
	worked := m.worked
	m.mu.Unlock()
	<-worked
	return ctx.Err()
}

// alive says why this rank may not take part, nil if it may. It waits for as
// long as Alive does, or until ctx ends.
func (m *Member) alive(ctx context.Context) error {
	if m.cfg.Alive == nil {
		return nil
	}
	answer := make(chan error, 1)
	go func() { answer <- m.cfg.Alive() }()
	select {
	case err := <-answer:
		if err != nil {
			return fmt.Errorf("rendezvous: this rank is not alive: %w", err)
		}
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (m *Member) disconnected(leader string, err error) {
	text := describe(err)
	m.cfg.Log("no session with the leader", "leader", leader, "rank", m.cfg.Rank, "error", text)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.state.Phase, m.state.LastError, m.state.Draining = Disconnected, text, false
}

// State may be called at any time.
func (m *Member) State() State {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.state
	if s.Phase != Formed {
		s.Acknowledged = time.Time{}
	}
	s.Ready = s.Phase == Formed && !s.Acknowledged.IsZero() &&
		m.cfg.Clock.Now().Sub(s.Acknowledged) <= m.timeout
	return s
}
