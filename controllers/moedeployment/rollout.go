// SPDX-License-Identifier: Apache-2.0

package moedeployment

// This file decides what to do with each instance. It is pure arithmetic over
// facts, so that it can be simulated to convergence.
//
// The unit is an instance: a pod is only ever made when no pod of another
// revision of its instance exists, so that attention and expert pods never mix
// revisions. Nothing is remembered between passes: which instance is next
// follows from what exists.

// action is what a pass does with an instance.
type action int

const (
	// keep leaves the instance as it is, at its old revision or because nothing
	// can be made.
	keep action = iota
	// complete applies its configuration and makes the pods that are missing.
	complete
	// recreate deletes its pods; a later pass makes new ones.
	recreate
	// remove deletes all its children.
	remove
)

// instanceFacts is what the decision depends on.
type instanceFacts struct {
	wanted bool
	// outdated says that it has pods (also ones being deleted) that were made
	// from another revision than the current one.
	outdated bool
	// terminating says that every outdated pod is already being deleted.
	terminating bool
	// serving says that all its pods are ready.
	serving bool
}

// rolloutLimits are the user's bounds on a rollout.
type rolloutLimits struct {
	maxUnavailable int
	paused         bool
	// feasible says that new pods can be made at all. If not, what runs is kept.
	feasible bool
}

// planRollout returns what to do with each instance, in the same order.
//
// Instances that do not serve may be recreated at once: they cost nothing, and
// waiting for them to become healthy at a revision that the user has already
// replaced could take for ever. Of those that serve, the one with the highest
// index goes first, as long as no more than maxUnavailable are down.
func planRollout(instances []instanceFacts, limits rolloutLimits) []action {
	actions := make([]action, len(instances))
	down := 0
	for i, f := range instances {
		switch {
		case !f.wanted:
			actions[i] = remove
			continue
		case !limits.feasible:
			actions[i] = keep
		case !f.outdated:
			actions[i] = complete
		case f.terminating:
			// Its successors are made when the names are free.
			actions[i] = keep
		case limits.paused:
			actions[i] = keep
		case !f.serving:
			actions[i] = recreate
		}
		if !f.serving {
			down++
		}
	}
	for i := len(instances) - 1; i >= 0; i-- {
		f := instances[i]
		waiting := f.wanted && f.outdated && f.serving && !f.terminating && limits.feasible && !limits.paused
		if waiting && down < limits.maxUnavailable {
			actions[i] = recreate
			down++
		}
	}
	return actions
}
