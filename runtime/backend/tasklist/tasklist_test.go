// SPDX-License-Identifier: Apache-2.0

package tasklist_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"flag"
	"math"
	"math/rand/v2"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/findep/findep-operator/runtime/backend"
	"github.com/findep/findep-operator/runtime/backend/recorder"
	"github.com/findep/findep-operator/runtime/backend/tasklist"
	"github.com/findep/findep-operator/runtime/schedule"
)

var update = flag.Bool("update", false, "write the golden file anew")

// golden has every operation once, with a different number in every field.
func golden(t testing.TB) []byte {
	t.Helper()
	var e tasklist.Encoder
	e.Reset(1, 5)
	f := func(rows, cols int) backend.Matrix {
		return floats(rows+2, cols+3).RowRange(1, rows+1).ColRange(2, cols+2)
	}
	n := func(rows int) backend.Matrix { return ints(rows, 1) }
	e.Begin(tasklist.Dense, 0, 0, 0, nil)
	_ = e.Embed(f(2, 3), f(4, 3), n(2))
	_ = e.RMSNorm(f(2, 3), f(2, 3), f(1, 3), 0.5)
	_ = e.MatMul(f(2, 4), f(2, 3), f(4, 3), true)
	_ = e.HeadMatMul(f(2, 6), f(2, 6), f(9, 3), backend.HeadMatMulArgs{Heads: 11, In: 12, Out: 13, XStride: 14, OutStride: 15, WStride: 16, Transposed: true})
	_ = e.Rope(f(2, 6), n(2), f(5, 4), backend.RopeArgs{Heads: 21, HeadStride: 22, Offset: 23, Dim: 24, Interleaved: true})
	_ = e.ScatterRows(f(5, 3), f(2, 3), n(2))
	_ = e.GatherRows(f(2, 3), f(5, 3), n(2))
	e.Begin(tasklist.Kind(schedule.Attention), 1, 2, 0, []int{0})
	_ = e.Attention(f(2, 4), f(2, 4), f(6, 4), f(6, 4), backend.AttentionArgs{Heads: 31, KVHeads: 32, KeyDim: 33, ValueDim: 34, BlockSize: 35, Scale: 0.25, QueryStart: n(3), ContextLength: n(2), BlockTable: ints(2, 7)})
	_ = e.Router(f(2, 2), n(2), f(2, 8), backend.Matrix{}, backend.RouterArgs{Experts: 41, TopK: 42, Groups: 43, TopKGroups: 44, Scoring: backend.Sigmoid, GroupTop2: true, Normalize: true, Scale: 2.5})
	_ = e.Dispatch(backend.DispatchArgs{Experts: n(2), Weights: f(2, 1), ExpertStart: n(3), RowStart: n(3), RowToken: n(2), PairStart: n(3), PairExpert: n(2), PairWeight: f(2, 1)})
	_ = e.GroupExperts(backend.GroupExpertsArgs{Rows: 51, Experts: 52, PairStart: n(3), PairExpert: n(2), PairWeight: f(2, 1), GroupStart: n(3), GroupRow: n(2), GroupWeight: f(2, 1)})
	_ = e.ExpertMLP(f(2, 3), f(2, 3), backend.ExpertMLPArgs{Experts: 61, Hidden: 62, GateUp: f(8, 3), Down: f(6, 2), GroupStart: n(3), GroupRow: n(2), GroupWeight: f(2, 1), Workspace: f(2, 9)})
	e.Begin(tasklist.Kind(schedule.A2E), 1, 2, 0, []int{1})
	_ = e.Pack(tasklist.PackArgs{X: f(2, 3), RowStart: n(3), RowToken: n(2), PairStart: n(3), PairExpert: n(2), PairWeight: f(2, 1), Rows: f(4, 3), Headers: ints(2, 16), Pairs: ints(2, 9), Index: n(4), Capacity: 71, PairCapacity: 72, Ranks: 73, Place: tasklist.Place{Layer: 74, MicroBatch: 75, Segment: 76}})
	_ = e.Send(tasklist.A2E, []tasklist.Part{{Peer: 3, Data: ints(1, 16)}, {Peer: 4, Data: f(0, 3)}, {Peer: 4, Data: floats(2, 3)}})
	e.Begin(tasklist.Kind(schedule.E2A), 1, 2, 0, []int{1, 2})
	_ = e.Unpack(tasklist.UnpackArgs{Headers: ints(2, 16), Pairs: n(9), First: n(3), PairStart: n(3), PairExpert: n(2), PairWeight: f(2, 1), Status: n(1), Ranks: 81, TopK: 82, Place: tasklist.Place{Layer: 83, MicroBatch: 84, Segment: 85}})
	_ = e.Receive(tasklist.E2A, []tasklist.Part{{Peer: 0, Data: floats(1, 3)}})
	e.Begin(tasklist.Head, 1, 2, 0, []int{3})
	_ = e.CombineRows(f(5, 3), f(2, 3), n(2))
	_ = e.SwiGLU(f(2, 3), f(2, 6))
	_ = e.Add(f(2, 3), f(2, 3), f(2, 3))
	list, _, err := e.Finish(tasklist.Identity{Plan: 0x1122334455667788, Bucket: 99, Capture: true})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// The golden file is read by the C++ tests as well, which know every number.
func TestGoldenBytes(t *testing.T) {
	const path = "testdata/golden.bin"
	got := golden(t)
	if *update {
		if err := os.WriteFile(path, got, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Fatalf("the encoding changed: raise the version on both sides, then write the file with -update\n%s", cmp.Diff(want, got))
	}
	list, err := tasklist.Decode(want)
	if err != nil {
		t.Fatal(err)
	}
	if list.Rank != 1 || list.World != 5 || list.Plan != 0x1122334455667788 || list.Bucket != 99 || !list.Capture || len(list.Tasks) != 5 {
		t.Errorf("decoded %+v", list)
	}
	channel, parts, ok := list.Tasks[2].Ops[1].Group()
	if !ok || channel != tasklist.A2E || len(parts) != 2 || parts[0].Peer != 3 || parts[0].Bytes != 64 || parts[1].Peer != 4 || parts[1].Bytes != 24 {
		t.Errorf("group %v %+v", channel, parts)
	}
}

// Both sides agree on which lists are well-formed, whatever happens to them.
func TestBothSidesRefuseTheSameLists(t *testing.T) {
	p := startRecorder(t)
	refused := 0
	for seed := range 20000 {
		r := rand.New(rand.NewPCG(4, uint64(seed)))
		list := damage(r, golden(t))
		_, err := tasklist.Decode(list)
		_, native := p.Record(list)
		var refusal *recorder.Refused
		if native != nil && !errors.As(native, &refusal) {
			t.Fatalf("seed %d: %v", seed, native)
		}
		if (err == nil) != (native == nil) {
			t.Fatalf("seed %d: Go says %v, C++ says %v", seed, err, native)
		}
		if err != nil {
			refused++
		}
	}
	if refused < 5000 || refused > 19000 {
		t.Errorf("%d of 20000 lists were refused", refused)
	}
}

// damage changes a few bytes, fields or the length.
func damage(r *rand.Rand, list []byte) []byte {
	le := binary.LittleEndian
	interesting := []uint64{0, 1, 2, 7, 255, 1 << 16, 1<<30 - 1, 1<<30 + 1, math.MaxUint32, 1 << 40, math.MaxInt64, math.MaxUint64}
	for range 1 + r.IntN(3) {
		at := r.IntN(len(list) - 8)
		switch r.IntN(5) {
		case 0:
			list[at] ^= 1 << r.IntN(8)
		case 1:
			le.PutUint32(list[at/4*4:], uint32(interesting[r.IntN(len(interesting))]))
		case 2:
			le.PutUint64(list[at/8*8:], interesting[r.IntN(len(interesting))])
		case 3:
			list[at] += byte(1 + r.IntN(3))
		default:
			if r.IntN(8) == 0 {
				list = list[:at]
				if len(list) >= 16 {
					le.PutUint64(list[8:], uint64(len(list)))
				}
				return list
			}
			list[at] -= byte(1 + r.IntN(3))
		}
	}
	return list
}

func FuzzDecode(f *testing.F) {
	list := golden(f)
	f.Add(list)
	f.Add(list[:64])
	for seed := range uint64(20) {
		f.Add(damage(rand.New(rand.NewPCG(5, seed)), golden(f)))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		list, err := tasklist.Decode(b)
		if err != nil {
			return
		}
		for i, task := range list.Tasks {
			for _, d := range task.Deps {
				if d >= i {
					t.Fatalf("task %d depends on %d", i, d)
				}
			}
		}
	})
}

func TestEncoderRefusesWhatAListCannotHold(t *testing.T) {
	outside := floats(2, 3)
	outside.Rows = 4
	spread := floats(4, 4)
	spread.Cols = 2
	for name, write := range map[string]func(e *tasklist.Encoder){
		"copy in":         func(e *tasklist.Encoder) { _ = e.CopyIn(nil, 0, nil) },
		"copy out":        func(e *tasklist.Encoder) { _ = e.CopyOut(nil, nil, 0) },
		"wait":            func(e *tasklist.Encoder) { _ = e.Wait(nil) },
		"record":          func(e *tasklist.Encoder) { _ = e.Record(nil) },
		"matrix outside":  func(e *tasklist.Encoder) { _ = e.Add(outside, outside, outside) },
		"spread rows":     func(e *tasklist.Encoder) { _ = e.Send(tasklist.A2E, []tasklist.Part{{Peer: 1, Data: spread}}) },
		"no task":         func(e *tasklist.Encoder) { e.Reset(0, 2); _ = e.Add(floats(1, 1), floats(1, 1), floats(1, 1)) },
		"rank outside":    func(e *tasklist.Encoder) { e.Reset(2, 2) },
		"world too large": func(e *tasklist.Encoder) { e.Reset(0, tasklist.MaxWorld+1) },
	} {
		var e tasklist.Encoder
		e.Reset(0, 2)
		e.Begin(tasklist.Dense, 0, 0, 0, nil)
		write(&e)
		if _, _, err := e.Finish(tasklist.Identity{}); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
