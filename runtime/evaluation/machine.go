// SPDX-License-Identifier: Apache-2.0

package evaluation

import (
	"context"
	"fmt"

	"github.com/findep/findep-operator/runtime/model"
	"github.com/findep/findep-operator/runtime/plan"
	"github.com/findep/findep-operator/runtime/profile"
	"github.com/findep/findep-operator/runtime/solver"
)

// Machine says how a testbed differs from its datasheet presets. The factors
// multiply times: 2 is half as fast as the preset.
type Machine struct {
	// Compute applies to all matrix products, Core to attention's scores and
	// values, Link to the bytes of a transfer, Latency to everything that is
	// paid per launch or transfer.
	Compute, Core, Link, Latency float64
	// TokensInFlight bounds the tokens of unfinished samples on an attention
	// GPU, by model; 0 leaves that to the memory model.
	TokensInFlight map[string]int
}

// datasheet is the machine that is as fast as its presets.
func datasheet() Machine { return Machine{Compute: 1, Core: 1, Link: 1, Latency: 1} }

// samples is the cap on samples in flight for prompts of some length; 0 is none.
func (m *Machine) samples(name string, tokens int) int {
	if m.TokensInFlight[name] == 0 {
		return 0
	}
	return max(1, m.TokensInFlight[name]/tokens)
}

// profile is the testbed's preset with the machine's factors.
func (m *Machine) profile(t *Testbed) (*profile.Profile, error) {
	p, err := profile.Preset(t.Profile)
	if err != nil {
		return nil, err
	}
	link, err := profile.Link(t.Link)
	if err != nil {
		return nil, err
	}
	p = p.WithLink(link)
	scale := func(c profile.Compute, by float64) profile.Compute {
		return profile.Compute{AlphaMicroseconds: c.AlphaMicroseconds * m.Latency, MicrosecondsPerGigaMAC: c.MicrosecondsPerGigaMAC * by}
	}
	p.GEMM, p.GroupedGEMM = scale(p.GEMM, m.Compute), scale(p.GroupedGEMM, m.Compute)
	p.Attention = scale(p.Attention, m.Core)
	p.Link.AlphaMicroseconds *= m.Latency
	p.Link.MicrosecondsPerMegabyte *= m.Link
	return p, nil
}

// reduced is a published model with fewer layers, all of them MoE layers, as
// the paper's formulas have it.
func reduced(name string, layers int) (*model.Shape, error) {
	shape, err := model.ByName(name)
	if err != nil {
		return nil, err
	}
	if layers < 1 {
		return nil, fmt.Errorf("model %s has %d layers; need at least 1", name, layers)
	}
	shape.Layers, shape.DenseLayers = layers, 0
	return shape, nil
}

// bench solves problems of one model on one testbed and machine.
type bench struct {
	model   *solver.Model
	name    string
	machine *Machine
	solver  solver.Solver
	problem solver.Problem
}

func newBench(t *Testbed, name string, machine *Machine) (*bench, error) {
	shape, err := reduced(name, t.Layers[name])
	if err != nil {
		return nil, err
	}
	p, err := machine.profile(t)
	if err != nil {
		return nil, err
	}
	// Like the paper, send a token once for each of its experts.
	m, err := solver.NewModel(shape, solver.Profiles{Attention: p, Expert: p}, solver.Options{DType: model.BFloat16, ReplicatedTransfers: true})
	if err != nil {
		return nil, err
	}
	return &bench{model: m, name: name, machine: machine}, nil
}

// load makes the problem of prompts of a length with a split.
func (b *bench) load(tokens int, split solver.Split) error {
	work := solver.Workload{Phase: solver.Prefill, SequenceTokens: tokens}
	if err := b.model.Problem(&work, split, &b.problem); err != nil {
		return err
	}
	b.problem.Limits.SamplesInFlight = b.machine.samples(b.name, tokens)
	return nil
}

// splits are all ways to share GPUs among the groups, up to one expert GPU per
// expert.
func splits(gpus, experts int) []solver.Split {
	var all []solver.Split
	for ag := max(1, gpus-experts); ag < gpus; ag++ {
		all = append(all, solver.Split{Attention: ag, Expert: gpus - ag})
	}
	return all
}

// Configuration is a split with its best plan.
type Configuration struct {
	Split  solver.Split
	Result solver.Result
}

// best is a policy's best configuration over some splits; its throughput is 0
// if nothing fits.
func (b *bench) best(tokens int, among []solver.Split, policy plan.Policy) (Configuration, error) {
	var found Configuration
	for _, split := range among {
		if err := b.load(tokens, split); err != nil {
			return found, err
		}
		r, err := b.solver.Solve(context.Background(), &b.problem, policy)
		if err != nil {
			return found, err
		}
		if r.Infeasible == nil && r.TokensPerSecond > found.Result.TokensPerSecond {
			found = Configuration{split, r}
		}
	}
	return found, nil
}
