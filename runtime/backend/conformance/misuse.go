// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"math"
	"testing"

	"github.com/findep/findep-operator/runtime/backend"
)

// misuse is a call that must be refused.
type misuse struct {
	name string
	// data is true if only the contents of a matrix are wrong, which a device
	// whose memory the host cannot address need not notice.
	data bool
	call func(b *bench) error
}

// testMisuse makes each wrong call and then a right one.
func testMisuse(t *testing.T, dev backend.Device) {
	for _, m := range misuses() {
		t.Run(m.name, func(t *testing.T) {
			b := newBench(t, dev, contiguous, m.name)
			probe := alloc(t, dev, 1)
			if m.data && probe.Host() == nil {
				t.Skip("the device's memory cannot be read by the host")
			}
			err := m.call(b)
			if err == nil {
				err = b.stream.Synchronize()
			}
			if err == nil {
				t.Error("the call was accepted")
			} else if len(err.Error()) < 10 {
				t.Errorf("the error %q says nothing", err)
			}
			x := b.random("x", backend.F32, 2, 3)
			if err := b.stream.Add(b.out("out", 2, 3), x, x); err != nil {
				t.Errorf("the next operation fails: %v", err)
			}
		})
	}
}

func misuses() []misuse {
	list := viewMisuses()
	list = append(list, denseMisuses()...)
	list = append(list, attentionMisuses()...)
	return append(list, moeMisuses()...)
}

// viewMisuses are views that are wrong in themselves.
func viewMisuses() []misuse {
	bend := func(name string, change func(m *backend.Matrix)) misuse {
		return misuse{"view/" + name, false, func(b *bench) error {
			x, y := b.random("x", backend.F32, 4, 8), b.random("y", backend.F32, 4, 8)
			out := b.out("out", 4, 8)
			change(&x)
			out.Rows, out.Cols, y.Rows, y.Cols = x.Rows, x.Cols, x.Rows, x.Cols
			return b.stream.Add(out, x, y)
		}}
	}
	return []misuse{
		bend("negative-rows", func(m *backend.Matrix) { m.Rows = -1 }),
		bend("negative-columns", func(m *backend.Matrix) { m.Cols = -1 }),
		bend("no-columns", func(m *backend.Matrix) { m.Cols = 0 }),
		bend("negative-offset", func(m *backend.Matrix) { m.Offset = -1 }),
		bend("far-offset", func(m *backend.Matrix) { m.Offset = math.MaxInt64 }),
		bend("offset-past-end", func(m *backend.Matrix) { m.Offset = 200 }),
		bend("narrow-stride", func(m *backend.Matrix) { m.Stride = 7 }),
		bend("wide-stride", func(m *backend.Matrix) { m.Stride = math.MaxInt }),
		bend("too-many-rows", func(m *backend.Matrix) { m.Rows = 1000 }),
		bend("most-rows", func(m *backend.Matrix) { m.Rows = math.MaxInt }),
		bend("no-buffer", func(m *backend.Matrix) { m.Buffer = nil }),
		bend("wrong-type", func(m *backend.Matrix) { m.DType = backend.I32 }),
		bend("unknown-type", func(m *backend.Matrix) { m.DType = 77 }),
	}
}

func denseMisuses() []misuse {
	f32 := backend.F32
	head := backend.HeadMatMulArgs{Heads: 2, In: 3, Out: 4, XStride: 3, OutStride: 4, WStride: 3}
	headCall := func(name string, change func(p *backend.HeadMatMulArgs)) misuse {
		return misuse{"headmatmul/" + name, false, func(b *bench) error {
			p := head
			change(&p)
			return b.stream.HeadMatMul(b.out("out", 2, 8), b.random("x", f32, 2, 6), b.random("w", f32, 6, 4), p)
		}}
	}
	ropeCall := func(name string, data bool, p backend.RopeArgs, positions ...int) misuse {
		return misuse{"rope/" + name, data, func(b *bench) error {
			return b.stream.Rope(b.inout("x", 2, 8), b.column("positions", positions...), b.random("table", f32, 5, 4), p)
		}}
	}
	return []misuse{
		{"embed/id-too-large", true, func(b *bench) error {
			return b.stream.Embed(b.out("out", 1, 4), b.random("table", f32, 3, 4), b.column("ids", 3))
		}},
		{"embed/negative-id", true, func(b *bench) error {
			return b.stream.Embed(b.out("out", 1, 4), b.random("table", f32, 3, 4), b.column("ids", -1))
		}},
		{"embed/few-ids", false, func(b *bench) error {
			return b.stream.Embed(b.out("out", 2, 4), b.random("table", f32, 3, 4), b.column("ids", 1))
		}},
		{"embed/integer-table", false, func(b *bench) error {
			return b.stream.Embed(b.out("out", 1, 1), b.column("table", 1, 2), b.column("ids", 1))
		}},
		{"rmsnorm/short-weight", false, func(b *bench) error {
			return b.stream.RMSNorm(b.out("out", 2, 4), b.random("x", f32, 2, 4), b.random("weight", f32, 1, 3), 1e-6)
		}},
		{"matmul/inner-size", false, func(b *bench) error {
			return b.stream.MatMul(b.out("out", 2, 4), b.random("x", f32, 2, 3), b.random("w", f32, 4, 5), false)
		}},
		{"matmul/output-size", false, func(b *bench) error {
			return b.stream.MatMul(b.out("out", 3, 4), b.random("x", f32, 2, 5), b.random("w", f32, 4, 5), false)
		}},
		{"matmul/half-output", false, func(b *bench) error {
			return b.stream.MatMul(b.random("out", backend.BF16, 2, 4), b.random("x", f32, 2, 5), b.random("w", f32, 4, 5), false)
		}},
		headCall("no-heads", func(p *backend.HeadMatMulArgs) { p.Heads = 0 }),
		headCall("many-heads", func(p *backend.HeadMatMulArgs) { p.Heads = 3 }),
		headCall("huge-heads", func(p *backend.HeadMatMulArgs) { p.Heads = math.MaxInt }),
		headCall("wide-input", func(p *backend.HeadMatMulArgs) { p.In = 4 }),
		headCall("overlap", func(p *backend.HeadMatMulArgs) { p.OutStride = 3 }),
		headCall("negative-stride", func(p *backend.HeadMatMulArgs) { p.WStride = -3 }),
		headCall("huge-stride", func(p *backend.HeadMatMulArgs) { p.WStride = math.MaxInt }),
		ropeCall("odd", false, backend.RopeArgs{Heads: 1, Dim: 3}, 0, 1),
		ropeCall("table-width", false, backend.RopeArgs{Heads: 1, Dim: 6}, 0, 1),
		ropeCall("offset", false, backend.RopeArgs{Heads: 1, Dim: 4, Offset: 5}, 0, 1),
		ropeCall("overlap", false, backend.RopeArgs{Heads: 2, Dim: 4, HeadStride: 3}, 0, 1),
		ropeCall("few-positions", false, backend.RopeArgs{Heads: 1, Dim: 4}, 0),
		ropeCall("position", true, backend.RopeArgs{Heads: 1, Dim: 4}, 0, 5),
		{"scatterrows/index", true, func(b *bench) error {
			return b.stream.ScatterRows(b.inout("dst", 3, 2), b.random("src", f32, 1, 2), b.column("index", 3))
		}},
		{"scatterrows/F16", false, func(b *bench) error {
			return b.stream.ScatterRows(b.random("dst", backend.F16, 3, 2), b.random("src", f32, 1, 2), b.column("index", 0))
		}},
		{"gatherrows/BF16", false, func(b *bench) error {
			return b.stream.GatherRows(b.out("dst", 1, 2), b.random("src", backend.BF16, 3, 2), b.column("index", 0))
		}},
		{"gatherrows/index", true, func(b *bench) error {
			return b.stream.GatherRows(b.out("dst", 1, 2), b.random("src", f32, 3, 2), b.column("index", -1))
		}},
		{"combinerows/columns", false, func(b *bench) error {
			return b.stream.CombineRows(b.inout("out", 3, 2), b.random("src", f32, 1, 3), b.column("index", 0))
		}},
		{"combinerows/many-indices", false, func(b *bench) error {
			return b.stream.CombineRows(b.inout("out", 3, 2), b.random("src", f32, 1, 2), b.column("index", 0, 1))
		}},
		{"swiglu/odd", false, func(b *bench) error { return b.stream.SwiGLU(b.out("out", 1, 2), b.random("gateUp", f32, 1, 5)) }},
		{"add/shape", false, func(b *bench) error {
			return b.stream.Add(b.out("out", 2, 2), b.random("a", f32, 2, 2), b.random("b", f32, 1, 2))
		}},
	}
}

func attentionMisuses() []misuse {
	type parts struct {
		args                    backend.AttentionArgs
		starts, contexts, table []int
	}
	call := func(name string, data bool, change func(p *parts)) misuse {
		return misuse{"attention/" + name, data, func(b *bench) error {
			p := parts{backend.AttentionArgs{Heads: 2, KVHeads: 1, KeyDim: 4, ValueDim: 3, Scale: 1, BlockSize: 4},
				[]int{0, 2}, []int{5}, []int{1, 0}}
			change(&p)
			p.args.QueryStart, p.args.ContextLength = b.column("QueryStart", p.starts...), b.column("ContextLength", p.contexts...)
			p.args.BlockTable = b.place("BlockTable", input, backend.I32, 1, len(p.table), func(_, c int) uint32 { return uint32(int32(p.table[c])) })
			return b.stream.Attention(b.out("out", 2, 6), b.random("q", backend.F32, 2, 8), b.random("keys", backend.F32, 8, 4),
				b.random("values", backend.F32, 8, 3), p.args)
		}}
	}
	// One token of context, its key and its value of the given types.
	caches := func(name string, keys, values backend.DType) misuse {
		return misuse{"attention/" + name, false, func(b *bench) error {
			return b.stream.Attention(b.out("out", 1, 4), b.random("q", backend.F32, 1, 4), b.random("keys", keys, 4, 4), b.random("values", values, 4, 4),
				backend.AttentionArgs{Heads: 1, KVHeads: 1, KeyDim: 4, ValueDim: 4, Scale: 1, BlockSize: 4, QueryStart: b.column("QueryStart", 0, 1),
					ContextLength: b.column("ContextLength", 1), BlockTable: b.column("BlockTable", 0)})
		}}
	}
	return []misuse{
		caches("BF16-keys", backend.BF16, backend.F32),
		caches("BF16-values", backend.F32, backend.BF16),
		caches("F16", backend.F16, backend.F16),
		call("no-heads", false, func(p *parts) { p.args.Heads = 0 }),
		call("heads-not-multiple", false, func(p *parts) { p.args.KVHeads = 3 }),
		call("key-size", false, func(p *parts) { p.args.KeyDim = 5 }),
		call("huge-heads", false, func(p *parts) { p.args.Heads = math.MaxInt }),
		call("no-blocks", false, func(p *parts) { p.args.BlockSize = 0 }),
		call("few-starts", false, func(p *parts) { p.starts = []int{0} }),
		call("start-not-zero", true, func(p *parts) { p.starts = []int{1, 2} }),
		call("starts-decrease", true, func(p *parts) { p.starts = []int{0, -1} }),
		call("too-many-rows", true, func(p *parts) { p.starts = []int{0, 3} }),
		call("short-context", true, func(p *parts) { p.contexts = []int{1} }),
		call("long-context", true, func(p *parts) { p.contexts = []int{9} }),
		call("negative-context", true, func(p *parts) { p.contexts = []int{-5} }),
		call("huge-context", true, func(p *parts) { p.contexts = []int{math.MaxInt32} }),
		call("block-too-large", true, func(p *parts) { p.table = []int{1, 2} }),
		call("negative-block", true, func(p *parts) { p.table = []int{-1, 0} }),
		call("huge-block", true, func(p *parts) { p.table = []int{math.MaxInt32, 0} }),
	}
}

func moeMisuses() []misuse {
	list := append(routerMisuses(), dispatchMisuses()...)
	return append(list, expertMisuses()...)
}

func routerMisuses() []misuse {
	call := func(name string, p backend.RouterArgs) misuse {
		return misuse{"router/" + name, false, func(b *bench) error {
			k := min(max(p.TopK, 1), 20)
			return b.stream.Router(b.out("weights", 2, k), b.outInts("experts", 2, k), b.random("logits", backend.F32, 2, 8), backend.Matrix{}, p)
		}}
	}
	return []misuse{
		call("no-top-k", backend.RouterArgs{Experts: 8, Scale: 1}),
		call("large-top-k", backend.RouterArgs{Experts: 8, TopK: 9, Scale: 1}),
		call("experts", backend.RouterArgs{Experts: 7, TopK: 2, Scale: 1}),
		call("negative-experts", backend.RouterArgs{Experts: -8, TopK: 2, Scale: 1}),
		call("uneven-groups", backend.RouterArgs{Experts: 8, TopK: 2, Groups: 3, TopKGroups: 1, Scale: 1}),
		call("no-groups-kept", backend.RouterArgs{Experts: 8, TopK: 2, Groups: 4, Scale: 1}),
		call("groups-too-small", backend.RouterArgs{Experts: 8, TopK: 3, Groups: 4, TopKGroups: 1, Scale: 1}),
		call("many-groups-kept", backend.RouterArgs{Experts: 8, TopK: 2, Groups: 4, TopKGroups: 5, Scale: 1}),
		call("no-scale", backend.RouterArgs{Experts: 8, TopK: 2}),
		call("scoring", backend.RouterArgs{Experts: 8, TopK: 2, Scoring: 9, Scale: 1}),
		{"router/bias-shape", false, func(b *bench) error {
			return b.stream.Router(b.out("weights", 2, 2), b.outInts("experts", 2, 2), b.random("logits", backend.F32, 2, 8),
				b.random("bias", backend.F32, 1, 7), backend.RouterArgs{Experts: 8, TopK: 2, Scale: 1})
		}},
	}
}

func dispatchMisuses() []misuse {
	call := func(name string, data bool, rows int, starts []int, experts ...int) misuse {
		return misuse{"dispatch/" + name, data, func(b *bench) error {
			return b.stream.Dispatch(backend.DispatchArgs{Experts: b.column("experts", experts...),
				Weights: b.random("weights", backend.F32, len(experts), 1), ExpertStart: b.column("ExpertStart", starts...),
				RowStart: b.outInts("RowStart", len(starts), 1), RowToken: b.outInts("RowToken", rows, 1),
				PairStart: b.outInts("PairStart", len(experts)+1, 1), PairExpert: b.outInts("PairExpert", len(experts), 1),
				PairWeight: b.out("PairWeight", len(experts), 1)})
		}}
	}
	group := func(name string, starts []int, experts ...int) misuse {
		return misuse{"groupexperts/" + name, true, func(b *bench) error {
			pairs := len(experts)
			return b.stream.GroupExperts(backend.GroupExpertsArgs{Rows: len(starts) - 1, Experts: 3,
				PairStart: b.column("PairStart", starts...), PairExpert: b.column("PairExpert", experts...),
				PairWeight: b.random("PairWeight", backend.F32, pairs, 1), GroupStart: b.outInts("GroupStart", 4, 1),
				GroupRow: b.outInts("GroupRow", pairs, 1), GroupWeight: b.out("GroupWeight", pairs, 1)})
		}}
	}
	return []misuse{
		call("no-ranks", false, 2, []int{0}, 1, 2),
		call("few-rows", false, 1, []int{0, 4}, 1, 2),
		call("expert-too-large", true, 2, []int{0, 4}, 1, 4),
		call("negative-expert", true, 2, []int{0, 4}, 1, -1),
		call("starts-decrease", true, 2, []int{0, 4, 3}, 1, 2),
		group("expert-too-large", []int{0, 1, 2}, 0, 3),
		group("negative-expert", []int{0, 1, 2}, 0, -1),
		group("more-pairs-than-given", []int{0, 1, 3}, 0, 1),
		group("starts-decrease", []int{0, 2, 1}, 0, 1),
		group("start-not-zero", []int{1, 1, 2}, 0, 1),
	}
}

func expertMisuses() []misuse {
	call := func(name string, data bool, change func(b *bench, p *backend.ExpertMLPArgs)) misuse {
		return misuse{"expertmlp/" + name, data, func(b *bench) error {
			p := backend.ExpertMLPArgs{Experts: 2, Hidden: 3,
				GateUp: b.random("GateUp", backend.F32, 12, 4), Down: b.random("Down", backend.F32, 8, 3),
				GroupStart: b.column("GroupStart", 0, 1, 3), GroupRow: b.column("GroupRow", 1, 0, 1),
				GroupWeight: b.random("GroupWeight", backend.F32, 3, 1), Workspace: b.work("Workspace", 3, 17)}
			change(b, &p)
			return b.stream.ExpertMLP(b.out("out", 2, 4), b.random("x", backend.F32, 2, 4), p)
		}}
	}
	return []misuse{
		call("no-experts", false, func(_ *bench, p *backend.ExpertMLPArgs) { p.Experts = 0 }),
		call("hidden", false, func(_ *bench, p *backend.ExpertMLPArgs) { p.Hidden = 4 }),
		call("huge-hidden", false, func(_ *bench, p *backend.ExpertMLPArgs) { p.Hidden = math.MaxInt }),
		call("down-shape", false, func(_ *bench, p *backend.ExpertMLPArgs) { p.Down = p.Down.RowRange(0, 7) }),
		call("narrow-workspace", false, func(_ *bench, p *backend.ExpertMLPArgs) { p.Workspace = p.Workspace.ColRange(0, 16) }),
		call("short-workspace", true, func(_ *bench, p *backend.ExpertMLPArgs) { p.Workspace = p.Workspace.RowRange(0, 2) }),
		call("few-starts", false, func(_ *bench, p *backend.ExpertMLPArgs) { p.GroupStart = p.GroupStart.RowRange(0, 2) }),
		call("more-pairs-than-given", true, func(b *bench, p *backend.ExpertMLPArgs) { p.GroupStart = b.column("GroupStart", 0, 1, 4) }),
		call("row-too-large", true, func(b *bench, p *backend.ExpertMLPArgs) { p.GroupRow = b.column("GroupRow", 1, 2, 1) }),
		call("negative-row", true, func(b *bench, p *backend.ExpertMLPArgs) { p.GroupRow = b.column("GroupRow", -1, 0, 1) }),
	}
}
