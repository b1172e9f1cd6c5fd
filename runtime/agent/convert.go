// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"encoding/binary"
	"math"

	"github.com/findep/findep-operator/runtime/agent/agentpb"
	"github.com/findep/findep-operator/runtime/executor"
	"github.com/findep/findep-operator/runtime/plan"
	"github.com/findep/findep-operator/runtime/sampling"
)

func planToProto(p plan.Plan) *agentpb.PlanInUse {
	return &agentpb.PlanInUse{
		Policy: string(p.Policy), MicroBatchSize: uint32(p.MicroBatchSize), R1: uint32(p.R1), R2: uint32(p.R2),
		Order: string(p.Order), Chunks: uint32(p.Chunks), ChunkBoundaries: string(p.ChunkBoundaries),
	}
}

func planFromProto(p *agentpb.PlanInUse) plan.Plan {
	return plan.Plan{
		Policy: plan.Policy(p.GetPolicy()), MicroBatchSize: int(p.GetMicroBatchSize()), R1: int(p.GetR1()), R2: int(p.GetR2()),
		Order: plan.Order(p.GetOrder()), Chunks: int(p.GetChunks()), ChunkBoundaries: plan.Boundaries(p.GetChunkBoundaries()),
	}
}

// stepFromProto makes the executor's step of a command. Pieces keep their order
// within each rank.
func stepFromProto(epoch uint64, c *agentpb.StepCommand, attentionRanks int) *executor.Step {
	s := &executor.Step{
		Epoch: epoch, Number: c.Number, Plan: planFromProto(c.Plan), Release: c.Release, Trace: c.Trace, Times: c.Times,
		Pieces: make([][]executor.Piece, attentionRanks),
	}
	for _, p := range c.Pieces {
		if int(p.AttentionRank) < attentionRanks {
			s.Pieces[p.AttentionRank] = append(s.Pieces[p.AttentionRank], pieceFromProto(p))
		}
	}
	return s
}

func pieceFromProto(p *agentpb.Piece) executor.Piece {
	out := executor.Piece{Sequence: p.Sequence, Start: int(p.Start), Tokens: p.Tokens}
	switch p.Logits {
	case agentpb.LogitsMode_LOGITS_LAST:
		out.Logits = executor.LogitsLast
	case agentpb.LogitsMode_LOGITS_ALL:
		out.Logits = executor.LogitsAll
	default:
		out.Logits = executor.LogitsNone
	}
	if s := p.Sampling; s != nil {
		out.Sampling = sampling.Params{
			Temperature: s.Temperature, TopK: int(s.TopK), TopP: s.TopP, Seed: s.Seed,
			TopLogProbs: int(s.TopLogprobs),
		}
	}
	return out
}

func outcomeToProto(number uint64, r *executor.Result) *agentpb.RankOutcome {
	o := &agentpb.RankOutcome{Number: number, ExpertLoad: r.ExpertLoad, WallNanoseconds: r.Nanoseconds}
	for _, out := range r.Outputs {
		o.Results = append(o.Results, outputToProto(&out))
	}
	for kind, d := range r.Durations {
		if d.Tasks > 0 {
			o.Durations = append(o.Durations, &agentpb.KindDuration{
				Kind: executor.Kind(kind).String(), Tasks: uint32(d.Tasks), Milliseconds: float64(d.Nanoseconds) / 1e6,
			})
		}
	}
	for _, t := range r.Trace {
		o.Trace = append(o.Trace, &agentpb.TaskTrace{
			Kind: t.Kind.String(), Layer: uint32(t.Layer), MicroBatch: uint32(t.MicroBatch), Segment: uint32(t.Segment),
			StartNanoseconds: t.Start, EndNanoseconds: t.End,
		})
	}
	return o
}

func outputToProto(out *executor.Output) *agentpb.PieceResult {
	p := &agentpb.PieceResult{Sequence: out.Sequence, Token: out.Token, Logprob: out.LogProb, Logits: floatBytes(out.Logits)}
	for _, t := range out.Top {
		p.Top = append(p.Top, &agentpb.TokenLogprob{Token: t.Token, Logprob: t.LogProb})
	}
	return p
}

func floatBytes(v []float32) []byte {
	if len(v) == 0 {
		return nil
	}
	b := make([]byte, 0, 4*len(v))
	for _, f := range v {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(f))
	}
	return b
}
