// SPDX-License-Identifier: Apache-2.0

package rendezvous

import (
	"context"
	"errors"
	"time"

	"google.golang.org/grpc"

	"github.com/findep/findep-operator/runtime/identity"
	"github.com/findep/findep-operator/runtime/plan"
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
	// Insecure admits peers without TLS; it must be asked for.
	Insecure bool
	Clock    Clock
	Log      Log
}

// Coordinator is the leader's side.
type Coordinator struct{}

var errTODO = errors.New("rendezvous: not implemented yet")

// NewCoordinator checks the configuration and starts gathering. Call Close.
func NewCoordinator(cfg Config) (*Coordinator, error) { return nil, errTODO }

// Register adds the service to a server made with ServerOptions.
func (c *Coordinator) Register(s *grpc.Server) {}

// RefusedPeer counts a peer refused by TLS; pass it as identity.Config.Refused.
func (c *Coordinator) RefusedPeer(err *identity.RefusedError) {}

// WaitFormed blocks until an epoch is formed and returns its world.
func (c *Coordinator) WaitFormed(ctx context.Context) (World, error) { return World{}, errTODO }

// Send queues a step for one rank, or for All, of a formed epoch.
func (c *Coordinator) Send(epoch uint64, rank int, payload []byte) error { return errTODO }

// Results carries the answers, each rank's in the order of its steps.
func (c *Coordinator) Results() <-chan Result { return nil }

// Failed is closed when the epoch is over.
func (c *Coordinator) Failed(epoch uint64) <-chan struct{} { return nil }

// Failure is how the last epoch ended.
func (c *Coordinator) Failure() Failure { return Failure{} }

// Abort ends the epoch, if it is the current one.
func (c *Coordinator) Abort(epoch uint64, reason string) {}

// Snapshot fills the membership fields of an observation.
func (c *Coordinator) Snapshot() plan.Observation { return plan.Observation{} }

// Close ends every session.
func (c *Coordinator) Close() error { return nil }
