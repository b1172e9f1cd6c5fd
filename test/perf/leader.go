// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net"
	"strconv"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/findep/findep-operator/controllers/render"
	"github.com/findep/findep-operator/runtime/identity"
	"github.com/findep/findep-operator/runtime/plan"
	"github.com/findep/findep-operator/runtime/rendezvous/rendezvouspb"
)

// podCIDR is where KWOK takes the addresses of pods from. The whole of 127/8 is
// this machine, so a pod's address leads to the leaders' stand-in.
const podCIDR = "127.64.0.0/10"

// leaders stands in for the leader of every instance. It says what a leader says
// whose ranks have all joined and who has taken over the configuration: enough
// for every condition that the operator sets, and as much work for the operator
// as a real one.
type leaders struct {
	rendezvouspb.UnimplementedRendezvousServer
	client client.Client
	pods   *podWatch
	server *grpc.Server

	mu    sync.Mutex
	known map[instanceKey]*standIn
	// asked counts observations.
	asked int
}

// standIn is what one leader knows.
type standIn struct {
	tls         *tls.Config
	observation []byte
}

// startLeaders listens on the leaders' port until ctx ends.
func startLeaders(ctx context.Context, c client.Client, pods *podWatch) (*leaders, error) {
	l := &leaders{client: c, pods: pods, known: map[instanceKey]*standIn{}}
	listener, err := net.Listen("tcp", net.JoinHostPort("", strconv.Itoa(plan.ControlPort)))
	if err != nil {
		return nil, fmt.Errorf("stand in for leaders: %w", err)
	}
	l.server = grpc.NewServer(grpc.Creds(credentials.NewTLS(&tls.Config{
		MinVersion: tls.VersionTLS13,
		GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			one, err := l.at(ctx, hello.Conn.LocalAddr())
			if err != nil {
				return nil, err
			}
			return one.tls, nil
		},
	})))
	rendezvouspb.RegisterRendezvousServer(l.server, l)
	go func() { _ = l.server.Serve(listener) }()
	context.AfterFunc(ctx, l.server.Stop)
	return l, nil
}

// at returns the stand-in at an address, reading its Secret the first
// time.
func (l *leaders) at(ctx context.Context, address net.Addr) (*standIn, error) {
	host, _, err := net.SplitHostPort(address.String())
	if err != nil {
		return nil, err
	}
	key, ok := l.pods.leaderAt(host)
	if !ok {
		return nil, fmt.Errorf("no leader has the address %s", host)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if one := l.known[key]; one != nil {
		return one, nil
	}
	one, err := l.read(ctx, key)
	if err != nil {
		return nil, err
	}
	l.known[key] = one
	return one, nil
}

func (l *leaders) read(ctx context.Context, key instanceKey) (*standIn, error) {
	index, err := strconv.ParseInt(key.index, 10, 32)
	if err != nil {
		return nil, err
	}
	var secret corev1.Secret
	if err := l.client.Get(ctx, types.NamespacedName{Namespace: namespace, Name: render.SecretName(key.deployment, int32(index))}, &secret); err != nil {
		return nil, err
	}
	source, err := identity.Bytes(&identity.Bundle{
		CA: secret.Data[identity.CAFile], Cert: secret.Data[identity.CertFile], Key: secret.Data[identity.KeyFile],
	})
	if err != nil {
		return nil, err
	}
	one := &standIn{}
	if one.tls, err = identity.ServerTLS(identity.Config{Source: source, Peers: []string{identity.OperatorURI}}); err != nil {
		return nil, err
	}
	// gRPC speaks HTTP/2 only, and says so in the configuration that is replaced.
	one.tls.NextProtos = []string{"h2"}
	instance, err := plan.DecodeInstance(secret.Data[plan.InstanceFile])
	if err != nil {
		return nil, err
	}
	one.observation, err = observation(instance)
	return one, err
}

// observation is that of an instance at work, always the same: nothing of it is
// news to the operator.
func observation(instance *plan.Instance) ([]byte, error) {
	hash, err := instance.ScheduleHash()
	if err != nil {
		return nil, err
	}
	phase := func(ms float64) *plan.PhaseObservation {
		return &plan.PhaseObservation{Plan: instance.Start, Samples: 1, SequenceTokens: 1, PredictedMilliseconds: ms, MeasuredMilliseconds: ms, TokensPerSecond: 1000}
	}
	o := plan.Observation{
		Epoch: 1, Formed: true, ScheduleHash: hash, Prefill: phase(100), Decode: phase(10),
		Serving: &plan.ServingObservation{Running: 8, TimeToFirstTokenMilliseconds: 200, TimePerOutputTokenMilliseconds: 20, TokensPerSecond: 1000, KVCacheTokens: 1 << 20, KVCacheUsedTokens: 1 << 10},
	}
	for rank, host := range instance.Hosts {
		o.Ranks = append(o.Ranks, plan.RankState{Rank: rank, Host: host, Joined: true})
	}
	return json.Marshal(o)
}

// Observe implements the one RPC that the operator calls.
func (l *leaders) Observe(ctx context.Context, _ *rendezvouspb.ObserveRequest) (*rendezvouspb.ObserveResponse, error) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return nil, fmt.Errorf("the call has no peer")
	}
	one, err := l.at(ctx, p.LocalAddr)
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	l.asked++
	l.mu.Unlock()
	return &rendezvouspb.ObserveResponse{Observation: one.observation}, nil
}

// observations is how often leaders were asked so far.
func (l *leaders) observations() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.asked
}
