// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// ErrWedged is wrapped by the error that ends a process whose work does not
// end. Nothing inside the process can free a thread that hangs in a driver or a
// file system; a new process can.
var ErrWedged = errors.New("this rank is wedged")

// watchdog knows what the rank is doing. A rank that waits for its peers lets
// go as soon as the epoch ends; one that does not is wedged, and must neither
// heartbeat nor be Ready.
type watchdog struct {
	now func() time.Time
	// patience is how long work may go on after its epoch has ended.
	patience time.Duration

	mu sync.Mutex
	// doing is empty while idle. limit replaces patience for the present work
	// if it is longer.
	doing string
	epoch uint64
	since time.Time
	limit time.Duration
	// over is the newest epoch that has ended, released when it did, or when
	// work for it began later.
	over     uint64
	released time.Time
	// progress is when loading last got on, what names the last thing loaded;
	// stall bounds the time between two.
	progress time.Time
	what     string
	loaded   int
	stall    time.Duration
}

// begin says what the rank does from now on.
func (w *watchdog) begin(doing string, epoch uint64, limit time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.doing, w.epoch, w.since, w.limit = doing, epoch, w.now(), max(limit, w.patience)
	w.released = w.since
}

// end says that the rank is idle.
func (w *watchdog) end() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.doing = ""
}

// release says that an epoch has ended, so that its work must too.
func (w *watchdog) release(epoch uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if epoch > w.over {
		w.over, w.released = epoch, w.now()
	}
}

// load begins to follow the loading of the weights.
func (w *watchdog) load(stall time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.progress, w.what, w.stall = w.now(), "the index", stall
}

// advance says that a tensor is being loaded.
func (w *watchdog) advance(tensor string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.progress, w.what = w.now(), tensor
	w.loaded++
}

// done says that the weights are loaded.
func (w *watchdog) done() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.progress = time.Time{}
}

// loading describes the progress, for status.
func (w *watchdog) loading() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.loaded == 0 {
		return loadingMessage
	}
	return fmt.Sprintf("%s: %d tensors, the last one %v ago", loadingMessage, w.loaded, w.now().Sub(w.progress).Round(time.Second))
}

// loadingMessage begins the status of a rank that has not joined yet.
const loadingMessage = "loading the weights"

// check returns what the rank is wedged in, nil if it is not.
func (w *watchdog) check() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := w.now()
	switch {
	case w.doing != "" && w.epoch <= w.over && now.Sub(w.released) > w.limit:
		return fmt.Errorf("%w: %s of epoch %d began %v ago and has not let go in the %v since the epoch ended",
			ErrWedged, w.doing, w.epoch, now.Sub(w.since).Round(time.Millisecond), now.Sub(w.released).Round(time.Millisecond))
	case !w.progress.IsZero() && now.Sub(w.progress) > w.stall:
		return fmt.Errorf("%w: loading the weights has not got beyond %s for %v, the limit is %v; is the volume reachable?",
			ErrWedged, w.what, now.Sub(w.progress).Round(time.Second), w.stall)
	}
	return nil
}

// watch returns once the rank is wedged, or when ctx ends.
func (w *watchdog) watch(ctx context.Context, interval time.Duration) error {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			if err := w.check(); err != nil {
				return err
			}
		}
	}
}
