// SPDX-License-Identifier: Apache-2.0

package tokenizer

import "container/heap"

// merge is what a pair of adjacent tokens becomes.
type merge struct {
	rank int32
	id   int32
}

type pair struct{ left, right int32 }

// bpe is byte-pair encoding: start from one token per byte and keep applying
// the merge of lowest rank, leftmost first, until none applies.
type bpe struct {
	byteID [256]int32
	merges map[pair]merge
	// whole, when set, holds the vocabulary by bytes: a piece that is an
	// entry is taken at once ("ignore_merges").
	whole map[string]int32
}

// shortPiece is the length in bytes up to which scanning every pair for each
// merge beats keeping a heap. Words are shorter, so the heap is for the rare
// long run whose quadratic cost would be a way to stall the server.
const shortPiece = 64

func (m *bpe) appendPiece(ids []int32, piece string) []int32 {
	if id, ok := m.whole[piece]; ok {
		return append(ids, id)
	}
	if len(piece) > shortPiece {
		return m.appendLong(ids, piece)
	}
	var storage [shortPiece]int32
	word := storage[:0]
	for i := range len(piece) {
		word = append(word, m.byteID[piece[i]])
	}
	for {
		best, at := merge{}, -1
		for i := range len(word) - 1 {
			if c, ok := m.merges[pair{word[i], word[i+1]}]; ok && (at < 0 || c.rank < best.rank) {
				best, at = c, i
			}
		}
		if at < 0 {
			return append(ids, word...)
		}
		word[at] = best.id
		word = append(word[:at+1], word[at+2:]...)
	}
}

// symbol is a node of the doubly linked list of tokens of a long piece; id is
// -1 once merged into its left neighbour.
type symbol struct {
	id         int32
	prev, next int
}

// candidate is a possible merge of the symbol at position at with its right
// neighbour. It is stale once either has changed, which shows by pair.
type candidate struct {
	merge
	at   int
	pair pair
}

type candidates []candidate

func (c candidates) Len() int      { return len(c) }
func (c candidates) Swap(i, j int) { c[i], c[j] = c[j], c[i] }
func (c candidates) Less(i, j int) bool {
	if c[i].rank != c[j].rank {
		return c[i].rank < c[j].rank
	}
	return c[i].at < c[j].at
}
func (c *candidates) Push(x any) { *c = append(*c, x.(candidate)) }
func (c *candidates) Pop() any {
	last := (*c)[len(*c)-1]
	*c = (*c)[:len(*c)-1]
	return last
}

// appendLong merges in O(n log n).
func (m *bpe) appendLong(ids []int32, piece string) []int32 {
	symbols := make([]symbol, len(piece))
	for i := range symbols {
		symbols[i] = symbol{id: m.byteID[piece[i]], prev: i - 1, next: i + 1}
	}
	queue := make(candidates, 0, len(piece))
	find := func(at int) (candidate, bool) {
		if at < 0 || symbols[at].next >= len(symbols) {
			return candidate{}, false
		}
		p := pair{symbols[at].id, symbols[symbols[at].next].id}
		found, ok := m.merges[p]
		return candidate{merge: found, at: at, pair: p}, ok
	}
	for i := range symbols {
		if c, ok := find(i); ok {
			queue = append(queue, c)
		}
	}
	heap.Init(&queue)
	for queue.Len() > 0 {
		c := heap.Pop(&queue).(candidate)
		if now, ok := find(c.at); !ok || symbols[c.at].id < 0 || now.pair != c.pair {
			continue
		}
		gone := symbols[c.at].next
		symbols[c.at].id = c.id
		symbols[c.at].next = symbols[gone].next
		symbols[gone].id = -1
		if after := symbols[gone].next; after < len(symbols) {
			symbols[after].prev = c.at
		}
		for _, at := range []int{symbols[c.at].prev, c.at} {
			if next, ok := find(at); ok {
				heap.Push(&queue, next)
			}
		}
	}
	for i := 0; i < len(symbols); i = symbols[i].next {
		ids = append(ids, symbols[i].id)
	}
	return ids
}
