// SPDX-License-Identifier: Apache-2.0

package moedeployment

import (
	"context"
	"net"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/findep/findep-operator/runtime/identity"
	"github.com/findep/findep-operator/runtime/plan"
	"github.com/findep/findep-operator/runtime/rendezvous"
)

// Limits on reading leaders: a leader that hangs must hold up neither the other
// instances nor the other deployments for long.
const (
	observeTimeout  = 2 * time.Second
	observeParallel = 16
	operatorTTL     = time.Hour
	// pollShare is the time each formed leader adds to the interval of reading them:
	// at most ten are read in a second, at 8 ms or so of work each.
	pollShare = 100 * time.Millisecond
	// maxPollInterval bounds how old the observation in a status may be.
	maxPollInterval = time.Minute
)

// Target is a leader to read.
type Target struct {
	// Address is host:port of its control port.
	Address string
	// Identity is the one it must prove.
	Identity string
	// Own is the certificate to show.
	Own *identity.Bundle
	// Now is the time certificates are checked at.
	Now time.Time
}

// Observer reads what a leader reports.
type Observer interface {
	Observe(ctx context.Context, target Target) (*plan.Observation, error)
}

// RPCObserver reads leaders over gRPC with mutual TLS.
type RPCObserver struct{}

// Observe implements Observer.
func (RPCObserver) Observe(ctx context.Context, target Target) (*plan.Observation, error) {
	source, err := identity.Bytes(target.Own)
	if err != nil {
		return nil, err
	}
	config, err := identity.ClientTLS(identity.Config{
		Source: source, Peers: []string{target.Identity}, Now: func() time.Time { return target.Now },
	})
	if err != nil {
		return nil, err
	}
	return rendezvous.Observe(ctx, target.Address, config)
}

func identityOf(s *scope, i *instance) string {
	in := plan.Instance{Namespace: s.owner.Namespace, Deployment: s.owner.Name, Index: int(i.index)}
	return in.Identity()
}

// leaders are the instances whose leader can be asked, with its address.
func (s *scope) leaders() map[*instance]string {
	list := map[*instance]string{}
	for _, i := range s.instances {
		if leader := leaderOf(i); i.live() && reachable(leader) {
			list[i] = net.JoinHostPort(leader.Status.PodIP, strconv.Itoa(plan.ControlPort))
		}
	}
	return list
}

// observe asks every leader that runs. One that does not answer is a fact, not a
// failure of this pass: leaders take time to start, and may be gone.
func (r *Reconciler) observe(ctx context.Context, s *scope) error {
	leaders := s.leaders()
	if s.authority == nil || s.vllm() || len(leaders) == 0 {
		return nil
	}
	own, err := s.authority.CA.Issue(s.now, identity.OperatorURI, nil, "operator", operatorTTL)
	if err != nil {
		return err
	}
	own.CA = s.authority.Bundle
	calm := pollOf(r.totals.get(ctx, r.Client, r.Clock.Now()).leaders)
	var group errgroup.Group
	group.SetLimit(observeParallel)
	var mu sync.Mutex
	for i, address := range leaders {
		target := Target{Address: address, Identity: identityOf(s, i), Own: own, Now: s.now}
		group.Go(func() error {
			ctx, cancel := context.WithTimeout(ctx, observeTimeout)
			defer cancel()
			o, err := r.Observer.Observe(ctx, target)
			mu.Lock()
			defer mu.Unlock()
			s.requeue(poll(calm, o))
			if err != nil {
				i.observeError = err.Error()
				return nil
			}
			i.observation = o
			return nil
		})
	}
	return group.Wait()
}

// poll is when to read a leader again: one that has formed has little to tell.
func poll(calm time.Duration, o *plan.Observation) time.Duration {
	if o != nil && o.Formed {
		return calm
	}
	return pollInterval
}

// pollOf is how often a leader that has formed is read: every pollInterval, or
// less often where there are so many that reading them would be most of the
// operator's work.
func pollOf(leaders int) time.Duration {
	return min(max(pollInterval, time.Duration(leaders)*pollShare), maxPollInterval)
}
