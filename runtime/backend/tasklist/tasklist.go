// SPDX-License-Identifier: Apache-2.0

// Package tasklist writes and reads task lists: what one rank does in one step,
// as bytes that cross the C ABI in a single call. The other side is
// kernels/common/tasklist.h, which documents the layout; a golden file holds
// the two together.
//
// An Encoder is a backend.Stream that writes operations down instead of running
// them, so the code that issues kernels one by one is the code that makes lists.
// Local says which tasks of a schedule a rank has, and which of them wait for
// which.
package tasklist

import "github.com/findep/findep-operator/runtime/schedule"

// Version of the layout; the other side refuses any other.
const Version = 1

const magic = 0x4C544446 // "FDTL"

// Limits of a list, those of tasklist.h.
const (
	MaxBuffers = 1 << 16
	MaxTasks   = 1 << 20
	MaxDeps    = 1 << 22
	MaxOps     = 1 << 22
	MaxParts   = 1 << 14
	MaxWorld   = 1 << 12
	maxSize    = 1 << 30
)

// Kind is what a task does: a schedule.Kind or one of the two outside the
// pipeline.
type Kind uint8

// The kinds beyond the schedule's, both on the compute stream of attention
// ranks.
const (
	// Dense is the embedding and the dense layers before the pipeline.
	Dense = Kind(schedule.NumKinds) + iota
	// Head is what follows the pipeline.
	Head
	// NumKinds is the number of kinds.
	NumKinds
)

// Streams of a rank. A task's kind gives its stream.
const (
	StreamCompute = iota
	StreamA2E
	StreamE2A
	// NumStreams is the number of streams.
	NumStreams
)

// Stream is where tasks of the kind run.
func (k Kind) Stream() uint8 {
	switch schedule.Kind(k) {
	case schedule.A2E:
		return StreamA2E
	case schedule.E2A:
		return StreamE2A
	default:
		return StreamCompute
	}
}

// Channel is one of the two directions, each with a communicator of its own.
type Channel uint32

// The channels.
const (
	A2E Channel = iota
	E2A
	numChannels
)

// Codes of operations that are not backend.Op.
const (
	codePack    = 128
	codeUnpack  = 129
	codeSend    = 130
	codeReceive = 131
)

// layout says how an operation's arguments lie: matrices, then tail bytes.
type layout struct{ matrices, tail int }

// layouts are those of op_layout_of, indexed by code; tails are the part of the
// C structures behind the matrices.
var layouts = map[uint16]layout{
	0: {3, 0}, 1: {3, 8}, 2: {3, 8}, 3: {3, 56}, 4: {3, 40}, 5: {3, 0}, 6: {3, 0}, 7: {7, 48},
	8: {4, 48}, 9: {8, 0}, 10: {6, 16}, 11: {8, 16}, 12: {3, 0}, 13: {2, 0}, 14: {3, 0},
	codePack: {10, 40}, codeUnpack: {7, 32},
}

// Sizes of the fixed parts.
const (
	headerBytes = 64
	taskBytes   = 32
	matrixBytes = 40
	partBytes   = 24
	recordBytes = 8
)

// Flags of a list: a graph of it is kept and replayed, the times of its tasks are
// noted.
const (
	flagCapture = 1
	flagTimed   = 2
)
