// SPDX-License-Identifier: Apache-2.0

package soak

import (
	"context"
	"math/rand/v2"
	"os"
	"regexp"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// workers is the number of clients.
const workers = 5

// soak is one run.
type soak struct {
	cluster   *cluster
	load      *load
	attention int
	// killed counts deaths of the leader's server, see load.
	killed atomic.Int64
	first  map[int]usage
	last   map[int]usage
}

// setting reads a number from the environment.
func setting(t *testing.T, name string, otherwise int) int {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("%s is %q; it must be a positive number", name, text)
	}
	return n
}

// TestSoak: FINDEP_SOAK_FAULTS, FINDEP_SOAK_REQUESTS and FINDEP_SOAK_SEED set
// the size and the order of faults, FINDEP_SOAK_KINDS is a regular expression that
// chooses among them, FINDEP_SOAK_REPORT names a file for the report.
func TestSoak(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a minute")
	}
	faults := setting(t, "FINDEP_SOAK_FAULTS", 6)
	requests := setting(t, "FINDEP_SOAK_REQUESTS", 50)
	seed := setting(t, "FINDEP_SOAK_SEED", 1)
	t.Logf("%d faults, at least %d requests, FINDEP_SOAK_SEED=%d", faults, requests, seed)
	random := rand.New(rand.NewPCG(uint64(seed), 0))

	s := &soak{attention: 2, first: map[int]usage{}, last: map[int]usage{}}
	s.cluster = newCluster(t, s.attention, 2)
	t.Cleanup(func() {
		if t.Failed() {
			for _, p := range s.cluster.pods {
				t.Log(p.tail())
			}
		}
	})
	s.cluster.await(t, 2*recoverWithin)
	base := servingURL(s.cluster.pods[0])
	s.load = &load{base: base, references: references(t, base), killed: &s.killed}
	t.Logf("%d references", len(s.load.references))

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var clients sync.WaitGroup
	for range workers {
		own := rand.New(rand.NewPCG(random.Uint64(), 1))
		clients.Go(func() { s.load.run(ctx, own) })
	}
	outcomes := s.strike(t, faults, random)
	for s.load.answered.Load() < int64(requests) && len(s.load.failures()) == 0 {
		time.Sleep(50 * time.Millisecond)
	}
	cancel()
	clients.Wait()
	s.load.pause()
	s.check(t, faults)
	s.report(t, seed, outcomes)
	for _, f := range s.load.failures() {
		t.Error(f)
	}
}

// chosenKinds are the faults that FINDEP_SOAK_KINDS leaves.
func chosenKinds(t *testing.T) []kind {
	t.Helper()
	choose, err := regexp.Compile(os.Getenv("FINDEP_SOAK_KINDS"))
	if err != nil {
		t.Fatalf("FINDEP_SOAK_KINDS: %v", err)
	}
	all := slices.DeleteFunc(kinds(), func(k kind) bool { return !choose.MatchString(k.name) })
	if len(all) == 0 {
		t.Fatalf("FINDEP_SOAK_KINDS is %q; no fault has such a name", choose)
	}
	return all
}

// churnFrom is the number of faults from which on the last third of them kill
// the same rank, so that every other process lives through many epochs.
const churnFrom = 30

// strike strikes one fault after another, every kind once before one comes
// again.
func (s *soak) strike(t *testing.T, faults int, random *rand.Rand) []outcome {
	t.Helper()
	all := chosenKinds(t)
	var outcomes []outcome
	churn := 0
	if faults >= churnFrom {
		churn = faults / 3
	}
	for i := range faults {
		if i%len(all) == 0 {
			random.Shuffle(len(all), func(a, b int) { all[a], all[b] = all[b], all[a] })
		}
		k := &all[i%len(all)]
		if i >= faults-churn {
			k = &kind{name: "kill the same expert rank", strike: func(s *soak, _ *rand.Rand) []int { return s.kill(len(s.cluster.pods) - 1) }}
		}
		if i%10 == 0 || i == faults-churn {
			s.load.pause()
			s.check(t, i)
			s.load.resume()
		}
		time.Sleep(seconds(random, 0.3, 1.2))
		out := s.hit(t, k, random)
		t.Logf("%2d %-32s detected %6.0f, cause over %6.0f, served %6.0f, settled %6.0f ms, recovery %5.0f ms, epochs %d, answered %d",
			i+1, out.Kind, out.Detected, out.CauseOver, out.Served, out.Settled, out.Recovery, out.Epochs, s.load.answered.Load())
		outcomes = append(outcomes, out)
		if len(s.load.failures()) > 0 {
			break
		}
	}
	return outcomes
}

// check samples every process while nothing is asked of it, and compares with
// its first sample.
func (s *soak) check(t *testing.T, faults int) {
	t.Helper()
	s.cluster.await(t, recoverWithin)
	time.Sleep(time.Second) // Connections end.
	now, err := s.cluster.sample(faults)
	if err != nil {
		t.Fatal(err)
	}
	s.last = now
	for pid, u := range now {
		first, known := s.first[pid]
		if !known {
			s.first[pid] = u
			continue
		}
		for _, l := range leaks(first, u) {
			s.load.fail("leak: %s", l)
		}
	}
	for _, u := range now {
		if u.WeightLoads > 1 {
			s.load.fail("%s loaded its weights %d times", u.Name, u.WeightLoads)
		}
	}
}
