// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/findep/findep-operator/runtime/agent/agentpb"
	"github.com/findep/findep-operator/runtime/executor"
	"github.com/findep/findep-operator/runtime/plan"
)

// A new leader of an instance whose other ranks are still there need not measure
// the stages before it serves: the leader before has given every rank what it
// knew, and ranks, model and split are the same, or the rank would not be in this
// instance. Should the new leader's machine be another after all, predictions are
// off, and the planner follows and fits again as it does for any other cause.

const (
	// keptVersion is the version of the format; another is not read.
	keptVersion = 1
	// maxKeptPoints and maxKeptBytes bound what is kept.
	maxKeptPoints = 512
	maxKeptBytes  = 512 << 10
	// maxKeptNumber bounds sizes and milliseconds that are taken over.
	maxKeptNumber = 1 << 31
)

// kept is what a leader leaves to the next one.
type kept struct {
	Version int         `json:"version"`
	Machine string      `json:"machine"`
	Points  []keptPoint `json:"points"`
}

// keptPoint is a point without what follows from its shape and plan.
type keptPoint struct {
	Samples  int                        `json:"samples"`
	Largest  int                        `json:"largest"`
	Tokens   int                        `json:"tokens"`
	Pairs    int                        `json:"pairs"`
	Plan     plan.Plan                  `json:"plan"`
	Kind     [executor.NumKinds]float64 `json:"kindMilliseconds"`
	Measured float64                    `json:"measuredMilliseconds"`
	Steps    int                        `json:"steps"`
}

// encodeKept is what the planner's stage models rest on; nil if that is nothing.
func (p *planner) encodeKept(machine string) ([]byte, error) {
	p.mu.Lock()
	points := append(slices.Clone(p.learner.base), merged(p.learner.recent)...)
	p.mu.Unlock()
	if len(points) == 0 {
		return nil, nil
	}
	k := kept{Version: keptVersion, Machine: machine}
	for i := range points[:min(len(points), maxKeptPoints)] {
		pt := &points[i]
		k.Points = append(k.Points, keptPoint{
			pt.shape.samples, pt.shape.largest, pt.shape.tokens, pt.shape.pairs, pt.plan, pt.kind, pt.measured, pt.steps,
		})
	}
	return json.Marshal(k)
}

// decodeKept reads what another process has written.
func decodeKept(b []byte, machine string, attentionRanks int) ([]point, error) {
	if len(b) > maxKeptBytes {
		return nil, fmt.Errorf("kept stages have %d bytes; at most %d are read", len(b), maxKeptBytes)
	}
	var k kept
	if err := json.Unmarshal(b, &k); err != nil {
		return nil, fmt.Errorf("kept stages: %w", err)
	}
	switch {
	case k.Version != keptVersion:
		return nil, fmt.Errorf("kept stages have version %d, this process reads %d", k.Version, keptVersion)
	case k.Machine != machine:
		return nil, fmt.Errorf("kept stages were measured on %q, this is %q", k.Machine, machine)
	case len(k.Points) == 0 || len(k.Points) > maxKeptPoints:
		return nil, fmt.Errorf("kept stages have %d points; 1 to %d can be used", len(k.Points), maxKeptPoints)
	}
	points := make([]point, len(k.Points))
	for i := range k.Points {
		if err := k.Points[i].check(); err != nil {
			return nil, fmt.Errorf("kept stages, point %d: %w", i, err)
		}
		points[i] = k.Points[i].point(attentionRanks)
	}
	return points, nil
}

var errKeptNumber = errors.New("a size or a time is out of range")

func (k *keptPoint) check() error {
	for _, n := range []int{k.Samples, k.Largest, k.Tokens, k.Pairs} {
		if n < 1 || n > maxKeptNumber {
			return errKeptNumber
		}
	}
	for _, ms := range append([]float64{k.Measured}, k.Kind[:]...) {
		if !(ms >= 0 && ms <= maxKeptNumber) {
			return errKeptNumber
		}
	}
	if k.Steps < 0 || k.Steps > maxKeptNumber || k.Largest > k.Samples || k.Samples > k.Tokens || k.Measured == 0 {
		return errKeptNumber
	}
	return k.Plan.Validate()
}

func (k *keptPoint) point(attentionRanks int) point {
	shape := batchShape{samples: k.Samples, largest: k.Largest, tokens: k.Tokens, pairs: k.Pairs}
	p := newPoint(shape, k.Plan, attentionRanks, nil, 0)
	p.kind, p.measured, p.steps = k.Kind, k.Measured, k.Steps
	return p
}

// keep takes what a command entrusts to this rank, and returns what the rank
// keeps if the command asks for it.
func (r *rank) keep(command *agentpb.StepCommand) []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	if n := len(command.KeepStages); n > 0 && n <= maxKeptBytes {
		r.kept = command.KeepStages
	}
	if command.RecallStages {
		return r.kept
	}
	return nil
}

// nothing is a step without work.
func (l *leader) nothing() choice {
	return choice{plan: whole(batchShape{}, l.config.current.Load())}
}

// entrust gives every rank what the stage models rest on.
func (l *leader) entrust(epoch uint64) {
	b, err := l.planner.encodeKept(l.machine)
	if err == nil && len(b) > 0 {
		_, _, err = l.command(epoch, l.nothing(), &agentpb.StepCommand{KeepStages: b})
	}
	if err != nil {
		l.log.Warn("the ranks do not keep the stages; a new leader will measure them again", "epoch", epoch, "reason", err.Error())
	}
}

// recall asks the ranks for what a leader before has left, and begins with it.
// It reports whether there was anything of use.
func (l *leader) recall(epoch uint64) bool {
	outcomes, _, err := l.command(epoch, l.nothing(), &agentpb.StepCommand{RecallStages: true})
	if err != nil {
		l.log.Warn("the ranks were not asked what the stages are", "epoch", epoch, "reason", err.Error())
		return false
	}
	for rank, o := range outcomes {
		if len(o.Stages) == 0 {
			continue
		}
		points, err := decodeKept(o.Stages, l.machine, l.limits.attentionRanks)
		if err != nil {
			l.log.Warn("what a rank keeps is of no use", "epoch", epoch, "peer", rank, "reason", err.Error())
			continue
		}
		l.planner.start(points, l.config.current.Load())
		if !l.planner.usable() {
			continue
		}
		l.log.Info("stages taken over from the leader before", "epoch", epoch, "peer", rank, "stages", l.planner.describe())
		return true
	}
	return false
}

// usable tells whether every coefficient of the stage models is a number.
func (p *planner) usable() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.stages {
		all := slices.Concat(s.attention[:], s.shared[:], s.a2e[:], s.expert[:], s.e2a[:], s.outside[:], []float64{s.overhead, s.friction})
		if slices.ContainsFunc(all, func(v float64) bool { return math.IsNaN(v) || math.IsInf(v, 0) }) {
			p.stages = nil
			return false
		}
	}
	return true
}
