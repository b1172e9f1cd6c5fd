// SPDX-License-Identifier: Apache-2.0

package serving

import (
	"fmt"

	"github.com/findep/findep-operator/runtime/agent/agentpb"
)

// Limits is what the engine of one epoch holds.
type Limits struct {
	// Epoch is the membership epoch that steps must carry.
	Epoch uint64
	// AttentionRanks is the number of independent KV caches.
	AttentionRanks int
	// KVBlocks is the capacity of one attention rank in blocks of BlockTokens
	// tokens.
	KVBlocks    int
	BlockTokens int
	// StepTokens is the most new tokens that one attention rank takes in a
	// step.
	StepTokens int
	// ContextTokens bounds prompt plus completion of one sequence.
	ContextTokens int
	// Vocabulary is the number of token ids.
	Vocabulary int
}

// LimitsOf reads the engine's description and refuses one with which nothing
// could ever be served.
func LimitsOf(d *agentpb.DescribeResponse) (Limits, error) {
	l := Limits{
		Epoch:          d.GetEpoch(),
		AttentionRanks: int(d.GetAttentionRanks()),
		KVBlocks:       int(d.GetKvBlocksPerRank()),
		BlockTokens:    int(d.GetKvBlockTokens()),
		StepTokens:     int(d.GetMaxStepTokensPerRank()),
		ContextTokens:  int(d.GetMaxContextTokens()),
		Vocabulary:     int(d.GetVocabularySize()),
	}
	if l.AttentionRanks < 1 || l.KVBlocks < 1 || l.BlockTokens < 1 || l.StepTokens < 1 || l.ContextTokens < 2 || l.Vocabulary < 1 {
		return Limits{}, fmt.Errorf("the engine describes %d attention ranks, %d KV blocks of %d tokens, %d tokens per step, a context of %d and a vocabulary of %d; all must be positive",
			l.AttentionRanks, l.KVBlocks, l.BlockTokens, l.StepTokens, l.ContextTokens, l.Vocabulary)
	}
	return l, nil
}

// blocks is the number of KV blocks that hold n tokens.
func (l Limits) blocks(n int) int { return (n + l.BlockTokens - 1) / l.BlockTokens }

// Room is the most tokens that a prompt of n tokens can be continued with; at
// least 1, so that Check says what is wrong with a prompt that leaves none.
func (l Limits) Room(n int) int {
	return max(min(l.ContextTokens, l.KVBlocks*l.BlockTokens+1)-n, 1)
}

// Check says why a sequence of prompt tokens and up to maxTokens generated
// ones can never be served; nil if it can. The last generated token is never
// fed back, so it needs no KV.
func (l Limits) Check(prompt, maxTokens int) error {
	switch {
	case prompt < 1:
		return &Refusal{Kind: Invalid, Param: "prompt", Message: "the prompt has no tokens; send at least one"}
	case maxTokens < 1:
		return &Refusal{Kind: Invalid, Param: "max_tokens", Message: fmt.Sprintf("max_tokens is %d; it must be at least 1", maxTokens)}
	case prompt+maxTokens > l.ContextTokens:
		return &Refusal{Kind: Invalid, Param: "prompt", Code: "context_length_exceeded", Message: fmt.Sprintf(
			"this model's maximum context length is %d tokens, but %d were requested (%d in the prompt, %d in max_tokens); shorten the prompt or lower max_tokens",
			l.ContextTokens, prompt+maxTokens, prompt, maxTokens)}
	case l.blocks(prompt+maxTokens-1) > l.KVBlocks:
		return &Refusal{Kind: Invalid, Param: "prompt", Code: "context_length_exceeded", Message: fmt.Sprintf(
			"%d tokens (%d in the prompt, %d in max_tokens) need more KV cache than an attention rank has, which holds %d tokens; shorten the prompt or lower max_tokens",
			prompt+maxTokens, prompt, maxTokens, l.KVBlocks*l.BlockTokens)}
	}
	return nil
}
