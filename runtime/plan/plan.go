// SPDX-License-Identifier: Apache-2.0

// Package plan is the contract between the parts that decide and the parts
// that execute: Plan is what the solver chose and what every rank runs,
// Instance is what the operator tells the sidecars, Observation is what the
// leader tells back.
//
// Everything here is plain data with a canonical JSON encoding. Equal values
// encode to equal bytes, so Hash identifies a configuration.
package plan

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
)

// Policy names the way one layer is cut into tasks and put in order.
type Policy string

// The policies. PPPipe and Sequential are baselines that run on the same
// executor, so that a comparison measures the schedule and nothing else.
const (
	// FinDEP overlaps the shared expert with the transfer and cuts a
	// micro-batch into R2 segments (arXiv 2512.21487, figures 3c and 3d).
	FinDEP Policy = "FinDEP"
	// PPPipe is the ping-pong pipeline of MegaScale-Infer (arXiv 2504.02263):
	// R1 micro-batches, one segment, transfer after the shared expert.
	PPPipe Policy = "PPPipe"
	// Sequential runs one batch with no overlap at all (figure 3a).
	Sequential Policy = "Sequential"
)

// Order is the order of attention (A) and shared-expert (S) tasks on the
// attention group's compute stream within one layer.
type Order string

// The orders of the paper, and Auto, which lets the solver choose.
const (
	// ASAS alternates: A0 S0 A1 S1 ...
	ASAS Order = "ASAS"
	// AASS runs all attention first: A0 A1 ... S0 S1 ...
	AASS Order = "AASS"
	// OrderAuto is only valid in a request, never in a Plan.
	OrderAuto Order = "Auto"
)

// Limits on a plan that any rank accepts. They bound the memory a peer can
// make another peer reserve.
const (
	// MaxR1 bounds the micro-batches in flight per attention rank.
	MaxR1 = 1024
	// MaxR2 bounds the segments per micro-batch.
	MaxR2 = 256
	// MaxMicroBatch bounds the samples per micro-batch.
	MaxMicroBatch = 65536
	// MaxChunks bounds the causal chunks per sample.
	MaxChunks = 64
)

// Plan is one executable choice: how many samples form a micro-batch, how many
// micro-batches are in flight, how many segments each is cut into, and the
// order of the attention group's stream.
type Plan struct {
	Policy Policy `json:"policy"`
	// MicroBatchSize is m_a, samples per micro-batch per attention rank.
	MicroBatchSize int `json:"microBatchSize"`
	// R1 is the attention-side pipeline degree: micro-batches per rank.
	R1 int `json:"r1"`
	// R2 is the expert-side pipeline degree: segments per micro-batch.
	R2 int `json:"r2"`
	// Order is ASAS or AASS.
	Order Order `json:"order"`
	// Chunks is the number of causal chunks a prefill sample is cut into;
	// 1 means whole samples.
	Chunks int `json:"chunks"`
	// ChunkBoundaries says where chunks of unequal length end; empty means
	// that all have the same length.
	ChunkBoundaries Boundaries `json:"chunkBoundaries,omitempty"`
}

// Validate reports the first field that no rank could execute, naming the
// field, its value and the allowed range.
func (p Plan) Validate() error {
	switch p.Policy {
	case FinDEP, PPPipe, Sequential:
	default:
		return fmt.Errorf("plan: policy %q is unknown; use FinDEP, PPPipe or Sequential", p.Policy)
	}
	if p.Order != ASAS && p.Order != AASS {
		return fmt.Errorf("plan: order %q is unknown; use ASAS or AASS", p.Order)
	}
	for _, f := range []struct {
		name       string
		value, max int
	}{
		{"microBatchSize", p.MicroBatchSize, MaxMicroBatch},
		{"r1", p.R1, MaxR1},
		{"r2", p.R2, MaxR2},
		{"chunks", p.Chunks, MaxChunks},
	} {
		if f.value < 1 || f.value > f.max {
			return fmt.Errorf("plan: %s is %d; it must lie between 1 and %d", f.name, f.value, f.max)
		}
	}
	if p.Policy != FinDEP && p.R2 != 1 {
		return fmt.Errorf("plan: r2 is %d; policy %s has exactly one segment", p.R2, p.Policy)
	}
	if p.Policy == Sequential && p.R1 != 1 {
		return fmt.Errorf("plan: r1 is %d; policy Sequential has exactly one micro-batch", p.R1)
	}
	return p.validateBoundaries()
}

// String is the short form used in logs, events and printer columns.
func (p Plan) String() string {
	s := fmt.Sprintf("%s m_a=%d r1=%d r2=%d %s", p.Policy, p.MicroBatchSize, p.R1, p.R2, p.Order)
	if p.Chunks > 1 {
		s += fmt.Sprintf(" chunks=%d", p.Chunks)
	}
	if p.ChunkBoundaries != "" {
		s += fmt.Sprintf(" at %s permille", p.ChunkBoundaries)
	}
	return s
}

// Hash returns the first 16 hex digits of the SHA-256 of v's canonical JSON.
// It fails only for values JSON cannot express.
func Hash(v any) (string, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return "", fmt.Errorf("plan: hash: %w", err)
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:8]), nil
}
