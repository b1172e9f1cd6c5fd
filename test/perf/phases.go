// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/findep/findep-operator/api/v1alpha1"
)

// auditDelay is how long a line takes at most to get into the audit log.
const auditDelay = 3 * time.Second

// phases are measured one after the other on the same pods.
func (b *bench) phases(ctx context.Context, s subject, r *result) error {
	if err := b.create(ctx, s, r); err != nil {
		return err
	}
	f, ok := s.(*findep)
	if !ok {
		return nil
	}
	for _, phase := range []struct {
		wanted bool
		run    func(context.Context, *findep, *result) error
	}{{b.rest > 0, b.measureRest}, {b.restart, b.measureRestart}, {b.roll, b.measureRoll}} {
		if !phase.wanted {
			continue
		}
		if err := phase.run(ctx, f, r); err != nil {
			return err
		}
	}
	return nil
}

// account is what was spent until a moment.
type account struct {
	calls calls
	usage usage
}

func (b *bench) account(s subject) (account, error) {
	time.Sleep(auditDelay)
	all, err := readAudit(b.plane.auditLog())
	if err != nil {
		return account{}, err
	}
	a := account{calls: calls{}}
	for _, user := range s.writers() {
		for what, n := range all[user] {
			a.calls[what] += n
		}
	}
	a.usage, err = b.manager.usage()
	return a, err
}

func (b *bench) create(ctx context.Context, s subject, r *result) error {
	total := b.groups * b.pods
	begin := time.Now()
	applied := make(chan error, 1)
	go func() {
		applied <- inParallel(ctx, b.groups, func(ctx context.Context, i int) error { return s.apply(ctx, b, i) })
	}()
	if b.profile != "" {
		go func() {
			if err := b.takeProfiles(ctx, s); err != nil {
				progress("  profiles: %v", err)
			}
		}()
	}
	_, err := until(ctx, "all pods run", b.limit, b.plane.alive, func() (bool, string) {
		c := b.watch.count()
		if c.created >= total && r.CreatedSeconds == 0 {
			r.CreatedSeconds = time.Since(begin).Seconds()
		}
		return c.running >= total, fmt.Sprintf("%d of %d made, %d run, %d groups available", c.created, total, c.running, b.states.count())
	})
	if err != nil {
		return err
	}
	r.RunningSeconds = time.Since(begin).Seconds()
	r.PodsPerSecond = float64(total) / r.RunningSeconds
	if err := <-applied; err != nil {
		return err
	}
	if !s.groups().Empty() {
		if _, err := until(ctx, "all groups are available", b.limit, b.plane.alive, func() (bool, string) {
			n := b.states.count()
			return n >= b.groups, fmt.Sprintf("%d of %d", n, b.groups)
		}); err != nil {
			return err
		}
		r.AvailableSeconds = time.Since(begin).Seconds()
	}
	a, err := b.account(s)
	if err != nil {
		return err
	}
	r.Create = spending{Calls: a.calls, Writes: a.calls.writes(), Reads: a.calls.total() - a.calls.writes(), usage: a.usage}
	if r.Plane, err = b.plane.usage(); err != nil {
		return err
	}
	r.WritesPerPod = float64(r.Create.Writes) / float64(total)
	progress("  all %d pods run after %.1f s: %.1f pods/s; available after %.1f s; %.2f writes per pod; manager %.1f CPU-seconds, %.0f MiB",
		total, r.RunningSeconds, r.PodsPerSecond, r.AvailableSeconds, r.WritesPerPod, a.usage.CPUSeconds, a.usage.PeakMiB)
	progress("  %v", r.Create.Calls)
	progress("  %v", r.Plane)
	return nil
}

// spent measures what the subject spends while something is done.
func (b *bench) spent(ctx context.Context, s *findep, do func() error) (spending, error) {
	before, err := b.account(s)
	if err != nil {
		return spending{}, err
	}
	reconciles, err := s.metric(ctx, "controller_runtime_reconcile_total")
	if err != nil {
		return spending{}, err
	}
	asked, begin := b.leaders.observations(), time.Now()
	if err := do(); err != nil {
		return spending{}, err
	}
	took := time.Since(begin).Seconds()
	after, err := b.account(s)
	if err != nil {
		return spending{}, err
	}
	done, err := s.metric(ctx, "controller_runtime_reconcile_total")
	if err != nil {
		return spending{}, err
	}
	c := after.calls.minus(before.calls)
	return spending{
		Seconds: took, Calls: c, Writes: c.writes(), Reads: c.total() - c.writes(),
		Reconciles: int(done - reconciles), Observations: b.leaders.observations() - asked,
		usage: usage{CPUSeconds: after.usage.CPUSeconds - before.usage.CPUSeconds, PeakMiB: after.usage.PeakMiB},
	}, nil
}

// measureRest waits until nothing is written any more and then watches for as
// long as it was told to.
func (b *bench) measureRest(ctx context.Context, s *findep, r *result) error {
	const calm = 15 * time.Second
	time.Sleep(calm)
	progress("  at rest for %v", b.rest)
	spent, err := b.spent(ctx, s, func() error {
		_, err := until(ctx, "at rest", 2*b.rest, b.plane.alive, waitFor(b.rest))
		return err
	})
	if err != nil {
		return err
	}
	r.Rest = &spent
	progress("  at rest for %.0f s: %d writes, %d reads, %d reconciles, %d observations, %.2f CPU-seconds",
		spent.Seconds, spent.Writes, spent.Reads, spent.Reconciles, spent.Observations, spent.CPUSeconds)
	return nil
}

func waitFor(d time.Duration) func() (bool, string) {
	begin := time.Now()
	return func() (bool, string) {
		return time.Since(begin) >= d, fmt.Sprintf("%.0f s of %v", time.Since(begin).Seconds(), d)
	}
}

// measureRestart starts the manager again, with empty memory, and waits until it
// has looked at every group and has nothing left to do.
func (b *bench) measureRestart(ctx context.Context, s *findep, r *result) error {
	before, err := b.account(s)
	if err != nil {
		return err
	}
	b.manager.stop()
	b.plane.forget(b.manager)
	begin := time.Now()
	if err := s.start(ctx, b); err != nil {
		return err
	}
	if _, err := until(ctx, "the restarted manager has seen every group", b.limit, b.plane.alive, func() (bool, string) {
		done, err := s.metric(ctx, "controller_runtime_reconcile_total")
		if err != nil {
			return false, err.Error()
		}
		queued, err := s.metric(ctx, "workqueue_depth")
		return err == nil && done >= float64(b.groups) && queued == 0, fmt.Sprintf("%.0f reconciles, %.0f queued", done, queued)
	}); err != nil {
		return err
	}
	took := time.Since(begin).Seconds()
	after, err := b.account(s)
	if err != nil {
		return err
	}
	c := after.calls.minus(before.calls)
	r.Restart = &spending{Seconds: took, Calls: c, Writes: c.writes(), Reads: c.total() - c.writes(), usage: after.usage}
	progress("  restarted: converged after %.1f s with %d writes, %.1f CPU-seconds, %.0f MiB", took, c.writes(), after.usage.CPUSeconds, after.usage.PeakMiB)
	return nil
}

// measureRoll changes the image of every group and waits until all pods are new
// and all groups available. It notes how many groups were available at least.
func (b *bench) measureRoll(ctx context.Context, s *findep, r *result) error {
	total, old, least := b.groups*b.pods, b.watch.count().revisions, b.groups
	spent, err := b.spent(ctx, s, func() error {
		changed := make(chan error, 1)
		go func() {
			changed <- inParallel(ctx, b.groups, func(ctx context.Context, i int) error {
				d := &v1alpha1.MoEDeployment{}
				d.Namespace, d.Name = namespace, groupName(i)
				return b.client.Patch(ctx, d, client.RawPatch("application/merge-patch+json", []byte(`{"spec":{"images":{"server":"localhost/other:2"}}}`)))
			})
		}()
		_, err := until(ctx, "all pods are new", b.limit, b.plane.alive, func() (bool, string) {
			fresh := 0
			for revision, n := range b.watch.count().revisions {
				if old[revision] == 0 {
					fresh += n
				}
			}
			up := b.states.count()
			least = min(least, up)
			return fresh >= total && up >= b.groups, fmt.Sprintf("%d of %d, %d groups available", fresh, total, up)
		})
		if err != nil {
			return err
		}
		return <-changed
	})
	if err != nil {
		return err
	}
	spent.LeastAvailable = least
	r.Roll = &spent
	progress("  rolled all after %.1f s: %d of %d groups available at least, %.2f writes per pod, %.1f CPU-seconds, %.0f MiB",
		spent.Seconds, least, b.groups, float64(spent.Writes)/float64(total), spent.CPUSeconds, spent.PeakMiB)
	progress("  %v", spent.Calls)
	return nil
}
