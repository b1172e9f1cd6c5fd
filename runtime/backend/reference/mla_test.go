// SPDX-License-Identifier: Apache-2.0

package reference_test

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/findep/findep-operator/runtime/backend"
)

// mla is one layer's latent attention (DeepSeek-V2, arXiv 2405.04434, section
// 2.1): a token's cache is a latent c of size rank and a rotated key of size
// rope that all heads share; kvb is kv_b_proj [heads*(nope+value), rank].
type mla struct {
	tokens, heads, nope, rope, value, rank int
	q, latent, kvb                         []float32
}

func randomMLA(rng *rand.Rand) mla {
	m := mla{tokens: 6, heads: 3, nope: 5, rope: 4, value: 7, rank: 9}
	random := func(n int) []float32 {
		v := make([]float32, n)
		for i := range v {
			v[i] = rng.Float32()*2 - 1
		}
		return v
	}
	m.q, m.latent = random(m.tokens*m.heads*(m.nope+m.rope)), random(m.tokens*(m.rank+m.rope))
	m.kvb = random(m.heads * (m.nope + m.value) * m.rank)
	return m
}

// naive expands keys and values of every head, as the paper defines them.
func (m mla) naive(scale float64) []float32 {
	var out []float32
	expand := func(t, row int) (sum float64) {
		for i := range m.rank {
			sum += float64(m.kvb[row*m.rank+i]) * float64(m.latent[t*(m.rank+m.rope)+i])
		}
		return sum
	}
	for t := range m.tokens {
		for h := range m.heads {
			q := m.q[(t*m.heads+h)*(m.nope+m.rope):]
			weights, total := make([]float64, t+1), 0.0
			for s := range t + 1 {
				var score float64
				for i := range m.nope {
					score += float64(q[i]) * expand(s, h*(m.nope+m.value)+i)
				}
				for i := range m.rope {
					score += float64(q[m.nope+i]) * float64(m.latent[s*(m.rank+m.rope)+m.rank+i])
				}
				weights[s] = math.Exp(score * scale)
				total += weights[s]
			}
			for c := range m.value {
				var sum float64
				for s := range t + 1 {
					sum += weights[s] / total * expand(s, h*(m.nope+m.value)+m.nope+c)
				}
				out = append(out, float32(sum))
			}
		}
	}
	return out
}

// TestAbsorbedMLA computes the same from the cache alone: queries are moved
// into the latent space by W_UK, attention runs there with one KV head, and
// W_UV brings the result back.
func TestAbsorbedMLA(t *testing.T) {
	k := newKit(t)
	m := randomMLA(rand.New(rand.NewPCG(7, 7)))
	const scale = 0.3
	qk, wide := m.nope+m.rope, m.rank+m.rope
	q, cache, kvb := k.floats(m.heads*qk, m.q...), k.floats(wide, m.latent...), k.floats(m.rank, m.kvb...)
	absorbed := k.zeros(backend.F32, m.tokens, m.heads*wide)
	k.ok(k.HeadMatMul(absorbed, q, kvb, backend.HeadMatMulArgs{Heads: m.heads, In: m.nope, Out: m.rank,
		XStride: qk, OutStride: wide, WStride: m.nope + m.value}))
	for h := range m.heads {
		from, to := q.ColRange(h*qk+m.nope, (h+1)*qk), absorbed.ColRange(h*wide+m.rank, (h+1)*wide)
		zero := k.zeros(backend.F32, m.tokens, m.rope)
		k.ok(k.Add(to, from, zero))
	}
	mixed := k.zeros(backend.F32, m.tokens, m.heads*m.rank)
	k.ok(k.Attention(mixed, absorbed, cache, cache.ColRange(0, m.rank), backend.AttentionArgs{Heads: m.heads, KVHeads: 1, KeyDim: wide,
		ValueDim: m.rank, Scale: scale, BlockSize: 2, QueryStart: k.ints(1, 0, int32(m.tokens)), ContextLength: k.ints(1, int32(m.tokens)),
		BlockTable: k.ints(3, 0, 1, 2)}))
	out := k.zeros(backend.F32, m.tokens, m.heads*m.value)
	k.ok(k.HeadMatMul(out, mixed, kvb.RowRange(m.nope, kvb.Rows), backend.HeadMatMulArgs{Heads: m.heads, In: m.rank, Out: m.value,
		XStride: m.rank, OutStride: m.value, WStride: m.nope + m.value, Transposed: true}))
	k.same("out", out, m.naive(scale)...)
}
