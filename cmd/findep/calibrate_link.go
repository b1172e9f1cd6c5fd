// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/findep/findep-operator/runtime/calibrate"
	"github.com/findep/findep-operator/runtime/identity"
	"github.com/findep/findep-operator/runtime/profile"
	"github.com/findep/findep-operator/runtime/transport"
	"github.com/findep/findep-operator/runtime/transport/tcp"
)

// The links that can be measured; any other name is a built-in link.
const (
	linkTCP      = "tcp"
	linkPlainTCP = "tcp-plain"
)

// checkLink refuses a name that is neither measured nor built in.
func checkLink(name string) error {
	if name == linkTCP || name == linkPlainTCP {
		return nil
	}
	if _, err := profile.Link(name); err != nil {
		return fmt.Errorf("--link is %q; use %s or %s to measure loopback, or a built-in link (%s)",
			name, linkTCP, linkPlainTCP, strings.Join(profile.Links(), ", "))
	}
	return nil
}

// measureLoopback measures the transport between two ranks of this process over
// the loopback interface, with the protection that instances use or without.
func measureLoopback(ctx context.Context, plain bool, o calibrate.Options) (calibrate.Line, error) {
	near, far, stop, err := loopback(ctx, plain)
	if err != nil {
		return calibrate.Line{}, fmt.Errorf("link: %w", err)
	}
	defer stop()
	s, err := calibrate.MeasureLink(ctx, near, far, o)
	if err != nil {
		return calibrate.Line{}, err
	}
	return calibrate.FitLine(s)
}

// computeSeries is the number of series of calibrate.MeasureCompute.
const computeSeries = 5

// pointTime is how long the largest size of a series may take.
func (o *calibrateOptions) pointTime() time.Duration {
	point := time.Duration(o.pointMilliseconds) * time.Millisecond
	if o.budget == 0 {
		return point
	}
	series := computeSeries
	if o.withCommunication {
		series *= 2
	}
	return min(point, calibrate.PointTime(o.budget, series, calibrate.Options{Trials: o.trials, WarmUp: o.warmUp}))
}

// measureBeside measures everything again while messages flow between two ranks,
// and says how much slower each kind is. The profile keeps the figures alone:
// ranks learn the rest from their steps. A series that makes no line says so.
func (o *calibrateOptions) measureBeside(ctx context.Context, bench *calibrate.Bench, alone *calibrate.Result, options calibrate.Options) ([]string, error) {
	if !o.withCommunication {
		return nil, nil
	}
	near, far, stop, err := loopback(ctx, o.link == linkPlainTCP)
	if err != nil {
		return nil, fmt.Errorf("link: %w", err)
	}
	defer stop()
	var beside calibrate.Result
	err = calibrate.Beside(ctx, func(ctx context.Context, flowing func()) error { return calibrate.Traffic(ctx, near, far, flowing) },
		func(ctx context.Context) error {
			if err := calibrate.MeasureCompute(ctx, bench, &beside, options); err != nil && !isPoorFit(err) {
				return err
			}
			return nil
		})
	if err != nil {
		return nil, fmt.Errorf("with communication: %w", err)
	}
	var notes []string
	for i, l := range beside.Lines() {
		if len(l.Points) > 0 {
			notes = append(notes, fmt.Sprintf("with communication: %s takes %.2f times as long (%.4g us + %.4g per unit, R2 %.4f)",
				l.Kind, calibrate.Slowdown(alone.Lines()[i], l), l.Alpha, l.Beta, l.RSquared))
		}
	}
	return notes, nil
}

// loopback connects an attention and an expert rank.
func loopback(ctx context.Context, plain bool) (near, far transport.Mesh, stop func(), err error) {
	var security *tcp.TLS
	if !plain {
		if security, err = ownTLS(); err != nil {
			return nil, nil, nil, err
		}
	}
	var ends [2]*tcp.Endpoint
	for i := range ends {
		if ends[i], err = tcp.Listen("127.0.0.1:0", security, tcp.Options{Plain: plain}); err != nil {
			for _, e := range ends[:i] {
				err = errors.Join(err, e.Close())
			}
			return nil, nil, nil, err
		}
	}
	stop = func() { _ = errors.Join(ends[0].Close(), ends[1].Close()) }
	var meshes [2]transport.Mesh
	var errs [2]error
	var wg sync.WaitGroup
	for i := range ends {
		peer := transport.Peer{Rank: 1 - i, Address: ends[1-i].Addr().String()}
		wg.Go(func() { meshes[i], errs[i] = ends[i].Connect(ctx, 1, i, []transport.Peer{peer}) })
	}
	wg.Wait()
	if err := errors.Join(errs[:]...); err != nil {
		stop()
		return nil, nil, nil, err
	}
	return meshes[calibrate.NearRank], meshes[calibrate.FarRank], stop, nil
}

// ownTLS is the mutual TLS of an authority that exists for this measurement only.
func ownTLS() (*tcp.TLS, error) {
	const uri = "findep://calibrate"
	ca, err := identity.NewCA(time.Now(), nil, "calibrate")
	if err != nil {
		return nil, err
	}
	bundle, err := ca.Issue(time.Now(), uri, nil, "calibrate", time.Hour)
	if err != nil {
		return nil, err
	}
	source, err := identity.Bytes(bundle)
	if err != nil {
		return nil, err
	}
	config := identity.Config{Source: source, Peers: []string{uri}}
	server, err := identity.ServerTLS(config)
	if err != nil {
		return nil, err
	}
	client, err := identity.ClientTLS(config)
	return &tcp.TLS{Server: server, Client: client}, err
}
