// SPDX-License-Identifier: Apache-2.0
//
// expert_mlp: the experts of one rank, grouped: which rows an expert has is read
// on the device, so that nobody waits for the host. Three kernels:
//   1. act [pairs,H] = SiLU(x Wgate^T) * (x Wup^T), the rows of x gathered while
//      they are loaded, gate and up in one pass
//   2. result [pairs,M] = act Wdown^T
//   3. out[r,:] = the weighted results of r's places, experts ascending: no
//      atomic additions, so the sum is the same in every run
// Weights of 16 bits are multiplied on the tensor cores (tensor.cuh), with x and
// act rounded to their type or, for exact activations, in pieces of BF16; F32
// weights, and F16 with exact activations, on the CUDA cores (gemm.cuh). A block
// takes every gridDim.y-th tile of 64 places of its expert.

#include "cuda/gemm.cuh"
#include "cuda/tensor.cuh"

namespace findep {

namespace {

constexpr int kSumThreads = 128;
constexpr int64_t kMaxGridYZ = 65535;

struct ExpertParams {
  View<float> out, x, act, result;
  Column<const int32_t> group_start, group_row;
  Column<const float> group_weight;
  int64_t experts, hidden, model, places;
};

template <typename T>
struct ExpertWeights {
  ExpertParams p;
  const T* data;
  int64_t stride;
  bool wide_rows, wide_weights;  // see load_eight
};

struct Places {
  int64_t from, to;
};

// The places of expert e, none where the starts make no sense.
__device__ inline Places places_of(const ExpertParams& p, int64_t e) {
  const int64_t from = p.group_start[e], to = p.group_start[e + 1];
  return from >= 0 && from <= to && to <= p.places ? Places{from, to} : Places{0, 0};
}

template <typename T>
__global__ void __launch_bounds__(kTileThreads) expert_act_kernel(ExpertWeights<T> m) {
  __shared__ GemmShared<2> shared;
  const ExpertParams& p = m.p;
  const int64_t e = blockIdx.z, first = static_cast<int64_t>(blockIdx.x) * kTile;
  const Places places = places_of(p, e);
  const T* w = m.data + (e * 2 * p.hidden + first) * m.stride;
  const int64_t step = static_cast<int64_t>(gridDim.y) * kTile;
  for (int64_t at = places.from + static_cast<int64_t>(blockIdx.y) * kTile; at < places.to; at += step) {
    gemm_tile<2>(
        shared, places.to - at, p.hidden - first, p.model,
        [&](int i, int64_t c) {
          const int64_t r = p.group_row[at + i];
          return r >= 0 && r < p.x.rows ? p.x.row(r)[c] : 0.0f;
        },
        [&](int product, int o, int64_t c) { return widen(w[(product * p.hidden + o) * m.stride + c]); },
        [&](int i, int o, const float* sums) { p.act.row(at + i)[first + o] = silu(sums[0]) * sums[1]; });
  }
}

template <typename T>
__global__ void __launch_bounds__(kTileThreads) expert_down_kernel(ExpertWeights<T> m) {
  __shared__ GemmShared<1> shared;
  const ExpertParams& p = m.p;
  const int64_t e = blockIdx.z, first = static_cast<int64_t>(blockIdx.x) * kTile;
  const Places places = places_of(p, e);
  const T* w = m.data + (e * p.model + first) * m.stride;
  const int64_t step = static_cast<int64_t>(gridDim.y) * kTile;
  for (int64_t at = places.from + static_cast<int64_t>(blockIdx.y) * kTile; at < places.to; at += step) {
    gemm_tile<1>(
        shared, places.to - at, p.model - first, p.hidden, [&](int i, int64_t c) { return p.act.row(at + i)[c]; },
        [&](int, int o, int64_t c) { return widen(w[o * m.stride + c]); },
        [&](int i, int o, const float* sums) { p.result.row(at + i)[first + o] = sums[0]; });
  }
}

// The rows that a tile of places multiplies: null beyond their end.
struct TileRows {
  const float* row[kTensorTile];
};

// Every thread may read `rows` afterwards.
template <typename Row>
__device__ void set_tile_rows(TileRows& rows, int64_t n, Row row) {
  const int i = static_cast<int>(threadIdx.x);
  if (i < kTensorTile) rows.row[i] = i < n ? row(i) : nullptr;
  __syncthreads();
}

__device__ inline Eight<float> load_tile_row(const TileRows& rows, int r, int64_t c, int64_t cols, bool wide) {
  return rows.row[r] == nullptr ? Eight<float>{} : load_eight(rows.row[r], c, cols, wide);
}

template <typename T, int kPieces>
__global__ void __launch_bounds__(kTensorThreads) expert_act_tensor_kernel(ExpertWeights<T> m) {
  __shared__ TensorShared<T, kPieces, 2> shared;
  __shared__ TileRows rows;
  const ExpertParams& p = m.p;
  const int64_t e = blockIdx.z, first = static_cast<int64_t>(blockIdx.x) * kTensorTile;
  const Places places = places_of(p, e);
  const T* w = m.data + (e * 2 * p.hidden + first) * m.stride;
  const int64_t step = static_cast<int64_t>(gridDim.y) * kTensorTile;
  for (int64_t at = places.from + static_cast<int64_t>(blockIdx.y) * kTensorTile; at < places.to; at += step) {
    set_tile_rows(rows, places.to - at, [&](int i) -> const float* {
      const int64_t r = p.group_row[at + i];
      return r >= 0 && r < p.x.rows ? p.x.row(r) : nullptr;
    });
    tensor_tile(
        shared, places.to - at, p.hidden - first, p.model,
        [&](int r, int64_t c) { return load_tile_row(rows, r, c, p.model, m.wide_rows); },
        [&](int product, int o, int64_t c) {
          if (o >= p.hidden - first) return Eight<T>{};
          return load_eight(w + (product * p.hidden + o) * m.stride, c, p.model, m.wide_weights);
        },
        [](const float (&sums)[2]) { return silu(sums[0]) * sums[1]; },
        [&](int r, int o, float v) { p.act.row(at + r)[first + o] = v; });
  }
}

template <typename T, int kPieces>
__global__ void __launch_bounds__(kTensorThreads) expert_down_tensor_kernel(ExpertWeights<T> m) {
  __shared__ TensorShared<T, kPieces, 1> shared;
  __shared__ TileRows rows;
  const ExpertParams& p = m.p;
  const int64_t e = blockIdx.z, first = static_cast<int64_t>(blockIdx.x) * kTensorTile;
  const Places places = places_of(p, e);
  const T* w = m.data + (e * p.model + first) * m.stride;
  const int64_t step = static_cast<int64_t>(gridDim.y) * kTensorTile;
  for (int64_t at = places.from + static_cast<int64_t>(blockIdx.y) * kTensorTile; at < places.to; at += step) {
    set_tile_rows(rows, places.to - at, [&](int i) -> const float* { return p.act.row(at + i); });
    tensor_tile(
        shared, places.to - at, p.model - first, p.hidden,
        [&](int r, int64_t c) { return load_tile_row(rows, r, c, p.hidden, m.wide_rows); },
        [&](int, int o, int64_t c) {
          return o < p.model - first ? load_eight(w + o * m.stride, c, p.hidden, m.wide_weights) : Eight<T>{};
        },
        [](const float (&sums)[1]) { return sums[0]; },
        [&](int r, int o, float v) { p.result.row(at + r)[first + o] = v; });
  }
}

// The first place of row r among an expert's, whose rows ascend, or -1.
__device__ int64_t place_of(const ExpertParams& p, int64_t e, int64_t r) {
  const Places places = places_of(p, e);
  int64_t low = places.from, high = places.to;
  while (low < high) {
    const int64_t middle = low + (high - low) / 2;
    if (p.group_row[middle] < r) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low < places.to && p.group_row[low] == r ? low : -1;
}

__global__ void __launch_bounds__(kSumThreads) expert_sum_kernel(ExpertParams p) {
  __shared__ int64_t found[kSumThreads];  // the row's place at each of some experts
  for (int64_t r = blockIdx.x; r < p.out.rows; r += gridDim.x) {
    for (int64_t c = threadIdx.x; c < p.model; c += kSumThreads) p.out.row(r)[c] = 0;
    for (int64_t first = 0; first < p.experts; first += kSumThreads) {
      const int64_t e = first + threadIdx.x;
      found[threadIdx.x] = e < p.experts ? place_of(p, e, r) : -1;
      __syncthreads();
      for (int64_t i = 0; i < kSumThreads && first + i < p.experts; ++i) {
        if (found[i] < 0) continue;
        const int64_t end = places_of(p, first + i).to;
        for (int64_t at = found[i]; at < end && p.group_row[at] == r; ++at) {
          const float weight = p.group_weight[at];
          for (int64_t c = threadIdx.x; c < p.model; c += kSumThreads) {
            p.out.row(r)[c] = fmaf(weight, p.result.row(at)[c], p.out.row(r)[c]);
          }
        }
      }
      __syncthreads();
    }
  }
}

int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

// Enough row tiles for four times the average expert at once. Both kinds of tile
// have as many rows and outputs.
static_assert(kTile == kTensorTile, "one grid serves both");
dim3 grid_of(const ExpertParams& p, int64_t outputs) {
  const int64_t tiles = (4 * p.places / p.experts + kTile - 1) / kTile;
  return dim3(blocks_for(outputs, kTile), static_cast<unsigned>(tiles < 1 ? 1 : least(tiles, kMaxGridYZ)),
              static_cast<unsigned>(p.experts));
}

template <typename T>
ExpertWeights<T> weights_of(const ExpertParams& p, const View<float>& rows, const Weight& w) {
  return ExpertWeights<T>{p, static_cast<const T*>(w.data), w.stride, is_wide(rows.data, rows.stride, sizeof(float)),
                          is_wide(w.data, w.stride, sizeof(T))};
}

template <typename T, int kPieces>
void with_tensor_cores(findep_stream& s, const ExpertParams& p, const Weight& gate_up, const Weight& down) {
  launch(s, expert_act_tensor_kernel<T, kPieces>, grid_of(p, p.hidden), dim3(kTensorThreads),
         weights_of<T>(p, p.x, gate_up));
  launch(s, expert_down_tensor_kernel<T, kPieces>, grid_of(p, p.model), dim3(kTensorThreads), weights_of<T>(p, p.act, down));
}

template <typename T>
void with_cuda_cores(findep_stream& s, const ExpertParams& p, const Weight& gate_up, const Weight& down) {
  launch(s, expert_act_kernel<T>, grid_of(p, p.hidden), dim3(kTileThreads), weights_of<T>(p, p.x, gate_up));
  launch(s, expert_down_kernel<T>, grid_of(p, p.model), dim3(kTileThreads), weights_of<T>(p, p.act, down));
}

void run(findep_stream& s, const ExpertParams& p, const Weight& gate_up, const Weight& down) {
  const bool exact = s.device->activations == Activations::kExact;
  switch (gate_up.dtype) {
    case FINDEP_F32: with_cuda_cores<float>(s, p, gate_up, down); break;
    case FINDEP_BF16:
      exact ? with_tensor_cores<__nv_bfloat16, kExactPieces>(s, p, gate_up, down)
            : with_tensor_cores<__nv_bfloat16, 1>(s, p, gate_up, down);
      break;
    default:
      exact ? with_cuda_cores<__half>(s, p, gate_up, down) : with_tensor_cores<__half, 1>(s, p, gate_up, down);
  }
  launch(s, expert_sum_kernel, dim3(blocks_for(p.out.rows, 1)), dim3(kSumThreads), p);
}

}  // namespace

findep_status expert_mlp(findep_stream* stream, const findep_expert_mlp_args* args) {
  return on_stream(stream, args, [](findep_stream& s, const findep_expert_mlp_args& a) {
    require_size("num_experts", a.num_experts, 1);
    require_size("hidden", a.hidden, 1);
    const View<float> out = f32("out", a.out), x = f32("x", a.x), workspace = f32("workspace", a.workspace);
    const Weight gate_up = weight("gate_up", a.gate_up), down = weight("down", a.down);
    const View<int32_t> start = i32_vector("group_start", a.group_start, a.num_experts + 1);
    const View<int32_t> row = i32("group_row", a.group_row);
    const View<float> pair_weight = f32("group_weight", a.group_weight);
    require_shape("out", out.rows, out.cols, x.rows, x.cols);
    if (x.rows == 0) return;
    const int64_t model = x.cols, hidden = a.hidden;
    require_shape("gate_up", gate_up.rows, gate_up.cols, a.num_experts * 2 * hidden, model);
    require_shape("down", down.rows, down.cols, a.num_experts * model, hidden);
    FINDEP_REQUIRE(gate_up.dtype == down.dtype, "gate_up has the element type %u but down %u", gate_up.dtype, down.dtype);
    require_at_least("workspace", workspace.rows, workspace.cols, 0, 3 * hidden + 2 * model);
    if (a.num_experts > kMaxGridYZ) {
      FINDEP_FAIL(FINDEP_UNSUPPORTED, "num_experts is %lld; a grid has at most %lld",
                  static_cast<long long>(a.num_experts), static_cast<long long>(kMaxGridYZ));
    }
    const int64_t places = least(workspace.rows, least(row.rows, pair_weight.rows));
    const View<float> act{workspace.data, places, hidden, workspace.stride};
    const View<float> result{workspace.data + hidden, places, model, workspace.stride};
    run(s,
        ExpertParams{out, x, act, result, start.const_column(), row.const_column(), pair_weight.const_column(),
                     a.num_experts, hidden, model, places},
        gate_up, down);
  });
}

}  // namespace findep
