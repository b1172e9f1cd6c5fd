// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
)

// Boundaries are where the causal chunks of a sample end, the last one left
// out: increasing permilles of its tokens, so that one plan cuts samples of
// any length. Empty means equal chunks. It is text ("450,750") rather than a
// slice because plans are compared and used as map keys; in JSON it is a list
// of integers.
type Boundaries string

// wholePermille is the end of a sample.
const wholePermille = 1000

// NewBoundaries packs increasing permilles between 1 and 999.
func NewBoundaries(permille []int) (Boundaries, error) {
	var text strings.Builder
	last := 0
	for i, b := range permille {
		if b <= last || b >= wholePermille {
			return "", fmt.Errorf("plan: chunkBoundaries[%d] is %d; boundaries must increase and lie between 1 and %d", i, b, wholePermille-1)
		}
		if i > 0 {
			text.WriteByte(',')
		}
		text.WriteString(strconv.Itoa(b))
		last = b
	}
	return Boundaries(text.String()), nil
}

// Permille unpacks the boundaries; nil if there are none. The error names the
// entry that NewBoundaries would not have written.
func (b Boundaries) Permille() ([]int, error) {
	if b == "" {
		return nil, nil
	}
	if len(b) > 4*MaxChunks {
		return nil, fmt.Errorf("plan: chunkBoundaries has %d bytes; at most %d boundaries are possible", len(b), MaxChunks-1)
	}
	fields := strings.Split(string(b), ",")
	list := make([]int, len(fields))
	for i, f := range fields {
		n, err := strconv.Atoi(f)
		if err != nil || strconv.Itoa(n) != f {
			return nil, fmt.Errorf("plan: chunkBoundaries[%d] is %q; need an integer", i, f)
		}
		list[i] = n
	}
	if _, err := NewBoundaries(list); err != nil {
		return nil, err
	}
	return list, nil
}

// MarshalJSON writes a list of integers.
func (b Boundaries) MarshalJSON() ([]byte, error) {
	list, err := b.Permille()
	if err != nil {
		return nil, err
	}
	if list == nil {
		return []byte("[]"), nil
	}
	return json.Marshal(list)
}

// UnmarshalJSON reads a list of integers.
func (b *Boundaries) UnmarshalJSON(data []byte) error {
	var list []int
	if err := json.Unmarshal(data, &list); err != nil {
		return fmt.Errorf("plan: chunkBoundaries: %w", err)
	}
	packed, err := NewBoundaries(list)
	if err != nil {
		return err
	}
	*b = packed
	return nil
}

// validateBoundaries checks the boundaries against the number of chunks.
func (p Plan) validateBoundaries() error {
	if p.ChunkBoundaries == "" {
		return nil
	}
	list, err := p.ChunkBoundaries.Permille()
	if err != nil {
		return err
	}
	if len(list) != p.Chunks-1 {
		return fmt.Errorf("plan: chunkBoundaries has %d entries; %d chunks have %d inner boundaries", len(list), p.Chunks, p.Chunks-1)
	}
	return nil
}

// ChunkRange returns the tokens [from, to) of one chunk of a sample of n
// tokens. Everyone who cuts samples uses this function, so that all ranks cut
// alike. It expects a valid plan and 0 <= chunk < Chunks; a short sample has
// empty chunks.
func (p Plan) ChunkRange(n, chunk int) (from, to int) {
	list, err := p.ChunkBoundaries.Permille()
	if err != nil || len(list) == 0 {
		q := int64(max(p.Chunks, 1))
		return int(int64(chunk) * int64(n) / q), int(int64(chunk+1) * int64(n) / q)
	}
	end := func(i int) int {
		switch {
		case i < 0:
			return 0
		case i < len(list):
			return int(int64(list[i]) * int64(n) / wholePermille)
		default:
			return n
		}
	}
	return end(chunk - 1), end(chunk)
}
