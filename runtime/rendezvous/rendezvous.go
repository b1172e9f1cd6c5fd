// SPDX-License-Identifier: Apache-2.0

// Package rendezvous brings the ranks of one instance together and tells them
// when to let go of each other.
//
// The leader (attention rank 0) hosts a Coordinator; every rank, the leader
// too, runs a Member with one gRPC stream to it over mutual TLS. Membership has
// an epoch:
//
//	            all ranks joined             all ranks Ready
//	Gathering ---------------------> Connecting -------------> Formed
//	    ^      World{epoch} to all       |        Formed{epoch}   |
//	    |                                |                        |
//	    +---- a rank lost, a failure reported, Abort: Abort{epoch} to all
//
// Guarantees:
//   - At most one epoch is alive at a time, and epochs strictly increase, also
//     when the leader restarts: each Hello carries the highest epoch its rank
//     has seen, and the next epoch is one above all of them. Only when no
//     process that knew an epoch is left can its number come again.
//   - All members of an epoch are told the same World.
//   - A rank that is lost (stream broken, no heartbeat within the timeout) or
//     reports a failure ends the epoch for everyone. Survivors keep their
//     process state and take part in the next epoch.
//   - What arrives for an epoch that is over is dropped and counted.
//   - A rank that says that it is not alive (MemberConfig.Alive) takes part in
//     no epoch until it says that it is.
//
// Who holds a rank: a living member keeps it. A newcomer with another
// incarnation is refused, and tries again, until the holder's stream has broken
// or its heartbeats have stopped for the timeout. There are two exceptions,
// where the holder cannot be alive: the same incarnation reconnecting, and
// another incarnation of the same pod (its container was restarted). They
// replace the holder at once.
package rendezvous

import (
	"errors"
	"time"

	"github.com/findep/findep-operator/runtime/plan"
)

// ProtocolVersion is refused when it differs between rank and leader.
const ProtocolVersion = 1

// Limits on what a peer can make the other side hold.
const (
	// MaxPayloadBytes bounds the payload of one Step or StepResult.
	MaxPayloadBytes = 64 << 20
	// MaxStepsInFlight bounds the steps a rank has not answered yet.
	MaxStepsInFlight = 16
	// MaxEpoch bounds what a rank may claim to have seen, so that no claim can
	// make the epoch overflow.
	MaxEpoch = 1 << 62
	// MaxIDsBytes bounds the ids of one epoch.
	MaxIDsBytes = 4096
	// maxText bounds each string of a message.
	maxText = 1024
)

// Defaults of the timing configuration. A lost rank is detected within
// DefaultHeartbeatTimeout plus half an interval, a lost leader a quarter of an
// interval later, which is under 3 s.
const (
	DefaultHeartbeatInterval = 500 * time.Millisecond
	DefaultHeartbeatTimeout  = 2500 * time.Millisecond
	DefaultConnectTimeout    = 20 * time.Second
)

// All addresses every rank in Coordinator.Send.
const All = -1

// Errors of the coordinator's API; test with errors.Is.
var (
	// ErrEpochOver is returned for an epoch that has ended.
	ErrEpochOver = errors.New("rendezvous: the epoch is over")
	// ErrClosed is returned once the coordinator is closed.
	ErrClosed = errors.New("rendezvous: the coordinator is closed")
)

// Reason says why a rank was refused; it is the key of plan.Observation's
// Refused map.
type Reason string

// The reasons a rank or one of its messages is refused for.
const (
	// RefusedCertificate is a peer without a certificate of this instance.
	RefusedCertificate Reason = "certificate"
	// RefusedEpoch is a message of an epoch that is not the current one.
	RefusedEpoch Reason = "epoch"
	// RefusedTopology is a rank configured for another topology.
	RefusedTopology Reason = "topology"
	// RefusedRank is a rank out of range, of the wrong role, or already held.
	RefusedRank Reason = "rank"
	// RefusedVersion is a rank that speaks another protocol version.
	RefusedVersion Reason = "version"
)

// World is one epoch's membership, the same for all its members.
type World struct {
	Epoch uint64
	// Members is indexed by rank.
	Members []WorldMember
	// IDs are what Config.IDs gave for this epoch, nil without it.
	IDs []byte
}

// WorldMember is one rank of a world.
type WorldMember struct {
	Rank int
	Role plan.Role
	// Host is for people, DataAddress (host:port) for the data transport.
	Host        string
	DataAddress string
	// Incarnation is random per process.
	Incarnation string
}

// Result is what a rank answered to one step.
type Result struct {
	Rank    int
	Epoch   uint64
	Payload []byte
}

// Failure says which epoch ended last, and why.
type Failure struct {
	// Epoch is 0 if none has ended yet.
	Epoch  uint64
	Reason string
}

// Clock is the time source; tests replace it.
type Clock interface {
	Now() time.Time
	After(time.Duration) <-chan time.Time
}

// SystemClock is the machine's clock.
type SystemClock struct{}

// Now implements Clock.
func (SystemClock) Now() time.Time { return time.Now() }

// After implements Clock.
func (SystemClock) After(d time.Duration) <-chan time.Time { return time.After(d) }

// Log receives what happened: a message and alternating keys and values, as
// log/slog takes them. It must not block.
type Log func(message string, keysAndValues ...any)
