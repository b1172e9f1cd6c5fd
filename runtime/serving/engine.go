// SPDX-License-Identifier: Apache-2.0

package serving

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/findep/findep-operator/runtime/agent/agentpb"
)

// Engine runs steps. Errors carry gRPC status codes with the meanings that
// engine.proto gives them.
type Engine interface {
	// Describe says what is served and whether steps can run now.
	Describe(ctx context.Context) (*agentpb.DescribeResponse, error)
	// Step runs one forward pass. Only one runs at a time.
	Step(ctx context.Context, req *agentpb.StepRequest) (*agentpb.StepResponse, error)
	// ReportServing hands over the server's view of its requests.
	ReportServing(ctx context.Context, report *agentpb.ServingReport) error
}

// maxMessage bounds a message from the sidecar. A step's results take some
// hundred bytes per sequence.
const maxMessage = 64 << 20

// Client is the Engine of a sidecar.
type Client struct {
	conn   *grpc.ClientConn
	engine agentpb.EngineClient
}

var _ Engine = (*Client)(nil)

// Dial prepares a client of the sidecar that listens on a Unix socket. It does
// not wait for the socket to exist: calls fail with UNAVAILABLE until then,
// and reconnect by themselves after the sidecar restarts.
func Dial(socket string) (*Client, error) {
	conn, err := grpc.NewClient("unix:"+socket,
		// The socket lives in a volume that only the pod's containers mount.
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage)),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second},
			MinConnectTimeout: time.Second,
		}))
	if err != nil {
		return nil, fmt.Errorf("sidecar socket %s: %w", socket, err)
	}
	return &Client{conn: conn, engine: agentpb.NewEngineClient(conn)}, nil
}

// Describe implements Engine.
func (c *Client) Describe(ctx context.Context) (*agentpb.DescribeResponse, error) {
	return c.engine.Describe(ctx, &agentpb.DescribeRequest{})
}

// Step implements Engine.
func (c *Client) Step(ctx context.Context, req *agentpb.StepRequest) (*agentpb.StepResponse, error) {
	return c.engine.Step(ctx, req)
}

// ReportServing implements Engine.
func (c *Client) ReportServing(ctx context.Context, report *agentpb.ServingReport) error {
	_, err := c.engine.ReportServing(ctx, report)
	return err
}

// Close ends the connection.
func (c *Client) Close() error { return c.conn.Close() }
