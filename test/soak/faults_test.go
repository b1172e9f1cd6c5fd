// SPDX-License-Identifier: Apache-2.0

package soak

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// kind is one way to break an instance.
type kind struct {
	name string
	// strike breaks it and returns when the cause is over, if it is a passing
	// one. It reports the ranks whose sidecar will start again.
	strike func(*soak, *rand.Rand) (restarted []int)
	// quiet kinds need not lead to an epoch with another number.
	quiet bool
}

// kinds are all faults, in the order of the report. Short runs take the first
// ones of a shuffle.
func kinds() []kind {
	return []kind{
		{name: "kill expert rank", strike: func(s *soak, r *rand.Rand) []int { return s.kill(s.anyExpert(r)) }},
		{name: "kill attention rank", strike: func(s *soak, r *rand.Rand) []int { return s.kill(1 + r.IntN(s.attention-1)) }},
		{name: "kill leader's sidecar", strike: func(s *soak, _ *rand.Rand) []int { return s.kill(0) }},
		{name: "kill all of the leader's peers", strike: func(s *soak, _ *rand.Rand) []int { return s.kill(s.peers()...) }},
		{name: "kill again while re-forming", strike: (*soak).killTwice},
		{name: "replace expert pod", strike: func(s *soak, r *rand.Rand) []int { return s.replace(s.anyExpert(r)) }},
		{name: "replace leader pod", strike: func(s *soak, _ *rand.Rand) []int { return s.replace(0) }},
		{name: "kill leader's server", strike: (*soak).killServer, quiet: true},
		{name: "drain leader pod", strike: func(s *soak, _ *rand.Rand) []int { return s.drain(0) }},
		// Nobody who knew the epoch is left, so its number comes again.
		{name: "drain all pods", strike: (*soak).drainAll, quiet: true},
		{name: "drain expert pod", strike: func(s *soak, r *rand.Rand) []int { return s.drain(s.anyExpert(r)) }},
		{name: "stop rank", strike: func(s *soak, r *rand.Rand) []int {
			return s.stop(s.cluster.pods[1+r.IntN(len(s.cluster.pods)-1)].sidecar, seconds(r, 2.8, 5))
		}},
		{name: "stop leader's sidecar", strike: func(s *soak, r *rand.Rand) []int {
			return s.stop(s.cluster.pods[0].sidecar, seconds(r, 2.8, 5))
		}},
		{name: "stop briefly", quiet: true, strike: func(s *soak, r *rand.Rand) []int {
			return s.stop(s.cluster.pods[r.IntN(len(s.cluster.pods))].sidecar, seconds(r, 0.2, 1.5))
		}},
		{name: "partition rank", strike: func(s *soak, r *rand.Rand) []int {
			return s.disturb(1+r.IntN(len(s.cluster.pods)-1), link{cut: true}, seconds(r, 3, 6))
		}},
		{name: "partition leader", strike: func(s *soak, r *rand.Rand) []int {
			return s.disturb(0, link{cut: true}, seconds(r, 3, 6))
		}},
		{name: "partition data links", quiet: true, strike: func(s *soak, r *rand.Rand) []int {
			return s.disturb(s.anyExpert(r), link{cutData: true}, seconds(r, 3, 12))
		}},
		{name: "packet loss", quiet: true, strike: func(s *soak, r *rand.Rand) []int {
			return s.disturb(r.IntN(len(s.cluster.pods)), link{loss: 0.02 + 0.08*r.Float64()}, seconds(r, 2, 4))
		}},
		{name: "delay", quiet: true, strike: func(s *soak, r *rand.Rand) []int {
			return s.disturb(r.IntN(len(s.cluster.pods)), link{delay: time.Duration(10+r.IntN(90)) * time.Millisecond}, seconds(r, 2, 4))
		}},
		{name: "slow link", quiet: true, strike: func(s *soak, r *rand.Rand) []int {
			return s.disturb(r.IntN(len(s.cluster.pods)), link{rate: 20e3 + 100e3*r.Float64()}, seconds(r, 2, 4))
		}},
		{name: "disk full", strike: (*soak).fillDisk},
		{name: "hang in a kernel", strike: func(s *soak, r *rand.Rand) []int { return s.wedge(r.IntN(len(s.cluster.pods))) }},
	}
}

func seconds(r *rand.Rand, least, most float64) time.Duration {
	return time.Duration((least + r.Float64()*(most-least)) * float64(time.Second))
}

func (s *soak) anyExpert(r *rand.Rand) int {
	return s.attention + r.IntN(len(s.cluster.pods)-s.attention)
}

func (s *soak) peers() []int {
	var all []int
	for rank := 1; rank < len(s.cluster.pods); rank++ {
		all = append(all, rank)
	}
	return all
}

// kill ends sidecars as the kernel does when memory is out; their containers
// start again in the same pods.
func (s *soak) kill(ranks ...int) []int {
	for _, rank := range ranks {
		s.cluster.pods[rank].sidecar.signal(syscall.SIGKILL)
	}
	return ranks
}

// killTwice kills another rank while the first one is coming back.
func (s *soak) killTwice(r *rand.Rand) []int {
	first, second := s.anyExpert(r), r.IntN(s.attention)
	s.kill(first)
	time.Sleep(seconds(r, 0.2, 1.2))
	s.kill(second)
	return []int{first, second}
}

// replace loses a pod with its node; another one takes its rank.
func (s *soak) replace(rank int) []int {
	p := s.cluster.pods[rank]
	p.replace()
	s.serverDies(rank, func() {
		for _, k := range p.containers() {
			k.signal(syscall.SIGKILL)
		}
	})
	return []int{rank}
}

func (s *soak) killServer(*rand.Rand) []int {
	s.serverDies(0, func() { s.cluster.pods[0].server.signal(syscall.SIGKILL) })
	return nil
}

// serverDies counts the death before and after, so that a request that begins
// in between sees a change too.
func (s *soak) serverDies(rank int, kill func()) {
	if rank != 0 {
		kill()
		return
	}
	s.killed.Add(1)
	kill()
	_, _, ended := s.cluster.pods[0].server.state()
	<-ended
	s.killed.Add(1)
}

// drain ends a pod as the kubelet does: first the server, if it has one, and when
// that has ended, its sidecar.
func (s *soak) drain(rank int) []int {
	p := s.cluster.pods[rank]
	p.replace()
	began := time.Now()
	for _, k := range slices.Backward(p.containers()) {
		_, _, ended := k.state()
		k.signal(syscall.SIGTERM)
		select {
		case <-ended:
		case <-time.After(gracePeriod - time.Since(began)):
			s.load.fail("rank %d's %s did not end within the grace period of %v", rank, k.name, gracePeriod)
			k.signal(syscall.SIGKILL)
		}
	}
	return []int{rank}
}

// drainAll ends every pod at once, as the deletion of an instance does.
func (s *soak) drainAll(*rand.Rand) []int {
	var all sync.WaitGroup
	for rank := range s.cluster.pods {
		all.Go(func() { s.drain(rank) })
	}
	all.Wait()
	return append(s.peers(), 0)
}

// gracePeriod is the pods' terminationGracePeriodSeconds.
const gracePeriod = 30 * time.Second

func (s *soak) stop(k *container, d time.Duration) []int {
	k.signal(syscall.SIGSTOP)
	time.Sleep(d)
	k.signal(syscall.SIGCONT)
	return nil
}

func (s *soak) disturb(rank int, l link, d time.Duration) []int {
	s.cluster.fabric.set(rank, l)
	time.Sleep(d)
	s.cluster.fabric.set(rank, link{})
	return nil
}

// wedge makes a rank's kernels hang in the system, as a driver may. Its process
// must notice and end; nothing else can free the thread.
func (s *soak) wedge(rank int) []int {
	p := s.cluster.pods[rank]
	_, _, ended := p.sidecar.state()
	if err := os.WriteFile(p.wedgeFile(), nil, 0o600); err != nil {
		s.load.fail("hang in a kernel: %v", err)
		return nil
	}
	select {
	case <-ended:
	case <-time.After(wedgeWithin):
		s.load.fail("rank %d hangs in a kernel and has not ended within %v", rank, wedgeWithin)
		p.sidecar.signal(syscall.SIGKILL)
	}
	_ = os.Remove(p.wedgeFile())
	return []int{rank}
}

// wedgeWithin is the step's deadline and the time to let go after it, each five
// seconds and ten times what a step takes on a busy machine.
const wedgeWithin = 60 * time.Second

// fillDisk fills the volume of a rank's sockets and logs and kills the rank,
// so that it has to start without space.
func (s *soak) fillDisk(r *rand.Rand) []int {
	rank := s.anyExpert(r)
	p := s.cluster.pods[rank]
	p.sidecar.signal(syscall.SIGKILL)
	full := fill(p.dir)
	time.Sleep(seconds(r, 2, 4))
	for _, name := range full {
		_ = os.Remove(name)
	}
	return []int{rank}
}

// fill takes all inodes and then all bytes of a volume.
func fill(dir string) (files []string) {
	_ = os.Remove(filepath.Join(dir, "engine.sock")) // Its inode would be free for the next one.
	for i := 0; ; i++ {
		name := filepath.Join(dir, fmt.Sprintf("fill%d", i))
		f, err := os.Create(name)
		if err != nil {
			return files
		}
		files = append(files, name)
		for block := make([]byte, 1<<20); err == nil; {
			_, err = f.Write(block)
		}
		_ = f.Close()
	}
}

// outcome is what one fault did, in milliseconds since it struck; -1 where it
// did not happen.
type outcome struct {
	Kind string `json:"kind"`
	// Detected is when a rank that was not struck stopped being Ready.
	Detected float64 `json:"detectedMilliseconds"`
	// CauseOver is when the cause had gone: the replacement had loaded its
	// weights and began to join, or the disturbance ended.
	CauseOver float64 `json:"causeOverMilliseconds"`
	// Served is when a request sent after the fault had struck was answered.
	Served float64 `json:"servedMilliseconds"`
	// Recovery is Served less CauseOver, at least 0.
	Recovery float64 `json:"recoveryMilliseconds"`
	// Settled is when every rank was Ready.
	Settled float64 `json:"settledMilliseconds"`
	Epochs  int     `json:"epochs"`
}

// recoverWithin bounds the time until everything serves again; more is a
// failure of the test.
const recoverWithin = 90 * time.Second

// hit strikes once and watches what happens.
func (s *soak) hit(t *testing.T, k *kind, random *rand.Rand) outcome {
	t.Helper()
	before := s.cluster.await(t, recoverWithin)
	ages := s.starts()
	ctx, cancel := context.WithTimeout(t.Context(), recoverWithin)
	defer cancel()
	began := time.Now()
	since := func() float64 { return float64(time.Since(began).Microseconds()) / 1000 }
	out := outcome{Kind: k.name, Detected: -1}

	var watching sync.WaitGroup
	struck := make(chan struct{})
	watching.Go(func() { out.Detected = s.detected(ctx, struck, since) })
	watching.Go(func() {
		time.Sleep(50 * time.Millisecond) // The fault strikes first.
		out.Served = s.answered(ctx, since)
	})
	restarted := k.strike(s, random)
	out.CauseOver = since()
	for _, rank := range restarted {
		s.loaded(ctx, rank, ages[rank])
		out.CauseOver = since()
	}
	close(struck)
	after := s.cluster.await(t, recoverWithin)
	out.Settled, out.Epochs = since(), int(after)-int(before)
	watching.Wait()
	out.Recovery = max(0, out.Served-out.CauseOver)
	if after == before && !k.quiet {
		s.load.fail("%s: the epoch is still %d", k.name, after)
	}
	return out
}

// starts counts how often each sidecar has been started.
func (s *soak) starts() []int {
	var all []int
	for _, p := range s.cluster.pods {
		p.sidecar.mu.Lock()
		all = append(all, p.sidecar.starts)
		p.sidecar.mu.Unlock()
	}
	return all
}

// loaded waits until a rank's next process has its weights.
func (s *soak) loaded(ctx context.Context, rank, starts int) {
	p := s.cluster.pods[rank]
	for ctx.Err() == nil {
		p.sidecar.mu.Lock()
		next := p.sidecar.starts > starts
		p.sidecar.mu.Unlock()
		if state, err := p.probe(); next && err == nil && !strings.HasPrefix(state.Message, loading) {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// detected is when the first rank that still answers says it is not Ready. It
// gives up some time after the cause has gone.
func (s *soak) detected(ctx context.Context, over <-chan struct{}, since func() float64) float64 {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	first := make(chan float64, len(s.cluster.pods))
	for _, p := range s.cluster.pods {
		go func() {
			for ; ctx.Err() == nil; time.Sleep(10 * time.Millisecond) {
				if state, err := p.probe(); err == nil && !state.Ready {
					first <- since()
					return
				}
			}
		}()
	}
	select {
	case at := <-first:
		return at
	case <-over:
	case <-ctx.Done():
	}
	return -1
}

// answered sends one short request and tells when it was answered.
func (s *soak) answered(ctx context.Context, since func() float64) float64 {
	r := s.load.references[0]
	body := map[string]any{"model": "tiny", "prompt": "And", "max_tokens": 1, "temperature": 0, "ignore_eos": true}
	for ctx.Err() == nil {
		attempt, cancel := context.WithTimeout(ctx, recoverWithin)
		_, _, err := ask(attempt, s.load.base+"/v1/completions", body)
		cancel()
		if err == nil {
			return since()
		}
		time.Sleep(20 * time.Millisecond)
	}
	s.load.fail("no answer to %s's probe", r.name)
	return -1
}
