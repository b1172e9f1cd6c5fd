// SPDX-License-Identifier: Apache-2.0

package kvcache_test

import (
	"errors"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/findep/findep-operator/runtime/backend"
	_ "github.com/findep/findep-operator/runtime/backend/reference"
	"github.com/findep/findep-operator/runtime/kvcache"
	"github.com/findep/findep-operator/runtime/model"
)

func TestBlocksAreTakenAsTokensNeedThem(t *testing.T) {
	a, err := kvcache.NewAllocator(3, 4)
	if err != nil {
		t.Fatal(err)
	}
	steps := []struct {
		sequence     uint64
		tokens, free int
		blocks       []int32
	}{
		{7, 3, 2, []int32{0}},
		{7, 1, 2, []int32{0}},
		{8, 1, 1, []int32{1}},
		{7, 1, 0, []int32{0, 2}},
	}
	for i, s := range steps {
		if err := a.Append(s.sequence, s.tokens); err != nil {
			t.Fatalf("step %d: %v", i, err)
		}
		if diff := cmp.Diff(s.blocks, a.Blocks(s.sequence)); diff != "" || a.FreeBlocks() != s.free {
			t.Errorf("step %d: %d free, want %d; blocks %s", i, a.FreeBlocks(), s.free, diff)
		}
	}
	if slot, err := a.Slot(7, 4); err != nil || slot != 8 {
		t.Errorf("token 4 of sequence 7 lies in slot %d, %v; want 8", slot, err)
	}
	if err := a.Append(8, 4); !errors.Is(err, kvcache.ErrFull) || a.Tokens(8) != 1 {
		t.Errorf("a full cache gave %v, and sequence 8 has %d tokens", err, a.Tokens(8))
	}
	a.Free(7)
	if err := a.Append(8, 4); err != nil {
		t.Errorf("after a release: %v", err)
	}
}

func TestBadUseIsAnError(t *testing.T) {
	for _, size := range [][2]int{{0, 16}, {4, 0}, {-1, 16}, {1 << 30, 16}} {
		if _, err := kvcache.NewAllocator(size[0], size[1]); err == nil {
			t.Errorf("%d blocks of %d tokens accepted", size[0], size[1])
		}
	}
	a, err := kvcache.NewAllocator(2, 4)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Append(1, -1); err == nil {
		t.Error("a negative number of tokens was accepted")
	}
	if err := a.Append(1, 1<<62); !errors.Is(err, kvcache.ErrFull) {
		t.Errorf("a huge number of tokens gave %v", err)
	}
	if _, err := a.Slot(1, 0); !errors.Is(err, kvcache.ErrUnknown) {
		t.Errorf("an unknown sequence gave %v", err)
	}
	if err := a.Append(1, 2); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Slot(1, 2); err == nil {
		t.Error("a token beyond the sequence has a slot")
	}
	a.Free(99)
}

// Random appends and releases against a model of plain counts: no block is
// owned twice, none is lost, and slots of different tokens differ.
func TestAllocatorInvariants(t *testing.T) {
	for seed := range uint64(30) {
		random := rand.New(rand.NewPCG(seed, 1))
		blocks, size := 1+random.IntN(20), 1+random.IntN(5)
		a, err := kvcache.NewAllocator(blocks, size)
		if err != nil {
			t.Fatal(err)
		}
		want := map[uint64]int{}
		for range 300 {
			id := random.Uint64N(6)
			switch random.IntN(8) {
			case 0:
				a.Free(id)
				delete(want, id)
			case 1:
				if random.IntN(20) == 0 {
					a.Reset()
					clear(want)
				}
			default:
				n := random.IntN(2 * size)
				need := a.BlocksFor(id, n)
				err := a.Append(id, n)
				if (err != nil) != (need > 0 && n > 0 && errors.Is(err, kvcache.ErrFull)) {
					t.Fatalf("seed %d: append of %d needing %d blocks: %v", seed, n, need, err)
				}
				if err == nil && n > 0 {
					want[id] += n
				}
			}
			check(t, seed, a, want, blocks, size)
		}
	}
}

func check(t *testing.T, seed uint64, a *kvcache.Allocator, want map[uint64]int, blocks, size int) {
	t.Helper()
	owned, used, slots := 0, 0, map[int32]bool{}
	for id, n := range want {
		if a.Tokens(id) != n || len(a.Blocks(id)) != (n+size-1)/size {
			t.Fatalf("seed %d: sequence %d has %d tokens in %d blocks, want %d tokens", seed, id, a.Tokens(id), len(a.Blocks(id)), n)
		}
		for i := range n {
			slot, err := a.Slot(id, i)
			if err != nil || slots[slot] || slot < 0 || int(slot) >= a.Capacity() {
				t.Fatalf("seed %d: token %d of sequence %d lies in slot %d (%v), taken %v", seed, i, id, slot, err, slots[slot])
			}
			slots[slot] = true
		}
		owned += len(a.Blocks(id))
		used += n
	}
	if owned+a.FreeBlocks() != blocks || a.Used() != used || a.Sequences() != len(want) {
		t.Fatalf("seed %d: %d owned + %d free blocks of %d; %d tokens used, want %d; %d sequences, want %d",
			seed, owned, a.FreeBlocks(), blocks, a.Used(), used, a.Sequences(), len(want))
	}
}

func TestCacheLayout(t *testing.T) {
	dev, err := backend.Open("reference", backend.Options{})
	if err != nil {
		t.Fatal(err)
	}
	mla := &model.Shape{Layers: 2, Attention: model.Attention{Kind: model.MLA, Heads: 4, KVHeads: 4, KVLoRARank: 8, QKRopeHeadDim: 2}}
	c, err := kvcache.New(dev, mla, 3, backend.F32)
	if err != nil {
		t.Fatal(err)
	}
	keys, values := c.Keys(1), c.Values(1)
	if keys.Rows != 48 || keys.Cols != 10 || values.Cols != 8 || values.Stride != 10 || values.Buffer != keys.Buffer {
		t.Errorf("MLA cache has keys %+v, values %+v", keys, values)
	}
	c.Close()
	gqa := &model.Shape{Layers: 1, Attention: model.Attention{Kind: model.GQA, Heads: 4, KVHeads: 2, HeadDim: 6}}
	if c, err = kvcache.New(dev, gqa, 1, backend.F32); err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	keys, values = c.Keys(0), c.Values(0)
	if keys.Rows != 16 || keys.Cols != 12 || values.Cols != 12 || values.Buffer == keys.Buffer {
		t.Errorf("GQA cache has keys %+v, values %+v", keys, values)
	}
}

// halfless is a device whose KV cache can only be F32.
type halfless struct{ backend.Device }

func (d halfless) Supports(op backend.Op, dtype backend.DType) bool {
	return dtype == backend.F32 && d.Device.Supports(op, dtype)
}

func TestCacheOfBF16(t *testing.T) {
	dev, err := backend.Open("reference", backend.Options{})
	if err != nil {
		t.Fatal(err)
	}
	shape := &model.Shape{Layers: 1, Attention: model.Attention{Kind: model.MLA, Heads: 4, KVHeads: 4, KVLoRARank: 8, QKRopeHeadDim: 2}}
	c, err := kvcache.New(dev, shape, 3, backend.BF16)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if keys, values := c.Keys(0), c.Values(0); keys.DType != backend.BF16 || values.DType != backend.BF16 || keys.Buffer.Size() != 48*10*2 {
		t.Errorf("keys %+v of %d bytes, values %+v; they must be BF16, 960 bytes", keys, keys.Buffer.Size(), values)
	}
	for _, refused := range []struct {
		dev   backend.Device
		dtype backend.DType
	}{{halfless{dev}, backend.BF16}, {dev, backend.F16}} {
		if c, err := kvcache.New(refused.dev, shape, 3, refused.dtype); err == nil {
			c.Close()
			t.Errorf("a cache of %s was made on a device without", refused.dtype)
		} else if want := "no KV cache of type " + refused.dtype.String() + "; use F32"; !strings.Contains(err.Error(), want) {
			t.Errorf("the error is %v; it must say %q", err, want)
		}
	}
}
