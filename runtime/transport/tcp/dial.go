// SPDX-License-Identifier: Apache-2.0

package tcp

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/findep/findep-operator/runtime/identity"
	"github.com/findep/findep-operator/runtime/transport"
)

// Waits between two attempts to reach a peer that is not there yet.
const (
	minRetry = 20 * time.Millisecond
	maxRetry = time.Second
)

// RefusedError is a peer's refusal of our hello.
type RefusedError struct {
	// Reason is epoch, rank, version or handshake.
	Reason string
	// Epoch is the highest that the peer has seen.
	Epoch uint64
	// Message is the peer's text.
	Message string
	// Retry is true if the peer may accept the same hello later.
	Retry bool
}

// Error implements error.
func (e *RefusedError) Error() string {
	return fmt.Sprintf("refused (%s): %s", e.Reason, e.Message)
}

// dialAll opens both connections to every peer of an attention rank.
func (e *Endpoint) dialAll(ctx context.Context, m *mesh) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stop := context.AfterFunc(e.ctx, func() { cancel(transport.ErrClosed) })
	defer stop()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		select {
		case <-m.done: // Aborted, or superseded by a newer epoch.
			return m.failure()
		case <-m.complete:
			return nil
		case <-ctx.Done():
			return nil // Whoever ended the context reports why.
		}
	})
	for _, p := range m.peers {
		for _, d := range []direction{a2e, e2a} {
			group.Go(func() error { return e.dialPeer(ctx, m, p, d) })
		}
	}
	return group.Wait()
}

// dialPeer repeats until the peer consents, refuses for good, or ctx ends.
func (e *Endpoint) dialPeer(ctx context.Context, m *mesh, p transport.Peer, d direction) error {
	wait := minRetry
	for {
		c, err := e.dialOnce(ctx, m, p, d)
		if err == nil {
			if !m.add(slot{p.Rank, d}, c) {
				c.drop()
				return m.failure()
			}
			return nil
		}
		err = fmt.Errorf("%s to rank %d at %s: %w", d, p.Rank, p.Address, err)
		if final(err) {
			return err
		}
		select {
		case <-time.After(wait):
			wait = min(2*wait, maxRetry)
		case <-ctx.Done():
			return fmt.Errorf("%w; last attempt: %w", context.Cause(ctx), err)
		}
	}
}

// final tells errors that another attempt cannot cure from those of a peer
// that is still starting.
func final(err error) bool {
	var (
		refused *RefusedError
		peer    *identity.RefusedError
		record  tls.RecordHeaderError
		proto   *protocolError
	)
	if errors.As(err, &refused) {
		return !refused.Retry
	}
	return errors.As(err, &peer) || errors.As(err, &record) || errors.As(err, &proto) || isAlert(err)
}

// isAlert reports whether the other side ended TLS with an alert, which is how
// it refuses our certificate. crypto/tls has no exported type for it.
func isAlert(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "remote error"
}

// protocolError is an answer that is none.
type protocolError struct{ err error }

func (e *protocolError) Error() string { return e.err.Error() }
func (e *protocolError) Unwrap() error { return e.err }

func (e *Endpoint) dialOnce(ctx context.Context, m *mesh, p transport.Peer, d direction) (*connection, error) {
	dialer := net.Dialer{Timeout: e.opts.HandshakeTimeout}
	conn, err := dialer.DialContext(ctx, "tcp", p.Address)
	if err != nil {
		return nil, err
	}
	raw := conn.(*net.TCPConn)
	e.tune(raw)
	// The peer may hold the hello back for its whole timeout, so ours is longer.
	_ = raw.SetDeadline(time.Now().Add(2 * e.opts.HandshakeTimeout))
	stop := context.AfterFunc(ctx, func() { _ = raw.Close() })
	c := e.connection(raw)
	err = e.greet(ctx, c, hello{direction: d, share: e.opts.Shared != nil, epoch: m.epoch, from: m.self, to: p.Rank})
	if !stop() && err == nil {
		err = context.Cause(ctx) // The socket is being closed.
	}
	if err != nil {
		c.drop()
		return nil, err
	}
	_ = raw.SetDeadline(time.Time{})
	return c, nil
}

// greet secures the connection, says hello, reads the answer, and shares memory
// if invited.
func (e *Endpoint) greet(ctx context.Context, c *connection, h hello) error {
	if e.security != nil {
		secure := tls.Client(shortReads{c.conn}, e.security.Client)
		if err := secure.HandshakeContext(ctx); err != nil {
			return fmt.Errorf("TLS handshake: %w", err)
		}
		c.conn = secure
	}
	var frame [helloBytes]byte
	h.encode(&frame)
	if _, err := c.conn.Write(frame[:]); err != nil {
		return fmt.Errorf("hello: %w", err)
	}
	text, err := readReply(c.conn)
	if err != nil {
		return err
	}
	return e.share(ctx, c, h, text)
}

// readReply returns the text that came with a consent.
func readReply(r io.Reader) (string, error) {
	var frame [replyBytes]byte
	if _, err := io.ReadFull(r, frame[:]); err != nil {
		// A certificate refused by the listener shows here: with TLS 1.3 the
		// dialler's handshake ends before its certificate is judged.
		return "", fmt.Errorf("reply: %w", err)
	}
	answer, length, err := decodeReply(&frame)
	if err != nil {
		return "", &protocolError{err}
	}
	text := make([]byte, length)
	if _, err := io.ReadFull(r, text); err != nil {
		return "", fmt.Errorf("reply: %w", err)
	}
	if answer.status == statusOK {
		return string(text), nil
	}
	return "", &RefusedError{
		Reason: answer.status.reason(), Epoch: answer.epoch, Message: string(text),
		Retry: answer.status == statusEarly || answer.status == statusBusy,
	}
}
