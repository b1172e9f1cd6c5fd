// SPDX-License-Identifier: Apache-2.0

package rendezvous

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/findep/findep-operator/runtime/identity"
	"github.com/findep/findep-operator/runtime/plan"
	pb "github.com/findep/findep-operator/runtime/rendezvous/rendezvouspb"
)

const (
	// maxMessageBytes leaves room for a message's other fields.
	maxMessageBytes = MaxPayloadBytes + 64<<10
	// windowBytes is the flow-control window: a step of ordinary size is sent
	// without waiting for the receiver.
	windowBytes = 4 << 20
	// dialTimeout bounds one attempt to reach the leader. The kernel repeats an
	// unanswered SYN after 1, 3 and 7 s; a new attempt finds a network that has
	// healed sooner.
	dialTimeout = 1500 * time.Millisecond
	// maxObservationBytes bounds what the operator reads from a leader.
	maxObservationBytes = 8 << 20
)

// ServerOptions are the options of the gRPC server a coordinator is registered
// on. The configuration comes from identity.ServerTLS with the instance's
// identity and identity.OperatorURI as peers; nil means no TLS, which the
// coordinator accepts only if Config.Insecure is set.
func ServerOptions(config *tls.Config) []grpc.ServerOption {
	creds := insecure.NewCredentials()
	if config != nil {
		creds = credentials.NewTLS(config)
	}
	return []grpc.ServerOption{
		grpc.Creds(creds),
		grpc.MaxRecvMsgSize(maxMessageBytes),
		grpc.MaxSendMsgSize(maxMessageBytes),
		grpc.InitialWindowSize(windowBytes),
		grpc.InitialConnWindowSize(windowBytes),
		grpc.MaxConcurrentStreams(16),
		grpc.ConnectionTimeout(10 * time.Second),
		// Frees the connection of a peer that vanished without a word.
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 10 * time.Second, Timeout: 5 * time.Second}),
	}
}

// authorize checks that the peer's certificate has one of the identities.
func (c *Coordinator) authorize(ctx context.Context, allowed ...string) error {
	if c.cfg.Insecure {
		return nil
	}
	var uri string
	err := errors.New("the connection has no TLS")
	if p, ok := peer.FromContext(ctx); ok {
		if info, ok := p.AuthInfo.(credentials.TLSInfo); ok {
			uri, err = identity.PeerURI(info.State)
		}
	}
	switch {
	case err != nil:
	case !slices.Contains(allowed, uri):
		err = fmt.Errorf("%s may not do this", uri)
	default:
		return nil
	}
	c.mu.Lock()
	c.refused[string(RefusedCertificate)]++
	c.mu.Unlock()
	return refuse(RefusedCertificate, "%v", err)
}

// Observe implements the RPC; the instance and the operator may call it.
func (c *Coordinator) Observe(ctx context.Context, _ *pb.ObserveRequest) (*pb.ObserveResponse, error) {
	if err := c.authorize(ctx, c.cfg.Instance.Identity(), identity.OperatorURI); err != nil {
		return nil, err
	}
	b, err := c.observation(ctx)
	if err != nil {
		return nil, status.Errorf(codes.Internal, "observation: %v", err)
	}
	return &pb.ObserveResponse{Observation: b}, nil
}

// Session implements the RPC: one rank's membership.
func (c *Coordinator) Session(stream grpc.BidiStreamingServer[pb.MemberMessage, pb.LeaderMessage]) error {
	if err := c.authorize(stream.Context(), c.cfg.Instance.Identity()); err != nil {
		return err
	}
	joined, ended := make(chan *session, 1), make(chan error, 2)
	go func() { ended <- c.listen(stream, joined) }()
	var s *session
	select {
	case s = <-joined:
	case err := <-ended:
		return err
	case <-c.closing:
		return errShutdown
	case <-c.cfg.Clock.After(c.cfg.HeartbeatTimeout):
		return status.Error(codes.DeadlineExceeded, "no hello within the heartbeat timeout")
	}
	// Sending has its own goroutine: it may block on a rank that does not read,
	// and returning from here is what ends it.
	go func() { ended <- speak(stream, s) }()
	select {
	case <-s.done:
		return s.err
	case err := <-ended:
		c.leave(s, farewell(err))
		// If the session was over already, its own error says more.
		if s.err != nil && err == nil {
			err = s.err
		}
		return err
	}
}

// farewell is why a session ended, in words.
func farewell(err error) string {
	switch {
	case err == nil:
		return "left"
	case status.Code(err) == codes.InvalidArgument, status.Code(err) == codes.ResourceExhausted:
		return "broke the protocol: " + describe(err)
	}
	return "lost its connection to the leader"
}

// listen reads a session's messages until the stream or the session ends.
func (c *Coordinator) listen(stream grpc.BidiStreamingServer[pb.MemberMessage, pb.LeaderMessage], joined chan<- *session) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	hello := first.GetHello()
	if hello == nil {
		return status.Error(codes.InvalidArgument, "the first message of a session must be hello")
	}
	s, err := c.join(hello)
	if err != nil {
		return err
	}
	joined <- s
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			err = c.receive(s, m)
		}
		if err != nil {
			return err
		}
	}
}

// speak sends what is queued for a session until it is over.
func speak(stream grpc.BidiStreamingServer[pb.MemberMessage, pb.LeaderMessage], s *session) error {
	for {
		var m *pb.LeaderMessage
		select {
		case m = <-s.out:
		case m = <-s.ack:
		case <-s.done:
			return s.err
		}
		if err := stream.Send(m); err != nil {
			return err
		}
	}
}

// Observe reads the observation of the leader at address (host:port). The
// configuration comes from identity.ClientTLS; nil means no TLS.
func Observe(ctx context.Context, address string, config *tls.Config) (*plan.Observation, error) {
	conn, err := dial(address, config, maxObservationBytes)
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close() }()
	answer, err := pb.NewRendezvousClient(conn).Observe(ctx, &pb.ObserveRequest{})
	if err != nil {
		return nil, fmt.Errorf("rendezvous: observe %s: %w", address, asRefusal(err))
	}
	var o plan.Observation
	if err := json.Unmarshal(answer.GetObservation(), &o); err != nil {
		return nil, fmt.Errorf("rendezvous: observation of %s: %w", address, err)
	}
	return &o, nil
}

// dial makes a connection to exactly one address. The name is resolved at each
// attempt, because a leader that was replaced keeps its name, not its address.
func dial(address string, config *tls.Config, maxBytes int) (*grpc.ClientConn, error) {
	creds := insecure.NewCredentials()
	if config != nil {
		creds = credentials.NewTLS(config)
	}
	conn, err := grpc.NewClient("passthrough:///"+address,
		grpc.WithTransportCredentials(creds),
		// A dialler of our own keeps proxies of the environment out of the way.
		grpc.WithContextDialer(func(ctx context.Context, target string) (net.Conn, error) {
			return (&net.Dialer{Timeout: dialTimeout}).DialContext(ctx, "tcp", target)
		}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxBytes), grpc.MaxCallSendMsgSize(maxMessageBytes)),
		grpc.WithInitialWindowSize(windowBytes),
		grpc.WithInitialConnWindowSize(windowBytes),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff: backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 2 * time.Second}, MinConnectTimeout: 5 * time.Second,
		}),
		grpc.WithDisableServiceConfig(),
	)
	if err != nil {
		return nil, fmt.Errorf("rendezvous: leader %s: %w", address, err)
	}
	return conn, nil
}
