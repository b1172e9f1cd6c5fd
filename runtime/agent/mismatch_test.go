// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"strings"
	"testing"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
	"github.com/NVIDIA/go-nvml/pkg/nvml/mock"

	"github.com/findep/findep-operator/runtime/devices"
	"github.com/findep/findep-operator/runtime/plan"
	"github.com/findep/findep-operator/runtime/profile"
)

// sized is a device with a name and memory.
type sized struct {
	named
	memory int64
}

func (d sized) MemoryBytes() int64 { return d.memory }

// A rank compares its device with the profile of its own group, which may change
// while it runs, and tells the log and the heartbeats.
func TestRankComparesItsDeviceWithTheProfile(t *testing.T) {
	const memory = 85520809984
	noDriver := &mock.Interface{InitFunc: func() nvml.Return { return nvml.ERROR_LIBRARY_NOT_FOUND }}
	for name, tc := range map[string]struct {
		preset, device string
		raw            string
		want           string
	}{
		"as planned":        {preset: "h100-sxm", device: "cuda:0 NVIDIA H100 80GB HBM3"},
		"another GPU":       {preset: "h100-sxm", device: "cuda:0 NVIDIA A100-SXM4-80GB", want: "product is NVIDIA A100-SXM4-80GB, not H100"},
		"fell back":         {preset: "h100-sxm", device: "cpu", want: "backend is cpu, not cuda"},
		"CPU as planned":    {preset: "cpu", device: "cpu"},
		"plain Go":          {preset: "h100-sxm", device: "reference"},
		"no profile given":  {device: "cpu"},
		"unreadable":        {raw: `{"name": 7}`, device: "cpu", want: "cannot be compared"},
		"of a later format": {raw: `{"name": "x", "quantum": true}`, device: "cpu", want: "quantum"},
	} {
		t.Run(name, func(t *testing.T) {
			in := &plan.Instance{AttentionRanks: 1, ExpertRanks: 1, Profile: map[plan.Role]json.RawMessage{plan.Attention: []byte(`{"name": "other group"}`)}}
			if tc.preset != "" {
				p, err := profile.Preset(tc.preset)
				if err != nil {
					t.Fatal(err)
				}
				if in.Profile[plan.Expert], err = json.Marshal(p); err != nil {
					t.Fatal(err)
				}
			}
			if tc.raw != "" {
				in.Profile[plan.Expert] = []byte(tc.raw)
			}
			log := &bytes.Buffer{}
			a := &agent{options: Options{Rank: 1}, config: &configFile{}, device: sized{named{name: tc.device}, memory},
				gpus: devices.Watch(t.Context(), noDriver, devices.Options{}), log: slog.New(slog.NewTextHandler(log, nil))}
			a.config.current.Store(in)
			got := a.profileMismatch()
			if (got == "") != (tc.want == "") || !strings.Contains(got, tc.want) {
				t.Errorf("got %q, want %q", got, tc.want)
			}
			a.reportMismatch()
			if told := strings.Contains(log.String(), "plans will be wrong"); told != (tc.want != "") {
				t.Errorf("the log has %q", log)
			}
		})
	}
}
