// SPDX-License-Identifier: Apache-2.0

// Package servingtest has an Engine for tests. Its model is a function of the
// whole token history, so any mistake in what the server sends (a token lost,
// repeated or out of place) shows in the tokens that come back, and it keeps
// its own account of the KV cache, which it compares with every request.
package servingtest

import (
	"context"
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"slices"
	"sync"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/findep/findep-operator/runtime/agent/agentpb"
)

// Fault is what befalls a step.
type Fault int

// The faults.
const (
	// None: the step runs.
	None Fault = iota
	// LostBefore and LostAfter: a rank dies before or after the step was
	// computed; the result is UNAVAILABLE, and all KV is gone.
	LostBefore
	LostAfter
	// Reformed: the instance has re-formed unnoticed; the result is ABORTED.
	Reformed
	// Internal: an error without a promise; KV is kept.
	Internal
	// Malformed: INVALID_ARGUMENT; nothing ran.
	Malformed
)

// NextToken is a model: the token that follows a history.
type NextToken func(history []int32, sampling *agentpb.Sampling, vocabulary int) int32

// Engine is the fake. Set the fields before use.
type Engine struct {
	// Ranks, KVBlocks, BlockTokens, StepTokens, Context and Vocabulary are
	// what Describe says.
	Ranks, KVBlocks, BlockTokens, StepTokens, Context, Vocabulary int
	// Next is the model; Hash by default.
	Next NextToken
	// Fault is asked before each step, counted from 0; nil means none.
	Fault func(step int) Fault
	// NotReady is how many Describes after a fault say that the instance is
	// not ready.
	NotReady int
	// EndOfSequence are the end-of-sequence tokens described.
	EndOfSequence []int32
	// OnStep is called before a step is taken in.
	OnStep func(*agentpb.StepRequest)

	mu      sync.Mutex
	epoch   uint64
	unready int
	steps   int
	cache   map[uint64]*cached
	// seen are keys that ran, named those that any request had.
	seen, named map[uint64]bool
	problems    []string
	report      *agentpb.ServingReport
	mixed       int
	widest      int
}

type cached struct {
	rank   uint32
	tokens []int32
}

// New returns a fake of moderate size.
func New() *Engine {
	return &Engine{Ranks: 2, KVBlocks: 64, BlockTokens: 16, StepTokens: 64, Context: 256, Vocabulary: 420}
}

// Hash is a model whose tokens depend on every token before and on whether,
// and how, sampling is random.
func Hash(history []int32, sampling *agentpb.Sampling, vocabulary int) int32 {
	h := fnv.New64a()
	var b [8]byte
	for _, t := range history {
		binary.LittleEndian.PutUint64(b[:], uint64(t)+1)
		_, _ = h.Write(b[:])
	}
	if sampling.GetTemperature() > 0 {
		binary.LittleEndian.PutUint64(b[:], sampling.GetSeed())
		_, _ = h.Write(b[:])
	}
	return int32(h.Sum64() % uint64(vocabulary))
}

// Generate is what the model continues a prompt with.
func (e *Engine) Generate(prompt []int32, sampling *agentpb.Sampling, maxTokens int, stop []int32) []int32 {
	history := slices.Clone(prompt)
	for range maxTokens {
		t := e.model()(history, sampling, e.Vocabulary)
		history = append(history, t)
		if slices.Contains(stop, t) {
			break
		}
	}
	return history[len(prompt):]
}

func (e *Engine) model() NextToken {
	if e.Next != nil {
		return e.Next
	}
	return Hash
}

// Problems lists each inconsistency that the server's requests had.
func (e *Engine) Problems() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.problems)
}

// Held is the number of sequences in the KV cache.
func (e *Engine) Held() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.cache)
}

// Report is the last one received; nil before that.
func (e *Engine) Report() *agentpb.ServingReport {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.report
}

// Steps counts steps; mixed those with prompts and generated tokens together;
// widest is the most sequences in one.
func (e *Engine) Steps() (steps, mixed, widest int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.steps, e.mixed, e.widest
}

// Break ends the epoch between two steps. change, unless nil, alters what the
// next epoch has.
func (e *Engine) Break(change func(*Engine)) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if change != nil {
		change(e)
	}
	e.lose()
}

// Describe implements serving.Engine.
func (e *Engine) Describe(context.Context) (*agentpb.DescribeResponse, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.epoch == 0 {
		e.epoch, e.unready = 1, e.NotReady
		e.cache, e.seen, e.named = map[uint64]*cached{}, map[uint64]bool{}, map[uint64]bool{}
	}
	d := &agentpb.DescribeResponse{
		Ready: true, Epoch: e.epoch, ModelName: "fake", AttentionRanks: uint32(e.Ranks), ExpertRanks: 1,
		MaxContextTokens: uint32(e.Context), VocabularySize: uint32(e.Vocabulary), KvBlocksPerRank: uint32(e.KVBlocks),
		KvBlockTokens: uint32(e.BlockTokens), MaxStepTokensPerRank: uint32(e.StepTokens),
		EndOfSequenceTokens: e.EndOfSequence, Leader: true,
	}
	if e.unready > 0 {
		e.unready--
		d.Ready, d.Message = false, "rank 2 has not joined"
	}
	return d, nil
}

// Step implements serving.Engine.
func (e *Engine) Step(_ context.Context, req *agentpb.StepRequest) (*agentpb.StepResponse, error) {
	if e.OnStep != nil {
		e.OnStep(req)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	fault := None
	if e.Fault != nil {
		fault = e.Fault(e.steps)
	}
	e.steps++
	for _, p := range req.GetPieces() {
		e.named[p.GetSequence()] = true
	}
	if e.unready > 0 {
		return nil, status.Error(codes.Unavailable, "the instance is not formed")
	}
	if req.GetEpoch() != e.epoch {
		return nil, status.Errorf(codes.Aborted, "epoch %d is not the current one, %d", req.GetEpoch(), e.epoch)
	}
	switch fault {
	case LostBefore:
		e.lose()
		return nil, status.Error(codes.Unavailable, "rank 2 was lost")
	case Reformed:
		e.lose()
		return nil, status.Error(codes.Aborted, "another epoch has begun")
	case Internal:
		return nil, status.Error(codes.Internal, "kernel failed")
	case Malformed:
		return nil, status.Error(codes.InvalidArgument, "piece 0 is malformed")
	}
	resp := e.run(req)
	if fault == LostAfter {
		e.lose()
		return nil, status.Error(codes.Unavailable, "rank 2 was lost in mid-step")
	}
	return resp, nil
}

// ReportServing implements serving.Engine.
func (e *Engine) ReportServing(_ context.Context, r *agentpb.ServingReport) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.report = r
	return nil
}

func (e *Engine) lose() {
	e.epoch++
	e.unready = e.NotReady
	e.cache = map[uint64]*cached{}
}

func (e *Engine) problem(format string, args ...any) {
	e.problems = append(e.problems, fmt.Sprintf(format, args...))
}

func (e *Engine) run(req *agentpb.StepRequest) *agentpb.StepResponse {
	for _, key := range req.GetRelease() {
		if !e.named[key] {
			e.problem("release of sequence %d, which was never sent", key)
		}
		delete(e.cache, key)
	}
	resp := &agentpb.StepResponse{Epoch: e.epoch, Step: uint64(e.steps)}
	used := make([]int, e.Ranks)
	prompts, decodes := 0, 0
	for _, p := range req.GetPieces() {
		if !e.accept(p, used) {
			resp.Results = append(resp.Results, &agentpb.PieceResult{Sequence: p.GetSequence()})
			continue
		}
		if p.GetStart() > 0 && len(p.GetTokens()) == 1 {
			decodes++
		} else {
			prompts++
		}
		resp.Results = append(resp.Results, e.result(p))
	}
	if prompts > 0 && decodes > 0 {
		e.mixed++
	}
	e.widest = max(e.widest, len(req.GetPieces()))
	e.checkCapacity(used)
	return resp
}

// accept appends a piece to the cache if it is consistent with it.
func (e *Engine) accept(p *agentpb.Piece, used []int) bool {
	key, rank := p.GetSequence(), p.GetAttentionRank()
	c := e.cache[key]
	switch {
	case int(rank) >= e.Ranks:
		e.problem("sequence %d is on rank %d of %d", key, rank, e.Ranks)
		return false
	case len(p.GetTokens()) == 0:
		e.problem("a piece of sequence %d has no tokens", key)
		return false
	case c == nil && e.seen[key]:
		e.problem("sequence %d goes on after its KV was released or lost", key)
		return false
	case c == nil:
		c = &cached{rank: rank}
		e.cache[key], e.seen[key] = c, true
	}
	if c.rank != rank {
		e.problem("sequence %d moved from rank %d to %d", key, c.rank, rank)
	}
	if int(p.GetStart()) != len(c.tokens) {
		e.problem("sequence %d starts at %d with %d tokens cached", key, p.GetStart(), len(c.tokens))
	}
	c.tokens = append(c.tokens, p.GetTokens()...)
	if len(c.tokens) > e.Context {
		e.problem("sequence %d has %d tokens in a context of %d", key, len(c.tokens), e.Context)
	}
	used[rank] += len(p.GetTokens())
	return true
}

func (e *Engine) result(p *agentpb.Piece) *agentpb.PieceResult {
	r := &agentpb.PieceResult{Sequence: p.GetSequence()}
	if p.GetLogits() == agentpb.LogitsMode_LOGITS_NONE {
		return r
	}
	history := e.cache[p.GetSequence()].tokens
	r.Token = e.model()(history, p.GetSampling(), e.Vocabulary)
	r.Logprob = -float32(len(history)) / 64
	for i := range p.GetSampling().GetTopLogprobs() {
		r.Top = append(r.Top, &agentpb.TokenLogprob{Token: (r.Token + int32(i)) % int32(e.Vocabulary), Logprob: r.Logprob - float32(i)})
	}
	return r
}

func (e *Engine) checkCapacity(used []int) {
	blocks := make([]int, e.Ranks)
	for _, c := range e.cache {
		blocks[c.rank] += (len(c.tokens) + e.BlockTokens - 1) / e.BlockTokens
	}
	for rank := range used {
		if used[rank] > e.StepTokens {
			e.problem("rank %d got %d tokens in a step of at most %d", rank, used[rank], e.StepTokens)
		}
		if blocks[rank] > e.KVBlocks {
			e.problem("rank %d holds %d KV blocks of %d", rank, blocks[rank], e.KVBlocks)
		}
	}
}

// Sampling is how a model is told to sample.
type Sampling = agentpb.Sampling

// Scripted is a model that says ids over and over after a prompt of promptLen
// tokens.
func Scripted(promptLen int, ids []int32) NextToken {
	return func(history []int32, _ *Sampling, _ int) int32 { return ids[(len(history)-promptLen)%len(ids)] }
}

// StepRequest is what OnStep sees.
type StepRequest = agentpb.StepRequest
