// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"fmt"
	"math"

	"github.com/findep/findep-operator/runtime/backend"
)

var (
	nan      = float32(math.NaN())
	infinity = float32(math.Inf(1))
)

func embedCases() []testCase {
	var cases []testCase
	for _, w := range weightTypes {
		for _, s := range []struct{ n, vocab, m int }{{0, 3, 4}, {1, 1, 1}, {5, 11, 7}, {9, 300, 64}, {2, 5, 257}} {
			cases = append(cases, testCase{backend.OpEmbed, w, fmt.Sprintf("n=%d,vocab=%d,M=%d", s.n, s.vocab, s.m), 0,
				func(b *bench) error {
					ids := make([]int, s.n)
					for i := range ids {
						ids[i] = b.rng.IntN(s.vocab)
					}
					if s.n > 1 {
						ids[0], ids[1] = s.vocab-1, 0
					}
					return b.stream.Embed(b.out("out", s.n, s.m), b.random("table", w, s.vocab, s.m), b.column("ids", ids...))
				}})
		}
	}
	return cases
}

func rmsNormCases() []testCase {
	var cases []testCase
	for _, w := range weightTypes {
		for _, s := range []struct{ n, m int }{{0, 8}, {1, 1}, {3, 7}, {5, 64}, {2, 1025}} {
			for _, inPlace := range []bool{false, true} {
				cases = append(cases, testCase{backend.OpRMSNorm, w, fmt.Sprintf("n=%d,M=%d,inplace=%t", s.n, s.m, inPlace), 2e-6,
					func(b *bench) error {
						if inPlace {
							x := b.inout("x", s.n, s.m)
							return b.stream.RMSNorm(x, x, b.random("weight", w, 1, s.m), 1e-6)
						}
						return b.stream.RMSNorm(b.out("out", s.n, s.m), b.random("x", backend.F32, s.n, s.m), b.random("weight", w, 1, s.m), 1e-6)
					}})
			}
		}
		cases = append(cases, testCase{backend.OpRMSNorm, w, "zeros,NaN,Inf", 2e-6, func(b *bench) error {
			x := b.values("x", backend.F32, 4, 9, func(r, c int) float32 {
				return [4]float32{0, []float32{1, nan}[c/8], []float32{1, infinity}[c/8], 1}[r]
			})
			return b.stream.RMSNorm(b.out("out", 4, 9), x, b.random("weight", w, 1, 9), 1e-5)
		}})
	}
	return cases
}

// denseSizes are [in, out] around the widths of vectors, blocks and tiles.
var denseSizes = [][2]int{{1, 1}, {7, 3}, {64, 33}, {257, 65}, {1100, 130}}

func matMulCases() []testCase {
	var cases []testCase
	for _, w := range weightTypes {
		for _, n := range []int{0, 1, 2, 4, 5, 17} {
			for _, s := range denseSizes {
				for _, accumulate := range []bool{false, true} {
					cases = append(cases, testCase{backend.OpMatMul, w,
						fmt.Sprintf("n=%d,in=%d,out=%d,accumulate=%t", n, s[0], s[1], accumulate), 3e-6,
						func(b *bench) error {
							out := b.out
							if accumulate {
								out = b.inout
							}
							return b.stream.MatMul(out("out", n, s[1]), b.random("x", backend.F32, n, s[0]), b.random("w", w, s[1], s[0]), accumulate)
						}})
				}
			}
		}
		cases = append(cases, exactMatMul(w), largeMatMul(w))
		cases = append(cases, specialMatMul(w, 2), specialMatMul(w, 9))
	}
	return cases
}

func exactMatMul(w backend.DType) testCase {
	return testCase{backend.OpMatMul, w, "n=6,in=128,out=40,integers", 0, func(b *bench) error {
		return b.stream.MatMul(b.out("out", 6, 40), b.integers("x", backend.F32, 6, 128), b.integers("w", w, 40, 128), false)
	}}
}

// largeMatMul is large enough to be cut into blocks and shared among threads.
func largeMatMul(w backend.DType) testCase {
	return testCase{backend.OpMatMul, w, "n=70,in=600,out=700", 3e-6, func(b *bench) error {
		return b.stream.MatMul(b.out("out", 70, 700), b.random("x", backend.F32, 70, 600), b.random("w", w, 700, 600), false)
	}}
}

// specialMatMul has a NaN in one row of x and infinities in one row of w, which
// must spread to that row and that column and no further.
func specialMatMul(w backend.DType, n int) testCase {
	return testCase{backend.OpMatMul, w, fmt.Sprintf("n=%d,NaN,Inf", n), 3e-6, func(b *bench) error {
		x := b.values("x", backend.F32, n, 20, func(r, c int) float32 {
			if r == 1 && c == 3 {
				return nan
			}
			return b.uniform()
		})
		weights := b.values("w", w, 17, 20, func(r, c int) float32 {
			if r == 5 && c == 2 {
				return infinity
			}
			return b.uniform()
		})
		return b.stream.MatMul(b.out("out", n, 17), x, weights, false)
	}}
}

func headMatMulCases() []testCase {
	// A spare of rows between the heads of w, and of columns between those of x
	// and out, is how MLA cuts kv_b_proj and q_proj.
	sizes := []struct{ n, heads, in, out, spare int }{
		{0, 2, 4, 4, 0}, {1, 1, 1, 1, 0}, {1, 3, 16, 5, 3}, {4, 2, 7, 33, 0}, {6, 4, 24, 40, 8}, {9, 16, 128, 64, 128},
	}
	var cases []testCase
	for _, w := range weightTypes {
		for _, s := range sizes {
			for _, transposed := range []bool{false, true} {
				cases = append(cases, testCase{backend.OpHeadMatMul, w,
					fmt.Sprintf("n=%d,heads=%d,in=%d,out=%d,spare=%d,transposed=%t", s.n, s.heads, s.in, s.out, s.spare, transposed), 3e-6,
					func(b *bench) error {
						p := backend.HeadMatMulArgs{Heads: s.heads, In: s.in, Out: s.out, Transposed: transposed,
							XStride: s.in + s.spare, OutStride: s.out + s.spare, WStride: s.in + s.spare}
						rows, cols := s.in, s.out
						if transposed {
							rows, cols, p.WStride = s.out, s.in, s.out+s.spare
						}
						// Columns between the heads of out keep their values.
						out := b.inout("out", s.n, (s.heads-1)*p.OutStride+s.out)
						x := b.random("x", backend.F32, s.n, (s.heads-1)*p.XStride+s.in)
						return b.stream.HeadMatMul(out, x, b.random("w", w, (s.heads-1)*p.WStride+rows, cols), p)
					}})
			}
		}
	}
	return cases
}

// rotation is a rope of n rows.
type rotation struct {
	n, heads, stride, offset, dim int
	interleaved                   bool
}

func (s rotation) String() string {
	return fmt.Sprintf("n=%d,heads=%d,stride=%d,offset=%d,dim=%d,interleaved=%t", s.n, s.heads, s.stride, s.offset, s.dim, s.interleaved)
}

func ropeCases() []testCase {
	var cases []testCase
	for _, s := range []rotation{
		{n: 0, heads: 1, dim: 2}, {n: 1, heads: 1, dim: 2}, {n: 3, heads: 1, offset: 5, dim: 8},
		{n: 4, heads: 3, stride: 20, offset: 12, dim: 8}, {n: 5, heads: 4, stride: 64, dim: 64},
		{n: 2, heads: 16, stride: 192, offset: 128, dim: 64},
	} {
		for _, s.interleaved = range []bool{false, true} {
			cases = append(cases, testCase{backend.OpRope, backend.F32, s.String(), 1e-6, s.run})
		}
	}
	return cases
}

func (s rotation) run(b *bench) error {
	const positions = 50
	at := make([]int, s.n)
	for i := range at {
		at[i] = b.rng.IntN(positions)
	}
	table := b.values("table", backend.F32, positions, s.dim, func(r, c int) float32 {
		angle := float64(r) * math.Pow(1e4, -2*float64(c%(s.dim/2))/float64(s.dim))
		if c < s.dim/2 {
			return float32(math.Cos(angle))
		}
		return float32(math.Sin(angle))
	})
	x := b.inout("x", s.n, (s.heads-1)*s.stride+s.offset+s.dim+1)
	return b.stream.Rope(x, b.column("positions", at...), table,
		backend.RopeArgs{Heads: s.heads, HeadStride: s.stride, Offset: s.offset, Dim: s.dim, Interleaved: s.interleaved})
}

func rowCases() []testCase {
	var cases []testCase
	for _, s := range []struct{ n, total, m int }{{0, 0, 3}, {0, 5, 3}, {1, 1, 1}, {5, 9, 7}, {40, 40, 130}, {3, 5, 1100}} {
		shape := fmt.Sprintf("n=%d,rows=%d,M=%d", s.n, s.total, s.m)
		index := func(b *bench) backend.Matrix { return b.column("index", b.rng.Perm(s.total)[:s.n]...) }
		cases = append(cases,
			testCase{backend.OpScatterRows, backend.F32, shape, 0, func(b *bench) error {
				return b.stream.ScatterRows(b.inout("dst", s.total, s.m), b.random("src", backend.F32, s.n, s.m), index(b))
			}},
			testCase{backend.OpScatterRows, backend.BF16, shape, 0, func(b *bench) error {
				dst := b.place("dst", output, backend.BF16, s.total, s.m, func(int, int) uint32 { return encode(backend.BF16, b.uniform()) })
				return b.stream.ScatterRows(dst, b.random("src", backend.F32, s.n, s.m), index(b))
			}},
			testCase{backend.OpGatherRows, backend.F32, shape, 0, func(b *bench) error {
				return b.stream.GatherRows(b.out("dst", s.n, s.m), b.random("src", backend.F32, s.total, s.m), index(b))
			}},
			testCase{backend.OpCombineRows, backend.F32, shape, 0, func(b *bench) error {
				out := b.place("out", output, backend.F32, s.total, s.m, func(int, int) uint32 {
					return math.Float32bits(float32(b.rng.IntN(9) - 4))
				})
				return b.stream.CombineRows(out, b.integers("src", backend.F32, s.n, s.m), index(b))
			}})
	}
	return append(cases, testCase{backend.OpGatherRows, backend.F32, "n=4,repeated", 0, func(b *bench) error {
		return b.stream.GatherRows(b.out("dst", 4, 3), b.random("src", backend.F32, 2, 3), b.column("index", 1, 1, 0, 1))
	}})
}

func elementwiseCases() []testCase {
	var cases []testCase
	for _, s := range []struct{ n, h int }{{0, 4}, {1, 1}, {3, 7}, {4, 64}, {2, 1409}} {
		shape := fmt.Sprintf("n=%d,H=%d", s.n, s.h)
		cases = append(cases,
			testCase{backend.OpSwiGLU, backend.F32, shape, 2e-6, func(b *bench) error {
				gateUp := b.values("gateUp", backend.F32, s.n, 2*s.h, func(int, int) float32 { return 8 * b.uniform() })
				return b.stream.SwiGLU(b.out("out", s.n, s.h), gateUp)
			}},
			testCase{backend.OpAdd, backend.F32, shape, 0, func(b *bench) error {
				return b.stream.Add(b.out("out", s.n, s.h), b.random("a", backend.F32, s.n, s.h), b.random("b", backend.F32, s.n, s.h))
			}},
			testCase{backend.OpAdd, backend.F32, shape + ",out=a", 0, func(b *bench) error {
				a := b.inout("a", s.n, s.h)
				return b.stream.Add(a, a, b.random("b", backend.F32, s.n, s.h))
			}},
			testCase{backend.OpAdd, backend.F32, shape + ",out=b", 0, func(b *bench) error {
				y := b.inout("b", s.n, s.h)
				return b.stream.Add(y, b.random("a", backend.F32, s.n, s.h), y)
			}})
	}
	gates := []float32{0, 1, -1, 20, -20, 86, -86, 89, -89, 1000, -1000, infinity, nan, 1e-30, -3e-8}
	return append(cases, testCase{backend.OpSwiGLU, backend.F32, "extremes", 2e-6, func(b *bench) error {
		// One row per value: the tolerance's scale must not hide small ones.
		gateUp := b.values("gateUp", backend.F32, 1, 2*len(gates), func(_, c int) float32 {
			if c < len(gates) {
				return gates[c]
			}
			return 1
		})
		return b.stream.SwiGLU(b.out("out", 1, len(gates)), gateUp)
	}})
}
