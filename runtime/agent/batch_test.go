// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/findep/findep-operator/runtime/agent/agentpb"
)

func testLimits() limits {
	return limits{attentionRanks: 2, vocabulary: 100, maxContext: 64, maxStepTokens: 40, blocksPerRank: 5, blockTokens: 16, maxPiecesPerStep: 8}
}

func piece(sequence uint64, rank, start, n int) *agentpb.Piece {
	return &agentpb.Piece{Sequence: sequence, AttentionRank: uint32(rank), Start: uint32(start), Tokens: make([]int32, n)}
}

func TestLedgerRefusesWhatRanksCouldNotHold(t *testing.T) {
	for name, tc := range map[string]struct {
		pieces []*agentpb.Piece
		want   string
	}{
		"fits":                    {[]*agentpb.Piece{piece(2, 0, 0, 16)}, ""},
		"goes on":                 {[]*agentpb.Piece{piece(1, 1, 20, 1)}, ""},
		"rank out of range":       {[]*agentpb.Piece{piece(2, 2, 0, 1)}, "attention rank 2; there are 2"},
		"no tokens":               {[]*agentpb.Piece{piece(2, 0, 0, 0)}, "without tokens"},
		"starts in the middle":    {[]*agentpb.Piece{piece(2, 0, 3, 1)}, "holds 0 tokens"},
		"starts again":            {[]*agentpb.Piece{piece(1, 1, 0, 1)}, "holds 20 tokens"},
		"moves to another rank":   {[]*agentpb.Piece{piece(1, 0, 20, 1)}, "lives on attention rank 1"},
		"twice in one step":       {[]*agentpb.Piece{piece(2, 0, 0, 1), piece(2, 0, 1, 1)}, "two pieces"},
		"beyond the context":      {[]*agentpb.Piece{piece(2, 0, 0, 65)}, "context is 64"},
		"too many tokens":         {[]*agentpb.Piece{piece(2, 0, 0, 40), piece(3, 0, 0, 1)}, "gets 41 tokens"},
		"too many blocks":         {[]*agentpb.Piece{piece(2, 1, 0, 17), piece(3, 1, 0, 17)}, "6 KV blocks"},
		"unknown token":           {[]*agentpb.Piece{{Sequence: 2, Tokens: []int32{100}}}, "token 100"},
		"negative token":          {[]*agentpb.Piece{{Sequence: 2, Tokens: []int32{-1}}}, "token -1"},
		"more pieces than a step": {make([]*agentpb.Piece, 9), "9 pieces"},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLedger(testLimits())
			if err := l.apply(&agentpb.StepRequest{Pieces: []*agentpb.Piece{piece(1, 1, 0, 20)}}); err != nil {
				t.Fatal(err)
			}
			err := l.apply(&agentpb.StepRequest{Pieces: tc.pieces})
			if (err == nil) != (tc.want == "") || (err != nil && !strings.Contains(err.Error(), tc.want)) {
				t.Fatalf("got %v, want %q", err, tc.want)
			}
			if err != nil && (len(l.sequences) != 1 || l.used[1] != 2 || l.used[0] != 0) {
				t.Errorf("a refused step was booked: %+v", l)
			}
		})
	}
}

func TestLedgerGivesReleasedBlocksBack(t *testing.T) {
	l := newLedger(testLimits())
	full := &agentpb.StepRequest{Pieces: []*agentpb.Piece{piece(1, 0, 0, 40)}}
	if err := l.apply(full); err != nil {
		t.Fatal(err)
	}
	next := &agentpb.StepRequest{Pieces: []*agentpb.Piece{piece(2, 0, 0, 40)}}
	if err := l.apply(next); err == nil {
		t.Fatal("three and three blocks fitted into five")
	}
	next.Release = []uint64{1, 77}
	if err := l.apply(next); err != nil {
		t.Fatal(err)
	}
}

// TestLedgerNeverDrifts: after any accepted steps the blocks in use are those
// of the sequences alive.
func TestLedgerNeverDrifts(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	l := newLedger(testLimits())
	for range 5000 {
		req := &agentpb.StepRequest{}
		for range random.IntN(4) {
			id := uint64(random.IntN(6))
			start := random.IntN(30)
			rank := random.IntN(2)
			if s, ok := l.sequences[id]; ok && random.IntN(8) > 0 {
				start, rank = s.length, int(s.rank)
			} else if random.IntN(4) > 0 {
				start = 0
			}
			req.Pieces = append(req.Pieces, piece(id, rank, start, random.IntN(20)))
		}
		if random.IntN(3) == 0 {
			req.Release = []uint64{uint64(random.IntN(6))}
		}
		_ = l.apply(req)
		used := make([]int, 2)
		for _, s := range l.sequences {
			used[s.rank] += l.blocks(s.length)
		}
		if used[0] != l.used[0] || used[1] != l.used[1] || max(used[0], used[1]) > l.limits.blocksPerRank {
			t.Fatalf("booked %v blocks, sequences hold %v", l.used, used)
		}
	}
}
