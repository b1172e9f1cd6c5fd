// SPDX-License-Identifier: Apache-2.0

package tcp_test

import (
	"bytes"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/findep/findep-operator/runtime/transport"
	"github.com/findep/findep-operator/runtime/transport/tcp"
)

func securities(t *testing.T) map[string]*tcp.TLS {
	return map[string]*tcp.TLS{"plain": nil, "tls": security(t, authority(t), instance)}
}

// TestEverySizeArrivesByItself: a receiver that waited for more bytes than one
// message has would wait for ever, since the next one is only sent after it.
func TestEverySizeArrivesByItself(t *testing.T) {
	each(t, func(t *testing.T, v variant) {
		a, e := v.pair(t)
		out, in := to(t, a, 1), from(t, e, 0)
		timeout := time.AfterFunc(patience, func() { a.Abort(fmt.Errorf("a message did not arrive")) })
		defer timeout.Stop()
		for _, base := range []int{0, 16 << 10, 32 << 10, 51 << 10, 67 << 10, 128 << 10, 144 << 10, 179 << 10, 195 << 10, 256 << 10, 1 << 20} {
			for _, size := range []int{max(0, base-49), max(0, base-1), base, base + 1, base + 4095} {
				var sent sync.WaitGroup
				sent.Go(func() {
					if err := out.Send(transport.Header{Rows: 1}, noise[:size/3], noise[size/3:size]); err != nil {
						t.Error(err)
					}
				})
				got := make([]byte, size)
				if _, err := in.ReceiveHeader(); err != nil {
					t.Fatal(err)
				}
				if err := in.ReceivePayload(got[:size/2], got[size/2:]); err != nil {
					t.Fatal(err)
				}
				sent.Wait()
				if !bytes.Equal(got, noise[:size]) {
					t.Fatalf("%d bytes arrived changed", size)
				}
			}
		}
	})
}

// TestAPeerThatStopsMidwayIsNoticed: whatever the receiver waits for.
func TestAPeerThatStopsMidwayIsNoticed(t *testing.T) { each(t, stopMidway) }

func stopMidway(t *testing.T, v variant) {
	a, e := v.pair(t)
	out, in := to(t, a, 1), from(t, e, 0)
	done := make(chan error, 1)
	go func() {
		_, err := in.ReceiveHeader()
		if err == nil {
			err = in.ReceivePayload(make([]byte, 2<<20))
		}
		done <- err
	}()
	go func() { _ = out.Send(transport.Header{}, noise) }()
	_ = a.Close()
	select {
	case err := <-done: // All of it may have been sent before the end.
		t.Logf("the receiver ended with %v", err)
	case <-time.After(patience):
		t.Fatal("the receiver still waits")
	}
}

// TestDelayHoldsEverythingBack: both directions work, and no message is faster
// than the delay.
func TestDelayHoldsEverythingBack(t *testing.T) {
	const delay = 30 * time.Millisecond
	for name, s := range securities(t) {
		t.Run(name, func(t *testing.T) {
			a, e := delayed(t, s, delay)
			start := time.Now()
			var wg sync.WaitGroup
			wg.Go(func() {
				if err := sendAll(to(t, a, 1), 0, 1, 10); err != nil {
					t.Error(err)
				}
			})
			if err := receiveAll(from(t, e, 0), 0, 1, 10); err != nil {
				t.Error(err)
			}
			wg.Wait()
			if took := time.Since(start); took < delay {
				t.Errorf("10 messages arrived after %v, before the delay of %v", took, delay)
			}
		})
	}
}

// TestHeldBackBytesAreBounded: a sender blocks when nobody reads, and an abort
// frees both.
func TestHeldBackBytesAreBounded(t *testing.T) {
	a, e := delayed(t, nil, time.Millisecond)
	out := to(t, a, 1)
	sent := make(chan int, 1)
	go func() {
		n := 0
		for out.Send(transport.Header{}, noise) == nil {
			n++
		}
		sent <- n
	}()
	time.Sleep(500 * time.Millisecond)
	e.Abort(fmt.Errorf("enough"))
	a.Abort(fmt.Errorf("enough"))
	if n := <-sent; n > 100 {
		t.Errorf("%d messages of %d bytes were taken in, though none was read", n, len(noise))
	}
}

func TestDelayIsBounded(t *testing.T) {
	if e, err := tcp.Listen("127.0.0.1:0", nil, tcp.Options{Plain: true, Delay: time.Hour}); err == nil {
		_ = e.Close()
		t.Error("a delay of an hour is possible")
	}
}
