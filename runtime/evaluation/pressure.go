// SPDX-License-Identifier: Apache-2.0

package evaluation

import (
	"context"

	"github.com/findep/findep-operator/runtime/plan"
	"github.com/findep/findep-operator/runtime/solver"
)

// Pressure is a cluster in which a part of one group's memory is taken.
type Pressure struct {
	Group plan.Role
	// Taken is the part of the usable memory that weights and others hold.
	Taken float64
	// FreeBytes is what is left of it.
	FreeBytes      int64
	PPPipe, FinDEP solver.Result
}

// Gain is FinDEP's throughput relative to PPPipe's; 0 if nothing fits.
func (p *Pressure) Gain() float64 {
	if p.FinDEP.Infeasible != nil || p.PPPipe.Infeasible != nil {
		return 0
	}
	return p.FinDEP.TokensPerSecond / p.PPPipe.TokensPerSecond
}

// UnderPressure solves a cluster with a given split while weights take a given
// part of one group's usable memory, as if the model were larger or something
// else lived there.
func UnderPressure(c Cluster, split solver.Split, group plan.Role, taken []float64) ([]Pressure, error) {
	in, err := c.instance()
	if err != nil {
		return nil, err
	}
	p, err := solver.FromModel(in, split)
	if err != nil {
		return nil, err
	}
	usable, fixed := p.Memory.Attention.UsableBytes, &p.Memory.Attention.FixedBytes
	if group == plan.Expert {
		usable, fixed = p.Memory.Expert.UsableBytes, &p.Memory.Expert.FixedBytes
	}
	var all []Pressure
	for _, part := range taken {
		*fixed = int64(part * float64(usable))
		row := Pressure{Group: group, Taken: part, FreeBytes: usable - *fixed}
		var w solver.Solver
		if row.PPPipe, err = w.Solve(context.Background(), &p, plan.PPPipe); err != nil {
			return nil, err
		}
		if row.FinDEP, err = w.Solve(context.Background(), &p, plan.FinDEP); err != nil {
			return nil, err
		}
		all = append(all, row)
	}
	return all, nil
}
