// SPDX-License-Identifier: Apache-2.0

package rendezvous

import (
	"context"
	"crypto/tls"
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
	// OnAbort is called once for each epoch whose Connect was called, at the
	// moment it ends, also while Connect or OnStep still run: it must unblock
	// them (transport.Mesh.Abort) and not wait for them.
	OnAbort func(epoch uint64, reason string)
	// OnFormed, if set, is called when every rank is connected, before the
	// first OnStep.
	OnFormed func(world World)
	// Alive, if set, is called before each heartbeat. While it blocks, no
	// heartbeat is sent; an error ends the epoch.
	Alive func() error

	// BackoffMin and BackoffMax bound the wait between two attempts to join.
	BackoffMin, BackoffMax time.Duration
	Clock                  Clock
	Log                    Log
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
}

// Member is one rank's side.
type Member struct{}

// NewMember checks the configuration.
func NewMember(cfg MemberConfig) (*Member, error) { return nil, errTODO }

// Run takes part in the rendezvous until ctx ends.
func (m *Member) Run(ctx context.Context) error { return errTODO }

// State may be called at any time.
func (m *Member) State() State { return State{} }
