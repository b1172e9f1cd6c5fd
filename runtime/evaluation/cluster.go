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

// Cluster is a published model in full depth on GPUs of one kind, from
// datasheet presets, prefilling prompts of one length.
type Cluster struct {
	Model  string
	GPU    string
	Link   string
	GPUs   int
	Tokens int
	// Samples bounds the samples in flight per attention GPU; 0 leaves that
	// to memory.
	Samples int
	// GigabytesPerSecond, if set, replaces the link's speed.
	GigabytesPerSecond float64
}

// Reference is the cluster that the experiments start from.
func Reference() Cluster {
	return Cluster{Model: "deepseek-ai/DeepSeek-V2", GPU: "h200", Link: "rdma-400g", GPUs: 32, Tokens: 4096}
}

func (c *Cluster) instance() (*solver.Instance, error) {
	shape, err := model.ByName(c.Model)
	if err != nil {
		return nil, err
	}
	gpu, err := profile.Preset(c.GPU)
	if err != nil {
		return nil, err
	}
	link, err := profile.Link(c.Link)
	if err != nil {
		return nil, err
	}
	if c.GigabytesPerSecond > 0 {
		link.Transfer.MicrosecondsPerMegabyte = 1e3 / c.GigabytesPerSecond
	}
	gpu = gpu.WithLink(link)
	return &solver.Instance{
		Shape: shape, Profiles: solver.Profiles{Attention: gpu, Expert: gpu},
		Workload: solver.Workload{Phase: solver.Prefill, SequenceTokens: c.Tokens},
		Options:  solver.Options{Limits: solver.Limits{SamplesInFlight: c.Samples}},
	}, nil
}

// Comparison is the best plan of FinDEP beside the best of PPPipe, each with
// its own best split.
type Comparison struct {
	Cluster        Cluster
	PPPipe, FinDEP solver.Choice
}

// Gain is FinDEP's throughput relative to PPPipe's.
func (c *Comparison) Gain() float64 {
	return c.FinDEP.Result.TokensPerSecond / c.PPPipe.Result.TokensPerSecond
}

// Compare solves a cluster for both policies over all splits.
func Compare(c Cluster) (*Comparison, error) {
	in, err := c.instance()
	if err != nil {
		return nil, err
	}
	r := &Comparison{Cluster: c}
	for _, side := range []struct {
		policy plan.Policy
		choice *solver.Choice
	}{{plan.PPPipe, &r.PPPipe}, {plan.FinDEP, &r.FinDEP}} {
		total, err := solver.SolveTotal(context.Background(), in, c.GPUs, side.policy)
		if err != nil {
			return nil, err
		}
		if total.Best.Result.Infeasible != nil {
			return nil, fmt.Errorf("%s on %d %s: %v", c.Model, c.GPUs, c.GPU, total.Best.Result.Infeasible)
		}
		*side.choice = total.Best
	}
	return r, nil
}

// Scaling compares a cluster at several sizes.
func Scaling(c Cluster, gpus []int) ([]*Comparison, error) {
	return compareEach(gpus, func(n int) Cluster { c.GPUs = n; return c })
}

// LinkSpeeds compares a cluster at several speeds of the link between the
// groups, in 10^9 bytes per second, GPU and direction.
func LinkSpeeds(c Cluster, speeds []float64) ([]*Comparison, error) {
	return compareEach(speeds, func(s float64) Cluster { c.GigabytesPerSecond = s; return c })
}

func compareEach[T any](values []T, cluster func(T) Cluster) ([]*Comparison, error) {
	var all []*Comparison
	for _, v := range values {
		r, err := Compare(cluster(v))
		if err != nil {
			return nil, err
		}
		all = append(all, r)
	}
	return all, nil
}
