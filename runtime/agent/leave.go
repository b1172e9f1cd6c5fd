// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"time"

	"github.com/findep/findep-operator/runtime/rendezvous"
)

const (
	// leavePoll is how often a rank that was told to stop looks whether it is
	// still needed.
	leavePoll = 200 * time.Millisecond
	// leavePatience is how long a rank waits for the leader to say that it drains.
	// The pods of an instance are told to stop one after another, and the leader's
	// server works on for some seconds before it is.
	leavePatience = 5 * time.Second
)

// until is ctx for the work of a rank: it ends after ctx, when the accepted
// requests of the leader's server do not need this rank any more, and at the
// latest Options.DrainTimeout later. The leader's own process is stopped after its
// server and ends at once.
func (a *agent) until(ctx context.Context) (context.Context, context.CancelFunc) {
	if a.options.Rank == 0 || a.options.DrainTimeout == 0 {
		return context.WithCancel(ctx)
	}
	work, cancel := context.WithCancel(context.WithoutCancel(ctx))
	context.AfterFunc(ctx, func() {
		defer cancel()
		limit, done := context.WithTimeout(work, a.options.DrainTimeout)
		defer done()
		tick := time.NewTicker(leavePoll)
		defer tick.Stop()
		leave(limit, a.needed, tick.C, func() { a.log.Info("waiting for the leader to finish its requests") })
	})
	return work, cancel
}

// need is what the others want of a rank that was told to stop.
type need int

const (
	// notNeeded means that there is no epoch that this rank belongs to.
	notNeeded need = iota
	// maybeNeeded means that the instance works and that its leader does not drain,
	// or has not said so yet.
	maybeNeeded
	// stillNeeded means that the leader ends its accepted requests.
	stillNeeded
)

// needed is what the instance wants of this rank now. One that is stuck helps
// nobody.
func (a *agent) needed() need {
	switch s := a.status(); {
	case s.Phase == string(rendezvous.Disconnected) || a.watch.check() != nil:
		return notNeeded
	case s.Draining:
		return stillNeeded
	default:
		return maybeNeeded
	}
}

// leave returns when a rank is not needed, has not been needed for leavePatience,
// or has been and is no more, and when ctx ends. Each tick brings the time; waiting
// is called once, when the leader says that it drains.
func leave(ctx context.Context, needed func() need, tick <-chan time.Time, waiting func()) {
	var since time.Time
	waited := false
	for {
		n := needed()
		if n == stillNeeded && !waited {
			waited = true
			waiting()
		}
		if n == notNeeded || n == maybeNeeded && waited {
			return
		}
		select {
		case <-ctx.Done():
			return
		case now := <-tick:
			if since.IsZero() {
				since = now
			}
			if !waited && now.Sub(since) >= leavePatience {
				return
			}
		}
	}
}
