// SPDX-License-Identifier: Apache-2.0

// Package kvcache keeps the keys and values of an attention rank's sequences in
// pages of equal size, as PagedAttention does (arXiv 2309.06180): a sequence's
// tokens lie in the blocks of its block table, in order, so memory is wasted
// only in each last block.
//
// Allocator is the bookkeeping, Cache the device memory. Neither is safe for
// concurrent use: one rank runs one step at a time.
package kvcache

import (
	"errors"
	"fmt"
)

// BlockTokens is the number of tokens per block that ranks use.
const BlockTokens = 16

// ErrFull is returned, wrapped with the numbers, when free blocks do not
// suffice. Nothing was allocated then.
var ErrFull = errors.New("KV cache is full")

// ErrUnknown is returned for a sequence that has no tokens in the cache.
var ErrUnknown = errors.New("sequence is not in the KV cache")

// Allocator assigns blocks to sequences. A block belongs to at most one
// sequence, and a sequence of n tokens has exactly ceil(n/BlockSize) blocks.
type Allocator struct {
	blockSize int
	blocks    int
	free      []int32
	sequences map[uint64]*sequence
	tokens    int
}

type sequence struct {
	blocks []int32
	tokens int
}

// NewAllocator manages the given number of blocks.
func NewAllocator(blocks, blockSize int) (*Allocator, error) {
	if blocks < 1 || blockSize < 1 || blocks > (1<<31-1)/blockSize {
		return nil, fmt.Errorf("KV cache of %d blocks of %d tokens: both must be positive and their product below 2^31", blocks, blockSize)
	}
	a := &Allocator{blockSize: blockSize, blocks: blocks}
	a.Reset()
	return a, nil
}

// Reset forgets all sequences.
func (a *Allocator) Reset() {
	a.sequences = map[uint64]*sequence{}
	a.tokens = 0
	a.free = a.free[:0]
	// Blocks are taken from the end, so block 0 is the first to be used.
	for b := a.blocks - 1; b >= 0; b-- {
		a.free = append(a.free, int32(b))
	}
}

// BlockSize is the number of tokens per block.
func (a *Allocator) BlockSize() int { return a.blockSize }

// Capacity is the number of tokens that fit if all blocks fill up.
func (a *Allocator) Capacity() int { return a.blocks * a.blockSize }

// Used is the number of tokens in the cache.
func (a *Allocator) Used() int { return a.tokens }

// FreeBlocks is the number of blocks that belong to no sequence.
func (a *Allocator) FreeBlocks() int { return len(a.free) }

// Sequences is the number of sequences in the cache.
func (a *Allocator) Sequences() int { return len(a.sequences) }

// Tokens is the number of cached tokens of a sequence, 0 if it is unknown.
func (a *Allocator) Tokens(id uint64) int {
	if s := a.sequences[id]; s != nil {
		return s.tokens
	}
	return 0
}

// BlocksFor is the number of further blocks that n more tokens of a sequence
// need.
func (a *Allocator) BlocksFor(id uint64, n int) int {
	s := a.sequences[id]
	if s == nil {
		s = &sequence{}
	}
	return max(0, (s.tokens+n+a.blockSize-1)/a.blockSize-len(s.blocks))
}

// Append makes room for n more tokens of a sequence, which begins to exist
// with its first token.
func (a *Allocator) Append(id uint64, n int) error {
	if n < 0 || n > a.Capacity() {
		return fmt.Errorf("%w: %d tokens of sequence %d exceed the capacity of %d", ErrFull, n, id, a.Capacity())
	}
	if n == 0 {
		return nil
	}
	need := a.BlocksFor(id, n)
	if need > len(a.free) {
		return fmt.Errorf("%w: sequence %d needs %d more blocks of %d tokens for %d tokens, %d of %d are free",
			ErrFull, id, need, a.blockSize, n, len(a.free), a.blocks)
	}
	s := a.sequences[id]
	if s == nil {
		s = &sequence{}
		a.sequences[id] = s
	}
	rest := len(a.free) - need
	for i := len(a.free) - 1; i >= rest; i-- {
		s.blocks = append(s.blocks, a.free[i])
	}
	a.free = a.free[:rest]
	s.tokens += n
	a.tokens += n
	return nil
}

// Free gives the blocks of a sequence back; an unknown one is no error, because
// a release may be repeated after a failure.
func (a *Allocator) Free(id uint64) {
	s := a.sequences[id]
	if s == nil {
		return
	}
	for i := len(s.blocks) - 1; i >= 0; i-- {
		a.free = append(a.free, s.blocks[i])
	}
	a.tokens -= s.tokens
	delete(a.sequences, id)
}

// Blocks is the block table of a sequence, nil if it is unknown. The slice is
// valid until the next change.
func (a *Allocator) Blocks(id uint64) []int32 {
	if s := a.sequences[id]; s != nil {
		return s.blocks
	}
	return nil
}

// Slot is where token t of a sequence lies: block*BlockSize + offset.
func (a *Allocator) Slot(id uint64, t int) (int32, error) {
	s := a.sequences[id]
	if s == nil {
		return 0, fmt.Errorf("%w: sequence %d", ErrUnknown, id)
	}
	if t < 0 || t >= s.tokens {
		return 0, fmt.Errorf("token %d of sequence %d is not among its %d cached tokens", t, id, s.tokens)
	}
	return s.blocks[t/a.blockSize]*int32(a.blockSize) + int32(t%a.blockSize), nil
}
