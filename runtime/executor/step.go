// SPDX-License-Identifier: Apache-2.0

// Package executor runs one rank's part of a forward pass: it walks the
// schedule of a plan (runtime/schedule), issues kernels on a backend and
// exchanges token rows over a transport.
//
// # One step
//
// All ranks get the same Step. An attention rank embeds its tokens, runs the
// leading dense layers, and then the pipeline of MoE layers: its compute
// worker walks the AttentionCompute stream (attention, norms, router, packing
// decisions; shared experts), its send worker the A2ELink stream, its receive
// worker the E2ALink stream. An expert rank has a receive, a compute and a
// send worker in the same way. So all four resources of the system model (arXiv
// 2512.21487, section 3) really overlap, in the order of the schedule, and a
// task starts when its dependencies on this rank have ended; dependencies on
// other ranks are implied by the arrival of their messages.
//
// # Arithmetic
//
// With x = norm(h) after attention, h becomes h + shared(x) + sum over expert
// ranks, in rank order, of the rows they return. The order of summation
// depends neither on the plan nor on timing, so equal kernels give equal
// results for every plan; another number of expert ranks groups the routed
// sum differently.
//
// # Failure
//
// A step fails as a whole. A rank that fails aborts its mesh, so its peers end
// soon too. Afterwards the rank is as good as new with a new mesh, except that
// its KV cache is undefined until Reset.
package executor

import (
	"fmt"

	"github.com/findep/findep-operator/runtime/model"
	"github.com/findep/findep-operator/runtime/plan"
	"github.com/findep/findep-operator/runtime/sampling"
	"github.com/findep/findep-operator/runtime/schedule"
	"github.com/findep/findep-operator/runtime/transport"
)

// LogitsMode says for which tokens of a piece logits are computed.
type LogitsMode uint8

// The modes.
const (
	// LogitsNone computes none: a chunk of a prompt that goes on.
	LogitsNone LogitsMode = iota
	// LogitsLast samples the token that follows the piece.
	LogitsLast
	// LogitsAll does so too, and returns the logits of every token.
	LogitsAll
)

// Piece is a range of tokens of one sequence: a whole prompt, a chunk of one,
// or one generated token.
type Piece struct {
	Sequence uint64
	// Start is the position of the first token, which equals the number of the
	// sequence's tokens already in the KV cache.
	Start  int
	Tokens []int32
	Logits LogitsMode
	// ReturnLogits asks with LogitsLast for the logits of the last token.
	ReturnLogits bool
	Sampling     sampling.Params
}

// Step is one forward pass of all ranks. Expert ranks need only Number and
// Plan: they learn their rows from the messages.
type Step struct {
	Epoch, Number uint64
	Plan          plan.Plan
	// Pieces lists each attention rank's pieces; missing ranks have none.
	// Pieces of one sequence must follow each other in order.
	Pieces [][]Piece
	// Release lists sequences whose KV is freed before the step; each rank
	// ignores those it does not hold.
	Release []uint64
	// Trace asks for the times of every task. Times asks for their sums, which
	// pipelines only then measure; ranks without one always do.
	Trace, Times bool
}

// Output is what a piece gave.
type Output struct {
	Sequence uint64
	// Sampled tells that the choice below is set.
	Sampled bool
	sampling.Choice
	// Logits are [rows, vocabulary], row after row: all tokens of the piece, or
	// the last, or none, as asked.
	Logits []float32
}

// Kind is what a timed piece of work does: a schedule.Kind, or one of the two
// kinds outside the pipeline.
type Kind uint8

// Kinds outside the pipeline, both on the attention group's compute stream.
const (
	// Dense is the embedding and the leading dense layers of one micro-batch.
	Dense = Kind(schedule.NumKinds) + iota
	// Head is the final norm, the output head and sampling of one micro-batch.
	Head
	// NumKinds is the number of kinds.
	NumKinds
)

// String names the kind as traces show it.
func (k Kind) String() string {
	switch k {
	case Dense:
		return "Dense"
	case Head:
		return "Head"
	default:
		return schedule.Kind(k).String()
	}
}

// Duration sums the tasks of one kind.
type Duration struct {
	Tasks       int
	Nanoseconds int64
}

// TaskTime is one executed task. Start and End are nanoseconds since the
// rank's step began, on the rank's own clock. For a transfer that this rank
// receives, Start is the arrival of the first header: waiting for the peer is
// not part of the task. On a pipeline it is, since the device says nothing of
// arrivals.
type TaskTime struct {
	Kind                       Kind
	Layer, MicroBatch, Segment int
	Start, End                 int64
}

// Result is what one rank reports of a step.
type Result struct {
	// Outputs are in the order of the rank's pieces; expert ranks have none.
	Outputs []Output
	// Durations are indexed by Kind. A pipeline has them if asked, and none of the
	// transfers that it receives, whose time is the sender's.
	Durations [NumKinds]Duration
	// Trace is empty unless asked for. Tasks of one resource are in the order
	// they ran in.
	Trace []TaskTime
	// ExpertLoad counts the (token, expert) pairs computed per local expert,
	// summed over layers; attention ranks have none.
	ExpertLoad []uint64
	// Started is the rank's clock when the step began, Nanoseconds how long the
	// whole step took on this rank.
	Started, Nanoseconds int64
}

// checkStepTokens tells whether a step of n tokens per rank is possible: the
// rows of all of them must fit one message.
func checkStepTokens(n int, s *model.Shape) error {
	row := 4*int64(s.HiddenSize) + 4 + 8*int64(s.MoE.ExpertsPerToken)
	most := min(transport.MaxRows, transport.MaxPairs/int64(s.MoE.ExpertsPerToken), (transport.MaxPayloadBytes-4)/row)
	if n < 1 || int64(n) > most {
		return fmt.Errorf("a step of %d tokens is asked for; 1 to %d are possible, so that their rows fit one message", n, most)
	}
	return nil
}

// pieces returns the pieces of an attention rank.
func (s *Step) pieces(rank int) []Piece {
	if rank < len(s.Pieces) {
		return s.Pieces[rank]
	}
	return nil
}

// check tells what is wrong with a piece, given the sequence's cached tokens.
func (p *Piece) check(cached, vocabulary, maxContext int) error {
	if len(p.Tokens) == 0 {
		return fmt.Errorf("sequence %d has a piece without tokens", p.Sequence)
	}
	if p.Start != cached {
		return fmt.Errorf("sequence %d has a piece that starts at token %d, but %d tokens are in the KV cache", p.Sequence, p.Start, cached)
	}
	if len(p.Tokens) > maxContext-p.Start {
		return fmt.Errorf("sequence %d would have %d tokens; the context is limited to %d", p.Sequence, p.Start+len(p.Tokens), maxContext)
	}
	for i, t := range p.Tokens {
		if t < 0 || int(t) >= vocabulary {
			return fmt.Errorf("sequence %d has token %d at position %d; the vocabulary has %d", p.Sequence, t, p.Start+i, vocabulary)
		}
	}
	if p.Logits > LogitsAll {
		return fmt.Errorf("sequence %d asks for unknown logits mode %d", p.Sequence, p.Logits)
	}
	if err := p.Sampling.Validate(); err != nil {
		return fmt.Errorf("sequence %d: %w", p.Sequence, err)
	}
	return nil
}
