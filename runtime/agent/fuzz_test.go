// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/findep/findep-operator/runtime/agent/agentpb"
)

// FuzzStepRequests: whatever two requests the socket carries, what the ledger
// accepts fits the ranks, is booked exactly, and gets a valid plan.
func FuzzStepRequests(f *testing.F) {
	add := func(pieces ...*agentpb.Piece) {
		b, err := proto.Marshal(&agentpb.StepRequest{Epoch: 1, Pieces: pieces, Release: []uint64{1}})
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b, b)
	}
	add()
	add(piece(1, 0, 0, 16), piece(2, 1, 0, 3))
	add(piece(1, 1, 4, 1))
	add(piece(3, 7, 1<<30, 0))
	f.Fuzz(func(t *testing.T, first, second []byte) {
		p, in := testPlanner(t)
		l := newLedger(testLimits())
		for _, b := range [][]byte{first, second} {
			req := &agentpb.StepRequest{}
			if proto.Unmarshal(b, req) != nil || l.apply(req) != nil {
				continue
			}
			used := make([]int, l.limits.attentionRanks)
			for id, s := range l.sequences {
				if s.length < 1 || s.length > l.limits.maxContext {
					t.Fatalf("sequence %d has %d tokens", id, s.length)
				}
				used[s.rank] += l.blocks(s.length)
			}
			for rank, n := range used {
				if n != l.used[rank] || n > l.limits.blocksPerRank {
					t.Fatalf("rank %d holds %d blocks, %d are booked, it has %d", rank, n, l.used[rank], l.limits.blocksPerRank)
				}
			}
			if c := p.choose(shapeOf(req.Pieces, l.limits.attentionRanks), in); c.plan.Validate() != nil {
				t.Fatalf("plan %+v: %v", c.plan, c.plan.Validate())
			}
		}
	})
}

// FuzzStepCommand: what a leader sends is turned into a step whose pieces all
// belong to a rank that exists.
func FuzzStepCommand(f *testing.F) {
	b, err := proto.Marshal(&agentpb.StepCommand{Number: 3, Plan: &agentpb.PlanInUse{Policy: "FinDEP", R1: 1 << 31},
		Pieces: []*agentpb.Piece{piece(1, 0, 0, 2), piece(2, 9, 0, 2)}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		command := &agentpb.StepCommand{}
		if proto.Unmarshal(b, command) != nil {
			return
		}
		const ranks = 2
		step := stepFromProto(1, command, ranks)
		if len(step.Pieces) != ranks {
			t.Fatalf("pieces of %d ranks", len(step.Pieces))
		}
		total := 0
		for _, pieces := range step.Pieces {
			total += len(pieces)
		}
		if total > len(command.Pieces) {
			t.Fatalf("%d pieces of %d", total, len(command.Pieces))
		}
	})
}
