// SPDX-License-Identifier: Apache-2.0

package inproc_test

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/findep/findep-operator/runtime/transport"
	"github.com/findep/findep-operator/runtime/transport/inproc"
)

// pair connects ranks 0 and 1.
func pair(t *testing.T, depth int) (a, b transport.Mesh) {
	t.Helper()
	hub := inproc.NewHub(depth)
	done := make(chan error, 1)
	go func() {
		var err error
		b, err = hub.Connect(t.Context(), 1, 1, []transport.Peer{{Rank: 0}})
		done <- err
	}()
	a, err := hub.Connect(t.Context(), 1, 0, []transport.Peer{{Rank: 1}})
	if err = errors.Join(err, <-done); err != nil {
		t.Fatal(err)
	}
	return a, b
}

func link(t *testing.T, f func(int) (transport.Link, error), peer int) transport.Link {
	t.Helper()
	l, err := f(peer)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestMessagesArriveInOrderAndCopied(t *testing.T) {
	a, b := pair(t, 2)
	to, from := link(t, a.To, 1), link(t, b.From, 0)
	buffer := []byte("one")
	for _, s := range []string{"one", "two"} {
		copy(buffer, s)
		if err := to.Send(transport.Header{Step: 7, Rows: 3}, buffer[:1], buffer[1:]); err != nil {
			t.Fatal(err)
		}
	}
	copy(buffer, "xxx")
	for _, want := range []string{"one", "two"} {
		h, err := from.ReceiveHeader()
		if err != nil || h.Bytes != 3 || h.Step != 7 || h.Rows != 3 {
			t.Fatalf("header %+v, %v", h, err)
		}
		got := make([]byte, 3)
		if err := from.ReceivePayload(got[:2], got[2:]); err != nil || string(got) != want {
			t.Errorf("payload %q, %v; want %q", got, err, want)
		}
	}
}

func TestSendWaitsForItsReceiver(t *testing.T) {
	a, b := pair(t, 0)
	to, from := link(t, a.To, 1), link(t, b.From, 0)
	sent := make(chan error, 1)
	go func() { sent <- to.Send(transport.Header{}) }()
	select {
	case err := <-sent:
		t.Fatalf("send returned before it was received: %v", err)
	case <-time.After(20 * time.Millisecond):
	}
	if _, err := from.ReceiveHeader(); err != nil {
		t.Fatal(err)
	}
	if err := <-sent; err != nil {
		t.Fatal(err)
	}
}

func TestMisuseIsAnError(t *testing.T) {
	a, b := pair(t, 2)
	to, from := link(t, a.To, 1), link(t, b.From, 0)
	if _, err := a.To(2); err == nil || !strings.Contains(err.Error(), "rank 2") {
		t.Errorf("link to an unknown rank: %v", err)
	}
	if _, err := to.ReceiveHeader(); err == nil {
		t.Error("a sending link receives")
	}
	if err := from.Send(transport.Header{}); err == nil {
		t.Error("a receiving link sends")
	}
	if err := to.Send(transport.Header{Rows: transport.MaxRows + 1}); err == nil {
		t.Error("a message beyond the limits was sent")
	}
	if err := to.Send(transport.Header{}, []byte("abc")); err != nil {
		t.Fatal(err)
	}
	if _, err := from.ReceiveHeader(); err != nil {
		t.Fatal(err)
	}
	if err := from.ReceivePayload(make([]byte, 2)); err == nil {
		t.Error("part of a payload was read")
	}
	if _, err := from.ReceiveHeader(); err == nil {
		t.Error("a payload was skipped")
	}
}

func TestEndingFailsBothSides(t *testing.T) {
	reason := errors.New("rank lost")
	tests := map[string]struct {
		end         func(transport.Mesh)
		near, cause error
	}{
		"abort": {func(m transport.Mesh) { m.Abort(reason) }, transport.ErrAborted, reason},
		"close": {func(m transport.Mesh) { _ = m.Close() }, transport.ErrClosed, nil},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			a, b := pair(t, 0)
			near, far := make(chan error, 1), make(chan error, 1)
			go func() { _, err := link(t, a.From, 1).ReceiveHeader(); near <- err }()
			go func() { far <- link(t, b.To, 0).Send(transport.Header{Bytes: 1}) }()
			<-far //nolint:errcheck // Once the two meet, both links are in use.
			if err := <-near; err != nil {
				t.Fatal(err)
			}
			go func() { _, err := link(t, a.From, 1).ReceiveHeader(); near <- err }()
			go func() { _, err := link(t, b.From, 0).ReceiveHeader(); far <- err }()
			tc.end(a)
			if err := <-near; !errors.Is(err, tc.near) || tc.cause != nil && !errors.Is(err, tc.cause) {
				t.Errorf("the side that ended got %v", err)
			}
			if err := <-far; !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("the other side got %v", err)
			}
			if err := link(t, a.To, 1).Send(transport.Header{}); !errors.Is(err, tc.near) {
				t.Errorf("a later send got %v", err)
			}
			a.Abort(reason)
		})
	}
}

func TestConnectGivesUpWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := inproc.NewHub(1).Connect(ctx, 3, 0, []transport.Peer{{Rank: 4}})
	if !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "rank 4") {
		t.Errorf("error %v", err)
	}
}
