// SPDX-License-Identifier: Apache-2.0
//
// matmul: out [n,out] (+)= x [n,in] w^T, and head_matmul, the same for every
// head with a weight of its own, which cuBLASLt takes as a strided batch. F32
// weights are multiplied with the activations as they are. For weights of 16 bits
// the activations become 16 bits too, in the stream's scratch:
//   rounded  one product; what frameworks do that keep activations in BF16
//   exact    BF16 weights: three products, of the smallest piece first, each added
//            to what was there, so that large sums are rounded last
// Where cuBLASLt has no algorithm (odd addresses) and for exact products of F16,
// the tiles of gemm.cuh multiply on the CUDA cores, one block per 64 x 64 elements
// of a head's result.

#include "cuda/gemm.cuh"
#include "cuda/narrow.cuh"
#include "cuda/narrow.h"

namespace findep {

namespace {

constexpr int64_t kMaxGridYZ = 65535;

// W_h(o,i) = w.data[h*head_stride + o*stride + i] if its rows are outputs, else
// w.data[h*head_stride + i*stride + o], with w's stride.
struct HeadWeight {
  Weight w;
  int64_t head_stride;
  bool rows_are_outputs;

  int64_t output_stride() const { return rows_are_outputs ? w.stride : 1; }
  int64_t input_stride() const { return rows_are_outputs ? 1 : w.stride; }
};

struct Product {
  float* out;
  const float* x;
  int64_t n, in, outputs, heads;
  int64_t x_stride, out_stride;            // between rows
  int64_t x_head_stride, out_head_stride;  // between heads
  bool accumulate;
};

template <typename T>
struct MatmulParams {
  Product p;
  const T* w;
  int64_t head_stride, output_stride, input_stride;
  bool rounded;  // activations to T first
};

template <typename T>
__global__ void __launch_bounds__(kTileThreads) matmul_kernel(MatmulParams<T> m) {
  __shared__ GemmShared<1> shared;
  const Product& p = m.p;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kTile;
  const T* w = m.w + blockIdx.z * m.head_stride + first * m.output_stride;
  const int64_t step = static_cast<int64_t>(gridDim.y) * kTile;
  for (int64_t row = static_cast<int64_t>(blockIdx.y) * kTile; row < p.n; row += step) {
    const float* x = p.x + row * p.x_stride + blockIdx.z * p.x_head_stride;
    float* out = p.out + row * p.out_stride + blockIdx.z * p.out_head_stride + first;
    gemm_tile<1>(
        shared, p.n - row, p.outputs - first, p.in, [&](int i, int64_t c) {
          const float value = x[i * p.x_stride + c];
          return m.rounded ? rounded_to<T>(value) : value;
        },
        [&](int, int o, int64_t c) { return widen(w[o * m.output_stride + c * m.input_stride]); },
        [&](int i, int o, const float* sums) {
          float& to = out[i * p.out_stride + o];
          to = p.accumulate ? to + sums[0] : sums[0];
        });
  }
}

void with_tiles(findep_stream& s, const Product& p, const HeadWeight& w) {
  if (p.heads > kMaxGridYZ) {
    FINDEP_FAIL(FINDEP_UNSUPPORTED, "heads is %lld; a grid has at most %lld", static_cast<long long>(p.heads),
                static_cast<long long>(kMaxGridYZ));
  }
  const int64_t row_tiles = (p.n + kTile - 1) / kTile;
  const dim3 grid(blocks_for(p.outputs, kTile), static_cast<unsigned>(row_tiles < kMaxGridYZ ? row_tiles : kMaxGridYZ),
                  static_cast<unsigned>(p.heads));
  with_type(w.w, [&](auto* data) {
    using T = std::remove_const_t<std::remove_pointer_t<decltype(data)>>;
    launch(s, matmul_kernel<T>, grid, dim3(kTileThreads),
           MatmulParams<T>{p, data, w.head_stride, w.output_stride(), w.input_stride(),
                           s.device->activations == Activations::kRounded});
  });
}

// Row-major matrices are column-major ones transposed, so out^T = W x^T is what
// cuBLASLt is asked for.
LtProduct lt_product(const Product& p, const HeadWeight& w) {
  LtProduct lt{};
  lt.type = w.w.dtype == FINDEP_F32 ? CUDA_R_32F : w.w.dtype == FINDEP_BF16 ? CUDA_R_16BF : CUDA_R_16F;
  lt.transposed = w.rows_are_outputs;
  lt.m = p.outputs, lt.n = p.n, lt.k = p.in, lt.batch = p.heads;
  lt.a = w.w.data, lt.lda = w.w.stride, lt.stride_a = w.head_stride;
  lt.b = p.x, lt.ldb = p.x_stride, lt.stride_b = p.x_head_stride;
  lt.d = p.out, lt.ldd = p.out_stride, lt.stride_d = p.out_head_stride;
  lt.beta = p.accumulate ? 1 : 0;
  return lt;
}

// These two are false, and have enqueued nothing, where cuBLASLt has no algorithm.

bool with_f32_activations(findep_stream& s, const Product& p, const HeadWeight& w) {
  const LtProduct lt = lt_product(p, w);
  cublasLtMatmulAlgo_t algorithm;
  if (!s.device->algorithms->choose(lt, &algorithm)) return false;
  multiply_lt(s, lt, algorithm);
  return true;
}

bool with_narrow_activations(findep_stream& s, const Product& p, const HeadWeight& w, int pieces) {
  const NarrowLayout layout = narrow_layout(p.n, p.heads, p.in);
  LtProduct lt = lt_product(p, w);
  lt.b = s.narrowed, lt.ldb = layout.row_stride, lt.stride_b = layout.head_stride;
  cublasLtMatmulAlgo_t algorithm;
  if (!s.device->algorithms->choose(lt, &algorithm)) return false;
  narrow_rows(s, HeadRows{p.x, p.n, p.heads, p.in, p.x_stride, p.x_head_stride}, w.w.dtype, pieces);
  for (int piece = pieces - 1; piece >= 0; --piece) {
    lt.b = static_cast<const uint16_t*>(s.narrowed) + piece * layout.piece_stride;
    multiply_lt(s, lt, algorithm);
    lt.beta = 1;
  }
  return true;
}

Product rows_of(const Product& p, int64_t first, int64_t rows) {
  Product part = p;
  part.x += first * p.x_stride, part.out += first * p.out_stride, part.n = rows;
  return part;
}

void multiply(findep_stream& s, const Product& p, const HeadWeight& w) {
  if (w.w.dtype == FINDEP_F32) {
    if (!with_f32_activations(s, p, w)) with_tiles(s, p, w);
    return;
  }
  const bool exact = s.device->activations == Activations::kExact;
  const int pieces = exact ? kExactPieces : 1;
  const int64_t at_once = exact && w.w.dtype == FINDEP_F16 ? 0 : narrow_capacity(p.heads, p.in, pieces);
  if (at_once == 0) return with_tiles(s, p, w);
  for (int64_t first = 0; first < p.n; first += at_once) {
    const Product part = rows_of(p, first, p.n - first < at_once ? p.n - first : at_once);
    if (!with_narrow_activations(s, part, w, pieces)) with_tiles(s, part, w);
  }
}

}  // namespace

findep_status matmul(findep_stream* stream, const findep_matmul_args* args) {
  return on_stream(stream, args, [](findep_stream& s, const findep_matmul_args& a) {
    const View<float> out = f32("out", a.out), x = f32("x", a.x);
    const Weight w = weight("w", a.w);
    require_shape("out", out.rows, out.cols, x.rows, w.rows);
    if (x.rows == 0) return;
    require_shape("w", w.rows, w.cols, out.cols, x.cols);
    multiply(s, Product{out.data, x.data, x.rows, x.cols, out.cols, 1, x.stride, out.stride, 0, 0, a.accumulate != 0},
             HeadWeight{w, 0, true});
  });
}

findep_status head_matmul(findep_stream* stream, const findep_head_matmul_args* args) {
  return on_stream(stream, args, [](findep_stream& s, const findep_head_matmul_args& a) {
    const View<float> out = f32("out", a.out), x = f32("x", a.x);
    const Weight w = weight("w", a.w);
    require_size("heads", a.heads, 1);
    require_size("in_size", a.in_size, 1);
    require_size("out_size", a.out_size, 1);
    require_size("x_stride", a.x_stride, 1);
    require_size("out_stride", a.out_stride, a.out_size);
    require_size("w_stride", a.w_stride, 0);
    const bool transposed = a.transposed != 0;
    const int64_t w_rows = transposed ? a.out_size : a.in_size, w_cols = transposed ? a.in_size : a.out_size;
    require_at_least("w", w.rows, w.cols, (a.heads - 1) * a.w_stride + w_rows, w_cols);
    require_at_least("x", x.rows, x.cols, out.rows, (a.heads - 1) * a.x_stride + a.in_size);
    require_at_least("out", out.rows, out.cols, x.rows, (a.heads - 1) * a.out_stride + a.out_size);
    if (x.rows == 0) return;
    multiply(s,
             Product{out.data, x.data, x.rows, a.in_size, a.out_size, a.heads, x.stride, out.stride, a.x_stride,
                     a.out_stride, false},
             HeadWeight{w, a.w_stride * w.stride, transposed});
  });
}

}  // namespace findep
