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
	// restart deletes its pods since they failed; a later pass makes new ones.
	restart
	// relocate deletes its pods on nodes whose GPUs are to be repaired; a later pass
	// makes them again elsewhere. planMoves decides on it.
	relocate
	// remove deletes all its children.
	remove
)

// instanceFacts is what the decision depends on.
type instanceFacts struct {
	// ordinal is its place among the wanted ones in order of index, from 0.
	ordinal int32
	wanted  bool
	// surge says that it is one beyond spec.replicas that stands in for others
	// during a rollout.
	surge bool
	// outdated says that it has pods (also ones being deleted) that were made
	// from another revision than the current one.
	outdated bool
	// terminating says that every outdated pod is already being deleted.
	terminating bool
	// serving says that all its pods are ready.
	serving bool
	// remedy is what recovery says about it, if it is at the current revision.
	remedy remedy
}

// rolloutLimits are the user's bounds on a rollout.
type rolloutLimits struct {
	maxUnavailable int
	maxSurge       int
	// partition keeps instances with a lower ordinal at their revision.
	partition int32
	paused    bool
	// feasible says that new pods can be made at all. If not, what runs is kept.
	feasible bool
}

// planRollout returns what to do with each instance, in the same order.
//
// Instances that do not serve may be recreated at once: they cost nothing, and
// waiting for them to become healthy at a revision that the user has already
// replaced could take for ever. Of those that serve, the one with the highest
// index goes first, as long as no more than maxUnavailable are down; surge
// instances that serve stand in for ones that do not. Instances below the
// partition take no part: one of them that is unhealthy stays so whatever the
// rollout does, and counting it could hold the rollout up for ever.
func planRollout(instances []instanceFacts, limits rolloutLimits) []action {
	actions := make([]action, len(instances))
	down := 0
	for i, f := range instances {
		actions[i] = unbudgeted(f, limits)
		if f.wanted && !f.serving && f.ordinal >= limits.partition {
			down++
		}
		if f.surge && f.serving {
			down--
		}
	}
	for i := len(instances) - 1; i >= 0 && down < limits.maxUnavailable; i-- {
		if actions[i] == keep && replaceable(instances[i], limits) {
			actions[i] = recreate
			down++
		}
	}
	return actions
}

// remedies are the actions that recovery asks for.
var remedies = map[remedy]action{mend: complete, await: keep, startOver: restart, giveUp: keep, leave: keep}

// unbudgeted is what to do with one instance whatever the others are at.
func unbudgeted(f instanceFacts, limits rolloutLimits) action {
	switch {
	case !f.wanted && !f.surge:
		return remove
	case !limits.feasible:
		return keep
	case !f.outdated:
		return remedies[f.remedy]
	case replaceable(f, limits) && !f.serving:
		return recreate
	default:
		return keep
	}
}

// replaceable says that an instance is to be recreated. One whose old pods are
// already on their way out is not: its successors are made when the names are
// free.
func replaceable(f instanceFacts, limits rolloutLimits) bool {
	return f.outdated && !f.terminating && due(f, limits) && limits.feasible
}

// due says that an instance is to be at the current revision.
func due(f instanceFacts, limits rolloutLimits) bool {
	return f.wanted && !limits.paused && f.ordinal >= limits.partition
}

// surgeOf is the number of surge instances that there should be: as many as
// instances are still to be replaced, at most maxSurge. Once none is, a surge
// instance is as good as any other, and the one too many is chosen as in a
// scale-down: if a successor still starts, it goes and the surge instance stays.
func surgeOf(instances []instanceFacts, limits rolloutLimits) int {
	pending, unsettled, existing := 0, 0, 0
	for _, f := range instances {
		switch {
		case f.surge:
			existing++
		case !f.wanted, f.ordinal < limits.partition:
		case f.outdated && due(f, limits):
			pending++
		case !f.outdated && !f.serving:
			unsettled++
		}
	}
	switch {
	case pending == 0:
		return 0
	case !limits.feasible:
		return min(limits.maxSurge, existing)
	}
	return min(limits.maxSurge, pending+unsettled)
}
