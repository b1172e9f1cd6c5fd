// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"fmt"
	"strings"

	"github.com/findep/findep-operator/runtime/model"
	"github.com/findep/findep-operator/runtime/plan"
	"github.com/findep/findep-operator/runtime/solver"
)

// stageModel predicts the time of each kind of task, in milliseconds, from the
// work of one micro-batch or segment. Tokens are those of one attention rank.
type stageModel struct {
	// attention = [0] + [1]*tokens + [2]*pairs, pairs being (query, key) pairs.
	attention [3]float64
	// shared = [0] + [1]*tokens; a2e, expert and e2a likewise.
	shared, a2e, expert, e2a [2]float64
	// outside is everything an attention rank does outside the pipeline per
	// micro-batch: = [0] + [1]*tokens + [2]*samples.
	outside [3]float64
	// overhead of a step: control messages, start-up of the workers.
	overhead float64
	// friction multiplies the pipeline's makespan: what overlap costs beyond the
	// tasks' own times, such as waiting for a core that another lane holds. 0
	// means 1.
	friction float64
}

// class is a kind of step that has a stage model of its own: the tasks of a
// decode step are too short for a line through those of prefill, and tasks take
// longer while others run on the same cores.
type class struct {
	phase      phase
	overlapped bool
}

// classOf is the class of a step under a plan.
func classOf(shape batchShape, p plan.Plan) class {
	return class{shape.phase(), p.Policy != plan.Sequential && p.R1*p.R2*max(1, p.Chunks) > 1}
}

// stageModels has a model for every class.
type stageModels map[class]*stageModel

// classes are in the order in which they are described.
var classes = []class{{prefill, false}, {prefill, true}, {decode, false}, {decode, true}}

func (m stageModels) String() string {
	text := ""
	for _, c := range classes {
		how := "alone"
		if c.overlapped {
			how = "overlapped"
		}
		text += fmt.Sprintf("%s %s: %s; ", c.phase, how, m[c])
	}
	return strings.TrimSuffix(text, "; ")
}

func (s *stageModel) String() string {
	return fmt.Sprintf("attention %.3g+%.3g/token+%.3g/pair, shared %.3g+%.3g/token, a2e %.3g+%.3g/token, expert %.3g+%.3g/token, e2a %.3g+%.3g/token, outside %.3g+%.3g/token, step %.3g ms, friction %.3g",
		s.attention[0], s.attention[1], s.attention[2], s.shared[0], s.shared[1], s.a2e[0], s.a2e[1],
		s.expert[0], s.expert[1], s.e2a[0], s.e2a[1], s.outside[0], s.outside[1], s.overhead, s.resistance())
}

// resistance is the friction with its default.
func (s *stageModel) resistance() float64 {
	if s.friction == 0 {
		return 1
	}
	return s.friction
}

// problem is the stage form of a batch: the same formulas as the paper's
// (arXiv 2512.21487 section 4.2) with what was measured in place of FLOP
// counts. A segment with x tokens of each attention rank has
// m_e = x*ag*top_k/E tokens per expert.
func (s *stageModel) problem(shape batchShape, m *model.Shape, in *plan.Instance) *solver.Problem {
	perExpert := float64(in.AttentionRanks*m.MoE.ExpertsPerToken) / float64(m.MoE.Experts)
	tokens := shape.tokensPerSample()
	segment := func(c [2]float64) solver.Affine { return solver.Affine{Alpha: c[0], Beta: c[1] / perExpert} }
	// The tokens [u, v) of a sample, as fractions, see the cache with all of
	// their keys and the sample itself causally: tokens^2 (v^2-u^2)/2 pairs.
	causal := tokens * tokens / 2
	p := &solver.Problem{
		Stages: solver.Stages{
			Attention: solver.AttentionTime{
				Alpha:     s.attention[0],
				Beta:      s.attention[1]*tokens + s.attention[2]*max(0, shape.pairsPerSample()-causal),
				Quadratic: s.attention[2] * causal,
			},
			Shared: solver.Affine{Alpha: s.shared[0], Beta: s.shared[1] * tokens},
			Expert: segment(s.expert),
			A2E:    segment(s.a2e),
			E2A:    segment(s.e2a),
		},
		Layers:                   m.MoELayers(),
		TokensPerExpertPerSample: perExpert * tokens,
		AttentionGPUs:            in.AttentionRanks,
		SequenceTokens:           max(1, int(tokens+0.5)),
		Batch:                    shape.largest,
		Samples:                  shape.samples,
		ExactRemainder:           true,
		Order:                    in.Schedule.Order,
		Outside:                  solver.Affine{Alpha: s.outside[0], Beta: s.outside[1]*tokens + s.outside[2]},
		Limits:                   solver.Limits{MaxSegments: in.Schedule.MaxSegments},
	}
	if in.Schedule.Chunks == "Auto" && shape.phase() == prefill {
		p.Limits = p.Limits.WithChunks()
	}
	return p
}
