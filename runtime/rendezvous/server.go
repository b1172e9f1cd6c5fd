// SPDX-License-Identifier: Apache-2.0

package rendezvous

import (
	"context"
	"crypto/tls"

	"google.golang.org/grpc"

	"github.com/findep/findep-operator/runtime/plan"
)

// ServerOptions are the options of the gRPC server a coordinator is registered
// on. The configuration comes from identity.ServerTLS with the instance's
// identity and identity.OperatorURI as peers; nil means no TLS.
func ServerOptions(config *tls.Config) []grpc.ServerOption { return nil }

// Observe reads the observation of the leader at address (host:port).
func Observe(ctx context.Context, address string, config *tls.Config) (*plan.Observation, error) {
	return nil, errTODO
}
