// SPDX-License-Identifier: Apache-2.0

package calibrate

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/findep/findep-operator/runtime/transport"
)

// PointTime is how long the largest size of a series may take, so that as many
// series fit into a budget. A round runs five evenly spread sizes, three times
// the largest; looking for the largest costs up to four times as much as it.
func PointTime(budget time.Duration, series int, o Options) time.Duration {
	return budget / time.Duration(max(1, series)*(3*(o.WarmUp+o.Trials)+4))
}

// Traffic sends the largest message to and fro between two meshes of one process,
// which stay the caller's, until the context ends; that is no error. It calls
// flowing when the first has come back.
func Traffic(ctx context.Context, near, far transport.Mesh, flowing func()) error {
	works, err := LinkWorks(near)
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() {
		near.Abort(context.Cause(ctx))
		far.Abort(context.Cause(ctx))
	})
	defer stop()
	echo := make(chan error, 1)
	go func() { echo <- Echo(far) }()
	for first := true; ; first = false {
		if err = works[len(works)-1].Run(); err != nil {
			break
		}
		if first {
			flowing()
		}
	}
	far.Abort(transport.ErrClosed)
	ended := <-echo
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("traffic: %w (far end: %w)", err, ended)
}

// Beside measures while something else runs, such as Traffic: from when it says
// that it flows until the measurement has ended. If it ends before, that is the
// error: what was measured then was partly alone.
func Beside(ctx context.Context, other func(ctx context.Context, flowing func()) error, measure func(context.Context) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	flows, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- other(ctx, func() { close(flows) }) }()
	select {
	case <-flows:
	case err := <-ended:
		return errors.Join(err, ctx.Err(), errors.New("what was to run beside the measurement ended before it began"))
	}
	err := measure(ctx)
	select {
	case early := <-ended:
		return errors.Join(err, early, ctx.Err(), errors.New("what was to run beside the measurement ended before it"))
	default:
	}
	cancel()
	return errors.Join(err, <-ended)
}

// Slowdown is how many times as long as alone the sizes of a series take beside
// something else: the geometric mean over the sizes that both have; 1 if there
// are none.
func Slowdown(alone, beside *Line) float64 {
	times := map[string]float64{}
	for _, p := range alone.Points {
		times[p.What] = p.Microseconds
	}
	sum, n := 0.0, 0
	for _, p := range beside.Points {
		if before := times[p.What]; before > 0 && p.Microseconds > 0 {
			sum += math.Log(p.Microseconds / before)
			n++
		}
	}
	if n == 0 {
		return 1
	}
	return math.Exp(sum / float64(n))
}
