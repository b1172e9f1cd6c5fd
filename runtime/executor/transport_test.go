// SPDX-License-Identifier: Apache-2.0

package executor_test

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/findep/findep-operator/runtime/executor/harness"
	"github.com/findep/findep-operator/runtime/plan"
	"github.com/findep/findep-operator/runtime/transport"
	"github.com/findep/findep-operator/runtime/transport/shm"
	"github.com/findep/findep-operator/runtime/transport/tcp"
)

// ends opens sockets for all ranks; those listed cannot share memory.
func ends(t *testing.T, world int, alone ...int) []harness.End {
	t.Helper()
	var all []harness.End
	for rank := range world {
		o := tcp.Options{Plain: true}
		if !slices.Contains(alone, rank) {
			m, err := shm.Listen(shm.Options{RingBytes: shm.MinRingBytes})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = m.Close() })
			o.Shared = m
		}
		e, err := tcp.Listen("127.0.0.1:0", nil, o)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = e.Close() })
		all = append(all, harness.End{Connector: e, Address: e.Addr().String()})
	}
	return all
}

// Outputs do not depend on what carries the rows, to the last bit.
func TestOutputsDoNotDependOnTheTransport(t *testing.T) {
	plans := []plan.Plan{sequential(16), pppipe(2, 3), finDEP(2, 2, 3, plan.ASAS), finDEP(1, 2, 5, plan.AASS)}
	const ag, eg = 2, 2
	for _, f := range families(t) {
		t.Run(f.name, func(t *testing.T) {
			prompts := randomPrompts(f.shape.VocabSize, 9, 33, 1, 17, 4)
			config := harness.Config{Shape: f.shape, Checkpoint: f.dir, Attention: ag, Expert: eg, OpenDevice: openReference}
			want, err := instance(t, config).Generate(t.Context(), prompts, harness.Options{Plan: sequential(16)})
			if err != nil {
				t.Fatal(err)
			}
			for _, tc := range []struct {
				name  string
				alone []int
				// kinds are those of attention rank 0 to both expert ranks.
				kinds [eg]transport.Kind
			}{
				{"shared memory", nil, [eg]transport.Kind{transport.KindShared, transport.KindShared}},
				{"tcp", []int{0, 1, 2, 3}, [eg]transport.Kind{transport.KindTCP, transport.KindTCP}},
				{"both", []int{3}, [eg]transport.Kind{transport.KindShared, transport.KindTCP}},
			} {
				t.Run(tc.name, func(t *testing.T) {
					config.Ends = ends(t, ag+eg, tc.alone...)
					in := instance(t, config)
					for i, l := range in.Meshes[0].(transport.Kinds).Kinds() {
						if l != (transport.LinkKinds{Peer: ag + i, Send: tc.kinds[i], Receive: tc.kinds[i]}) {
							t.Errorf("link %+v, want %s", l, tc.kinds[i])
						}
					}
					for _, p := range plans {
						got, err := in.Generate(t.Context(), prompts, harness.Options{Plan: p})
						if err != nil {
							t.Fatalf("%s: %v", p, err)
						}
						if diff := cmp.Diff(want, got); diff != "" {
							t.Errorf("%s differs from in-process links:\n%.2000s", p, diff)
						}
					}
				})
			}
		})
	}
}
