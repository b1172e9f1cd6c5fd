// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/findep/findep-operator/runtime/backend"
	"github.com/findep/findep-operator/runtime/model"
	"github.com/findep/findep-operator/runtime/plan"
	"github.com/findep/findep-operator/runtime/profile"
)

// poolBytes is what a stream takes of the pool of a pooled device.
const poolBytes = 64 << 20

// pooled is a device with a pool of which it notes the size.
type pooled struct {
	sized
	fakePipelines
	reserved *int64
}

func (pooled) Supports(backend.Op, backend.DType) bool { return true }
func (pooled) StreamBytes() int64                      { return poolBytes }
func (p pooled) ReservePool(bytes int64) error         { *p.reserved = bytes; return nil }

// A rank that does not fit its device is refused by arithmetic, before any memory is
// taken; weights, KV cache and workspaces count with the types that they will have.
func TestRanksThatDoNotFitAreRefusedFirst(t *testing.T) {
	shape, err := model.ByName("deepseek-ai/DeepSeek-V2-Lite")
	if err != nil {
		t.Fatal(err)
	}
	p := shape.Parameters()
	const tokens = 1 << 16
	attention := func(weight, kv int64) int64 {
		return weight*p.AttentionGroup + kv*shape.KVElementsPerTokenLayer()*int64(shape.Layers)*tokens + 4*poolBytes
	}
	experts := func(weight int64) int64 {
		return weight*p.Expert*int64(shape.MoE.Experts/2)*int64(shape.MoELayers()) + 4*poolBytes
	}
	for name, tc := range map[string]struct {
		rank     int
		weights  string
		usable   int64 // of the device's memory
		permille int   // of the profile, 0 for none
		refused  string
	}{
		"attention in F32 fits":        {rank: 0, weights: "F32", usable: attention(4, 4)},
		"attention in F32 does not":    {rank: 0, weights: "F32", usable: attention(4, 4) - 1, refused: "weights in F32"},
		"attention in BF16 fits":       {rank: 0, weights: "BF16", usable: attention(2, 2)},
		"attention in BF16 does not":   {rank: 0, weights: "BF16", usable: attention(2, 2) - 1, refused: fmt.Sprintf("KV cache of %d tokens in BF16", tokens)},
		"experts fit":                  {rank: 2, weights: "BF16", usable: experts(2)},
		"experts do not":               {rank: 1, weights: "BF16", usable: experts(2) - 1, refused: "workspaces of streams 268435456"},
		"the profile's part is usable": {rank: 2, weights: "BF16", usable: experts(2), permille: 500},
		"and no more than that":        {rank: 2, weights: "BF16", usable: experts(2) - 1, permille: 500, refused: "rank 2 needs at least"},
	} {
		t.Run(name, func(t *testing.T) {
			in := &plan.Instance{AttentionRanks: 1, ExpertRanks: 2}
			permille := usablePermille
			if tc.permille > 0 {
				permille = tc.permille
				given, err := profile.Preset("h100-sxm")
				if err != nil {
					t.Fatal(err)
				}
				given.UsableMemoryPermille = permille
				b, err := json.Marshal(given)
				if err != nil {
					t.Fatal(err)
				}
				in.Profile = map[plan.Role]json.RawMessage{plan.Expert: b}
			}
			// The least memory of which the permille is what is to be usable.
			memory := (tc.usable*1000 + int64(permille) - 1) / int64(permille)
			if whole := (profile.Profile{MemoryBytes: memory, UsableMemoryPermille: permille}); whole.UsableBytes() != tc.usable {
				t.Fatalf("%d bytes are usable, not %d", whole.UsableBytes(), tc.usable)
			}
			reserved := int64(0)
			a := &agent{options: Options{Rank: tc.rank, WeightType: tc.weights}, shape: shape, watch: &watchdog{},
				device: &pooled{sized: sized{named{name: "cuda:0 X"}, memory}, reserved: &reserved}}
			a.limits.blocksPerRank = tokens / 16
			err := a.reservePool(in)
			if tc.refused == "" {
				if err != nil || reserved != tc.usable {
					t.Errorf("%d of %d bytes are reserved: %v", reserved, tc.usable, err)
				}
				return
			}
			if !errors.Is(err, backend.ErrMemoryExceeded) || !strings.Contains(err.Error(), tc.refused) || !strings.Contains(err.Error(), "smaller KV cache") {
				t.Errorf("error %v", err)
			}
			if reserved != 0 {
				t.Errorf("%d bytes were reserved", reserved)
			}
		})
	}
}

// What profiles of GPUs reserve for the runtime covers the workspaces, so that a plan
// that fits by the profile does so on the device.
func TestProfilesReserveTheWorkspaces(t *testing.T) {
	for _, name := range profile.Presets() {
		p, err := profile.Preset(name)
		if err != nil {
			t.Fatal(err)
		}
		if p.Device.Backend == profile.BackendCUDA && p.ReservedBytes < productStreams*poolBytes {
			t.Errorf("%s reserves %d bytes, workspaces take %d", name, p.ReservedBytes, productStreams*poolBytes)
		}
	}
}
