// SPDX-License-Identifier: Apache-2.0

// Package serving batches requests and drives the instance's steps.
//
// Scheduler is a pure state machine: it holds the queue and the running
// sequences, accounts for KV blocks on each attention rank, builds the next
// step and takes in its results. Loop is the thin shell around it that calls
// an Engine and recovers from its failures. What a token means as text is the
// business of the Sink that each request brings; package openai has the HTTP
// API.
//
// Continuous batching: every step takes one token of each sequence that is
// generating and fills what is left of each attention rank's token budget with
// chunks of prompts, oldest request first. Mixing both in one step, rather
// than alternating, keeps a long prompt from stalling the sequences that
// generate (no token waits longer than one step, whose size the budget
// bounds), and reads the expert weights once for both.
//
// Order: requests are admitted strictly first come, first served, each to the
// attention rank with the most free KV blocks. A head of the queue that does
// not fit waits for room and nothing overtakes it. When generation outgrows a
// rank, the youngest sequence there gives its blocks back and is computed
// again later from its tokens; the oldest never yields, so every accepted
// request finishes.
//
// Recovery: all KV may vanish (a rank died, the epoch changed). The sequences
// then go back to the queue in their order of arrival with the tokens they
// have, and are computed again from position 0. Sampling depends on (seed,
// position) alone and the seed is fixed when a request is accepted, so what
// the client sees is the same as without the fault: no token is repeated and
// none is lost.
package serving
