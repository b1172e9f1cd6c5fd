// SPDX-License-Identifier: Apache-2.0

package tasklist

import (
	"encoding/binary"
	"fmt"

	"github.com/findep/findep-operator/runtime/backend"
)

// HeaderWords is the size of a message's header in 32-bit words: rows, pairs,
// layer, micro-batch, segment, and zeros up to 64 bytes.
const HeaderWords = 16

// PairWords is the number of 32-bit words that a message's pairs take: where
// each row's begin, their experts and their weights.
func PairWords(capacity, pairCapacity int) int { return capacity + 1 + 2*pairCapacity }

// Place is one segment of one layer.
type Place struct{ Layer, MicroBatch, Segment int }

// PackArgs describes the packing of one segment for all expert ranks, each with
// room for Capacity rows and PairCapacity pairs; see kernels/common/tasklist.h.
type PackArgs struct {
	// X is the tokens F32 [n, M]; the next five come from Dispatch.
	X, RowStart, RowToken, PairStart, PairExpert, PairWeight backend.Matrix
	// Rows F32 [ranks*Capacity, M], Headers I32 [ranks, HeaderWords], Pairs I32
	// [ranks, PairWords], Index I32 [ranks*Capacity, 1] with -1 where a place
	// has no token.
	Rows, Headers, Pairs, Index backend.Matrix
	Capacity, PairCapacity      int
	Ranks                       int
	Place
}

// Pack adds the packing of a segment.
func (e *Encoder) Pack(a PackArgs) error {
	r := e.begin("pack", codePack)
	r.matrix("X", a.X).matrix("RowStart", a.RowStart).matrix("RowToken", a.RowToken)
	r.matrix("PairStart", a.PairStart).matrix("PairExpert", a.PairExpert).matrix("PairWeight", a.PairWeight)
	r.matrix("Rows", a.Rows).matrix("Headers", a.Headers).matrix("Pairs", a.Pairs).matrix("Index", a.Index)
	return r.sizes(a.Capacity, a.PairCapacity, a.Ranks).place(a.Place).end()
}

// UnpackArgs describes how the pairs of all attention ranks come together.
type UnpackArgs struct {
	// Headers I32 [ranks, HeaderWords], Pairs I32 [words, 1] rank after rank,
	// First I32 [ranks+1, 1]: the first row of each rank.
	Headers, Pairs, First backend.Matrix
	// PairStart I32 [rows+1, 1], PairExpert I32 and PairWeight F32
	// [TopK*rows, 1], Status I32 [1, 1].
	PairStart, PairExpert, PairWeight, Status backend.Matrix
	Ranks, TopK                               int
	Place
}

// Unpack adds the unpacking of a segment.
func (e *Encoder) Unpack(a UnpackArgs) error {
	r := e.begin("unpack", codeUnpack)
	r.matrix("Headers", a.Headers).matrix("Pairs", a.Pairs).matrix("First", a.First)
	r.matrix("PairStart", a.PairStart).matrix("PairExpert", a.PairExpert).matrix("PairWeight", a.PairWeight).matrix("Status", a.Status)
	return r.sizes(a.Ranks, a.TopK).place(a.Place).end()
}

func (r record) place(p Place) record {
	return r.words(uint32(p.Layer), uint32(p.MicroBatch), uint32(p.Segment), 0)
}

// Part is what one group moves to or from one peer: whole rows of a matrix
// whose rows follow each other.
type Part struct {
	Peer int
	Data backend.Matrix
}

// Send adds a group of sends on the channel, parts in ascending order of the
// peer; those without rows are left out, as they are on the other side.
func (e *Encoder) Send(c Channel, parts []Part) error { return e.group("send", codeSend, c, parts) }

// Receive adds a group of receives.
func (e *Encoder) Receive(c Channel, parts []Part) error {
	return e.group("receive", codeReceive, c, parts)
}

func (e *Encoder) group(name string, code uint16, c Channel, parts []Part) error {
	r := e.begin(name, code)
	count := uint32(0)
	r.words(uint32(c), 0)
	le := binary.LittleEndian
	for _, p := range parts {
		m := p.Data
		if m.Rows == 0 {
			continue
		}
		if err := m.Check(name); err != nil {
			e.fail(err)
			continue
		}
		if m.Stride != m.Cols && m.Rows > 1 {
			e.fail(fmt.Errorf("%s: rows of %d elements with a stride of %d do not follow each other", name, m.Cols, m.Stride))
		}
		size := uint64(m.DType.Size())
		e.ops = le.AppendUint32(le.AppendUint32(e.ops, uint32(p.Peer)), e.number(m.Buffer))
		e.ops = le.AppendUint64(le.AppendUint64(e.ops, uint64(m.Offset)*size), uint64(m.Rows)*uint64(m.Cols)*size)
		count++
	}
	if count > MaxParts {
		e.fail(fmt.Errorf("%s: a group of %d parts; at most %d are possible", name, count, MaxParts))
	}
	le.PutUint32(e.ops[r.at+recordBytes+4:], count)
	return r.end()
}
