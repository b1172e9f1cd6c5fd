// SPDX-License-Identifier: Apache-2.0

package moedeployment

import (
	"fmt"
	"slices"
	"time"

	"github.com/findep/findep-operator/api/v1alpha1"
)

// This file decides which instance is moved off nodes whose GPUs are to be
// repaired. Like the rollout and recovery it is pure arithmetic over facts, and
// like a failure a move is written to status, and counted, before anything is done
// about it.
//
// An instance that serves is worth more than one on better GPUs that may find no
// place: whether GPUs are free elsewhere only the scheduler knows, and what a
// monitor says of a node need not be about the GPU in use. So, unless the user
// asks for more, only instances that are down anyway are moved, and none at all
// when it is certain that no other node could take it.

// moveHold is how long a move keeps other instances from being moved, if the
// instance does not serve again before.
const moveHold = 10 * time.Minute

// moveFacts is what the decision about one instance depends on.
type moveFacts struct {
	index int32
	// nodes are those to leave: sick ones with pods of it that are not on their way
	// out, in alphabetical order.
	nodes []string
	// eligible says that it is to have pods at the revision that it has, and that
	// recovery would repair it.
	eligible bool
	// exhausted says that its restarts are used up.
	exhausted bool
	// serving says that all its pods are ready.
	serving bool
	// room says that other nodes have GPUs enough, as far as is known.
	room bool
	// moving and since are its mark in status; moving is empty without one.
	moving []string
	since  time.Time
	// pause is what is left of the pause after its last failure.
	pause time.Duration
}

// moveLimits bound the moves of a deployment.
type moveLimits struct {
	policy v1alpha1.UnhealthyGPUPolicy
	// maxUnavailable is the user's bound, down the number of instances that do not
	// serve, or will not since they are replaced in this pass.
	maxUnavailable, down int
}

// step is what is done about an instance with pods on sick nodes.
type step int

const (
	// stay does nothing.
	stay step = iota
	// announce writes the move to status.
	announce
	// depart deletes the pods on sick nodes.
	depart
)

// move is a step and, if it is stay, why.
type move struct {
	step step
	why  string
	// wait is when to look again, if time alone changes the answer.
	wait time.Duration
	// marked says that status is to tell of a move.
	marked bool
}

// planMoves returns what to do with each instance, in the same order. At most one
// of them gets a step: the one whose move is under way, else one that is down, else
// one that serves, of equal ones that with the lowest index.
func planMoves(instances []moveFacts, limits moveLimits, now time.Time) []move {
	moves := make([]move, len(instances))
	next := underWay(instances, now)
	for n := range instances {
		f := &instances[n]
		if len(f.nodes) > 0 {
			moves[n].why = f.obstacle(limits)
		}
		movable := len(f.nodes) > 0 && moves[n].why == ""
		if movable && (next == nil || len(next.moving) == 0 && next.serving && !f.serving) {
			next = f
		}
	}
	for n := range instances {
		f := &instances[n]
		if len(f.nodes) > 0 && moves[n].why == "" {
			moves[n] = f.turn(next, now)
		}
		moves[n].marked = f.keepsMark(moves[n])
	}
	return moves
}

// turn is what is done about an instance that can be moved, given the one that is
// next.
func (f *moveFacts) turn(next *moveFacts, now time.Time) move {
	switch {
	case next.index != f.index:
		m := move{why: fmt.Sprintf("instance %d is moved first", next.index)}
		if len(next.moving) > 0 {
			m.wait = next.since.Add(moveHold).Sub(now)
		}
		return m
	case !f.announced():
		return move{step: announce}
	case f.pause > 0:
		return move{why: "the pause after its last failure is not over", wait: f.pause}
	}
	return move{step: depart}
}

// keepsMark says whether status is to tell of a move: from its announcement until
// the instance serves again, or until something speaks against it.
func (f *moveFacts) keepsMark(m move) bool {
	switch {
	case m.step != stay:
		return true
	case len(f.moving) == 0:
		return false
	case len(f.nodes) > 0:
		// With a reason to wait it is only put off.
		return m.wait > 0
	}
	return !f.serving
}

// obstacle is what keeps an instance where it is, whatever the others do; empty if
// nothing does.
func (f *moveFacts) obstacle(limits moveLimits) string {
	switch {
	case limits.policy == v1alpha1.UnhealthyGPUReport:
		return "recovery.unhealthyGPUs is Report"
	case f.exhausted:
		return "its restarts are used up"
	case !f.eligible:
		return "it is not repaired as it is: it is replaced or removed, or recovery.policy is None"
	case !f.room:
		return "no other nodes that it may run on offer GPUs enough"
	case f.serving && limits.policy != v1alpha1.UnhealthyGPUMove:
		return "it serves, and recovery.unhealthyGPUs is MoveWhenDown"
	case f.serving && limits.down >= limits.maxUnavailable:
		return fmt.Sprintf("it serves, and rollout.maxUnavailable (%d) allows no other instance to be down", limits.maxUnavailable)
	}
	return ""
}

// announced says that status tells of this move.
func (f *moveFacts) announced() bool {
	return !slices.ContainsFunc(f.nodes, func(node string) bool { return !slices.Contains(f.moving, node) })
}

// underWay is the instance whose move began last and holds up the others; nil if
// there is none.
func underWay(instances []moveFacts, now time.Time) *moveFacts {
	var found *moveFacts
	for n := range instances {
		f := &instances[n]
		if len(f.moving) > 0 && now.Sub(f.since) < moveHold && (found == nil || f.since.After(found.since)) {
			found = f
		}
	}
	return found
}

// says is a sentence about a move.
func (m move) says(index int32, nodes []string) string {
	if m.step != stay {
		return fmt.Sprintf("Instance %d is moved off %s.", index, nodeList(nodes))
	}
	return fmt.Sprintf("Instance %d stays on %s: %s.", index, nodeList(nodes), m.why)
}
